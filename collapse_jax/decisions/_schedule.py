"""The table of shares that is best: by gradients through the generations, or by ask and tell where nothing is differentiable."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from collapse_jax import generation, workflows
from collapse_jax.random import new_key
from collapse_jax.refused import Refused
from collapse_jax.types import Array, TaskSetting, Workflow

__all__ = ["LearnedSchedule", "Search", "begin_search", "learn_schedule", "propose", "tell"]

OBJECTIVES = ("mean", "last")


class LearnedSchedule(NamedTuple):
  """A table of shares, and what it is worth.

  Attributes:
    table: [T, T] share of batch j = 0..T-1 (0 = real) in generation t, in row t - 1.
    real_rows: that the fits of all generations are made from, as they count: num_samples times the sum of the first column.
    error: [T] mean of the metric over runs that it was not learned from.
    standard_error: [T] of that mean.
    history: [steps] of what is made small.
    fresh: real rows are drawn anew in each generation.
  """

  table: np.ndarray
  real_rows: float
  error: np.ndarray
  standard_error: np.ndarray
  history: np.ndarray
  fresh: bool = False

  def workflow(self) -> Workflow:
    """The training-workflow that has these shares."""
    return workflows.weights(self.table, fresh=self.fresh)


def learn_schedule(
  task: TaskSetting,
  num_generations: int,
  budget: float | None = None,
  *,
  metric: str = "",
  objective: str = "mean",
  lags: int | None = None,
  fresh: bool = False,
  num_runs: int = 256,
  num_steps: int = 300,
  learning_rate: float = 0.05,
  seed: int = 0,
) -> LearnedSchedule:
  """The shares of real rows and of each model's rows, in each generation, with which a metric stays lowest under a budget.

  Runs are differentiated through all their generations, with new runs in each step, and Adam's steps are projected on the budget;
  what is returned is the mean over the last half of them. A real row counts with its weight in each fit: generation t uses
  num_samples * table[t - 1, 0] of them, as `real_share` says of runs.

  Gradients pass what a sampler computes, not what it picks: for tasks that resample rows or draw outcomes use `begin_search`.

  Args:
    task: a task whose rows are computed from parameters and noise.
    num_generations: T, from 2.
    budget: real rows, as they count, that all generations may use together, those of the first included; None: any number.
    metric: what is made small; "": the task's first of those that are not worse the lower they are.
    objective: "mean" over generations 2..T, or the "last" one.
    lags: how many of the latest models' batches may be used; None: all.
    fresh: draw the real rows anew each generation.
    num_runs: runs in each step.
    num_steps: steps of Adam.
    learning_rate: of shares, at the start; falls to a hundredth.
    seed: of all runs.
  Raises:
    ValueError: a budget below num_samples, no such metric, or no gradient.
  """
  metric = _metric(task, metric)
  if objective not in OBJECTIVES:
    raise Refused.must_be("objective", f"one of {', '.join(OBJECTIVES)}", objective)
  allowed = _allowed(num_generations, lags)
  most = _most(budget, task.num_samples, num_generations)

  def run(key: Array, table: Array) -> Array:
    return generation.run(key, task, workflows.weights(table, fresh=fresh), num_generations)[metric]

  def loss(params: Any, key: Array) -> Array:
    values = jax.vmap(run, (0, None))(jax.random.split(key, num_runs), _table(params, allowed))
    return jnp.mean(values[:, 1:] if objective == "mean" else values[:, -1])

  optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps, 0.01))

  def step(carry: Any, key: Array) -> tuple[Any, Any]:
    params, state = carry
    value, gradient = jax.value_and_grad(loss)(params, key)
    within = gradient | {"share": _within(gradient["share"], params["share"], most)}
    updates, state = optimiser.update(within, state)
    params = optax.apply_updates(params, updates)
    params = params | {"share": _projected(params["share"], most)}
    return (params, state), (value, _table(params, allowed), optax.tree.norm(gradient))

  @jax.jit
  def learned(key: Array) -> Any:
    params = _begun(num_generations, most)
    return jax.lax.scan(step, (params, optimiser.init(params)), jax.random.split(key, num_steps))[1]

  key, new = jax.random.split(new_key(seed))
  history, tables, gradient = jax.tree.map(np.asarray, learned(key))
  if not (np.isfinite(history).all() and np.isfinite(tables).all() and gradient.max() > 0):
    raise Refused(
      f"{metric} of this task has no gradient in the shares, or not a finite one; use begin_search.", argument="task"
    )
  table = np.asarray(tables[num_steps // 2 :], float).mean(axis=0)
  table /= table.sum(axis=1, keepdims=True)
  values = jax.jit(jax.vmap(run, (0, None)))(jax.random.split(new, max(1000, num_runs)), jnp.asarray(table, float))
  values = np.asarray(values, float)
  return LearnedSchedule(
    table,
    float(task.num_samples * table[:, 0].sum()),
    values.mean(axis=0),
    values.std(axis=0, ddof=1) / np.sqrt(len(values)),
    history,
    fresh,
  )


def _metric(task: TaskSetting, metric: str) -> str:
  metric = metric or next((name for name, about in task.metrics.items() if about.worse != "lower"), "")
  if metric not in task.metrics:
    raise Refused.must_be("metric", f"one of {', '.join(task.metrics)}", metric)
  return metric


def _most(budget: float | None, num_samples: Any, num_generations: int) -> float:
  """What the shares of generations 2..T may sum up to."""
  if budget is None:
    return float(num_generations - 1)
  if budget < num_samples:
    raise Refused.must_be("budget", f"at least num_samples = {num_samples}: the first model has nothing else", budget)
  return float(budget) / float(num_samples) - 1


def _allowed(num_generations: int, lags: int | None) -> np.ndarray:
  """[T, T] bool: which models' batches a generation may use."""
  if num_generations < 2:
    raise Refused.must_be("num_generations", "at least 2", num_generations)
  t, j = np.arange(1, num_generations + 1)[:, None], np.arange(num_generations)[None]
  return (j >= 1) & (j < t) & (j >= t - (lags or num_generations))


