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

from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.random import normal, split
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks.parts import (
  MeanStats,
  add_labels,
  add_means,
  bartlett,
  check_draws,
  check_integer,
  check_positive,
  known,
  label_stats,
  matmul,
  rows_unless_refused,
  triangular,
)
from collapse_jax.types import Array, Context, Data, Expected, MetricInfo, Summary, TaskSetting

METRICS = {
  "test_mse": MetricInfo(
    "mean squared error on noise-free test targets",
    "label units squared",
    worse="higher",
    log_scale=True,
    measures="risk",
  )
}
NUM_TEST = 1000


class RegressionProblem(NamedTuple):
  """One run's truth.

  Attributes:
    coefficients: [dim] true w*, from N(0, I).
    test_factor: [dim, dim]; the mean squared error of w is |test_factor (w - w*)|^2.
    noise_std: [] of the labels.
    design: [num_samples, dim] covariates; None where they are drawn anew or only their law matters.
    basis: [num_samples, min(num_samples, dim)] orthonormal columns that span those of the design; None as above.
    inverse: [dim, num_samples] pseudo-inverse of the design; None as above.
    noise_factor: [dim, dim]: the estimate from one batch errs by noise_std * noise_factor z; None where covariates are drawn anew.
    seen: [dim] 1 for the num_samples coordinates that labels show; None as above.
  """

  coefficients: Any
  test_factor: Any
  noise_std: Any
  design: Any = None
  basis: Any = None
  inverse: Any = None
  noise_factor: Any = None
  seen: Any = None


class TriangularStats(NamedTuple):
  """Rows of many designs: the triangular factor [dim + 1, dim + 1] of covariates and label side by side."""

  count: Any
  factor: Any


@citing("2410.16713", "2404.01413")
def linear_regression(
  dim: int, num_samples: int, noise_var=1.0, *, covariates: str = "same", temperature=1.0, draws: str = "auto"
) -> TaskSetting:
  """Ordinary least squares, the solution of least norm where it is not unique.

  The truth is y = x w* + noise with w*, x ~ N(0, I); `test_mse` is taken on 1000 test rows without noise.

  Args:
    dim: dimension d; may exceed num_samples.
    num_samples: rows per batch, at least 2; any traced number under draws="law".
    noise_var: variance of the labels, in label units squared; may be traced.
    covariates: "same": every generation relabels the first one's covariates (as published); "fresh": draws new ones.
    temperature: factor of the variance with which models make labels; may be traced.
    draws: "law" draws the estimate of a batch from its exact law (covariates="same" only); "rows" draws labels; "auto" is
      "law" where that is possible and neither workflow nor transform needs rows.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.linear_regression(dim=2, num_samples=10)
  >>> print(*task.metrics)
  test_mse
  """
  _check(dim, num_samples, noise_var, covariates, temperature, draws)
  same = covariates == "same"
  law = same and draws != "rows"

  def init(key):
    truth_key, design_key, test_key, batch_key = split(key, 4)
    num_test = max(NUM_TEST, dim)
    problem = RegressionProblem(
      normal(truth_key, (dim,)),
      bartlett(test_key, dim, num_test) / np.sqrt(num_test),
      jnp.sqrt(jnp.asarray(noise_var, float)),
    )
    if same:
      law_key, basis_key = split(design_key)
      factor, noise_factor, seen = _estimate_law(law_key, dim, num_samples)
      problem = problem._replace(noise_factor=noise_factor, seen=seen)
    if same and not law:
      basis = _orthonormal(basis_key, num_samples, min(num_samples, dim))
      rank = basis.shape[1]
      problem = problem._replace(
        design=matmul(basis, factor[:rank] * seen[None]), basis=basis, inverse=matmul(noise_factor[:, :rank], basis.T)
      )
    return problem, draw(batch_key, problem, problem.coefficients, problem.noise_std, num_samples)

  def draw(key, problem, coefficients, noise_std, num) -> Data:
    law_key, rest_key = split(key)
    if law:
      estimate = problem.seen * coefficients + noise_std * matmul(problem.noise_factor, normal(law_key, (dim,)))
      return batch(summary=MeanStats(jnp.asarray(num_samples, float), estimate), count=num_samples)
    if (
      same
    ):  # the noise within the span of the design is that by which the law's estimate errs, so that both are paired
      noise, inside = normal(rest_key, (num_samples,)), normal(law_key, (dim,))[: problem.basis.shape[1]]
      noise = noise + matmul(problem.basis, inside - matmul(problem.basis.T, noise))
      labels = matmul(problem.design, coefficients) + noise_std * noise
      return batch({"index": jnp.arange(num_samples, dtype=jnp.int32), "label": labels})
    x = normal(law_key, (num, dim))
    return batch({"x": x, "label": matmul(x, coefficients) + noise_std * normal(rest_key, (num,))})

  def fresh(key, problem):
    return draw(key, problem, problem.coefficients, problem.noise_std, num_samples)

  def sample(key, problem, params, context: Context):
    unchanged = context.num is num_samples or (known(context.num) and known(num_samples) and context.num == num_samples)
    if same and not unchanged:
      raise Refused(
        "covariates='same' relabels num_samples rows; use covariates='fresh' with this workflow.",
        argument="covariates",
        value="same",
      )
    return draw(key, problem, params, problem.noise_std * jnp.sqrt(jnp.asarray(temperature, float)), context.num), {}

  def evaluate(key, problem, params):
    return {"test_mse": jnp.sum(matmul(problem.test_factor, params - problem.coefficients) ** 2)}

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """Estimates from batches that relabel one design pool as means of rows do."""
    if not same or abs(num_samples - dim) < 2 or schedule.redrawn or (schedule.sizes != num_samples).any():
      return {}
    unseen = max(dim - num_samples, 0)  # what no label shows
    first = theory.linear_regression_mse(np.ones((1, 1)), dim, num_samples, noise_var)[0] - unseen
    noise = first * theory.schedule_noise(schedule, temperature=temperature)
    limit = first * theory.schedule_noise(schedule, temperature=temperature, limit=True)
    heavy = num_samples < 2 * dim + 10 and dim < 2 * num_samples + 10  # inverse Wishart over designs
    least = 2 * noise**2 / min(dim, num_samples)
    return {"test_mse": Expected(noise + unseen, None, 0 if heavy else None, limit + unseen, least)}

  if law:
    summary, fit = Summary(_of_estimates, add_means), lambda key, problem, context: context.data.summary.mean
  elif same:
    summary, fit = Summary(label_stats, add_labels), _fit_labels
  else:
    summary, fit = Summary(_of_rows, _add_rows), _fit_rows
  make = functools.partial(linear_regression, dim, num_samples, noise_var, temperature=temperature, draws="rows")
  return TaskSetting(
    init,
    fit,
    sample,
    evaluate,
    num_samples,
    summary,
    fresh,
    rows_unless_refused(draws, make) if same else None,
    METRICS,
    predict=predict,
  )


