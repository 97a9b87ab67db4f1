"""Variational autoencoders (Kingma and Welling 1312.6114) with a fixed noise: linear ones, whose law is exact, and networks.

Emitting what the decoder's mean is, as image models do, loses that noise in every direction and generation: under `replace` a
direction of variance l lives for l / sigma^2 generations (`theory.linear_vae`).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax import theory, training
from collapse_jax._citation import citing
from collapse_jax.data import generators, images
from collapse_jax.random import normal
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks import _networks as networks
from collapse_jax.tasks._ppca import drawn, moments_of, real_batch, summary_of
from collapse_jax.tasks.parts import (
  add_moments,
  check_draws,
  check_integer,
  check_positive,
  matmul,
  rows_unless_refused,
)
from collapse_jax.types import Array, Context, Data, Expected, MetricInfo, Summary, TaskSetting

NETWORKS = ("linear", "mlp", "patches")
EMITTED = ("mean", "noise")
FITS = ("gradient", "closed_form")
NUM_DIRECTIONS = 8

METRICS = {
  "test_negative_elbo": MetricInfo(
    "negative evidence lower bound of test rows", "nats per item", worse="higher", measures="risk"
  ),
  "covariance_trace_ratio": MetricInfo(
    "variance of emitted rows / that of the truth", worse="lower", log_scale=True, measures="variance"
  ),
  "direction_variances": MetricInfo(
    "variance of emitted rows in principal directions of the truth", "data units squared", dims=("direction",)
  ),
}
ATTRIBUTES = MetricInfo("share of emitted rows with an attribute", dims=("attribute",))


class Vae(NamedTuple):
  """A fitted model: [dim] mean of its training data, about which the network works, and the network's weights, as trained."""

  center: Any
  network: training.Fitted


class Form(NamedTuple):
  """A kind of network, as pure functions.

  Attributes:
    init: (key) -> weights.
    encode: (weights, x [n, dim]) -> mean [n, k] and log of the variance [n, k] of the latent coordinates.
    decode: (weights, z [n, k]) -> [n, dim].
  """

  init: Any
  encode: Any
  decode: Any


