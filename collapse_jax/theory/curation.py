"""Curated self-consumption (Ferbach et al. 2407.09499)."""

import numpy as np
from scipy import stats


def curation_two_types(share: float, gap: float, num_candidates: int, num_generations: int) -> np.ndarray:
  """Share of the preferred of two types when each item is chosen among K, n -> inf (Ferbach et al. 2024).

  p <- sum_k Binomial(k; K, p) k e^gap / (k e^gap + K - k): candidates are drawn from the last model, one
  is chosen with probability proportional to e^reward. For K = 2 this is p + p (1-p) tanh(gap/2).

  Args:
    share: share p of the preferred type in the real data.
    gap: reward of the preferred type minus that of the other.
    num_candidates: K, at least 1.
    num_generations: T.
  Returns:
    [T]: the share after 1..T rounds of curation, that is in the batches emitted by models 1..T.
  """
  count = np.arange(num_candidates + 1)
  chosen = count / (count + (num_candidates - count) * np.exp(-gap))
  shares = []
  for _ in range(num_generations):
    share = stats.binom.pmf(count, num_candidates, share) @ chosen
    shares.append(share)
  return np.array(shares)
