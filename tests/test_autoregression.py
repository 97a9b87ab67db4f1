"""Laws of mixtures, ends and whole numbers against plain NumPy simulations; a wrong one fails the same test.

Those of memory and of columns stand beside simulations in `systems.traffic`.
"""

import numpy as np
from helpers import z_score
from scipy import stats

from collapse_jax import theory


def test_published_memory():
  """[.5 and .9, with an intercept, L = 100], simulated: .475 .381 .281 and .860 .718 .564 at t = 1, 5, 10."""
  for start, simulated in ((0.5, (0.475, 0.381, 0.281)), (0.9, (0.860, 0.718, 0.564))):
    law = theory.autoregression_loop([start], 100, 10, intercept=True)[[0, 4, 9], 0]
    np.testing.assert_allclose(law, simulated, atol=0.013)
  pooled = theory.autoregression_loop([0.5], 100, 5, pooled=True)
  np.testing.assert_allclose(pooled[:, 0], 0.5 * (1 - 0.02 * np.cumsum(1 / np.arange(1, 6) ** 2)), atol=2e-4)


def test_mixtures():
  """Components that lie apart: shares drift as Wright and Fisher say, and the rare one shrinks faster."""
  random, n, share, T = np.random.default_rng(2), 100, 0.1, 10
  p, seen = np.full(40_000, share), []
  for _ in range(T):
    p = random.binomial(n, p) / n
    seen.append(2 * p * (1 - p))
  seen = np.stack(seen, axis=1)
  law = theory.mixture_heterozygosity(share, n, T)
  assert (
    np.abs(z_score(seen, law)).max() < 5 < np.abs(z_score(seen, theory.mixture_heterozygosity(share, n - 30, T))).max()
  )
  num = random.binomial(n, share, size=400_000)
  num = num[num > 0]
  shrunk = random.chisquare(np.maximum(num - 1, 1e-9)) / num
  factor = theory.component_variance_factor(share, n)
  assert abs(z_score(shrunk, factor)) < 5 < abs(z_score(shrunk, 1 - 1 / (n * share)))


def test_ends_of_a_range():
  """Rows drawn until they lie inside: a loop that contracts without sampling error, .204 .185 .161 .146 .134."""
  law = theory.truncated_normal_loop(0.3, 0.25, 20)
  np.testing.assert_allclose(law.std[[0, 1, 4, 9, 19]], [0.204, 0.185, 0.161, 0.146, 0.134], atol=6e-4)
  random = np.random.default_rng(3)
  for mean, std, at in ((0.3, 0.25, 0), (law.mean[0], law.std[0], 1)):
    rows = mean + std * random.normal(size=400_000)
    rows = rows[(rows >= 0) & (rows <= 1)]
    assert abs(z_score(rows, law.mean[at])) < 5 and abs(z_score((rows - law.mean[at]) ** 2, law.std[at] ** 2)) < 5
    assert abs(z_score(rows, mean)) > 5 and abs(z_score((rows - mean) ** 2, std**2)) > 5
  for mean in (-3.0, 0.5, 4.0):  # far outside too
    exact = stats.truncnorm(-mean / 0.5, (1 - mean) / 0.5, loc=mean, scale=0.5)
    near = theory.truncated_normal_loop(mean, 0.5, 1)
    np.testing.assert_allclose([near.mean[0], near.std[0]], [exact.mean(), exact.std()], rtol=1e-3)
  ranges = np.ones(40_000)
  seen = []
  for _ in range(4):
    ranges = ranges * np.ptp(random.uniform(size=(len(ranges), 8)), axis=1)
    seen.append(ranges)
  seen = np.stack(seen, axis=1)
  assert np.abs(z_score(seen, theory.range_replace(8, 4))).max() < 5
  assert np.abs(z_score(seen, (7 / 8) ** np.arange(1, 5))).max() > 5


def test_whole_numbers():
  """int() of log-normal sizes loses a tenth of their mean a generation; rounded to the nearest they hold."""
  np.testing.assert_allclose(
    theory.integer_sizes_loop(1.5, 0.8, 5), [6.2, 5.6, 5.2, 4.7, 4.1, 3.5], atol=0.11
  )  # as published
  random, n = np.random.default_rng(4), 400_000
  for rounding, twin in (("truncate", "nearest"), ("nearest", "truncate"), ("random", "truncate")):
    sizes = np.exp(1.5 + 0.8 * random.normal(size=n))
    whole = np.floor(sizes + {"truncate": 0, "nearest": 0.5, "random": random.uniform(size=n)}[rounding])
    logs = np.log(np.maximum(whole, 1))
    log_mean, variance = logs.mean(), logs.var()
    away = (logs - log_mean) + ((logs - log_mean) ** 2 - variance) / 2  # influence on log of the mean size
    error = np.exp(log_mean + variance / 2) * away.std() / np.sqrt(n)
    z = [
      (np.exp(log_mean + variance / 2) - theory.integer_sizes_loop(1.5, 0.8, 1, rounding=r)[1]) / error
      for r in (rounding, twin)
    ]
    assert abs(z[0]) < 5 < abs(z[1]), rounding
