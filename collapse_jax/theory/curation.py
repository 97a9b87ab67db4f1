"""Curated self-consumption (Ferbach et al. 2407.09499)."""

import numpy as np
from scipy import integrate, stats


def curation_two_types(share: float, gap: float, num_candidates: int, num_generations: int, *, flip_share: float = 0.0,
                       synthetic_per_real: float = np.inf) -> np.ndarray:
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
  count = np.arange(num_candidates + 1)
  preferred = count / (count + (num_candidates - count) * np.exp(-gap))
  opposite = count / (count + (num_candidates - count) * np.exp(gap))
  chosen = (1 - flip_share) * preferred + flip_share * opposite
  synthetic = 1.0 if np.isinf(synthetic_per_real) else synthetic_per_real / (1 + synthetic_per_real)
  real, shares = share, []
  for _ in range(num_generations):
    share = (1 - synthetic) * real + synthetic * (stats.binom.pmf(count, num_candidates, share) @ chosen)
    shares.append(share)
  return np.array(shares)


def curation_two_types_limit(share: float, gap: float, synthetic_per_real: float) -> float:
  """Limit of `curation_two_types` for K = 2 with real data: the root in (0, 1) of L s p^2 + (1 - L s) p - p_0 = 0,
  s = tanh(gap/2), L = synthetic_per_real (derived)."""
  slope = synthetic_per_real * np.tanh(gap / 2)
  if slope == 0:
    return share
  return float((slope - 1 + np.sqrt((1 - slope) ** 2 + 4 * slope * share)) / (2 * slope))


def curation_factor(reward, probability, num_candidates: int) -> np.ndarray:
  """H(x) = E[K e^r(x) / (e^r(x) + sum_{i<K} e^r(X_i))], by which curation multiplies a law (Ferbach et al. 2024).

  1/(a + S) is the integral of exp(-(a + S) s) over s, so that the expectation over K - 1 rivals is a power; trapezoid rule
  in log s.

  Args:
    reward: [k] of the outcomes of a discrete law, or of the nodes of a quadrature.
    probability: [k], sums to 1.
    num_candidates: K, at least 1.
  Returns:
    [k], between 0 and K.
  """
  reward = np.asarray(reward, float) - np.max(reward)
  size = np.exp(reward)
  log_s = np.linspace(-30 - np.log(num_candidates), 6 - reward.min(), 6000)
  s = np.exp(log_s)
  rivals = np.exp(-np.outer(s, size)) @ np.asarray(probability, float)
  integrand = np.exp(-np.outer(size, s)) * (s * rivals ** (num_candidates - 1))[None]
  return num_candidates * size * integrate.trapezoid(integrand, log_s, axis=1)


def curation_gaussian(centre: float, width: float, num_candidates: float,
                      num_generations: int) -> tuple[np.ndarray, np.ndarray]:
  """Mean and variance of a Gaussian N(0, 1) refitted to curated samples, reward -(x - centre)^2 / (2 width^2), n -> inf.

  For K = inf each round multiplies the density by e^reward: precision 1 + t / width^2, mean centre (1 - 1 / precision).
  For finite K moments of the curated law, by Gauss-Hermite quadrature (derived).

  Args:
    centre, width: of the reward, data units.
    num_candidates: K, at least 1, or infinite.
    num_generations: T.
  Returns:
    means [T] and variances [T] after 1..T rounds.
  """
  if np.isinf(num_candidates):
    precision = 1 + np.arange(1, num_generations + 1) / width ** 2
    return centre * (1 - 1 / precision), 1 / precision
  nodes, weights = np.polynomial.hermite_e.hermegauss(120)
  weights = weights / weights.sum()
  mean, variance, moments = 0.0, 1.0, []
  for _ in range(num_generations):
    x = mean + np.sqrt(variance) * nodes
    curated = weights * curation_factor(-(x - centre) ** 2 / (2 * width ** 2), weights, int(num_candidates))
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
  """
  size, probability = np.exp(np.asarray(reward, float)), np.asarray(probability, float)
  variance = probability @ size ** 2 - (probability @ size) ** 2
  share = 1.0 if np.isinf(synthetic_per_real) else synthetic_per_real / (1 + synthetic_per_real) ** 3
  return float(share * (num_candidates - 1) / num_candidates * variance / size.max())


def curation_divergence_bound(num_candidates: int, synthetic_per_real: float) -> float:
  """Most that KL(model || data) can be with real data: -log(1 - (K-1) L), L = synthetic_per_real < 1/(K-1); else infinite
  (Ferbach et al. 2024)."""
  left = 1 - (num_candidates - 1) * synthetic_per_real
  return float(-np.log(left)) if left > 0 else np.inf
