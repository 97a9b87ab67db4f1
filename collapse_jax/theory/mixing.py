"""Mixtures of real and synthetic data: total variation (2402.11778), weights (2502.18049), fresh data (2310.00429)."""

import numpy as np
from scipy import stats


def golden_weight(real_per_synthetic) -> np.ndarray:
  """Best weight of fresh real data: (sqrt(k^2 + 4k) - k) / 2, k = real items per synthetic item (2502.18049).

  At that weight n times the error of the mean is the weight itself; k = 1 gives the golden ratio .618.
  """
  k = np.asarray(real_per_synthetic, float)
  return (np.sqrt(k ** 2 + 4 * k) - k) / 2


def weighted_mixing_error(real_weight, real_per_synthetic, num_generations: int | None = None) -> np.ndarray:
  """n * E|mean - truth|^2 / variance with n fresh real items of a given total weight w each generation, exact (derived).

  e <- w^2 + (1-w)^2 (e + k), from e = 1; limit (w^2 + (1-w)^2 k) / (1 - (1-w)^2). The variance of the law is known.

  Args:
    real_weight: w, in (0, 1].
    real_per_synthetic: k, real items per item that a model emits.
    num_generations: T; None: the limit.
  Returns:
    [T, ...], or the limit [...].
  """
  w, k = np.broadcast_arrays(np.asarray(real_weight, float), np.asarray(real_per_synthetic, float))
  if num_generations is None:
    return (w ** 2 + (1 - w) ** 2 * k) / (1 - (1 - w) ** 2)
  errors = [np.ones(w.shape)]
  for _ in range(num_generations - 1):
    errors.append(w ** 2 + (1 - w) ** 2 * (errors[-1] + k))
  return np.array(errors)


def total_variation_gaussian(mean: float, std: float) -> float:
  """Total variation between N(mean, std^2) and N(0, 1), by the points where the densities cross; 1 where std is 0."""
  if std <= 0:
    return 1.0
  if abs(std - 1) < 1e-12:
    return float(2 * stats.norm.cdf(abs(mean) / 2) - 1)
  # x^2 (1 - 1/std^2) + 2 x mean/std^2 - mean^2/std^2 - 2 log std = 0
  a, b, c = 1 - 1 / std ** 2, 2 * mean / std ** 2, -(mean / std) ** 2 - 2 * np.log(std)
  low, high = np.sort(np.roots([a, b, c]).real)
  inside = stats.norm.cdf(high) - stats.norm.cdf(low)
  model = stats.norm.cdf((high - mean) / std) - stats.norm.cdf((low - mean) / std)
  return float(abs(inside - model))


def mixture_bound(first_errors, weights) -> np.ndarray:
  """Bound x_t = e_t + sum_j w_tj x_j on the distance of model t from the truth (Fu et al. 2402.11778; recursion derived).

  Args:
    first_errors: [T] distance e_t of a fit to as many rows of the law that it is fitted to.
    weights: [T, T]; row t - 1 holds the share of batch j = 0..t-1 (0 = real) in generation t.
  """
  weights = np.asarray(weights, float)
  bounds: list[float] = []
  for error, row in zip(np.asarray(first_errors, float), weights):
    bounds.append(float(error + row[1:len(bounds) + 1] @ np.asarray(bounds)))
  return np.array(bounds)


def mean_total_variation_of_fit(num_rows: float) -> float:
  """E of the total variation between a Gaussian fitted to n rows of N(0, 1) and that law, first order in n^(-1/2) (derived).

  To first order |phi(x) (m x + (s/2)(x^2 - 1))| / 2 integrates over x, with m ~ N(0, 1/n) and s ~ N(0, 2/n) independent: by
  quadrature over their direction.
  """
  angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
  x = np.linspace(-9, 9, 4001)
  shape = np.cos(angle)[:, None] * x[None] + np.sin(angle)[:, None] * (x ** 2 - 1)[None] / np.sqrt(2)
  by_angle = 0.5 * np.sum(stats.norm.pdf(x)[None] * np.abs(shape), axis=1) * (x[1] - x[0])
  radius = np.sqrt(np.pi / 2)  # mean length of a standard normal vector in the plane
  return float(radius * by_angle.mean() / np.sqrt(num_rows))


def total_variation_of_coin(num_rows: int, probability: float) -> float:
  """Expected total variation between a coin and its frequency in n throws: a binomial's mean absolute deviation over n."""
  count = np.arange(num_rows + 1)
  return float(stats.binom.pmf(count, num_rows, probability) @ np.abs(count / num_rows - probability))
