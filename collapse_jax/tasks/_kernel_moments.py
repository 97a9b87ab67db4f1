"""Sums of Gaussian kernels that add up over batches and are known at every bandwidth of a range, not only at one.

A rule such as Scott's narrows the bandwidth as a pool grows, so that the kernels of rows that were there before change, too. At
a ladder of bandwidths h_l the sums of v^k exp(-v), v = (d^2 - d_0^2) / (2 h_l^2), k < p, are the first p derivatives in 1 / h^2 of
the sum of kernels exp(-v). Two rungs and their derivatives fix a Hermite polynomial of degree 2 p - 1 between them. Its error
is at most (theta (1 - theta))^p / (2 p)! times the largest derivative of order 2 p, which the sum of v^(2 p) exp(-v) bounds:
all terms are positive, so that the bound is relative to the sum itself, however far a point is from all rows.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.tasks import _over_rows as over_rows
from collapse_jax.tasks.parts import side_by_side
from collapse_jax.types import Array

ORDER = 8  # p
_STEP = 0.5  # 1 / h^2 grows by this share from rung to rung: bounds at (_STEP / 2)^(2 p) = 2e-10 leave room for rows of any shape
_SLACK = 0.98  # of 1 / h^2 at the first rung: the rounding of a rule is no reason to be off the ladder
_MOST = 80.0  # v above which a kernel is nothing beside that of the nearest row
_BLOCK = 8  # rows a step


class KernelMoments(NamedTuple):
  """What adds up.

  Attributes:
    nearest: [m] distance of each point to its nearest row, squared unless there is but one dimension.
    sums: [rungs, p, m] of w v^k exp(-v).
    last: [rungs, m] (sum of w v^(2 p) exp(-v))^(1 / (2 p)), or more.
  """

  nearest: Any
  sums: Any
  last: Any


def ladder(widest: float, narrowest: float) -> np.ndarray:
  """[rungs] bandwidths, falling, from a little above `widest` to at most `narrowest`."""
  steps = max(math.ceil(math.log((widest / narrowest) ** 2 / _SLACK) / math.log1p(_STEP)), 1)
  return widest / np.sqrt(_SLACK) * (1 + _STEP) ** (-0.5 * np.arange(steps + 1))


def moments(points: Array, rows: Array, row_weight: Array | None, widths: np.ndarray, bandwidth=None) -> KernelMoments:
  """Of one batch.

  Args:
    points: [m, dim] float32.
    rows: [n, dim] float32.
    row_weight: [n], or None for ones.
    widths: as `ladder` makes them.
    bandwidth: [], the widest that is still to come: rungs that are wider than needed are left out, and marked so by an infinite
      `last`; None: any may come.
  """
  if row_weight is None:
    row_weight = jnp.ones(rows.shape[0])
  rows = jnp.where(row_weight[:, None] > 0, rows, over_rows.FAR)
  slopes = jnp.asarray(0.5 / widths**2, points.dtype)
  needed = jnp.ones(len(widths), bool)
  if bandwidth is not None:
    needed = jnp.arange(len(widths)) >= _place(bandwidth, widths)[0]
  found = _moments(*jax.tree.map(lambda x: jnp.asarray(x)[None], (points, rows, row_weight, slopes, needed)))
  return KernelMoments(*jax.tree.map(lambda x: x[0], found))


@side_by_side
def _moments(points, rows, row_weight, slopes, needed):
  """Of runs [r, ...], one after the other: a run skips the rungs that it has passed, and its sums stay in the nearest cache."""
  return jax.lax.map(lambda run: _of_run(*run), (points, rows, row_weight, slopes, needed))


def _of_run(points, rows, row_weight, slopes, needed):
  axes = [points[:, k] for k in range(points.shape[1])]
  unroll = max(min(_BLOCK, rows.shape[0]), 1)
  nearest = over_rows.nearest(points, rows)

  def at(slope):
    def add(so_far, one):
      row, weight = one
      far = over_rows.distance([axis - row[k] for k, axis in enumerate(axes)])
      v = jnp.minimum(slope * over_rows.beyond(far, nearest, len(axes)), _MOST)
      term = weight * jnp.exp(-v)
      terms = []
      for _ in range(ORDER):
        terms.append(term)
        term = term * v
      terms.append(term * v**ORDER)
      return [a + b for a, b in zip(so_far, terms)], None

    return jax.lax.scan(add, [jnp.zeros_like(nearest)] * (ORDER + 1), (rows, row_weight), unroll=unroll)[0]

  passed = [jnp.zeros_like(nearest)] * ORDER + [jnp.full_like(nearest, jnp.inf)]
  *sums, last = jax.lax.map(lambda one: jax.lax.cond(one[0], at, lambda slope: passed, one[1]), (needed, slopes))
  return nearest, jnp.stack(sums, axis=1), last ** (1 / (2 * ORDER))


def add(a: KernelMoments, weight_a, b: KernelMoments, weight_b, widths: np.ndarray, dim: int) -> KernelMoments:
  """Of two batches together: both told from the nearer of their nearest rows.

  Args:
    a, b: moments at the same points.
    weight_a, weight_b: how often each counts, [].
    widths: of both.
    dim: of the rows.
  """
  there_a, there_b = jnp.where(weight_a > 0, a.nearest, jnp.inf), jnp.where(weight_b > 0, b.nearest, jnp.inf)
  nearest = jnp.minimum(jnp.minimum(there_a, there_b), over_rows.FAR**2)
  a, b = (_from(nearest, x, weight, widths, dim) for x, weight in ((a, weight_a), (b, weight_b)))
  power = 2 * ORDER
  return KernelMoments(nearest, a.sums + b.sums, (a.last**power + b.last**power) ** (1 / power))


def _from(nearest, batch: KernelMoments, weight, widths, dim: int) -> KernelMoments:
  """A batch that counts `weight` times, with each v larger by what a nearer row makes of it.

  The last moment grows as norms do, by Minkowski's inequality.
  """
  slopes = jnp.asarray(0.5 / widths**2, batch.sums.dtype)
  shift = jnp.clip(slopes[:, None] * over_rows.beyond(batch.nearest, nearest, dim)[None], 0.0, _MOST)
  factor = weight * jnp.exp(-shift)
  powers = [jnp.ones_like(shift)]
  for _ in range(ORDER - 1):
    powers.append(powers[-1] * shift)
  sums = [factor * sum(math.comb(k, j) * powers[k - j] * batch.sums[:, j] for j in range(k + 1)) for k in range(ORDER)]
  root = 1 / (2 * ORDER)
  last = factor**root * (batch.last + shift * batch.sums[:, 0] ** root)
  return KernelMoments(nearest, jnp.stack(sums, axis=1), last)


def log_sum(of: KernelMoments, bandwidth, widths: np.ndarray, dim: int) -> tuple[Array, Array]:
  """log of the sum of kernels at a bandwidth, and a bound of its error.

  Args:
    of: moments.
    bandwidth: [], data units.
    widths: of the moments.
    dim: of the rows.
  Returns:
    [m] log sums, and [m] errors in nats; infinite where the bandwidth is off the ladder.
  """
  rung, along = _place(bandwidth, widths)
  left, right = of.sums[rung], of.sums[rung + 1]
  value = sum((-_STEP) ** k * _hermite(k, along) * left[k] for k in range(ORDER))
  value += sum((_STEP / (1 + _STEP)) ** k * _hermite(k, 1 - along) * right[k] for k in range(ORDER))
  largest = (_STEP * of.last[rung] * math.factorial(2 * ORDER) ** (-0.5 / ORDER)) ** (2 * ORDER)
  error = jnp.abs(along * (1 - along)) ** ORDER * largest / value
  within = (along >= -1e-5) & (along <= 1 + 1e-5) & (value > 0)
  offset = over_rows.beyond(of.nearest, 0.0, dim) / (2 * bandwidth**2)
  return jnp.log(value) - offset, jnp.where(within, error, jnp.inf)


def _place(bandwidth, widths: np.ndarray):
  """The rung at or above a bandwidth, [] int32, and how far on to the next it is, theta: outside [0, 1] off the ladder."""
  narrow = (widths[0] / bandwidth) ** 2  # 1 / h^2 in units of the first rung's
  rung = jnp.floor(jnp.log(narrow) / math.log1p(_STEP)).astype(jnp.int32)
  rung = jnp.clip(rung, 0, len(widths) - 2)
  return rung, (narrow * (1 + _STEP) ** (-rung.astype(float)) - 1) / _STEP


def _hermite(k: int, theta):
  """The polynomial of degree 2 p - 1 whose k-th derivative is 1 at 0, all others of order below p being 0 at 0 and 1."""
  rest = sum(math.comb(ORDER - 1 + j, j) * theta**j for j in range(ORDER - k))
  return theta**k / math.factorial(k) * (1 - theta) ** ORDER * rest
