"""The centre of a normal distribution, estimated by the sample median (Dey and Donoho 2410.22812).

Asymptotically linear, but no mean: a pool's median is no function of the medians of its batches, so rows are kept.
"""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.random import normal
from collapse_jax.store import batch, flat
from collapse_jax.tasks.parts import check_integer, check_positive
from collapse_jax.types import Array, Context, Expected, MetricInfo, TaskSetting

METRICS = {
  "variance_share": MetricInfo(
    "variance of the model / mean squared distance of its rows from the truth", worse="lower", log_scale=True
  ),
  "squared_error_of_mean": MetricInfo(
    "squared error of the fitted mean", "data units squared", worse="higher", log_scale=True, measures="risk"
  ),
  "fitted_mean": MetricInfo("fitted mean", "data units"),
}


@citing("2410.22812")
def sample_median(num_samples: int, noise_var=1.0, *, temperature=1.0) -> TaskSetting:
  """The median of rows from N(0, noise_var), which models emit again around their own median.

  Args:
    num_samples: rows per batch, at least 2.
    noise_var: known variance, in data units squared; may be traced.
    temperature: factor of the variance with which models sample; may be traced.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.sample_median(num_samples=11)
  >>> print(*task.metrics)
  variance_share squared_error_of_mean fitted_mean
  """
  check_integer("num_samples", num_samples, 2)
  check_positive("noise_var", noise_var)
  check_positive("temperature", temperature)

  def draw(key, median, variance, num):
    return batch(median + jnp.sqrt(variance) * normal(key, (num,)))

  def fresh(key, problem):
    return draw(key, 0.0, problem, num_samples)

  def init(key):
    problem = jnp.asarray(noise_var, float)
    return problem, fresh(key, problem)

  def sample(key, problem, median, context: Context):
    return draw(key, median, problem * jnp.asarray(temperature, float), context.num), {}

  def evaluate(key, problem, median):
    return {
      "variance_share": problem / (problem + median**2),
      "squared_error_of_mean": median**2,
      "fitted_mean": median,
    }

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    scale = np.pi / 2 * noise_var / num_samples  # the variance of a median is pi / 2 of the mean's
    return {
      "squared_error_of_mean": Expected(scale * theory.schedule_noise(schedule, temperature=temperature), up_to=0)
    }

  return TaskSetting(
    init,
    lambda key, problem, context: weighted_median(*flat(context.data)),
    sample,
    evaluate,
    num_samples,
    None,
    fresh,
    metrics=METRICS,
    predict=predict,
  )


def weighted_median(values: Array, weight: Array) -> Array:
  """Middle of the values [n] by weight [n], at least 0; of an even number the mean of the two middle ones; NaN of none."""
  values, weight = jax.lax.sort((values, weight), num_keys=1)
  below = jnp.cumsum(weight)
  half = 0.5 * below[-1]
  slack = 1e-6 * half
  low = values[jnp.searchsorted(below, half - slack)]
  high = values[jnp.searchsorted(below, half + slack)]
  return jnp.where(half > 0, 0.5 * (low + high), jnp.nan)
