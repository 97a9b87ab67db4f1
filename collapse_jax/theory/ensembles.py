"""Ensembles of generators (van Breugel et al. 2305.09235), for the mean of rows of known variance (all derived)."""

import numpy as np

from collapse_jax.theory.checks import check, check_count

__all__ = ["member_coverage", "naive_coverage", "pooled_error"]


def naive_coverage(synthetic_per_real) -> np.ndarray:
  """Coverage of a 95 % interval that takes m synthetic rows for real ones: 2 Phi(1.96 / sqrt(1 + m/n)) - 1."""
  from scipy import stats

  check("synthetic_per_real", synthetic_per_real, 0)
  return 2 * stats.norm.cdf(1.96 / np.sqrt(1 + np.asarray(synthetic_per_real, float))) - 1


def pooled_error(num_members: int, synthetic_per_real: float = 1.0) -> float:
  """n * squared error of the mean of K members' m rows each: 1 + n / (m K); members of equal fits."""
  check_count("num_members", num_members)
  check("synthetic_per_real", synthetic_per_real, 0, open_least=True)
  return 1 + 1 / (synthetic_per_real * num_members)


def member_coverage(synthetic_per_real: float, num_members: int, resample_real: str = "none") -> float:
  """Coverage of mean +- 1.96 deviations of K members' means, each of m rows.

  Members see their own draw (1/m) and, if they are fitted to bootstrap samples, also 1/n; the mean of all errs by 1/n and
  a K-th of that. The ratio is Student's t with K - 1 degrees of freedom; exact for "none", first order in 1/n else.

  Args:
    synthetic_per_real: m / n, above 0.
    num_members: K, at least 2.
    resample_real: "none", or "bootstrap" where members are fitted to bootstrap samples.
  """
  from scipy import stats

  check_count("num_members", num_members, 2)
  check("synthetic_per_real", synthetic_per_real, 0, open_least=True)
  real, own = 1.0, 1 / synthetic_per_real  # times 1/n
  spread = own + (real if resample_real == "bootstrap" else 0.0)
  error = real + spread / num_members
  return float(2 * stats.t.cdf(1.96 * np.sqrt(spread / error), num_members - 1) - 1)
