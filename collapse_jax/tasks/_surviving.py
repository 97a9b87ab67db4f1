"""Counts of outcomes under drift, in a tree of sums: a generation costs what the outcomes that survive cost."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import binomial_split, hashed
from collapse_jax.tasks.parts import side_by_side
from collapse_jax.types import Array

_WIDTH = 16  # nodes of a level that are drawn together
_BINOMIAL_NS = 250.0  # of a core, as measured; see docs/benchmarks.md
_GENERATION_NS = 400.0  # what a generation takes beside its binomials, of a run among others


class Surviving(NamedTuple):
  """How often each outcome occurs.

  Node 1 of the tree is the sum of all. Node 2^l + r, r < 2^l, is the sum of nodes 2^(l+1) + r and 2^(l+1) + r + 2^l. The leaves
  of a tree of depth d are nodes 2^d to 2^(d+1) - 1; what lies beyond is not read.

  Attributes:
    tree: [2 * capacity] int32, capacity a power of 2.
    depth: [] int32.
    mixed: [] bool, whether more than one outcome is left.
    outcome: [capacity] int32, the outcome that a leaf stands for; None: outcomes are all alike.
  """

  tree: Any
  depth: Any
  mixed: Any
  outcome: Any = None


def surviving(counts: Array, capacity: int, told_apart: bool) -> Surviving:
  """Of counts [k] int32, of which at most `capacity` are positive.

  Args:
    counts: of each outcome.
    capacity: of the tree, a power of 2.
    told_apart: whether it is kept which outcome a leaf is.
  """
  outcome = jnp.arange(counts.shape[0], dtype=np.int32) if told_apart else None
  return _packed(counts, capacity, outcome)


def leaves(state: Surviving) -> Array:
  """[capacity] int32 counts, 0 where there is no leaf."""
  at = jnp.arange(state.tree.shape[0] // 2)
  return jnp.where(at < 1 << state.depth, jnp.asarray(state.tree).at[at + (1 << state.depth)].get(mode="clip"), 0)


def drawn(key: Array, state: Surviving, t: Any) -> Surviving:
  """As many items again, multinomial with the given counts as weights: from node to node binomial, from the root to the leaves.

  Outcomes that died out leave the tree in generations 1, 2, 3, 4, 6, 8, 12, 16, ...: their number falls about as 1 / t.

  Args:
    key: used once.
    state: weights, of fewer than 2^24 items.
    t: [] int32, generation.
  """
  one = jax.tree.map(lambda x: jnp.asarray(x)[None], (jax.random.key_data(key), state, t))
  return jax.tree.map(lambda x: x[0], _drawn(*one))


def leapt(
  key: Array, role: int, state: Surviving, absorbed_at: Array, first: Array, stop: Array
) -> tuple[Surviving, Array]:
  """Generations first, ..., stop - 1 of `drawn`, and the first of all in which one outcome was left; 0 is none.

  Args:
    key: of the run.
    role: what is folded into the key of a generation.
    state: what model `first` is fitted to.
    absorbed_at: [] int32.
    first, stop: [] int32.
  """
  one = jax.tree.map(lambda x: jnp.asarray(x)[None], (jax.random.key_data(key), state, absorbed_at, first, stop))
  words, state, absorbed_at, first, stop = one
  return jax.tree.map(lambda x: x[0], _leapt(words, jnp.full(1, role, np.uint32), state, absorbed_at, first, stop))


def work(num_outcomes: int, num_samples: int, num_generations: int) -> float:
  """About how many nanoseconds of a core a run takes: about 2 num_samples / t outcomes survive generation t.

  Args:
    num_outcomes: at first.
    num_samples: items.
    num_generations: the horizon; after about 4 num_samples of them hardly any run of a chunk has more than one outcome left.
  """
  end = min(num_generations, 4 * num_samples)
  most = min(num_outcomes, num_samples)
  early = min(end, math.ceil(2 * num_samples / most))
  surviving = early * most + 2 * num_samples * math.log(max(min(end, 2 * num_samples) / early, 1.0))
  return _BINOMIAL_NS * surviving + _GENERATION_NS * end


@side_by_side
def _drawn(words: Array, state: Surviving, t: Array) -> Surviving:
  return _next((words[:, 0], words[:, 1]), state, t)


@side_by_side
def _leapt(
  words: Array, role: Array, state: Surviving, absorbed_at: Array, first: Array, stop: Array
) -> tuple[Surviving, Array]:
  def step(carry: Any) -> Any:
    t, state, absorbed_at = carry
    going = t < stop
    absorbed_at = jnp.where(going & (absorbed_at == 0) & ~state.mixed, t, absorbed_at)
    none = jnp.zeros_like(role)
    folded = hashed(hashed((words[:, 0], words[:, 1]), (none, t.astype(np.uint32))), (none, role))
    return t + 1, _next(folded, state, t, going), absorbed_at

  going = lambda carry: jnp.any((carry[0] < stop) & (carry[1].mixed | (carry[2] == 0)))
  return jax.lax.while_loop(going, step, (first, state, absorbed_at))[1:]


def _next(words: tuple[Array, Array], state: Surviving, t: Array, going: Array | bool = True) -> Surviving:
  """`drawn` of a batch of runs, as far as they are going on; loops are as long as the run with most outcomes has them."""
  tree, depth, mixed, outcome = state
  levels = jnp.where(going & mixed, depth, 0)
  size = 1 << jnp.max(levels)

  def draw(width: int) -> Any:
    def body(i: Array, carry: Any) -> Any:
      tree, mixed = carry
      node = i * width
      level = 31 - jax.lax.clz(node)
      half = 1 << level
      take = lambda at: jax.lax.dynamic_slice_in_dim(tree, at, width, axis=1)
      count = (node + jax.lax.iota(np.int32, width)).astype(np.uint32)[None]
      random = hashed((words[0][:, None], words[1][:, None]), (count, count | np.uint32(1 << 31)))
      a, b, here = take(node + half), take(node + 2 * half), (level < levels)[:, None]
      # Runs without this node keep what they have: weights 0 and 1 of nothing.
      first, second = binomial_split(random, jnp.where(here, take(node), a + b), a, b, here)
      tree = jax.lax.dynamic_update_slice_in_dim(tree, first, node + half, axis=1)
      tree = jax.lax.dynamic_update_slice_in_dim(tree, second, node + 2 * half, axis=1)
      return tree, mixed | jnp.any(here & (first > 0) & (second > 0), axis=1)

    return body

  carry = tree, ~going & mixed
  tree, mixed = jax.lax.fori_loop(1, jnp.minimum(size, _WIDTH), draw(1), carry)
  if tree.shape[1] > 2 * _WIDTH:
    tree, mixed = jax.lax.fori_loop(1, size // _WIDTH, draw(_WIDTH), (tree, mixed))
  odd = t // (t & -t)
  due = going & mixed & ((odd == 1) | (odd == 3))

  def pack(state: Surviving) -> Surviving:
    packed = jax.vmap(lambda one: _packed(leaves(one), one.tree.shape[0] // 2, one.outcome))(state)
    return jax.tree.map(lambda a, b: jnp.where(due.reshape(-1, *[1] * (a.ndim - 1)), a, b), packed, state)

  return jax.lax.cond(jnp.any(due), pack, lambda state: state, Surviving(tree, depth, mixed, outcome))


@functools.partial(jax.jit, static_argnums=1)
def _packed(counts: Array, capacity: int, outcome: Array | None) -> Surviving:
  """The least tree of the counts that are positive, in their order."""
  alive = counts > 0
  num = jnp.sum(alive, dtype=np.int32)
  depth = 32 - jax.lax.clz(jnp.maximum(num, 1) - 1)
  place = jnp.where(alive, jnp.cumsum(alive) - 1, 2 * capacity)
  put = lambda size, at, x: jnp.zeros(size, np.int32).at[at].set(x, mode="drop")
  tree = put(2 * capacity, place + (1 << depth), counts)
  levels = [tree[capacity:]]
  while (half := levels[-1].shape[0] // 2) > 0:
    levels.append(tree[half : 2 * half] + levels[-1][:half] + levels[-1][half:])
  tree = jnp.concatenate([tree[:1], *levels[::-1]])
  return Surviving(tree, depth, num > 1, None if outcome is None else put(capacity, place, outcome))
