"""What tasks with neural networks share: dense layers as trees of matrices, and training them on weighted rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from collapse_jax import training
from collapse_jax.random import normal
from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import check_integer, check_positive
from collapse_jax.types import Array, Params
from collapse_jax.vocabulary import STARTS


class Recipe(NamedTuple):
  """How a model is trained, by Adam.

  Attributes:
    budget: "steps", "epochs" or "rows", of each generation.
    amount: of that budget; may be traced.
    batch_size: rows of a step, drawn in proportion to their weights.
    learning_rate: at first; may be traced.
    start: what a fit takes over from the previous model, where a run hands it on (`warm_start`): "weights", "weights+optimiser" or
      nothing ("cold").
    beta2: decay of Adam's mean of squares.
    decay: of the learning rate in each generation, "constant" or "cosine", along half a wave to 0.
    ema: decay of the moving average of the weights; None: there is none; may be traced.
    beta1: decay of its mean of gradients.
  """

  budget: str
  amount: Any
  batch_size: int
  learning_rate: Any
  start: str
  beta2: float = 0.999
  decay: str = "cosine"
  ema: Any = None
  beta1: float = 0.9

  def check(self) -> "Recipe":
    """Raises Refused where a field is out of range."""
    if self.budget not in training.BUDGETS:
      raise Refused.must_be("budget", f"one of {', '.join(training.BUDGETS)}", self.budget)
    if self.start not in STARTS:
      raise Refused.must_be("start", f"one of {', '.join(STARTS)}", self.start)
    check_positive("amount", self.amount)
    check_positive("learning_rate", self.learning_rate)
    check_integer("batch_size", self.batch_size, 1)
    return self


def train(
  key: Array,
  loss: training.Loss | Mapping[str, training.Loss],
  new: Params,
  rows: Any,
  row_weight: Array,
  recipe: Recipe,
  previous: training.Fitted | None,
  used: Array | None = None,
) -> training.Fitted:
  """Weights that minimise the weighted mean of a loss.

  Args:
    key: of the order of rows and of what the loss draws.
    loss: (weights, key, rows [B, ...]) -> [B]; or one for each network of a dict, which are trained in turns.
    new: weights to begin with where nothing is taken over.
    rows: leaves [R, ...].
    row_weight: [R], at least 0.
    recipe: checked.
    previous: model of the generation before, or None.
    used: [rows of an epoch] bool; None: those of a weight above 0.
  """
  used = row_weight > 0 if used is None else used
  steps, _ = training.num_steps(recipe.budget, recipe.amount, used, recipe.batch_size)
  wave = lambda step: 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0)))
  rate = lambda step: -recipe.learning_rate * (wave(step) if recipe.decay == "cosine" else 1.0)
  optimiser = optax.chain(optax.scale_by_adam(b1=recipe.beta1, b2=recipe.beta2), optax.scale_by_schedule(rate))
  turns = isinstance(loss, Mapping)
  if previous is None or recipe.start == "cold":
    state = training.start(optimiser, new, turns)
  else:
    state = training.start(optimiser, previous.state.params, turns)._replace(average=previous.state.average)
    if recipe.start == "weights+optimiser":
      begun = lambda before, now: (before[0], *now[1:])  # the schedule begins anew
      before, now = previous.state.moments, state.moments
      moments = {one: begun(before[one], now[one]) for one in now} if turns else begun(before, now)
      state = state._replace(moments=moments)
  options: dict[str, Any] = {"order": "weight", "ema": recipe.ema}
  return training.fit(key, loss, state, rows, row_weight, optimiser, steps, recipe.batch_size, **options)


def dense(key: Array, sizes: Sequence[int], last: float = 1.0) -> list[tuple[Array, Array]]:
  """Matrices [from, to] and biases [to] of layers of these sizes.

  Args:
    key: of the matrices, whose entries have variance 1 / from.
    sizes: of input, hidden layers and output.
    last: factor of the last matrix.
  """
  layers = []
  for i, (before, after, one) in enumerate(zip(sizes[:-1], sizes[1:], jax.random.split(key, len(sizes) - 1))):
    scale = (last if i == len(sizes) - 2 else 1.0) / np.sqrt(before)
    layers.append((scale * normal(one, (before, after)), jnp.zeros(after)))
  return layers


def apply_dense(
  layers: list[tuple[Array, Array]], x: Array, activation: Callable[[Array], Array] = jax.nn.silu
) -> Array:
  """[n, to] of x [n, from].

  Args:
    layers: matrices and biases.
    x: [n, from].
    activation: between layers.
  """
  for i, (matrix, bias) in enumerate(layers):
    x = x @ matrix + bias[None]
    x = activation(x) if i < len(layers) - 1 else x
  return x


class Patches(NamedTuple):
  """How rows are cut into tokens: `numbers` [tokens, patch] of their columns, and `back` [dim], its inverse."""

  numbers: np.ndarray
  back: np.ndarray


def patches_of(shape: Sequence[int], size: int) -> Patches:
  """Squares of `size` pixels of images [height, width] or [height, width, channels].

  Raises:
    Refused: they do not tile the image.
  """
  if len(shape) not in (2, 3) or shape[0] % size or shape[1] % size:
    raise Refused.must_be("patch_size", f"a divisor of the height and width of images {tuple(shape)}", size)
  height, width = shape[:2]
  number = np.arange(int(np.prod(shape))).reshape(height // size, size, width // size, size, -1)
  numbers = number.transpose(0, 2, 1, 3, 4).reshape((height // size) * (width // size), -1)
  return Patches(numbers, np.argsort(numbers.reshape(-1)))


def attention(key: Array, width: int) -> dict[str, Any]:
  """Weights of a block of self-attention with one head, and of a dense layer after it."""
  mix_key, dense_key = jax.random.split(key)
  return {"mix": dense(mix_key, [width, 3 * width]), "out": dense(dense_key, [width, 2 * width, width], 0.5)}


def apply_attention(weights: dict[str, Any], x: Array) -> Array:
  """[n, tokens, width] of the same."""
  query, key, value = jnp.split(_each(weights["mix"], _normed(x)), 3, axis=-1)
  score = jax.nn.softmax(jnp.einsum("nqw,nkw->nqk", query, key) / np.sqrt(x.shape[-1]), axis=-1)
  x = x + jnp.einsum("nqk,nkw->nqw", score, value)
  return x + _each(weights["out"], _normed(x))


def _each(layers, x):
  return apply_dense(layers, x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _normed(x):
  centered = x - jnp.mean(x, axis=-1, keepdims=True)
  return centered * jax.lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + 1e-5)
