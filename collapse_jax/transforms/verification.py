"""Verified samples (Feng et al. 2406.07515)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.transforms.parts import in_rows, per_row, resample, with_masks
from collapse_jax.types import MetricInfo, TaskSetting

__all__ = ["verify"]

PROBES = {
  "error_rate": MetricInfo("share of wrong samples, p"),
  "kept_if_right": MetricInfo("share of right samples that the verifier kept, phi"),
  "kept_if_wrong": MetricInfo("share of wrong samples that the verifier kept, psi"),
  "kept_error_rate": MetricInfo("share of wrong ones among kept samples"),
  "breakdown_point": MetricInfo("error rate up to which verified data help, phi / (phi + psi)"),
}


@citing("2406.07515")
def verify(task: TaskSetting, keep: Callable, is_right: Callable | None = None) -> TaskSetting:
  """Samples that a verifier rejects stay in place with weight 0 (Feng et al. 2406.07515).

  Where it rejects all that a generation would be fitted to there is no model: nothing is finite from then on.

  Args:
    task: any task that draws rows and whose `fit` honours row weights.
    keep: (key, problem, rows with leaves [n, ...]) -> [n] bool, or weights in [0, 1], others of which make the run
      non-finite; see `collapse_jax.verifiers`.
    is_right: (problem, rows) -> [n] bool, which probes compare the verifier with; default, for rows that have "label" and
      "truth", whether these are equal; else there are no probes.
  Returns:
    the task, with the metric `kept_share` and the probes of `PROBES`. A probability that no row tells of is taken as 1
    (and `kept_error_rate` as 0 where nothing is kept).
  Raises:
    ValueError: a task without rows, or a verifier's answer of the wrong shape (while tracing).

  >>> import collapse_jax as cj
  >>> task = cj.transforms.verify(cj.tasks.classification(dim=2, num_samples=10), cj.verifiers.oracle())
  >>> print(*task.metrics)
  accuracy angle_to_truth kept_share error_rate kept_if_right kept_if_wrong kept_error_rate breakdown_point
  """
  task = with_masks(in_rows(task))

  def sample(key, problem, params, context):
    sample_key, keep_key = jax.random.split(key)
    data, metrics = task.sample(sample_key, problem, params, context)
    rows = jax.tree.map(lambda x: x[0], data.rows)
    kept = per_row(keep(keep_key, problem, rows), storage.num_rows(rows), "keep").astype(float)
    kept = jnp.where((kept >= 0) & (kept <= 1), kept, jnp.nan)
    data = storage.weighed(data, kept)
    used = storage.in_use(context)
    found = {"kept_share": jnp.sum(used * kept) / jnp.sum(used)}
    if is_right is not None:
      found |= _probes(per_row(is_right(problem, rows), storage.num_rows(rows), "is_right").astype(float), kept, used)
    elif isinstance(rows, dict) and {"label", "truth"} <= set(rows):
      found |= _probes((rows["label"] == rows["truth"]).astype(float), kept, used)
    return data, metrics | found

  info = {"kept_share": MetricInfo("share of samples that the verifier kept"), **PROBES}
  return resample(task, sample, info)


def _probes(right, kept, used):
  """See PROBES; arguments [n] of 0.0 to 1.0, the last of them of rows that count at all."""
  right, wrong, kept = used * right, used * (1 - right), used * kept
  share = lambda part, whole: jnp.where(jnp.sum(whole) > 0, jnp.sum(part) / jnp.maximum(jnp.sum(whole), 1e-30), 1.0)
  phi, psi = share(kept * right, right), share(kept * wrong, wrong)
  return {
    "error_rate": jnp.sum(wrong) / jnp.sum(used),
    "kept_if_right": phi,
    "kept_if_wrong": psi,
    "kept_error_rate": 1 - share(kept * right, kept),
    "breakdown_point": phi / jnp.maximum(phi + psi, 1e-30),
  }
