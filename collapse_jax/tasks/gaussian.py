"""Maximum-likelihood estimation of a multivariate Gaussian (Kazdan et al. 2410.16713; Shumailov et al. 2305.17493).

Everything is computed in whitened coordinates, in which the truth is N(0, I): the fit is affine equivariant, so
nothing is lost, and any truth gives the numbers of N(0, I). A covariance is held as exp(2 log_scale) factor factor^T:
collapse is the normal case here, and neither singular fits nor variances below the smallest float32 may end in NaN.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import chi_square, normal
from collapse_jax.store import batch
from collapse_jax.tasks._gaussian_distances import (
  DISTANCE_METRICS,
  WASSERSTEIN_METRICS,
  bures_squared,
  distances_to_standard,
)
from collapse_jax.tasks.parts import check_draws, check_integer, check_positive, known, matmul, triangular
from collapse_jax.types import Array, Context, Data, MetricInfo, Metrics, Summary, TaskSetting


class GaussianProblem(NamedTuple):
  """The truth: mean [dim] in data units; scale, a standard deviation [] or a lower Cholesky factor [dim, dim]."""
  mean: Any
  scale: Any


class GaussianStats(NamedTuple):
  """Count, mean and biased covariance of weighted rows, in whitened coordinates; also the fitted model.

  Attributes:
    count: [] sum of weights.
    mean: [dim].
    factor: [dim, dim] lower triangular, its columns from `rank` on are zero.
    log_scale: []; the covariance is exp(2 log_scale) factor factor^T.
    log_det: [] log pseudo-determinant of the covariance, exact under collapse where the factor's entries underflow.
    rank: [] int32 rank of the covariance: smaller than dim where there are too few rows.
  """
  count: Any
  mean: Any
  factor: Any
  log_scale: Any
  log_det: Any
  rank: Any


class Draw(NamedTuple):
  """A batch in the coordinates of the model that made it, where its rows are N(0, I) in `rank` dimensions."""
  mean: Any    # [dim]
  factor: Any  # [dim, dim] factor of the biased covariance


METRICS = {
    "squared_error_of_mean": MetricInfo("squared error of the fitted mean", "data units squared", worse="higher",
                                        log_scale=True, measures="risk"),
    "covariance_trace_ratio": MetricInfo("trace of the fitted covariance / trace of the truth", worse="lower",
                                         log_scale=True, measures="variance"),
    "covariance_log_det_ratio": MetricInfo("log (pseudo-)determinant ratio of fitted to true covariance", "nats",
                                           worse="lower", measures="variance"),
    "marginal_mean": MetricInfo("fitted mean of the first coordinate", "data units"),
    "marginal_log_variance": MetricInfo("log fitted variance of the first coordinate", "nats"),
    "standard_mean": MetricInfo("fitted mean of the first coordinate where its truth is N(0, 1)"),
    "standard_log_variance": MetricInfo("log fitted variance of the first coordinate where its truth is N(0, 1)", "nats"),
}
WHITENED_METRICS = {
    "whitened_squared_error_of_mean": MetricInfo("squared Mahalanobis error of the fitted mean", worse="higher",
                                                 log_scale=True),
    "whitened_trace_ratio": MetricInfo("trace of the whitened fitted covariance / dim", worse="lower", log_scale=True),
}


def gaussian(dim: int, num_samples, noise_var=1.0, *, mean=None, covariance=None, unbiased: bool = False,
             temperature=1.0, draws: str = "auto", wasserstein2: bool = False, distances: bool = False) -> TaskSetting:
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
    wasserstein2: also evaluate the squared 2-Wasserstein distance to the truth (a singular value decomposition).
    distances: also evaluate the total variation distance to the truth (exact in one dimension, else a mean over 2000 fixed
      points of the truth, with its standard error) and KL(model || truth), infinite for singular models of dim > 1.
  Raises:
    ValueError: an argument out of range.
  """
  _check(dim, num_samples, noise_var, mean, covariance, temperature, draws)
  law = draws != "rows"
  true_mean = np.zeros(dim, np.float32) if mean is None else np.asarray(mean, np.float32)

  def problem_of() -> GaussianProblem:
    if covariance is None:
      return GaussianProblem(jnp.asarray(true_mean), jnp.sqrt(jnp.asarray(noise_var, float)))
    return GaussianProblem(jnp.asarray(true_mean), jnp.asarray(np.linalg.cholesky(np.asarray(covariance, np.float64)),
                                                               float))

  def draw(key: Array, problem: GaussianProblem, model: GaussianStats, num) -> Data:
    """`num` rows of the model, or their statistics."""
    if law:
      relative = _law(key, num, model.rank, dim)
      rows = None
    else:
      white = normal(key, (num, dim)) * (jnp.arange(dim) < model.rank)[None]
      centre = jnp.mean(white, axis=0)
      centred = (white - centre[None]) / np.sqrt(num)
      relative = Draw(centre, _lower(centred))
      rows = _to_data(problem, model.mean[None] + jnp.exp(model.log_scale) * matmul(white, model.factor.T))
    relative = relative._replace(factor=_leading_columns(relative.factor, _batch_rank(num, model.rank)))
    return batch(rows, summary=_apply(model, relative, num), count=num, draw=relative)

  def fresh(key, problem):
    truth = GaussianStats(jnp.inf, jnp.zeros(dim), jnp.eye(dim), jnp.zeros(()), jnp.zeros(()),
                          jnp.asarray(dim, jnp.int32))
    return draw(key, problem, truth, num_samples)._replace(draw=None)

  def init(key):
    problem = problem_of()
    return problem, fresh(key, problem)

  def of(problem, rows, row_weight):
    return _statistics(_to_white(problem, rows), row_weight)

  def fit(key, problem, context: Context) -> GaussianStats:
    stats = context.data.summary
    if not unbiased:
      return stats
    spread = 0.5 * jnp.log(stats.count / (stats.count - 1))
    return stats._replace(log_scale=stats.log_scale + spread, log_det=stats.log_det + 2 * stats.rank * spread)

  def sample(key, problem, params: GaussianStats, context: Context):
    spread = 0.5 * jnp.log(jnp.asarray(temperature, float))
    warmed = params._replace(log_scale=params.log_scale + spread, log_det=params.log_det + 2 * params.rank * spread)
    data = draw(key, problem, warmed, context.num)
    # `extend` needs the draw in the coordinates of the pool, whose biased covariance it continues.
    ratio = jnp.exp(warmed.log_scale - context.data.summary.log_scale)
    return data._replace(draw=Draw(data.draw.mean * ratio, data.draw.factor * ratio)), {}

  def evaluate(problem, params: GaussianStats) -> Metrics:
    scale = jnp.exp(params.log_scale)
    deviation = _scaled(problem, params.mean)
    factor = scale * (problem.scale * params.factor if covariance is None else matmul(problem.scale, params.factor))
    true_trace = dim * problem.scale ** 2 if covariance is None else jnp.sum(problem.scale ** 2)
    first = params.factor[0] if covariance is None else factor[0] / scale / problem.scale[0, 0]
    first_std = problem.scale if covariance is None else problem.scale[0, 0]
    standard_log_variance = 2 * params.log_scale + jnp.log(jnp.sum(first ** 2))
    metrics = {
        "squared_error_of_mean": jnp.sum(deviation ** 2),
        "covariance_trace_ratio": _sum_of_squares(factor) / true_trace,
        "covariance_log_det_ratio": params.log_det,
        "marginal_mean": problem.mean[0] + deviation[0],
        "marginal_log_variance": 2 * jnp.log(first_std) + standard_log_variance,
        "standard_mean": params.mean[0],
        "standard_log_variance": standard_log_variance,
    }
    if covariance is not None:
      metrics["whitened_squared_error_of_mean"] = jnp.sum(params.mean ** 2)
      metrics["whitened_trace_ratio"] = scale ** 2 * _sum_of_squares(params.factor) / dim
    if wasserstein2:
      metrics["wasserstein2_squared"] = jnp.sum(deviation ** 2) + bures_squared(problem.scale, *covariance_of(params))
    if distances:
      metrics |= distances_to_standard(params.mean, *covariance_of(params))
    return metrics

  def extend(problem, total: GaussianStats, new: Data) -> GaussianStats:
    return _extend(total, new.draw, new.count[0])

  metrics = METRICS | (WHITENED_METRICS if covariance is not None else {})
  metrics = metrics | (WASSERSTEIN_METRICS if wasserstein2 else {}) | (DISTANCE_METRICS if distances else {})
  with_rows = functools.partial(gaussian, dim, num_samples, noise_var, mean=mean, covariance=covariance, unbiased=unbiased,
                                temperature=temperature, draws="rows", wasserstein2=wasserstein2,
                                distances=distances)
  return TaskSetting(init, fit, sample, evaluate, num_samples, Summary(of, _add, extend=extend), fresh, law, metrics,
                     with_rows if draws == "auto" else None)