# ----------------------------------------------------------------------------------- whole batches, one design
def _of_estimates(problem, rows, row_weight):
  raise Refused("draws='law' keeps no rows.", argument="draws", value="law")


def _estimate_law(key, dim, num_samples) -> tuple[Array, Array, Array]:
  """R [dim, dim] of a design, the factor [dim, dim] of an estimate's error for noise of variance 1, and the coordinates [dim] that
  labels show.

  A design of n normal rows is X = Q R with R from Bartlett's law; the error of least squares is R^-1 z. With fewer rows than
  dim, R is [n, n] and has dim degrees of freedom, and the span of the rows is a uniform subspace: by the rotation invariance
  of w* and of the test rows it may be the first n coordinates.
  """
  num = jnp.asarray(num_samples, float)
  seen = (jnp.arange(dim) < num).astype(float)
  both = seen[:, None] * seen[None]
  factor = bartlett(key, dim, jnp.maximum(num, dim)) * both + jnp.diag(1 - seen)
  return factor, solve_triangular(factor, jnp.eye(dim)) * both, seen


def _orthonormal(key, num: int, rank: int) -> Array:
  """[num, rank] uniform over matrices of orthonormal columns: Q of a QR with a positive diagonal, as other signs would not be."""
  q, r = jnp.linalg.qr(normal(key, (num, rank)))
  return q * jnp.where(jnp.diag(r) < 0, -1.0, 1.0)[None]


# ----------------------------------------------------------------------------------------- rows of one design
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
  check_draws(draws, None if covariates == "fresh" else num_samples)
  if covariates == "fresh":
    check_integer("num_samples", num_samples, 2)
  check_positive("noise_var", noise_var)
  check_positive("temperature", temperature)
  if covariates not in ("same", "fresh"):
    raise Refused.must_be("covariates", "'same' or 'fresh'", covariates)
  if draws == "law" and covariates == "fresh":
    raise Refused(
      "draws='law' needs covariates='same': with fresh ones the pooled estimate is no average.",
      argument="draws",
      value="law",
    )
