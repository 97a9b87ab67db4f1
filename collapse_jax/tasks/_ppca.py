"""Probabilistic principal components, fitted by maximum likelihood in closed form (Tipping and Bishop 1999).

The loop of the linear autoencoder that learns its noise: the trace of the covariance falls as a Gaussian's does, while the spectrum
polarises. Rows are N(mean, W W^T + sigma^2 I); the fit keeps the largest eigenvalues and the mean of the others.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import theory
from collapse_jax.random import chi_square, normal
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks.parts import (
  Moments,
  add_moments,
  check_draws,
  check_integer,
  known,
  matmul,
  moments,
  rows_unless_refused,
)
from collapse_jax.types import Array, Context, Data, Expected, MetricInfo, Summary, TaskSetting

METRICS = {
  "covariance_trace": MetricInfo(
    "trace of the fitted covariance", "data units squared", worse="lower", log_scale=True, measures="variance"
  ),
  "squared_error_of_mean": MetricInfo(
    "squared error of the fitted mean", "data units squared", worse="higher", log_scale=True, measures="risk"
  ),
  "leading_variance": MetricInfo("largest fitted variance", "data units squared", log_scale=True),
  "noise_variance": MetricInfo(
    "fitted variance of the directions that are not kept", "data units squared", worse="lower", log_scale=True
  ),
  "kept_variances": MetricInfo("fitted variances that are kept", "data units squared", dims=("component",)),
}


class PpcaModel(NamedTuple):
  """A fitted model.

  Attributes:
    mean: [dim].
    root: [dim, dim] symmetric root of the covariance.
    kept: [latent_dim] variances of the kept directions, largest first.
    noise: [] variance of the others.
  """

  mean: Any
  root: Any
  kept: Any
  noise: Any


def ppca(variances, num_samples, latent_dim: int, *, draws: str = "auto") -> TaskSetting:
  """Principal components with a fitted noise: the largest eigenvalues of the covariance, and the mean of the others.

  Args:
    variances: [dim] eigenvalues of the true covariance, data units squared; the true mean is 0, and rows lie along the axes.
    num_samples: rows per batch, at least 2; any traced number under draws="law".
    latent_dim: how many are kept, below dim.
    draws: "rows" draws every row; "law" a batch's mean and covariance from their exact law (Bartlett 1933); "auto" is "law" unless
      a workflow or transform needs rows.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.ppca([8.0, 4.0, 1.0, 1.0], num_samples=20, latent_dim=2)
  >>> print(*task.metrics)
  covariance_trace squared_error_of_mean leading_variance noise_variance kept_variances
  """
  true_variances = _checked(variances, num_samples, latent_dim, draws)
  dim, law = len(true_variances), draws != "rows"

  def fresh(key, variances) -> Data:
    return real_batch(key, variances, num_samples, law)

  def init(key):
    problem = jnp.asarray(true_variances, float)
    return problem, fresh(key, problem)

  def fit(key, problem, context: Context) -> PpcaModel:
    stats = context.data.summary
    values, vectors = jnp.linalg.eigh(stats.covariance)
    values = jnp.maximum(values[::-1], 0.0)
    kept, noise = values[:latent_dim], jnp.mean(values[latent_dim:])
    spread = jnp.sqrt(jnp.concatenate([kept, jnp.full(dim - latent_dim, noise)]))[::-1]
    return PpcaModel(stats.mean, matmul(vectors * spread[None], vectors.T), kept, noise)

  def sample(key, problem, params: PpcaModel, context: Context):
    if law:
      return summary_of(*drawn(key, params.mean, params.root, context.num), context.num), {}
    return batch(params.mean[None] + matmul(normal(key, (context.num, dim)), params.root)), {}

  def evaluate(key, problem, params: PpcaModel):
    return {
      "covariance_trace": jnp.sum(params.kept) + (dim - latent_dim) * params.noise,
      "squared_error_of_mean": jnp.sum(params.mean**2),
      "leading_variance": params.kept[0],
      "noise_variance": params.noise,
      "kept_variances": params.kept,
    }

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """The trace and the mean as of a Gaussian, whose trace the fit keeps; the spectrum to first order, where one batch tells it."""
    moments, limit = theory.schedule_moments(schedule), theory.schedule_moments(schedule, limit=True)
    total = float(np.sum(true_variances))
    while_light = theory.light_until(schedule, 0.1)
    up_to = while_light if while_light is None else max(while_light, 1)
    error = total * moments.mean_error
    spread = theory.schedule_trace_variance(schedule, dim)
    found = {
      "covariance_trace": Expected(
        total * moments.trace_ratio,
        None,
        theory.light_until(schedule, 0.2),
        total * limit.trace_ratio,
        None if spread is None else total**2 * spread,
      ),
      "squared_error_of_mean": Expected(error, None, up_to, total * limit.mean_error, 2 * error**2 / dim),
    }
    num = schedule.sizes[0]
    apart = true_variances[:latent_dim] - true_variances[1 : latent_dim + 1]
    if (apart > 3 * true_variances[:latent_dim] * np.sqrt(2 / num)).all():  # else they are told by their order only
      path = theory.ppca_replace(true_variances, latent_dim, num, len(schedule.sizes))
      lasts = schedule.alone and (schedule.sizes == num).all()
      first_only = np.where(np.arange(len(schedule.sizes)) < (len(schedule.sizes) if lasts else 1), 1.0, np.nan)
      found["leading_variance"] = Expected(path.leading[:, 0] * first_only, None, 0)
      found["noise_variance"] = Expected(path.noise * first_only, None, 0)
    return found

  make = functools.partial(ppca, variances, num_samples, latent_dim, draws="rows")
  return TaskSetting(
    init,
    fit,
    sample,
    evaluate,
    num_samples,
    Summary(moments_of, add_moments),
    fresh,
    rows_unless_refused(draws, make),
    METRICS,
    predict=predict,
  )


def moments_of(problem, rows: Array, row_weight: Array | None) -> Moments:
  """`Summary.of` rows [n, dim]."""
  return moments(rows, row_weight)


def real_batch(key: Array, variances: Array, num, law: bool) -> Data:
  """Rows of N(0, diag(variances)), or statistics of such: where it has rows, their moments are of the exact law too, so that runs
  are paired across workflows.

  Args:
    key: used once.
    variances: [dim].
    num: rows; any traced number for statistics.
    law: statistics alone.
  """
  law_key, rows_key = jax.random.split(key)
  dim = len(variances)
  mean, factor = drawn(law_key, jnp.zeros(dim), jnp.diag(jnp.sqrt(variances)), num)
  if law:
    return summary_of(mean, factor, num)
  rank = min(num - 1, dim)
  return batch(mean[None] + matmul(_centered_basis(rows_key, num, rank), factor[:rank]))


def drawn(key: Array, mean: Array, root: Array, num) -> tuple[Array, Array]:
  """Mean [dim] of num normal rows, and R [dim, dim] with R^T R their scatter; its rows beyond num - 1 are 0.

  Args:
    key: used once.
    mean, root: [dim] of the law, and [dim, dim] symmetric root of its covariance.
    num: rows, any traced number.
  """
  mean_key, chi_key, normal_key = jax.random.split(key, 3)
  dim, num = mean.shape[0], jnp.asarray(num, float)
  axis = jnp.arange(dim)
  degrees = num - 1 - axis
  above = jnp.where(axis[:, None] < axis[None], normal(normal_key, (dim, dim)), 0.0)
  white = above + jnp.diag(jnp.sqrt(chi_square(chi_key, jnp.maximum(degrees, 1.0))))
  factor = matmul(jnp.where((degrees > 0)[:, None], white, 0.0), root)
  return mean + matmul(root, normal(mean_key, (dim,))) / jnp.sqrt(jnp.maximum(num, 1.0)), factor


def summary_of(mean, factor, num) -> Data:
  """A batch of statistics alone, of what `drawn` gives."""
  count = jnp.asarray(num, float)
  return batch(summary=Moments(count, mean, matmul(factor.T, factor) / jnp.maximum(count, 1.0)), count=num)


def _centered_basis(key: Array, num: int, rank: int) -> Array:
  """[num, rank] uniform over orthonormal columns that sum to 0: Q of a QR with a positive diagonal, as other signs would not be."""
  drawn = normal(key, (num, rank))
  q, r = jnp.linalg.qr(drawn - jnp.mean(drawn, axis=0, keepdims=True))
  return q * jnp.where(jnp.diag(r) < 0, -1.0, 1.0)[None]


def _checked(variances, num_samples, latent_dim, draws) -> np.ndarray:
  """The variances, largest first."""
  found = np.asarray(variances, float)
  if found.ndim != 1 or len(found) < 2 or not (np.isfinite(found).all() and (found > 0).all()):
    raise Refused.must_be("variances", "two numbers or more, above 0", variances)
  check_draws(draws, num_samples)
  if draws == "rows":
    check_integer("num_samples", num_samples, 2)
  elif known(num_samples) and not np.isfinite(num_samples):
    raise Refused.must_be("num_samples", "finite", num_samples)
  check_integer("latent_dim", latent_dim, 1, len(found) - 1)
  return np.sort(found)[::-1]
