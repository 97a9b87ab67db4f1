"""Gaussians fitted by maximum likelihood, sampled and fitted again: moments, determinants, distances.

Papers: Kazdan et al. 2024, "Collapse or Thrive?" (2410.16713); Gerstgrasser et al. 2024 (2404.01413); Dey and Donoho 2024,
"Universality of the pi^2/6 pathway" (2410.22812); Bertrand et al. 2023 (2310.00429).
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg, special

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count, check_run
from collapse_jax.theory.weights import noise_shares

__all__ = [
  "SUBSAMPLE_LIMIT",
  "Moments",
  "gaussian_accumulate",
  "gaussian_accumulate_det",
  "gaussian_accumulate_subsample",
  "gaussian_accumulate_trace_limit",
  "gaussian_known_variance",
  "gaussian_mix",
  "gaussian_mix_limit",
  "gaussian_replace",
  "gaussian_replace_det",
  "gaussian_replace_log_det",
  "gaussian_replace_log_variance",
  "gaussian_schedule",
  "unbiased_std_replace",
  "wasserstein2_squared",
]

SUBSAMPLE_LIMIT = np.pi**2 / 2 - 2  # the same under accumulate_subsample (2410.22812)


class Moments(NamedTuple):
  """Expected moments of fitted Gaussians relative to the truth, for any dimension and any true covariance.

  Under biased fits the two sum to 1 at every t, in every workflow: in expected square a sampled item
  is as far from mean_0 as the items that its model was fitted to.
  The heterozygosity of the discrete model, E[1 - sum p^2] over the truth's, obeys the law of `trace_ratio`.

  Attributes:
    trace_ratio: E tr(cov_t) / tr(cov_0), [T], dimensionless.
    mean_error: E|mean_t - mean_0|^2 / tr(cov_0), [T], dimensionless.
  """

  trace_ratio: np.ndarray
  mean_error: np.ndarray


# --------------------------------------------------------------------------------------------- moments
def gaussian_replace(num_samples: int, num_generations: int, unbiased: bool = False) -> Moments:
  """Moments under `replace`, exact: trace (1 - 1/n)^t, mean error 1 - (1 - 1/n)^t (Kazdan et al. 2024).

  With unbiased fits (derived) the expected trace stays 1 and the mean is a random walk: mean error t/n.

  Args:
    num_samples: n, at least 2.
    num_generations: T.
    unbiased: fits divide by n - 1.
  """
  check_run(num_samples, num_generations)
  t = _generations(num_generations)
  if unbiased:
    return Moments(np.ones(num_generations), t / num_samples)
  log_trace = t * np.log1p(-1 / num_samples)
  return Moments(np.exp(log_trace), -np.expm1(log_trace))


def gaussian_accumulate(num_samples: int, num_generations: int, unbiased: bool = False) -> Moments:
  """Moments under `accumulate`, exact (Kazdan et al. 2024).

  Trace V_t = prod_{k<=t} (1 - 1/(n k^2)), mean error 1 - V_t. With unbiased fits (derived) V_t =
  prod_{2<=k<=t} (1 - 1/(k (n k - 1))). Either way batch t moves the mean by 1/(t+1) of its own error, so
  the mean error grows by V_t / (n (t+1)^2).

  Args:
    num_samples: n, at least 2.
    num_generations: T.
    unbiased: fits divide by (n t - 1).
  """
  check_run(num_samples, num_generations)
  t = _generations(num_generations)
  loss = (t > 1) / (t * (num_samples * t - 1)) if unbiased else 1 / (num_samples * t**2)
  trace_ratio = np.exp(np.cumsum(np.log1p(-loss)))
  variance_of_sampled_model = np.append(1, trace_ratio[:-1])
  return Moments(trace_ratio, np.cumsum(variance_of_sampled_model / (num_samples * t**2)))


def gaussian_accumulate_subsample(num_samples: int, num_generations: int, unbiased: bool = False) -> Moments:
  """Moments under `accumulate_subsample`, exact recursion (workflow of Kazdan et al. 2024; derived).

  The pool of N = n t items has biased variance V and mean error M. Drawing n without replacement gives the
  fitted trace S = s V, s = N/(N-1) (1 - 1/n) or, unbiased, N/(N-1), and adds c V, c = (N-n)/(n (N-1)), to the
  mean error. The model's batch has its mean c V + S/n from the pool's (expected square):
  M <- M + (c V + S/n)/(t+1)^2, V <- [t V + (1 - 1/n) S]/(t+1) + t/(t+1)^2 (c V + S/n).

  Args:
    num_samples: n, at least 2.
    num_generations: T.
    unbiased: fits divide by n - 1.
  """
  check_run(num_samples, num_generations)
  n = num_samples
  pool_variance, pool_error = 1 - 1 / n, 1 / n
  moments = []
  for t in range(1, num_generations + 1):
    num_pool = n * t
    subset_variance = num_pool / (num_pool - 1) * (1 if unbiased else 1 - 1 / n) * pool_variance
    subset_error = (num_pool - n) / (n * (num_pool - 1)) * pool_variance
    moments.append((subset_variance, pool_error + subset_error))
    batch_distance = subset_error + subset_variance / n
    pool_error += batch_distance / (t + 1) ** 2
    pool_variance = (t * pool_variance + (1 - 1 / n) * subset_variance) / (t + 1) + t / (t + 1) ** 2 * batch_distance
  return Moments(*np.transpose(moments))


def gaussian_mix(
  num_samples: int, real_fraction: float, num_generations: int, fresh: bool = False, unbiased: bool = False
) -> Moments:
  """Moments under `mix`, exact (workflow of Bertrand et al. 2023; derived).

  Trained on n real items and m = round(n (1-f)/f) of the last model. With real share a = n/(n+m), b = 1 - a,
  fitted trace S, and D the expected squared distance of the fitted mean from the mean of the real batch:
  D <- b^2 (D + S/m), S <- a (1 - 1/n) + b (1 - 1/m) S + a b (D + S/m), from D = 0, S = 1 - 1/n; the mean
  error is 1/n + D. If the real items are drawn anew each generation, D is the distance from the truth, hence
  the mean error itself, with a^2/n added to D and a b/n to S, from D = 1/n.

  Args:
    num_samples: n, at least 2.
    real_fraction: f, in (0, 1].
    num_generations: T.
    fresh: the real items are drawn anew each generation.
    unbiased: fits divide by (n + m - 1).
  Raises:
    ValueError: real_fraction outside (0, 1].
  """
  check_run(num_samples, num_generations)
  transition, drift, start, error_of_real = _mix_recursion(num_samples, real_fraction, fresh, unbiased)
  (a, b), (c, d) = transition.tolist()
  (e, f), (trace, distance) = drift.tolist(), start.tolist()
  states = [(trace, distance)]
  for _ in range(num_generations - 1):
    trace, distance = a * trace + b * distance + e, c * trace + d * distance + f
    states.append((trace, distance))
  trace_ratio, distances = np.transpose(states)
  return Moments(trace_ratio, distances + error_of_real)


def gaussian_mix_limit(num_samples: int, real_fraction: float, fresh: bool = False, unbiased: bool = False) -> Moments:
  """Limit t -> inf of `gaussian_mix`, exact; both fields are scalars.

  First order of the mean error, with L = (1-f)/f: (1 + 3L) / ((1 + 2L) n), or fresh: (1 + L) / ((1 + 2L) n).

  Args:
    num_samples, real_fraction, fresh, unbiased: as of `gaussian_mix`.
  """
  check_run(num_samples)
  transition, drift, _, error_of_real = _mix_recursion(num_samples, real_fraction, fresh, unbiased)
  trace_ratio, distance = np.linalg.solve(np.eye(2) - transition, drift)
  return Moments(trace_ratio, distance + error_of_real)


def gaussian_known_variance(error) -> np.ndarray:
  """E 1 / (1 + error z^2), z standard normal: how much of the spread of a model's rows about the truth is its variance (derived).

  For a Gaussian of known variance whose mean is a weighted sum of rows: (mean_t - mu)^2 is then error x variance x chi^2_1.
  With x = 1 / (2 error): sqrt(pi x) e^x erfc(sqrt x), at least 1 / (1 + error). It tends to 0 where the error grows without end, as
  t / n under `replace`, and stays above 1 - pi^2 / (6 n) under `accumulate`.

  Args:
    error: E (mean_t - mu)^2 / variance, at least 0, of any shape; may be infinite.
  """
  check("error", error, 0)
  with np.errstate(divide="ignore"):
    x = 0.5 / np.asarray(error, float)
  found = np.sqrt(np.pi * np.where(np.isfinite(x), x, 1.0)) * special.erfcx(np.sqrt(x))
  return np.where(np.isfinite(x), found, 1.0)


def gaussian_schedule(weights, num_samples) -> Moments:
  """Moments under any schedule of whole batches, exact (derived; biased weighted fits, not redrawn).

  Batch noises are uncorrelated, so with C[t, j] the share of batch j's noise in mean t (`linear_noise`):
  mean error = sum_j C[t, j]^2 V_j / n_j, where V_j is the expected trace of the model that batch j is drawn
  from, and the trace adds the weighted variances within batches, (1 - 1/n_j) V_j, and between their means.

  Args:
    weights: [T, T]; row t - 1 holds the share of batch j = 0..t-1 (0 = real) in generation t; rows sum to 1.
    num_samples: items in a batch: a number, or [T] for batch j = 0..T-1.
  """
  weights = np.asarray(weights, float)
  check("num_samples", num_samples, 1)
  num_generations = len(weights)
  num_samples = np.broadcast_to(np.asarray(num_samples, float), num_generations)
  noise = noise_shares(weights)
  batch_noise = np.eye(num_generations)  # [j, i]: share of batch i's noise in the mean of batch j
  batch_noise[1:] += noise[:-1]
  variance = np.ones(num_generations + 1)  # [j]: of the law that batch j is drawn from, model j
  for t in range(num_generations):
    distance = (batch_noise[: t + 1] - noise[t]) ** 2 @ (variance[:-1] / num_samples)
    within = (1 - 1 / num_samples[: t + 1]) * variance[: t + 1]
    variance[t + 1] = weights[t, : t + 1] @ (within + distance)
  return Moments(variance[1:], noise**2 @ (variance[:-1] / num_samples))


def gaussian_accumulate_trace_limit(num_samples: int) -> float:
  """Limit t -> inf of the trace ratio under `accumulate`: sin(pi/sqrt n) / (pi/sqrt n) (Kazdan et al.)."""
  check_run(num_samples)
  return float(np.sinc(1 / np.sqrt(num_samples)))


# --------------------------------------------------------------------- determinant, standard deviation, distance
def gaussian_replace_log_det(dim: int, num_samples: int, num_generations: int) -> tuple[np.ndarray, np.ndarray]:
  """Mean and variance over runs of log(det cov_t / det cov_0) under `replace`, nats, exact (derived).

  Each generation adds sum_{i<r} log chi2_{m-i} - r log n, independent over t, with r = min(d, n-1), m = n - 1
  (Bartlett). For d > n - 1 this is the log pseudo-determinant (product of the n - 1 positive eigenvalues) for
  the truth N(0, identity), and m = d in the first generation. The law at t = 1 holds for every workflow.

  Args:
    dim: d, at least 1.
    num_samples: n, at least 2.
    num_generations: T.
  Returns:
    mean [T], variance [T].
  """
  check_run(num_samples, num_generations)
  check_count("dim", dim)
  order = np.arange(int(min(dim, num_samples - 1)))
  later, first = num_samples - 1 - order, max(dim, num_samples - 1) - order
  mean, variance = (
    function(later) * np.arange(num_generations)[:, None] + function(first)[None]
    for function in (
      lambda degrees: np.atleast_1d(_mean_log_chi2(degrees, num_samples).sum()),
      lambda degrees: np.atleast_1d(special.polygamma(1, degrees / 2).sum()),
    )
  )
  return mean[:, 0], variance[:, 0]


def _mean_log_chi2(degrees, num) -> np.ndarray:
  """E log(chi2_k / n) for degrees k, without the difference of two large logs."""
  degrees = np.asarray(degrees, float)
  half = degrees / 2
  beyond = np.where(half < 1e4, special.digamma(half) - np.log(half), -1 / (2 * half) - 1 / (12 * half**2))
  return beyond + np.log1p((degrees - num) / num)


def gaussian_replace_log_variance(num_samples: int, num_generations: int) -> np.ndarray:
  """E log(var_t / var_0) in 1-D under `replace`, nats: t [psi((n-1)/2) + log(2/n)] (Kazdan et al. 2024)."""
  return gaussian_replace_log_det(1, num_samples, num_generations)[0]


def gaussian_replace_det(dim: int, num_samples: int, num_generations: int) -> np.ndarray:
  """E det cov_t / det cov_0 under `replace`: [prod_{i=1..d} (n - i)/n]^t, 0 where d >= n (derived).

  Heavy-tailed: at n=10, d=1, t=20 the mean is 0.122 and the median 0.013. Compare simulations in logs.

  Args:
    dim: d, at least 1.
    num_samples: n, at least 2.
    num_generations: T.
  Returns:
    [T], dimensionless.
  """
  check_run(num_samples, num_generations)
  check_count("dim", dim)
  if dim >= num_samples:
    return np.zeros(num_generations)
  return np.exp(np.sum(np.log1p(-np.arange(1.0, dim + 1) / num_samples)) * _generations(num_generations))


def gaussian_accumulate_det(dim: int, num_samples: int, num_generations: int) -> np.ndarray:
  """E det cov_t / det cov_0 under `accumulate`, exact, 0 where d >= n (derived; no published form known).

  With N = n t pooled items and cov = F F^T, the next fit is F G F^T / (N+n), G = N I + W + N/(N+n) z z^T,
  W ~ Wishart_d(n-1, I), z ~ N(0, I). A k x k minor of the random part has expected determinant
  (n-1)! / (n-k)! (n - k/(t+1)), hence E det G = sum_k C(d, k) N^(d-k) times that: over (N+n)^d, a mean over a binomial k,
  d draws of probability 1/(t+1), of prod_{i<k} (1 - i/n) (1 - k/(n (t+1))). N = 0 gives generation 1.

  Args:
    dim: d, at least 1.
    num_samples: n, at least 2.
    num_generations: T.
  Returns:
    [T], dimensionless.
  """
  from scipy import stats

  check_run(num_samples, num_generations)
  check_count("dim", dim)
  if dim >= num_samples:
    return np.zeros(num_generations)
  n, t, k = num_samples, np.arange(num_generations)[:, None], np.arange(dim + 1)
  falling = np.cumsum(np.append([0.0, 0.0], np.log1p(-np.arange(1.0, dim) / n)))[: dim + 1]
  log_minor = falling + np.log1p(-k / (n * (t + 1)))
  loss = np.sum(stats.binom.pmf(k, dim, 1 / (t + 1)) * np.expm1(log_minor), axis=1)
  return np.exp(np.cumsum(np.log1p(loss)))


def unbiased_std_replace(num_samples: int, num_generations: int) -> np.ndarray:
  """E std_t / std_0 in 1-D under `replace` with unbiased variance: c4(n)^t (derived).

  c4(n) = sqrt(2/(n-1)) Gamma(n/2) / Gamma((n-1)/2).
  """
  check_run(num_samples, num_generations)
  half = (num_samples - 1) / 2
  if half < 20:
    log_c4 = special.gammaln(half + 0.5) - special.gammaln(half) - np.log(half) / 2
  else:  # Stirling: the difference of the three would lose 1/n
    log_c4 = (-1 / 8 + (1 / 192 + (-1 / 640 + 17 / 14336 / half**2) / half**2) / half**2) / half
  return np.exp(log_c4 * _generations(num_generations))


def wasserstein2_squared(mean_a, cov_a, mean_b, cov_b) -> float:
  """Squared 2-Wasserstein distance of two Gaussians, in data units squared; covariances may be singular.

  |mean_a - mean_b|^2 + tr cov_a + tr cov_b - 2 tr (cov_a^(1/2) cov_b cov_a^(1/2))^(1/2) (Dowson and Landau
  1982), of which the part of the covariances is the smallest |cov_b^(1/2) Q - cov_a^(1/2)|^2 over orthogonal Q: Q = V U^T where
  cov_a^(1/2) cov_b^(1/2) = U S V^T.

  Args:
    mean_a, mean_b: [dim].
    cov_a, cov_b: [dim, dim], symmetric, positive semi-definite.
  """
  root_a, root_b = _symmetric_root(cov_a), _symmetric_root(cov_b)
  left, _, right = linalg.svd(root_a @ root_b)
  apart = root_b @ (left @ right).T - root_a
  return float(np.sum((np.asarray(mean_a) - mean_b) ** 2) + np.sum(apart**2))


# ---------------------------------------------------------------------------------------- shared parts
def _mix_recursion(num_samples: int, real_fraction: float, fresh: bool, unbiased: bool):
  """The parts of `gaussian_mix`: (S, D) <- transition (S, D) + drift, from start; mean error - D."""
  if not 0 < real_fraction <= 1:
    raise Refused(f"real_fraction must be above 0 and at most 1, got {real_fraction}.")
  emitted = num_samples * (1 - real_fraction) / real_fraction
  if not np.isfinite(emitted):
    raise Refused(f"real_fraction must be such that models emit a finite number of rows, got {real_fraction}.")
  num_all = num_samples + round(emitted)
  real = num_samples / num_all
  synthetic = 1 - real
  error_of_real = 1 / num_samples
  transition = np.array(
    [[synthetic - 1 / num_all + real / num_all, real * synthetic], [synthetic / num_all, synthetic**2]]
  )
  drift = np.array([real * (1 - error_of_real), 0.0])
  start = np.array([1 - error_of_real, 0.0])
  if fresh:
    drift += [real * synthetic * error_of_real, real**2 * error_of_real]
    start[1] = error_of_real
  if unbiased:
    transition[0] *= num_all / (num_all - 1)
    drift[0] *= num_all / (num_all - 1)
    start[0] = 1
  if synthetic == 0:
    transition[:] = 0  # every generation is fitted to real data only
  return transition, drift, start, 0.0 if fresh else error_of_real


def _symmetric_root(matrix) -> np.ndarray:
  eigenvalues, vectors = linalg.eigh(np.atleast_2d(np.asarray(matrix, float)))
  return (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T


def _generations(num_generations: int) -> np.ndarray:
  return np.arange(1.0, num_generations + 1)
