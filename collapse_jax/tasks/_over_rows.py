"""Going over rows, for each of some points: what sums of kernels are made of."""

import jax
import jax.numpy as jnp

from collapse_jax.types import Array

FAR = 1e15  # where rows of weight 0 are put: their kernels vanish, and their squared distance is still finite
_BLOCK = 32  # rows a step: enough to hide the loop, few enough to compile fast


def over_rows(points: Array, rows: Array, row_weight: Array | None, of, join=jnp.add, start=0.0) -> Array:
  """Over rows [n, dim], joined: `of` the differences [m] to the points [m, dim] along each axis, times the row's weight."""
  n, dim = rows.shape
  steps = -(-n // _BLOCK)
  block = -(-n // max(steps, 1))
  short = steps * block - n
  rows = jnp.pad(rows, ((0, short), (0, 0)), constant_values=FAR).reshape(steps, block, dim)
  weight = None if row_weight is None else jnp.pad(row_weight, (0, short)).reshape(steps, block)
  axes = [points[:, k] for k in range(dim)]  # not in the loop, which would read them with strides

  def more(so_far, some):
    row, weight = some
    for j in range(block):
      value = of([axis - row[j, k] for k, axis in enumerate(axes)])
      so_far = join(so_far, value if weight is None else weight[j] * value)
    return so_far, None

  # The starting value derives from the points so that it shares their batching, as a scan's carry must.
  return jax.lax.scan(more, jnp.full_like(axes[0], start), (rows, weight))[0]


def squared(differences):
  """Squared distance, of differences along each axis."""
  return sum(axis**2 for axis in differences)


def distance(differences):
  """What distances are compared by: squared, but in one dimension, where a compiler fuses the square with what is subtracted
  from it, and leaves its rounding in the exponent."""
  return jnp.abs(differences[0]) if len(differences) == 1 else squared(differences)


def beyond(far, near, dim: int):
  """Squared distance at `far` less that at `near`, both as `distance` tells them."""
  return (far - near) * (far + near) if dim == 1 else far - near


def nearest(points: Array, rows: Array) -> Array:
  """`distance` [m] of points [m, dim] to the nearest of rows [n, dim]."""
  return over_rows(points, rows, None, distance, lambda a, b: jnp.where(b < a, b, a), jnp.inf)
