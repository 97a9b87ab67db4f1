"""Maximum-likelihood estimation of a multivariate Gaussian (Kazdan et al. 2410.16713; Shumailov et al. 2305.17493).

Everything is computed in whitened coordinates, in which the truth is N(0, I): the fit is affine equivariant, so
nothing is lost, and any truth gives the numbers of N(0, I). A batch is told in the coordinates of the model that drew it,
where it looks like rows of N(0, I) however far the model has collapsed: factors multiply, so that neither singular fits nor
variances below the smallest float32 end in NaN, and what is close to the model is held as its difference from it, so that
10,000 generations of 1e12 rows do not drift by rounding.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.random import chi_squares, normal, split
from collapse_jax.refused import Refused
from collapse_jax.store import batch, first_rows
from collapse_jax.tasks._gaussian_distances import (
  DISTANCE_METRICS,
  WASSERSTEIN_METRICS,
  bures_squared,
  distances_to_standard,
)
from collapse_jax.tasks.parts import (
  check_draws,
  check_integer,
  check_positive,
  known,
  matmul,
  rows_unless_refused,
  triangular,
)
from collapse_jax.types import Array, Context, Data, Expected, MetricInfo, Metrics, Summary, TaskSetting

_MANY_ROWS = (
  2e5  # in a pool; with fewer, rounding is below a tenth of the standard error of 1e4 runs for 10,000 generations
)


class GaussianProblem(NamedTuple):
  """The truth: mean [dim] in data units; scale, a standard deviation [] or a lower Cholesky factor [dim, dim]."""

  mean: Any
  scale: Any


class GaussianModel(NamedTuple):
  """A fitted Gaussian, in whitened coordinates: its covariance is 4^exponent F F^T with F = factor + low.

  Attributes:
    mean: [dim].
    factor: [dim, dim] lower triangular, its columns from `rank` on are zero, its largest diagonal entry about 1.
    low: [dim, dim] what rounding left of the factor.
    exponent: [] int32.
    log_det: [] log pseudo-determinant of the covariance, exact under collapse where the factor's entries underflow; -inf
      where the rank is 0.
    rank: [] int32 rank of the covariance: smaller than dim where there are too few rows.
  """

  mean: Any
  factor: Any
  low: Any
  exponent: Any
  log_det: Any
  rank: Any

  @property
  def log_scale(self):
    """[]: the covariance is exp(2 log_scale) F F^T."""
    return self.exponent * math.log(2)


class GaussianStats(NamedTuple):
  """Count, mean and biased covariance of weighted rows, in the coordinates of `model`, whose own rows are N(0, I_r) there.

  I_r is the identity in the first r = model.rank dimensions. All rows of one run descend from its real batch, and lie in
  the hull of those that a later model was fitted to: nothing is outside those dimensions.

  Attributes:
    count: [] sum of weights.
    mean: [dim].
    excess: [dim, dim]: L = I_r + excess is lower triangular, L L^T the covariance, and L's columns from `rank` on are zero.
    rank: [] int32 rank of the covariance, from what was pooled, never from the numbers.
    model: the model.
  """

  count: Any
  mean: Any
  excess: Any
  rank: Any
  model: GaussianModel


class Drawn(NamedTuple):
  """Where a batch comes from: the model, and the statistics that it was fitted to."""

  pool: GaussianStats
  model: GaussianModel


METRICS = {
  "covariance_trace_ratio": MetricInfo(
    "trace of the fitted covariance / trace of the truth", worse="lower", log_scale=True, measures="variance"
  ),
  "squared_error_of_mean": MetricInfo(
    "squared error of the fitted mean", "data units squared", worse="higher", log_scale=True, measures="risk"
  ),
  "covariance_log_det_ratio": MetricInfo(
    "log (pseudo-)determinant ratio of fitted to true covariance", "nats", worse="lower", measures="variance"
  ),
  "marginal_mean": MetricInfo("fitted mean of the first coordinate", "data units"),
  "marginal_log_variance": MetricInfo("log fitted variance of the first coordinate", "nats"),
  "standard_mean": MetricInfo("fitted mean of the first coordinate where its truth is N(0, 1)"),
  "standard_log_variance": MetricInfo("log fitted variance of the first coordinate where its truth is N(0, 1)", "nats"),
}
WHITENED_METRICS = {
  "whitened_squared_error_of_mean": MetricInfo(
    "squared Mahalanobis error of the fitted mean", worse="higher", log_scale=True
  ),
  "whitened_trace_ratio": MetricInfo("trace of the whitened fitted covariance / dim", worse="lower", log_scale=True),
}


@citing("2410.16713", "2305.17493")
def gaussian(
  dim: int,
  num_samples,
  noise_var=1.0,
  *,
  mean=None,
  covariance=None,
  unbiased: bool = False,
  temperature=1.0,
  draws: str = "auto",
  max_samples: int | None = None,
  wasserstein2: bool = False,
  distances: bool = False,
) -> TaskSetting:
  """A Gaussian fitted by maximum likelihood to num_samples rows, sampled, and fitted again.

  Args:
    dim: dimension; may exceed num_samples, the fits are then singular.
    num_samples: rows per batch, at least 2; any traced number under draws="law".
    noise_var: the truth is N(mean, noise_var I); data units squared; may be traced.
    mean: [dim] true mean, default 0.
    covariance: [dim, dim] positive definite true covariance, instead of noise_var. Adds whitened metrics.
    unbiased: the fitted covariance divides by n - 1; default n, as published.
    temperature: factor of the covariance that samples are drawn with; 1 = the fitted model; may be traced.
    draws: "rows" draws every row; "law" draws a batch's mean and covariance from their exact law (Bartlett 1933), at
      a cost that does not depend on num_samples; "auto" is "law" unless a workflow or transform needs rows.
    max_samples: rows that a batch has room for where rows are drawn; num_samples may then be traced there too.
    wasserstein2: also evaluate the squared 2-Wasserstein distance to the truth (a singular value decomposition).
    distances: also evaluate the total variation distance to the truth (exact in one dimension, else a mean over 2000
      points of the truth, with its standard error) and KL(model || truth), infinite for singular models of dim > 1.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.gaussian(dim=2, num_samples=10)
  >>> print(*task.metrics)
  covariance_trace_ratio squared_error_of_mean covariance_log_det_ratio marginal_mean marginal_log_variance standard_mean
  standard_log_variance
  """
  _check(dim, num_samples, noise_var, mean, covariance, temperature, draws, max_samples)
  law = draws != "rows"
  used, room = (None, num_samples) if law or max_samples is None else (num_samples, max_samples)
  true_mean = np.zeros(dim, np.float32) if mean is None else np.asarray(mean, np.float32)

  def problem_of() -> GaussianProblem:
    if covariance is None:
      return GaussianProblem(jnp.asarray(true_mean), jnp.sqrt(jnp.asarray(noise_var, float)))
    return GaussianProblem(
      jnp.asarray(true_mean), jnp.asarray(np.linalg.cholesky(np.asarray(covariance, np.float64)), float)
    )

  def draw(key: Array, problem: GaussianProblem, model: GaussianModel, num) -> Data:
    """`num` rows of the model, or their statistics."""
    warmth = 0.0 if known(temperature) and temperature == 1 else 0.5 * jnp.log(jnp.asarray(temperature, float))
    if law:
      stats = _law(key, num, model)
      return batch(summary=stats._replace(mean=stats.mean * jnp.exp(warmth), excess=_widened(stats, warmth)), count=num)
    white = jnp.exp(warmth) * normal(key, (num, dim)) * (jnp.arange(dim) < model.rank)[None]
    rows = _to_data(problem, model.mean[None] + _power(model.exponent) * matmul(white, model.factor.T))
    return batch(rows, summary=_of_white(model, white, None), count=num, latent=white)

  def fresh(key, problem):
    """The real batch has the statistics of the exact law also where it has rows: runs are paired across workflows."""
    law_key, rows_key = split(key)
    stats = _law(law_key, num_samples, _truth(dim))
    rows = None if law else _to_data(problem, _rows_given(rows_key, stats, room, used))
    mask = None if used is None else first_rows(room, used)
    return batch(rows, mask, summary=stats, count=num_samples)

  def init(key):
    problem = problem_of()
    return problem, fresh(key, problem)

  def of(problem, rows, row_weight):
    return _statistics(_to_white(problem, rows), row_weight)

  def of_drawn(problem, drawn: Drawn, white, row_weight):
    return _of_white(drawn.model, white, row_weight)

  def spread(pool: GaussianStats):
    """Log of the model's standard deviation over that of the data."""
    return -0.5 * jnp.log1p(-1 / pool.count) if unbiased else 0.0

  def fit(key, problem, context: Context) -> GaussianModel:
    pool = context.data.summary
    return _fitted(pool._replace(excess=_widened(pool, spread(pool))))

  def sample(key, problem, params: GaussianModel, context: Context):
    return draw(key, problem, params, context.num)._replace(draw=Drawn(context.data.summary, params)), {}

  def evaluate(key, problem, params: GaussianModel) -> Metrics:
    deviation = _scaled(problem, params.mean)
    first_std = problem.scale if covariance is None else problem.scale[0, 0]
    log_first = params.log_scale + _log(params.factor[0, 0], params.low[0, 0])
    metrics = {
      "squared_error_of_mean": jnp.sum(deviation**2),
      "covariance_trace_ratio": _trace_ratio(problem.scale, params),
      "covariance_log_det_ratio": params.log_det,
      "marginal_mean": problem.mean[0] + deviation[0],
      "marginal_log_variance": 2 * (jnp.log(first_std) + log_first),
      "standard_mean": params.mean[0],
      "standard_log_variance": 2 * log_first,
    }
    if covariance is not None:
      metrics["whitened_squared_error_of_mean"] = jnp.sum(params.mean**2)
      metrics["whitened_trace_ratio"] = _trace_ratio(jnp.ones(()), params)
    if wasserstein2:
      metrics["wasserstein2_squared"] = jnp.sum(deviation**2) + bures_squared(problem.scale, *covariance_of(params))
    if distances:
      metrics |= distances_to_standard(key, params.mean, *covariance_of(params))
    return metrics

  def extend(problem, total: GaussianStats, new: Data) -> GaussianStats:
    return _extend(total, spread(total), jax.tree.map(lambda x: x[0], new.summary))

  def move(problem, stats: GaussianStats, drawn: Drawn) -> GaussianStats:
    return _move(stats, drawn.pool, spread(drawn.pool), drawn.model)

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    how = {"unbiased": unbiased, "temperature": temperature}
    moments, limit = theory.schedule_moments(schedule, **how), theory.schedule_moments(schedule, **how, limit=True)
    log_det, spread_of_log_det = theory.schedule_log_det(schedule, dim, **how)
    log_det_limit = theory.schedule_log_det(schedule, dim, **how, limit=True)
    # Another truth than N(0, I) only adds to the spread of the trace; and given the past each step of the mean is Gaussian with
    # at most dim coordinates, to which a random variance only adds.
    spread = theory.schedule_trace_variance(schedule, dim, **how)
    trace = Expected(moments.trace_ratio, None, theory.light_until(schedule, 0.2), limit.trace_ratio, spread)
    while_light = theory.light_until(schedule, 0.1)

    def squared_error(true_trace):
      mean = true_trace * moments.mean_error
      up_to = while_light if while_light is None else max(while_light, 1)  # the first is a chi-squared
      return Expected(mean, None, up_to, true_trace * limit.mean_error, 2 * mean**2 / dim)

    found = {
      "squared_error_of_mean": squared_error(dim * noise_var if covariance is None else np.trace(covariance)),
      "covariance_trace_ratio": trace,
      "covariance_log_det_ratio": Expected(log_det, spread_of_log_det, None, log_det_limit),
    }
    if covariance is not None:
      found |= {"whitened_squared_error_of_mean": squared_error(dim), "whitened_trace_ratio": trace}
    return found

  metrics = METRICS | (WHITENED_METRICS if covariance is not None else {})
  metrics = metrics | (WASSERSTEIN_METRICS if wasserstein2 else {}) | (DISTANCE_METRICS if distances else {})
  make = functools.partial(
    gaussian,
    dim,
    num_samples,
    noise_var,
    mean=mean,
    covariance=covariance,
    unbiased=unbiased,
    temperature=temperature,
    draws="rows",
    max_samples=max_samples,
    wasserstein2=wasserstein2,
    distances=distances,
  )
  return TaskSetting(
    init,
    fit,
    sample,
    evaluate,
    room,
    Summary(of, _add, extend=extend, of_drawn=of_drawn, move=move),
    fresh,
    rows_unless_refused(draws, make),
    metrics,
    predict=predict,
    used=used,
  )


