"""Selection by nearness to real data: an analogue of Alrashedy et al. 2311.00931 (all derived)."""

import numpy as np

from collapse_jax.theory.checks import check, check_count
from collapse_jax.theory.verification import truncation_rate

__all__ = ["level_set_variance", "nearest_loop", "nearest_purity", "nearest_variance"]


def nearest_variance(variance: float, keep_fraction: float, num_neighbors: int = 1, num_real: float = np.inf) -> float:
  """Variance of the keep_fraction of N(0, variance) that is nearest to N real rows of N(0, 1).

  A sample at x is kept where at least k real rows lie within r of it, with probability P(Binomial(N, F(x+r) - F(x-r)) >= k),
  and for N -> inf P(Poisson(theta p(x)) >= k); r or theta is set by the kept share. Exact for many samples, over the mean
  real batch; for k -> inf a level set of the density is kept.

  Args:
    keep_fraction: in (0, 1).
    num_neighbors: k.
    num_real: N, or infinite.
  """
  from scipy import optimize, stats

  check("variance", variance, 0, open_most=True)
  check("keep_fraction", keep_fraction, 0, 1, open_least=True, open_most=True)
  check_count("num_neighbors", num_neighbors)
  check("num_real", num_real, num_neighbors)
  if variance == 0:
    return 0.0
  x = np.linspace(-12, 12, 6001) * np.sqrt(variance)
  probability = stats.norm.pdf(x, scale=np.sqrt(variance))
  probability /= probability.sum()
  if np.isinf(num_real):
    kept = lambda log_size: stats.poisson.sf(num_neighbors - 1, np.exp(log_size) * stats.norm.pdf(x))
  else:
    within = lambda r: np.clip(
      stats.norm.cdf(x + r) - stats.norm.cdf(x - r), 0, 1
    )  # a tail's difference may round below 0
    kept = lambda log_size: stats.binom.sf(num_neighbors - 1, num_real, within(np.exp(log_size)))
  log_size = optimize.brentq(lambda u: probability @ kept(u) - keep_fraction, -40, 40, xtol=1e-10)
  kept_of = probability * kept(log_size)
  return float(kept_of @ x**2 / kept_of.sum())


def level_set_variance(variance: float, keep_fraction: float) -> float:
  """The same for the level set |x| < b that holds keep_fraction of N(0, variance): its truncated variance."""
  from scipy import stats

  check("variance", variance, 0, open_most=True)
  check("keep_fraction", keep_fraction, 0, 1, open_least=True)
  return float(variance * truncation_rate(np.sqrt(stats.chi2.ppf(keep_fraction, 1))))


def nearest_loop(
  keep_fraction: float, num_generations: int, num_neighbors: int = 1, num_real: float = np.inf
) -> np.ndarray:
  """Variance ratio [T] of Gaussian models 1..T under `replace`, each batch the keep_fraction nearest to the real rows.

  Args:
    keep_fraction: in (0, 1).
    num_generations: T.
    num_neighbors: k.
    num_real: N real rows, or infinite.
  """
  check_count("num_generations", num_generations)
  variances = [1.0]
  for _ in range(num_generations - 1):
    variances.append(nearest_variance(variances[-1], keep_fraction, num_neighbors, num_real))
  return np.array(variances)


def nearest_purity(distance: float, dim: int, num_real: int, keep_fraction: float, share: float = 0.5) -> float:
  """Realistic share of the keep_fraction nearest to N(0, I) real rows, where a share of candidates lies `distance` off.

  A candidate at x has no real row within r with probability (1 - F(r^2))^N, F noncentral chi-squared with |x|^2; r is set by
  the kept share. Exact for many candidates, over the mean real batch.

  Args:
    distance: of the mean of unrealistic candidates, which are N(., I), from 0.
    dim: of the rows.
    num_real: N.
    keep_fraction: in (0, 1).
    share: of unrealistic candidates.
  """
  from scipy import optimize, stats

  check("distance", distance, 0, open_most=True)
  check_count("dim", dim)
  check_count("num_real", num_real)
  check("keep_fraction", keep_fraction, 0, 1, open_least=True, open_most=True)
  check("share", share, 0, 1)
  levels = (np.arange(200) + 0.5) / 200
  near, off = stats.chi2.ppf(levels, dim), stats.ncx2.ppf(levels, dim, distance**2)
  kept = lambda squared, r: np.mean(1 - stats.ncx2.sf(r**2, dim, squared) ** num_real)
  excess = lambda r: (1 - share) * kept(near, r) + share * kept(off, r) - keep_fraction
  r = optimize.brentq(excess, 1e-3, distance + 3 * np.sqrt(dim), xtol=1e-6)
  return float((1 - share) * kept(near, r) / keep_fraction)
