"""Closed forms of self-consuming training in NumPy float64, one function per equation, for tests and plots.

Conventions: generation t = 1..T, and model 1 is fitted to n = num_samples real items only; trajectories are
arrays [T] for t = 1..T. Every equation is an expectation over all randomness of a run; "exact" means at any
num_samples, "first order" means the leading term in 1/n. Unless told otherwise fits divide by n (biased).
"Derived" marks what is derived here, not quoted from a paper; all is checked by simulation in the tests.

Papers: Kazdan et al. 2024, "Collapse or Thrive?" (2410.16713); Gerstgrasser et al. 2024 (2404.01413); Dey and
Donoho 2024, "Universality of the pi^2/6 pathway" (2410.22812); Bertrand et al. 2023 (2310.00429); Fu et al.
2024 (2402.11778).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import linalg, optimize, special, stats

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count
from collapse_jax.vocabulary import parse_call

ACCUMULATE_LIMIT = np.pi**2 / 6  # of n * squared error under accumulate, t -> inf, first order (2404.01413)
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


# -------------------------------------------------------------------------------- Gaussian: moments


def gaussian_moments(workflow: str, num_samples: int, num_generations: int, unbiased: bool = False) -> Moments | None:
  """Exact moments under a workflow given as its coordinate: "replace", "mix(0.2, fresh=True)", ...

  Args:
    workflow: the name, or a call with literal arguments.
    num_samples: n, real items and items per model, at least 2.
    num_generations: T.
    unbiased: fits divide by (number of items - 1).
  Returns:
    Moments, or None for names of no workflow; `schedule_moments` has those of any schedule.
  Raises:
    ValueError: `workflow` is neither a name nor a call with literal arguments, or these do not fit.
  """
  _check(num_samples, num_generations)
  n, T = num_samples, num_generations
  name, arguments, keywords = parse_call(workflow)
  fast = {
    "replace": gaussian_replace,
    "accumulate": gaussian_accumulate,
    "accumulate_subsample": gaussian_accumulate_subsample,
  }
  if name in fast and not arguments and not keywords:
    return fast[name](n, T, unbiased)
  given = dict(zip(("real_fraction", "fresh", "real_weight"), arguments)) | keywords
  if name == "mix" and "real_fraction" in given and given.keys() <= {"real_fraction", "fresh"}:
    return gaussian_mix(n, num_generations=T, unbiased=unbiased, **given)
  from collapse_jax.theory.schedules import schedule_moments, schedule_of

  schedule = schedule_of(workflow, n, T)
  return None if schedule is None else schedule_moments(schedule, unbiased=unbiased)


def gaussian_replace(num_samples: int, num_generations: int, unbiased: bool = False) -> Moments:
  """Moments under `replace`, exact: trace (1 - 1/n)^t, mean error 1 - (1 - 1/n)^t (Kazdan et al. 2024).

  With unbiased fits (derived) the expected trace stays 1 and the mean is a random walk: mean error t/n.
  """
  _check(num_samples, num_generations)
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
  """
  _check(num_samples, num_generations)
  t = _generations(num_generations)
  loss = (t > 1) / (t * (num_samples * t - 1)) if unbiased else 1 / (num_samples * t**2)
  trace_ratio = np.exp(np.cumsum(np.log1p(-loss)))
  variance_of_sampled_model = np.append(1, trace_ratio[:-1])
  return Moments(trace_ratio, np.cumsum(variance_of_sampled_model / (num_samples * t**2)))