def covariance_of(params: GaussianModel) -> tuple[Any, ...]:
  """What `_gaussian_distances` take of a model."""
  return params.factor, params.log_scale, params.log_det, params.rank, params.low


def moments(problem: GaussianProblem, params: GaussianModel) -> tuple[Array, Array]:
  """Mean [dim] and covariance [dim, dim] of a fitted model, in data units."""
  factor = _scaled(problem, _power(params.exponent) * params.factor.T).T
  return problem.mean + _scaled(problem, params.mean), matmul(factor, factor.T)


# ------------------------------------------------------------------------------------------------- coordinates
def _scaled(problem, white):
  """Deviations from the true mean in data units, of rows [..., dim] in whitened coordinates."""
  return problem.scale * white if jnp.ndim(problem.scale) == 0 else matmul(white, problem.scale.T)


def _to_data(problem, white):
  return problem.mean[None] + _scaled(problem, white)


def _to_white(problem, rows):
  deviation = rows - problem.mean[None]
  if jnp.ndim(problem.scale) == 0:
    return deviation / problem.scale
  return jax.scipy.linalg.solve_triangular(problem.scale, deviation.T, lower=True).T


# ------------------------------------------------------------------------------------------------------- models
def _truth(dim) -> GaussianModel:
  return GaussianModel(
    jnp.zeros(dim),
    jnp.eye(dim),
    jnp.zeros((dim, dim)),
    jnp.zeros((), jnp.int32),
    jnp.zeros(()),
    jnp.asarray(dim, jnp.int32),
  )


