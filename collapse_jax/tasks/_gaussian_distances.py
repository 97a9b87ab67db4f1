"""Distances of a fitted Gaussian to the truth, from its factor form (see `gaussian`).

The truth is N(0, I) in whitened coordinates and the model N(mean, F F^T), F = exp(log_scale) factor. All is written in F - I and
the mean, so that it holds to float32's relative precision where the model is the truth but for 1e-6, and in log_scale and
log_det, so that it holds where F underflows.
"""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import normal
from collapse_jax.tasks.parts import matmul
from collapse_jax.types import MetricInfo, Metrics

DISTANCE_METRICS = {
  "total_variation": MetricInfo("total variation distance to the truth", worse="higher", log_scale=True),
  "total_variation_error": MetricInfo("standard error of that distance, where it is a mean over points"),
  "kl_from_truth": MetricInfo(
    "divergence of the model from the truth, KL(model || truth)", "nats", worse="higher", log_scale=True
  ),
}
NUM_POINTS = 2000  # at which the total variation is taken beyond one dimension
WASSERSTEIN_METRICS = {
  "wasserstein2_squared": MetricInfo(
    "squared 2-Wasserstein distance to the truth", "data units squared", worse="higher", log_scale=True, measures="risk"
  ),
}
_NEAR = 3e-3  # norm of F - I up to which an orthogonal factor is taken from its series


def deviation_of(factor, log_scale, low=None):
  """F - I, with `low`, what rounding left of the factor, where it is known."""
  near = factor - jnp.eye(factor.shape[0])
  near = near if low is None else near + low
  return near + jnp.expm1(log_scale) * factor


def distances_to_standard(key, mean, factor, log_scale, log_det, rank, low=None) -> Metrics:
  """Of N(mean, covariance) to N(0, I), in whitened coordinates: both are invariant.

  Args:
    key: of the points at which the total variation is taken beyond one dimension.
    mean, factor, log_scale, log_det, rank: as in `GaussianModel`.
    low: [dim, dim] what rounding left of the factor, where it is known.
  """
  dim = mean.shape[0]
  deviation = deviation_of(factor, log_scale, low)
  full = rank == dim
  own = jnp.diag(deviation)
  near = jnp.all(jnp.abs(own) < 0.5)
  log_own = jnp.log1p(jnp.where(near, own, 0.0))  # of the diagonal of F: log_det is twice their sum
  # Sum of f^2 off the diagonal, and of f^2 - 1 - 2 log f on it.
  across = jnp.sum((deviation - jnp.diag(own)) ** 2)
  close = across + jnp.sum(_exp_minus_linear(2 * log_own))
  apart = jnp.exp(2 * log_scale) * jnp.sum(factor**2) - dim - log_det
  divergence = 0.5 * (jnp.where(near, close, apart) + jnp.sum(mean**2))
  divergence = jnp.where(full, divergence, jnp.inf)
  if dim == 1:
    log_std = jnp.where(near, log_own[0], 0.5 * log_det)
    return {
      "total_variation": jnp.where(full, total_variation(mean[0], log_std), 1.0),
      "total_variation_error": jnp.zeros(()),
      "kl_from_truth": divergence,
    }
  points = normal(key, (NUM_POINTS, dim))
  solvable = full & jnp.all(
    jnp.diag(factor) != 0
  )  # else it is too narrow for its factor: of the truth's mass it has none
  square = jnp.where(solvable, factor, jnp.eye(dim))
  white = jax.scipy.linalg.solve_triangular(square, (points - mean[None]).T, lower=True).T * jnp.exp(-log_scale)
  # |x|^2 - |white|^2 by the difference of the two, (F - I) white + mean.
  between = matmul(white, deviation.T) + mean[None]
  log_det = jnp.where(near, 2 * jnp.sum(log_own), log_det)
  log_ratio = 0.5 * (jnp.sum(between * (points + white), axis=1) - log_det)
  missed = jnp.where(solvable & ~jnp.isnan(log_ratio), jnp.maximum(-jnp.expm1(log_ratio), 0.0), 1.0)
  return {
    "total_variation": jnp.mean(missed),
    "total_variation_error": jnp.std(missed) / np.sqrt(NUM_POINTS),
    "kl_from_truth": divergence,
  }


