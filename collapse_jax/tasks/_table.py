"""Tables of mixed columns, modelled by a Gaussian copula, an autoencoder or diffusion (Xu et al. 1907.00503).

Rows are {"x": [n, width]}: standardised numbers and blocks of indicators, see `data.tables.Layout`; with a label, which is a block
too, {"x": without it, "label": [n]}, as transforms that train classifiers take them.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from collapse_jax import store as storage
from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.data import tables
from collapse_jax.random import normal, uniform
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks import _networks as networks
from collapse_jax.tasks._gaussian_mixture import Mixture, fit_mixture
from collapse_jax.tasks.parts import check_integer, matmul
from collapse_jax.types import Array, Context, Expected, MetricInfo, TaskSetting

MODELS = ("copula", "tvae", "diffusion")
NUM_QUANTILES = 129  # of a continuous column's marginal, the extremes among them
NUM_MODES = 5
NUM_NOISES = 50

METRICS = {
  "category_diversity": MetricInfo(
    "chance that two rows differ in a categorical column, mean over these", worse="lower", measures="variance"
  ),
  "minority_share": MetricInfo("share of the rarest category", worse="lower", measures="tail"),
  "category_distance": MetricInfo("total variation of categories, mean over columns", worse="higher", measures="risk"),
  "number_distance": MetricInfo(
    "Wasserstein distance of numbers, mean over columns", "standard deviations", worse="higher"
  ),
  "correlation_error": MetricInfo("error of correlations of columns, mean over pairs", worse="higher"),
}


class TableProblem(NamedTuple):
  """test: rows that no model is fitted to."""

  test: Any


@citing("1907.00503")
def table(
  data,
  num_samples: int,
  model: str = "copula",
  *,
  label: str | None = None,
  emit: str = "noise",
  latent_dim: int = 16,
  hidden: Sequence[int] = (128, 128),
  budget: str = "steps",
  amount=1000,
  batch_size: int = 128,
  learning_rate=1e-3,
  start: str = "weights",
  num_test: int = 1000,
) -> TaskSetting:
  """Rows of a table, whose columns are numbers and categories.

  Args:
    data: what `data.tables.get` takes: "breast_cancer", "moons", "circles", "mixed", a .csv or .parquet file, a DataFrame.
    num_samples: rows per batch, at least 2, drawn without replacement.
    model: "copula": normal scores with their correlation, categories by their frequencies, numbers by their quantiles; "tvae": an
      autoencoder of columns with mode-specific normalisation; "diffusion" of the same columns, categories as indicators.
    label: name of a column of two values that becomes the rows' label.
    emit: of "tvae": "noise", or "mean": the likeliest categories and the means of numbers.
    latent_dim: of "tvae".
    hidden: sizes of dense layers.
    budget, amount, batch_size, learning_rate, start: of training, as of `tasks.vae`.
    num_test: most test rows, which are also emitted to be looked at.
  Raises:
    Refused: an argument out of range, or data that cannot be used.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.table("mixed", num_samples=200)
  >>> print(*task.metrics)
  category_diversity minority_share category_distance number_distance correlation_error
  """
  source = tables.get(data, label)
  layout = source.layout
  if model not in MODELS:
    raise Refused.must_be("model", f"one of {', '.join(MODELS)}", model)
  if emit not in ("noise", "mean"):
    raise Refused.must_be("emit", "'noise' or 'mean'", emit)
  if not layout.sizes:
    raise Refused(f"{source.name} has no categorical column: tasks.kde or tasks.flow model numbers.", argument="data")
  check_integer("num_samples", num_samples, 2, len(source.rows) - 2)
  check_integer("num_test", num_test, 2)
  check_integer("latent_dim", latent_dim, 1)
  recipe = networks.Recipe(budget, amount, batch_size, learning_rate, start).check()
  fit_rows, draw_rows = {
    "copula": lambda: (lambda key, rows, weight, previous: _fit_copula(layout, rows, weight), _draw_copula),
    "tvae": lambda: _tvae(layout, latent_dim, tuple(hidden), recipe, emit),
    "diffusion": lambda: _diffusion(layout, tuple(hidden), recipe),
  }[model]()
  shares = source.rows[:, layout.num_continuous :].mean(axis=0, dtype=np.float64)
  rarest = layout.num_continuous + int(np.argmin(shares))
  diversity = float(len(layout.sizes) - np.sum(shares**2)) / len(layout.sizes)

  def split(rows):
    if not source.labelled:
      return {"x": rows}
    return {"x": rows[:, :-2], "label": rows[:, -1]}

  def joined(rows):
    if not source.labelled:
      return rows["x"]
    return jnp.concatenate([rows["x"], 1 - rows["label"][:, None], rows["label"][:, None]], axis=1)

  def init(key):
    order = jax.random.permutation(key, len(source.rows))
    everything = jnp.asarray(source.rows)
    test = everything[order[num_samples : num_samples + num_test]]
    return TableProblem(split(test)), batch(split(everything[order[:num_samples]]))

  def fit(key, problem, context: Context):
    rows, weight = storage.flat(context.data)
    return fit_rows(key, joined(rows), weight, context.previous)

  def sample(key, problem, params, context: Context):
    return batch(split(draw_rows(key, layout, params, context.num))), {}

  def evaluate(key, problem, params):
    test = joined(problem.test)
    rows = draw_rows(key, layout, params, len(test))
    here, real = (jnp.mean(one[:, layout.num_continuous :], axis=0) for one in (rows, test))
    if model == "copula":
      here = params.shares
    numbers = layout.num_continuous
    sorted_rows, sorted_test = (jnp.sort(one[:, :numbers], axis=0) for one in (rows, test))
    between = jnp.mean(jnp.abs(sorted_rows - sorted_test)) if numbers else jnp.zeros(())
    return {
      "category_diversity": (len(layout.sizes) - jnp.sum(here**2)) / len(layout.sizes),
      "minority_share": here[rarest - numbers],
      "category_distance": 0.5 * jnp.sum(jnp.abs(here - real)) / len(layout.sizes),
      "number_distance": between,
      "correlation_error": jnp.mean(jnp.abs(_correlation(rows) - _correlation(test))),
    }

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """Of frequencies: drift without selection, whatever the other columns are."""
    moments = theory.schedule_moments(schedule)
    finite = len(source.rows) / (len(source.rows) - 1)  # real rows are drawn without replacement
    return {
      "category_diversity": Expected(diversity * finite * moments.trace_ratio, None, theory.light_until(schedule, 1.0)),
    }

  return TaskSetting(
    init, fit, sample, evaluate, num_samples, metrics=METRICS, predict=predict if model == "copula" else None
  )


def _correlation(rows: Array) -> Array:
  """[width, width]; 0 where a column is constant."""
  about = rows - jnp.mean(rows, axis=0, keepdims=True)
  scale = jnp.sqrt(jnp.mean(about**2, axis=0))
  unit = jnp.where(scale[None] > 1e-6, about / jnp.maximum(scale, 1e-6)[None], 0.0)
  return matmul(unit.T, unit) / len(rows)


# ------------------------------------------------------------------------------------------------------------ copula
class Copula(NamedTuple):
  """A fitted copula.

  Attributes:
    quantiles: [continuous, NUM_QUANTILES] of the numbers, at equal steps of probability.
    shares: [sum of sizes] frequencies of categories.
    root: [columns, columns] of the scores' correlation.
  """

  quantiles: Any
  shares: Any
  root: Any


def _fit_copula(layout: tables.Layout, rows: Array, weight: Array) -> Copula:
  share = weight / jnp.sum(weight)
  grid = jnp.linspace(0.0, 1.0, NUM_QUANTILES)

  def of_numbers(x):
    """Quantiles of a column and its normal scores; rows that do not count come last, and have no width."""
    order = jnp.argsort(jnp.where(share > 0, x, jnp.inf))
    largest = jnp.max(jnp.where(share > 0, x, -jnp.inf))
    middle = jnp.cumsum(share[order]) - 0.5 * share[order]
    values = jnp.where(share[order] > 0, x[order], largest)
    score = jnp.zeros_like(x).at[order].set(ndtri(jnp.clip(middle, 1e-6, 1 - 1e-6)))
    return jnp.interp(grid, middle, values), score

  numbers = rows[:, : layout.num_continuous]
  quantiles, scores = (
    jax.vmap(of_numbers, in_axes=1)(numbers)
    if layout.num_continuous
    else (
      jnp.zeros((0, NUM_QUANTILES)),
      jnp.zeros((0, len(rows))),
    )
  )
  shares, columns = [], [scores]
  for block in layout.slices:
    frequency = matmul(share, rows[:, block])
    middle = jnp.clip(jnp.cumsum(frequency) - 0.5 * frequency, 1e-6, 1 - 1e-6)
    shares.append(frequency)
    columns.append(matmul(rows[:, block], ndtri(middle))[None])
  score = jnp.concatenate(columns)
  about = (score - matmul(score, share)[:, None]) * jnp.sqrt(share)[None]
  scale = jnp.sqrt(jnp.sum(about**2, axis=1))
  unit = jnp.where(scale[:, None] > 1e-6, about / jnp.maximum(scale, 1e-6)[:, None], 0.0)
  root = jnp.linalg.cholesky(0.999 * matmul(unit, unit.T) + 0.001 * jnp.eye(len(unit)))
  return Copula(quantiles, jnp.concatenate(shares), root / jnp.linalg.norm(root, axis=1, keepdims=True))


def _draw_copula(key: Array, layout: tables.Layout, params: Copula, num: int) -> Array:
  place = ndtr(matmul(normal(key, (num, len(params.root))), params.root.T))
  grid = jnp.linspace(0.0, 1.0, NUM_QUANTILES)
  numbers = [jnp.interp(place[:, j], grid, params.quantiles[j])[:, None] for j in range(layout.num_continuous)]
  blocks = []
  for j, block in enumerate(layout.slices):
    first = block.start - layout.num_continuous
    below = jnp.cumsum(params.shares[first : first + layout.sizes[j]])[:-1]
    at = place[:, layout.num_continuous + j] * (1 - 1e-6)  # never beyond what sums up to 1 but for rounding
    blocks.append(jax.nn.one_hot(jnp.sum(at[:, None] >= below[None], axis=1), layout.sizes[j]))
  return jnp.concatenate([*numbers, *blocks], axis=1)


# --------------------------------------------------------------------------------------- columns as networks see them
class Modes(NamedTuple):
  """Of continuous columns: [continuous, NUM_MODES] log shares, means and standard deviations."""

  log_share: Any
  mean: Any
  std: Any


def _fit_modes(key: Array, layout: tables.Layout, rows: Array, weight: Array) -> Modes:
  """A normal mixture of each continuous column."""
  if not layout.num_continuous:
    return Modes(*[jnp.zeros((0, NUM_MODES))] * 3)

  def one(key, x):
    found: Mixture = fit_mixture(key, x[:, None], weight, NUM_MODES, 30)
    return Modes(found.log_weight, found.mean[:, 0], jnp.maximum(found.factor[:, 0, 0], 1e-4))

  return jax.vmap(one, in_axes=(0, 1))(jax.random.split(key, layout.num_continuous), rows[:, : layout.num_continuous])


def _encode(layout: tables.Layout, modes: Modes, rows: Array) -> Array:
  """[n, continuous * (1 + NUM_MODES) + categories]: where in its likeliest mode a number lies, which that is, and indicators."""
  x = rows[:, : layout.num_continuous, None]
  within = (x - modes.mean[None]) / modes.std[None]
  mode = jnp.argmax(modes.log_share[None] - jnp.log(modes.std)[None] - 0.5 * within**2, axis=2)
  place = jnp.take_along_axis(within, mode[..., None], axis=2)[..., 0]
  chosen = jax.nn.one_hot(mode, NUM_MODES).reshape(len(rows), -1)
  return jnp.concatenate([place, chosen, rows[:, layout.num_continuous :]], axis=1)


def _blocks(layout: tables.Layout) -> list[slice]:
  """Of indicators in what `_encode` gives: modes, then categories."""
  sizes = [NUM_MODES] * layout.num_continuous + list(layout.sizes)
  ends = layout.num_continuous + np.cumsum([0, *sizes])
  return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


def _decode(layout: tables.Layout, modes: Modes, place: Array, logits: Array, key: Array | None) -> Array:
  """Rows of places [n, continuous] and logits of all blocks; with a key categories are drawn, without it they are the likeliest."""
  if key is not None:
    noise = uniform(key, logits.size).reshape(logits.shape)
    logits = logits - jnp.log(-jnp.log(noise))  # Gumbel's
  found = []
  for block in _blocks(layout):
    part = logits[:, block.start - layout.num_continuous : block.stop - layout.num_continuous]
    found.append(jax.nn.one_hot(jnp.argmax(part, axis=1), part.shape[1]))
  numbers = [
    (matmul(found[j], modes.mean[j]) + place[:, j] * matmul(found[j], modes.std[j]))[:, None]
    for j in range(layout.num_continuous)
  ]
  return jnp.concatenate([*numbers, *found[layout.num_continuous :]], axis=1)


class Trained(NamedTuple):
  """A network, and the modes of the columns that it sees."""

  modes: Modes
  network: networks.Network


# -------------------------------------------------------------------------------------------------------------- TVAE
def _tvae(layout: tables.Layout, latent_dim: int, hidden: tuple[int, ...], recipe: networks.Recipe, emit: str):
  blocks, numbers = _blocks(layout), layout.num_continuous
  width = blocks[-1].stop

  def new(key):
    encoder_key, decoder_key = jax.random.split(key)
    return {
      "encoder": networks.dense(encoder_key, [width, *hidden, 2 * latent_dim], 0.1),
      "decoder": networks.dense(decoder_key, [latent_dim, *hidden[::-1], width], 0.1),
      "log_std": jnp.zeros(numbers),
    }

  def loss(weights, key, x):
    """[n] negative bound, nats."""
    mean, log_var = jnp.split(networks.apply_dense(weights["encoder"], x), 2, axis=1)
    out = networks.apply_dense(weights["decoder"], mean + jnp.exp(log_var / 2) * normal(key, mean.shape))
    log_std = weights["log_std"][None]
    apart = (x[:, :numbers] - out[:, :numbers]) * jnp.exp(-log_std)
    found = jnp.sum(0.5 * apart**2 + log_std, axis=1)
    for block in blocks:
      found = found - jnp.sum(x[:, block] * jax.nn.log_softmax(out[:, block], axis=1), axis=1)
    return found + 0.5 * jnp.sum(mean**2 + jnp.exp(log_var) - 1 - log_var, axis=1)

  def fit(key, rows, weight, previous: Trained | None):
    modes_key, new_key, train_key = jax.random.split(key, 3)
    modes = _fit_modes(modes_key, layout, rows, weight)
    before = None if previous is None else previous.network
    encoded = _encode(layout, modes, rows)
    return Trained(modes, networks.train(train_key, loss, new(new_key), encoded, weight, recipe, before))

  def draw(key, layout, params: Trained, num: int):
    latent_key, noise_key, choice_key = jax.random.split(key, 3)
    weights = params.network.weights
    out = networks.apply_dense(weights["decoder"], normal(latent_key, (num, latent_dim)))
    place = out[:, :numbers]
    if emit == "noise":
      place = place + jnp.exp(weights["log_std"])[None] * normal(noise_key, place.shape)
    return _decode(layout, params.modes, place, out[:, numbers:], choice_key if emit == "noise" else None)

  return fit, draw


# --------------------------------------------------------------------------------------------------------- diffusion
def _diffusion(layout: tables.Layout, hidden: tuple[int, ...], recipe: networks.Recipe):
  """Ancestral sampling of predicted noise (Ho et al. 2006.11239); indicators are numbers, and the largest of a block is its
  category (Chen et al. 2208.04202)."""
  width, numbers = _blocks(layout)[-1].stop, layout.num_continuous
  angle = (
    (np.arange(NUM_NOISES + 1) / NUM_NOISES + 0.008) / 1.008 * np.pi / 2
  )  # a cosine schedule (Nichol and Dhariwal 2021)
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
    x = _encode(layout, modes, rows)
    x = jnp.concatenate([x[:, :numbers], 2 * x[:, numbers:] - 1], axis=1)
    before = None if previous is None else previous.network
    new = networks.dense(new_key, [width + 3, *hidden, width], 0.1)
    return Trained(modes, networks.train(train_key, loss, new, x, weight, recipe, before))

  def draw(key, layout, params: Trained, num: int):
    start_key, noise_key = jax.random.split(key)

    def step(x, one):
      level, now, later, key = one
      noise = noise_of(params.network.weights, x, jnp.full(num, level))
      clean = jnp.clip((x - jnp.sqrt(1 - now) * noise) / jnp.sqrt(now), -5.0, 5.0)
      alpha = now / later
      mean = (jnp.sqrt(later) * (1 - alpha) * clean + jnp.sqrt(alpha) * (1 - later) * x) / (1 - now)
      return mean + jnp.sqrt((1 - alpha) * (1 - later) / (1 - now)) * normal(key, x.shape), None

    levels = np.arange(NUM_NOISES, 0, -1)
    keys = jax.random.split(noise_key, NUM_NOISES)
    steps = (*(jnp.asarray(each, float) for each in (levels / NUM_NOISES, kept[levels], kept[levels - 1])), keys)
    x = jax.lax.scan(step, normal(start_key, (num, width)), steps)[0]
    return _decode(layout, params.modes, x[:, :numbers], x[:, numbers:], None)

  return fit, draw
