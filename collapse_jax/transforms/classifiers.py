"""A classifier that is trained on rows, and how its probabilities are judged."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from collapse_jax.random import new_key
from collapse_jax.tasks.parts import matmul
from collapse_jax.types import Array

__all__ = ["auc", "brier", "calibration_error", "coverage", "features", "fit_classifier", "nll", "predict", "scaling"]

NUM_WAVES = 64  # random Fourier features beside linear and quadratic ones
_RIDGE = 1e-3  # penalty of a coefficient's square, per row
_STEPS = 12


def scaling(rows: Array) -> tuple[Array, Array]:
  """Mean and standard deviation [dim] of rows [n, dim], which features are computed in."""
  return jnp.mean(rows, axis=0), jnp.maximum(jnp.std(rows, axis=0), 1e-6)


def features(rows: Array, scale: tuple[Array, Array]) -> Array:
  """[n, features]: constant, linear, products of two, and waves of random fixed directions (Rahimi and Recht 2007)."""
  x = (rows - scale[0][None]) / scale[1][None]
  num, dim = x.shape
  first, second = np.triu_indices(dim)
  direction_key, phase_key = jax.random.split(new_key(0))
  angle = matmul(x, 1.5 * jax.random.normal(direction_key, (dim, NUM_WAVES)))
  waves = jnp.sqrt(2 / NUM_WAVES) * jnp.cos(angle + jax.random.uniform(phase_key, (1, NUM_WAVES), maxval=2 * np.pi))
  return jnp.concatenate([jnp.ones((num, 1)), x, x[:, first] * x[:, second] / dim, waves], axis=1)


def fit_classifier(features: Array, label: Array, weight: Array) -> Array:
  """Coefficients [features] of a logistic regression with a small penalty on squares, by Newton's method.

  Args:
    features: [n, features].
    label: [n] of 0.0 and 1.0.
    weight: [n], at least 0; where all are 0 there is no classifier: NaN.
  """
  share = weight / jnp.sum(weight)
  lengths = 0.5 ** jnp.arange(4.0)

  def loss(w):
    odds = matmul(features, w)
    return jnp.sum(share * (jax.nn.softplus(odds) - label * odds)) + 0.5 * _RIDGE * jnp.sum(w**2)

  def step(_, w):
    p = jax.nn.sigmoid(matmul(features, w))
    gradient = matmul(features.T, share * (p - label)) + _RIDGE * w
    curvature = matmul(features.T * (share * p * (1 - p))[None], features) + _RIDGE * jnp.eye(len(w))
    direction = cho_solve((jnp.linalg.cholesky(curvature), True), gradient)
    losses = jax.vmap(lambda length: loss(w - length * direction))(lengths)
    near = (
      jnp.max(jnp.abs(matmul(features, direction))) < 0.1
    )  # then whole steps are right, and differences of losses are rounding
    return w - jnp.where(near, 1.0, lengths[jnp.argmin(losses)]) * direction

  return jax.lax.fori_loop(0, _STEPS, step, jnp.zeros(features.shape[1]))


def predict(coefficients: Array, features: Array) -> Array:
  """Probability [m] of label 1."""
  return jax.nn.sigmoid(matmul(features, coefficients))


def auc(score: Array, label: Array) -> Array:
  """Chance that a row of label 1 scores above one of label 0, ties counting half; NaN where a class is missing."""
  order = jnp.sort(score)
  rank = 0.5 * (jnp.searchsorted(order, score, side="left") + jnp.searchsorted(order, score, side="right") + 1)
  ones = jnp.sum(label)
  return (jnp.sum(label * rank) - 0.5 * ones * (ones + 1)) / (ones * (len(label) - ones))


def nll(probability: Array, label: Array) -> Array:
  """Mean cross entropy in nats; probabilities are clipped to 1e-7."""
  p = jnp.clip(probability, 1e-7, 1 - 1e-7)
  return -jnp.mean(label * jnp.log(p) + (1 - label) * jnp.log1p(-p))


def brier(probability: Array, label: Array) -> Array:
  """Mean squared error of probabilities."""
  return jnp.mean((probability - label) ** 2)


def calibration_error(probability: Array, label: Array, num_bins: int = 10) -> Array:
  """Expected calibration error: mean distance of probabilities and shares of label 1 over equal bins (Guo et al. 1706.04599).

  Args:
    probability: [m].
    label: [m] of 0.0 and 1.0.
    num_bins: of [0, 1].
  """
  which = jnp.clip(jnp.floor(probability * num_bins), 0, num_bins - 1).astype(int)
  return jnp.sum(jnp.abs(jnp.zeros(num_bins).at[which].add(probability - label))) / len(label)


def coverage(low: Array, high: Array, value: Array) -> Array:
  """Share of values within their intervals.

  Args:
    low, high: [n] ends of the intervals, which they belong to.
    value: [n].
  """
  return jnp.mean((low <= value) & (value <= high))
