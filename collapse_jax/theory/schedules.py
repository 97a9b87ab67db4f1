"""Which rows each generation is fitted to, and what follows from it exactly for second moments (all derived).

Every law here is a function of a `Schedule`, and holds under all of them: batches of any sizes, pools, windows, tables of
weights, real data once or anew, subsets.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special

from collapse_jax.refused import Refused
from collapse_jax.theory.gaussian import Moments, _mean_log_chi2
from collapse_jax.vocabulary import parse_call


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


def schedule_of(workflow: str, num_samples, num_generations: int) -> Schedule | None:
  """The schedule of a workflow given as its coordinate, "mix(0.2)"; None where no workflow has that name.

  Raises:
    ValueError: neither a name nor a call with literal arguments, or these do not fit.
  """
  from collapse_jax import workflows

  if parse_call(workflow)[0] not in workflows.FACTORIES:
    return None
  schedule = workflows.parse(workflow)().schedule
  return None if schedule is None else schedule(num_samples, num_generations)


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
  Raises:
    ValueError: `first` with fresh real data.
  """
  if schedule.fresh and first is not None:
    raise Refused("fresh real data are not those of the first generation.")
  num = float(schedule.sizes[0])
  real = (1 - 1 / num, 1 / num) if first is None else (first, 0.0)
  track = _pooled_moments if _num_places(schedule) == 1 else _placed_moments
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


def _placed_moments(schedule, emitted, unbiased, variance, error):
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
    between = product @ shares  # of each batch with the fitted mean
    fitted_error = float(shares @ between)
    fitted = _divided(float(shares @ (within + product.diagonal())) - fitted_error, rows, unbiased)
    yield fitted, fitted_error, rows
    if t + 1 < len(sizes) and sizes[t + 1] > 0:
      drawn, num, place = emitted(fitted, fitted_error, rows), sizes[t + 1], schedule.slots[t + 1]
      product[place], product[:, place] = between, between
      product[place, place], within[place] = fitted_error + drawn / num, (1 - 1 / num) * drawn


# --------------------------------------------------------------------------------------- laws of single tasks
def schedule_moments(schedule: Schedule, *, unbiased: bool = False, temperature: float = 1.0) -> Moments:
  """Moments of Gaussians, and of frequencies of outcomes, under a schedule, exact.

  Args:
    unbiased: fits divide by (rows - 1).
    temperature: factor of the variance that rows are drawn with.
  """
  found = second_moments(schedule, lambda variance, error, rows: temperature * variance, unbiased=unbiased)
  return Moments(found.variance, found.error)


def schedule_trace_variance(
  schedule: Schedule, dim: int, *, unbiased: bool = False, temperature: float = 1.0
) -> np.ndarray | None:
  """Variance over runs of the trace ratio of Gaussians [T]: exact where each model is fitted to one batch alone, else a lower
  bound, what it varies with the real batch; None with fresh real data. The truth is N(., I), or one close to it.

  For m + 1 rows of covariance A, E (tr W)^2 = m^2 (tr A)^2 + 2 m tr A^2 and E tr W^2 = m (m + 1) tr A^2 + m (tr A)^2, W Wishart.
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


def schedule_family(schedule: Schedule, curvature: float) -> np.ndarray:
  """E (mean_t - mu)^2 / V(mu) [T] for the mean of a natural exponential family with quadratic variance function, exact.

  Rows of a model have the variance V(mean_t), whose expectation is V(mu) (1 + c E (mean_t - mu)^2 / V(mu)); curvature c as in
  `quadratic_family`.
  """
  return second_moments(schedule, lambda variance, error, rows: 1 + curvature * error).error


def schedule_noise(schedule: Schedule, *, temperature: float = 1.0) -> np.ndarray:
  """[T] error of the mean over the first model's, of rows that have the truth's variance times the temperature in every batch.

  Exact for least squares on one design, whose estimates from batches pool like means of rows; first order for any smooth
  estimator. Under `replace` at temperature 1 it is t: a fitted variance is then a product of that many factors.
  """
  return second_moments(schedule, lambda variance, error, rows: temperature).error * schedule.sizes[0]


def schedule_kde_variance(
  schedule: Schedule, kernel_variance: Callable[[float], float], *, temperature: float = 1.0, first: float | None = None
) -> np.ndarray:
  """Expected variance per coordinate of a kernel density estimate [T]: that of its rows and its kernel's, exact.

  Args:
    kernel_variance: (rows of the training data) -> variance of the kernel per coordinate, in units of the truth's variance,
      or of those in which `first` is given.
    temperature: factor of the kernel's variance when rows are drawn.
    first: as in `second_moments`, in which the result is linear.
  """
  emitted = lambda variance, error, rows: variance + temperature * kernel_variance(rows)
  found = second_moments(schedule, emitted, first=first)
  return found.variance + np.array([kernel_variance(rows) for rows in found.rows])


def schedule_log_det(
  schedule: Schedule, dim: int, *, unbiased: bool = False, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and variance over runs of log(det cov_t / det cov_0), nats, exact; NaN from where there is no closed form.

  As `gaussian_replace_log_det`, for batches of any sizes while each model is fitted to one batch alone and its rank does not
  fall; the first generation's law is that of every schedule.

  Returns:
    mean [T], variance [T].
  """
  num_generations = len(schedule.sizes)
  mean, variance = np.full(num_generations, np.nan), np.full(num_generations, np.nan)
  rank = int(min(dim, schedule.sizes[0] - 1))
  alone = _num_places(schedule) == 1 and not schedule.pooled
  total, spread = 0.0, 0.0
  for t, num in enumerate(np.asarray(schedule.sizes, float)):
    if (t > 0 and not alone) or num - 1 < rank or rank < 1:
      break
    degrees = (max(dim, num - 1) if t == 0 else num - 1) - np.arange(rank)
    total += float(np.sum(_mean_log_chi2(degrees, num))) + (rank * np.log(temperature) if t else 0.0)
    spread += float(np.sum(special.polygamma(1, degrees / 2)))
    total -= rank * np.log1p(-1 / num) if unbiased else 0.0
    mean[t], variance[t] = total, spread
  return mean, variance
