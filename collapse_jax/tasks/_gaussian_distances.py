"""Distances of a fitted Gaussian to the truth, from its factor form (see `gaussian`)."""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import normal
from collapse_jax.tasks.parts import matmul
from collapse_jax.types import MetricInfo, Metrics

DISTANCE_METRICS = {
    "total_variation": MetricInfo("total variation distance to the truth", worse="higher", log_scale=True),
    "total_variation_error": MetricInfo("standard error of that distance, where it is a mean over points"),
    "kl_from_truth": MetricInfo("divergence of the model from the truth, KL(model || truth)", "nats", worse="higher",
                                log_scale=True),
}
NUM_POINTS = 2000  # at which the total variation is taken beyond one dimension
WASSERSTEIN_METRICS = {
    "wasserstein2_squared": MetricInfo("squared 2-Wasserstein distance to the truth", "data units squared",
                                       worse="higher", log_scale=True, measures="risk"),
}


def distances_to_standard(mean, factor, log_scale, log_det, rank) -> Metrics:
  """Of N(mean, covariance) to N(0, I), in whitened coordinates: both are invariant."""
  dim = mean.shape[0]
  trace = jnp.exp(2 * log_scale) * jnp.sum(factor ** 2)
  full = rank == dim
  divergence = jnp.where(full, 0.5 * (trace + jnp.sum(mean ** 2) - dim - log_det), jnp.inf)
  if dim == 1:
    return {"total_variation": jnp.where(full, _total_variation(mean[0], 0.5 * log_det), 1.0),
            "total_variation_error": jnp.zeros(()), "kl_from_truth": divergence}
  points = normal(jax.random.key(0), (NUM_POINTS, dim))
  factor = jnp.where(full, factor, jnp.eye(dim))
  white = jax.scipy.linalg.solve_triangular(factor, (points - mean[None]).T, lower=True) * jnp.exp(-log_scale)
  log_ratio = 0.5 * (jnp.sum(points ** 2, axis=1) - jnp.sum(white ** 2, axis=0) - log_det)
  missed = jnp.where(full, jnp.maximum(-jnp.expm1(log_ratio), 0.0), 1.0)
  return {"total_variation": jnp.mean(missed), "total_variation_error": jnp.std(missed) / np.sqrt(NUM_POINTS),
          "kl_from_truth": divergence}


def _total_variation(mean, log_std):
  """Between N(mean, std^2) and N(0, 1), by the two points where the densities cross."""
  log_std = jnp.where(jnp.abs(log_std) < 1e-6, 1e-6, log_std)
  std, gap = jnp.exp(log_std), -jnp.expm1(2 * log_std)
  # gap x^2 - 2 mean x + mean^2 + 2 std^2 log std = 0; the root that would cancel comes from the product of both.
  half = std * jnp.sqrt(mean ** 2 - 2 * gap * log_std)
  scaled = mean + jnp.where(mean < 0, -half, half)
  first, second = scaled / gap, (mean ** 2 + 2 * std ** 2 * log_std) / scaled
  below = jax.scipy.special.ndtr
  return jnp.abs(below(first) - below(second) - below((first - mean) / std) + below((second - mean) / std))


def bures_squared(scale, factor, log_scale, log_det, rank):
  """Covariance part of the squared 2-Wasserstein distance between Gaussians (Olkin and Pukelsheim 1982)."""
  spread = jnp.exp(log_scale)
  factor = spread * (scale * factor if jnp.ndim(scale) == 0 else matmul(scale, factor))
  true_trace = factor.shape[0] * scale ** 2 if jnp.ndim(scale) == 0 else jnp.sum(scale ** 2)
  cross = scale * factor if jnp.ndim(scale) == 0 else matmul(scale.T, factor)
  nuclear = jnp.sum(jnp.linalg.svd(cross, compute_uv=False))
  return jnp.maximum(true_trace + jnp.sum(factor ** 2) - 2 * nuclear, 0.0)
