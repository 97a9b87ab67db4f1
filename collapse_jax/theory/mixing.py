"""Mixtures of real and synthetic data: total variation (2402.11778), weights (2502.18049), fresh data (2310.00429)."""

import numpy as np
from scipy import special

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count

__all__ = [
  "golden_weight",
  "mean_total_variation_of_fit",
  "mix_first_order",
  "mix_first_order_peak",
  "mixture_bound",
  "total_variation_gaussian",
  "total_variation_of_coin",
  "weighted_mixing_error",
]


def golden_weight(real_per_synthetic) -> np.ndarray:
  """Best weight of fresh real data: (sqrt(k^2 + 4k) - k) / 2, k = real items per synthetic item (2502.18049).

  At that weight n times the error of the mean is the weight itself; k = 1 gives the golden ratio .618.
  """
  check("real_per_synthetic", real_per_synthetic, 0)
  with np.errstate(divide="ignore"):
    return 2 / (1 + np.sqrt(1 + 4 / np.asarray(real_per_synthetic, float)))


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
  check("real_weight", real_weight, 0, 1, open_least=True)
  check("real_per_synthetic", real_per_synthetic, 0, open_most=True)
  if num_generations is not None:
    check_count("num_generations", num_generations)
  w, k = np.broadcast_arrays(np.asarray(real_weight, float), np.asarray(real_per_synthetic, float))
  if num_generations is None:
    return (w**2 + (1 - w) ** 2 * k) / (w * (2 - w))
  errors = [np.ones(w.shape)]
  for _ in range(num_generations - 1):
    errors.append(w**2 + (1 - w) ** 2 * (errors[-1] + k))
  return np.array(errors)


def total_variation_gaussian(mean: float, std: float) -> float:
  """Total variation between N(mean, std^2) and N(0, 1), by the points where the densities cross; 1 where std is 0.

  In units of the wider one, at a distance a and with r <= 1 the ratio of the widths, these are (a r +- D) / (1 - r^2) from the
  narrower one in its own units, D^2 = a^2 - 2 (1 - r^2) log r. They lie (D -+ a) / (1 + r) from where they are in units of the
  wider one, so that the distance is the mass of N(0, 1) in two intervals of these lengths: nothing cancels.
  """
  check("mean", mean)
  check("std", std, 0)
  if std == 0 or np.isinf(std) or np.isinf(mean):
    return 1.0
  apart, log_ratio = abs(mean) / max(std, 1.0), abs(np.log(std))
  ratio, gap = np.exp(-log_ratio), -np.expm1(-2 * log_ratio)
  root = np.hypot(apart, np.sqrt(2 * log_ratio * gap))
  if root == 0:
    return 0.0
  lower = -(apart * (apart / (apart * ratio + root)) + 2 * log_ratio / (apart * ratio + root))
  upper = (apart * ratio + root) / gap if gap > 0 else np.inf
  return _normal_between(
    apart + ratio * upper, upper, 2 * log_ratio * gap / ((root + apart) * (1 + ratio))
  ) + _normal_between(lower, apart + ratio * lower, (root + apart) / (1 + ratio))


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


def _normal_between(low: float, high: float, width: float) -> float:
  """Mass of N(0, 1) in [low, high], as wide as `width`."""
  from scipy import stats

  if width < 1:
    return float(width / 2 * _WEIGHTS @ stats.norm.pdf(low + width / 2 * (1 + _NODES)))
  return float(special.ndtr(-low) - special.ndtr(-high) if low > 0 else special.ndtr(high) - special.ndtr(low))


def mixture_bound(first_errors, weights) -> np.ndarray:
  """Bound x_t = e_t + sum_j w_tj x_j on the distance of model t from the truth (Fu et al. 2402.11778; recursion derived).

  Args:
    first_errors: [T] distance e_t of a fit to as many rows of the law that it is fitted to.
    weights: [T, T]; row t - 1 holds the share of batch j = 0..t-1 (0 = real) in generation t.
  """
  weights = np.asarray(weights, float)
  bounds: list[float] = []
  for error, row in zip(np.asarray(first_errors, float), weights):
    bounds.append(float(error + row[1 : len(bounds) + 1] @ np.asarray(bounds)))
  return np.array(bounds)


def mean_total_variation_of_fit(num_rows: float) -> float:
  """E of the total variation between a Gaussian fitted to n rows of N(0, 1) and that law, first order in n^(-1/2) (derived).

  To first order |phi(x) (m x + (s/2)(x^2 - 1))| / 2 integrates over x, with m ~ N(0, 1/n) and s ~ N(0, 2/n) independent: by
  quadrature over their direction.
  """
  from scipy import stats

  angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
  x = np.linspace(-9, 9, 4001)
  shape = np.cos(angle)[:, None] * x[None] + np.sin(angle)[:, None] * (x**2 - 1)[None] / np.sqrt(2)
  by_angle = 0.5 * np.sum(stats.norm.pdf(x)[None] * np.abs(shape), axis=1) * (x[1] - x[0])
  check("num_rows", num_rows, 0, open_least=True)
  radius = np.sqrt(np.pi / 2)  # mean length of a standard normal vector in the plane
  return float(radius * by_angle.mean() / np.sqrt(num_rows))


def total_variation_of_coin(num_rows: int, probability: float) -> float:
  """Expected total variation between a coin and its frequency in n throws: a binomial's mean absolute deviation over n.

  2 (1 - p) k P(k) / n with k the first number above n p (De Moivre).
  """
  from scipy import stats

  check_count("num_rows", num_rows)
  check("probability", probability, 0, 1)
  above = np.floor(num_rows * probability) + 1
  return float(2 * (1 - probability) * above * stats.binom.pmf(above, num_rows, probability) / num_rows)


def mix_first_order(t, synthetic_per_real) -> np.ndarray:
  """n * mean error under `mix` with a fixed real batch: it rises, then falls, in L (Fu et al. 2024).

  1 + [L/(1+2L)] [1 - (L/(1+L))^(2(t-1))], first order (derived), in units of the one-shot error.

  Args:
    t: generation, from 1; broadcasts with the other argument.
    synthetic_per_real: L = (1-f)/f, synthetic items per real item.
  """
  check("t", t, 1)
  check("synthetic_per_real", synthetic_per_real, 0)
  with np.errstate(divide="ignore"):
    real_per_synthetic = 1 / np.asarray(synthetic_per_real, float)
  step = 2 * (np.asarray(t, float) - 1)
  with np.errstate(invalid="ignore"):
    forgotten = np.where(step > 0, -np.expm1(-step * np.log1p(real_per_synthetic)), 0.0)
  return 1 + forgotten / (2 + real_per_synthetic)


def mix_first_order_peak(t: int) -> float:
  """Synthetic items per real item that hurt the mean most at generation t >= 2: 1 at t=2, 4.6 at t=10."""
  from scipy import optimize

  if t < 2:
    raise Refused(f"t must be at least 2, got {t}: model 1 sees real data only.")
  error = lambda log_ratio: -mix_first_order(t, np.exp(log_ratio))
  return float(
    np.exp(optimize.minimize_scalar(error, bounds=(-1, np.log(t) + 1), method="bounded", options={"xatol": 1e-9}).x)
  )
