"""Least squares whose labels each model makes anew (Gerstgrasser et al. 2024, 2404.01413)."""

import numpy as np

from collapse_jax.theory.checks import check, check_count
from collapse_jax.theory.weights import linear_noise

__all__ = ["linear_regression_mse"]


def linear_regression_mse(weights, dim: int, num_samples: int, noise_var: float = 1.0) -> np.ndarray:
  """Expected test error of least squares when every batch relabels one design, exact (Gerstgrasser et al. 2024; derived).

  Means over w*, x ~ N(0, I) and labels. n > d + 1: noise_var d/(n-d-1) times `linear_noise`; d > n + 1, least norm:
  noise_var n/(d-n-1) times `linear_noise`, plus (d - n), the part of w* that no label shows. In between it has no mean.

  Args:
    weights: [T, T] as for `linear_noise`, not redrawn, every batch of num_samples rows.
  Returns:
    [T] in label units squared; infinite where |n - d| <= 1.
  """
  check_count("dim", dim)
  check_count("num_samples", num_samples)
  check("noise_var", noise_var, 0)
  gap = abs(num_samples - dim) - 1
  if gap <= 0:
    return np.full(len(np.asarray(weights)), np.inf)
  base = noise_var * min(dim, num_samples) / gap
  return base * linear_noise(weights) + max(dim - num_samples, 0)
