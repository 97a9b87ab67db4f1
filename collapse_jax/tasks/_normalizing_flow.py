"""Normalizing flows, fitted by their exact likelihood: an affine one, whose loop is the Gaussian law, and RealNVP (1605.08803)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import digamma

from collapse_jax import theory, training
from collapse_jax._citation import citing
from collapse_jax.data import generators
from collapse_jax.random import normal
from collapse_jax.refused import Refused
from collapse_jax.store import batch, flat
from collapse_jax.tasks import _networks as networks
from collapse_jax.tasks._flow import of_rows, source_of
from collapse_jax.tasks.parts import (
  add_moments,
  check_integer,
  check_positive,
  known,
  matmul,
  moments,
  real_rows,
)
from collapse_jax.types import Array, Context, Expected, MetricInfo, Summary, TaskSetting

NETWORKS = ("affine", "realnvp")

LIKELIHOOD = {"test_nll": MetricInfo("negative log-likelihood of the truth", "nats", worse="higher", measures="risk")}
METRICS = {
  "covariance_trace_ratio": MetricInfo(
    "trace of the fitted covariance / that of the truth", worse="lower", log_scale=True, measures="variance"
  ),
  "squared_error_of_mean": MetricInfo(
    "squared error of the fitted mean", "data units squared", worse="higher", log_scale=True
  ),
}


class Affine(NamedTuple):
  """x = mean + z root: mean [dim], variances [dim] in the directions [dim, dim], columns, of the fitted covariance."""

  mean: Any
  variances: Any
  directions: Any


class Problem(NamedTuple):
  """The truth of a run, and the numbers that may be traced."""

  truth: Any  # of the data set
  test: Any  # [num_test, dim] data units
  center: Any  # [dim] data units
  scale: Any  # [] data units per unit of the network
  amount: Any
  learning_rate: Any
  latent_std: Any


@citing("1605.08803", "2307.01850")
def normalizing_flow(
  data,
  num_samples: int,
  *,
  network: str = "affine",
  num_couplings: int = 6,
  width: int = 32,
  latent_variance=1.0,
  budget: str = "steps",
  amount=1000,
  batch_size: int = 128,
  learning_rate=5e-3,
  start: str = "weights",
  num_test: int = 500,
) -> TaskSetting:
  """Invertible maps of normal rows, fitted by maximum likelihood, which is exact.

  The affine one is fitted in closed form: in a loop its moments are those of a Gaussian. RealNVP is trained by gradient.

  Args:
    data: what `tasks.flow` takes: variances [dim] of independent normal coordinates, a name in `data.shapes.SHAPES`, or what
      `data.generators.get` takes.
    num_samples: rows per batch, at least 2.
    network: "affine", or "realnvp": couplings, each of which moves and scales every second coordinate by what a perceptron with two
      hidden layers makes of the others; for two dimensions or more.
    num_couplings: of RealNVP.
    width: of its hidden layers.
    latent_variance: of the normal rows that samples are made of, the sampling bias lambda of 2307.01850; may be traced.
    budget, amount: of training of RealNVP, of each generation: "steps", "epochs" or "rows".
    batch_size: rows of a step, drawn by weight with replacement.
    learning_rate: of Adam, at first; it falls to 0. May be traced, as amount.
    start: what is taken over from the previous model where a run hands it on (`warm_start`): "weights", "weights+optimiser" or
      nothing ("cold").
    num_test: test rows, and rows of the model that are held against them; the affine one on variances has exact metrics.
  Raises:
    Refused: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.normalizing_flow([0.25, 1.0], num_samples=50)
  >>> print(*task.metrics)
  test_nll covariance_trace_ratio squared_error_of_mean
  >>> task = cj.tasks.normalizing_flow("moons", 500, network="realnvp")
  >>> print(*task.metrics)
  test_nll sliced_wasserstein precision recall covariance_trace_ratio mode_shares mode_balance
  """
  if network not in NETWORKS:
    raise Refused.must_be("network", f"one of {', '.join(NETWORKS)}", network)
  check_integer("num_samples", num_samples, 2)
  check_integer("num_couplings", num_couplings, 1)
  check_integer("width", width, 1)
  check_integer("num_test", num_test, 6)
  check_positive("latent_variance", latent_variance)
  recipe = networks.Recipe(budget, amount, batch_size, learning_rate, start).check()
  source = source_of(data, None, num_test)
  generators.check_size(source.dataset, num_samples)
  affine, dim, variances = network == "affine", source.dataset.dim, source.variances
  if not affine and dim < 2:
    raise Refused.must_be("network", "'affine' for rows of one number", network)
  exact = affine and variances is not None

  def problem_of(truth, test, centers):
    center = jnp.mean(test, axis=0)
    scale = jnp.sqrt(jnp.mean((test - center[None]) ** 2))
    numbers = (jnp.asarray(value, float) for value in (amount, learning_rate, jnp.sqrt(latent_variance)))
    return Problem(truth, test, center, scale, *numbers)

  init, fresh = real_rows(source.dataset, num_samples, num_test, problem_of)

  def fit(key, problem, context: Context) -> Affine | training.Fitted:
    if affine:
      stats = context.data.summary
      values, vectors = jnp.linalg.eigh(stats.covariance)
      return Affine(stats.mean, jnp.maximum(values, jnp.finfo(values.dtype).tiny), vectors)
    new_key, train_key = jax.random.split(key)
    rows, row_weight = flat(context.data)
    rows = (rows - problem.center[None]) / problem.scale
    sizes = [dim, width, width, 2 * dim]
    new = jax.vmap(lambda key: networks.dense(key, sizes, 0.1))(jax.random.split(new_key, num_couplings))
    given = recipe._replace(amount=problem.amount, learning_rate=problem.learning_rate)
    return networks.train(train_key, nll, new, rows, row_weight, given, context.previous)

  def emit(key, problem, params, num):
    z = problem.latent_std * normal(key, (num, dim))
    if affine:
      return params.mean[None] + matmul(z * jnp.sqrt(params.variances)[None], params.directions.T)
    return to_rows(params.params, z) * problem.scale + problem.center[None]

  def likelihood(problem, params):
    """Negative log-likelihood of the truth, or of test rows, in nats a row."""
    if not affine:
      test = (problem.test - problem.center[None]) / problem.scale
      return jnp.mean(nll(params.params, None, test)) + dim * jnp.log(problem.scale)
    constant = 0.5 * (dim * np.log(2 * np.pi) + jnp.sum(jnp.log(params.variances)))
    if variances is None:
      along = jnp.mean(matmul(problem.test - params.mean[None], params.directions) ** 2, axis=0)
    else:
      along = matmul(jnp.asarray(variances, float), params.directions**2) + matmul(params.mean, params.directions) ** 2
    return constant + 0.5 * jnp.sum(along / params.variances)

  def evaluate(key, problem, params):
    found = {"test_nll": likelihood(problem, params)}
    if exact:
      return found | {
        "covariance_trace_ratio": jnp.sum(params.variances) / np.sum(variances),
        "squared_error_of_mean": jnp.sum(params.mean**2),
      }
    sample_key, direction_key = jax.random.split(key)
    return found | of_rows(direction_key, source, problem.test, emit(sample_key, problem, params, num_test))

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """Exact: trace and mean of a Gaussian's loop with temperature latent_variance, and the likelihood of the first model."""
    if not known(latent_variance):
      return {}
    found = theory.schedule_moments(schedule, temperature=float(latent_variance))
    total, n = float(np.sum(variances)), float(schedule.sizes[0])
    told = {
      "covariance_trace_ratio": Expected(found.trace_ratio, None, 0),
      "squared_error_of_mean": Expected(total * found.mean_error, None, 0),
    }
    if n > dim + 2:
      log_det = np.sum(digamma((n - np.arange(1, dim + 1)) / 2) + np.log(2 / n) + np.log(2 * np.pi * variances))
      first = 0.5 * (log_det + (n + 1) * dim / (n - dim - 2))
      told["test_nll"] = Expected(np.where(np.arange(len(schedule.sizes)) == 0, first, np.nan), None, 0)
    return told

  return TaskSetting(
    init,
    fit,
    lambda key, problem, params, context: (batch(emit(key, problem, params, context.num)), {}),
    evaluate,
    num_samples,
    Summary(lambda problem, rows, row_weight: moments(rows, row_weight), add_moments) if affine else None,
    fresh,
    metrics=LIKELIHOOD | (METRICS if exact else source.metrics),
    predict=predict if exact else None,
  )