def gaussian_accumulate_subsample(num_samples: int, num_generations: int, unbiased: bool = False) -> Moments:
  """Moments under `accumulate_subsample`, exact recursion (workflow of Kazdan et al. 2024; derived)."""
  return _accumulate_subsample(num_samples, num_generations, lambda t: 0.0, unbiased=unbiased)


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
  _check(num_samples, num_generations)
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
  """
  _check(num_samples)
  transition, drift, _, error_of_real = _mix_recursion(num_samples, real_fraction, fresh, unbiased)
  trace_ratio, distance = np.linalg.solve(np.eye(2) - transition, drift)
  return Moments(trace_ratio, distance + error_of_real)


def gaussian_limit(workflow: str, num_samples: int, unbiased: bool = False) -> Moments | None:
  """Limit t -> inf of `gaussian_moments`, scalars; None where no closed form is known.

  Exact, but for `accumulate_subsample`, which is first order and given from num_samples = 30 on.
  """
  _check(num_samples)
  n = num_samples
  name, arguments, keywords = parse_call(workflow)
  if name == "mix":
    mix_limit = lambda real_fraction, fresh=False, real_weight=None: (
      gaussian_mix_limit(n, real_fraction, fresh, unbiased) if real_weight is None else None
    )
    return mix_limit(*arguments, **keywords)
  if arguments or keywords:
    return None
  if name == "replace":
    return Moments(np.array(1.0), np.array(np.inf)) if unbiased else Moments(np.array(0.0), np.array(1.0))
  if name == "accumulate" and not unbiased:
    trace_ratio = gaussian_accumulate_trace_limit(n)
  elif name == "accumulate_subsample" and not unbiased and n >= 30:
    trace_ratio = 1 - SUBSAMPLE_LIMIT / n
  else:
    return None
  return Moments(np.array(trace_ratio), np.array(1 - trace_ratio))


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
  noise = _noise_shares(weights)
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
  _check(num_samples)
  return float(np.sinc(1 / np.sqrt(num_samples)))


# -------------------------------------------------------- Gaussian: determinant, standard deviation


def gaussian_replace_log_det(dim: int, num_samples: int, num_generations: int) -> tuple[np.ndarray, np.ndarray]:
  """Mean and variance over runs of log(det cov_t / det cov_0) under `replace`, nats, exact (derived).

  Each generation adds sum_{i<r} log chi2_{m-i} - r log n, independent over t, with r = min(d, n-1), m = n - 1
  (Bartlett). For d > n - 1 this is the log pseudo-determinant (product of the n - 1 positive eigenvalues) for
  the truth N(0, identity), and m = d in the first generation. The law at t = 1 holds for every workflow.

  Returns:
    mean [T], variance [T].
  """
  _check(num_samples, num_generations)
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
  """
  _check(num_samples, num_generations)
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
  """
  _check(num_samples, num_generations)
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
  _check(num_samples, num_generations)
  half = (num_samples - 1) / 2
  if half < 20:
    log_c4 = special.gammaln(half + 0.5) - special.gammaln(half) - np.log(half) / 2
  else:  # Stirling: the difference of the three would lose 1/n
    log_c4 = (-1 / 8 + (1 / 192 + (-1 / 640 + 17 / 14336 / half**2) / half**2) / half**2) / half
  return np.exp(log_c4 * _generations(num_generations))


# ---------------------------------------------------------------- first order: any smooth estimator


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
  return _noise_shares(weights) ** 2 @ batch_noise + subset_noise


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
  shares = _noise_shares(np.asarray(weights, float)) ** 2 / np.broadcast_to(
    np.asarray(num_samples, float), len(weights)
  )
  error = np.zeros(len(shares) + 1)
  for t in range(len(shares)):
    error[t + 1] = shares[t, : t + 1] @ (1 + curvature * error[: t + 1])
  return error[1:]


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
  if t < 2:
    raise Refused(f"t must be at least 2, got {t}: model 1 sees real data only.")
  error = lambda log_ratio: -mix_first_order(t, np.exp(log_ratio))
  return float(
    np.exp(optimize.minimize_scalar(error, bounds=(-1, np.log(t) + 1), method="bounded", options={"xatol": 1e-9}).x)
  )


# ---------------------------------------------------------------------------------------------- KDE


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
  _check(num_samples, num_generations)
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
  _check(num_samples)
  check("bandwidth", bandwidth, 0)
  return num_samples * bandwidth**2


# ------------------------------------------------------------------------------- other closed forms


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


# ------------------------------------------------------------------------------------- shared parts


def _accumulate_subsample(
  num_samples: int,
  num_generations: int,
  kernel_variance: Callable[[int], float],
  unbiased: bool = False,
  truth: float = 1.0,
) -> Moments:
  """Moments of the n training items, where model t emits items of variance trace_t + kernel_variance(t), and the truth's
  is `truth`.

  The pool of N = n t items has biased variance V and mean error M. Drawing n without replacement gives the
  fitted trace s V, s = N/(N-1) (1 - 1/n) or, unbiased, N/(N-1), and adds c V, c = (N-n)/(n (N-1)), to the
  mean error. The model's batch, of item variance Q, has its mean c V + Q/n from the pool's (expected square):
  M <- M + (c V + Q/n)/(t+1)^2, V <- [t V + (1 - 1/n) Q]/(t+1) + t/(t+1)^2 (c V + Q/n).
  """
  _check(num_samples, num_generations)
  n = num_samples
  pool_variance, pool_error = truth * (1 - 1 / n), truth / n
  moments = []
  for t in range(1, num_generations + 1):
    num_pool = n * t
    subset_variance = num_pool / (num_pool - 1) * (1 if unbiased else 1 - 1 / n) * pool_variance
    subset_error = (num_pool - n) / (n * (num_pool - 1)) * pool_variance
    moments.append((subset_variance, pool_error + subset_error))
    emitted = subset_variance + kernel_variance(t)
    batch_distance = subset_error + emitted / n
    pool_error += batch_distance / (t + 1) ** 2
    pool_variance = (t * pool_variance + (1 - 1 / n) * emitted) / (t + 1) + t / (t + 1) ** 2 * batch_distance
  return Moments(*np.transpose(moments))


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


def _noise_shares(weights: np.ndarray) -> np.ndarray:
  """C [T, T]: share of batch j's own noise in model t, C_t = w_t + sum_{j>=1} w_tj C_j."""
  feedback = np.pad(weights[:, 1:], ((0, 0), (0, 1)))  # [t - 1, j - 1]: weight of the batch of model j
  return linalg.solve_triangular(np.eye(len(weights)) - feedback, weights, lower=True, unit_diagonal=True)


def _symmetric_root(matrix) -> np.ndarray:
  eigenvalues, vectors = linalg.eigh(np.atleast_2d(np.asarray(matrix, float)))
  return (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T


def _generations(num_generations: int) -> np.ndarray:
  return np.arange(1.0, num_generations + 1)


def _check(num_samples: float, num_generations: int = 1) -> None:
  check("num_samples", num_samples, 2, open_most=True)
  check_count("num_generations", num_generations)
