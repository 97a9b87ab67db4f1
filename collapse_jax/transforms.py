"""Transforms: functions from task-setting to task-setting. They wrap fit, sample or evaluate, and chain."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax.types import MetricInfo, TaskSetting


def curate(task: TaskSetting, num_candidates: int, reward: Callable) -> TaskSetting:
  """Of every `num_candidates` samples one is kept, by softmax of its reward (Ferbach et al. 2407.09499).

  Args:
    task: any task that draws rows.
    num_candidates: K, at least 2.
    reward: (rows with leaves [n, ...]) -> [n] log-odds; NaN makes the run non-finite, as recorded in `finite`.
  Returns:
    the task, with the metric `mean_reward` of the kept rows.
  Raises:
    ValueError: num_candidates below 2, a task without rows, or a reward of the wrong shape (while tracing).
  """
  if not isinstance(num_candidates, int) or num_candidates < 2:
    raise ValueError(f"num_candidates must be an integer of at least 2, got {num_candidates}.")
  task = with_rows(task, "curate")

  def sample(key, problem, params, context):
    candidates_key, choice_key = jax.random.split(key)
    wide = context._replace(num=context.num * num_candidates)
    candidates, metrics = task.sample(candidates_key, problem, params, wide)
    _require_plain(candidates, "curate")
    rows = jax.tree.map(lambda x: x[0], candidates.rows)
    rewards = _per_row(reward(rows), context.num * num_candidates, "reward").reshape(context.num, num_candidates)
    chosen = jax.random.categorical(choice_key, rewards)
    flat_index = jnp.arange(context.num) * num_candidates + chosen
    kept_reward = jnp.mean(jnp.take_along_axis(rewards, chosen[:, None], axis=1))
    kept_reward = jnp.where(jnp.any(jnp.isnan(rewards)), jnp.nan, kept_reward)
    return storage.batch(jax.tree.map(lambda x: x[flat_index], rows)), metrics | {"mean_reward": kept_reward}

  info = {"mean_reward": MetricInfo("mean reward of the kept samples", "nats")}
  return task._replace(sample=sample, metrics={**task.metrics, **info}, absorbed=None)


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
    kept = _per_row(keep(keep_key, problem, rows), storage.num_rows(rows), "keep").astype(float)
    weight = data.row_weight * kept[None]
    data = data._replace(row_weight=weight, count=jnp.sum(weight, axis=1), summary=None, draw=None)
    return data, metrics | {"kept_share": jnp.mean(kept)}

  draw_fresh = task.fresh
  fresh = None if draw_fresh is None else lambda key, problem: masked(draw_fresh(key, problem))
  info = {"kept_share": MetricInfo("share of samples that the verifier kept")}
  return task._replace(init=init, sample=sample, fresh=fresh, metrics={**task.metrics, **info}, absorbed=None)


def with_rows(task: TaskSetting, what: str) -> TaskSetting:
  """The task drawing rows, which `what` needs.

  Raises:
    ValueError: the task only draws statistics.
  """
  if not task.law:
    return task._replace(with_rows=None)
  if task.with_rows is None:
    raise ValueError(f"{what} needs rows and cannot use statistics: use draws='rows' or 'auto'.")
  return task.with_rows()._replace(with_rows=None)


def _require_plain(data, what):
  if data.row_weight is not None:
    raise ValueError(f"{what} must come before verify: it cannot choose among weighted rows.")


def _per_row(value, num, name):
  value = jnp.asarray(value)
  if value.shape != (num,):
    raise ValueError(f"{name} must return one number per row, shape ({num},), got {value.shape}.")
  return value