def _exp_minus_linear(y):
  """e^y - 1 - y."""
  series = y**2 * (1 / 2 + y * (1 / 6 + y * (1 / 24 + y * (1 / 120 + y / 720))))
  return jnp.where(jnp.abs(y) < 0.3, series, jnp.expm1(y) - y)


def total_variation(mean, log_std):
  """Between N(mean, std^2) and N(0, 1), by the two points where the densities cross; as in `theory.total_variation_gaussian`."""
  size = jnp.abs(mean) * jnp.exp(
    -jnp.maximum(log_std, 0.0)
  )  # in units of the wider one, which the truth may be as well
  log_ratio = jnp.abs(log_std)
  ratio, gap = jnp.exp(-log_ratio), -jnp.expm1(-2 * log_ratio)
  root = jnp.hypot(size, jnp.sqrt(2 * log_ratio * gap))
  tiny = jnp.finfo(root.dtype).tiny
  lower = -(
    size * (size / jnp.maximum(size * ratio + root, tiny)) + 2 * log_ratio / jnp.maximum(size * ratio + root, tiny)
  )
  upper = (size * ratio + root) / jnp.maximum(gap, tiny)
  narrower = 2 * log_ratio * gap / jnp.maximum((root + size) * (1 + ratio), tiny)
  return _normal_between(size + ratio * upper, upper, narrower) + _normal_between(
    lower, size + ratio * lower, (root + size) / (1 + ratio)
  )


_NODES, _WEIGHTS = (x / 2 for x in np.polynomial.legendre.leggauss(8))


def _normal_between(low, high, width):
  """Mass of N(0, 1) in [low, high], as wide as `width` >= 0, without the difference of two numbers near 1 or each other."""
  short = jnp.minimum(width, 1.0)
  x = low[None] + short[None] * jnp.asarray(0.5 + _NODES, short.dtype)
  within = short * jnp.sum(jnp.asarray(_WEIGHTS, short.dtype) * jnp.exp(-0.5 * x**2)) / np.sqrt(2 * np.pi)
  below = jax.scipy.special.ndtr
  left, right = jnp.where(low > 0, -high, low), jnp.where(low > 0, -low, high)
  return jnp.where(width < 1, within, below(right) - below(left))


def bures_squared(scale, factor, log_scale, log_det, rank, low=None):
  """Covariance part of the squared 2-Wasserstein distance to the truth N(., L L^T), L = scale, data units squared.

  It is the smallest |L F Q - L|^2 over orthogonal Q (Olkin and Pukelsheim 1982). Far from the truth Q is that of a singular
  value decomposition; near it, Q = I + K + K^2 / 2 + .. with the skew K that is best to first order. Either is at a minimum, so
  that what Q lacks counts in square.

  Args:
    scale: [] or lower Cholesky factor [dim, dim].
    factor, log_scale, log_det, rank: as in `GaussianStats`.
    low: as in `distances_to_standard`.
  """
  scalar = jnp.ndim(scale) == 0
  deviation = deviation_of(factor, log_scale, low)
  near = jnp.sqrt(jnp.sum(deviation**2)) < _NEAR
  small = jnp.where(near, deviation, 0.0)
  if scalar:
    skew = 0.5 * (small.T - small)
    spread = jnp.linalg.svd(factor, compute_uv=False) * jnp.exp(log_scale)
    apart = scale**2 * jnp.sum((spread - 1) ** 2)
  else:
    gram = matmul(scale.T, scale)
    values, vectors = jnp.linalg.eigh(gram)
    turned = matmul(matmul(vectors.T, matmul(small.T, gram) - matmul(gram, small)), vectors)
    skew = matmul(matmul(vectors, turned / (values[:, None] + values[None])), vectors.T)
    left, _, right = jnp.linalg.svd(matmul(gram, factor))
    rotation = matmul(right.T, left.T)
    apart = jnp.sum((jnp.exp(log_scale) * matmul(matmul(scale, factor), rotation) - scale) ** 2)
  turn = skew + 0.5 * matmul(skew, skew + 0.5 * matmul(skew, skew))
  residual = small + turn + matmul(small, turn)
  close = jnp.sum((scale * residual if scalar else matmul(scale, residual)) ** 2)
  return jnp.where(near, close, apart)
