"""Curated samples (Ferbach et al. 2407.09499)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax.transforms.parts import per_row, require_plain, with_rows
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
    require_plain(candidates, "curate")
    rows = jax.tree.map(lambda x: x[0], candidates.rows)
    rewards = per_row(reward(rows), context.num * num_candidates, "reward").reshape(context.num, num_candidates)
    chosen = jax.random.categorical(choice_key, rewards)
    flat_index = jnp.arange(context.num) * num_candidates + chosen
    kept_reward = jnp.mean(jnp.take_along_axis(rewards, chosen[:, None], axis=1))
    kept_reward = jnp.where(jnp.any(jnp.isnan(rewards)), jnp.nan, kept_reward)
    return storage.batch(jax.tree.map(lambda x: x[flat_index], rows)), metrics | {"mean_reward": kept_reward}

  info = {"mean_reward": MetricInfo("mean reward of the kept samples", "nats")}
  return task._replace(sample=sample, metrics={**task.metrics, **info}, absorbed=None)
