"""Rewards for `transforms.curate`: functions rows -> [n] log-odds."""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import check_positive, matmul

__all__ = ["classifier", "near", "quadratic"]


def near(centre, scale: float = 2.0, limit: float = 8.0):
  """-min(|x - centre|, limit) / scale, of rows [n, dim] in data units (as in the toy experiments of Ferbach et al. 2407.09499).

  Args:
    centre: [dim], data units.
    scale: data units per unit of reward, above 0.
    limit: distance from which on the reward falls no further, above 0, data units.
  Returns:
    (rows [n, dim]) -> [n].
  Raises:
    ValueError: scale or limit not above 0, or (while tracing) a centre of another dimension than the rows.
  """
  check_positive("scale", scale)
  check_positive("limit", limit)

  def reward(rows):
    if np.shape(centre) != rows.shape[1:]:
      raise Refused(
        f"centre must have the shape of a row, {rows.shape[1:]}, got {np.shape(centre)}.",
        argument="centre",
        value=np.shape(centre),
      )
    distance = limit * jnp.sqrt(jnp.sum(((rows - jnp.asarray(centre, float)[None]) / limit) ** 2, axis=1))
    return jnp.maximum(-jnp.minimum(distance, limit) / scale, -np.finfo(np.float32).max)

  return reward


def quadratic(centre: float, width: float):
  """-(x - centre)^2 / (2 width^2), of the first coordinate of rows [n, dim].

  Args:
    centre: where it is largest, data units.
    width: data units, above 0.
  Returns:
    (rows [n, dim]) -> [n].
  """
  check_positive("width", width)
  # At least the smallest float: -inf would reject.
  return lambda rows: jnp.maximum(-0.5 * ((rows[:, 0] - centre) / width) ** 2, -np.finfo(np.float32).max)


def classifier(rows, labels):
  """Log probabilities (rows [n, dim]) -> [n, classes] by a multinomial logistic regression that is fitted here, once.

  Args:
    rows: [m, dim] real rows.
    labels: [m] integers from 0, of at least two classes.
  """
  from sklearn.linear_model import LogisticRegression

  model = LogisticRegression(max_iter=2000).fit(np.asarray(rows, np.float64), labels)
  slope, intercept = (np.asarray(x, np.float32) for x in (model.coef_.T, model.intercept_))
  if len(model.classes_) == 2:  # scikit-learn keeps the log-odds of the second class only
    slope, intercept = (np.concatenate([0 * x, x], axis=-1) for x in (slope, intercept))
  return lambda rows: jax.nn.log_softmax(
    matmul(rows, jnp.asarray(slope, float)) + jnp.asarray(intercept, float)[None], axis=1
  )
