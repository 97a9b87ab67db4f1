"""Kernel density estimates, sampled and fitted again: bandwidths and variances (task of Kazdan et al. 2024, 2410.16713)."""

from collections.abc import Callable

import numpy as np

from collapse_jax.theory.checks import check, check_run
from collapse_jax.theory.gaussian import _accumulate_subsample

__all__ = ["kde_variance", "kde_variance_limit", "scott_bandwidth", "silverman_bandwidth"]


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


def kde_variance(
  workflow: str,
  num_samples: int,
  bandwidth: float | Callable,
  num_generations: int,
  dim: int = 1,
  truth_variance: float = 1.0,
) -> np.ndarray | None:
  """Expected variance per coordinate of the KDE model, exact (derived): V_t + h^2, V_t of its training data.

  Task of Kazdan et al. 2024. Replace: V <- (1 - 1/n)(V + h^2). Accumulate: V <- V + h^2/(t+1) -
  (V + h^2)/(n (t+1)^2). Subsample: the Gaussian recursion with h^2 added to what models emit.

  Args:
    workflow: "replace", "accumulate" or "accumulate_subsample".
    num_samples: n, at least 2.
    bandwidth: h of the Gaussian kernel in data units, or (train_size, dim) -> h, such as `scott_bandwidth`.
    num_generations: T.
    dim: only handed to `bandwidth`.
    truth_variance: per coordinate, in data units squared.
  Returns:
    [T] in data units squared, or None for other workflows.
  """
  check_run(num_samples, num_generations)
  check("truth_variance", truth_variance, 0, open_most=True)
  n, T = num_samples, num_generations
  bandwidth_at = bandwidth if callable(bandwidth) else lambda train_size, dim: bandwidth
  kernel_variance = lambda t: float(bandwidth_at(n * t if workflow == "accumulate" else n, dim)) ** 2
  kernel_variances = np.array([kernel_variance(t) for t in range(1, T + 1)])
  if workflow == "accumulate_subsample":
    return _accumulate_subsample(n, T, kernel_variance, truth=truth_variance).trace_ratio + kernel_variances
  if workflow not in ("replace", "accumulate"):
    return None
  train_variance = np.empty(T)
  train_variance[0] = (1 - 1 / n) * truth_variance
  for t in range(1, T):
    emitted = train_variance[t - 1] + kernel_variances[t - 1]
    if workflow == "replace":
      train_variance[t] = (1 - 1 / n) * emitted
    else:
      train_variance[t] = (t * train_variance[t - 1] + emitted) / (t + 1) - emitted / (n * (t + 1) ** 2)
  return train_variance + kernel_variances


def kde_variance_limit(num_samples: int, bandwidth: float) -> float:
  """Limit t -> inf under `replace`: n h^2, data units squared (accumulate: like h^2 log t, no limit)."""
  check_run(num_samples)
  check("bandwidth", bandwidth, 0)
  return num_samples * bandwidth**2
