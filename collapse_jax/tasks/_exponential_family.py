"""One-parameter exponential families, fitted by maximum likelihood: the mean of the rows (Dey and Donoho 2410.22812).

All that matters of a batch is the sum of its rows, whose law is exact. Real rows are drawn given their sum, so that a run has
the same real data whether it draws rows or not.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.random import binomial, chi_squares, fold_in, index, normal, poisson, poisson_rows, split, uniform
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks.parts import MeanStats, add_means, check_draws, check_positive, known, rows_unless_refused
from collapse_jax.types import Array, Context, Expected, MetricInfo, Summary, TaskSetting

MOST_ROWS = 10**12  # of a batch


class Mean(NamedTuple):
  """The mean of a density by its distances, each with the digits of a float however small it is. All pool as means do.

  Attributes:
    mean: from 0.
    rest: 1 - mean of a Bernoulli density, else None.
    deviation: mean - that of the truth: what a float does not show of it at a billion rows.
  """

  mean: Any
  rest: Any
  deviation: Any


class Family(NamedTuple):
  """A natural exponential family with quadratic variance function.

  Attributes:
    draw: (key, at, num) -> rows [num].
    given: (key, mean, num) -> rows [num] by their law, given their mean.
    pooled: (key, at, num) -> the mean of num rows, by its law; num may be traced and large.
    variance: (mean) -> variance of one row.
    slope: coefficient of the mean in the variance.
    curvature: coefficient of mean^2 in the variance, as `theory.quadratic_family` has it.
    tempered: (at, truth, temperature) -> mean of the density to the power 1 / temperature; None: outside the family.
    support: (least, most) mean; at a finite end the rows do not vary any more.
  """

  draw: Callable[[Array, Mean, int], Array]
  given: Callable[[Array, Array, int], Array]
  pooled: Callable[[Array, Mean, Array], Mean]
  variance: Callable[[Array], Array]
  slope: float
  curvature: float
  tempered: Callable[[Mean, Array, Any], Mean] | None
  support: tuple[float, float]


def _bernoulli_draw(key, at, num):
  swapped = at.mean > at.rest  # the rarer outcome is drawn: its probability has the digits
  rare = uniform(key, num) < jnp.where(swapped, at.rest, at.mean)
  return jnp.where(jnp.isnan(at.mean), jnp.nan, (rare != swapped).astype(float))


def _bernoulli_given(key, mean, num):
  return jax.random.permutation(key, (jnp.arange(num) < jnp.round(mean * num)).astype(float))


def _bernoulli_pooled(key, at, num):
  swapped = at.mean > at.rest
  count, above = binomial(key, num, jnp.where(swapped, at.rest, at.mean), jnp.where(swapped, at.mean, at.rest))
  few, many = count / num, (num - count) / num
  return Mean(
    jnp.where(swapped, many, few), jnp.where(swapped, few, many), at.deviation + jnp.where(swapped, -above, above) / num
  )


def _bernoulli_tempered(at, truth, temperature):
  near = _near(at, truth, (0.0, 1.0))
  off = jnp.where(near, at.deviation, 0.0)
  odds = jnp.log(truth) - jnp.log1p(-truth) + jnp.log1p(off / truth) - jnp.log1p(-off / (1 - truth))
  odds = jnp.where(near, odds, jnp.log(at.mean) - jnp.log(at.rest))
  swapped = odds > 0
  size, few, many = jnp.abs(odds), jnp.where(swapped, at.rest, at.mean), jnp.where(swapped, at.mean, at.rest)
  power = jnp.exp(-size / temperature)  # of the rarer outcome, against the other: 0 stays 0
  gain = jnp.where(few > 0, (1 - 1 / temperature) * size, 0.0)
  change = few * many * jnp.expm1(gain) / (many + few * jnp.exp(gain))  # 0 at temperature 1
  rare, common = power / (1 + power), 1 / (1 + power)
  return Mean(
    jnp.where(swapped, common, rare),
    jnp.where(swapped, rare, common),
    at.deviation + jnp.where(swapped, -change, change),
  )


def _poisson_given(key, mean, num):
  """Most rows freely, with a sum that hardly ever exceeds the given one; what is missing then goes to rows at random."""
  free_key, rest_key = split(key)
  total = jnp.round(mean * num)
  free = poisson_rows(free_key, jnp.maximum(total - 6 * jnp.sqrt(total) - 10, 0.0) / num, num)
  free = jnp.where(jnp.sum(free) <= total, free, 0.0)

  def spread(state):
    i, rows, left = state
    more = (jnp.arange(num) < left).astype(float)
    return i + 1, rows.at[index(fold_in(rest_key, i), num, num)].add(more), left - num

  return jax.lax.while_loop(lambda state: state[2] > 0, spread, (0, free, total - jnp.sum(free)))[1]


def _poisson_pooled(key, at, num):
  count, above = poisson(key, num, at.mean)
  return Mean(count / num, None, at.deviation + above / num)


def _exponential_given(key, mean, num):
  rows = -jnp.log(uniform(key, num))
  return mean * (rows / jnp.mean(rows))


def _exponential_pooled(key, at, num):
  value, excess = chi_squares(key, 2 * num[None])
  return Mean(at.mean * value[0] / (2 * num), None, at.deviation + at.mean * excess[0])


def _gaussian_given(key, mean, num):
  rows = normal(key, (num,))
  return mean + (rows - jnp.mean(rows))


def _gaussian_pooled(key, at, num):
  off = normal(key) / jnp.sqrt(num)
  return Mean(at.mean + off, None, at.deviation + off)


FAMILIES = {
  "bernoulli": Family(
    _bernoulli_draw,
    _bernoulli_given,
    _bernoulli_pooled,
    lambda mean: mean * (1 - mean),
    1.0,
    -1.0,
    _bernoulli_tempered,
    (0.0, 1.0),
  ),
  "poisson": Family(
    lambda key, at, num: poisson_rows(key, at.mean, num),
    _poisson_given,
    _poisson_pooled,
    lambda mean: mean,
    1.0,
    0.0,
    None,
    (0.0, np.inf),
  ),
  "exponential": Family(
    lambda key, at, num: -at.mean * jnp.log(uniform(key, num)),
    _exponential_given,
    _exponential_pooled,
    lambda mean: mean**2,
    0.0,
    1.0,
    lambda at, truth, temperature: Mean(at.mean * temperature, None, at.deviation + at.mean * (temperature - 1)),
    (0.0, np.inf),
  ),
  "gaussian": Family(
    lambda key, at, num: at.mean + normal(key, (num,)),
    _gaussian_given,
    _gaussian_pooled,
    jnp.ones_like,
    0.0,
    0.0,
    None,
    (-np.inf, np.inf),
  ),
}

# The first tells of every family whether it collapses. Under `replace` either the variance of the model vanishes while its mean
# comes to rest elsewhere, so that the error of the mean is bounded, or the variance is known and the mean goes away.
METRICS = {
  "variance_share": MetricInfo(
    "variance of the model / mean squared distance of its rows from the truth", worse="lower", log_scale=True
  ),
  "squared_error_of_mean": MetricInfo(
    "squared error of the fitted mean", "data units squared", worse="higher", log_scale=True, measures="risk"
  ),
  "variance_ratio": MetricInfo(
    "variance of the fitted model / variance of the truth", worse="lower", log_scale=True, measures="variance"
  ),
  "fitted_mean": MetricInfo("fitted mean", "data units"),
}


@citing("2410.22812")
def exponential_family(family: str, num_samples, mean=None, *, temperature=1.0, draws: str = "auto") -> TaskSetting:
  """The mean of a Bernoulli, Poisson or exponential distribution, or of a Gaussian with variance 1.

  Args:
    family: "bernoulli", "poisson", "exponential" or "gaussian".
    num_samples: rows per batch, from 2 to 1e12; any traced number under draws="law".
    mean: of the truth, inside the family's range; may be traced; default 0.5, 1, 1, 0.
    temperature: samples come from the fitted density to the power 1 / temperature, normalised; the Poisson's leaves
      the family, and the Gaussian's variance is known: they take 1 only.
    draws: "rows"; "law" draws the sum of a batch, so that the cost does not depend on num_samples; "auto" is "law" unless
      a workflow or transform needs rows. Sums of Bernoulli and Poisson rows have their law but for 5e-7 in its distribution
      function, see `random.binomial`; real data are the same under all three.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.exponential_family("poisson", num_samples=10)
  >>> print(*task.metrics)
  variance_share squared_error_of_mean variance_ratio fitted_mean
  """
  _check(family, num_samples, mean, temperature, draws)
  one = FAMILIES[family]
  law = draws != "rows"
  truth = {"bernoulli": 0.5, "gaussian": 0.0}.get(family, 1.0) if mean is None else mean
  tempered = None if known(temperature) and temperature == 1 else one.tempered

  def pooled(key, at, num):
    return one.pooled(key, at, jnp.maximum(jnp.asarray(num, float), 1.0))

  def summary_of(at, num):
    return batch(summary=MeanStats(jnp.asarray(num, float), at), count=num)

  def fresh(key, problem):
    law_key, rows_key = split(key)
    at = pooled(law_key, Mean(problem, 1 - problem if family == "bernoulli" else None, jnp.zeros(())), num_samples)
    return summary_of(at, num_samples) if law else batch(one.given(rows_key, at.mean, num_samples))

  def init(key):
    problem = jnp.asarray(truth, float)
    return problem, fresh(key, problem)

  def of(problem, rows, row_weight):
    weight = jnp.ones(rows.shape) if row_weight is None else row_weight
    count = jnp.sum(weight)
    average = lambda values: jnp.sum(weight * values) / jnp.maximum(count, 1e-30)
    return MeanStats(
      count, Mean(average(rows), average(1 - rows) if family == "bernoulli" else None, average(rows - problem))
    )

  def fit(key, problem, context: Context):
    stats = context.data.summary
    return jax.tree.map(lambda x: jnp.where(stats.count > 0, x, jnp.nan), stats.mean)  # nothing kept is no model

  def sample(key, problem, params, context: Context):
    at = params if tempered is None else tempered(params, problem, jnp.asarray(temperature, float))
    if law:
      return summary_of(pooled(key, at, context.num), context.num), {}
    return batch(one.draw(key, at, context.num)), {}

  def evaluate(key, problem, params):
    near = _near(params, problem, one.support)
    change = params.deviation * (one.slope + one.curvature * (2 * problem + params.deviation))
    variance = one.variance(params.mean) if params.rest is None else params.mean * params.rest
    error, truth = params.deviation**2, one.variance(problem)
    return {
      "variance_share": variance / (variance + error),
      "squared_error_of_mean": error,
      "variance_ratio": jnp.where(near, 1 + change / truth, variance / truth),
      "fitted_mean": jnp.where(near, problem + params.deviation, params.mean),
    }

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """The mean is a martingale, and the variance a quadratic function of it."""
    if not (known(temperature) and temperature == 1):
      return {}
    error, limit = (
      theory.schedule_family(schedule, one.curvature),
      theory.schedule_family(schedule, one.curvature, limit=True),
    )
    variance, light = float(_variance(family, truth)), theory.light_until(schedule, 0.1)
    up_to = light if light is None else max(light, 1)
    share = {}
    if family == "gaussian" and not schedule.redrawn:
      rests = np.nan if np.isnan(limit) else theory.gaussian_known_variance(limit)
      share["variance_share"] = Expected(theory.gaussian_known_variance(error), None, up_to, rests)
    return share | {
      "squared_error_of_mean": Expected(variance * error, None, up_to, variance * limit),
      "variance_ratio": Expected(
        1 + one.curvature * error, None, up_to, 1 + one.curvature * limit if one.curvature else 1.0
      ),
      "fitted_mean": Expected(np.full(len(error), float(truth)), variance * error, up_to, float(truth)),
    }

  def at_an_end(problem, params):
    return (params.mean == 0) if params.rest is None else (params.mean == 0) | (params.rest == 0)

  make = functools.partial(exponential_family, family, num_samples, mean, temperature=temperature, draws="rows")
  return TaskSetting(
    init,
    fit,
    sample,
    evaluate,
    num_samples,
    Summary(of, add_means),
    fresh,
    rows_unless_refused(draws, make),
    METRICS,
    at_an_end if family in ("bernoulli", "poisson") else None,
    predict=predict,
  )


def _variance(family: str, mean: float) -> float:
  return {"bernoulli": mean * (1 - mean), "poisson": mean, "exponential": mean**2, "gaussian": 1.0}[family]


def _near(at, truth, support):
  """Whether the deviation tells the mean better than the mean itself: far from the ends, where the mean does."""
  least, most = support
  return jnp.abs(at.deviation) < 0.5 * jnp.minimum(truth - least, most - truth)


def _check(family, num_samples, mean, temperature, draws):
  if family not in FAMILIES:
    raise Refused.must_be("family", f"one of {', '.join(FAMILIES)}", family)
  check_draws(draws, num_samples)
  if known(num_samples) and num_samples > MOST_ROWS:
    raise Refused.must_be("num_samples", f"at most {MOST_ROWS:.0e}", num_samples)
  least, most = FAMILIES[family].support
  if mean is not None and known(mean) and not least < mean < most:
    raise Refused(
      f"mean must lie between {least:g} and {most:g} for {family}, got {mean}.", argument="mean", value=mean
    )
  check_positive("temperature", temperature)
  if known(temperature) and temperature != 1 and FAMILIES[family].tempered is None:
    raise Refused(
      f"temperature must be 1 for {family}, got {temperature}: the tempered density is outside the family.",
      argument="temperature",
      value=temperature,
    )
