"""Verified samples (Feng et al. 2406.07515)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax.transforms.parts import per_row, with_rows
from collapse_jax.types import MetricInfo, TaskSetting


def verify(task: TaskSetting, keep: Callable) -> TaskSetting:
  """Samples that a verifier rejects stay in place with weight 0 (Feng et al. 2406.07515).

  Args:
    task: any task that draws rows and whose `fit` honours row weights.
    keep: (key, problem, rows with leaves [n, ...]) -> [n] bool, or weights in [0, 1].
  Returns:
    the task, with the metric `kept_share`.
  Raises:
    ValueError: a task without rows, or a verifier's answer of the wrong shape (while tracing).
  """
  task = with_rows(task, "verify")

  def masked(data):
    if data.row_weight is not None:
      return data
    return data._replace(row_weight=jnp.ones((1, storage.num_rows(data.rows, 1))), summary=None, draw=None)

  def init(key):
    problem, real = task.init(key)
    return problem, masked(real)

  def sample(key, problem, params, context):
    sample_key, keep_key = jax.random.split(key)
    data, metrics = task.sample(sample_key, problem, params, context)
    data = masked(data)
    rows = jax.tree.map(lambda x: x[0], data.rows)
    kept = per_row(keep(keep_key, problem, rows), storage.num_rows(rows), "keep").astype(float)
    weight = data.row_weight * kept[None]
    data = data._replace(row_weight=weight, count=jnp.sum(weight, axis=1), summary=None, draw=None)
    return data, metrics | {"kept_share": jnp.mean(kept)}

  draw_fresh = task.fresh
  fresh = None if draw_fresh is None else lambda key, problem: masked(draw_fresh(key, problem))
  info = {"kept_share": MetricInfo("share of samples that the verifier kept")}
  return task._replace(init=init, sample=sample, fresh=fresh, metrics={**task.metrics, **info}, absorbed=None)