def _begun(num_generations: int, most: float) -> dict[str, Array]:
  share = jnp.full(num_generations - 1, min(0.5, most / (num_generations - 1)))
  return {"share": share, "logits": jnp.zeros((num_generations, num_generations))}


def _table(params: Any, allowed: Any) -> Array:
  """Shares [T, T] of real rows `share` [T - 1], what is left among models' batches by their logits."""
  among = jax.nn.softmax(jnp.where(allowed[1:], params["logits"][1:], -jnp.inf), axis=1)
  rest = among * (1 - params["share"])[:, None]
  return jnp.concatenate([jnp.eye(1, len(allowed)), rest.at[:, 0].set(params["share"])])


def _within(gradient: Array, share: Array, most: Any) -> Array:
  """The gradient along the budget where it is spent: Adam takes steps of one size in all, which would leave shares as they are."""
  used = (share > 0) | (gradient < 0)
  mean = jnp.sum(jnp.where(used, gradient, 0.0)) / jnp.maximum(jnp.sum(used), 1)
  spent = (jnp.sum(share) >= most * (1 - 1e-4)) & (mean < 0)
  return gradient - jnp.where(spent, mean, 0.0)


def _projected(share: Array, most: Any) -> Array:
  """The nearest shares, in [0, 1], that sum up to no more: all less the same number, clipped."""

  def halved(_: Any, ends: Any) -> Any:
    low, high = ends
    middle = (low + high) / 2
    above = jnp.sum(jnp.clip(share - middle, 0, 1)) > most
    return jnp.where(above, middle, low), jnp.where(above, high, middle)

  _, less = jax.lax.fori_loop(0, 40, halved, (jnp.zeros(()), jnp.maximum(jnp.max(share), 0.0)))
  fits = jnp.sum(jnp.clip(share, 0, 1)) <= most
  return jnp.clip(share - jnp.where(fits, 0.0, less), 0, 1)


