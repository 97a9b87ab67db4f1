"""Errors by a table of weights: which share each batch has in each generation (Dey and Donoho 2024, 2410.22812).

First order for any smooth estimator; exact for means of natural exponential families.
"""

import numpy as np
from scipy import linalg

from collapse_jax.theory.checks import check, check_count

__all__ = ["ACCUMULATE_LIMIT", "linear_noise", "noise_shares", "quadratic_family", "sliding_window"]

ACCUMULATE_LIMIT = np.pi**2 / 6  # of n * squared error under accumulate, t -> inf, first order (2404.01413)


def linear_noise(weights, redrawn: bool = False, num: float | np.ndarray = 1.0) -> np.ndarray:
  """MSE of an asymptotically linear estimator over its one-shot MSE, first order (Dey and Donoho 2024).

  Model t errs by sum_j w_tj (error of model j + own noise of batch j). Replace gives t; accumulate sum 1/k^2;
  grown replace the harmonic number H_t; accumulate_subsample 2.935; sliding window W a slope of (2/(W+1))^2.

  Args:
    weights: [T, T]; row t - 1 holds the share of batch j = 0..t-1 (0 = real) in generation t; rows sum to 1.
    redrawn: model t is fitted to n of the N weighted items, drawn without replacement: adds noise 1 - n/N.
    num: items of a batch relative to n: a number, or [T] for batch j = 0..T-1.
  Returns:
    [T], dimensionless.
  """
  weights = np.asarray(weights, float)
  check("num", num, 0, open_least=True)
  subset_noise = 1 - (weights / num).max(axis=1) if redrawn else np.zeros(len(weights))
  batch_noise = 1 / np.broadcast_to(num, len(weights)) + np.append(0, subset_noise[:-1])
  return noise_shares(weights) ** 2 @ batch_noise + subset_noise


def sliding_window(size: int, num_generations: int) -> np.ndarray:
  """[T, T] shares of the batches when generation t is fitted to the last `size` of them, for `linear_noise`."""
  check_count("size", size)
  check_count("num_generations", num_generations)
  generation, batch = np.arange(1, num_generations + 1)[:, None], np.arange(num_generations)[None]
  kept = (batch < generation) & (batch >= generation - size)
  return kept / kept.sum(axis=1, keepdims=True)


def quadratic_family(weights, num_samples, curvature: float) -> np.ndarray:
  """E (mean_t - mu)^2 / V(mu) for the mean of a natural exponential family, exact under any schedule (derived).

  With quadratic variance function V(m) = V(mu) + .. + c (m - mu)^2 (Morris 1982): c = -1 for Bernoulli, 0 for Poisson and
  for a Gaussian of known variance, 1 for the exponential. Means are martingales, so with C as in `linear_noise`
  e_t = sum_j C_tj^2 (1 + c e_j) / n_j, e_0 = 0. Replace: t/n (c = 0), 1 - (1 - 1/n)^t (c = -1), (1 + 1/n)^t - 1 (c = 1).

  Args:
    weights: [T, T] as for `linear_noise`, not redrawn.
    num_samples: items of a batch: a number, or [T] for batch j = 0..T-1.
    curvature: c.
  Returns:
    [T], dimensionless.
  """
  check("num_samples", num_samples, 1)
  shares = noise_shares(np.asarray(weights, float)) ** 2 / np.broadcast_to(np.asarray(num_samples, float), len(weights))
  error = np.zeros(len(shares) + 1)
  for t in range(len(shares)):
    error[t + 1] = shares[t, : t + 1] @ (1 + curvature * error[: t + 1])
  return error[1:]


def noise_shares(weights: np.ndarray) -> np.ndarray:
  """C [T, T]: share of batch j's own noise in model t, C_t = w_t + sum_{j>=1} w_tj C_j."""
  feedback = np.pad(weights[:, 1:], ((0, 0), (0, 1)))  # [t - 1, j - 1]: weight of the batch of model j
  return linalg.solve_triangular(np.eye(len(weights)) - feedback, weights, lower=True, unit_diagonal=True)