def covariance_of(params: GaussianStats) -> tuple[Any, ...]:
  """What `_gaussian_distances` take of a model."""
  return params.factor, params.log_scale, params.log_det, params.rank


def moments(problem: GaussianProblem, params: GaussianStats) -> tuple[Array, Array]:
  """Mean [dim] and covariance [dim, dim] of a fitted model, in data units."""
  factor = _scaled(problem, jnp.exp(params.log_scale) * params.factor.T).T
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


# -------------------------------------------------------------------------------------------------- statistics
def _sum_of_squares(matrix):
  """A matrix-vector product adds in the order that is fastest; a reduction on CPU goes one by one."""
  return jnp.sum(matmul(matrix ** 2, jnp.ones(matrix.shape[1])))


def _lower(rows):
  """Lower triangular L [dim, dim] with L L^T = rows^T rows, diagonal >= 0: a free sign would change later draws."""
  factor = triangular(rows).T
  return factor * jnp.where(jnp.diag(factor) < 0, -1.0, 1.0)[None]


def _leading_columns(matrix, rank):
  return matrix * (jnp.arange(matrix.shape[1]) < rank)[None]


def _log_abs_diagonal(factor, rank):
  """Sum of log diagonal entries of the leading rank x rank block."""
  diagonal = jnp.abs(jnp.diag(factor))
  return jnp.sum(jnp.where(jnp.arange(factor.shape[0]) < rank, jnp.log(jnp.maximum(diagonal, 1e-38)), 0.0))