@jax.jit
def _fitted(stats: GaussianStats) -> GaussianModel:
  """The model of the data: factors multiply, so nothing is ever subtracted, and what rounding takes is kept."""
  model, rank = stats.model, stats.rank
  mean = model.mean + _power(model.exponent) * matmul(model.factor, stats.mean)
  factor, low = _two_sum(model.factor, model.low + matmul(model.factor, stats.excess))
  factor, low = _leading_columns(factor, rank), _leading_columns(low, rank)
  same_rank = lambda: model.log_det + 2 * _log_diagonal(stats.excess, rank)
  lower_rank = lambda: 2 * rank * model.log_scale + _log_pseudo_det(factor, rank)
  log_det = same_rank() if factor.shape[0] == 1 else jax.lax.cond(rank == model.rank, same_rank, lower_rank)
  # That of a product of triangles is the product of theirs: known before the factor, it is scaled in the same pass.
  diagonal = jnp.diag(model.factor) * (1 + jnp.diag(stats.excess))
  return _normalised(mean, factor, low, diagonal, model.exponent, log_det, rank)


def _normalised(mean, factor, low, diagonal, exponent, log_det, rank) -> GaussianModel:
  """The size of the factor, as its diagonal tells it, goes into the exponent, without rounding."""
  size = jnp.max(jnp.abs(jnp.where(jnp.arange(len(diagonal)) < rank, diagonal, 0.0)))
  shift = jnp.where(size > 0, jnp.round(jnp.log2(size)), 0.0).astype(jnp.int32)
  back = _power(-shift)
  return GaussianModel(mean, factor * back, low * back, exponent + shift, jnp.where(rank > 0, log_det, -jnp.inf), rank)


