"""Loops of autoregressive models with mixed heads, as of STAN (2009.12740): memory, columns, mixtures, ends, whole numbers.

All derived. A series has `num_rows` rows in time and begins with an empty (zero) past. Unless told otherwise laws are of `replace`,
where model t is fitted to what model t - 1 wrote.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count, check_run

__all__ = [
  "NormalLoop",
  "autoregression_bias",
  "autoregression_loop",
  "component_variance_factor",
  "cross_column_variance",
  "integer_sizes_loop",
  "mixture_heterozygosity",
  "range_replace",
  "redraw_atom",
  "residual_variance_replace",
  "simulated_traffic",
  "truncated_normal_loop",
]

_QUANTILES = 100_001  # of a normal law, where its moments are sums: errors of 1e-5


class NormalLoop(NamedTuple):
  """Means [T] and standard deviations [T] of models 1..T."""

  mean: np.ndarray
  std: np.ndarray


def autoregression_bias(coefficients, intercept: bool = False) -> np.ndarray:
  """Bias of least squares times the number of rows, to first order (Shaman and Stine 1988): [p], of an AR(1) or AR(2).

  AR(1): -2a, with an intercept -(1 + 3a). AR(2): (-p1, -(1 + 3 p2)), with an intercept (-(1 + p1 + p2), -(2 + 4 p2)).

  Args:
    coefficients: [p], of lags 1..p, p at most 2, of a stationary series.
    intercept: whether a constant is fitted too.
  """
  lags = np.atleast_1d(np.asarray(coefficients, float))
  if lags.shape not in ((1,), (2,)) or not np.isfinite(lags).all():
    raise Refused.must_be("coefficients", "one or two numbers", coefficients)
  if np.abs(np.roots(np.append(1.0, -lags))).max() >= 1:
    raise Refused.must_be("coefficients", "those of a stationary series", coefficients)
  if len(lags) == 1:
    return np.array([-(1 + 3 * lags[0]) if intercept else -2 * lags[0]])
  one, two = lags
  return np.array([-(1 + one + two), -(2 + 4 * two)] if intercept else [-one, -(1 + 3 * two)])


def autoregression_loop(
  coefficients, num_rows: float, num_generations: int, *, intercept: bool = False, pooled: bool = False
) -> np.ndarray:
  """Expected coefficients [T, p] of models 1..T, to first order in 1 / num_rows.

  An AR(1) under `replace` without an intercept: a (1 - 2/L)^t; with one -1/3 + (a + 1/3) (1 - 3/L)^t: memory tends to -1/3, not to
  0. Pooled, a fit differs from the last one by the share 1/t of the newest batch, whose share in the pool's bias is 1/t too:
  a (1 - (2/L) sum_k 1/k^2).

  Args:
    coefficients: [p] of the real series, p at most 2.
    num_rows: L of a batch.
    num_generations: T.
    intercept: whether a constant is fitted too; under `replace` only.
    pooled: `accumulate` instead of `replace`.
  """
  check_run(num_rows, num_generations)
  if pooled and intercept:
    raise Refused("the law of pooled series is known without an intercept only.", argument="intercept", value=intercept)
  found = [np.atleast_1d(np.asarray(coefficients, float))]
  for t in range(1, num_generations + 1):
    found.append(found[-1] + autoregression_bias(found[-1], intercept) / num_rows / (t**2 if pooled else 1))
  return np.array(found[1:])


def residual_variance_replace(num_rows: float, num_generations: int, num_coefficients: int = 1) -> np.ndarray:
  """Residual variance [T] over that of the truth, divisor L: (1 - k/L)^t, exact where regressors are not lags of the same column.

  Args:
    num_rows: L, above num_coefficients.
    num_generations: T.
    num_coefficients: k that are fitted, an intercept among them.
  """
  check_run(num_rows, num_generations)
  check("num_coefficients", num_coefficients, 0, num_rows, open_most=True)
  return np.exp(np.arange(1, num_generations + 1) * np.log1p(-num_coefficients / num_rows))


def cross_column_variance(noise_over_regressor: float, num_rows: float, num_generations: int) -> np.ndarray:
  """Variance [T] of the coefficient b of y = b x + e, rows independent in time and fitted without an intercept, exact.

  The coefficient has no bias and diffuses: about t Var e / (L Var x). What is between columns of a row is lost by chance, what is
  between rows by bias.

  Args:
    noise_over_regressor: Var e / Var x.
    num_rows: L, above 2.
    num_generations: T.
  """
  check("noise_over_regressor", noise_over_regressor, 0)
  check_run(num_rows, num_generations)
  check("num_rows", num_rows, 2, open_least=True)
  step = (1 - 1 / num_rows) * num_rows / (num_rows - 2)  # of E Var e_t times E 1 / Var x_t
  return noise_over_regressor / (num_rows - 2) * np.cumsum(step ** np.arange(num_generations))


def mixture_heterozygosity(share: float, num_rows: float, num_generations: int) -> np.ndarray:
  """E 2 p_t (1 - p_t) [T] of the share of one of two components that lie apart: Wright and Fisher, exact.

  Args:
    share: p of the truth.
    num_rows: n.
    num_generations: T.
  """
  check("share", share, 0, 1)
  return 2 * share * (1 - share) * residual_variance_replace(num_rows, num_generations)


def component_variance_factor(share: float, num_rows: int) -> float:
  """What a generation leaves of the variance within a component that lies apart: 1 - E 1/n_j, n_j its rows, of which there is one.

  About 1 - 1 / (n p): rare components shrink first.

  Args:
    share: p of the component, above 0.
    num_rows: n.
  """
  check("share", share, 0, 1, open_least=True)
  check_count("num_rows", num_rows)
  counts = np.arange(1, num_rows + 1)
  log_chance = (
    special.gammaln(num_rows + 1)
    - special.gammaln(counts + 1)
    - special.gammaln(num_rows - counts + 1)
    + special.xlogy(counts, share)
    + special.xlog1py(num_rows - counts, -share)
  )
  chance = np.exp(log_chance - log_chance.max())
  return float(1 - np.sum(chance / counts) / np.sum(chance))


def truncated_normal_loop(
  mean: float, std: float, num_generations: int, *, low: float = 0.0, high: float = 1.0
) -> NormalLoop:
  """Normal models fitted by their moments to rows that are drawn again until they lie in [low, high], n -> inf.

  The loop contracts without any sampling error. A likelihood that knows of the ends does not.

  Args:
    mean, std: of the first normal law that is drawn from.
    num_generations: T; model t is fitted to the t-th truncated law.
    low, high: ends, which may be infinite.
  """
  check("mean", mean)
  check("std", std, 0, open_least=True, open_most=True)
  check_count("num_generations", num_generations)
  if not low < high:
    raise Refused.must_be("low", f"below high = {high}", low)
  found = []
  for _ in range(num_generations):
    mean, std = _truncated_moments(mean, std, low, high)
    found.append((mean, std))
  return NormalLoop(*np.array(found).T)


def _truncated_moments(mean, std, low, high) -> tuple[float, float]:
  """Of a normal law between ends, by quantiles of its body: no differences of tails."""
  below, above = special.ndtr((low - mean) / std), special.ndtr((mean - high) / std)
  inside = np.linspace(0, 1, _QUANTILES + 1)
  middle = (inside[1:] + inside[:-1]) / 2
  # from the nearer tail, where quantiles are exact
  place = below + middle * (1 - below - above)
  if below <= above:
    z = special.ndtri(place)
  else:
    z = -special.ndtri(above + (1 - middle) * (1 - below - above))
  values = np.clip(mean + std * z, low, high)
  return float(values.mean()), float(values.std())


def redraw_atom(share_outside, num_draws: int = 12):
  """P of the value that stands in where all draws fell outside: q^12 as published, an atom that a loop goes on with.

  Args:
    share_outside: q, a number or an array.
    num_draws: before giving up.
  """
  check("share_outside", share_outside, 0, 1)
  check_count("num_draws", num_draws)
  return np.asarray(share_outside, float) ** num_draws


def integer_sizes_loop(
  log_mean: float, log_std: float, num_generations: int, *, rounding: str = "truncate"
) -> np.ndarray:
  """Mean sizes [T + 1] of log-normal models 0..T, each fitted to the logs of whole numbers that the last one wrote, n -> inf.

  Args:
    log_mean, log_std: of the first model.
    num_generations: T.
    rounding: "truncate" as int() does, "nearest", or "random", up with the probability of the fraction; to 1 at least.
  """
  check("log_mean", log_mean)
  check("log_std", log_std, 0, open_most=True)
  check_count("num_generations", num_generations, 0)
  if rounding not in ("truncate", "nearest", "random"):
    raise Refused.must_be("rounding", "'truncate', 'nearest' or 'random'", rounding)
  normal = special.ndtri((np.arange(_QUANTILES) + 0.5) / _QUANTILES)
  means = [np.exp(log_mean + log_std**2 / 2)]
  for _ in range(num_generations):
    sizes = np.exp(log_mean + log_std * normal)
    below = np.floor(sizes)
    up = {"truncate": 0.0, "nearest": (sizes - below >= 0.5) * 1.0, "random": sizes - below}[rounding]
    low, high = np.log(np.maximum(below, 1)), np.log(below + 1)
    log_mean = np.mean((1 - up) * low + up * high)
    log_std = np.sqrt(np.mean((1 - up) * (low - log_mean) ** 2 + up * (high - log_mean) ** 2))
    means.append(np.exp(log_mean + log_std**2 / 2))
  return np.array(means)


def range_replace(num_rows: float, num_generations: int) -> np.ndarray:
  """Expected range [T] of uniform rows whose encoder takes smallest and largest for the ends, over the truth's: ((n-1) / (n+1))^t.

  Args:
    num_rows: n.
    num_generations: T.
  """
  check_run(num_rows, num_generations)
  return ((num_rows - 1) / (num_rows + 1)) ** np.arange(1, num_generations + 1)


def simulated_traffic(memory: float, coupling: float) -> dict[str, float]:
  """Moments of the paper's simulated set, x_t = a x_{t-1} + (1 - a) e and y_t = b x_t + (1 - b) e', e of variance 1, exact.

  Args:
    memory: a, in (-1, 1).
    coupling: b.
  Returns:
    variance_x, variance_y, correlation of x and y, lag1_x and lag1_y: autocorrelations.
  """
  check("memory", memory, -1, 1, open_least=True, open_most=True)
  check("coupling", coupling)
  variance_x = (1 - memory) / (1 + memory)
  variance_y = coupling**2 * variance_x + (1 - coupling) ** 2
  return {
    "variance_x": variance_x,
    "variance_y": variance_y,
    "correlation": coupling * np.sqrt(variance_x / variance_y),
    "lag1_x": float(memory),
    "lag1_y": coupling**2 * memory * variance_x / variance_y,
  }
