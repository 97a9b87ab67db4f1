"""Between rows of numbers [n, dim]: pure, vmappable, and each with what it is where both samples have the same law.

Rows may have any shape [n, ...] and are flattened. Distances of all pairs are taken in blocks of rows, so that 10,000 x 10,000
rows need some 50 MB. Sizes are of the shapes, hence static.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln

from collapse_jax.refused import Refused
from collapse_jax.types import Array

__all__ = [
  "PrecisionRecall",
  "classifier_accuracy",
  "classifier_null_std",
  "coverage_null",
  "duplicates",
  "entropy",
  "frechet",
  "frechet_null",
  "generalisation_null",
  "generalisation_score",
  "mmd",
  "mmd_null_std",
  "nearest_distance",
  "nearest_index",
  "num_distinct",
  "permutation_null",
  "precision_recall",
  "sliced_wasserstein",
  "sliced_wasserstein_null",
]

_BLOCK = 256  # rows whose distances to all others are held at once
_FEW = (
  32  # dimensions up to which distances are sums of squared differences: exact, and as fast as products of matrices
)
_EULER = 0.5772156649015329


# ------------------------------------------------------------------------------------------- fitted Gaussians
def frechet(real: Array, sample: Array, embed: Callable[[Array], Array] | None = None) -> Array:
  """Squared Frechet distance of the Gaussians fitted to both (Dowson and Landau 1982), units squared of the rows or the embedding.

  |mean - mean'|^2 and the smallest |S'^(1/2) Q - S^(1/2)|^2 over orthogonal Q, which is tr(S + S' - 2 (S S')^(1/2)) without the
  difference of large numbers: singular covariances, of fewer rows than dim or of collapsed samples, are no exception.

  Args:
    real: [n, ...], at least two rows.
    sample: [m, ...], at least two rows.
    embed: (rows) -> [n, features]; None: the rows themselves. With Inception's features it is the FID.
  Returns:
    [], see `frechet_null` for what it is where both have the same law.
  """
  x, y = _both(real, sample, 2, embed)
  mean_x, mean_y = jnp.mean(x, axis=0), jnp.mean(y, axis=0)
  root_x, root_y = _root(_covariance(x)), _root(_covariance(y))
  left, _, right = jnp.linalg.svd(_matmul(root_x, root_y))
  apart = _matmul(root_y, _matmul(left, right).T) - root_x
  return jnp.sum((mean_x - mean_y) ** 2) + jnp.sum(apart**2)


def frechet_null(variances: Array, num_real: int, num_sample: int) -> Array:
  """E `frechet` of two samples of one Gaussian, first order in 1/n: (1/n + 1/m)(tr S + sum_ij l_i l_j (1 + [i=j]) / (2 (l_i +
  l_j))).

  For the identity it is (1/n + 1/m) d (d + 5) / 4.

  Args:
    variances: l [dim], eigenvalues of the covariance S.
    num_real, num_sample: n, m.
  """
  l = jnp.maximum(jnp.asarray(variances, float), 0.0)
  total = l[:, None] + l[None]
  pairs = (
    l[:, None] * l[None] * (1 + jnp.eye(len(l))) / jnp.where(total > 0, 2 * total, 1.0)
  )  # 0 where both variances are
  return (1 / num_real + 1 / num_sample) * (jnp.sum(l) + jnp.sum(pairs))


# ------------------------------------------------------------------------------------------- nearest neighbours
class PrecisionRecall(NamedTuple):
  """Of `precision_recall`, each []."""

  precision: Any
  recall: Any
  density: Any
  coverage: Any


def precision_recall(real: Array, sample: Array, num_neighbors: int = 5) -> PrecisionRecall:
  """Precision and recall (Kynkaanniemi et al. 1904.06991), density and coverage (Naeem et al. 2002.09797).

  A row's ball reaches to its num_neighbors-th neighbour of its own kind. Precision: share of the sample in some ball of a real
  row; recall: share of real rows in some ball of the sample; density: real balls that a row of the sample lies in, over
  num_neighbors; coverage: share of real balls that some row of the sample lies in. Coverage hardly sees a sample that shrinks;
  recall and density do.

  Args:
    real: [n, ...], more rows than num_neighbors.
    sample: [m, ...], more rows than num_neighbors.
    num_neighbors: k, from 1.
  Returns:
    four shares; under the same law coverage is `coverage_null`, density 1, and precision and recall depend on the dimension:
    `permutation_null`.
  """
  if num_neighbors < 1:
    raise Refused.must_be("num_neighbors", "at least 1", num_neighbors)
  x, y = _both(real, sample, num_neighbors + 1)
  ball_x, ball_y = _ball(x, num_neighbors), _ball(y, num_neighbors)

  def of_sample(row):
    inside = _squared(row, x) <= ball_x
    return jnp.any(inside), jnp.sum(inside)

  def of_real(row, ball):
    squared = _squared(row, y)
    return jnp.any(squared <= ball_y), jnp.min(squared) <= ball

  in_some, num_in = _map(of_sample, y)
  recalled, covered = _map(of_real, x, ball_x)
  return PrecisionRecall(
    jnp.mean(in_some.astype(float)),
    jnp.mean(recalled.astype(float)),
    jnp.mean(num_in.astype(float)) / num_neighbors,
    jnp.mean(covered.astype(float)),
  )


def coverage_null(num_real: int, num_sample: int, num_neighbors: int = 5) -> float:
  """E coverage under the same continuous law, exact in any dimension: 1 - prod_{j<k} (n-1-j) / (n+m-1-j).

  Args:
    num_real, num_sample: n, m.
    num_neighbors: k.
  """
  j = np.arange(num_neighbors)
  return float(1 - np.prod((num_real - 1 - j) / (num_real + num_sample - 1 - j)))


def nearest_index(sample: Array, train: Array) -> Array:
  """Index [m] of the row of `train` [n, ...] that is nearest to each row of the sample [m, ...]."""
  y, x = _both(sample, train)
  return _map(lambda row: jnp.argmin(_squared(row, x)), y)


def nearest_distance(sample: Array, train: Array, num_neighbors: int = 1, in_use: Array | None = None) -> Array:
  """Distance [m] of each row of the sample to its num_neighbors-th nearest row of `train`.

  Args:
    sample: [m, ...].
    train: [n, ...], at least num_neighbors rows.
    num_neighbors: k, from 1.
    in_use: [n] bool, rows of `train` that count; None: all.
  """
  y, x = _both(sample, train)
  if not 1 <= num_neighbors <= len(x):
    raise Refused.must_be("num_neighbors", f"from 1 to the {len(x)} rows of train", num_neighbors)
  if num_neighbors == 1 and in_use is None:
    return jnp.sqrt(jnp.sum((y - x[nearest_index(y, x)]) ** 2, axis=1))  # of the nearest one exactly
  there = jnp.ones(len(x), bool) if in_use is None else in_use
  return jnp.sqrt(_map(lambda row: _kth_smallest(jnp.where(there, _squared(row, x), jnp.inf), num_neighbors), y))


def generalisation_score(sample: Array, train: Array) -> Array:
  """Mean distance of a sample to its nearest training row: what falls as a model memorises (Shi et al. 2509.16499).

  Its null is that of other real rows; in logs also `generalisation_null`.
  """
  return jnp.mean(nearest_distance(sample, train))


def generalisation_null(entropy, num_train: int, dim: int):
  """E log distance of a fresh row to the nearest of num_train of its own law: (H - log n - log c_d - 0.5772) / d, first order.

  c_d is the volume of the unit ball. Linear in the entropy with slope 1 / d: below that line a model memorises.

  Args:
    entropy: H of the law, nats.
    num_train: n.
    dim: d.
  """
  return (entropy - math.log(num_train) - _log_unit_ball(dim) - _EULER) / dim


def entropy(rows: Array, num_neighbors: int = 1) -> Array:
  """Differential entropy, nats, by distances to neighbours (Kozachenko and Leonenko 1987): psi(n) - psi(k) + log c_d + d mean log
  r_k.

  Distances below the resolution of float32 count as that: a sample of copies has a low entropy, not -inf.

  Args:
    rows: [n, ...], more rows than num_neighbors.
    num_neighbors: k, from 1; more is less noise and more bias.
  """
  if num_neighbors < 1:
    raise Refused.must_be("num_neighbors", "at least 1", num_neighbors)
  x, _ = _both(rows, rows, num_neighbors + 1)
  n, dim = x.shape
  spread = jnp.sqrt(jnp.sum((x - jnp.mean(x, axis=0, keepdims=True)) ** 2) / n)
  limits = jnp.finfo(x.dtype)
  log_radius = jnp.log(jnp.maximum(jnp.sqrt(_ball(x, num_neighbors)), jnp.maximum(limits.eps * spread, limits.tiny)))
  return digamma(float(n)) - digamma(float(num_neighbors)) + _log_unit_ball(dim) + dim * jnp.mean(log_radius)


# ------------------------------------------------------------------------------------------- copies
def duplicates(sample: Array, train: Array | None = None) -> Array:
  """Share of the sample's rows that are, bit for bit, a row of `train`; without it, those of which the sample has another.

  A continuous model has 0 of them.

  Args:
    sample: [m, ...].
    train: [n, ...] or None.
  """
  y, x = _both(sample, sample if train is None else train)
  group, num = _groups(y if train is None else jnp.concatenate([y, x]))
  counted = jnp.zeros(num).at[group[0 if train is None else len(y) :]].add(1.0)
  twins = counted[group[: len(y)]]
  return jnp.mean((twins > (1 if train is None else 0)).astype(float))


def num_distinct(rows: Array) -> Array:
  """Number of rows [n, ...] that differ."""
  x, _ = _both(rows, rows)
  return jnp.max(_groups(x)[0]) + 1


# ------------------------------------------------------------------------------------------- means of functions
def mmd(real: Array, sample: Array, length_squared=None) -> Array:
  """Squared maximum mean discrepancy, unbiased, by the kernel exp(-r^2 / (2 L)) (Gretton et al. 2012).

  Args:
    real: [n, ...], at least two rows.
    sample: [m, ...], at least two rows.
    length_squared: L; None: the trace of the real covariance, half the mean squared distance of two real rows.
  Returns:
    [], of mean 0 under the same law, see `mmd_null_std`; may be below 0.
  """
  x, y = _both(real, sample, 2)
  if length_squared is None:
    spread = jnp.sum(jnp.var(x, axis=0))
    length_squared = jnp.where(spread > 0, spread, 1.0)
  kernel_sums = lambda a, b: _map(lambda row: jnp.sum(jnp.exp(-_squared(row, b) / (2 * length_squared))), a)
  within = lambda a: jnp.mean(kernel_sums(a, a) - 1) / (len(a) - 1)
  return within(x) + within(y) - 2 * jnp.mean(kernel_sums(y, x)) / len(x)


def mmd_null_std(variances: Array, num_real: int, num_sample: int, length_squared) -> Array:
  """Standard deviation of `mmd` of two samples of one Gaussian: sqrt(2 e (1/(n(n-1)) + 1/(m(m-1)) + 2/(nm))), e = A - 2 C + B^2.

  B, A, C are the means of k(x, y), k(x, y)^2 and k(x, y) k(x, z): products over l_i of (L/(L+2l))^(1/2), (L/(L+4l))^(1/2) and
  (L^2/((L+l)(L+3l)))^(1/2).

  Args:
    variances: l [dim], eigenvalues of the covariance.
    num_real, num_sample: n, m.
    length_squared: L.
  """
  l, L = jnp.asarray(variances, float), length_squared
  half_log = lambda ratio: jnp.exp(0.5 * jnp.sum(jnp.log(ratio)))
  b, a, c = half_log(L / (L + 2 * l)), half_log(L / (L + 4 * l)), half_log(L**2 / ((L + l) * (L + 3 * l)))
  n, m = num_real, num_sample
  excess = jnp.maximum(a - 2 * c + b**2, 0.0)
  return jnp.sqrt(2 * excess * (1 / (n * (n - 1)) + 1 / (m * (m - 1)) + 2 / (n * m)))


def sliced_wasserstein(key: Array, real: Array, sample: Array, *, order: int = 1, num_directions: int = 128) -> Array:
  """Mean over random directions of W_p^p of the projections, p = order: W1 in units of the rows, or W2 squared.

  Exact in each direction, for any two numbers of rows.

  Args:
    key: of the directions.
    real: [n, ...].
    sample: [m, ...].
    order: p, 1 or 2.
    num_directions: of the mean.
  Returns:
    []; see `sliced_wasserstein_null` for order 1, else `permutation_null`.
  """
  if order not in (1, 2):
    raise Refused.must_be("order", "1 or 2", order)
  x, y = _both(real, sample)
  directions = _directions(key, num_directions, x.shape[1])
  along = lambda rows: jnp.sort(_matmul(directions, rows.T), axis=1)
  index_x, index_y, weight = _steps(len(x), len(y))
  gap = jnp.abs(along(x)[:, index_x] - along(y)[:, index_y]) ** order
  return jnp.mean(jnp.sum(gap * jnp.asarray(weight, gap.dtype)[None], axis=1))


def sliced_wasserstein_null(
  key: Array, rows: Array, num_real: int, num_sample: int, *, num_directions: int = 128
) -> Array:
  """E `sliced_wasserstein` of order 1 of two samples of the law of `rows`: sqrt(2/pi) J sqrt(1/n + 1/m), first order.

  J is the integral of sqrt(F (1 - F)) along a direction: 1.6147 for N(0, 1). That of few rows lacks their tails: 4% at 200 normal
  ones.

  Args:
    key: of the directions.
    rows: [k, ...] of the law.
    num_real, num_sample: n, m.
    num_directions: of the mean.
  """
  x, _ = _both(rows, rows)
  along = jnp.sort(_matmul(_directions(key, num_directions, x.shape[1]), x.T), axis=1)
  share = np.arange(1, len(x)) / len(x)
  root = jnp.asarray(np.sqrt(share * (1 - share)), along.dtype)
  integral = jnp.mean(jnp.sum(jnp.diff(along, axis=1) * root[None], axis=1))
  return np.sqrt(2 / np.pi * (1 / num_real + 1 / num_sample)) * integral


def classifier_accuracy(key: Array, real: Array, sample: Array) -> Array:
  """Accuracy on held-out halves of a classifier that tells real rows from the sample (Lopez-Paz and Oquab 1610.06545).

  Balanced: the mean of both kinds' accuracies. The classifier is least squares with a ridge on the coordinates, their squares and
  products, and 64 random waves; that of two Gaussians is among them, which reaches (1 + TV) / 2.

  Args:
    key: of the halves and the waves.
    real: [n, ...], at least four rows.
    sample: [m, ...], at least four rows.
  Returns:
    [], 0.5 under the same law with the standard deviation `classifier_null_std`.
  """
  x, y = _both(real, sample, 4)
  x_key, y_key, wave_key, phase_key = jax.random.split(key, 4)
  halves = [
    (rows[: len(rows) // 2], rows[len(rows) // 2 :])
    for rows in (jax.random.permutation(x_key, x), jax.random.permutation(y_key, y))
  ]
  train = jnp.concatenate([half for half, _ in halves])
  side = jnp.concatenate([jnp.full(len(half), sign) for (half, _), sign in zip(halves, (1.0, -1.0))])
  weight = jnp.concatenate([jnp.full(len(half), 0.5 / len(half)) for half, _ in halves])
  dim = x.shape[1]
  mean, spread = jnp.mean(train, axis=0), jnp.std(train, axis=0)
  waves = jax.random.normal(wave_key, (dim, 64)) / math.sqrt(dim)
  phase = jax.random.uniform(phase_key, (64,), maxval=2 * np.pi)
  above = np.triu_indices(dim, 1) if dim <= _FEW else (np.zeros(0, int),) * 2

  def features(rows):
    z = jnp.clip((rows - mean[None]) / jnp.where(spread > 0, spread, 1.0)[None], -10.0, 10.0)
    cosine = jnp.cos(_matmul(z, waves) + phase[None])
    return jnp.concatenate([jnp.ones((len(z), 1)), z, z**2 - 1, z[:, above[0]] * z[:, above[1]], cosine], axis=1)

  told = features(train)
  gram = _matmul(told.T, weight[:, None] * told)
  ridge = 1e-3 * jnp.eye(gram.shape[0])
  slope = jax.scipy.linalg.solve(gram + ridge, _matmul(told.T, (weight * side)[:, None]), assume_a="pos")
  right = [
    jnp.mean((sign * _matmul(features(half), slope)[:, 0] > 0).astype(float))
    for (_, half), sign in zip(halves, (1, -1))
  ]
  return 0.5 * (right[0] + right[1])


def classifier_null_std(num_real: int, num_sample: int) -> float:
  """Standard deviation of `classifier_accuracy` under the same law: that of coins, one a held-out row.

  Args:
    num_real, num_sample: rows of both, of which half are held out.
  """
  held_out = np.array([num_real - num_real // 2, num_sample - num_sample // 2])
  return float(0.25 * np.sqrt(np.sum(1 / held_out)))


# ------------------------------------------------------------------------------------------- nulls of any metric
def permutation_null(
  key: Array, metric: Callable[[Array, Array], Any], real: Array, sample: Array, num_permutations: int = 20
) -> tuple[Any, Any]:
  """Mean and standard deviation of a metric where the rows of both are dealt to the two samples at random.

  Args:
    key: of the permutations.
    metric: (real, sample) -> a pytree of numbers.
    real: [n, ...].
    sample: [m, ...].
    num_permutations: dealt one after another.
  Returns:
    mean, standard deviation: pytrees as the metric's.
  """
  x, y = _both(real, sample)
  pool = jnp.concatenate([x, y])

  def dealt(one):
    rows = jax.random.permutation(one, pool)
    return metric(rows[: len(x)], rows[len(x) :])

  found = jax.lax.map(dealt, jax.random.split(key, num_permutations))
  return jax.tree.map(lambda v: jnp.mean(v, axis=0), found), jax.tree.map(lambda v: jnp.std(v, axis=0, ddof=1), found)


# ------------------------------------------------------------------------------------------- shared parts
def _both(real, sample, least: int = 1, embed=None) -> tuple[Array, Array]:
  """Both as [n, dim] floats, or refused."""
  found = []
  for name, rows in (("real", real), ("sample", sample)):
    rows = jnp.asarray(rows if embed is None else embed(rows))
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    if rows.ndim < 1 or len(rows) < least:
      raise Refused.must_be(name, f"an array [n, ...] of at least {least} rows", f"shape {rows.shape}")
    found.append(rows.reshape(len(rows), -1))
  if found[0].shape[1] != found[1].shape[1]:
    sizes = [rows.shape[1] for rows in found]
    raise Refused(
      f"sample must have {sizes[0]} numbers a row as real has, got {sizes[1]}.", argument="sample", value=sizes[1]
    )
  return found[0], found[1]


def _matmul(a, b):
  return jnp.matmul(a, b, precision="highest")


def _map(function, *rows):
  return jax.lax.map(lambda one: function(*one), rows, batch_size=_BLOCK)


def _squared(row, others):
  """Squared distances [m] of a row [dim] to the others [m, dim]."""
  if others.shape[1] <= _FEW:
    return jnp.sum((others - row[None]) ** 2, axis=1)
  center = jnp.mean(others, axis=0)
  others, row = others - center[None], row - center
  squares = jnp.sum(others**2, axis=1) + jnp.sum(row**2)
  return jnp.maximum(squares - 2 * _matmul(others, row), 0.0)


def _ball(rows, num_neighbors):
  """Squared distance [n] of each row to its num_neighbors-th other."""
  return _map(lambda row: _kth_smallest(_squared(row, rows), num_neighbors + 1), rows)  # itself is one of them


def _kth_smallest(values, k: int):
  """The k-th smallest of values [m] of at least 0, a pass for each that differs: XLA sorts slowly on CPU, for top_k as well."""

  def step(_, state):
    value, count = state
    following = jnp.min(jnp.where(values > value, values, jnp.inf))
    more = count + jnp.sum(values == following)
    return jnp.where(count >= k, value, following), jnp.where(count >= k, count, more)

  return jax.lax.fori_loop(0, k, step, (-jnp.ones((), values.dtype), 0))[0]


def _covariance(rows):
  centered = rows - jnp.mean(rows, axis=0, keepdims=True)
  return _matmul(centered.T, centered) / (len(rows) - 1)


def _root(matrix):
  values, vectors = jnp.linalg.eigh(matrix)
  return _matmul(vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None], vectors.T)


def _log_unit_ball(dim):
  return 0.5 * dim * math.log(math.pi) - gammaln(0.5 * dim + 1)


def _directions(key, num, dim):
  drawn = jax.random.normal(key, (num, dim))
  return drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)


def _steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Where two quantile functions are constant: indices of both, and the share of each step."""
  ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m): exact
  steps = np.diff(ends, prepend=0)
  return (ends - 1) // m, (ends - 1) // n, steps / (n * m)


def _groups(rows) -> tuple[Array, int]:
  """[n] number of the group of equal rows, and how many groups there may be.

  By two hashes of 32 bits of each row, sorted: rows that differ get the same by chance once in 2^64 / n^2.
  """
  bits = jax.lax.bitcast_convert_type(rows + 0.0, jnp.uint32).reshape(len(rows), -1)  # -0 is 0
  place = jnp.arange(bits.shape[1], dtype=jnp.uint32)[None]

  def hashed(salt):
    mixed = bits ^ (place * jnp.uint32(0x9E3779B1) + jnp.uint32(salt))
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13), (0x27D4EB2F, 15)):
      mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum((mixed ^ (mixed >> 16)) * (2 * place + 1), axis=1, dtype=jnp.uint32)

  first, second = hashed(0x1B873593), hashed(0xE6546B64)
  order = jnp.lexsort((first, second))
  a, b = first[order], second[order]
  new = jnp.concatenate([jnp.zeros(1, bool), (a[1:] != a[:-1]) | (b[1:] != b[:-1])])
  return jnp.zeros(len(rows), jnp.int32).at[order].set(jnp.cumsum(new.astype(jnp.int32))), len(rows)
