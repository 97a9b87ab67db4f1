"""The loops that a good user would write with NumPy and scikit-learn: the reference that the product is timed against."""

import numpy as np
from sklearn.datasets import make_moons
from sklearn.neighbors import KernelDensity


def gaussian(workflow: str, dim: int, num_samples: int, num_generations: int, seed: int) -> dict[str, np.ndarray]:
  """One run: np.cov on the training rows, samples by a Cholesky factor; metrics as the product's."""
  rng = np.random.default_rng(seed)
  pool = [rng.standard_normal((num_samples, dim))]
  names = ("squared_error_of_mean", "covariance_trace_ratio", "covariance_log_det_ratio")
  metrics: dict[str, list[float]] = {name: [] for name in names}
  for _ in range(num_generations):
    rows = training_rows(rng, workflow, pool, num_samples)
    mean, covariance = rows.mean(axis=0), np.atleast_2d(np.cov(rows.T, bias=True))
    metrics["squared_error_of_mean"].append(mean @ mean)
    metrics["covariance_trace_ratio"].append(np.trace(covariance) / dim)
    metrics["covariance_log_det_ratio"].append(np.linalg.slogdet(covariance)[1])
    new = mean + rng.standard_normal((num_samples, dim)) @ np.linalg.cholesky(covariance).T
    pool = [new] if workflow == "replace" else [*pool, new]
  return {name: np.array(values) for name, values in metrics.items()}


def kde(workflow: str, bandwidth: float, num_samples: int, num_generations: int, seed: int) -> dict[str, np.ndarray]:
  """One run on moons: scikit-learn's KernelDensity, refitted on the training rows."""
  rng = np.random.default_rng(seed)
  pool = [make_moons(num_samples, noise=0.05, random_state=2 * seed)[0]]
  test = make_moons(500, noise=0.05, random_state=2 * seed + 1)[0]
  nll = []
  for t in range(num_generations):
    model = KernelDensity(bandwidth=bandwidth).fit(training_rows(rng, workflow, pool, num_samples))
    nll.append(-model.score_samples(test).mean())
    new = model.sample(num_samples, random_state=1_000_003 * seed + t)
    pool = [new] if workflow == "replace" else [*pool, new]
  return {"test_nll": np.array(nll)}


def linear_regression(
  workflow: str, dim: int, num_samples: int, num_generations: int, seed: int
) -> dict[str, np.ndarray]:
  """One run: np.linalg.lstsq on the training rows; every batch relabels the same covariates, noise variance 1."""
  rng = np.random.default_rng(seed)
  design, test, truth = (rng.standard_normal(shape) for shape in ((num_samples, dim), (1000, dim), dim))
  relabel = lambda w: np.column_stack([design, design @ w + rng.standard_normal(num_samples)])
  pool = [relabel(truth)]
  error = []
  for _ in range(num_generations):
    rows = training_rows(rng, workflow, pool, num_samples)
    w = np.linalg.lstsq(rows[:, :-1], rows[:, -1], rcond=None)[0]
    error.append(np.mean((test @ (w - truth)) ** 2))
    pool = [relabel(w)] if workflow == "replace" else [*pool, relabel(w)]
  return {"test_mse": np.array(error)}


def discrete(
  workflow: str, num_outcomes: int, num_samples: int, num_generations: int | None, seed: int
) -> dict[str, np.ndarray]:
  """One run: multinomial counts of all outcomes; without num_generations until one outcome is left."""
  rng = np.random.default_rng(seed)
  counts = rng.multinomial(num_samples, np.full(num_outcomes, 1 / num_outcomes))
  pool, heterozygosity, entropy = counts.copy(), [], []
  while num_generations is None or len(entropy) < num_generations:
    if workflow == "accumulate_subsample":
      p = rng.multivariate_hypergeometric(pool, num_samples) / num_samples
    else:
      p = pool / pool.sum()
    positive = p[p > 0]
    entropy.append(-(positive * np.log(positive)).sum())
    heterozygosity.append(1 - (positive**2).sum())
    if num_generations is None and entropy[-1] < 1e-8:
      break
    counts = rng.multinomial(num_samples, p)
    pool = counts if workflow == "replace" else pool + counts
  return {"entropy": np.array(entropy), "heterozygosity": np.array(heterozygosity)}


def surviving(num_outcomes: int, num_samples: int, seen_at: int, seed: int) -> dict[str, float]:
  """One run of `replace` until one outcome is left, over the outcomes that survive: its end, and the entropy of one generation."""
  rng = np.random.default_rng(seed)
  counts = rng.multinomial(num_samples, np.full(num_outcomes, 1 / num_outcomes))
  t, entropy = 0, 0.0
  while True:
    counts, t = counts[counts > 0], t + 1
    if t == seen_at:
      p = counts / num_samples
      entropy = -(p * np.log(p)).sum()
    if len(counts) == 1:
      return {"collapse_generation": t, "entropy": entropy}
    counts = rng.multinomial(num_samples, counts / num_samples)


def training_rows(rng, workflow: str, pool: list[np.ndarray], num_samples: int) -> np.ndarray:
  rows = pool[0] if len(pool) == 1 else np.concatenate(pool)
  return rng.permutation(rows)[:num_samples] if workflow == "accumulate_subsample" else rows