@citing("1312.6114", "2404.01413")
def vae(
  data,
  num_samples,
  latent_dim: int,
  *,
  network: str = "linear",
  emit: str = "mean",
  decoder_variance=0.1,
  beta=1.0,
  fit: str = "gradient",
  hidden: Sequence[int] = (128,),
  patch_size: int = 4,
  budget: str = "steps",
  amount=1000,
  batch_size: int = 128,
  learning_rate=None,
  start: str = "weights",
  draws: str = "auto",
  num_test: int = 500,
) -> TaskSetting:
  """Rows that a decoder makes of normal latent coordinates, fitted by the evidence lower bound.

  Linear networks are fitted to the mean and covariance of their rows alone, without sampling error of their own: a step is one of
  gradient descent with all data. Others draw batches of rows, and latent coordinates.

  Args:
    data: [dim] variances of a normal truth with mean 0, whose axes are its principal directions; or what `data.images.get` takes:
      "digits", "glyphs", "mnist5k", "mnist1d", "photos", a folder of images, a file, an array [N, ...].
    num_samples: rows per batch, at least 2; under draws="law" any traced number.
    latent_dim: k, at most dim.
    network: "linear"; "mlp", dense layers of the sizes `hidden`; "patches", attention over squares of `patch_size` pixels, of width
      hidden[0].
    emit: "mean" of the decoder, or "noise": with its noise.
    decoder_variance: sigma^2, data units squared; may be traced.
    beta: weight of the divergence (Higgins et al. 2017); may be traced.
    fit: "gradient", or of linear networks "closed_form": the optimum that gradients tend to.
    budget, amount: of training, of each generation: "steps", "epochs" or "rows".
    batch_size: rows of a step; not of linear networks, of which steps are with all data.
    learning_rate: of Adam, at first; it falls to 0. None: 0.05 for linear networks, else 0.003.
    start: what is taken over from the previous model where a run hands it on (`warm_start`): "weights", "weights+optimiser" or
      nothing ("cold").
    draws: of linear networks on normal data: "rows", "law" (means and covariances from their exact law) or "auto".
    num_test: test rows, and rows that each model emits to be looked at; of finite images, at most what num_samples leaves.
  Raises:
    Refused: an argument out of range, or data that cannot be used.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.vae([3.0, 1.0, 0.35, 0.1], num_samples=1000, latent_dim=3)
  >>> print(*task.metrics)
  test_negative_elbo covariance_trace_ratio direction_variances
  """
  for name, value, allowed in (("network", network, NETWORKS), ("emit", emit, EMITTED), ("fit", fit, FITS)):
    if value not in allowed:
      raise Refused.must_be(name, f"one of {', '.join(allowed)}", value)
  if fit == "closed_form" and network != "linear":
    raise Refused.must_be("fit", "'gradient' where the network is not linear", fit)
  check_draws(draws, num_samples if draws == "law" else None)
  check_positive("decoder_variance", decoder_variance)
  check_positive("beta", beta)
  check_integer("num_test", num_test, 2)
  linear = network == "linear"
  if learning_rate is None:
    learning_rate = 0.05 if linear else 3e-3
  recipe = networks.Recipe(budget, amount, batch_size, learning_rate, start).check()
  if linear:  # gradients have no noise to average over
    recipe = recipe._replace(batch_size=1, beta2=0.95)
  variances, source = _truth(data)
  directions, spectrum = _directions(variances, source)
  spread = float(np.sum(spectrum))
  law = linear and variances is not None and draws != "rows"
  if draws == "law" and not law:
    raise Refused.must_be("draws", "'auto' or 'rows' but for linear networks on variances", draws)
  dim = len(directions[0])
  check_integer("latent_dim", latent_dim, 1, dim)
  if not law:
    check_integer("num_samples", num_samples, 2)
  if source is not None and source.weight is None and num_samples > len(source.rows) - 2:
    raise Refused.must_be("num_samples", f"at most {len(source.rows) - 2} for {source.name}", num_samples)
  dataset = None if source is None else generators.of_images(source, num_test)
  form = _form(network, (dim,) if source is None else source.shape, latent_dim, tuple(hidden), patch_size)

  # ------------------------------------------------------------------------------------------------ the data
  def fresh(key, problem) -> Data:
    if source is None:
      return real_batch(key, jnp.asarray(variances, float), num_samples, law)
    assert dataset is not None and dataset.draw is not None
    return batch(dataset.draw(key, None, num_samples))

  def init(key):
    if dataset is not None:
      train, test = dataset.split(key, None, num_samples, num_test)
      return {"test": test}, batch(train)
    train_key, test_key = jax.random.split(key)
    scale = jnp.sqrt(jnp.asarray(variances, float))[None]
    return {} if linear else {"test": scale * normal(test_key, (num_test, dim))}, fresh(train_key, None)

  # ------------------------------------------------------------------------------------------------ the model
  def loss(weights, key, x):
    """[n] of rows about the center, in units of the noise: the bound, but for its constant, with the divergence beta times."""
    mean, log_var = form.encode(weights, x)
    latent = mean + jnp.exp(log_var / 2) * normal(key, mean.shape)
    error = jnp.sum((x - form.decode(weights, latent)) ** 2, axis=1)
    return error / (2 * decoder_variance) + beta * _divergence(mean, log_var)

  def linear_loss(weights, key, covariance, weight=beta):
    """Its expectation over all rows of a covariance [1, dim, dim] and over the latent coordinates."""
    encoder, decoder, log_var = weights["encoder"], weights["decoder"], weights["log_var"]
    through = jnp.eye(dim) - matmul(encoder, decoder)
    error = jnp.sum(through * matmul(covariance[0], through)) + jnp.sum(jnp.exp(log_var)[:, None] * decoder**2)
    means = jnp.sum(encoder * matmul(covariance[0], encoder))
    divergence = 0.5 * (means + jnp.sum(jnp.exp(log_var) - 1 - log_var))
    return (error / (2 * decoder_variance) + weight * divergence)[None]

  def fit_model(key, problem, context: Context) -> Vae:
    new_key, train_key = jax.random.split(key)
    previous = None if context.previous is None else context.previous.network
    if linear:
      stats = context.data.summary
      if fit == "closed_form":
        weights = _linear_optimum(stats.covariance, latent_dim, beta * decoder_variance)
        return Vae(stats.mean, training.exact(weights))
      scale = jnp.sqrt(jnp.trace(stats.covariance) / dim)
      new = form.init(new_key)
      new = new | {"decoder": scale * new["decoder"]}
      rows, weight = stats.covariance[None], jnp.ones(1)
      return Vae(stats.mean, networks.train(train_key, linear_loss, new, rows, weight, recipe, previous))
    rows, weight = storage.flat(context.data)
    center = matmul(weight, rows) / jnp.sum(weight)
    about = rows - center[None]
    return Vae(center, networks.train(train_key, loss, form.init(new_key), about, weight, recipe, previous))

  def emitted(key, params: Vae, num):
    latent_key, noise_key = jax.random.split(key)
    rows = params.center[None] + form.decode(params.network.params, normal(latent_key, (num, latent_dim)))
    if emit == "noise":
      rows = rows + jnp.sqrt(jnp.asarray(decoder_variance, float)) * normal(noise_key, rows.shape)
    return rows

  def covariance(params: Vae):
    decoder = params.network.params["decoder"]
    return matmul(decoder.T, decoder) + (decoder_variance * jnp.eye(dim) if emit == "noise" else 0.0)

  def sample(key, problem, params: Vae, context: Context):
    if not law:
      return batch(emitted(key, params, context.num)), {}
    values, vectors = jnp.linalg.eigh(covariance(params))
    root = matmul(vectors * jnp.sqrt(jnp.maximum(values, 0.0))[None], vectors.T)
    return summary_of(*drawn(key, params.center, root, context.num), context.num), {}

  # ------------------------------------------------------------------------------------------------ metrics
  constant = 0.5 * dim * jnp.log(2 * jnp.pi * jnp.asarray(decoder_variance, float))

  def evaluate(key, problem, params: Vae):
    if linear and source is None:  # exact
      apart = jnp.diag(jnp.asarray(variances, float)) + params.center[:, None] * params.center[None]
      bound = linear_loss(params.network.params, key, apart[None], 1.0)[0] + constant
      found = jnp.diag(covariance(params))
      total = jnp.sum(found)
      found = found[:NUM_DIRECTIONS]
    else:
      test_key, draw_key = jax.random.split(key)
      test = problem["test"] - params.center[None]
      mean, log_var = form.encode(params.network.params, test)
      latent = mean + jnp.exp(log_var / 2) * normal(test_key, mean.shape)
      error = jnp.sum((test - form.decode(params.network.params, latent)) ** 2, axis=1)
      bound = jnp.mean(error / (2 * decoder_variance) + _divergence(mean, log_var)) + constant
      rows = emitted(draw_key, params, num_test)
      about = rows - jnp.mean(rows, axis=0, keepdims=True)
      total = jnp.sum(about**2) / (num_test - 1)
      found = jnp.sum(matmul(about, jnp.asarray(directions.T, float)) ** 2, axis=0) / (num_test - 1)
    metrics = {
      "test_negative_elbo": bound,
      "covariance_trace_ratio": total / spread,
      "direction_variances": found,
    }
    if source is not None and source.names:
      metrics["attribute_rates"] = jnp.mean(_attributes(source, rows), axis=0)
    return metrics

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """With infinite data, as `theory.linear_vae` tells it of each direction: only the covariance of the truth matters."""
    noise = float(decoder_variance)
    found = theory.linear_vae(spectrum, noise, latent_dim, schedule.weights, emit=emit, beta=float(beta))
    found = found + (noise if emit == "noise" else 0.0)
    return {"covariance_trace_ratio": Expected(found.sum(axis=1) / spread, None, 0)}

  make = functools.partial(
    vae,
    data,
    num_samples,
    latent_dim,
    network=network,
    emit=emit,
    decoder_variance=decoder_variance,
    beta=beta,
    fit=fit,
  )
  make = functools.partial(make, budget=budget, amount=amount, learning_rate=learning_rate, start=start, draws="rows")
  return TaskSetting(
    init,
    fit_model,
    sample,
    evaluate,
    num_samples,
    Summary(moments_of, add_moments) if linear else None,
    fresh if source is None or source.weight is not None else None,
    rows_unless_refused(draws, make) if law else None,
    METRICS | ({"attribute_rates": ATTRIBUTES} if source is not None and source.names else {}),
    predict=predict if linear else None,
  )