# ---------------------------------------------------------------------------------------------------- RealNVP
def nll(layers, key, x):
  """[n] nats of rows x [n, dim], of perceptrons whose leaves are stacked, one for each coupling; `key` is not looked at."""
  z, log_det = to_noise(layers, x)
  return 0.5 * jnp.sum(z**2 + np.log(2 * np.pi), axis=1) - log_det


def to_noise(layers, x: Array) -> tuple[Array, Array]:
  """z [n, dim] of rows [n, dim], and log |dz/dx| [n]."""

  def step(carry, one):
    x, total = carry
    log_scale, shift = _coupling(one, x)
    return (x * jnp.exp(log_scale) + shift, total + jnp.sum(log_scale, axis=1)), None

  return jax.lax.scan(step, (x, jnp.zeros(len(x))), (layers, _masks(layers)))[0]


def to_rows(layers, z: Array) -> Array:
  """The inverse of `to_noise`."""

  def step(z, one):
    log_scale, shift = _coupling(one, z)
    return (z - shift) * jnp.exp(-log_scale), None

  return jax.lax.scan(step, z, (layers, _masks(layers)), reverse=True)[0]


def _masks(layers):
  """[couplings, dim] 1 where a coordinate stays: every second one, in turns."""
  num, dim, _ = layers[0][0].shape
  return jnp.asarray([(np.arange(dim) + i) % 2 for i in range(num)], float)


def _coupling(one, x):
  """Log-scale and shift [n, dim] of one coupling: 0 where coordinates stay, of which the others' are made."""
  layers, mask = one
  log_scale, shift = jnp.split(networks.apply_dense(layers, x * mask[None]), 2, axis=1)
  free = 1 - mask[None]
  return free * 2 * jnp.tanh(log_scale / 2), free * shift  # a factor of up to e^2
