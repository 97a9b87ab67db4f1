"""Which rows each generation is fitted to, and what follows from it exactly for second moments (all derived).

Every law here is a function of a `Schedule`, and holds under all of them: batches of any sizes, pools, windows, tables of
weights, real data once or anew, subsets.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from collapse_jax.refused import Refused
from collapse_jax.theory.gaussian import Moments, _mean_log_chi2

__all__ = [
  "Schedule",
  "SecondMoments",
  "light_until",
  "schedule_family",
  "schedule_kde_variance",
  "schedule_log_det",
  "schedule_moments",
  "schedule_noise",
  "schedule_of_weights",
  "schedule_trace_variance",
  "second_moments",
]


class Schedule(NamedTuple):
  """The training data of generations 1..T. Batch j = 0..T-1 is the real one (j = 0) or that of model j.

  Attributes:
    sizes: [T] rows of batch j.
    slots: [T] the place where batch j lies, 0 for j = 0; it takes that of the batch that lay there before.
    factor: [T, places] what a row in each place counts in generation t, in row t - 1; None: 1.
    real_weight: share of place 0 wherever there are rows in another; None: every row counts alike.
    pooled: batches join those in place 0, the only one.
    redrawn: rows of the subset of the pool that each generation is fitted to; 0: all rows. Pooled only.
    fresh: place 0 holds another real batch from generation 2 on.
  """

  sizes: np.ndarray
  slots: np.ndarray
  factor: np.ndarray | None = None
  real_weight: float | None = None
  pooled: bool = False
  redrawn: int = 0
  fresh: bool = False

  @property
  def alone(self) -> bool:
    """Whether every generation is fitted to the newest batch alone."""
    return not self.pooled and _num_places(self) == 1

  @property
  def weights(self) -> np.ndarray:
    """[T, T] expected share of batch j in generation t, in row t - 1; rows sum to 1."""
    num_generations = len(self.sizes)
    if self.pooled:
      counts = np.tril(np.broadcast_to(self.sizes, (num_generations, num_generations)))
      return counts / counts.sum(axis=1, keepdims=True)
    table, lies = np.zeros((num_generations, num_generations)), np.full(_num_places(self), -1)
    count = np.zeros(len(lies))
    for t in range(num_generations):
      _put(self, lies, count, t)
      shares, _ = _shares(self, count, t)
      table[t, lies[lies >= 0]] = shares[lies >= 0]
    return table

  @property
  def rows(self) -> np.ndarray:
    """[T] rows that each generation is fitted to, as they count."""
    if self.pooled:
      return np.full(len(self.sizes), float(self.redrawn)) if self.redrawn else np.cumsum(self.sizes, dtype=float)
    lies, count = np.full(_num_places(self), -1), np.zeros(_num_places(self))
    found = np.empty(len(self.sizes))
    for t in range(len(found)):
      _put(self, lies, count, t)
      found[t] = _shares(self, count, t)[1]
    return found


def schedule_of_weights(weights, sizes, redrawn: bool = False) -> Schedule | None:
  """The schedule of a workflow that is known by its weights alone; None where these do not tell it.

  Args:
    weights: [T, T] share of batch j in generation t, in row t - 1; rows sum to 1.
    sizes: [T] rows of batch j.
    redrawn: each generation is fitted to a subset of sizes[0] rows: known where it is one of all rows so far.
  """
  weights, sizes = np.asarray(weights, float), np.asarray(sizes, float)
  num = len(sizes)
  newest = Schedule(sizes, np.zeros(num, int))
  pool = newest._replace(pooled=True, redrawn=int(sizes[0]) if redrawn else 0)
  if np.allclose(pool.weights, weights, atol=1e-9):
    return pool
  if redrawn:
    return None
  if np.allclose(weights, np.eye(num), atol=1e-9):
    return newest
  used = weights > 0
  if (used & (sizes <= 0)).any():
    return None
  rows = np.where(used, sizes, 0.0).sum(axis=1, keepdims=True)
  factor = np.divide(weights * rows, sizes, out=np.zeros_like(weights), where=used)
  return Schedule(sizes, np.arange(num), factor)


def _num_places(schedule: Schedule) -> int:
  return 1 if schedule.pooled else int(np.max(schedule.slots)) + 1


def _put(schedule: Schedule, lies, count, t) -> None:
  """Batch t in its place; an empty one is not kept."""
  if schedule.sizes[t] > 0:
    lies[schedule.slots[t]], count[schedule.slots[t]] = t, schedule.sizes[t]


def _shares(schedule: Schedule, count, t) -> tuple[np.ndarray, float]:
  """Shares [places] of generation t + 1, and the number of rows that a fit takes them for."""
  rows = count if schedule.factor is None else count * schedule.factor[t]
  shares = rows
  if schedule.real_weight is not None:
    shares = np.append(schedule.real_weight, np.full(len(count) - 1, 1 - schedule.real_weight)) * (count > 0)
  return shares / shares.sum(), float(rows.sum())


class SecondMoments(NamedTuple):
  """Of the fits, over all randomness of a run, in units of the truth's variance.

  Attributes:
    variance: [T] expected variance of the fitted rows about their own mean, by the fit's divisor.
    error: [T] expected square of the fitted mean's distance from the truth's.
    rows: [T] that a fit takes its data for.
  """

  variance: np.ndarray
  error: np.ndarray
  rows: np.ndarray


def second_moments(
  schedule: Schedule,
  emitted: Callable[[float, float, float], float],
  *,
  unbiased: bool = False,
  first: float | None = None,
  limit: bool = False,
) -> SecondMoments:
  """Means and variances of all models, exact: rows are drawn with the fitted mean, whatever else their law is.

  Batches are held by the expected variance S_i within each and the products K_ij = E (m_i - mu)(m_j - mu) of their means. With
  shares w, the fitted mean errs by w K w, and the rows' variance is sum w_i (S_i + K_ii) - w K w. A batch of m rows of
  variance Q drawn from that fit has S = (1 - 1/m) Q, covariance K w with the others and K = w K w + Q/m. A subset of n of N
  rows has variance N (1 - 1/n) / (N - 1) times the pool's, and (N - n) / (n (N - 1)) times it is added to the error.

  Args:
    emitted: (variance, error, rows) of a fit -> variance Q of the rows drawn from it, in units of the truth's.
    unbiased: fits divide by (rows - 1).
    first: variance of the real batch about its own mean, by its number of rows, where it is given: errors are then distances
      from that mean. Not with fresh real data.
    limit: instead of trajectories, what they tend to if the schedule goes on as it ends: numbers, infinite where they grow without
      bound, NaN where that is not known. `emitted` must then be affine in variance and error.
  Raises:
    ValueError: `first` with fresh real data.
  """
  if schedule.fresh and first is not None:
    raise Refused("fresh real data are not those of the first generation.")
  num = float(schedule.sizes[0])
  real = (1 - 1 / num, 1 / num) if first is None else (first, 0.0)
  pooled = _num_places(schedule) == 1 and (schedule.pooled or not limit)
  if limit:
    return (_pooled_limit if pooled else _placed_limit)(schedule, emitted, unbiased, *real)
  track = _pooled_moments if pooled else _placed_moments
  return SecondMoments(*map(np.array, zip(*track(schedule, emitted, unbiased, *real))))


def _divided(variance, rows, unbiased):
  return variance * (rows / (rows - 1) if rows > 1 else np.nan) if unbiased else variance


def _pooled_moments(schedule, emitted, unbiased, variance, error):
  """One place only: a pool, or the last batch alone."""
  sizes = schedule.sizes.tolist()
  count = sizes[0]
  for t in range(len(sizes)):
    fitted, apart, rows = variance, 0.0, count
    if schedule.redrawn:
      rows, beyond_one = float(schedule.redrawn), max(count - 1, 1e-300)
      fitted = count / beyond_one * (1 - 1 / rows) * variance
      apart = (count - rows) / (rows * beyond_one) * variance
    fitted = _divided(fitted, rows, unbiased)
    yield fitted, error + apart, rows
    num = sizes[t + 1] if t + 1 < len(sizes) else 0.0
    if num == 0:
      continue
    drawn = emitted(fitted, error + apart, rows)
    apart = apart + drawn / num  # of the batch's mean from the pool's, in square
    share = num / (count + num) if schedule.pooled else 1.0
    error = error + share**2 * apart
    variance = (1 - share) * variance + share * (1 - 1 / num) * drawn + share * (1 - share) * apart
    count = count + num if schedule.pooled else num


def _placed_moments(schedule, emitted, unbiased, variance, error, ends=None):
  """Batches in places; `ends` is filled with the places (within, product, lies), and shares and rows, of the last generation."""
  places, sizes = _num_places(schedule), schedule.sizes.tolist()
  within, product = np.zeros(places), np.zeros((places, places))
  lies, count = np.full(places, -1), np.zeros(places)
  within[0], product[0, 0] = variance, error
  for t in range(len(sizes)):
    if schedule.fresh and t > 0:
      product[0], product[:, 0] = 0.0, 0.0
      product[0, 0] = error
    _put(schedule, lies, count, t)
    shares, rows = _shares(schedule, count, t)
    between, fitted, fitted_error = _fit(shares, within, product, rows, unbiased)
    yield fitted, fitted_error, rows
    if t + 1 < len(sizes) and sizes[t + 1] > 0:
      drawn, num, place = emitted(fitted, fitted_error, rows), sizes[t + 1], schedule.slots[t + 1]
      product[place], product[:, place] = between, between
      product[place, place], within[place] = fitted_error + drawn / num, (1 - 1 / num) * drawn
  if ends is not None:
    ends.append((within, product, lies, shares, rows))


def _fit(shares, within, product, rows, unbiased) -> tuple[np.ndarray, float, float]:
  """Products of the fitted mean's error with each batch's, variance and squared error of the fit."""
  between = product @ shares
  error = float(shares @ between)
  return between, _divided(float(shares @ (within + product.diagonal())) - error, rows, unbiased), error


# --------------------------------------------------------------------------------------------- limits
_UNKNOWN = SecondMoments(*map(np.array, (np.nan, np.nan, np.nan)))
_LAGS = 8  # a generation may look back so far


def _pooled_limit(schedule, emitted, unbiased, variance, error) -> SecondMoments:
  """Of a pool that grows by as many rows in each generation: what is left to come falls like powers of 1 / t."""
  sizes = schedule.sizes
  if len(sizes) < 2 or (sizes[1:] != sizes[1]).any() or not sizes[0] <= 4 * sizes[1]:
    return _UNKNOWN  # unless the pool soon has many times as many rows, nothing is seen of how it ends
  num = 1024
  long = schedule._replace(sizes=np.append(sizes[0], np.full(num - 1, sizes[1])), slots=np.zeros(num, int))
  found = np.array(list(_pooled_moments(long, emitted, unbiased, variance, error)))
  at = found[num // 2 ** np.arange(6, -1, -1) - 1]  # 16, 32, .. 1024 generations
  return SecondMoments(*map(np.array, (_extrapolated(at[:, 0]), _extrapolated(at[:, 1]), np.inf)))


def _extrapolated(values) -> float:
  """Limit of values at t, 2 t, 4 t, ... of a function that is a series in 1 / t, infinite where it grows like log t or faster."""
  steps = np.diff(values)
  if not np.isfinite(values).all():
    return np.nan
  if (steps[-3:] == 0).all():
    return float(values[-1])
  if (np.abs(steps[1:]) > 0.97 * np.abs(steps[:-1])).all() and (steps * steps[-1] > 0).all():
    return float(np.copysign(np.inf, steps[-1]))
  best = [values]
  for power in range(1, len(values)):  # Richardson
    best.append((2**power * best[-1][1:] - best[-1][:-1]) / (2**power - 1))
  last, before = best[-1][-1], best[-2][-1]
  return float(last) if abs(last - before) <= 1e-7 * abs(last) else np.nan


def _placed_limit(schedule, emitted, unbiased, variance, error) -> SecondMoments:
  """Where each generation looks back on the real batch and the last few as the one before did, moments obey an affine map: its
  powers, by repeated squaring from where the schedule ends."""
  lags = _lags(schedule)
  if lags is None:
    return _UNKNOWN
  ends: list = []
  for _ in _placed_moments(schedule, emitted, unbiased, variance, error, ends):
    pass
  within, product, lies, shares, rows = ends[0]
  last = len(schedule.sizes) - 1
  place = {batch: i for i, batch in enumerate(lies) if batch >= 0}
  kept = [place[0]] if 0 in place and shares[place[0]] > 0 else []
  real = len(kept)
  kept += [place[last - lag] for lag in range(lags)]
  within, product, shares = within[kept], product[np.ix_(kept, kept)], shares[kept]
  num, size = schedule.sizes[-1], len(kept)
  upper = np.triu_indices(size)

  def unpacked(state):
    full = np.zeros((size, size))
    full[upper] = state[size:]
    return state[:size], full + np.triu(full, 1).T

  def fit(state):
    within, product = unpacked(state)
    return _fit(shares, within, product, rows, unbiased)

  def step(state):
    within, product = unpacked(state)
    between, fitted, fitted_error = fit(state)
    drawn = emitted(fitted, fitted_error, rows)
    moved = [*range(real), real, *range(real, size - 1)]  # the newest batch comes first of those of models
    next_product = product[np.ix_(moved, moved)]
    next_within = within[moved]
    next_product[real], next_product[:, real] = between[moved], between[moved]
    next_product[real, real], next_within[real] = fitted_error + drawn / num, (1 - 1 / num) * drawn
    if real and schedule.fresh:
      next_product[0, 1:], next_product[1:, 0] = 0.0, 0.0
    return np.append(next_within, next_product[upper])

  start = np.append(within, product[upper])
  zero = step(np.zeros_like(start))
  matrix = np.zeros((len(start) + 1,) * 2)
  matrix[:-1, :-1] = np.stack([step(unit) - zero for unit in np.eye(len(start))], axis=1)
  matrix[:-1, -1], matrix[-1, -1] = zero, 1.0
  return SecondMoments(*map(np.array, (*_settled(matrix, np.append(start, 1.0), lambda x: fit(x[:-1])[1:]), rows)))


def _lags(schedule) -> int | None:
  """How many of the latest batches a generation is fitted to, besides the real one, if the last half of the generations is all
  alike; else None."""
  num_generations = len(schedule.sizes)
  late = range(num_generations // 2, num_generations)
  if num_generations < 2 or len(set(schedule.sizes[1:].tolist())) > 1 or schedule.sizes[-1] <= 0:
    return None
  if _num_places(schedule) == 1:
    return 1
  lies, count = np.full(_num_places(schedule), -1), np.zeros(_num_places(schedule))
  seen = []
  for t in range(num_generations):
    _put(schedule, lies, count, t)
    if t in late:
      shares, rows = _shares(schedule, count, t)
      used = (lies >= 0) & (shares > 0)
      age = {int(t - batch): share for batch, share in zip(lies[used], shares[used]) if batch > 0}
      seen.append((age, float(shares[used & (lies == 0)].sum()), rows))
  lags = max(seen[-1][0], default=-1) + 1
  alike = lambda one: (
    one[0].keys() == seen[-1][0].keys()
    and np.allclose([*one[0].values(), *one[1:]], [*seen[-1][0].values(), *seen[-1][1:]], rtol=1e-9)
  )
  # Where all batches so far are in use, or too few are seen to tell, nothing says how it goes on.
  enough = len(late) >= 2 and 1 <= lags <= min(_LAGS, late[0])
  return lags if enough and all(map(alike, seen)) else None


def _settled(matrix, start, looked_at) -> list[float]:
  """Limits of the (variance, error) looked at in the powers of a matrix on a vector; infinite where they grow, NaN where they do
  neither."""
  found = [np.array(looked_at(start))]
  noise = lambda pair: np.array(
    [1e-14 * np.abs(pair).sum(), 1e-30]
  )  # the variance is a difference of numbers of that size
  for k in range(40):
    state = matrix @ start
    if not np.isfinite(matrix).all() or np.abs(state).max() > 1e100:
      break
    found.append(np.array(looked_at(state)))
    matrix = matrix @ matrix
    steps = np.abs(np.diff(found[-3:], axis=0))
    close = steps[-1] <= max(1e-11, 1e-15 * 2.0**k) * np.abs(found[-1]) + noise(found[-1])
    if len(steps) == 2 and (close & ((steps[1] <= 0.6 * steps[0]) | (steps[1] <= noise(found[-1])))).all():
      return [float(x) if abs(x) > least else 0.0 for x, least in zip(found[-1], noise(found[-1]))]
  limits = []
  for values in np.array(found).T:
    steps = np.abs(np.diff(values))
    settled = len(steps) > 2 and steps[-1] <= 1e-9 * abs(values[-1]) and steps[-1] <= 0.6 * steps[-2]
    grows = len(steps) > 6 and (steps[-6:] > 1.5 * steps[-7:-1]).all() and abs(values[-1]) > 1e3 * abs(values[0])
    if grows:
      limits.append(float(np.copysign(np.inf, values[-1])))
    else:
      vanished = abs(values[-1]) <= 1e-12 * np.abs(values).max()
      limits.append(0.0 if settled and vanished else float(values[-1]) if settled else np.nan)
  return limits


# --------------------------------------------------------------------------------------- laws of single tasks
def schedule_moments(
  schedule: Schedule, *, unbiased: bool = False, temperature: float = 1.0, limit: bool = False
) -> Moments:
  """Moments of Gaussians, and of frequencies of outcomes, under a schedule, exact.

  Args:
    unbiased: fits divide by (rows - 1).
    temperature: factor of the variance that rows are drawn with.
    limit: as in `second_moments`, here and below.
  """
  emitted = lambda variance, error, rows: temperature * variance
  found = second_moments(schedule, emitted, unbiased=unbiased, limit=limit)
  return Moments(found.variance, found.error)


def schedule_trace_variance(
  schedule: Schedule, dim: int, *, unbiased: bool = False, temperature: float = 1.0
) -> np.ndarray | None:
  """Variance over runs of the trace ratio of Gaussians [T]: exact where each model is fitted to one batch alone, else a lower
  bound, what it varies with the real batch; None with fresh real data. The truth is N(., I), or one close to it.

  For m + 1 rows of covariance A, E (tr W)^2 = m^2 (tr A)^2 + 2 m tr A^2 and E tr W^2 = m (m + 1) tr A^2 + m (tr A)^2, W Wishart.

  Args:
    schedule: of T generations.
    dim: of the rows.
    unbiased: fits divide by (rows - 1).
    temperature: factor of the variance that rows are drawn with.
  """
  sizes = np.asarray(schedule.sizes, float)
  if schedule.fresh:
    return None
  if schedule.pooled or _num_places(schedule) > 1:
    given = lambda first: (
      second_moments(
        schedule, lambda variance, error, rows: temperature * variance, unbiased=unbiased, first=first
      ).variance
    )
    return (given(1.0) - given(0.0)) ** 2 * 2 * (sizes[0] - 1) / (sizes[0] ** 2 * dim)
  excess, of_square, mean, found = 0.0, 1.0 / dim, 1.0, []  # (tr A / d)^2 - mean^2, tr A^2 / d^2, mean of tr A / d
  for t, num in enumerate(sizes):
    m, scale = num - 1, (temperature if t else 1.0) / (num - 1 if unbiased else num)
    total = excess + mean**2
    excess = scale**2 * (m**2 * excess + 2 * m * of_square)
    of_square = scale**2 * (m * (m + 1) * of_square + m * total)
    mean = scale * m * mean
    found.append(excess)
  return np.array(found)


def light_until(schedule: Schedule, most: float) -> int | None:
  """The last generation until which products of random factors have light tails; None: all of them.

  They soon have tails too heavy for the spread of a sample to mean anything. As a measure serves the squared error of a mean in
  units of the truth's variance, to first order: t / num_samples under `replace`.
  """
  heavy = schedule_noise(schedule) / schedule.sizes[0] > most * (1 + 1e-9)
  return int(np.argmax(heavy)) if heavy.any() else None


def schedule_family(schedule: Schedule, curvature: float, *, limit: bool = False) -> np.ndarray:
  """E (mean_t - mu)^2 / V(mu) [T] for the mean of a natural exponential family with quadratic variance function, exact.

  Rows of a model have the variance V(mean_t), whose expectation is V(mu) (1 + c E (mean_t - mu)^2 / V(mu)); curvature c as in
  `quadratic_family`.

  Args:
    schedule: of T generations.
    curvature: c, see `quadratic_family`.
    limit: as in `second_moments`.
  """
  return second_moments(schedule, lambda variance, error, rows: 1 + curvature * error, limit=limit).error


def schedule_noise(schedule: Schedule, *, temperature: float = 1.0, limit: bool = False) -> np.ndarray:
  """[T] error of the mean over the first model's, of rows that have the truth's variance times the temperature in every batch.

  Exact for least squares on one design, whose estimates from batches pool like means of rows; first order for any smooth
  estimator. Under `replace` at temperature 1 it is t: a fitted variance is then a product of that many factors.

  Args:
    schedule: of T generations.
    temperature: factor of the variance that rows are drawn with.
    limit: as in `second_moments`.
  """
  found = second_moments(schedule, lambda variance, error, rows: temperature, limit=limit)
  return found.error * schedule.sizes[0]


def schedule_kde_variance(
  schedule: Schedule,
  kernel_variance: Callable[[float], float],
  *,
  scaled: bool = False,
  temperature: float = 1.0,
  first: float | None = None,
  limit: bool = False,
) -> np.ndarray:
  """Expected variance per coordinate of a kernel density estimate [T]: that of its rows and its kernel's, exact.

  Args:
    kernel_variance: (rows of the training data) -> variance of the kernel per coordinate, in units of the truth's variance,
      or of those in which `first` is given.
    scaled: it is in units of the variance of the training data instead.
    temperature: factor of the kernel's variance when rows are drawn.
    first: as in `second_moments`, in which the result is linear.
  """
  kernel = lambda variance, rows: kernel_variance(rows) * (variance if scaled else 1.0)
  emitted = lambda variance, error, rows: variance + temperature * kernel(variance, rows)
  found = second_moments(schedule, emitted, first=first, limit=limit)
  return found.variance + np.vectorize(kernel, otypes=[float])(found.variance, found.rows)


def schedule_log_det(
  schedule: Schedule, dim: int, *, unbiased: bool = False, temperature: float = 1.0, limit: bool = False
) -> Any:
  """Mean and variance over runs of log(det cov_t / det cov_0), nats, exact; NaN from where there is no closed form.

  As `gaussian_replace_log_det`, for batches of any sizes while each model is fitted to one batch alone and its rank does not
  fall; the first generation's law is that of every schedule.

  Args:
    schedule: of T generations.
    dim: of the rows.
    unbiased: fits divide by (rows - 1).
    temperature: factor of the variance that rows are drawn with.
    limit: return what the mean tends to instead.
  Returns:
    mean [T], variance [T]; or the limit of the mean.
  """
  num_generations = len(schedule.sizes)
  mean, variance = np.full(num_generations, np.nan), np.full(num_generations, np.nan)
  rank = int(min(dim, schedule.sizes[0] - 1))
  alone = _num_places(schedule) == 1 and not schedule.pooled
  total, spread = 0.0, 0.0

  @functools.cache
  def later(num):
    """What a generation of num rows adds to mean and variance."""
    degrees = num - 1 - np.arange(rank)
    added = float(np.sum(_mean_log_chi2(degrees, num))) + rank * np.log(temperature)
    return added, float(np.sum(special.polygamma(1, degrees / 2)))

  for t, num in enumerate(np.asarray(schedule.sizes, float).tolist()):
    if (t > 0 and not alone) or num - 1 < rank or rank < 1:
      break
    if t == 0:
      degrees = max(dim, num - 1) - np.arange(rank)
      added = float(np.sum(_mean_log_chi2(degrees, num))), float(np.sum(special.polygamma(1, degrees / 2)))
    else:
      added = later(num)
    total += added[0] - (rank * np.log1p(-1 / num) if unbiased else 0.0)
    spread += added[1]
    mean[t], variance[t] = total, spread
  if limit:
    sizes = schedule.sizes
    step = mean[-1] - mean[-2] if num_generations > 1 and (sizes[1:] == sizes[1]).all() else np.nan
    return float(np.copysign(np.inf, step)) if abs(step) > 0 else step
  return mean, variance
