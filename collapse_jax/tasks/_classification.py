"""Linear classification of two Gaussian classes by labels that a generator makes (Feng et al. 2406.07515)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.random import normal, split
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks.parts import check_integer, check_positive, known, matmul
from collapse_jax.types import Array, Context, MetricInfo, TaskSetting

METRICS = {
  "accuracy": MetricInfo("accuracy on real data", worse="lower", measures="risk"),
  "angle_to_truth": MetricInfo("angle between the model and the best direction", "radians", worse="higher"),
}


class ClassificationProblem(NamedTuple):
  """The best direction is the first axis. label_error []: share of wrong labels among real rows and, if noisy, samples."""

  label_error: Any


@citing("2406.07515")
def classification(
  dim: int,
  num_samples: int,
  separation=1.0,
  *,
  inputs: str = "mixture",
  label_error=0.0,
  labels: str = "model",
  generator=None,
  reference=None,
  classifier: str = "mean",
  ridge=1e-3,
) -> TaskSetting:
  """A direction in `dim` dimensions; rows are {"x": [n, dim], "label": [n], "truth": [n]}, labels -1.0 or 1.0.

  `fit` never looks at the truth, which is there for verifiers and their probes. Accuracies are exact, without test rows.

  Args:
    dim: of the inputs.
    num_samples: rows per batch.
    separation: distance of either class from 0, in standard deviations; may be traced.
    inputs: "mixture": x = truth * separation * e_1 + N(0, I); "gaussian": x ~ N(0, I), truth = sign(x_1).
    label_error: share of wrong labels in the real batch, in [0, 1]; may be traced.
    labels: of samples: "model": the sign of the model's score; "noisy": wrong with probability label_error, whatever the
      model (the one-round setting of the paper, whose generator is not the model that is trained).
    generator: [dim] direction that labels the real batch instead; None: the truth, but for label_error.
    reference: [dim] another direction, such as a verifier's, the angle to which is the metric `angle_to_reference`.
    classifier: "mean": the mean of label * x; "ridge": regularised least squares of the labels.
    ridge: penalty of the latter, relative to the number of rows; may be traced.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.classification(dim=2, num_samples=10)
  >>> print(*task.metrics)
  accuracy angle_to_truth
  """
  _check(dim, num_samples, separation, inputs, label_error, labels, classifier, ridge)
  for name, value in (("generator", generator), ("reference", reference)):
    if value is not None and np.shape(value) != (dim,):
      raise Refused(f"{name} must be a direction of {dim} numbers, got shape {np.shape(value)}.", argument=name)

  def draw(key, num):
    truth_key, x_key = split(key)
    x = normal(x_key, (num, dim))
    if inputs == "gaussian":
      return x, jnp.where(x[:, 0] < 0, -1.0, 1.0)
    truth = jnp.where(jax.random.bernoulli(truth_key, 0.5, (num,)), 1.0, -1.0)
    return x.at[:, 0].add(separation * truth), truth

  def rows_of(key, problem, num, direction=None):
    """Labelled by a direction, or by the truth with errors."""
    draw_key, error_key = split(key)
    x, truth = draw(draw_key, num)
    if direction is None:
      label = jnp.where(jax.random.uniform(error_key, (num,)) < problem.label_error, -truth, truth)
    else:
      label = jnp.where(matmul(x, direction) < 0, -1.0, 1.0)
    return batch({"x": x, "label": label, "truth": truth})

  def fresh(key, problem):
    return rows_of(key, problem, num_samples, None if generator is None else jnp.asarray(generator, float))

  def init(key):
    problem = ClassificationProblem(jnp.asarray(label_error, float))
    return problem, fresh(key, problem)

  def fit(key, problem, context: Context) -> Array:
    rows, weight = storage.flat(context.data)
    count = jnp.sum(weight)
    mean = matmul(weight * rows["label"], rows["x"]) / count
    if classifier == "mean":
      return mean
    second = matmul(rows["x"].T * weight[None], rows["x"]) / count
    return jnp.linalg.solve(second + ridge * jnp.eye(dim), mean)

  def sample(key, problem, params, context: Context):
    return rows_of(key, problem, context.num, params if labels == "model" else None), {}

  def evaluate(key, problem, params):
    cosine = params[0] / jnp.maximum(jnp.linalg.norm(params), 1e-30)
    angle = jnp.arctan2(jnp.linalg.norm(params[1:]), params[0])
    accuracy = jax.scipy.special.ndtr(separation * cosine) if inputs == "mixture" else 1 - angle / jnp.pi
    metrics = {"accuracy": accuracy, "angle_to_truth": angle}
    if reference is not None:
      other = jnp.asarray(reference, float)
      # Half the angle by the lengths of sum and difference, which keeps small angles that a cosine loses.
      a, b = params / jnp.linalg.norm(params), other / jnp.linalg.norm(other)
      metrics["angle_to_reference"] = 2 * jnp.arctan2(jnp.linalg.norm(a - b), jnp.linalg.norm(a + b))
    return metrics

  about = METRICS | (
    {} if reference is None else {"angle_to_reference": MetricInfo("angle to the reference direction", "radians")}
  )
  return TaskSetting(init, fit, sample, evaluate, num_samples, fresh=fresh, metrics=about)


def _check(dim, num_samples, separation, inputs, label_error, labels, classifier, ridge):
  check_integer("dim", dim, 2)
  check_integer("num_samples", num_samples, 2)
  check_positive("separation", separation)
  check_positive("ridge", ridge)
  if known(label_error) and not 0 <= label_error <= 1:
    raise Refused.must_be("label_error", "from 0 to 1", label_error)
  for name, value, allowed in (
    ("inputs", inputs, ("mixture", "gaussian")),
    ("labels", labels, ("model", "noisy")),
    ("classifier", classifier, ("mean", "ridge")),
  ):
    if value not in allowed:
      raise Refused.must_be(name, " or ".join(allowed), value)
