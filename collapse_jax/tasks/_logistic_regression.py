"""Logistic regression on fixed covariates, its labels made anew by each model (Dey and Donoho 2410.22812).

Their "discard" is `replace`, their "augment" `accumulate` with the covariates kept. What matters of a batch is the sum of
labels of each covariate row. A fit is unpenalised; where labels are separable it has no finite maximum, and then Newton's
method ends with margins so wide that the labels never change again: risk and coefficients are infinite then, as recorded in
`finite`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.data import real_data
from collapse_jax.random import split
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks.parts import LabelStats, add_labels, check_integer, check_positive, known, label_stats, matmul
from collapse_jax.types import Array, Context, Expected, MetricInfo, Summary, TaskSetting
from collapse_jax.vocabulary import LABELS_OF_LOGISTIC

METRICS = {
  "excess_risk": MetricInfo(
    "divergence from the truth on test covariates", "nats per row", worse="higher", log_scale=True, measures="risk"
  ),
  "test_loss": MetricInfo("cross entropy on test rows", "nats per row", worse="higher"),
  "squared_error_of_coefficients": MetricInfo("squared error of the coefficients", worse="higher", log_scale=True),
  "separated": MetricInfo("the training labels are separable: 1 or 0"),
}
MAX_STEPS = 60


class LogisticProblem(NamedTuple):
  """One run's split and the truth.

  Attributes:
    design: [num_samples, dim] covariates, the first of them 1.
    test: [num_test, dim].
    test_label: [num_test] labels, or their probabilities under the truth.
    coefficients: [dim] of the truth.
    label: [num_samples] real labels; None where generation 1 draws them from the truth.
  """

  design: Any
  test: Any
  test_label: Any
  coefficients: Any
  label: Any


@citing("2410.22812")
def logistic_regression(
  dataset,
  num_samples: int | None = None,
  *,
  num_features: int | None = 1,
  labels: str = "model",
  coefficients=None,
  temperature=1.0,
) -> TaskSetting:
  """Unpenalised maximum likelihood, intercept included; each run trains on its own random num_samples of the rows.

  Args:
    dataset: "breast_cancer", "wine" (classes 0, 1), "digits" (3, 8), a path to a CSV whose last column holds two values, or
      a pair (covariates [rows, columns], labels [rows] of 0 and 1). Columns are standardised.
    num_samples: training rows, at least 2; the others test. Default 70%.
    num_features: leading principal components that replace the columns; None: the columns as they are.
    labels: "model": those of generation 1 come from the truth; "data": they are the real ones.
    coefficients: [1 + features] of the truth, intercept first; default: the fit to all rows.
    temperature: divides the log-odds with which models make labels; may be traced.
  Raises:
    ValueError: data that cannot be used, labels that all rows' covariates separate, an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.logistic_regression("breast_cancer")
  >>> print(*task.metrics)
  excess_risk test_loss squared_error_of_coefficients separated
  """
  data = real_data.load_labelled(dataset, num_features)
  num_rows, dim = data.covariates.shape
  num_samples = num_rows - round(0.3 * num_rows) if num_samples is None else num_samples
  _check(data, num_samples, labels, coefficients, dim, temperature)
  truth = real_data.logistic_fit(data) if coefficients is None else np.asarray(coefficients, np.float64)
  covariates, real_label = data.covariates.astype(np.float32), data.labels.astype(np.float32)

  def init(key):
    split_key, label_key = split(key)
    order = jax.random.permutation(split_key, num_rows)
    train, test = order[:num_samples], order[num_samples:]
    w = jnp.asarray(truth, float)
    design, held_out = jnp.asarray(covariates, float)[train], jnp.asarray(covariates, float)[test]
    label = jnp.asarray(real_label, float)
    from_data = labels == "data"
    problem = LogisticProblem(
      design,
      held_out,
      label[test] if from_data else jax.nn.sigmoid(matmul(held_out, w)),
      w,
      label[train] if from_data else None,
    )
    real = rows_of(problem.label) if from_data else draw(label_key, problem, w, 1.0)
    return problem, real

  def rows_of(label):
    return batch({"index": jnp.arange(num_samples, dtype=jnp.int32), "label": label})

  def draw(key, problem, w, temperature):
    odds = matmul(problem.design, w) / temperature
    return rows_of((jax.random.uniform(key, (num_samples,)) < jax.nn.sigmoid(odds)).astype(float))

  def fit(key, problem, context: Context):
    stats = context.data.summary
    w = weighted_logistic_fit(problem.design, stats.label_sum, stats.times)
    return w, separates(problem.design, stats, w)

  def sample(key, problem, params, context: Context):
    if not (known(context.num) and context.num == num_samples):
      raise Refused("logistic_regression relabels num_samples rows and cannot emit other numbers of them.")
    return draw(key, problem, params[0], jnp.asarray(temperature, float)), {}

  def evaluate(key, problem, params):
    w, separated = params
    error = w - problem.coefficients
    odds = matmul(problem.test, w)
    risk = jnp.mean(bernoulli_divergence(matmul(problem.test, problem.coefficients), matmul(problem.test, error)))
    loss = jnp.mean(jax.nn.softplus(odds) - problem.test_label * odds)
    # Without a finite maximum all odds are infinite, whatever Newton's method ended with.
    limit = jnp.where(jnp.all(problem.test_label == (odds > 0)), 0.0, jnp.inf)
    apart = separated > 0
    return {
      "excess_risk": jnp.where(apart, jnp.inf, risk),
      "test_loss": jnp.where(apart, limit, loss),
      "squared_error_of_coefficients": jnp.where(apart, jnp.inf, jnp.sum(error**2)),
      "separated": separated,
    }

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """To first order in dim / num_samples, which with fewer rows is far off."""
    if labels != "model" or not (known(temperature) and temperature == 1) or num_samples < 100 * dim:
      return {}
    return {"excess_risk": Expected(dim / (2 * num_samples) * theory.schedule_noise(schedule), up_to=0)}

  fresh = None if labels == "data" else lambda key, problem: draw(key, problem, problem.coefficients, 1.0)
  return TaskSetting(
    init, fit, sample, evaluate, num_samples, Summary(label_stats, add_labels), fresh, metrics=METRICS, predict=predict
  )


def bernoulli_divergence(log_odds: Array, shift: Array) -> Array:
  """Divergence in nats from a coin of these log-odds to one of log_odds + shift, without cancellation for small shifts.

  It is K(shift) - K'(0) shift with K the generating function of the coin's cumulants.
  """
  # The rarer side counts, of which all terms are small.
  log_odds, shift = -jnp.abs(log_odds), jnp.where(log_odds > 0, -shift, shift)
  p = jax.nn.sigmoid(log_odds)
  variance, skew = p * (1 - p), 1 - 2 * p
  cumulants: list[Any] = [
    1.0,
    skew,
    1 - 6 * variance,
    skew * (1 - 12 * variance),
    1 - 30 * variance + 120 * variance**2,
  ]
  series = sum((c * shift**i / math.factorial(i) for i, c in enumerate(cumulants, 2)), jnp.zeros(()))
  whole = jax.nn.softplus(log_odds + shift) - jax.nn.softplus(log_odds) - p * shift
  return jnp.where(jnp.abs(shift) < 0.25, variance * series, whole)


def separates(design: Array, stats: LabelStats, w: Array) -> Array:
  """1.0 where every row in use has labels of one kind, on the right side of the plane w, else 0.0."""
  right = matmul(design, w) * (2 * stats.label_sum - stats.times) > 0
  pure = (stats.label_sum == 0) | (stats.label_sum == stats.times)
  return jnp.all((right & pure) | (stats.times == 0)).astype(float)


def weighted_logistic_fit(design: Array, label_sum: Array, times: Array) -> Array:
  """Coefficients [dim] that maximise the likelihood, by Newton's method from 0.

  It ends once a step changes no log-odds by more than 1e-4, after which the next would change them by the square of that; or,
  where they grow without bound, at a gap of 1e-12 nats per row.

  Args:
    design: [n, dim], scaled to order 1.
    label_sum: [n] sum of the 0/1 labels of each row.
    times: [n] labels of each row, at least 0.
  """
  dim = design.shape[1]
  share = 1 / jnp.maximum(jnp.sum(times), 1e-30)
  lengths = 0.5 ** jnp.arange(6.0)

  def loss(odds):
    return share * jnp.sum(label_sum * jax.nn.softplus(-odds) + (times - label_sum) * jax.nn.softplus(odds))

  def step(state):
    i, w, _, _ = state
    odds = matmul(design, w)
    up, down = jax.nn.sigmoid(odds), jax.nn.sigmoid(-odds)
    # Written so that nothing cancels where the margins are wide.
    gradient = share * matmul(design.T, label_sum * down - (times - label_sum) * up)
    curvature = matmul(design.T * (share * times * up * down)[None], design)
    size = jnp.maximum(jnp.trace(curvature), 1e-30)
    root = jnp.linalg.cholesky(curvature / size + 1e-6 * jnp.eye(dim))
    direction = cho_solve((root, True), gradient) / size
    change = matmul(design, direction)
    furthest = jnp.max(jnp.where(times > 0, jnp.abs(change), 0.0))
    losses = jax.vmap(lambda length: loss(odds + length * change))(lengths)
    # Near the maximum whole steps are right, and differences of losses are rounding.
    length = jnp.where(furthest < 0.1, 1.0, lengths[jnp.argmin(losses)])
    return i + 1, w + length * direction, 0.5 * jnp.sum(gradient * direction), furthest

  def unfinished(state):
    i, _, gap, furthest = state
    return (i < MAX_STEPS) & ((gap > 1e-9) | ((furthest > 1e-4) & (gap > 1e-12)))

  return jax.lax.while_loop(unfinished, step, (0, jnp.zeros(dim), jnp.inf, jnp.inf))[1]


def _check(data, num_samples, labels, coefficients, dim, temperature):
  check_integer("num_samples", num_samples, 2)
  if num_samples >= len(data.labels):
    raise Refused.must_be(
      "num_samples",
      f"at most {len(data.labels) - 1} for {data.name} ({len(data.labels)} rows, one at least held out)",
      num_samples,
    )
  if labels not in LABELS_OF_LOGISTIC:
    raise Refused.must_be("labels", "'model' or 'data'", labels)
  if coefficients is not None and (np.shape(coefficients) != (dim,) or not np.isfinite(coefficients).all()):
    raise Refused(
      f"coefficients must be {dim} finite numbers, the intercept first, got shape {np.shape(coefficients)}.",
      argument="coefficients",
    )
  check_positive("temperature", temperature)
