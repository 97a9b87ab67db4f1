"""Tables as networks see them, and networks: an autoencoder and a conditional adversary (Xu et al. 1907.00503), and diffusion.

A number is told by the mode of its column that it is likeliest of, and by its place in that mode, in standard deviations.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import training
from collapse_jax.data.tables import Layout
from collapse_jax.random import bits, choose, normal, table
from collapse_jax.tasks import _networks as networks
from collapse_jax.tasks._gaussian_mixture import Mixture, fit_mixture
from collapse_jax.tasks.parts import matmul
from collapse_jax.types import Array

NUM_MODES = 5
NUM_NOISES = 50
FARTHEST = 4.0  # place of a number that an adversary can write
SOFTNESS = 0.2  # temperature of the categories that an adversary writes
PENALTY = 10.0  # of a critic whose slope is not 1 (Gulrajani et al. 1704.00028)
NUM_SEEN = 500  # rows whose statistics normalise those that an adversary emits

Fit = Callable[..., Any]  # (key, rows [n, width], weight [n], previous) -> params
Draw = Callable[..., Array]  # (key, params, num) -> rows [num, width]


# ------------------------------------------------------------------------------------------------------------ columns
class Modes(NamedTuple):
  """Of continuous columns: [continuous, NUM_MODES] log shares, means and standard deviations."""

  log_share: Any
  mean: Any
  std: Any


class Trained(NamedTuple):
  """A network, the modes of the columns that it sees, and what else its kind draws rows by."""

  modes: Modes
  network: training.Fitted
  rest: Any = ()


def present(layout: Layout, rows: Array) -> Array:
  """[n, continuous] 1.0 where a number is there, else 0.0."""
  marks = layout.marks
  there = [1 - rows[:, marks[name]] if name in marks else jnp.ones(len(rows)) for name in layout.continuous]
  return jnp.stack(there, axis=1) if there else jnp.zeros((len(rows), 0))


def _fit_modes(key: Array, layout: Layout, rows: Array, weight: Array) -> Modes:
  """A normal mixture of each continuous column, where it is not missing; a column that is nowhere there is N(0, 1)."""
  if not layout.num_continuous:
    return Modes(*[jnp.zeros((0, NUM_MODES))] * 3)

  def one(key, x, weight):
    some = jnp.sum(weight) > 0
    found: Mixture = fit_mixture(key, x[:, None], jnp.where(some, weight, 1.0), NUM_MODES, 30)
    std = jnp.where(some, jnp.maximum(found.factor[:, 0, 0], 1e-4), 1.0)
    return Modes(found.log_weight, found.mean[:, 0], std)

  keys = jax.random.split(key, layout.num_continuous)
  there = weight[:, None] * present(layout, rows)
  return jax.vmap(one, in_axes=(0, 1, 1))(keys, rows[:, : layout.num_continuous], there)


def encode(layout: Layout, modes: Modes, rows: Array) -> Array:
  """[n, continuous * (1 + NUM_MODES) + categories]: places, which modes, and indicators; places of missing numbers are 0."""
  x = rows[:, : layout.num_continuous, None]
  within = (x - modes.mean[None]) / modes.std[None]
  mode = jnp.argmax(modes.log_share[None] - jnp.log(modes.std)[None] - 0.5 * within**2, axis=2)
  place = jnp.take_along_axis(within, mode[..., None], axis=2)[..., 0] * present(layout, rows)
  chosen = jax.nn.one_hot(mode, NUM_MODES).reshape(len(rows), -1)
  return jnp.concatenate([place, chosen, rows[:, layout.num_continuous :]], axis=1)


def _width(layout: Layout) -> int:
  return layout.num_continuous * (1 + NUM_MODES) + sum(layout.sizes)


def _in_blocks(layout: Layout, function: Callable[[Array], Array], indicators: Array) -> Array:
  """A function of [..., k] on each block of indicators [n, ...]: of all modes at once, and of the columns of categories."""
  num, split = len(indicators), layout.num_continuous * NUM_MODES
  found = [function(indicators[:, :split].reshape(num, -1, NUM_MODES)).reshape(num, split)] if split else []
  ends = split + np.cumsum([0, *layout.sizes])
  found += [function(indicators[:, a:b]) for a, b in itertools.pairwise(ends.tolist())]
  return jnp.concatenate(found, axis=1)


def decode(layout: Layout, modes: Modes, place: Array, score: Array) -> Array:
  """Rows of places [n, continuous] and of scores of all modes and categories, whose largest are what is there."""
  largest = lambda part: jax.nn.one_hot(jnp.argmax(part, axis=-1), part.shape[-1])
  chosen = _in_blocks(layout, largest, score)
  split = layout.num_continuous * NUM_MODES
  mode = chosen[:, :split].reshape(len(place), layout.num_continuous, NUM_MODES)
  numbers = jnp.sum(mode * (modes.mean[None] + place[..., None] * modes.std[None]), axis=2)
  rows = jnp.concatenate([numbers, chosen[:, split:]], axis=1)
  return rows.at[:, : layout.num_continuous].multiply(present(layout, rows))


def _gumbel(key: Array, shape: tuple[int, ...]) -> Array:
  """What makes the largest of logits a draw from them."""
  even = (bits(key, shape[0] * shape[1]).astype(float) + 0.5) * 2.0**-32
  return -jnp.log(-jnp.log(jnp.minimum(even, 1 - jnp.finfo(even.dtype).epsneg))).reshape(shape)


# --------------------------------------------------------------------------------------------------------------- TVAE
def tvae(
  layout: Layout, latent_dim: int, hidden: tuple[int, ...], recipe: networks.Recipe, emit: str
) -> tuple[Fit, Draw]:
  """A variational autoencoder: places are normal about the decoder's, modes and categories have its odds.

  Args:
    layout: of rows.
    latent_dim: normal coordinates that are decoded.
    hidden: sizes of dense layers of the encoder, and in reverse of the decoder.
    recipe: of training.
    emit: "noise", or "mean": places as decoded, and the likeliest modes and categories.
  """
  numbers, width = layout.num_continuous, _width(layout)

  def new(key):
    encoder_key, decoder_key = jax.random.split(key)
    return {
      "encoder": networks.dense(encoder_key, [width, *hidden, 2 * latent_dim], 0.1),
      "decoder": networks.dense(decoder_key, [latent_dim, *hidden[::-1], width], 0.1),
      "log_std": jnp.zeros(numbers),
    }

  def loss(weights, key, x):
    """[n] negative bound, nats."""
    mean, log_var = jnp.split(networks.apply_dense(weights["encoder"], x, jax.nn.relu), 2, axis=1)
    latent = mean + jnp.exp(log_var / 2) * normal(key, mean.shape)
    out = networks.apply_dense(weights["decoder"], latent, jax.nn.relu)
    log_std = weights["log_std"][None]
    apart = (x[:, :numbers] - out[:, :numbers]) * jnp.exp(-log_std)
    log_odds = _in_blocks(layout, jax.nn.log_softmax, out[:, numbers:])
    found = jnp.sum(0.5 * apart**2 + log_std, axis=1) - jnp.sum(x[:, numbers:] * log_odds, axis=1)
    return found + 0.5 * jnp.sum(mean**2 + jnp.exp(log_var) - 1 - log_var, axis=1)

  def fit(key, rows, weight, previous: Trained | None):
    modes_key, new_key, train_key = jax.random.split(key, 3)
    modes = _fit_modes(modes_key, layout, rows, weight)
    before = None if previous is None else previous.network
    x = encode(layout, modes, rows)
    return Trained(modes, networks.train(train_key, loss, new(new_key), x, weight, recipe, before))

  def draw(key, params: Trained, num: int):
    latent_key, noise_key, choice_key = jax.random.split(key, 3)
    weights = params.network.params
    out = networks.apply_dense(weights["decoder"], normal(latent_key, (num, latent_dim)), jax.nn.relu)
    place, score = out[:, :numbers], out[:, numbers:]
    if emit == "noise":
      place = place + jnp.exp(weights["log_std"])[None] * normal(noise_key, place.shape)
      score = score + _gumbel(choice_key, score.shape)
    return decode(layout, params.modes, place, score)

  return fit, draw


# -------------------------------------------------------------------------------------------------------------- CTGAN
class Seen(NamedTuple):
  """What an adversary draws rows by, beside its weights.

  Attributes:
    shares: [categories] of the training data, by which rows to emit are asked for.
    statistics: mean and variance [hidden] of each layer on rows that it emitted once: rows do not depend on how many are drawn.
  """

  shares: Any
  statistics: Any


def _of_block(layout: Layout) -> np.ndarray:
  """[blocks, categories] 1.0 where a category is one of a block."""
  return np.repeat(np.eye(len(layout.sizes), dtype=np.float32), layout.sizes, axis=1)


def asking(layout: Layout, categories: Array, weight: Array) -> Array:
  """[n, blocks] how often training asks for what a row has in a column: for columns alike, for categories by the logarithm of
  1 + the rows that have them, for rows of one category by their weights (training by sampling, Xu et al., section 4.3).

  Args:
    layout: of rows.
    categories: [n, categories] indicators.
    weight: [n] of rows.
  """
  of_block = jnp.asarray(_of_block(layout))
  count = matmul(weight, categories)
  often = jnp.log1p(count)
  often = often / matmul(matmul(of_block, often), of_block)
  chance = jnp.where(count > 0, often / jnp.where(count > 0, count, 1.0), 0.0)
  return weight[:, None] * matmul(categories * chance[None], of_block.T)


def ctgan(
  layout: Layout, noise_dim: int, hidden: tuple[int, ...], recipe: networks.Recipe, pac: int
) -> tuple[Fit, Draw]:
  """A generator that is asked for a category of a column, and a critic of `pac` rows at once (Lin et al. 1712.04086).

  Columns are asked for alike, and in training categories by the logarithm of how often they are there (training by sampling): that
  is a weight of each row and column. Rows to emit are asked for by how often categories are there. A column that is not asked for
  still comes out between the two, since the critic tells them apart slowly: what is rare is overstated. A step is one of the critic
  and then one of the generator. Weights begin as those of the authors' program do.

  Args:
    layout: of rows.
    noise_dim: normal coordinates that the generator takes.
    hidden: sizes of layers, of the generator residual with batch normalisation, of the critic with dropout of a half.
    recipe: of training; its batch is a multiple of pac.
    pac: rows that the critic sees at once.
  """
  numbers, width, num_categories = layout.num_continuous, _width(layout), sum(layout.sizes)
  seen = width + num_categories  # columns of the critic: a row, and what was asked for

  def new(key):
    layers_key, out_key, critic_key = jax.random.split(key, 3)
    before, layers = noise_dim + num_categories, []
    for size, layer_key in zip(hidden, jax.random.split(layers_key, len(hidden))):
      layers.append({"dense": networks.dense(layer_key, [before, size])[0], "scale": jnp.ones(size)})
      layers[-1]["shift"] = jnp.zeros(size)
      before += size
    weights = {
      "generator": {"layers": layers, "out": networks.dense(out_key, [before, width])[0]},
      "critic": networks.dense(critic_key, [pac * seen, *hidden, 1]),
    }
    return jax.tree.map(lambda x: x / np.sqrt(3) if x.ndim == 2 else x, weights)  # entries of variance 1 / (3 from)

  def generate(weights, x, statistics=None):
    """[n, width] before activation, and the statistics of each layer: those of x, unless they are given."""
    told = []
    for i, layer in enumerate(weights["layers"]):
      h = x @ layer["dense"][0] + layer["dense"][1][None]
      mean, variance = (jnp.mean(h, axis=0), jnp.var(h, axis=0)) if statistics is None else statistics[i]
      told.append((mean, variance))
      h = (h - mean[None]) * (layer["scale"] * jax.lax.rsqrt(variance + 1e-5))[None] + layer["shift"][None]
      x = jnp.concatenate([jax.nn.relu(h), x], axis=1)
    return x @ weights["out"][0] + weights["out"][1][None], told

  def written(key, weights, condition):
    """Rows as the critic sees them, and their scores before that."""
    noise_key, choice_key = jax.random.split(key)
    out, _ = generate(weights, jnp.concatenate([normal(noise_key, (len(condition), noise_dim)), condition], axis=1))
    score = out[:, numbers:]
    soft = _in_blocks(layout, jax.nn.softmax, (score + _gumbel(choice_key, score.shape)) / SOFTNESS)
    return jnp.concatenate([jnp.tanh(out[:, :numbers]), soft, condition], axis=1).reshape(-1, pac * seen), score

  def judged(layers, x, kept):
    """[n] of packs; `kept` are the masks of hidden layers."""
    for (matrix, bias), mask in zip(layers[:-1], kept):
      x = jax.nn.leaky_relu(x @ matrix + bias[None], 0.2) * mask
    return (x @ layers[-1][0] + layers[-1][1][None])[:, 0]

  def masks(key, num):
    drawn = (bits(one, num * size).reshape(num, size) for one, size in zip(jax.random.split(key, len(hidden)), hidden))
    return [2.0 * (words >> 31).astype(float) for words in drawn]

  def losses(encoded):
    """Of rows {"row", "block"}: numbers of a row, and of the column that is asked for as it is there."""

    def condition_of(asked):
      return encoded[asked["row"]][:, -num_categories:] * jnp.asarray(_of_block(layout))[asked["block"]]

    def critic(weights, key, asked):
      fake_key, mix_key, mask_key, slope_key = jax.random.split(key, 4)
      condition = condition_of(asked)
      fake, _ = written(fake_key, weights["generator"], condition)
      real = jnp.concatenate([encoded[asked["row"]], condition], axis=1).reshape(fake.shape)
      both = judged(weights["critic"], jnp.concatenate([real, fake]), masks(mask_key, 2 * len(fake)))
      between = fake + jax.random.uniform(mix_key, (len(fake), 1)) * (real - fake)
      slope_masks = masks(slope_key, len(fake))
      slope = jax.grad(lambda x: jnp.sum(judged(weights["critic"], x, slope_masks)))(between)
      steep = jnp.mean((jnp.sqrt(jnp.sum(slope**2, axis=1) + 1e-12) - 1) ** 2)
      loss = jnp.mean(both[len(fake) :]) - jnp.mean(both[: len(fake)]) + PENALTY * steep
      return jnp.broadcast_to(loss, asked["row"].shape)

    def generator(weights, key, asked):
      fake_key, mask_key = jax.random.split(key)
      condition = condition_of(asked)
      fake, score = written(fake_key, weights["generator"], condition)
      found = judged(weights["critic"], fake, masks(mask_key, len(fake)))
      log_odds = _in_blocks(layout, jax.nn.log_softmax, score)[:, -num_categories:]
      return -jnp.mean(found) - jnp.sum(condition * log_odds, axis=1)  # that it writes what it is asked for

    return {"critic": critic, "generator": generator}

  def asked_for(key, shares, num):
    """[num, categories]: columns alike, categories by their shares."""
    return jax.nn.one_hot(choose(key, table(shares), num), num_categories)

  def fit(key, rows, weight, previous: Trained | None):
    modes_key, new_key, train_key, ask_key, seen_key = jax.random.split(key, 5)
    modes = _fit_modes(modes_key, layout, rows, weight)
    encoded = encode(layout, modes, rows)
    encoded = encoded.at[:, :numbers].set(jnp.clip(encoded[:, :numbers] / FARTHEST, -1.0, 1.0))
    categories = encoded[:, -num_categories:]
    each = asking(layout, categories, weight)
    row, block = (jnp.asarray(index.reshape(-1)) for index in np.indices(each.shape))
    before = None if previous is None else previous.network
    network = networks.train(
      train_key,
      losses(encoded),
      new(new_key),
      {"row": row, "block": block},
      each.reshape(-1),
      recipe,
      before,
      used=weight > 0,
    )
    shares = matmul(weight, categories) / jnp.sum(weight)
    noise = normal(seen_key, (NUM_SEEN, noise_dim))
    condition = asked_for(ask_key, shares, NUM_SEEN)
    _, statistics = generate(network.params["generator"], jnp.concatenate([noise, condition], axis=1))
    return Trained(modes, network, Seen(shares, statistics))

  def draw(key, params: Trained, num: int):
    noise_key, ask_key, choice_key = jax.random.split(key, 3)
    x = jnp.concatenate([normal(noise_key, (num, noise_dim)), asked_for(ask_key, params.rest.shares, num)], axis=1)
    out, _ = generate(params.network.params["generator"], x, params.rest.statistics)
    score = out[:, numbers:]
    return decode(layout, params.modes, FARTHEST * jnp.tanh(out[:, :numbers]), score + _gumbel(choice_key, score.shape))

  return fit, draw


# ---------------------------------------------------------------------------------------------------------- diffusion
def diffusion(layout: Layout, hidden: tuple[int, ...], recipe: networks.Recipe) -> tuple[Fit, Draw]:
  """Ancestral sampling of predicted noise (Ho et al. 2006.11239), indicators as numbers, of which the largest is the category
  (Chen et al. 2208.04202).

  Args:
    layout: of rows.
    hidden: sizes of dense layers.
    recipe: of training.
  """
  width, numbers = _width(layout), layout.num_continuous
  angle = (np.arange(NUM_NOISES + 1) / NUM_NOISES + 0.008) / 1.008 * np.pi / 2  # Nichol and Dhariwal 2102.09672
  kept = np.clip(np.cos(angle) ** 2 / np.cos(angle[0]) ** 2, 1e-4, 1.0)

  def noise_of(weights, x, level):
    wave = jnp.stack([jnp.cos(np.pi * level), jnp.sin(np.pi * level), level], axis=1)
    return networks.apply_dense(weights, jnp.concatenate([x, wave], axis=1))

  def loss(weights, key, x):
    level_key, noise_key = jax.random.split(key)
    step = jax.random.randint(level_key, (len(x),), 1, NUM_NOISES + 1)
    noise, share = normal(noise_key, x.shape), jnp.asarray(kept, float)[step][:, None]
    noised = jnp.sqrt(share) * x + jnp.sqrt(1 - share) * noise
    return jnp.sum((noise_of(weights, noised, step / NUM_NOISES) - noise) ** 2, axis=1)

  def fit(key, rows, weight, previous: Trained | None):
    modes_key, new_key, train_key = jax.random.split(key, 3)
    modes = _fit_modes(modes_key, layout, rows, weight)
    x = encode(layout, modes, rows)
    x = jnp.concatenate([x[:, :numbers], 2 * x[:, numbers:] - 1], axis=1)
    before = None if previous is None else previous.network
    new = networks.dense(new_key, [width + 3, *hidden, width], 0.1)
    return Trained(modes, networks.train(train_key, loss, new, x, weight, recipe, before))

  def draw(key, params: Trained, num: int):
    start_key, noise_key = jax.random.split(key)

    def step(x, one):
      level, now, later, key = one
      noise = noise_of(params.network.params, x, jnp.full(num, level))
      clean = jnp.clip((x - jnp.sqrt(1 - now) * noise) / jnp.sqrt(now), -5.0, 5.0)
      alpha = now / later
      mean = (jnp.sqrt(later) * (1 - alpha) * clean + jnp.sqrt(alpha) * (1 - later) * x) / (1 - now)
      return mean + jnp.sqrt((1 - alpha) * (1 - later) / (1 - now)) * normal(key, x.shape), None

    levels = np.arange(NUM_NOISES, 0, -1)
    keys = jax.random.split(noise_key, NUM_NOISES)
    steps = (*(jnp.asarray(each, float) for each in (levels / NUM_NOISES, kept[levels], kept[levels - 1])), keys)
    x = jax.lax.scan(step, normal(start_key, (num, width)), steps)[0]
    return decode(layout, params.modes, x[:, :numbers], x[:, numbers:])

  return fit, draw
