"""Curated self-consumption (Ferbach et al. 2407.09499)."""

import numpy as np
from scipy import special

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count

__all__ = [
  "curation_divergence_bound",
  "curation_factor",
  "curation_gain_bound",
  "curation_gaussian",
  "curation_two_types",
  "curation_two_types_limit",
]


def curation_two_types(
  share: float,
  gap: float,
  num_candidates: int,
  num_generations: int,
  *,
  flip_share: float = 0.0,
  synthetic_per_real: float = np.inf,
) -> np.ndarray:
  """Share of the preferred of two types when each item is chosen among K, n -> inf (Ferbach et al. 2024).

  p <- sum_k Binomial(k; K, p) k e^gap / (k e^gap + K - k): candidates are drawn from the last model, one
  is chosen with probability proportional to e^reward. For K = 2 this is p + p (1-p) tanh(gap/2).

  Args:
    share: share p of the preferred type in the real data.
    gap: reward of the preferred type minus that of the other.
    num_candidates: K, at least 1.
    num_generations: T.
    flip_share: share of choices by the opposite of the reward (Wei and Zhang 2505.09768).
    synthetic_per_real: curated items per real item that the next model is fitted to; infinite: no real data.
  Returns:
    [T]: the share after 1..T rounds of curation, that is in the data that models 2..T + 1 are fitted to.
  """
  from scipy import stats

  check("share", share, 0, 1)
  check("flip_share", flip_share, 0, 1)
  check("gap", gap)
  check("synthetic_per_real", synthetic_per_real, 0)
  check_count("num_candidates", num_candidates)
  check_count("num_generations", num_generations)
  count = np.arange(num_candidates + 1)
  odds = np.log(np.maximum(count, 1)) - np.log(np.maximum(num_candidates - count, 1))
  both = (count > 0) & (count < num_candidates)  # else there is no choice
  preferred, opposite = (np.where(both, special.expit(odds + sign * gap), count > 0) for sign in (1, -1))
  chosen = (1 - flip_share) * preferred + flip_share * opposite
  synthetic = 1.0 if np.isinf(synthetic_per_real) else synthetic_per_real / (1 + synthetic_per_real)
  real, shares = share, []
  for _ in range(num_generations):
    share = (1 - synthetic) * real + synthetic * (stats.binom.pmf(count, num_candidates, share) @ chosen)
    shares.append(share)
  return np.array(shares)


def curation_two_types_limit(share: float, gap: float, synthetic_per_real: float) -> float:
  """Limit of `curation_two_types` for K = 2 with real data: the root in (0, 1) of L s p^2 + (1 - L s) p - p_0 = 0,
  s = tanh(gap/2), L = synthetic_per_real (derived).

  Args:
    share: p_0, share of the preferred type in the real data.
    gap: reward of the preferred type minus that of the other.
    synthetic_per_real: L, curated items per real item; infinite: no real data.
  """
  check("share", share, 0, 1)
  check("gap", gap)
  check("synthetic_per_real", synthetic_per_real, 0)
  if gap == 0 or synthetic_per_real == 0 or share in (0, 1):
    return float(share)
  if np.isinf(synthetic_per_real):
    return float(gap > 0)
  slope = synthetic_per_real * np.tanh(gap / 2)
  root = np.sqrt((1 - slope) ** 2 + 4 * slope * share)  # either form, so that nothing cancels
  return float(2 * share / (1 - slope + root) if slope < 1 else (slope - 1 + root) / (2 * slope))


