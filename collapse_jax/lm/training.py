"""Fitting a language model: AdamW with warm-up, clipping and gradient accumulation, as one compiled function."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from collapse_jax import training
from collapse_jax.lm.sharding import constrain
from collapse_jax.refused import Refused
from collapse_jax.types import Array
from collapse_jax.vocabulary import TOKEN_BUDGETS

__all__ = [
  "Fitted",
  "Recipe",
  "Scores",
  "by_batches",
  "check",
  "fit",
  "losses",
  "mean_loss",
  "num_steps",
  "token_losses",
]

Params = Any
Logits = Callable[[Params, Array], Array]
MOST = 1 << 26  # logits at once: 256 MiB


@dataclasses.dataclass(frozen=True)
class Scores:
  """Logits of which the last step is apart, so that losses need those of a few tokens at a time only.

  Attributes:
    hidden: (params, tokens [B, L]) -> [B, L, dim].
    output: (params) -> what the last step needs of them.
    head: (output, hidden [B, l, dim]) -> logits [B, l, V].
  """

  hidden: Callable[[Params, Array], Array]
  output: Callable[[Params], Params]
  head: Callable[[Params, Array], Array]

  def __call__(self, params: Params, tokens: Array) -> Array:
    return self.head(self.output(params), self.hidden(params, tokens))


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
  if recipe.budget not in TOKEN_BUDGETS:
    raise Refused(f"budget must be epochs, steps or tokens, got {recipe.budget!r}.")
  if not recipe.amount > 0:
    raise Refused(f"amount must be above 0, got {recipe.amount}.")
  training.check_batches(recipe.batch_size, recipe.micro_batch_size)


def token_losses(
  logits: Logits, params: Params, tokens: Array, length: Array, learned: Array | None = None
) -> tuple[Array, Array]:
  """Cross entropies [B, L - 1] in nats of each token after the first, and which of them count.

  Args:
    logits: (params, tokens [B, L]) -> [B, L, V]; of `Scores` not all are in memory at once.
    params: its parameters.
    tokens: [B, L] int32.
    length: [B] int32, tokens in use of each row.
    learned: [B, L] bool, those of them that count; None: all.
  Returns:
    [B, L - 1] float32 nats, and [B, L - 1] bool.
  """
  following = jnp.roll(tokens, -1, axis=1)
  if isinstance(logits, Scores):
    loss = _losses_in_parts(logits, params, tokens, following)
  else:
    loss = _cross_entropy(logits(params, tokens), following)
  counts = jnp.arange(1, tokens.shape[1])[None] < length[:, None]
  counts = counts if learned is None else counts & learned[:, 1:]
  return loss[:, :-1], counts


def _cross_entropy(scores: Array, following: Array) -> Array:
  """[...] nats, of logits [..., V] and the tokens that follow."""
  scores = scores.astype(jnp.float32)
  # Neither sliced nor gathered from: the gradients of both are passes over another array of this size.
  here = following[..., None] == jnp.arange(scores.shape[-1]).reshape((1,) * following.ndim + (-1,))
  return jax.nn.logsumexp(scores, axis=-1) - jnp.sum(jnp.where(here, scores, 0.0), axis=-1)


def _losses_in_parts(logits: Scores, params: Params, tokens: Array, following: Array) -> Array:
  """Cross entropies [B, L]; where the logits of all tokens are many, of some positions of all rows at a time."""
  hidden, output = logits.hidden(params, tokens), logits.output(params)
  vocab = jax.eval_shape(logits.head, output, hidden).shape[-1]
  length = tokens.shape[1]
  num = min(-(-tokens.size * vocab // MOST), length)
  if num == 1:
    return _cross_entropy(logits.head(output, hidden), following)
  size = -(-length // num)
  num = -(-length // size)

  def parts(x):
    x = jnp.pad(x, [(0, 0), (0, num * size - length)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(len(x), num, size, *x.shape[2:]), 1, 0)

  loss = _of_parts(logits.head, output, parts(hidden), parts(following))
  return jnp.moveaxis(loss, 0, 1).reshape(len(tokens), -1)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_parts(head, output, hidden, following):
  """Cross entropies [parts, B, l]. The backward pass computes the logits again, and sums what is had of `output` in float32."""
  return jax.lax.map(lambda part: _cross_entropy(head(output, part[0]), part[1]), (hidden, following))


def _of_parts_forward(head, *given):
  values = jax.custom_derivatives.custom_vjp_primal_tree_values(given)
  trained = any(x.perturbed for x in jax.tree.leaves(given[0]))
  return _of_parts(head, *values), (values, () if trained else None)


def _of_parts_backward(head, saved, slope):
  (output, hidden, following), trained = saved

  def one(total, part):
    hidden, following, slope = part
    of = lambda output, hidden: _cross_entropy(head(output, hidden), following)
    if trained is None:  # a base below adapters
      return total, jax.vjp(functools.partial(of, output), hidden)[1](slope)[0]
    change, back = jax.vjp(of, output, hidden)[1](slope)
    return jax.tree.map(lambda total, x: total + x.astype(jnp.float32), total, change), back

  zero = None if trained is None else jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), output)
  if isinstance(slope, jax.custom_derivatives.SymbolicZero):
    slope = jnp.zeros(slope.shape, slope.dtype)
  total, back = jax.lax.scan(one, zero, (hidden, following, slope))
  return None if total is None else jax.tree.map(lambda x, like: x.astype(like.dtype), total, output), back, None


_of_parts.defvjp(_of_parts_forward, _of_parts_backward, symbolic_zeros=True)


def mean_loss(
  logits: Logits, params: Params, tokens: Array, length: Array, batch_size: int, learned: Array | None = None
) -> Array:
  """Cross entropy, nats per token, over rows [n, L]: a batch at a time.

  Args:
    logits, params, tokens, length, batch_size, learned: as of `losses`.
  """
  loss, counts = losses(logits, params, tokens, length, batch_size, learned)
  return jnp.sum(jnp.where(counts, loss, 0.0)) / jnp.sum(counts)


def losses(
  logits: Logits, params: Params, tokens: Array, length: Array, batch_size: int, learned: Array | None = None
) -> tuple[Array, Array]:
  """`token_losses` of rows [n, L]: a batch at a time.

  Args:
    logits: (params, tokens [B, L]) -> [B, L, V].
    params: its parameters.
    tokens: [n, L] int32.
    length: [n] int32, tokens in use of each row.
    batch_size: rows at a time, a Python int.
    learned: [n, L] bool, tokens that count; None: all.
  Returns:
    [n, L - 1] float32 nats, and [n, L - 1] bool.
  """
  rows = (tokens, length) if learned is None else (tokens, length, learned)
  return by_batches(lambda rows: token_losses(logits, params, *rows), rows, batch_size)


def by_batches(of: Callable[[Any], Any], rows: Any, batch_size: int) -> Any:
  """What is had of rows, a batch at a time; the last batch is filled up with zeros.

  Args:
    of: (leaves [B, ...] of some rows) -> arrays [B, ...].
    rows: leaves [n, ...].
    batch_size: rows at a time, a Python int.
  Returns:
    the arrays of all rows, [n, ...].
  """
  n = len(jax.tree.leaves(rows)[0])
  size = min(batch_size, n)
  split = lambda x: jnp.pad(x, [(0, -n % size)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, size, *x.shape[1:])
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], jax.lax.map(of, jax.tree.map(split, rows)))


def num_steps(recipe: Recipe, used: Array, length: Array) -> Array:
  """[] int32, optimiser steps of the budget for rows [R] of which some are used.

  Args:
    recipe: its budget, amount and batch_size are read.
    used: [R] bool, which rows are trained on.
    length: [R] int32, tokens in use of each row.
  """
  budget = "rows" if recipe.budget == "tokens" else recipe.budget
  return training.num_steps(budget, recipe.amount, used, recipe.batch_size, length - 1)[0]


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
  learned: Array | None = None,
) -> Fitted:
  """Trains `weights` on the rows whose weight is not 0; one compilation whatever their number.

  Args:
    key: of the order of rows: each epoch a new permutation.
    logits: (weights, tokens [B, L]) -> [B, L, V].
    weights: to start from. They are trained in float32 and used in `dtype`.
    tokens, length, row_weight: [R, L], [R], [R]; a row's tokens count `row_weight` times in the loss, which is a mean.
    held_out: loss of weights on other rows, for the learning curve.
    mesh: devices over which weights, gradients and moments are split.
    learned: [R, L] bool, tokens that count in the loss; None: all.
  """
  steps = num_steps(recipe, row_weight > 0, length)
  warmup = jnp.maximum(recipe.warmup_share * steps, 1.0)
  optimiser = optax.chain(
    optax.clip_by_global_norm(recipe.clip_norm),
    optax.scale_by_adam(recipe.beta1, recipe.beta2),
    optax.add_decayed_weights(recipe.weight_decay, _decays),
    optax.scale_by_learning_rate(lambda i: recipe.learning_rate * jnp.minimum((i + 1) / warmup, 1.0)),
  )
  split = functools.partial(constrain, mesh=mesh)
  cast = lambda weights: split(jax.tree.map(lambda x: x.astype(dtype), weights))
  fitted = training.fit(
    key,
    lambda weights, key, rows: token_losses(logits, cast(weights), *rows),
    training.start(optimiser, split(jax.tree.map(lambda x: x.astype(jnp.float32), weights))),
    (tokens, length) if learned is None else (tokens, length, learned),
    row_weight,
    optimiser,
    steps,
    recipe.batch_size,
    micro_batch_size=recipe.micro_batch_size,
    held_out=lambda weights: held_out(cast(weights)),
    curve_points=curve_points,
    constrain=split,
  )
  return split(Fitted(cast(fitted.params), fitted.learning_curve, fitted.train_losses[-1], steps, fitted.num_items))


def _decays(weights: Params):
  """Which parameters are matrices; those of norms and biases may be stacked, a row a layer, and are known by their names."""
  name = lambda path: jax.tree_util.keystr(path[-1:], simple=True)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.ndim(x) > 1 and name(path) not in ("scale", "bias"), weights
  )
