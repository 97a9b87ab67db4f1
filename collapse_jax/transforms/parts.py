"""The doors that transforms go through, and checks of what users' functions return."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax.refused import Refused
from collapse_jax.types import Context, Data, MetricInfo, Metrics, Sample, TaskSetting

__all__ = [
  "in_rows",
  "kth_smallest",
  "observe",
  "on_real",
  "per_row",
  "require_parts",
  "require_plain",
  "resample",
  "with_masks",
]


def in_rows(task: TaskSetting) -> TaskSetting:
  """The task drawing rows, whose sampler a transform can wrap.

  Raises:
    Refused: it draws statistics and nothing else.
  """
  return task if task.rows is None else task.rows()


def resample(task: TaskSetting, sample: Sample, metrics: Mapping[str, MetricInfo] | None = None) -> TaskSetting:
  """The task with another sampler: the door for every transform of what models emit.

  What is known of the old sampler's batches goes: their statistics, `absorbed`, `next_token`, `predict`, the exact law.

  Args:
    task: any; whoever wraps its sampler takes `in_rows(task)` first.
    sample: as `TaskSetting.sample`. Rows of a batch are changed by `store.with_rows`, chosen by `store.take`, weighed by
      `store.weighed`.
    metrics: of the sampling that `sample` adds.
  Raises:
    Refused: the task draws statistics and nothing else, or (while tracing) `sample` emits no rows.
  """

  def emit(key, problem, params, context):
    data, found = sample(key, problem, params, context)
    if data.rows is None:
      raise Refused("a sampler must emit rows here: wrap that of transforms.in_rows(task).")
    return data._replace(summary=None), found

  return in_rows(task)._replace(sample=emit, metrics={**task.metrics, **(metrics or {})})


def observe(
  task: TaskSetting, look: Callable[[Any, Context, Data], Metrics], metrics: Mapping[str, MetricInfo] | None = None
) -> TaskSetting:
  """The task with more metrics of what its models emit, which stays as it is.

  Args:
    task: any that draws rows.
    look: (problem, context, one-slot data) -> metrics.
    metrics: what these are.
  Raises:
    Refused: the task draws statistics and nothing else.
  """
  task = in_rows(task)

  def sample(key, problem, params, context):
    data, found = task.sample(key, problem, params, context)
    return data, found | look(problem, context, data)

  known = {"absorbed": task.absorbed, "next_token": task.next_token, "predict": task.predict}
  return task._replace(sample=sample, metrics={**task.metrics, **(metrics or {})}, **known)


def on_real(task: TaskSetting, change: Callable[[Data], Data]) -> TaskSetting:
  """The task whose real batches, fresh ones too, are given another form."""

  def init(key):
    problem, real = task.init(key)
    return problem, change(real)

  fresh = task.fresh
  return task._replace(init=init, fresh=None if fresh is None else lambda key, problem: change(fresh(key, problem)))


def with_masks(task: TaskSetting) -> TaskSetting:
  """The task whose real batches are masked too, as those of a store are where synthetic ones are."""
  return on_real(task, lambda data: storage.weighed(data, jnp.ones(storage.num_rows(data.rows, 1))))


def require_plain(data, what):
  """Raises Refused where rows are weighted."""
  if data.row_weight is not None:
    raise Refused(f"{what} must come before verify: it cannot choose among weighted rows.")


def require_parts(rows, names: tuple[str, ...], what: str) -> None:
  """Raises a ValueError where rows lack a part that `what` reads.

  Args:
    rows: a batch's.
    names: keys that the rows' dict must have.
    what: reads them.
  """
  if not isinstance(rows, dict) or not set(names) <= set(rows):
    have = ", ".join(map(repr, rows)) if isinstance(rows, dict) else "an array"
    raise Refused(f"{what} needs rows with the parts {' and '.join(map(repr, names))}, got {have}.")


def per_row(value, num, name):
  """One number per row, of a user's function.

  Args:
    value: what a user's function returned.
    num: rows that it was given.
    name: what a message calls it.
  Returns:
    [num].
  Raises:
    Refused: another shape.
  """
  value = jnp.asarray(value)
  if value.shape != (num,):
    raise Refused(
      f"{name} must return one number per row, shape ({num},), got {value.shape}.", argument=name, value=value.shape
    )
  return value


def kth_smallest(values, k):
  """The k-th smallest of values [m] of at least 0, exact, k from 1, may be traced.

  By bisection of their bits, which are ordered as the values are: XLA sorts slowly on CPU.
  """
  bits, kind = (jnp.int64, jnp.float64) if values.dtype == jnp.float64 else (jnp.int32, jnp.float32)
  ordered = jax.lax.bitcast_convert_type(values.astype(kind), bits)

  def halve(_, bounds):
    low, high = bounds
    middle = low + (high - low) // 2
    enough = jnp.sum(ordered <= middle) >= k
    return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

  start = jnp.zeros((), bits), jnp.array(np.iinfo(bits).max, bits)
  return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, np.iinfo(bits).bits, halve, start)[1], kind)