def _log_pseudo_det(factor, rank):
  """log det(factor^T factor) over the leading `rank` columns."""
  dim = factor.shape[0]
  if dim == 1:
    return 2 * _log_abs_diagonal(factor, rank)
  tall = lambda: 2 * _log_abs_diagonal(jnp.linalg.qr(factor, mode="r"), rank)
  return jax.lax.cond(rank == dim, lambda: 2 * _log_abs_diagonal(factor, rank), tall)


def _normalised(stats: GaussianStats) -> GaussianStats:
  """Moves the size of the factor into log_scale."""
  size = jnp.max(jnp.abs(jnp.diag(stats.factor)))
  size = jnp.where(size > 0, size, 1.0)
  return stats._replace(factor=stats.factor / size, log_scale=stats.log_scale + jnp.log(size))


def _batch_rank(num, model_rank):
  return jnp.minimum(jnp.maximum(jnp.asarray(num, float) - 1, 0), model_rank).astype(jnp.int32)


def _statistics(white, row_weight) -> GaussianStats:
  """Statistics of rows [n, dim]."""
  n, dim = white.shape
  weight = jnp.ones(n) if row_weight is None else row_weight
  count = jnp.sum(weight)
  mean = matmul(weight, white) / jnp.maximum(count, 1e-30)
  deviation = jnp.where(weight[:, None] > 0, white - mean[None], 0.0)
  size = jnp.max(jnp.abs(deviation))
  size = jnp.where(size > 0, size, 1.0)
  factor = _lower(jnp.sqrt(weight / jnp.maximum(count, 1e-30))[:, None] * (deviation / size))
  rank = jnp.minimum(jnp.maximum(jnp.sum(weight > 0) - 1, 0), dim).astype(jnp.int32)
  if n > dim and row_weight is None:
    rank = jnp.asarray(dim, jnp.int32)
  rank = jnp.minimum(rank, _numerical_rank(factor))
  factor = _leading_columns(factor, rank)
  log_det = _log_pseudo_det(factor, rank) + 2 * rank * jnp.log(size)
  return _normalised(GaussianStats(count, mean, factor, jnp.log(size), log_det, rank))


def _numerical_rank(factor):
  """Leading diagonal entries above rounding. Rows in general position fill the leading columns first."""
  diagonal = jnp.abs(jnp.diag(factor))
  above = diagonal > 2e-6 * jnp.max(diagonal)
  return jnp.sum(jnp.cumprod(above)).astype(jnp.int32)


def _add(problem, a: GaussianStats, weight_a, b: GaussianStats, weight_b) -> GaussianStats:
  """Pooled statistics (Chan, Golub and LeVeque 1979), in factor form."""
  count_a, count_b = weight_a * a.count, weight_b * b.count
  count = jnp.maximum(count_a + count_b, 1e-30)
  share_a, share_b = count_a / count, count_b / count
  log_scale = jnp.maximum(jnp.where(share_a > 0, a.log_scale, -jnp.inf), jnp.where(share_b > 0, b.log_scale, -jnp.inf))
  log_scale = jnp.where(jnp.isfinite(log_scale), log_scale, 0.0)
  shift = b.mean - a.mean
  both = (share_a > 0) & (share_b > 0)
  size = jnp.max(jnp.abs(shift)) * jnp.sqrt(share_a * share_b)
  log_scale = jnp.where(both, jnp.maximum(log_scale, jnp.log(jnp.maximum(size, 1e-38))), log_scale)
  part = lambda share, stats: (jnp.sqrt(share) * jnp.where(share > 0, jnp.exp(stats.log_scale - log_scale), 0.0)
                               * stats.factor.T)
  between = jnp.sqrt(share_a * share_b) * shift * jnp.exp(-log_scale)
  factor = _lower(jnp.concatenate([part(share_a, a), part(share_b, b), between[None]]))
  rank = _numerical_rank(factor)
  factor = _leading_columns(factor, rank)
  log_det = _log_pseudo_det(factor, rank) + 2 * rank * log_scale
  return _normalised(GaussianStats(count_a + count_b, a.mean + share_b * shift, factor, log_scale, log_det, rank))