def _trace_ratio(scale, model: GaussianModel):
  """Trace of A M M^T A^T over that of A A^T, for A = scale [] or [dim, dim] and M the model's factor.

  Near 1 it is rounded once: with M = I + D it is 1 + (2 sum A o (A D) + sum (A D)^2) / sum A^2.
  """
  dim = model.mean.shape[0]
  change = (model.factor - jnp.eye(dim)) + model.low
  if jnp.ndim(scale):
    change = matmul(scale, change)
    along, true = jnp.sum(scale * change), jnp.sum(scale**2)
  else:
    along, true = jnp.trace(change), dim
  return _power(model.exponent) ** 2 * (1 + (2 * along + _sum_of_squares(change)) / true)


def _same(a: GaussianModel, b: GaussianModel):
  return functools.reduce(jnp.logical_and, jax.tree.leaves(jax.tree.map(lambda x, y: jnp.all(x == y), a, b)))


# ------------------------------------------------------------------------------------------------------- numbers
def _two_sum(a, b):
  """The rounded sum, and what rounding took (Knuth)."""
  total = a + b
  part = total - a
  return total, (a - (total - part)) + (b - part)


def _power(exponent):
  """2^exponent, exact; 0 where that is below the smallest normal number."""
  kind = jnp.finfo(jnp.result_type(float))
  integer = np.int64 if kind.bits == 64 else np.int32
  biased = jnp.clip(exponent.astype(integer) + (kind.maxexp - 1), 0, 2 * kind.maxexp - 2)
  return jax.lax.bitcast_convert_type(biased << kind.nmant, kind.dtype)