def _truth(data) -> tuple[np.ndarray | None, images.Images | None]:
  """Variances, largest first, or images."""
  if isinstance(data, images.Images | str) or hasattr(data, "__fspath__") or np.ndim(data) > 1:
    return None, images.get(data)
  found = np.asarray(data, float)
  if found.ndim != 1 or not len(found) or not (np.isfinite(found).all() and (found > 0).all()):
    raise Refused.must_be("data", "variances above 0, or the name or path of images", data)
  return np.sort(found)[::-1], None


def _directions(variances, source: images.Images | None) -> tuple[np.ndarray, np.ndarray]:
  """Leading principal directions [q, dim] of the truth, and the variances [dim] in all of them, largest first."""
  if source is None:
    return np.eye(len(variances))[:NUM_DIRECTIONS], variances
  weight = np.full(len(source.rows), 1.0) if source.weight is None else source.weight
  about = source.rows - np.average(source.rows, axis=0, weights=weight)[None]
  second = (about * (weight / weight.sum())[:, None]).T @ about
  values, vectors = np.linalg.eigh(second)
  return vectors[:, ::-1][:, :NUM_DIRECTIONS].T, np.maximum(values[::-1], 1e-12)


def _attributes(source: images.Images, rows: Array) -> Array:
  """[n, a] of the real row that is nearest to each."""
  real = jnp.asarray(source.rows)
  score = matmul(rows, real.T) - 0.5 * jnp.sum(real**2, axis=1)[None]
  return jnp.asarray(source.attributes)[jnp.argmax(score, axis=1)]


