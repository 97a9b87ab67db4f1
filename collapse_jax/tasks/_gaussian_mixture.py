"""A Gaussian mixture fitted by expectation maximisation, sampled, and fitted again."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from collapse_jax import store as storage
from collapse_jax.data import generators
from collapse_jax.random import choose, normal, table
from collapse_jax.store import batch
from collapse_jax.tasks.parts import check_integer, check_positive, matmul, real_rows
from collapse_jax.types import Array, Context, MetricInfo, TaskSetting

NUM_POINTS = 1000  # draws of a model by which its mass about each centre, and its divergence, are told
_FLOOR = 1e-6  # least variance, relative to that of the data: a component on one row has no likelihood otherwise


class Mixture(NamedTuple):
  """log_weight [k]; mean [k, dim] in data units; factor [k, dim, dim], lower triangular, of the covariances."""

  log_weight: Any
  mean: Any
  factor: Any


class MixtureProblem(NamedTuple):
  """test [num_test, dim], of the truth; centers [j, dim] of its modes, or None where they are not known."""

  truth: Any
  test: Any
  centers: Any


def gaussian_mixture(
  dataset, num_samples: int, num_components: int, *, num_steps: int = 30, num_test: int = 500, temperature=1.0
) -> TaskSetting:
  """A mixture with full covariances, by weighted expectation maximisation.

  Args:
    dataset: as in `tasks.kde`, such as "ring", eight Gaussians on a circle.
    num_samples: rows per batch, at least 2.
    num_components: k.
    num_steps: of expectation maximisation, from centres as k-means++ picks them, or from the last model where runs are
      warm-started.
    num_test: test rows.
    temperature: factor of the components' variances when sampling; may be traced.
  Raises:
    ValueError: an argument out of range, or a data set that cannot be used.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.gaussian_mixture("moons", num_samples=20, num_components=2)
  >>> print(*task.metrics)
  test_nll model_variance kl_from_truth
  """
  for name, value, least in (
    ("num_samples", num_samples, 2),
    ("num_components", num_components, 1),
    ("num_steps", num_steps, 1),
    ("num_test", num_test, 1),
  ):
    check_integer(name, value, least)
  check_positive("temperature", temperature)
  source = generators.get(dataset, num_test)
  generators.check_size(source, num_samples)

  init, fresh = real_rows(source, num_samples, num_test, MixtureProblem)

  def fit(key, problem, context: Context) -> Mixture:
    return fit_mixture(key, *storage.flat(context.data), num_components, num_steps, context.previous)

  def sample(key, problem, params, context: Context):
    return batch(draw(key, params, context.num, temperature)), {}

  def evaluate(key, problem, params: Mixture):
    log_weight, mean, factor = params
    share = jnp.exp(log_weight)
    centre = matmul(share, mean)
    spread = jnp.sum((mean - centre[None]) ** 2, axis=1) + jnp.sum(factor**2, axis=(1, 2))
    metrics = {
      "test_nll": -jnp.mean(log_density(params, problem.test)),
      "model_variance": matmul(share, spread) / source.dim,
    }
    if problem.centers is not None or source.log_density is not None:
      rows = draw(key, params, NUM_POINTS)
    if source.log_density is not None:
      metrics["kl_from_truth"] = jnp.mean(log_density(params, rows) - source.log_density(problem.truth, rows))
    if problem.centers is not None:
      nearest = jnp.argmin(jnp.sum((rows[:, None] - problem.centers[None]) ** 2, axis=-1), axis=1)
      shares = jnp.zeros(len(problem.centers)).at[nearest].add(1 / NUM_POINTS)
      metrics |= {"component_share": shares, "smallest_share": jnp.min(shares)}
    return metrics

  metrics = {
    "test_nll": MetricInfo(
      "negative log-likelihood of the test rows", "nats per item", worse="higher", measures="risk"
    ),
    "model_variance": MetricInfo(
      "variance of the model per coordinate", "data units squared", log_scale=True, measures="variance"
    ),
  }
  if source.log_density is not None:
    about = f"divergence of the model from the truth, KL(model || truth), by {NUM_POINTS} draws"
    metrics["kl_from_truth"] = MetricInfo(about, "nats")
  if source.centers is not None:
    metrics |= {
      "smallest_share": MetricInfo(
        "smallest share of the model about a mode of the truth", worse="lower", measures="tail"
      ),
      "component_share": MetricInfo("share of the model about each mode of the truth", dims=("component",)),
    }
  return TaskSetting(init, fit, sample, evaluate, num_samples, fresh=fresh, metrics=metrics)


def draw(key: Array, params: Mixture, num: int, temperature=1.0) -> Array:
  """Rows [num, dim]."""
  which_key, noise_key = jax.random.split(key)
  which = choose(which_key, table(jnp.exp(params.log_weight - jnp.max(params.log_weight))), num)
  noise = jnp.sqrt(jnp.asarray(temperature, float)) * normal(noise_key, (num, params.mean.shape[1]))
  return params.mean[which] + jnp.einsum("nij,nj->ni", params.factor[which], noise, precision="highest")


def log_density(params: Mixture, points: Array) -> Array:
  """[m] nats, of points [m, dim]."""
  return jax.nn.logsumexp(_joint(params, points), axis=0)


def fit_mixture(
  key: Array, rows: Array, weight: Array, num_components: int, num_steps: int, previous: Mixture | None = None
) -> Mixture:
  """Weighted maximum likelihood by expectation maximisation.

  Args:
    rows: [n, dim].
    weight: [n], at least 0.
    previous: where to start; None: at rows that k-means++ picks, with the covariance of all.
  """
  dim = rows.shape[1]
  share = weight / jnp.sum(weight)
  centre = matmul(share, rows)
  centred = jnp.where(share[:, None] > 0, rows - centre[None], 0.0)
  floor = _FLOOR * jnp.sum(share[:, None] * centred**2) / dim + 1e-30

  def covariance(share, mean):
    deviation = jnp.where(share[:, None] > 0, rows - mean[None], 0.0)
    return matmul(deviation.T * share[None], deviation) / jnp.maximum(jnp.sum(share), 1e-30) + floor * jnp.eye(dim)

  def step(_, params: Mixture) -> Mixture:
    joint = _joint(params, rows)
    responsibility = jnp.exp(joint - jax.nn.logsumexp(joint, axis=0)[None]) * share[None]
    total = jnp.sum(responsibility, axis=1)
    mean = matmul(responsibility, rows) / jnp.maximum(total, 1e-30)[:, None]
    mean = jnp.where(total[:, None] > 0, mean, params.mean)
    factor = jnp.linalg.cholesky(jax.vmap(covariance)(responsibility, mean))
    return Mixture(jnp.log(jnp.maximum(total, 1e-30)), mean, factor)

  if previous is None:
    mean = _spread_rows(key, rows, share, num_components)
    factor = jnp.linalg.cholesky(covariance(share, centre) / num_components ** (2 / dim))
    previous = Mixture(
      jnp.full(num_components, -np.log(num_components)), mean, jnp.tile(factor, (num_components, 1, 1))
    )
  return jax.lax.fori_loop(0, num_steps, step, previous)


def _joint(params: Mixture, points):
  """[k, m] log of weight times density."""

  def one(log_weight, mean, factor):
    white = solve_triangular(factor, (points - mean[None]).T, lower=True)
    return log_weight - 0.5 * jnp.sum(white**2, axis=0) - jnp.sum(jnp.log(jnp.diag(factor)))

  return jax.vmap(one)(*params) - 0.5 * params.mean.shape[1] * np.log(2 * np.pi)


def _spread_rows(key, rows, share, num):
  """[num, dim] rows, each in proportion to its weight times the squared distance to those before (k-means++)."""

  def pick(squared, key):
    chance = share * squared / jnp.maximum(jnp.max(jnp.where(share > 0, squared, 0.0)), 1e-37)
    chosen = rows[
      jax.random.categorical(key, jnp.log(jnp.where(jnp.max(chance) > 0, chance, share)))
    ]  # share: all rows are equal
    return jnp.minimum(squared, jnp.sum((rows - chosen[None]) ** 2, axis=1)), chosen

  keys = jax.random.split(key, num)
  first = rows[jax.random.categorical(keys[0], jnp.log(share))]
  rest = jax.lax.scan(pick, jnp.sum((rows - first[None]) ** 2, axis=1), keys[1:])[1]
  return jnp.concatenate([first[None], rest])