def _log(high, low):
  """log(high + low)."""
  near = jnp.abs(high - 1) < 0.5
  return jnp.where(near, jnp.log1p(jnp.where(near, (high - 1) + low, 0.0)), jnp.log(high))


def _sum_of_squares(matrix):
  """A matrix-vector product adds in the order that is fastest; a reduction on CPU goes one by one."""
  return jnp.sum(matmul(matrix**2, jnp.ones(matrix.shape[1])))


def _lower(rows):
  """Lower triangular L [dim, dim] with L L^T = rows^T rows, diagonal >= 0: a free sign would change later draws."""
  factor = triangular(rows).T
  return factor * jnp.where(jnp.diag(factor) < 0, -1.0, 1.0)[None]


def _leading(rank, dim):
  """I_r: the identity in the leading `rank` dimensions."""
  return jnp.diag((jnp.arange(dim) < rank).astype(float))


def _leading_columns(matrix, rank):
  return matrix * (jnp.arange(matrix.shape[1]) < rank)[None]


def _log_diagonal(excess, rank):
  """Sum of log(1 + excess) over the leading `rank` diagonal entries."""
  leading = jnp.arange(excess.shape[0]) < rank
  return jnp.sum(jnp.where(leading, jnp.log1p(jnp.where(leading, jnp.diag(excess), 0.0)), 0.0))


def _log_pseudo_det(factor, rank):
  """log det(factor^T factor) over the leading `rank` columns of a lower triangular factor."""
  identity = jnp.eye(factor.shape[0])
  own = lambda: 2 * _log_diagonal(jnp.abs(factor) - identity, rank)
  tall = lambda: 2 * _log_diagonal(jnp.abs(jnp.linalg.qr(factor, mode="r")) - identity, rank)
  return own() if factor.shape[0] == 1 else jax.lax.cond(rank == factor.shape[0], own, tall)


def _gram_excess(excess):
  """(I + D)(I + D)^T - I."""
  return excess + excess.T + matmul(excess, excess.T)


def _root_excess(root, gram_excess, identity, rank, rows):
  """D with (I + D)(I + D)^T = I + E, from a triangular root of I + E that is rounded at the size of I.

  For many `rows` [], where D is small, with one Newton step on what that root leaves of E: rounding, which is not symmetric
  about 1, would add up over generations.
  """

  def refined(excess):
    half = jnp.tril(jnp.ones_like(excess), -1) + 0.5 * jnp.eye(len(excess), dtype=excess.dtype)
    rest = half * (gram_excess - _gram_excess(excess))
    return excess + jnp.where(jnp.max(jnp.abs(gram_excess)) < 0.1, rest, 0.0)

  excess = jax.lax.cond(rows >= _MANY_ROWS, refined, lambda excess: excess, root - identity)
  leading = jnp.arange(identity.shape[0]) < rank
  return jnp.where(leading[None], jnp.where(identity > 0, _above_minus_one(excess), excess), -identity)