def _divergence(mean: Array, log_var: Array) -> Array:
  """[n] KL(N(mean, exp(log_var)) || N(0, I))."""
  return 0.5 * jnp.sum(mean**2 + jnp.exp(log_var) - 1 - log_var, axis=1)


def _linear_optimum(covariance: Array, latent_dim: int, noise) -> dict[str, Array]:
  """Where gradients tend to: W W^T = (l - noise)_+ in the leading directions, and what encodes it."""
  values, vectors = jnp.linalg.eigh(covariance)
  leading = vectors[:, ::-1][:, :latent_dim]
  kept = jnp.maximum(values[::-1][:latent_dim] - noise, 0.0)
  decoder = jnp.sqrt(kept)[:, None] * leading.T
  precision = 1 + kept / noise
  return {"encoder": (decoder / (noise * precision)[:, None]).T, "decoder": decoder, "log_var": -jnp.log(precision)}


def _form(network: str, shape: tuple[int, ...], latent_dim: int, hidden: tuple[int, ...], patch_size: int) -> Form:
  dim = int(np.prod(shape))
  if network == "linear":
    return _linear(dim, latent_dim)
  if not hidden:
    raise Refused.must_be("hidden", "one size or more", hidden)
  for size in hidden:
    check_integer("hidden", size, 1)
  if network == "mlp":
    return _mlp(dim, latent_dim, hidden)
  check_integer("patch_size", patch_size, 1)
  return _patches(networks.patches_of(shape, patch_size), latent_dim, hidden[0])


def _linear(dim: int, latent_dim: int) -> Form:
  def init(key):
    encoder_key, decoder_key = jax.random.split(key)
    return {
      "encoder": normal(encoder_key, (dim, latent_dim)) / np.sqrt(dim),
      "decoder": normal(decoder_key, (latent_dim, dim)) / np.sqrt(latent_dim),
      "log_var": jnp.zeros(latent_dim),
    }

  def encode(weights, x):
    mean = matmul(x, weights["encoder"])
    return mean, jnp.broadcast_to(weights["log_var"][None], mean.shape)

  return Form(init, encode, lambda weights, z: matmul(z, weights["decoder"]))


def _mlp(dim: int, latent_dim: int, hidden: tuple[int, ...]) -> Form:
  def init(key):
    encoder_key, decoder_key = jax.random.split(key)
    return {
      "encoder": networks.dense(encoder_key, [dim, *hidden, 2 * latent_dim], 0.1),
      "decoder": networks.dense(decoder_key, [latent_dim, *hidden[::-1], dim], 0.1),
    }

  def encode(weights, x):
    mean, log_var = jnp.split(networks.apply_dense(weights["encoder"], x), 2, axis=1)
    return mean, log_var

  return Form(init, encode, lambda weights, z: networks.apply_dense(weights["decoder"], z))


def _patches(patches: networks.Patches, latent_dim: int, width: int) -> Form:
  tokens, patch = patches.numbers.shape

  def init(key):
    keys = jax.random.split(key, 8)
    return {
      "in": networks.dense(keys[0], [patch, width]),
      "in_place": 0.1 * normal(keys[1], (tokens, width)),
      "in_block": networks.attention(keys[2], width),
      "code": networks.dense(keys[3], [width, 2 * latent_dim], 0.1),
      "latent": networks.dense(keys[4], [latent_dim, tokens * width]),
      "out_place": 0.1 * normal(keys[5], (tokens, width)),
      "out_block": networks.attention(keys[6], width),
      "out": networks.dense(keys[7], [width, patch], 0.1),
    }

  def encode(weights, x):
    each = x[:, patches.numbers.reshape(-1)].reshape(-1, patch)
    each = networks.apply_dense(weights["in"], each).reshape(len(x), tokens, width) + weights["in_place"][None]
    pooled = jnp.mean(networks.apply_attention(weights["in_block"], each), axis=1)
    mean, log_var = jnp.split(networks.apply_dense(weights["code"], pooled), 2, axis=1)
    return mean, log_var

  def decode(weights, z):
    each = networks.apply_dense(weights["latent"], z).reshape(len(z), tokens, width) + weights["out_place"][None]
    each = networks.apply_attention(weights["out_block"], each)
    pixels = networks.apply_dense(weights["out"], each.reshape(-1, width)).reshape(len(z), tokens * patch)
    return pixels[:, patches.back]

  return Form(init, encode, decode)
