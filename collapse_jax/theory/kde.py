"""Kernel density estimates, sampled and fitted again: bandwidths, and a limit (task of Kazdan et al. 2024, 2410.16713).

Variances under any workflow are `schedules.schedule_kde_variance`.
"""

import numpy as np

from collapse_jax.theory.checks import check, check_run

__all__ = ["kde_variance_limit", "scott_bandwidth", "silverman_bandwidth"]


def scott_bandwidth(num_samples, dim: int) -> np.ndarray:
  """n^(-1/(d+4)), in data units: scikit-learn's "scott", which ignores the spread of the data."""
  check("num_samples", num_samples, 1)
  check("dim", dim, 1)
  return np.asarray(num_samples, float) ** (-1 / (dim + 4))


def silverman_bandwidth(num_samples, dim: int) -> np.ndarray:
  """(n (d+2)/4)^(-1/(d+4)), in data units: scikit-learn's "silverman"; equals "scott" for d = 2."""
  check("num_samples", num_samples, 1)
  check("dim", dim, 1)
  return (np.asarray(num_samples, float) * (dim + 2) / 4) ** (-1 / (dim + 4))


def kde_variance_limit(num_samples: int, bandwidth: float) -> float:
  """Limit t -> inf under `replace`: n h^2, data units squared (accumulate: like h^2 log t, no limit)."""
  check_run(num_samples)
  check("bandwidth", bandwidth, 0)
  return num_samples * bandwidth**2
