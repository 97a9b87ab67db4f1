"""Linear regression by ordinary least squares, its labels made anew by each model (Kazdan et al. 2410.16713; 2404.01413).

With the same covariates in every generation a batch is its labels, and what matters of them is the least-squares estimate,
whose law is normal and exact: a generation then costs two products with a vector.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from collapse_jax.random import normal
from collapse_jax.store import batch
from collapse_jax.tasks.parts import MeanStats, add_means, check_draws, check_integer, check_positive, matmul, triangular
from collapse_jax.types import Array, Context, Data, MetricInfo, Summary, TaskSetting

METRICS = {"test_mse": MetricInfo("mean squared error on noise-free test targets", "label units squared", worse="higher",
                                  log_scale=True, measures="risk")}
NUM_TEST = 1000


class RegressionProblem(NamedTuple):
  """One run's truth.

  Attributes:
    coefficients: [dim] true w*, from N(0, I).
    test_factor: [dim, dim]; the mean squared error of w is |test_factor (w - w*)|^2.
    design: [num_samples, dim] covariates; None where they are drawn anew.
    inverse: [dim, num_samples] pseudo-inverse of the design; None as above.
    noise_factor: [dim, rank]; the estimate from one batch errs by noise_std * noise_factor z; None as above.
    noise_std: [] of the labels.
  """
  coefficients: Any
  test_factor: Any
  design: Any
  inverse: Any
  noise_factor: Any
  noise_std: Any


class LabelStats(NamedTuple):
  """Rows of one design: how often each occurs and the sum of its labels, both [num_samples]."""
  times: Any
  label_sum: Any


class TriangularStats(NamedTuple):
  """Rows of many designs: the triangular factor [dim + 1, dim + 1] of covariates and label side by side."""
  count: Any
  factor: Any


def linear_regression(dim: int, num_samples: int, noise_var=1.0, *, covariates: str = "same", temperature=1.0,
                      draws: str = "auto") -> TaskSetting:
  """Ordinary least squares, the solution of least norm where it is not unique.

  The truth is y = x w* + noise with w*, x ~ N(0, I); `test_mse` is taken on 1000 test rows without noise.

  Args:
    dim: dimension d; may exceed num_samples.
    num_samples: rows per batch, at least 2.
    noise_var: variance of the labels, in label units squared; may be traced.
    covariates: "same": every generation relabels the first one's covariates (as published); "fresh": draws new ones.
    temperature: factor of the variance with which models make labels; may be traced.
    draws: "law" draws the estimate of a batch from its exact law (covariates="same" only); "rows" draws labels; "auto" is
      "law" where that is possible and neither workflow nor transform needs rows.
  Raises:
    ValueError: an argument out of range.
  """
  _check(dim, num_samples, noise_var, covariates, temperature, draws)
  same = covariates == "same"
  law = same and draws != "rows"
  index = np.arange(num_samples, dtype=np.int32)

  def init(key):
    truth_key, design_key, test_key, batch_key = jax.random.split(key, 4)
    coefficients = normal(truth_key, (dim,))
    test_factor = jnp.linalg.qr(normal(test_key, (max(NUM_TEST, dim), dim)), mode="r") / np.sqrt(max(NUM_TEST, dim))
    design = inverse = noise_factor = None
    if same:
      design = normal(design_key, (num_samples, dim))
      inverse, noise_factor = _pseudo_inverse(design)
    noise_std = jnp.sqrt(jnp.asarray(noise_var, float))
    problem = RegressionProblem(coefficients, test_factor, design, inverse, noise_factor, noise_std)
    return problem, draw(batch_key, problem, coefficients, noise_std, num_samples)

  def draw(key, problem, coefficients, noise_std, num) -> Data:
    if law:
      seen = coefficients if num_samples >= dim else matmul(problem.inverse, matmul(problem.design, coefficients))
      noise = matmul(problem.noise_factor, normal(key, (problem.noise_factor.shape[1],)))
      return batch(summary=MeanStats(jnp.asarray(num_samples, float), seen + noise_std * noise), count=num_samples)
    design_key, label_key = jax.random.split(key)
    if same:
      labels = matmul(problem.design, coefficients) + noise_std * normal(label_key, (num_samples,))
      return batch({"index": index, "label": labels})
    x = normal(design_key, (num, dim))
    return batch({"x": x, "label": matmul(x, coefficients) + noise_std * normal(label_key, (num,))})

  def fresh(key, problem):
    return draw(key, problem, problem.coefficients, problem.noise_std, num_samples)

  def sample(key, problem, params, context: Context):
    if same and not (isinstance(context.num, int) and context.num == num_samples):
      raise ValueError("covariates='same' relabels num_samples rows; use covariates='fresh' with this workflow.")
    return draw(key, problem, params, problem.noise_std * jnp.sqrt(jnp.asarray(temperature, float)), context.num), {}

  def evaluate(problem, params):
    return {"test_mse": jnp.sum(matmul(problem.test_factor, params - problem.coefficients) ** 2)}

  if law:
    summary, fit = Summary(_of_estimates, add_means), lambda key, problem, context: context.data.summary.mean
  elif same:
    summary, fit = Summary(_of_labels, _add_labels), _fit_labels
  else:
    summary, fit = Summary(_of_rows, _add_rows), _fit_rows
  with_rows = functools.partial(linear_regression, dim, num_samples, noise_var, temperature=temperature, draws="rows")
  return TaskSetting(init, fit, sample, evaluate, num_samples, summary, fresh, law, METRICS,
                     with_rows if draws == "auto" and same else None)


# ----------------------------------------------------------------------------------- whole batches, one design
def _of_estimates(problem, rows, row_weight):
  raise ValueError("draws='law' keeps no rows.")


def _pseudo_inverse(design) -> tuple[Array, Array]:
  """Pseudo-inverse [dim, n] of a design of full rank, and a factor [dim, rank] of its product with its transpose."""
  n, dim = design.shape
  if n >= dim:
    q, r = jnp.linalg.qr(design)
    factor = solve_triangular(r, jnp.eye(dim))
    return matmul(factor, q.T), factor
  q, r = jnp.linalg.qr(design.T)
  factor = matmul(q, solve_triangular(r, jnp.eye(n)).T)
  return factor, factor


# ----------------------------------------------------------------------------------------- rows of one design
def _of_labels(problem, rows, row_weight):
  weight = jnp.ones(rows["label"].shape) if row_weight is None else row_weight
  none = jnp.zeros(problem.design.shape[0])
  return LabelStats(none.at[rows["index"]].add(weight), none.at[rows["index"]].add(weight * rows["label"]))


def _add_labels(problem, a, weight_a, b, weight_b):
  return LabelStats(weight_a * a.times + weight_b * b.times, weight_a * a.label_sum + weight_b * b.label_sum)


def _fit_labels(key, problem, context: Context):
  times, label_sum = context.data.summary
  label = label_sum / jnp.maximum(times, 1e-30)
  whole = matmul(problem.inverse, label)
  uneven = jnp.any(times != times[0])
  return _unless(uneven, whole, lambda: weighted_least_squares(problem.design, label, times))


def weighted_least_squares(design: Array, label: Array, times: Array) -> Array:
  """Weighted least squares, of least norm where fewer than dim rows have weight; rows in general position.

  By QR of the weighted rows, or of the transposed rows that have weight: neither squares the condition number, which has no
  bound where the number of rows comes near dim.

  Args:
    design: [n, dim].
    label: [n].
    times: [n] weights, at least 0.
  Returns:
    [dim].
  """
  n, dim = design.shape
  used = times > 0
  num_used = jnp.sum(used)
  if n < dim:
    return _least_norm(design, label, used)
  root = jnp.sqrt(times)[:, None]
  rows = jnp.concatenate([root * design, root * label[:, None]], axis=1)
  factor = triangular(rows)
  full = num_used >= dim
  square = jnp.where(full, factor[:dim, :dim], jnp.eye(dim))
  solution = solve_triangular(square, factor[:dim, dim])
  if n >= 6 * dim + 40:  # a redrawn subset has about 0.63 n distinct rows and more: dim of them are certain
    return solution
  return _unless(~full, solution, lambda: _least_norm(design, label, used))


def _least_norm(design, label, used):
  """Interpolates the labels of the rows in use, at most dim of them."""
  size = min(design.shape)
  order = jnp.argsort(~used, stable=True)[:size]
  chosen = used[order]
  q, r = jnp.linalg.qr(design[order].T)
  r = jnp.where(chosen[None] & chosen[:, None], r, jnp.eye(size))
  return matmul(q, solve_triangular(r.T, jnp.where(chosen, label[order], 0.0), lower=True) * chosen)


# ---------------------------------------------------------------------------------------- rows of many designs
def _of_rows(problem, rows, row_weight):
  both = jnp.concatenate([rows["x"], rows["label"][:, None]], axis=1)
  count = jnp.asarray(both.shape[0], float) if row_weight is None else jnp.sum(row_weight)
  return TriangularStats(count, triangular(both if row_weight is None else jnp.sqrt(row_weight)[:, None] * both))


def _add_rows(problem, a, weight_a, b, weight_b):
  both = jnp.concatenate([jnp.sqrt(weight_a) * a.factor, jnp.sqrt(weight_b) * b.factor])
  return TriangularStats(weight_a * a.count + weight_b * b.count, triangular(both))


def _fit_rows(key, problem, context: Context):
  count, factor = context.data.summary
  dim = factor.shape[0] - 1
  square, right = factor[:dim, :dim], factor[:dim, dim]
  short = count < dim
  solution = solve_triangular(jnp.where(short, jnp.eye(dim), square), right)
  return _unless(short, solution, lambda: matmul(jnp.linalg.pinv(square, rtol=1e-5), right))


def _unless(needed, usual: Array, other) -> Array:
  """`other()` where needed, else `usual`: a loop of at most one pass, skipped under vmap if no run needs it."""
  return jax.lax.while_loop(lambda state: state[0], lambda state: (jnp.zeros_like(needed), other()), (needed, usual))[1]


def _check(dim, num_samples, noise_var, covariates, temperature, draws):
  check_integer("dim", dim, 1)
  check_integer("num_samples", num_samples, 2)
  check_positive("noise_var", noise_var)
  check_positive("temperature", temperature)
  if covariates not in ("same", "fresh"):
    raise ValueError(f"covariates must be 'same' or 'fresh', got {covariates!r}.")
  check_draws(draws)
  if draws == "law" and covariates == "fresh":
    raise ValueError("draws='law' needs covariates='same': with fresh ones the pooled estimate is no average.")
