"""Genetic drift: frequencies of outcomes, sampled and estimated again (Wright and Fisher)."""

import numpy as np

from collapse_jax.theory.checks import check

__all__ = ["drift_collapse_time", "drift_entropy"]


def drift_collapse_time(num_outcomes: int, num_samples: int) -> float:
  """Mean generations until one outcome is left, uniform start, `replace`: 2 n (K-1) log(K/(K-1)), diffusion limit."""
  check("num_outcomes", num_outcomes, 1)
  check("num_samples", num_samples, 1)
  if num_outcomes == 1:
    return 0.0
  return -2 * num_samples * (num_outcomes - 1) * float(np.log1p(-1 / num_outcomes))


def drift_entropy(t, num_samples: int) -> np.ndarray:
  """Expected entropy in nats under `replace` from many outcomes: log(2n/t) + gamma - 1, for 20 < t < n/5 (derived)."""
  check("t", t, 1)
  check("num_samples", num_samples, 1)
  return np.log(2 * num_samples / np.asarray(t, float)) + np.euler_gamma - 1
