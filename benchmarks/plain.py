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


def training_rows(rng, workflow: str, pool: list[np.ndarray], num_samples: int) -> np.ndarray:
  rows = pool[0] if len(pool) == 1 else np.concatenate(pool)
  return rng.permutation(rows)[:num_samples] if workflow == "accumulate_subsample" else rows