def _above_minus_one(excess):
  """A root's diagonal entry is above 0 wherever it belongs to the rank, by what a float resolves."""
  return jnp.where(excess > -1, excess, -1 + jnp.finfo(excess.dtype).epsneg)


# -------------------------------------------------------------------------------------------------- statistics
def _widened(stats: GaussianStats, log_factor):
  """The excess of factors that are exp(log_factor) as large."""
  if known(log_factor) and log_factor == 0:
    return stats.excess
  return stats.excess + jnp.expm1(log_factor) * (_leading(stats.model.rank, stats.mean.shape[0]) + stats.excess)


def _batch_rank(num, model_rank):
  return jnp.minimum(jnp.maximum(jnp.asarray(num, float) - 1, 0), model_rank).astype(jnp.int32)


def _moments_of(rows, row_weight):
  """Count, mean [dim], centred rows times the roots of their shares [n, dim], and how many of them have a weight."""
  weight = jnp.ones(rows.shape[0]) if row_weight is None else row_weight
  count = jnp.sum(weight)
  share = weight / jnp.maximum(count, 1e-30)
  mean = matmul(share, rows)
  return (
    count,
    mean,
    jnp.where(weight[:, None] > 0, jnp.sqrt(share)[:, None] * (rows - mean[None]), 0.0),
    jnp.sum(weight > 0),
  )


def _of_white(model: GaussianModel, white, row_weight) -> GaussianStats:
  """Statistics of rows [n, dim] in the model's coordinates."""
  count, mean, centred, num = _moments_of(white, row_weight)
  rank = _batch_rank(num, model.rank)
  return GaussianStats(
    count, mean, _leading_columns(_lower(centred), rank) - _leading(model.rank, len(mean)), rank, model
  )


@jax.jit
def _statistics(white, row_weight) -> GaussianStats:
  """Statistics of rows [n, dim] of which no model is known: their own."""
  dim = white.shape[1]
  count, mean, centred, num = _moments_of(white, row_weight)
  rank = _batch_rank(num, dim)
  size = jnp.max(jnp.abs(centred))
  exponent = jnp.where(size > 0, jnp.round(jnp.log2(size)), 0.0).astype(jnp.int32)
  factor = _leading_columns(_lower(centred * _power(-exponent)), rank)
  log_det = _log_pseudo_det(factor, rank) + 2 * rank * exponent * math.log(2)
  model = _normalised(mean, factor, jnp.zeros((dim, dim)), jnp.diag(factor), exponent, log_det, rank)
  return GaussianStats(count, jnp.zeros(dim), jnp.zeros((dim, dim)), rank, model)


def _add(problem, a: GaussianStats, weight_a, b: GaussianStats, weight_b) -> GaussianStats:
  """Pooled statistics (Chan, Golub and LeVeque 1979), in factor form.

  Rank: m rows in general position span m - 1 dimensions, those of two batches the sum and one more, but never more than the
  span of the model in whose coordinates both are told, in which both lie.
  """
  dim = a.mean.shape[0]
  count_a, count_b = weight_a * a.count, weight_b * b.count
  count = jnp.maximum(count_a + count_b, 1e-30)
  share_a, share_b = count_a / count, count_b / count
  uses_a, uses_b = share_a > 0, share_b > 0
  pick = lambda condition, x, y: jax.tree.map(lambda u, v: jnp.where(condition, u, v), x, y)
  one_model = ~(uses_a & uses_b) | _same(a.model, b.model)
  apart = _told_apart(a, b)
  a, b = pick(one_model, a, apart[0]), pick(one_model, b, apart[1])
  model = pick(uses_a, a.model, b.model)
  identity = _leading(model.rank, dim)
  excess_a, excess_b = jnp.where(uses_a, a.excess, 0.0), jnp.where(uses_b, b.excess, 0.0)
  shift = jnp.where(uses_a & uses_b, b.mean - a.mean, 0.0)
  rows = jnp.concatenate(
    [
      jnp.sqrt(share_a) * (identity + excess_a).T,
      jnp.sqrt(share_b) * (identity + excess_b).T,
      (jnp.sqrt(share_a * share_b) * shift)[None],
    ]
  )
  gram_excess = (
    share_a * _gram_excess(excess_a) + share_b * _gram_excess(excess_b) + share_a * share_b * jnp.outer(shift, shift)
  )
  rank = jnp.where(uses_a, jnp.where(uses_b, a.rank + b.rank + 1, a.rank), b.rank)
  rank = jnp.minimum(rank, model.rank)
  mean = jnp.where(uses_a, a.mean, b.mean) + jnp.where(uses_a, share_b, 0.0) * shift
  return GaussianStats(
    count_a + count_b, mean, _root_excess(_lower(rows), gram_excess, identity, rank, count), rank, model
  )


