"""Artificial rows of which a share is unrealistic and labelled otherwise (an analogue of Alrashedy et al. 2311.00931)."""

import jax
import jax.numpy as jnp

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.random import normal, uniform
from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import check_integer, check_positive, known, matmul
from collapse_jax.types import Context, MetricInfo, TaskSetting

METRICS = {
  "accuracy": MetricInfo("accuracy on real rows", worse="lower", measures="risk"),
  "purity": MetricInfo("realistic share of the training rows"),
}


@citing("2311.00931")
def unrealistic(num_samples: int, unrealistic_share, distance, dim: int = 8) -> TaskSetting:
  """A linear classifier of rows that a fixed generator makes, part of which are unlike real ones.

  Rows are {"x": [n, dim], "label": [n] -1.0 or 1.0, "realistic": [n] 0.0 or 1.0}. Real ones are N(0, I) with the sign of the
  first coordinate as label. Unrealistic ones lie `distance` off in the second coordinate, with the opposite label. The generator
  does not learn, so that generations differ by their draws only; accuracies are exact, without test rows.

  Args:
    num_samples: rows per batch, at least 2.
    unrealistic_share: of the artificial rows, in [0, 1]; may be traced.
    distance: data units, above 0; may be traced.
    dim: at least 2.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.unrealistic(num_samples=10, unrealistic_share=0.5, distance=4.0)
  >>> print(*task.metrics)
  accuracy purity
  """
  check_integer("num_samples", num_samples, 2)
  check_integer("dim", dim, 2)
  check_positive("distance", distance)
  if known(unrealistic_share) and not 0 <= unrealistic_share <= 1:
    raise Refused.must_be("unrealistic_share", "from 0 to 1", unrealistic_share)

  def draw(key, num, share):
    row_key, which_key = jax.random.split(key)
    off = (uniform(which_key, num) < share).astype(float)
    x = normal(row_key, (num, dim))
    label = jnp.where(x[:, 0] < 0, -1.0, 1.0) * (1 - 2 * off)
    return storage.batch({"x": x.at[:, 1].add(distance * off), "label": label, "realistic": 1 - off})

  def fit(key, problem, context: Context):
    rows, weight = storage.flat(context.data)
    count = jnp.sum(weight)
    return matmul(weight * rows["label"], rows["x"]) / count, jnp.sum(weight * rows["realistic"]) / count

  def sample(key, problem, params, context: Context):
    return draw(key, context.num, unrealistic_share), {}

  def evaluate(key, problem, params):
    direction, purity = params
    angle = jnp.arctan2(jnp.linalg.norm(direction[1:]), direction[0])
    return {"accuracy": 1 - angle / jnp.pi, "purity": purity}

  return TaskSetting(
    lambda key: (None, draw(key, num_samples, 0.0)),
    fit,
    sample,
    evaluate,
    num_samples,
    fresh=lambda key, problem: draw(key, num_samples, 0.0),
    metrics=METRICS,
  )