# ------------------------------------------------------------------------------------------------- ask and tell
class Search(NamedTuple):
  """A normal distribution over shares and logits that moves to where errors are small (cross-entropy method, Rubinstein 1999).

  Attributes:
    mean, spread: [k] of `share` [T - 1], then of the logits that are allowed.
    allowed: [T, T] which models' batches a generation may use.
    most: what the shares of generations 2..T may sum up to.
    asked: [num, k] what was proposed last.
    round: how often it was asked.
    seed: of the proposals.
  """

  mean: np.ndarray
  spread: np.ndarray
  allowed: np.ndarray
  most: float
  asked: np.ndarray
  round: int = 0
  seed: int = 0

  @property
  def table(self) -> np.ndarray:
    """[T, T] the shares that are best so far."""
    return _of_points(self, self.mean[None])[0]


@jax.jit
def _tables(points: Array, allowed: Array, at: Any, most: Array) -> Array:
  """[num, T, T] of points [num, k]."""

  def one(point: Array) -> Array:
    logits = jnp.zeros(allowed.shape).at[at].set(point[len(allowed) - 1 :])
    return _table({"share": _projected(point[: len(allowed) - 1], most), "logits": logits}, allowed)

  return jax.vmap(one)(points)


def _of_points(search: Search, points: np.ndarray) -> np.ndarray:
  found = _tables(
    jnp.asarray(points), jnp.asarray(search.allowed), np.nonzero(search.allowed), jnp.asarray(search.most)
  )
  tables = np.asarray(found, float)
  return tables / tables.sum(axis=2, keepdims=True)


def begin_search(
  num_generations: int, num_samples: int, budget: float | None = None, *, lags: int | None = None, seed: int = 0
) -> Search:
  """Ask and tell, for whatever can be run under a table of shares: `tasks` with `workflows.weights(table)`, `loop`, or anything.

  Args:
    num_generations: T, from 2.
    num_samples: rows of a batch.
    budget: real rows, as of `learn_schedule`.
    lags: how many of the latest models' batches may be used; None: all.
    seed: of the proposals.

  >>> from collapse_jax import decisions
  >>> search = decisions.begin_search(num_generations=2, num_samples=10)
  >>> for _ in range(20):
  ...   search, tables = decisions.propose(search, 20)
  ...   search = decisions.tell(search, [(table[1, 0] - 0.7) ** 2 for table in tables])
  >>> bool(abs(search.table[1, 0] - 0.7) < 0.01)
  True
  """
  allowed = _allowed(num_generations, lags)
  most = _most(budget, num_samples, num_generations)
  begun = _begun(num_generations, most)
  mean = np.concatenate([np.asarray(begun["share"], float), np.zeros(int(allowed.sum()))])
  spread = np.concatenate([np.full(num_generations - 1, 0.3), np.ones(int(allowed.sum()))])
  return Search(mean, spread, allowed, most, np.zeros((0, len(mean))), 0, seed)


def propose(search: Search, num: int = 16) -> tuple[Search, np.ndarray]:
  """Tables of shares [num, T, T] to be tried.

  Args:
    search: from `begin_search` or `tell`.
    num: of tables, from 4.
  Returns:
    the search, which `tell` is to be given; and the tables.
  """
  noise = np.random.default_rng((search.seed, search.round)).normal(size=(num, len(search.mean)))
  points = search.mean + search.spread * noise
  points[:, : len(search.allowed) - 1] = np.clip(points[:, : len(search.allowed) - 1], 0, 1)
  return search._replace(asked=points, round=search.round + 1), _of_points(search, points)


def tell(search: Search, errors: Any) -> Search:
  """The search, moved to the better half of what was proposed.

  Args:
    search: from `propose`.
    errors: [num] of the tables, in their order; NaN and infinite ones are the worst.
  """
  errors = np.asarray(errors, float)
  if errors.shape != (len(search.asked),):
    raise Refused.must_be("errors", f"{len(search.asked)} numbers, as many as tables were proposed", errors.shape)
  best = search.asked[
    np.argsort(np.where(np.isfinite(errors), errors, np.inf), kind="stable")[: max(2, len(errors) // 3)]
  ]
  kept = 0.3  # of what was known before: errors are noisy
  mean = kept * search.mean + (1 - kept) * best.mean(axis=0)
  spread = kept * search.spread + (1 - kept) * best.std(axis=0)
  return search._replace(mean=mean, spread=spread)