def _told_apart(a: GaussianStats, b: GaussianStats) -> tuple[GaussianStats, GaussianStats]:
  """Both about the mean of `a`, in units of the larger: for batches that are told by different models."""
  dim = a.mean.shape[0]
  fits = _fitted(a), _fitted(b)
  exponent = jnp.maximum(fits[0].exponent, fits[1].exponent)
  model = _truth(dim)._replace(mean=fits[0].mean, exponent=exponent, log_det=2 * dim * math.log(2) * exponent)

  def tell(stats, fit):
    scale = _power(fit.exponent - exponent)
    return GaussianStats(
      stats.count,
      (fit.mean - model.mean) * _power(-exponent),
      (scale * fit.factor - jnp.eye(dim)) + scale * fit.low,
      stats.rank,
      model,
    )

  return tell(a, fits[0]), tell(b, fits[1])


def _extend(total: GaussianStats, spread, new: GaussianStats) -> GaussianStats:
  """A pool of N rows and `num` rows drawn from its fit, in the coordinates of the fit.

  There the pooled covariance is G = (N I + num A A^T + N num / (N + num) z z^T) / (N + num), with eigenvalues bounded
  below by N / (N + num), so its Cholesky factor is safe whatever the condition of the pool. `spread` is the log of the fit's
  standard deviation over the pool's.
  """
  dim = total.mean.shape[0]
  share = total.count / (total.count + new.count)
  identity = _leading(new.model.rank, dim)
  gram_excess = (1 - share) * _gram_excess(new.excess) + share * (1 - share) * jnp.outer(new.mean, new.mean)
  if not (known(spread) and spread == 0):
    gram_excess = gram_excess + share * jnp.expm1(-2 * spread) * identity
  root = _leading_columns(jnp.linalg.cholesky(jnp.eye(dim) + gram_excess), new.model.rank)
  excess = _root_excess(root, gram_excess, identity, new.model.rank, total.count + new.count)
  return GaussianStats(total.count + new.count, (1 - share) * new.mean, excess, new.model.rank, new.model)


def _move(stats: GaussianStats, pool: GaussianStats, spread, model: GaussianModel) -> GaussianStats:
  """Statistics in the coordinates of a model that was fitted to `pool`, told until now in those of the model before.

  What the model was fitted to is bounded in its coordinates, so that the solves are as well-conditioned as batches are,
  whatever has been lost in the generations between.
  """
  dim = stats.mean.shape[0]
  change = _widened(pool, spread)
  own = _leading(stats.model.rank, dim) + change + jnp.eye(dim) - _leading(model.rank, dim)
  told = jnp.concatenate([stats.excess - change, (stats.mean - pool.mean)[:, None]], axis=1)
  told = jax.scipy.linalg.solve_triangular(own, told, lower=True)
  moved = GaussianStats(stats.count, told[:, -1], told[:, :-1], stats.rank, model)
  return jax.tree.map(functools.partial(jnp.where, _same(stats.model, pool.model)), moved, stats)


# -------------------------------------------------------------------------------------------------------- draws
def _law(key, num, model: GaussianModel) -> GaussianStats:
  """Statistics of `num` rows of the model, from their exact law (Bartlett)."""
  return _drawn(key, jnp.asarray(num, float), model)


