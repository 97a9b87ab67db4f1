"""Kernel density estimation (Kazdan et al. 2410.16713): the model is the data, smoothed.

With a fixed bandwidth the log-sum of kernels at the test points is the statistic that adds up over batches, so that a
pool which grows costs each generation the same. Under a rule that depends on the pool's size these are `KernelMoments`; one
that depends on its spread, too, needs all of it each generation.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from collapse_jax import store as storage
from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.data import generators
from collapse_jax.random import normal, split
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks import _kernel_moments as kernel_moments
from collapse_jax.tasks import _over_rows as over_rows
from collapse_jax.tasks.parts import check_integer, check_positive, matmul, real_rows, side_by_side
from collapse_jax.types import Array, Context, Data, Expected, MetricInfo, Summary, TaskSetting
from collapse_jax.vocabulary import BANDWIDTH_RULES, KERNELS

MAX_ROWS = 10**8  # of a batch: data sets are made on the host
_FAR = over_rows.FAR
FAR = 5.0  # standard deviations from every mode of the truth at which it has next to nothing
_FEW = 4  # batches that are summed anew where a bandwidth depends on them
_MANY = 256  # rows from which sums are interpolated where that is right to _ERROR
_ERROR = 1e-5  # of a log density, at most
_RELATIVE = 1e-6  # far from all rows: float32 knows it no better however it is summed
_NODES = {
  1: (40,),
  2: (16, 24),
}  # dimensions -> nodes along each that are tried, in turn; in three they cost what they save
_TOGETHER = 256  # rows whose kernels at the nodes are held at once
_SOME = 16  # one row of so many is looked at first
_APART = 16  # points whose nearest rows are looked for alone, where no others need it
_POWERS = (
  1.0,
  0.69314694,
  0.2402212,
  0.05550713,
  0.009675541,
  0.0013276472,
)  # best for 2^x on [-1/2, 1/2] relative to it


class KdeProblem(NamedTuple):
  """One run's truth.

  Attributes:
    truth: of the data set.
    points: [num_points, dim] where the density is looked at: test rows of that same truth and, where the truth's modes
      are known, after them the centres and the midpoints between each two.
    bandwidth: [] data units; NaN under a rule.
    centers: [k, dim], or None where they are not known.
    log_density: [num_test] nats, of the truth at the test rows; None where it is not asked for.
  """

  truth: Any
  points: Any
  bandwidth: Any
  centers: Any
  log_density: Any = None


class KdeStats(NamedTuple):
  """What adds up over batches.

  Attributes:
    log_kernel_sum: [num_points] log of the weighted sum of unnormalised kernels at each point; under a rule `KernelMoments`.
    count: [] sum of row weights.
    mean: [dim].
    scatter: [] weighted sum of squared distances to the mean.
  """

  log_kernel_sum: Any
  count: Any
  mean: Any
  scatter: Any


class KdeParams(NamedTuple):
  """The fitted density where it is looked at; the rows that it is drawn from stay in `Context.data`."""

  log_density: Any  # [num_points] nats
  bandwidth: Any  # [] data units
  variance: Any  # [] variance of the model per coordinate, data units squared


@citing("2410.16713")
def kde(
  dataset,
  num_samples: int,
  bandwidth,
  kernel: str = "gaussian",
  *,
  num_test: int = 500,
  temperature=1.0,
  distances: bool = False,
) -> TaskSetting:
  """A kernel density estimate of a data set, sampled and fitted again.

  Args:
    dataset: a name in `datasets`, a path to a CSV file of numeric columns, an array [rows, columns], a pair
      (train, test) of arrays, or a `generators.Dataset`. "blobs_mismatched" reproduces the published figure, in which
      training and test blobs have different centres.
    num_samples: rows per batch, at least 2 and at most the training rows of a finite data set.
    bandwidth: data units, may be traced; or a rule of the pool's size N and dimension d: "scott" is N^(-1/(d+4)),
      "silverman" (N(d+2)/4)^(-1/(d+4)), scikit-learn's definitions, which ignore the spread of the data; with
      "_scaled" they are multiplied by the root mean square of the coordinates' standard deviations.
    kernel: "gaussian", or "tophat" (uniform on a ball of radius `bandwidth`).
    num_test: test rows, from the same truth as the training rows; at most what is held out of a finite data set.
    temperature: factor of the kernel's variance when sampling; 1 = the fitted model; may be traced.
    distances: also estimate the total variation distance to the truth, by importance sampling at the test rows, with its
      standard error; for data sets whose density is known.
  Raises:
    ValueError: an argument out of range, an unknown or unreadable data set, or more samples than it has.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.kde("moons", num_samples=10, bandwidth=0.5)
  >>> print(*task.metrics)
  test_nll model_variance fitted_bandwidth mode_separation far_share
  """
  rule = _check(num_samples, bandwidth, kernel, num_test, temperature)
  source = generators.get(dataset, num_test)
  generators.check_size(source, num_samples)
  if distances and source.log_density is None:
    raise Refused(
      f"distances needs a known density (blobs, circles, moons, normal), which {source.name} has not.",
      argument="distances",
      value=True,
    )
  dim = source.dim
  log_sum = functools.partial(log_kernel_sum, kernel=kernel)

  def problem_of(truth, test, centers):
    points = test if centers is None else jnp.concatenate([test, centers, _midpoints(centers)])
    log_density = source.log_density(truth, test) if distances and source.log_density else None
    return KdeProblem(truth, points, jnp.asarray(jnp.nan if rule else bandwidth, float), centers, log_density)

  init, fresh = real_rows(source, num_samples, num_test, problem_of)

  # A rule narrows as a pool grows, up to a thousandfold here; one that is scaled follows what no batch knows of.
  widths: Any = None
  if rule in ("scott", "silverman") and kernel == "gaussian":
    widths = kernel_moments.ladder(*(rule_bandwidth(rule, times * num_samples, 1.0, dim) for times in (1, 1000)))

  def of(problem, rows, row_weight, bandwidth=None):
    if widths is not None:
      kernels = kernel_moments.moments(problem.points, rows, row_weight, widths, bandwidth)
    else:
      kernels = log_sum(problem.points, rows, row_weight, problem.bandwidth)
    return KdeStats(kernels, *_moments(rows, row_weight))

  def add(problem, a, weight_a, b, weight_b):
    log_kernel: Any
    if widths is not None:
      log_kernel = kernel_moments.add(a.log_kernel_sum, weight_a, b.log_kernel_sum, weight_b, widths, dim)
    else:
      log_kernel = jnp.logaddexp(a.log_kernel_sum + jnp.log(weight_a), b.log_kernel_sum + jnp.log(weight_b))
    count_a, count_b = weight_a * a.count, weight_b * b.count
    count = jnp.maximum(count_a + count_b, 1e-30)
    shift = b.mean - a.mean
    scatter = weight_a * a.scatter + weight_b * b.scatter + count_a * count_b / count * jnp.sum(shift**2)
    return KdeStats(log_kernel, count_a + count_b, a.mean + count_b / count * shift, scatter)

  def extend(problem, total: KdeStats, new: Data) -> KdeStats:
    """Of a pool, which from now on only grows: its rule is never again wider than it is with the new batch."""
    bandwidth = rule_bandwidth(rule, total.count + new.count[0], 1.0, dim)
    row_weight = None if new.row_weight is None else new.row_weight[0]
    stats = storage.statistics(functools.partial(of, bandwidth=bandwidth), problem, new.rows[0], row_weight)
    return add(problem, total, 1.0, stats, 1.0)

  def pooled(problem, data: Data) -> tuple[KdeStats, Array]:
    """Statistics of a pool at a bandwidth that depends on it."""
    single = storage.num_rows(data.rows, 1) == 1  # rows of a redrawn subset, which are one batch
    if data.summary is not None and data.rows.shape[0] > _FEW and not single:
      count = storage.size(data)
      width = rule_bandwidth(rule, count, 1.0, dim)
      known, error = kernel_moments.log_sum(data.summary.log_kernel_sum, width, widths, dim)
      pool: Any = (problem.points, data.rows, data.row_weight, data.weight, data.origin, width, known, error)
      log_kernel = _where_known(*jax.tree.map(lambda x: x[None], pool))[0]
      return data.summary._replace(log_kernel_sum=log_kernel), width
    rows, weight = storage.flat(data)
    count, mean, scatter = _moments(rows, weight)
    width = rule_bandwidth(rule, count, jnp.sqrt(scatter / count / dim), dim)
    if single or data.rows.shape[0] == 1:
      return KdeStats(log_sum(problem.points, rows, weight, width), count, mean, scatter), width
    log_kernel = _over_batches(problem.points, data.rows, data.row_weight, data.weight, data.origin, width, kernel)
    return KdeStats(log_kernel, count, mean, scatter), width

  def fit(key, problem, context: Context) -> KdeParams:
    stats, width = pooled(problem, context.data) if rule else (context.data.summary, problem.bandwidth)
    stats = stats._replace(count=storage.size(context.data))  # which a running sum in float32 loses
    log_norm = jnp.log(stats.count) + log_kernel_volume(kernel, dim) + dim * jnp.log(width)
    variance = stats.scatter / stats.count / dim + width**2 * kernel_variance(kernel, dim)
    return KdeParams(stats.log_kernel_sum - log_norm, width, variance)

  def sample(key, problem, params: KdeParams, context: Context):
    row_key, noise_key = split(key)
    rows = storage.draw_rows(row_key, context.data, context.num)
    width = params.bandwidth * jnp.sqrt(jnp.asarray(temperature, float))
    rows = rows + width * kernel_noise(noise_key, kernel, context.num, dim)
    # The bandwidth of a model of a pool tells that pool from any other.
    drawn = batch(rows, draw=None if widths is None else params.bandwidth)
    return drawn, {} if problem.centers is None else {
      "far_share": _far_share(rows, problem.centers, storage.in_use(context))
    }

  def evaluate(key, problem, params: KdeParams):
    log_density = params.log_density
    metrics = {"model_variance": params.variance, "fitted_bandwidth": params.bandwidth}
    if problem.centers is not None:
      k = len(problem.centers)
      num = len(log_density) - k - math.comb(k, 2)
      log_density, centres, between = jnp.split(log_density, [num, num + k])
      if kernel == "gaussian":
        metrics["mode_separation"] = jnp.mean(centres) - jnp.mean(between)
    metrics["test_nll"] = -jnp.mean(log_density)
    if distances:
      missed = jnp.maximum(-jnp.expm1(log_density - problem.log_density), 0.0)
      metrics["total_variation"] = jnp.mean(missed)
      metrics["total_variation_error"] = jnp.std(missed) / np.sqrt(num_test)
    if kernel == "tophat":
      covered = log_density > -jnp.inf
      metrics["covered_share"] = jnp.mean(covered)
      metrics["covered_nll"] = -jnp.sum(jnp.where(covered, log_density, 0.0)) / jnp.maximum(jnp.sum(covered), 1)
    return metrics

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """Variances are linear in that of the real batch, whatever its law is."""
    if source.variance is None or schedule.fresh:
      return {}
    width = lambda rows: rule_bandwidth(rule.removesuffix("_scaled"), rows, 1.0, dim) if rule else bandwidth
    law = functools.partial(
      theory.schedule_kde_variance,
      schedule,
      lambda rows: float(width(rows)) ** 2 * kernel_variance(kernel, dim),
      scaled=rule.endswith("_scaled"),
      temperature=temperature,
      first=source.variance(num_samples),
    )
    return {"model_variance": Expected(law(), None, theory.light_until(schedule, 0.2), law(limit=True))}

  metrics = {
    "test_nll": MetricInfo(
      "negative log-likelihood of the test rows", "nats per item", worse="higher", measures="risk"
    ),
    "model_variance": MetricInfo(
      "variance of the model per coordinate", "data units squared", log_scale=True, measures="variance"
    ),
    "fitted_bandwidth": MetricInfo("bandwidth", "data units"),
    "mode_separation": MetricInfo("log density at the truth's centres minus between them", "nats", measures="modes"),
    "far_share": MetricInfo(
      f"share of emitted rows more than {FAR:g} from every centre", log_scale=True, measures="hallucination"
    ),
  }
  if kernel == "tophat":
    metrics["covered_share"] = MetricInfo("share of test rows with positive density", worse="lower")
    metrics["covered_nll"] = MetricInfo(
      "negative log-likelihood of the test rows with positive density", "nats per item"
    )
  if distances:
    metrics["total_variation"] = MetricInfo("total variation distance to the truth", worse="higher", log_scale=True)
    metrics["total_variation_error"] = MetricInfo("standard error of that distance, over the test rows")
  summary = None
  if not rule or widths is not None:
    summary = Summary(of, add, keep_rows=True, extend=None if widths is None else extend)
  return TaskSetting(init, fit, sample, evaluate, num_samples, summary, fresh, metrics=metrics, predict=predict)


def _over_batches(points, rows, row_weight, weight, origin, bandwidth, kernel="gaussian"):
  """`log_kernel_sum` of a pool: rows [slots, n, dim], row_weight [slots, n] or None, weight and origin [slots]."""

  def more(j, so_far):
    one = log_kernel_sum(points, rows[j], None if row_weight is None else row_weight[j], bandwidth, kernel)
    return jnp.logaddexp(so_far, one + jnp.log(weight[j]))

  used = jnp.max(jnp.where(origin >= 0, jnp.arange(origin.shape[0]), 0)) + 1
  return jax.lax.fori_loop(0, used, more, jnp.full(points.shape[:1], -jnp.inf))


@side_by_side
def _where_known(points, rows, row_weight, weight, origin, bandwidth, known, error):
  """Log sums of kernels of pools [r, ...]: what is known of them where that is right to `_ERROR`, else summed directly.

  Pools that are not known are summed one after the other, so that one of them does not cost as much as all.
  """
  pools = points, rows, row_weight, weight, origin, bandwidth

  def directly(state):
    found, done = state
    run = jnp.argmin(done)
    one = _over_batches(*jax.tree.map(lambda x: x[run], pools))
    return found.at[run].set(one), done.at[run].set(True)

  done = jnp.all(error < jnp.maximum(_ERROR, _RELATIVE * jnp.abs(known)), axis=1)
  return jax.lax.while_loop(lambda state: ~jnp.all(state[1]), directly, (known, done))[0]


@functools.partial(jax.jit, static_argnames="kernel")  # traced once for each size, whatever programs need it
def log_kernel_sum(points: Array, rows: Array, row_weight: Array | None, bandwidth, kernel: str = "gaussian") -> Array:
  """log sum_j w_j K(|point - row_j| / h) with K(0) = 1, stable at any distance.

  Args:
    points: [m, dim] float32.
    rows: [n, dim] float32.
    row_weight: [n], or None for ones.
    bandwidth: h in data units, may be traced.
    kernel: "gaussian" or "tophat".
  Returns:
    [m] float32; -inf where no kernel reaches.
  """
  dim = rows.shape[1]
  if row_weight is not None:
    rows = jnp.where(row_weight[:, None] > 0, rows, _FAR)
  if dim <= 3 and kernel == "gaussian":
    one = jax.tree.map(lambda x: jnp.asarray(x, points.dtype)[None], (points, rows, row_weight, bandwidth))
    return _gaussian(*one)[0]
  if dim <= 3:
    return jnp.log(
      over_rows.over_rows(
        points, rows, row_weight, lambda axes: (over_rows.squared(axes) < bandwidth**2).astype(points.dtype)
      )
    )
  # Squared distances by matmul lose |x|^2 eps / h^2 nats to rounding: only for bandwidths wide against the data.
  extent = jnp.max(jnp.sum((points - jnp.mean(points, axis=0)[None]) ** 2, axis=1))
  return jax.lax.cond(
    extent < 10 * bandwidth**2, _by_matmul, _by_difference, points, rows, row_weight, bandwidth, kernel == "gaussian"
  )


@side_by_side
def _gaussian(points, rows, row_weight, bandwidth):
  """`log_kernel_sum` of runs [r, ...]: by sums at a few nodes where a bound says that this is right to `_ERROR`, else directly.

  Wide against the box of the points, a sum of kernels is so smooth that it follows from its values on a grid of Chebyshev nodes,
  which are products of matrices: 2 num n exponentials, and not m n. All runs are tried where one may succeed, and summed
  directly where one has not; which number a run gets depends on its own bound only.
  """
  if points.shape[2] not in _NODES or rows.shape[1] < _MANY:
    return _direct(points, rows, row_weight, bandwidth)
  extent = 0.5 * jnp.max(jnp.max(points, axis=1) - jnp.min(points, axis=1), axis=1) / bandwidth
  found, done = jnp.zeros(points.shape[:2], points.dtype), jnp.zeros(points.shape[0], bool)
  for num in _NODES[points.shape[2]]:
    error = _interpolation_error(extent, num)

    def better(found=found, done=done, error=error, num=num):
      sums, wrong = _at_nodes(points, rows, row_weight, bandwidth, num, error)
      right = ~done & (wrong < _ERROR)
      return jnp.where(right[:, None], jnp.log(sums), found), done | right

    state = found, done
    found, done = jax.lax.cond(jnp.any(~done & (error < _ERROR)), better, lambda state=state: state)

  directly = lambda: jnp.where(done[:, None], found, _direct(points, rows, row_weight, bandwidth))
  return jax.lax.cond(jnp.all(done), lambda: found, directly)


def _interpolation_error(extent, num: int):
  """Bound, relative to the largest kernel, for kernels on an interval of 2 `extent` bandwidths: on an ellipse whose half axes
  add up to rho, |kernel| <= M, and the error of the polynomial of degree num - 1 is at most 4 M rho^(1 - num) / (rho - 1)
  (Trefethen 2013, theorem 8.2)."""
  rho = np.geomspace(1.02, 1e4, 100)
  log_error = (
    0.125 * extent[:, None] ** 2 * (rho - 1 / rho)[None] ** 2 + (np.log(4 / (rho - 1)) - (num - 1) * np.log(rho))[None]
  )
  return jnp.exp(jnp.minimum(jnp.min(log_error, axis=1), 80.0))


def _at_nodes(points, rows, row_weight, bandwidth, num: int, error):
  """Sums of kernels at points [r, m, dim] by interpolation, and a bound of their relative error [r]."""
  runs, n, dim = rows.shape
  points, rows = jnp.moveaxis(points, 2, 0), jnp.moveaxis(rows, 2, 0)  # [dim, r, m] and [dim, r, n]
  low, high = jnp.min(points, axis=2), jnp.max(points, axis=2)
  centre, half = 0.5 * (low + high), jnp.maximum(0.5 * (high - low), 1e-6 * bandwidth[None])
  angle = (2 * np.arange(num) + 1) * np.pi / (2 * num)
  cosine = np.cos(angle).astype(points.dtype)
  scale = (math.sqrt(0.5 * math.log2(math.e)) / bandwidth)[None, :, None]
  nodes = (centre[:, :, None] + half[:, :, None] * cosine[None, None]) * scale
  short = -n % _TOGETHER
  rows = jnp.pad(rows * scale, ((0, 0), (0, 0), (0, short)), constant_values=_FAR)
  weight = jnp.ones((runs, n), points.dtype) if row_weight is None else row_weight
  blocks = lambda x: jnp.moveaxis(x.reshape(*x.shape[:-1], -1, _TOGETHER), -2, 0)

  def add(total, some):
    some, factor = some
    along = _exp2(-((nodes[:, :, :, None] - some[:, :, None, :]) ** 2))
    last = along[-1] * factor[:, None]
    return total + (jnp.sum(last, axis=2) if dim == 1 else jnp.einsum("rbn,ran->rba", last, along[0])), None

  start = jnp.zeros((runs, num, num)[: dim + 1], points.dtype)
  sums = jax.lax.scan(add, start, (blocks(rows), blocks(jnp.pad(weight, ((0, 0), (0, short))))))[0]
  largest = jnp.max(sums.reshape(runs, -1), axis=1)
  away = ((points - centre[:, :, None]) / half[:, :, None])[:, :, None] - cosine[None, None, :, None]
  share = ((-1.0) ** np.arange(num) * np.sin(angle))[None, None, :, None].astype(points.dtype)
  share = share / jnp.where(away == 0, 1e-20, away)  # the barycentric formula, along each dimension
  share = share / jnp.sum(share, axis=2, keepdims=True)  # [dim, r, num, m]
  along_last = jnp.einsum("rba,rbm->ram", sums, share[-1]) if dim == 2 else sums[:, :, None]
  sums = jnp.sum(share[0] * along_last, axis=1)
  growth = 2 + 2 / np.pi * np.log(num)  # of an error by interpolation along one more dimension, at most
  error = error + 4 * jnp.finfo(points.dtype).tiny  # `_exp2` does not go below
  wrong = error * jnp.sum(weight, axis=1) * (1 if dim == 1 else 1 + growth)
  least, wrong = jnp.min(sums, axis=1), wrong + 8 * jnp.finfo(points.dtype).eps * largest
  return sums, jnp.where(least > 0, wrong / least, jnp.inf)


def _direct(points, rows, row_weight, bandwidth):
  """`log_kernel_sum` of runs [r, ...] of few dimensions: fused passes over blocks of rows, nothing of size m x n.

  Kernels are summed relative to that of the nearest row, so that none that counts underflows. It is not looked for where some of
  the rows show that a point has one near enough.
  """
  slope = -0.5 / bandwidth**2
  beyond = functools.partial(over_rows.beyond, dim=points.shape[2])
  nearest = jax.vmap(over_rows.nearest)
  # Nats, up to which what underflows, of all rows together, is below 1e-9 of the sum.
  limit = math.log(1e-9 / jnp.finfo(points.dtype).tiny / rows.shape[1])
  near = nearest(points, rows[:, ::_SOME])
  away = -slope[:, None] * beyond(near, 0.0)
  close = away < limit

  def of_few():
    """For the points that are farthest from those rows: midpoints between modes, lost ones."""
    index = jax.lax.top_k(away, _APART)[1]
    found = nearest(jnp.take_along_axis(points, index[:, :, None], axis=1), rows)
    return jnp.put_along_axis(near, index, found, axis=1, inplace=False)

  looked_for = lambda: nearest(points, rows)
  if points.shape[1] > 2 * _APART:
    are_few = jnp.all(jnp.sum(~close, axis=1) <= _APART)
    all_points = looked_for
    looked_for = lambda: jax.lax.cond(are_few, of_few, all_points)
  offset = jax.lax.cond(jnp.all(close), lambda: jnp.zeros_like(near), looked_for)
  offset = jnp.where(close, 0.0, offset)

  def sums(points, rows, row_weight, slope, offset):
    steep = slope * math.log2(math.e)
    kernel = lambda axes: _exp2(steep * beyond(over_rows.distance(axes), offset))
    return over_rows.over_rows(points, rows, row_weight, kernel)

  total = jax.vmap(sums)(points, rows, row_weight, slope, offset)
  return jnp.log(total) + slope[:, None] * beyond(offset, 0.0)


def _exp2(x):
  """2^x for x <= 0, right to 2e-7, and at least 2^-126: a third of the time of `jnp.exp2` on CPU. Not to be differentiated."""
  if x.dtype != np.float32:
    return jnp.exp2(x)
  x = jnp.where(x < -126.0, np.float32(-126.0), x)  # so that NaN stays
  whole = jax.lax.round(x, jax.lax.RoundingMethod.TO_NEAREST_EVEN)
  part, power = x - whole, jnp.full_like(x, _POWERS[-1])
  for factor in _POWERS[-2::-1]:
    power = power * part + np.float32(factor)
  bits = functools.partial(jax.lax.bitcast_convert_type, new_dtype=jnp.int32)
  # Adding 1.5 2^23 leaves a whole number in the last bits, from where it is moved to the exponent's.
  return jax.lax.bitcast_convert_type(bits(power) + (bits(whole + np.float32(1.5 * 2**23)) << 23), x.dtype)


def _by_difference(points, rows, row_weight, bandwidth, gaussian):
  def add_axis(squared, axis):
    point, row = axis
    return squared + (point[:, None] - row[None, :]) ** 2, None

  start = jnp.zeros((points.shape[0], rows.shape[0])) + 0 * points[:, :1] + 0 * jnp.minimum(rows[:, 0], 1.0)[None]
  squared = jax.lax.scan(add_axis, start, (points.T, rows.T))[0]
  return _from_squared(squared, row_weight, bandwidth, gaussian)


def _by_matmul(points, rows, row_weight, bandwidth, gaussian):
  centre = jnp.mean(points, axis=0)
  a, b = points - centre[None], rows - centre[None]
  squared = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None] - 2 * matmul(a, b.T)
  return _from_squared(jnp.maximum(squared, 0.0), row_weight, bandwidth, gaussian)


def _from_squared(squared, row_weight, bandwidth, gaussian):
  tophat = lambda: jnp.where(squared < bandwidth**2, 0.0, -jnp.inf)
  exponent = jnp.where(gaussian, -0.5 * squared / bandwidth**2, tophat())
  return logsumexp(exponent, axis=1, b=None if row_weight is None else row_weight[None])


def log_kernel_volume(kernel: str, dim: int) -> float:
  """log of the integral of the kernel at bandwidth 1: (2 pi)^(dim/2), or the volume of the unit ball."""
  if kernel == "gaussian":
    return 0.5 * dim * math.log(2 * math.pi)
  return 0.5 * dim * math.log(math.pi) - math.lgamma(dim / 2 + 1)


def kernel_variance(kernel: str, dim: int) -> float:
  """Variance per coordinate of the kernel at bandwidth 1: 1, or 1 / (dim + 2) on the ball."""
  return 1.0 if kernel == "gaussian" else 1 / (dim + 2)


def kernel_noise(key: Array, kernel: str, num: int, dim: int) -> Array:
  """[num, dim] draws from the kernel at bandwidth 1."""
  if kernel == "gaussian":
    return normal(key, (num, dim))
  return jax.random.ball(key, dim, shape=(num,))


def rule_bandwidth(rule: str, count, spread, dim: int):
  """Bandwidth of a rule for `count` rows; `spread` in data units is used by the scaled rules only."""
  size = count if rule.startswith("scott") else count * (dim + 2) / 4
  factor = size ** (-1 / (dim + 4))
  return factor * spread if rule.endswith("_scaled") else factor


def _midpoints(centers):
  """[k (k - 1) / 2, dim] between each two of [k, dim]."""
  first, second = np.triu_indices(len(centers), 1)
  return 0.5 * (centers[first] + centers[second])


def _far_share(rows, centers, weight):
  squared = jnp.sum((rows[:, None] - centers[None]) ** 2, axis=-1)
  return jnp.sum(weight * (jnp.min(squared, axis=1) > FAR**2)) / jnp.sum(weight)


@jax.jit
def _moments(rows, row_weight):
  """Count, mean [dim] and total squared deviation of weighted rows."""
  if row_weight is None:
    mean = jnp.mean(rows, axis=0)
    return jnp.asarray(rows.shape[0], float), mean, jnp.sum((rows - mean[None]) ** 2)
  count = jnp.sum(row_weight)
  mean = jnp.sum(row_weight[:, None] * rows, axis=0) / jnp.maximum(count, 1e-30)
  return count, mean, jnp.sum(row_weight[:, None] * (rows - mean[None]) ** 2)


def _check(num_samples, bandwidth, kernel, num_test, temperature) -> str:
  """Raises on a bad argument; returns the rule, or "" where the bandwidth is a number."""
  check_integer("num_samples", num_samples, 2, MAX_ROWS)
  check_integer("num_test", num_test, 1, MAX_ROWS)
  if kernel not in KERNELS:
    raise Refused.must_be("kernel", f"one of {', '.join(KERNELS)}", kernel)
  check_positive("temperature", temperature)
  if isinstance(bandwidth, str):
    if bandwidth not in BANDWIDTH_RULES:
      raise Refused.must_be("bandwidth", f"a number above 0 or one of {', '.join(BANDWIDTH_RULES)}", bandwidth)
    return bandwidth
  check_positive("bandwidth", bandwidth)
  return ""
