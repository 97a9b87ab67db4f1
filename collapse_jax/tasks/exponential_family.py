"""One-parameter exponential families, fitted by maximum likelihood: the mean of the rows (Dey and Donoho 2410.22812).

All that matters of a batch is the sum of its rows, whose law is exact.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import chi_square, normal
from collapse_jax.store import batch
from collapse_jax.tasks.parts import MeanStats, add_means, check_draws, check_positive, known
from collapse_jax.types import Array, Context, MetricInfo, Summary, TaskSetting


class Family(NamedTuple):
  """A natural exponential family with quadratic variance function, by its mean.

  Attributes:
    draw: (key, mean, num) -> rows [num].
    total: (key, mean, num) -> sum of num rows, from its exact law; num may be traced and large.
    variance: (mean) -> variance of one row.
    curvature: coefficient of mean^2 in the variance, as `theory.quadratic_family` has it.
    tempered: (mean, temperature) -> mean of the density to the power 1 / temperature; None: outside the family.
    support: (least, most) mean; at a finite end the rows do not vary any more.
  """
  draw: Callable[[Array, Array, int], Array]
  total: Callable[[Array, Array, Any], Array]
  variance: Callable[[Array], Array]
  curvature: float
  tempered: Callable[[Array, Any], Array] | None
  support: tuple[float, float]


def _gamma_total(key, mean, num):
  num = jnp.asarray(num, float)
  return mean * 0.5 * chi_square(key, 2 * num[None])[0]


FAMILIES = {
    "bernoulli": Family(
        lambda key, mean, num: jax.random.bernoulli(key, mean, (num,)).astype(float),
        lambda key, mean, num: jax.random.binomial(key, jnp.asarray(num, float), mean),
        lambda mean: mean * (1 - mean), -1.0,
        lambda mean, temperature: jax.nn.sigmoid((jnp.log(mean) - jnp.log1p(-mean)) / temperature), (0.0, 1.0)),
    "poisson": Family(
        lambda key, mean, num: jax.random.poisson(key, mean, (num,)).astype(float),
        lambda key, mean, num: jax.random.poisson(key, mean * num).astype(float),
        lambda mean: mean, 0.0, None, (0.0, np.inf)),
    "exponential": Family(
        lambda key, mean, num: mean * jax.random.exponential(key, (num,)), _gamma_total,
        lambda mean: mean ** 2, 1.0, lambda mean, temperature: mean * temperature, (0.0, np.inf)),
    "gaussian": Family(
        lambda key, mean, num: mean + normal(key, (num,)),
        lambda key, mean, num: mean * num + jnp.sqrt(jnp.asarray(num, float)) * normal(key),
        jnp.ones_like, 0.0, None, (-np.inf, np.inf)),
}

METRICS = {
    "squared_error_of_mean": MetricInfo("squared error of the fitted mean", "data units squared", worse="higher",
                                        log_scale=True, measures="risk"),
    "variance_ratio": MetricInfo("variance of the fitted model / variance of the truth", worse="lower", log_scale=True,
                                 measures="variance"),
    "fitted_mean": MetricInfo("fitted mean", "data units"),
}


def exponential_family(family: str, num_samples, mean=None, *, temperature=1.0, draws: str = "auto") -> TaskSetting:
  """The mean of a Bernoulli, Poisson or exponential distribution, or of a Gaussian with variance 1.

  Args:
    family: "bernoulli", "poisson", "exponential" or "gaussian".
    num_samples: rows per batch, at least 2; any traced number under draws="law".
    mean: of the truth, inside the family's range; may be traced; default 0.5, 1, 1, 0.
    temperature: samples come from the fitted density to the power 1 / temperature, normalised; the Poisson's leaves
      the family, and the Gaussian's variance is known: they take 1 only.
    draws: "rows"; "law" draws the sum of a batch, so that the cost does not depend on num_samples; "auto" is "law" unless
      a workflow or transform needs rows.
  Raises:
    ValueError: an argument out of range.
  """
  _check(family, num_samples, mean, temperature, draws)
  one = FAMILIES[family]
  law = draws != "rows"
  truth = {"bernoulli": 0.5, "gaussian": 0.0}.get(family, 1.0) if mean is None else mean

  def draw(key, mean, num):
    if law:
      return batch(summary=MeanStats(jnp.asarray(num, float), one.total(key, mean, num) / num), count=num)
    return batch(one.draw(key, mean, num))

  def fresh(key, problem):
    return draw(key, problem, num_samples)

  def init(key):
    problem = jnp.asarray(truth, float)
    return problem, fresh(key, problem)

  def of(problem, rows, row_weight):
    weight = jnp.ones(rows.shape) if row_weight is None else row_weight
    count = jnp.sum(weight)
    return MeanStats(count, jnp.sum(weight * rows) / jnp.maximum(count, 1e-30))

  def sample(key, problem, params, context: Context):
    tempered = params.mean if one.tempered is None else one.tempered(params.mean, jnp.asarray(temperature, float))
    return draw(key, tempered, context.num), {}

  def evaluate(problem, params):
    return {"squared_error_of_mean": (params.mean - problem) ** 2,
            "variance_ratio": one.variance(params.mean) / one.variance(problem), "fitted_mean": params.mean}

  ends = [end for end in one.support if np.isfinite(end) and one.curvature <= 0]  # the gamma's mean never reaches 0
  at_an_end = lambda problem, params: functools.reduce(jnp.logical_or, [params.mean == end for end in ends])
  with_rows = functools.partial(exponential_family, family, num_samples, mean, temperature=temperature, draws="rows")
  return TaskSetting(init, lambda key, problem, context: context.data.summary, sample, evaluate, num_samples,
                     Summary(of, add_means), fresh, law, METRICS, with_rows if draws == "auto" else None,
                     at_an_end if ends else None)


def _check(family, num_samples, mean, temperature, draws):
  if family not in FAMILIES:
    raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}.")
  check_draws(draws, num_samples)
  least, most = FAMILIES[family].support
  if mean is not None and known(mean) and not least < mean < most:
    raise ValueError(f"mean must lie between {least:g} and {most:g} for {family}, got {mean}.")
  check_positive("temperature", temperature)
  if known(temperature) and temperature != 1 and FAMILIES[family].tempered is None:
    raise ValueError(f"temperature must be 1 for {family}, got {temperature}: the tempered density is outside the family.")