@jax.jit
def _drawn(key, num, model: GaussianModel) -> GaussianStats:
  dim, rank = model.mean.shape[0], model.rank
  chi_key, normal_key = split(key)
  rows = jnp.maximum(num, 1.0)
  axis = jnp.arange(dim)
  freedom = rows - 1 - axis
  # chi / sqrt(num) - 1, where chi2 / num = (chi2 / freedom) freedom / num and freedom / num - 1 = -(1 + axis) / num.
  square, square_excess = chi_squares(chi_key, jnp.maximum(freedom, 1.0))
  square_excess = (square_excess * freedom - (1 + axis)) / rows
  root = jnp.sqrt(square / rows)
  diagonal = _above_minus_one(jnp.where(root < 0.5, root - 1, square_excess / (1 + root)))
  edges = np.linspace(0, dim, 9).astype(int) if dim >= 64 else np.array([0, dim])
  strips = [(int(low), int(high)) for low, high in itertools.pairwise(edges)]
  white = normal(normal_key, (dim + sum((high - low) * high for low, high in strips),)) / jnp.sqrt(rows)
  # Filled strip by strip: as one triangle out of half as many numbers, XLA computes it element by element.
  factor, used_up = jnp.zeros((dim, dim)), dim
  for low, high in strips:
    block = white[used_up : used_up + (high - low) * high].reshape(high - low, high)
    factor, used_up = factor.at[low:high, :high].set(block), used_up + block.size
  drawn = _batch_rank(num, rank)
  row, column = axis[:, None], axis[None]
  inside = (row < rank) & (column < drawn)
  on_diagonal = jnp.where(axis < drawn, diagonal, jnp.where(axis < rank, -1.0, 0.0))
  excess = jnp.where(row == column, on_diagonal[:, None], jnp.where(inside & (row > column), factor, 0.0))
  return GaussianStats(num, white[:dim] * (axis < rank), excess, drawn, model)


@functools.partial(jax.jit, static_argnames="num")
def _rows_given(key, stats: GaussianStats, num: int, used=None) -> Array:
  """[num, dim] rows of N(0, I) in the model's coordinates, the first `used` of them (None: all) given their statistics.

  Centred, they are sqrt(num) Q L^T, with a Q that is independent of the statistics: columns of a random orthogonal basis of
  what is orthogonal to 1.
  """
  dim = stats.mean.shape[0]
  white = normal(key, (num, dim))[:, : num - 1]
  if used is None:
    used, white = num, white - jnp.mean(white, axis=0)[None]
  else:
    mask = first_rows(num, used)[:, None]
    white = mask * (white - (jnp.sum(mask * white, axis=0) / used)[None])
  basis, upper = jnp.linalg.qr(white)
  basis = basis * jnp.where(jnp.diag(upper) < 0, -1.0, 1.0)[None]
  factor = (_leading(stats.model.rank, dim) + stats.excess)[:, : basis.shape[1]]
  return stats.mean[None] + jnp.sqrt(jnp.asarray(used, float)) * matmul(basis, factor.T)


def _check(dim, num_samples, noise_var, mean, covariance, temperature, draws, max_samples):
  check_integer("dim", dim, 1)
  check_draws(draws, num_samples, max_samples)
  check_positive("noise_var", noise_var)
  check_positive("temperature", temperature)
  if mean is not None and np.shape(mean) != (dim,):
    raise Refused(f"mean must have shape ({dim},), got {np.shape(mean)}.", argument="mean", value=np.shape(mean))
  if covariance is not None:
    if known(noise_var) and noise_var != 1.0:
      raise Refused("give noise_var or covariance, not both.")
    covariance = np.asarray(covariance, np.float64)
    if covariance.shape != (dim, dim) or not np.allclose(covariance, covariance.T):
      raise Refused(
        f"covariance must be symmetric with shape ({dim}, {dim}), got shape {covariance.shape}.", argument="covariance"
      )
    if np.linalg.eigvalsh(covariance).min() <= 0:
      raise Refused("covariance must be positive definite.", argument="covariance")
