"""Rewards for `transforms.curate`: functions rows -> [n] log-odds; and class shares of what is emitted."""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.tasks.parts import matmul
from collapse_jax.types import MetricInfo, TaskSetting


def near(centre, scale: float = 2.0, limit: float = 8.0):
  """-min(|x - centre|, limit) / scale, of rows [n, dim] in data units (as in the toy experiments of Ferbach et al. 2407.09499)."""
  def reward(rows):
    distance = jnp.sqrt(jnp.sum((rows - jnp.asarray(centre, float)[None]) ** 2, axis=1))
    return -jnp.minimum(distance, limit) / scale
  return reward


def quadratic(centre: float, width: float):
  """-(x - centre)^2 / (2 width^2), of the first coordinate of rows [n, dim]."""
  return lambda rows: -(rows[:, 0] - centre) ** 2 / (2 * width ** 2)


def classifier(rows, labels):
  """Log probabilities (rows [n, dim]) -> [n, classes] by a multinomial logistic regression that is fitted here, once.

  Args:
    rows: [m, dim] real rows.
    labels: [m] integers from 0.
  """
  from sklearn.linear_model import LogisticRegression
  model = LogisticRegression(max_iter=2000).fit(np.asarray(rows, np.float64), labels)
  slope, intercept = (np.asarray(x, np.float32) for x in (model.coef_.T, model.intercept_))
  return lambda rows: jax.nn.log_softmax(matmul(rows, jnp.asarray(slope, float)) + jnp.asarray(intercept, float)[None], axis=1)


def with_class_shares(task: TaskSetting, log_probability, num_classes: int) -> TaskSetting:
  """The task, with the shares of classes among the rows it emits: `class_share` and `largest_class_share`."""
  def sample(key, problem, params, context):
    data, metrics = task.sample(key, problem, params, context)
    found = jnp.argmax(log_probability(data.rows[0]), axis=1)
    shares = jnp.zeros(num_classes).at[found].add(1 / len(found))
    return data, metrics | {"class_share": shares, "largest_class_share": jnp.max(shares)}

  info = {"largest_class_share": MetricInfo("share of the commonest class among samples", worse="higher"),
          "class_share": MetricInfo("share of each class among samples", dims=("class_label",))}
  return task._replace(sample=sample, metrics={**task.metrics, **info})
