"""Curated samples (Ferbach et al. 2407.09499), and which classes are left of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.random import uniform
from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import check_integer, known
from collapse_jax.transforms.parts import in_rows, observe, per_row, require_plain, resample
from collapse_jax.types import MetricInfo, TaskSetting

__all__ = ["class_shares", "curate"]


@citing("2407.09499")
def curate(task: TaskSetting, num_candidates: int, reward: Callable, *, flip_share=0.0) -> TaskSetting:
  """Of every `num_candidates` samples one is kept, by softmax of its reward (Ferbach et al. 2407.09499).

  With real data in the loop (`workflows.mix`) only the synthetic rows are curated, as in the paper.

  Args:
    task: any task that draws rows.
    num_candidates: K, at least 2.
    reward: (rows with leaves [n, ...]) -> [n] log-odds; -inf rejects: such a row is kept only where there is no other, and
      the run is then not finite, as recorded in `finite`; nor is it after NaN.
    flip_share: share of choices made by the opposite of the reward, in [0, 1] (adversarial curators, Wei and Zhang
      2505.09768); may be traced.
  Returns:
    the task, with metrics `mean_reward` of the kept rows, `candidate_reward` of all that are not rejected, and
    `variance_of_exp_reward` of the model, which the paper shows to vanish (at most the largest number there is).
  Raises:
    ValueError: an argument out of range, a task without rows, or a reward of the wrong shape (while tracing).

  >>> import collapse_jax as cj
  >>> task = cj.transforms.curate(cj.tasks.gaussian(dim=1, num_samples=10), 4, cj.rewards.near(0.0))
  >>> print(*task.metrics)
  covariance_trace_ratio squared_error_of_mean covariance_log_det_ratio marginal_mean marginal_log_variance standard_mean
  standard_log_variance mean_reward candidate_reward variance_of_exp_reward
  """
  check_integer("num_candidates", num_candidates, 2)
  if known(flip_share) and not 0 <= flip_share <= 1:
    raise Refused.must_be("flip_share", "from 0 to 1", flip_share)
  task = in_rows(task)

  def sample(key, problem, params, context):
    candidates_key, choice_key, flip_key = jax.random.split(key, 3)
    used = None if context.used is None else context.used * num_candidates
    wide = context._replace(num=context.num * num_candidates, used=used)
    candidates, metrics = task.sample(candidates_key, problem, params, wide)
    require_plain(candidates, "curate")
    rows = jax.tree.map(lambda x: x[0], candidates.rows)
    rewards = 1.0 * per_row(reward(rows), context.num * num_candidates, "reward")  # a float, also of integers
    rewards = rewards.reshape(context.num, num_candidates)
    flipped = uniform(flip_key, context.num)[:, None] < flip_share
    odds = jnp.where(flipped, -rewards, rewards)
    best = jnp.max(odds, axis=1, keepdims=True)
    odds = jnp.where(odds == best, 0.0, odds - best)  # also among infinite ones
    chosen = jax.random.categorical(choice_key, odds, mode="high")
    flat_index = jnp.arange(context.num) * num_candidates + chosen
    used = storage.in_use(context)[:, None] > 0
    mean = lambda values: jnp.mean(values, where=used)
    kept_reward = mean(jnp.take_along_axis(rewards, chosen[:, None], axis=1))
    kept_reward = jnp.where(jnp.any(jnp.isnan(rewards) & used), jnp.nan, kept_reward)
    largest = jnp.max(rewards, where=used, initial=-jnp.inf)  # out of the exponent, where large rewards overflow
    scaled = jnp.exp(jnp.where(rewards == largest, 0.0, rewards - largest))  # also where it is infinite
    log_variance = 2 * largest + jnp.log(mean((scaled - mean(scaled)) ** 2))
    variance = jnp.minimum(jnp.exp(log_variance), jnp.finfo(log_variance.dtype).max)
    found = {
      "mean_reward": kept_reward,
      "candidate_reward": jnp.mean(rewards, where=used & (rewards != -jnp.inf)),
      "variance_of_exp_reward": variance,
    }
    return storage.take(candidates, flat_index), metrics | found

  info = {
    "mean_reward": MetricInfo("mean reward of the kept samples", "nats"),
    "candidate_reward": MetricInfo("mean reward of the model's samples", "nats"),
    "variance_of_exp_reward": MetricInfo("variance of exp(reward) over the model's samples"),
  }
  return resample(task, sample, info)


@citing("2407.09499")
def class_shares(task: TaskSetting, log_probability: Callable, num_classes: int) -> TaskSetting:
  """The task, with the shares of classes among the rows that it emits, as a classifier sees them.

  Args:
    task: any task that draws rows.
    log_probability: (rows with leaves [n, ...]) -> [n, num_classes] scores, of which the largest counts.
    num_classes: of the classifier.
  Returns:
    the task, with metrics `class_share` [num_classes] and `largest_class_share`.

  >>> import collapse_jax as cj
  >>> import jax.numpy as jnp
  >>> positive = lambda rows: jnp.concatenate([-rows, rows], axis=1)
  >>> task = cj.transforms.class_shares(cj.tasks.gaussian(dim=1, num_samples=10), positive, 2)
  >>> print(*task.metrics)
  covariance_trace_ratio squared_error_of_mean covariance_log_det_ratio marginal_mean marginal_log_variance standard_mean
  standard_log_variance largest_class_share class_share
  """

  def shares(problem, context, data):
    score = log_probability(jax.tree.map(lambda x: x[0], data.rows))
    if score.ndim != 2 or score.shape[1] != num_classes:
      raise Refused(
        f"log_probability must return {num_classes} scores per row, got shape {score.shape}.",
        argument="log_probability",
      )
    weight = storage.in_use(context) * (1.0 if data.row_weight is None else data.row_weight[0])
    share = jnp.zeros(num_classes).at[jnp.argmax(score, axis=1)].add(weight / jnp.sum(weight))
    return {"class_share": share, "largest_class_share": jnp.max(share)}

  info = {
    "largest_class_share": MetricInfo("share of the commonest class among samples", worse="higher"),
    "class_share": MetricInfo("share of each class among samples", dims=("class_label",)),
  }
  return observe(task, shares, info)
