"""What several transforms share: rows where a task has them, and checks of what users' functions return."""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax.refused import Refused
from collapse_jax.types import Data, TaskSetting


def in_rows(task: TaskSetting) -> TaskSetting:
  """The task drawing rows.

  Raises:
    Refused: it draws statistics and nothing else.
  """
  return task if task.rows is None else task.rows()


def masked(data: Data) -> Data:
  """A one-slot batch with a mask over its rows."""
  if data.row_weight is not None:
    return data
  return data._replace(row_weight=jnp.ones((1, storage.num_rows(data.rows, 1))), summary=None)


def taken(data: Data, index, row_weight=None) -> Data:
  """A one-slot batch of the rows [k] of one, or of all where `index` is None, with new weights [k]."""
  take = lambda x: x[0] if index is None else x[0][index]
  rows, latent = jax.tree.map(take, (data.rows, data.latent))
  return storage.batch(rows, row_weight, draw=data.draw, latent=latent)


def with_masks(task: TaskSetting) -> TaskSetting:
  """The task whose real batches are masked too, as those of a store are where synthetic ones are."""

  def init(key):
    problem, real = task.init(key)
    return problem, masked(real)

  draw = task.fresh
  return task._replace(
    init=init, fresh=None if draw is None else lambda key, problem: masked(draw(key, problem)), absorbed=None
  )


def require_plain(data, what):
  if data.row_weight is not None:
    raise Refused(f"{what} must come before verify: it cannot choose among weighted rows.")


def require_parts(rows, names: tuple[str, ...], what: str) -> None:
  """Raises a ValueError where rows lack a part that `what` reads."""
  if not isinstance(rows, dict) or not set(names) <= set(rows):
    have = ", ".join(map(repr, rows)) if isinstance(rows, dict) else "an array"
    raise Refused(f"{what} needs rows with the parts {' and '.join(map(repr, names))}, got {have}.")


def per_row(value, num, name):
  value = jnp.asarray(value)
  if value.shape != (num,):
    raise Refused(f"{name} must return one number per row, shape ({num},), got {value.shape}.")
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
