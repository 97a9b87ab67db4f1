"""Samples drawn again by a score of how human-like they are (Drayson et al. 2502.15654)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.random import choose, table
from collapse_jax.transforms.parts import in_rows, per_row, require_plain, resample
from collapse_jax.types import MetricInfo, TaskSetting

__all__ = ["reweight"]

PAPER = """@article{drayson2025detection,
  title = {Machine-generated text detection prevents language model collapse},
  author = {Drayson, George and Yilmaz, Emine and Lampos, Vasileios},
  journal = {arXiv preprint arXiv:2502.15654},
  year = {2025}
}"""


@citing(PAPER)
def reweight(task: TaskSetting, score: Callable) -> TaskSetting:
  """Samples are drawn again, with replacement, in proportion to a score of how human-like they are (Drayson et al. 2502.15654).

  The score of the paper is (1 - P(machine))^bias, of a detector of machine-made text. As many rows are emitted as are drawn, and
  each counts once.

  Args:
    task: any task that draws rows.
    score: (rows with leaves [n, ...]) -> [n] of at least 0 and any scale, finite and not all 0: else the run is not finite.
  Returns:
    the task, with the metric `effective_share`: the share of rows that as many equal weights would come from.
  Raises:
    Refused: a task without rows, or a score of the wrong shape (while tracing).

  >>> import collapse_jax as cj
  >>> task = cj.transforms.reweight(cj.tasks.discrete(num_outcomes=5, num_samples=10), lambda rows: 1.0 + rows)
  >>> print([name for name in task.metrics if "share" in name])
  ['effective_share']
  """
  task = in_rows(task)

  def sample(key, problem, params, context):
    sample_key, choice_key = jax.random.split(key)
    data, metrics = task.sample(sample_key, problem, params, context)
    require_plain(data, "reweight")
    weight = per_row(score(jax.tree.map(lambda x: x[0], data.rows)), context.num, "score")
    used = storage.in_use(context)
    weight = jnp.where(used > 0, weight, 0.0)
    weight = weight / jnp.max(weight)  # NaN where all are 0
    usable = jnp.all(jnp.isfinite(weight) & (weight >= 0))
    effective = jnp.sum(weight) ** 2 / (jnp.sum(used) * jnp.sum(weight**2))
    index = choose(choice_key, table(jnp.where(usable, weight, used)), context.num)
    return storage.take(data, index), metrics | {"effective_share": jnp.where(usable, effective, jnp.nan)}

  info = {"effective_share": MetricInfo("effective share of the samples that are weighted", worse="lower")}
  return resample(task, sample, info)
