"""Fitting any loss to weighted rows by gradient steps, as one compiled function: what tasks with neural models share.

A task's `fit` makes an optimiser of optax (clipping, weight decay and a schedule are parts of its chain), turns a budget into a
number of steps and calls `fit` here:

  rows, row_weight = store.flat(context.data)
  steps, _ = training.num_steps("epochs", 2.0, row_weight > 0, batch_size)
  fitted = training.fit(key, loss, training.start(optimiser, params), rows, row_weight, optimiser, steps, batch_size)
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from collapse_jax.random import choose, table
from collapse_jax.refused import Refused
from collapse_jax.types import Array, Params, PyTree

__all__ = ["Fitted", "State", "check_batches", "exact", "fit", "largest", "num_steps", "start"]

# Loss of (params, key, rows [B, ...]): [B, ...] a row, or its items; or (losses, counts), where only some items count.
Loss = Callable[[Params, Array, PyTree], Any]
BUDGETS = ("epochs", "steps", "rows")
ORDERS = ("epochs", "weight")
_LOSSES = np.uint32(2**32 - 1)  # folded into the key for what losses draw: a number that no epoch or step has


class State(NamedTuple):
  """What training goes on from.

  Attributes:
    params: the parameters.
    moments: the optimiser's state.
    average: the moving average of the parameters; None: there is none yet.
  """

  params: Params
  moments: PyTree
  average: Params = None


class Fitted(NamedTuple):
  """A trained model, and what its training was.

  Attributes:
    params: the trained parameters; their moving average where `ema` is given.
    state: what a later `fit` goes on from, where it is to keep the optimiser's state and not only the parameters.
    learning_curve: leaves [points, ...]: `held_out` after equal parts of the steps; None without it.
    train_losses: [points] mean training loss of each of these parts, items counted with the weights of their rows; of a part
      without a step that of the part before.
    num_items: [] int32, rows (or items of rows) of a weight above 0 that were trained on, each as often as it was.
  """

  params: Params
  state: State
  learning_curve: PyTree
  train_losses: Array
  num_items: Array


def exact(params: Params) -> Fitted:
  """A model whose parameters were not trained but are known in closed form, for tasks that have both."""
  return Fitted(params, State(params, ()), None, jnp.zeros(0), jnp.zeros((), jnp.int32))


def start(optimiser: optax.GradientTransformation, params: Params, turns: bool = False) -> State:
  """Training that begins with these parameters: new ones, or those of an earlier model (a warm start of weights alone).

  Args:
    optimiser: of optax.
    params: a tree; a dict, whose values are trained in turns, where `turns`.
    turns: each of these has moments of its own, for a `fit` with a loss for each.
  """
  moments = {name: optimiser.init(part) for name, part in params.items()} if turns else optimiser.init(params)
  return State(params, moments)


def num_steps(budget: str, amount, used: Array, batch_size: int, size: Array | None = None) -> tuple[Array, Array]:
  """Optimiser steps of a budget.

  Under `accumulate` an epoch is longer each generation, so that epochs and steps confound data and compute: say which is held.

  Args:
    budget: "epochs", "steps" or "rows".
    amount: of that, above 0.
    used: [R] bool, which rows are trained on.
    batch_size: rows of a step.
    size: [R] what a row counts in a budget of rows, such as its tokens; None: 1.
  Returns:
    [] int32, at least 1: the steps, fractions of one rounded up; and [] int32, the steps of an epoch.
  Raises:
    Refused: an unknown budget.
  """
  if budget not in BUDGETS:
    raise Refused(
      f"budget must be {', '.join(BUDGETS[:-1])} or {BUDGETS[-1]}, got {budget!r}.",
      argument="budget",
      value=budget,
      allowed=", ".join(BUDGETS),
    )
  epoch = jnp.maximum(-(-jnp.sum(used) // batch_size), 1)
  if budget == "epochs":
    steps = jnp.ceil(amount * epoch - 1e-4)
  elif budget == "steps":
    steps = jnp.asarray(amount)
  else:
    size = jnp.ones(used.shape, jnp.int32) if size is None else size
    amount = jnp.asarray(amount, float)  # a product of two int32 may be none
    steps = jnp.ceil(amount * epoch / jnp.maximum(jnp.sum(jnp.where(used, size, 0)), 1))
  return jnp.maximum(steps, 1).astype(jnp.int32), epoch


def fit(
  key: Array,
  loss: Loss | Mapping[str, Loss],
  state: State,
  rows: PyTree,
  row_weight: Array,
  optimiser: optax.GradientTransformation,
  num_steps: Array | int,
  batch_size: int,
  *,
  micro_batch_size: int | None = None,
  order: str = "epochs",
  ema: Any = None,
  held_out: Callable[[Params], PyTree] | None = None,
  curve_points: int = 1,
  done: Array | int = 0,
  constrain: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> Fitted:
  """Minimises the weighted mean of a loss; one compilation whatever the number of rows in use and of steps.

  Rows of weight 0 are never looked at, whatever they hold. Under vmap, runs may take different numbers of steps.

  Args:
    key: of the order of rows and of what the loss draws.
    loss: (params, key, rows [B, ...]) -> losses [B], or [B, ...] where a row has several items (tokens); or losses and `counts`
      of the same shape, where only some items count. The mean is over items, each with the weight of its row.
      Or a loss for each value of a dict of parameters, which are trained in turns, as adversaries are (Goodfellow et al. 2014): in
      every step each of them lowers its own loss of (all parameters, key, rows), in the order of this mapping, with what the others
      are by then; training losses are those of the last.
    state: from `start`, or from an earlier `Fitted`.
    rows: leaves [R, ...].
    row_weight: [R] at least 0.
    optimiser: the one that `state` belongs to. Where its schedule depends on the number of steps, make it of `num_steps(...)`.
    num_steps: [] int, may be traced.
    batch_size: rows of a step.
    micro_batch_size: rows of a forward pass, dividing batch_size; gradients add up to that of the batch. None: all at once. A loss
      that draws has a key for each.
    order: "epochs": each epoch a new permutation of the rows in use, whose losses count by weight, in the mean of their batch; the
      last batch of an epoch may be smaller. "weight": rows are drawn in proportion to their weights, with replacement, in
      O(batch_size log R) a step, and their losses count alike.
    ema: decay of a moving average of the parameters, a <- ema a + (1 - ema) params after each step, which begins with the initial
      parameters, in [0, 1); None: none.
    held_out: (params, or their moving average) -> losses on other rows, for the learning curve.
    curve_points: parts of equal length after which the curve is taken.
    done: steps that were taken before with this key and these rows: the order goes on from there. A fit of so many steps, and one
      from its `state` with `done`, are one long fit.
    constrain: applied to parameters, gradients and moments: how they are split over devices.
  Raises:
    Refused: batch_size is no multiple of micro_batch_size, or an unknown order.
  """
  micro = check_batches(batch_size, micro_batch_size)
  if order not in ORDERS:
    raise Refused(
      f"order must be {' or '.join(ORDERS)}, got {order!r}.", argument="order", value=order, allowed=", ".join(ORDERS)
    )
  used = row_weight > 0
  num = jnp.sum(used)
  epoch_steps = jnp.maximum(-(-num // batch_size), 1)
  done, num_steps = jnp.asarray(done, jnp.int32), jnp.asarray(num_steps, jnp.int32)
  cumulative = table(row_weight) if order == "weight" else None
  loss_key = jax.random.fold_in(key, _LOSSES)

  def batch(i, permutation):
    """Rows of step i and their weights in its mean, and the permutation that later steps go on with."""
    if cumulative is not None:
      row = choose(jax.random.fold_in(key, i), cumulative, batch_size, fine=False)
      return row, jnp.broadcast_to(num > 0, row.shape).astype(row_weight.dtype), permutation
    begins = (i % epoch_steps == 0) | (i == done)

    def permuted():
      place = jax.random.uniform(jax.random.fold_in(key, i // epoch_steps), used.shape)
      return jnp.where(begins, jnp.argsort(jnp.where(used, place, 2.0)), permutation)

    permutation = jax.lax.cond(largest(begins.astype(jnp.int32)) > 0, permuted, lambda: permutation)
    place = (i % epoch_steps) * batch_size + jnp.arange(batch_size)
    row = permutation[jnp.clip(place, 0, jnp.maximum(num - 1, 0))]
    return row, jnp.where(place < num, row_weight[row], 0.0), permutation

  def loss_sum(loss, params, key, rows, weight):
    found = loss(params, key, rows)
    losses, counts = found if isinstance(found, tuple) else (found, jnp.ones(found.shape, bool))
    each = weight.reshape(-1, *[1] * (losses.ndim - 1)) * counts
    return jnp.sum(each * jnp.where(counts, losses, 0.0)), (jnp.sum(each), jnp.sum(each > 0))

  def gradient(loss, params, key, rows, weight):
    """Of the mean over the batch's items, weighted: sums over micro-batches, divided once."""
    value_and_grad = jax.value_and_grad(functools.partial(loss_sum, loss), has_aux=True)
    if micro == batch_size:
      (total, (mass, count)), grads = value_and_grad(params, key, rows, weight)
    else:
      parts = jax.tree.map(lambda x: x.reshape(-1, micro, *x.shape[1:]), (rows, weight))

      def add(carry, part):
        j, number = part
        (total, (mass, count)), grads = value_and_grad(params, jax.random.fold_in(key, number), *j)
        return jax.tree.map(jnp.add, carry, (total, mass, count, grads)), None

      zero = (jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))
      (total, mass, count, grads), _ = jax.lax.scan(add, zero, (parts, jnp.arange(batch_size // micro)))
    scale = jnp.where(mass > 0, 1 / mass, 0.0)
    return total, mass, count, constrain(jax.tree.map(lambda g: g * scale, grads))

  def descend(loss, params, moments, key, rows, weight):
    total, mass, count, grads = gradient(loss, params, key, rows, weight)
    updates, moments = optimiser.update(grads, moments, params)
    return optax.apply_updates(params, updates), moments, (total, mass, count)

  def descend_in_turns(losses, params, moments, key, rows, weight):
    for number, (name, one) in enumerate(losses.items()):
      own = lambda part, *rest, one=one, name=name, others=params: one(others | {name: part}, *rest)
      part, moment, told = descend(own, params[name], moments[name], jax.random.fold_in(key, number), rows, weight)
      params, moments = params | {name: part}, moments | {name: moment}
    return params, moments, told

  def step(target, carry):
    i, state, permutation, losses, masses, seen = carry
    active = i < target  # under vmap, runs with fewer steps wait for the longest
    row, weight, permutation = batch(i, permutation)
    at = jax.tree.map(lambda x: x[row], rows)
    params, moments, (total, mass, count) = descended(
      state.params, state.moments, jax.random.fold_in(loss_key, i), at, jnp.where(active, weight, 0.0)
    )
    average = state.average
    if ema is not None:
      average = jax.tree.map(lambda a, p: ema * a + (1 - ema) * p, average, params)
    kept = jax.tree.map(functools.partial(jnp.where, active), State(params, moments, average), state)
    return i + active, constrained(kept), permutation, losses + total, masses + mass, seen + count

  def part(carry, share):
    i, state, permutation, seen, latest = carry
    target = done + jnp.round(share * num_steps).astype(jnp.int32)
    carry = i, state, permutation, jnp.zeros(()), jnp.zeros(()), seen
    carry = jax.lax.while_loop(lambda c: largest(target - c[0]) > 0, functools.partial(step, target), carry)
    i, state, permutation, losses, masses, seen = carry
    latest = jnp.where(masses > 0, losses / masses, latest)
    curve = None if held_out is None else held_out(state.params if ema is None else state.average)
    return (i, state, permutation, seen, latest), (curve, latest)

  descended = functools.partial(descend_in_turns if isinstance(loss, Mapping) else descend, loss)
  constrained = lambda state: State(*map(constrain, state))
  average = None if ema is None else state.params if state.average is None else state.average
  state = constrained(state._replace(average=average))
  permutation = None if cumulative is not None else jnp.zeros(used.shape, jnp.int32)
  carry = done, state, permutation, jnp.zeros((), jnp.int32), jnp.full((), jnp.nan)
  shares = jnp.arange(1, curve_points + 1) / curve_points
  (_, state, _, seen, _), (curve, train_losses) = jax.lax.scan(part, carry, shares)
  return Fitted(state.params if ema is None else state.average, state, curve, train_losses, seen)


def check_batches(batch_size: int, micro_batch_size: int | None = None) -> int:
  """Rows of a forward pass. Raises Refused where they do not make up a batch."""
  micro = batch_size if micro_batch_size is None else micro_batch_size
  if batch_size < 1 or micro < 1 or batch_size % micro:
    raise Refused(
      f"batch_size {batch_size} must be a multiple of micro_batch_size {micro}.",
      argument="micro_batch_size",
      value=micro,
      allowed=f"divisors of batch_size {batch_size}",
    )
  return micro


@jax.custom_batching.custom_vmap
def largest(x: Array) -> Array:
  """x; under vmap the largest over the batch, which is then not batched: a loop that it bounds needs no selects."""
  return x


@largest.def_vmap
def _largest_rule(axis_size, in_batched, x):
  return (jnp.max(x, axis=0) if in_batched[0] else x), False
