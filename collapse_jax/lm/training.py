"""Fitting a language model: AdamW with warm-up, clipping and gradient accumulation, as one compiled function."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from collapse_jax.lm.sharding import constrain
from collapse_jax.refused import Refused
from collapse_jax.types import Array

Params = Any
Logits = Callable[[Params, Array], Array]


class Recipe(NamedTuple):
  """How a model is fitted. Numbers that fix a shape are static; learning_rate may be traced.

  Attributes:
    learning_rate: after warm-up, constant.
    budget: "epochs", "steps" or "tokens": what stays the same from generation to generation. Under `accumulate` an epoch is
      longer each generation, so that epochs and steps confound data and compute; results say which was held.
    amount: of that budget.
    batch_size: rows of an optimiser step.
    micro_batch_size: rows of a forward pass, dividing batch_size; gradients accumulate. None: all at once.
    warmup_share: share of the steps in which the learning rate rises linearly.
    clip_norm: of the gradient, over all parameters.
    weight_decay: of matrices and embeddings; as is the convention, norms, biases and other vectors do not decay.
  """

  learning_rate: Any = 1e-3
  budget: str = "epochs"
  amount: float = 1.0
  batch_size: int = 16
  micro_batch_size: int | None = None
  warmup_share: float = 0.05
  clip_norm: float = 1.0
  weight_decay: float = 0.0
  beta1: float = 0.9
  beta2: float = 0.999


class Fitted(NamedTuple):
  """A fitted model: what is sampled from and evaluated, and what its training was.

  Attributes:
    weights: the trained parameters: all of them, or adapters.
    learning_curve: [points] loss on held-out rows after equal parts of the budget, nats per token.
    train_loss: mean over the last of these parts that has a step, nats per token, tokens counted with the weights of their rows.
    num_steps: optimiser steps.
    num_tokens: tokens that were trained on.
  """

  weights: Params
  learning_curve: Array
  train_loss: Array
  num_steps: Array
  num_tokens: Array


def check(recipe: Recipe) -> None:
  """Raises ValueError where a recipe makes no sense."""
  if recipe.budget not in ("epochs", "steps", "tokens"):
    raise Refused(f"budget must be epochs, steps or tokens, got {recipe.budget!r}.")
  if not recipe.amount > 0:
    raise Refused(f"amount must be above 0, got {recipe.amount}.")
  micro = recipe.micro_batch_size or recipe.batch_size
  if recipe.batch_size < 1 or micro < 1 or recipe.batch_size % micro:
    raise Refused(f"batch_size {recipe.batch_size} must be a multiple of micro_batch_size {micro}.")


def token_losses(logits: Logits, params: Params, tokens: Array, length: Array) -> tuple[Array, Array]:
  """Cross entropies [B, L - 1] in nats of each token after the first, and which of them count."""
  scores = logits(params, tokens).astype(jnp.float32)
  # Neither sliced nor gathered from: the gradients of both are passes over another array of this size.
  following = jnp.roll(tokens, -1, axis=1)[..., None] == jnp.arange(scores.shape[-1])[None, None]
  loss = jax.nn.logsumexp(scores, axis=-1) - jnp.sum(jnp.where(following, scores, 0.0), axis=-1)
  counts = jnp.arange(1, tokens.shape[1])[None] < length[:, None]
  return loss[:, :-1], counts


def mean_loss(logits: Logits, params: Params, tokens: Array, length: Array, batch_size: int) -> Array:
  """Cross entropy, nats per token, over rows [n, L]: a batch at a time."""
  n = tokens.shape[0]
  size = min(batch_size, n)
  pad = -n % size
  tokens = jnp.pad(tokens, ((0, pad), (0, 0))).reshape(-1, size, tokens.shape[1])
  length = jnp.pad(length, (0, pad)).reshape(-1, size)

  def one(rows):
    loss, counts = token_losses(logits, params, *rows)
    return jnp.sum(jnp.where(counts, loss, 0.0)), jnp.sum(counts)

  total, count = jax.lax.map(one, (tokens, length))
  return jnp.sum(total) / jnp.sum(count)


def num_steps(recipe: Recipe, used: Array, length: Array) -> tuple[Array, Array]:
  """(optimiser steps of the budget, steps of an epoch) for rows [R] of which some are used; both int32."""
  num = jnp.sum(used)
  epoch = jnp.maximum(-(-num // recipe.batch_size), 1)
  if recipe.budget == "epochs":
    steps = jnp.ceil(recipe.amount * epoch - 1e-4)
  elif recipe.budget == "steps":
    steps = jnp.asarray(recipe.amount)
  else:
    steps = jnp.ceil(recipe.amount * epoch / jnp.maximum(jnp.sum(jnp.where(used, length - 1, 0)), 1))
  return jnp.maximum(steps, 1).astype(jnp.int32), epoch


def fit(
  key: Array,
  logits: Logits,
  recipe: Recipe,
  weights: Params,
  tokens: Array,
  length: Array,
  row_weight: Array,
  held_out: Callable[[Params], Array],
  curve_points: int = 4,
  dtype=jnp.float32,
  mesh: Mesh | None = None,
) -> Fitted:
  """Trains `weights` on the rows whose weight is not 0; one compilation whatever their number.

  Args:
    key: of the order of rows: each epoch a new permutation.
    logits: (weights, tokens [B, L]) -> [B, L, V].
    weights: to start from. They are trained in float32 and used in `dtype`.
    tokens, length, row_weight: [R, L], [R], [R]; a row's tokens count `row_weight` times in the loss, which is a mean.
    held_out: loss of weights on other rows, for the learning curve.
    mesh: devices over which weights, gradients and moments are split.
  """
  used = row_weight > 0
  num = jnp.sum(used)
  own_steps, epoch_steps = num_steps(recipe, used, length)
  optimiser = optax.chain(
    optax.clip_by_global_norm(recipe.clip_norm),
    optax.scale_by_adam(recipe.beta1, recipe.beta2),
    optax.add_decayed_weights(recipe.weight_decay, _decays),
  )
  micro = recipe.micro_batch_size or recipe.batch_size
  warmup = jnp.maximum(recipe.warmup_share * own_steps, 1.0)
  split = functools.partial(constrain, mesh=mesh)
  cast = lambda weights: split(jax.tree.map(lambda x: x.astype(dtype), weights))

  def loss_sum(weights, rows):
    tokens, length, weight = rows
    loss, counts = token_losses(logits, cast(weights), tokens, length)
    each = weight[:, None] * counts
    return jnp.sum(each * jnp.where(counts, loss, 0.0)), (jnp.sum(each), jnp.sum(each > 0))

  def gradient(weights, rows):
    """Of the mean over the batch's tokens, weighted: sums over micro-batches, divided once."""
    value_and_grad = jax.value_and_grad(loss_sum, has_aux=True)
    if micro == recipe.batch_size:
      (loss, (mass, count)), total = value_and_grad(weights, rows)
    else:
      parts = jax.tree.map(lambda x: x.reshape(-1, micro, *x.shape[1:]), rows)

      def add(carry, part):
        (loss, (mass, count)), one = value_and_grad(weights, part)
        return jax.tree.map(jnp.add, carry, (loss, mass, count, one)), None

      zero = (jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, weights))
      (loss, mass, count, total), _ = jax.lax.scan(add, zero, parts)
    scale = jnp.where(mass > 0, 1 / mass, 0.0)
    return loss, mass, count, split(jax.tree.map(lambda g: g * scale, total))

  def step(target, state):
    i, weights, moments, losses, masses, seen = state
    active = i < target  # under vmap, runs with fewer steps wait for the longest
    order = jnp.argsort(jnp.where(used, jax.random.uniform(jax.random.fold_in(key, i // epoch_steps), used.shape), 2.0))
    place = (i % epoch_steps) * recipe.batch_size + jnp.arange(recipe.batch_size)
    row = order[jnp.minimum(place, used.shape[0] - 1)]
    weight = jnp.where((place < num) & active, row_weight[row], 0.0)
    loss, mass, count, grads = gradient(weights, (tokens[row], length[row], weight))
    updates, new_moments = optimiser.update(grads, moments, weights)
    rate = recipe.learning_rate * jnp.minimum((i + 1) / warmup, 1.0)
    new_weights = jax.tree.map(lambda w, u: w - rate * u, weights, updates)
    keep = functools.partial(jax.tree.map, functools.partial(jnp.where, active))
    new_weights, new_moments = split(keep(new_weights, weights)), split(keep(new_moments, moments))
    return i + active, new_weights, new_moments, losses + loss, masses + mass, seen + count

  def part(carry, share):
    i, weights, moments, seen, latest = carry
    target = jnp.round(share * own_steps).astype(jnp.int32)
    state = i, weights, moments, jnp.zeros(()), jnp.zeros(()), seen
    state = jax.lax.while_loop(lambda s: largest(target - s[0]) > 0, functools.partial(step, target), state)
    i, weights, moments, losses, masses, seen = state
    latest = jnp.where(masses > 0, losses / masses, latest)
    return (i, weights, moments, seen, latest), held_out(cast(weights))

  weights = split(jax.tree.map(lambda x: x.astype(jnp.float32), weights))
  start = (
    jnp.zeros((), jnp.int32),
    weights,
    split(optimiser.init(weights)),
    jnp.zeros((), jnp.int32),
    jnp.full((), jnp.nan),
  )
  shares = jnp.arange(1, curve_points + 1) / curve_points
  (_, weights, _, seen, train_loss), curve = jax.lax.scan(part, start, shares)
  return Fitted(cast(weights), curve, train_loss, own_steps, seen)


def _decays(weights: Params):
  """Which parameters are matrices; those of norms and biases may be stacked, a row a layer, and are known by their names."""
  name = lambda path: jax.tree_util.keystr(path[-1:], simple=True)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.ndim(x) > 1 and name(path) not in ("scale", "bias"), weights
  )


@jax.custom_batching.custom_vmap
def largest(x: Array) -> Array:
  """x; under vmap the largest over the batch, which is then not batched: a loop that it bounds needs no selects."""
  return x


@largest.def_vmap
def _largest_rule(axis_size, in_batched, x):
  return (jnp.max(x, axis=0) if in_batched[0] else x), False
