"""Curated samples (Ferbach et al. 2407.09499)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax.tasks.parts import known
from collapse_jax.transforms.parts import per_row, require_plain, with_rows
from collapse_jax.types import MetricInfo, TaskSetting


def curate(task: TaskSetting, num_candidates: int, reward: Callable, *, flip_share=0.0) -> TaskSetting:
  """Of every `num_candidates` samples one is kept, by softmax of its reward (Ferbach et al. 2407.09499).

  With real data in the loop (`workflows.mix`) only the synthetic rows are curated, as in the paper.

  Args:
    task: any task that draws rows.
    num_candidates: K, at least 2.
    reward: (rows with leaves [n, ...]) -> [n] log-odds; NaN makes the run non-finite, as recorded in `finite`.
    flip_share: share of choices made by the opposite of the reward, in [0, 1] (adversarial curators, Wei and Zhang
      2505.09768); may be traced.
  Returns:
    the task, with metrics `mean_reward` of the kept rows, `candidate_reward` of all, that is of the model, and
    `variance_of_exp_reward` of the model, which the paper shows to vanish.
  Raises:
    ValueError: an argument out of range, a task without rows, or a reward of the wrong shape (while tracing).
  """
  if not isinstance(num_candidates, int) or num_candidates < 2:
    raise ValueError(f"num_candidates must be an integer of at least 2, got {num_candidates}.")
  if known(flip_share) and not 0 <= flip_share <= 1:
    raise ValueError(f"flip_share must be from 0 to 1, got {flip_share}.")
  task = with_rows(task, "curate")

  def sample(key, problem, params, context):
    candidates_key, choice_key, flip_key = jax.random.split(key, 3)
    wide = context._replace(num=context.num * num_candidates)
    candidates, metrics = task.sample(candidates_key, problem, params, wide)
    require_plain(candidates, "curate")
    rows = jax.tree.map(lambda x: x[0], candidates.rows)
    rewards = per_row(reward(rows), context.num * num_candidates, "reward").reshape(context.num, num_candidates)
    flipped = jax.random.uniform(flip_key, (context.num, 1)) < flip_share
    chosen = jax.random.categorical(choice_key, jnp.where(flipped, -rewards, rewards))
    flat_index = jnp.arange(context.num) * num_candidates + chosen
    kept_reward = jnp.mean(jnp.take_along_axis(rewards, chosen[:, None], axis=1))
    kept_reward = jnp.where(jnp.any(jnp.isnan(rewards)), jnp.nan, kept_reward)
    found = {"mean_reward": kept_reward, "candidate_reward": jnp.mean(rewards),
             "variance_of_exp_reward": jnp.var(jnp.exp(rewards))}
    return storage.batch(jax.tree.map(lambda x: x[flat_index], rows)), metrics | found

  info = {"mean_reward": MetricInfo("mean reward of the kept samples", "nats"),
          "candidate_reward": MetricInfo("mean reward of the model's samples", "nats"),
          "variance_of_exp_reward": MetricInfo("variance of exp(reward) over the model's samples")}
  return task._replace(sample=sample, metrics={**task.metrics, **info}, absorbed=None)
