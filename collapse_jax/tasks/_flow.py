"""Flow matching and diffusion with the exact linear score: a loop in which only the number of rows and the sampler err.

Coordinates are independent: the score of N(mean, diag(variances)) is fitted in closed form, and rows are integrated from noise
step by step. `theory.variance_factor` says what each solver makes of a variance.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.random import normal
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks.parts import check_integer, matmul
from collapse_jax.types import Array, Context, Data, Expected, MetricInfo, Summary, TaskSetting

METRICS = {
  "covariance_trace_ratio": MetricInfo(
    "fitted variances / those of the truth, mean over coordinates", worse="lower", log_scale=True, measures="variance"
  ),
  "mean_log_variance_ratio": MetricInfo(
    "log of fitted over true variances, mean over coordinates", "nats", worse="lower"
  ),
  "squared_error_of_mean": MetricInfo(
    "squared error of the fitted mean", "data units squared", worse="higher", log_scale=True, measures="risk"
  ),
  "variance_ratios": MetricInfo("fitted variance / that of the truth", dims=("coordinate",), log_scale=True),
}


class Moments(NamedTuple):
  """Weighted count [], mean [dim] and biased variance [dim] of rows."""

  count: Any
  mean: Any
  variance: Any


@citing("2310.00429")
def flow(variances, num_samples: int, *, mean=None, solver: str = "flow_euler", num_steps: int = 20) -> TaskSetting:
  """Rows of independent normal coordinates, modelled by their exact linear score and sampled by a solver.

  Args:
    variances: [dim] of the truth, in the units in which samplers start: N(0, 1), or N(0, 80^2) for EDM.
    num_samples: rows per batch, at least 2.
    mean: [dim] of the truth, default 0.
    solver: one of `theory.SAMPLERS`: "flow_euler", "flow_midpoint", "flow_heun", "flow_rk4", "ddpm_beta", "ddpm_posterior", "ddim",
      "edm_heun", "edm_euler".
    num_steps: of the solver.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.flow([0.25, 1.0], num_samples=50, solver="edm_heun", num_steps=18)
  >>> print(*task.metrics)
  covariance_trace_ratio mean_log_variance_ratio squared_error_of_mean variance_ratios
  """
  true_variances, true_mean = _checked(variances, mean)
  check_integer("num_samples", num_samples, 2)
  check_integer("num_steps", num_steps, 1)
  dim = len(true_variances)
  times = theory.sampler_times(solver, num_steps)

  def fresh(key, problem) -> Data:
    return batch(problem["mean"][None] + jnp.sqrt(problem["variance"])[None] * normal(key, (num_samples, dim)))

  def init(key):
    problem = {"mean": jnp.asarray(true_mean, float), "variance": jnp.asarray(true_variances, float)}
    return problem, fresh(key, problem)

  def of(problem, rows, row_weight) -> Moments:
    weight = jnp.ones(len(rows)) if row_weight is None else row_weight
    count = jnp.sum(weight)
    share = weight / jnp.maximum(count, 1e-30)
    center = matmul(share, rows)
    return Moments(count, center, matmul(share, (rows - center[None]) ** 2))

  def add(problem, a: Moments, weight_a, b: Moments, weight_b) -> Moments:
    count_a, count_b = weight_a * a.count, weight_b * b.count
    share = count_b / jnp.maximum(count_a + count_b, 1e-30)
    apart = b.mean - a.mean
    variance = a.variance + share * (b.variance - a.variance) + share * (1 - share) * apart**2
    return Moments(count_a + count_b, a.mean + share * apart, variance)

  def sample(key, problem, params: Moments, context: Context):
    return batch(integrate(key, params.mean, params.variance, context.num, solver, times)), {}

  def evaluate(key, problem, params: Moments):
    ratios = params.variance / problem["variance"]
    return {
      "covariance_trace_ratio": jnp.mean(ratios),
      "mean_log_variance_ratio": jnp.mean(jnp.log(jnp.maximum(ratios, jnp.finfo(ratios.dtype).tiny))),
      "squared_error_of_mean": jnp.sum((params.mean - problem["mean"]) ** 2),
      "variance_ratios": ratios,
    }

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """To first order in 1 / num_samples, under any schedule: batches have g(variance) for the variance; for a truth about 0."""
    if true_mean.any():
      return {}

    def emitted(s):
      return lambda variance, error, rows: float(
        variance * theory.variance_factor(solver, num_steps=num_steps, variance=max(variance * s, 1e-300))
      )

    ratios = [theory.second_moments(schedule, emitted(s)).variance for s in true_variances]
    return {"covariance_trace_ratio": Expected(np.mean(ratios, axis=0), None, 0)}

  return TaskSetting(
    init,
    lambda key, problem, context: context.data.summary,
    sample,
    evaluate,
    num_samples,
    Summary(of, add),
    fresh,
    metrics=METRICS,
    predict=predict,
  )


def integrate(key: Array, mean: Array, variance: Array, num: int, solver: str, times: np.ndarray) -> Array:
  """Rows [num, dim] that a solver makes of noise with the score of N(mean, diag(variance)).

  Args:
    key: of the noise.
    mean, variance: [dim] of the model; a variance of 0 is taken for 1e-30.
    num: rows.
    solver: one of `theory.SAMPLERS`.
    times: `theory.sampler_times` of it.
  """
  family, _, kind = solver.partition("_")
  start_key, noise_key = jax.random.split(key)
  start = normal(start_key, (num, len(mean)))
  s, m = jnp.maximum(variance, 1e-30)[None], mean[None]
  now, later = (jnp.asarray(each, float) for each in (times[:-1], times[1:]))

  def velocity(x, t):  # of linear paths from N(0, I): E[x1 - x0 | x_t]
    return m + (t * s - (1 - t)) / ((1 - t) ** 2 + t**2 * s) * (x - t * m)

  def flow_step(x, step):
    t, h = step[0], step[1] - step[0]
    slope = velocity(x, t)
    if kind == "midpoint":
      slope = velocity(x + h / 2 * slope, t + h / 2)
    elif kind == "heun":
      slope = (slope + velocity(x + h * slope, t + h)) / 2
    elif kind == "rk4":
      second = velocity(x + h / 2 * slope, t + h / 2)
      third = velocity(x + h / 2 * second, t + h / 2)
      slope = (slope + 2 * second + 2 * third + velocity(x + h * third, t + h)) / 6
    return x + h * slope, None

  def clean(x, a, noise):  # E[x_0 | x_t] of "variance preserving" noise of that variance
    return m + jnp.sqrt(a) * s / (a * s + noise) * (x - jnp.sqrt(a) * m)

  def ddpm_step(x, step):
    a, b, noise, noise_later, spread, one = step
    alpha = a / b
    x0 = clean(x, a, noise)
    moved = jnp.sqrt(b) * (1 - alpha) / noise * x0 + jnp.sqrt(alpha) * noise_later / noise * x
    return moved + spread * normal(one, x.shape), None

  def ddim_step(x, step):
    a, b, noise, noise_later = step
    x0 = clean(x, a, noise)
    return jnp.sqrt(b) * x0 + jnp.sqrt(noise_later / noise) * (x - jnp.sqrt(a) * x0), None

  def edm_step(x, step):
    sigma, after = step
    slope_at = lambda x, sigma: sigma / (s + sigma**2) * (x - m)
    slope = slope_at(x, sigma)
    moved = x + (after - sigma) * slope
    if kind == "heun":
      corrected = x + (after - sigma) / 2 * (slope + slope_at(moved, after))
      moved = jnp.where(after > 0, corrected, moved)
    return moved, None

  if family == "flow":
    return jax.lax.scan(flow_step, start, (now, later))[0]
  if family == "edm":
    return jax.lax.scan(edm_step, times[0] * start, (now, later))[0]
  noise, noise_later = (jnp.asarray(1 - each, float) for each in (times[:-1], times[1:]))
  if family == "ddim":
    return jax.lax.scan(ddim_step, start, (now, later, noise, noise_later))[0]
  beta = 1 - times[:-1] / times[1:]
  spread = beta * (1 - times[1:]) / (1 - times[:-1]) if kind == "posterior" else beta * (times[1:] < 1)
  steps = (now, later, noise, noise_later, jnp.asarray(np.sqrt(spread), float), jax.random.split(noise_key, len(beta)))
  return jax.lax.scan(ddpm_step, start, steps)[0]


def _checked(variances, mean) -> tuple[np.ndarray, np.ndarray]:
  found = np.atleast_1d(np.asarray(variances, float))
  if found.ndim != 1 or not len(found) or not (np.isfinite(found).all() and (found > 0).all()):
    raise Refused.must_be("variances", "numbers above 0", variances)
  center = np.zeros(len(found)) if mean is None else np.asarray(mean, float)
  if center.shape != found.shape or not np.isfinite(center).all():
    raise Refused.must_be("mean", f"{len(found)} numbers", mean)
  return found, center