def _apply(model: GaussianStats, relative: Draw, num) -> GaussianStats:
  """Statistics of a batch given in the coordinates of its model: factors multiply, so nothing is ever subtracted."""
  rank = _batch_rank(num, model.rank)
  mean = model.mean + jnp.exp(model.log_scale) * matmul(model.factor, relative.mean)
  factor = matmul(model.factor, relative.factor)
  same_rank = lambda: model.log_det + 2 * _log_abs_diagonal(relative.factor, rank)
  lower_rank = lambda: 2 * rank * model.log_scale + _log_pseudo_det(factor, rank)
  log_det = same_rank() if factor.shape[0] == 1 else jax.lax.cond(rank == model.rank, same_rank, lower_rank)
  count = jnp.asarray(num, float)
  return _normalised(GaussianStats(count, mean, factor, model.log_scale, log_det, rank))


def _extend(total: GaussianStats, relative: Draw, num) -> GaussianStats:
  """A pool of N rows and `num` rows drawn from its fit, in the pool's own coordinates.

  There the pooled covariance is G = (N I + num A A^T + N num / (N + num) z z^T) / (N + num), with eigenvalues bounded
  below by N / (N + num), so its Cholesky factor is safe whatever the condition of the pool.
  """
  dim = total.mean.shape[0]
  share = total.count / (total.count + num)
  inside = jnp.diag((jnp.arange(dim) < total.rank).astype(float))
  gram = share * inside + (1 - share) * matmul(relative.factor, relative.factor.T)
  gram = gram + share * (1 - share) * jnp.outer(relative.mean, relative.mean)
  step = _leading_columns(jnp.linalg.cholesky(gram + (jnp.eye(dim) - inside)), total.rank)
  mean = total.mean + (1 - share) * jnp.exp(total.log_scale) * matmul(total.factor, relative.mean)
  log_det = total.log_det + 2 * _log_abs_diagonal(step, total.rank)
  factor = matmul(total.factor, step)
  return _normalised(GaussianStats(total.count + num, mean, factor, total.log_scale, log_det, total.rank))


def _law(key, num, rank, dim) -> Draw:
  """Mean and covariance factor of `num` rows of N(0, I) in `rank` dimensions, from their exact law (Bartlett)."""
  chi_key, normal_key = jax.random.split(key)
  num = jnp.maximum(jnp.asarray(num, float), 1.0)
  axis = jnp.arange(dim)
  freedom = num - 1 - axis
  chi = jnp.sqrt(chi_square(chi_key, jnp.maximum(freedom, 1.0)))
  edges = np.linspace(0, dim, 9).astype(int) if dim >= 64 else np.array([0, dim])
  strips = [(int(low), int(high)) for low, high in itertools.pairwise(edges)]
  white = normal(normal_key, (dim + sum((high - low) * high for low, high in strips),))
  # Filled strip by strip: as one triangle out of half as many numbers, XLA computes it element by element.
  factor, used_up = jnp.zeros((dim, dim)), dim
  for low, high in strips:
    block = white[used_up:used_up + (high - low) * high].reshape(high - low, high)
    factor, used_up = factor.at[low:high, :high].set(block), used_up + block.size
  used = (axis < rank).astype(float)
  row, column = axis[:, None], axis[None]
  factor = jnp.where(row > column, factor, jnp.where(row == column, chi[:, None], 0.0))
  factor = factor * jnp.where(freedom > 0, used, 0.0)[None] * used[:, None]
  return Draw(white[:dim] * used / jnp.sqrt(num), factor / jnp.sqrt(num))


def _check(dim, num_samples, noise_var, mean, covariance, temperature, draws):
  check_integer("dim", dim, 1)
  check_draws(draws, num_samples)
  check_positive("noise_var", noise_var)
  check_positive("temperature", temperature)
  if mean is not None and np.shape(mean) != (dim,):
    raise ValueError(f"mean must have shape ({dim},), got {np.shape(mean)}.")
  if covariance is not None:
    if known(noise_var) and noise_var != 1.0:
      raise ValueError("give noise_var or covariance, not both.")
    covariance = np.asarray(covariance, np.float64)
    if covariance.shape != (dim, dim) or not np.allclose(covariance, covariance.T):
      raise ValueError(f"covariance must be symmetric with shape ({dim}, {dim}), got shape {covariance.shape}.")
    if np.linalg.eigvalsh(covariance).min() <= 0:
      raise ValueError("covariance must be positive definite.")