def curation_factor(reward, probability, num_candidates: float) -> np.ndarray:
  """H(x) = E[K e^r(x) / (e^r(x) + sum_{i<K} e^r(X_i))], by which curation multiplies a law (Ferbach et al. 2024).

  1/(a + S) is the integral of exp(-(a + S) s) over s, so that the expectation over K - 1 rivals is a power; trapezoid rule
  in log s. A reward of -inf is one below all others.

  Args:
    reward: [k] of the outcomes of a discrete law, or of the nodes of a quadrature.
    probability: [k], sums to 1.
    num_candidates: K, at least 1.
  Returns:
    [k], between 0 and K.
  """
  check_count("num_candidates", num_candidates)
  reward, probability = np.asarray(reward, float), np.asarray(probability, float)
  finite = np.isfinite(reward)
  if np.isnan(reward).any() or (reward == np.inf).any() or not finite.any():
    raise Refused("reward must be numbers, -inf for what is never chosen beside another, one of them finite.")
  reward = np.where(finite, reward, reward[finite].min() - 100) - reward[finite].max()
  if reward.min() < -2e5:
    raise Refused(f"reward must not spread over more than 2e5, got {-reward.min():g}.")
  step, total = 0.2, np.zeros(len(reward))  # the integrand is analytic within pi/2 of the axis, so that this is exact
  log_s = np.arange(-37 - np.log(num_candidates), 4 - reward.min(), step)
  for some in np.array_split(log_s, len(log_s) * len(reward) // 10**7 + 1):
    rate = np.exp(np.minimum(some + reward[:, None], 50.0))
    none_yet = np.exp(-rate)
    total += (rate * none_yet) @ (probability @ none_yet) ** (num_candidates - 1)
  return num_candidates * step * total


def curation_gaussian(
  centre: float, width: float, num_candidates: float, num_generations: int
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and variance of a Gaussian N(0, 1) refitted to curated samples, reward -(x - centre)^2 / (2 width^2), n -> inf.

  For K = inf each round multiplies the density by e^reward: precision 1 + t / width^2, mean centre (1 - 1 / precision).
  For finite K moments of the curated law, by the trapezoid rule (derived).

  Args:
    centre, width: of the reward, data units.
    num_candidates: K, at least 1, or infinite.
    num_generations: T.
  Returns:
    means [T] and variances [T] after 1..T rounds.
  """
  check("centre", centre)
  check("width", width, 0, open_least=True)
  check_count("num_generations", num_generations)
  check("num_candidates", num_candidates, 1)
  if np.isinf(num_candidates):
    precision = 1 + np.arange(1, num_generations + 1) / width**2
    return centre * (1 - 1 / precision), 1 / precision
  nodes = np.linspace(-9, 9, 721)
  weights = np.exp(-0.5 * nodes**2) / np.exp(-0.5 * nodes**2).sum()
  mean, variance, moments = 0.0, 1.0, []
  for _ in range(num_generations):
    x = mean + np.sqrt(variance) * nodes
    curated = weights * curation_factor(-((x - centre) ** 2) / (2 * width**2), weights, num_candidates)
    curated /= curated.sum()
    mean = curated @ x
    variance = curated @ (x - mean) ** 2
    moments.append((mean, variance))
  means, variances = np.transpose(moments)
  return means, variances


def curation_gain_bound(reward, probability, num_candidates: int, synthetic_per_real: float = np.inf) -> float:
  """Least gain of E[e^r] by one round: (K-1)/K Var(e^r) / max e^r (Ferbach et al. 2024).

  With real data, L = synthetic_per_real, `probability` is that of the data, and L / (1+L)^3 times the bound is the least gain
  over the data that any later model has.

  Args:
    reward: [types] r.
    probability: [types] of the model, or of the data; sums to 1.
    num_candidates: K, at least 1.
    synthetic_per_real: L, curated items per real item; infinite: no real data.
  Returns:
    in units of e^r.
  """
  check_count("num_candidates", num_candidates)
  check("synthetic_per_real", synthetic_per_real, 0)
  check("reward", reward)
  reward, probability = np.asarray(reward, float), np.asarray(probability, float)
  size = np.expm1(reward - reward.max())  # of e^r over its maximum, from 1: variances do not know of that
  variance = probability @ (size - probability @ size) ** 2
  share = 1.0 if np.isinf(synthetic_per_real) else synthetic_per_real / (1 + synthetic_per_real) ** 3
  bound = share * (num_candidates - 1) / num_candidates * variance
  with np.errstate(over="ignore"):
    return float(bound * np.exp(reward.max())) if bound > 0 else 0.0


def curation_divergence_bound(num_candidates: int, synthetic_per_real: float) -> float:
  """Most that KL(model || data) can be with real data: -log(1 - (K-1) L), L = synthetic_per_real < 1/(K-1); else infinite
  (Ferbach et al. 2024)."""
  check_count("num_candidates", num_candidates)
  check("synthetic_per_real", synthetic_per_real, 0)
  left = 1 - (num_candidates - 1) * synthetic_per_real if num_candidates > 1 else 1.0
  return float(-np.log(left)) if left > 0 else np.inf
