"""Counts of outcomes under drift, in a tree of sums: a generation costs what the outcomes that survive cost."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import binomial_split, hashed, high_product, poisson_counts, poisson_table
from collapse_jax.tasks.parts import side_by_side
from collapse_jax.types import Array

LEAST = 128  # capacity, so that what is drawn together lies within the tree
_WIDTH = 16  # nodes of a level that are drawn together; 4 of the first three
_LEAVES = 128  # that are drawn together where each is drawn by itself
_ROWS = 32  # that are drawn together
_SUMMED = 1024  # leaves that are summed together
_SPARED = 3.5  # standard deviations of the number of items that are left for rows
_BINOMIAL_NS = 60.0  # of a core, as measured; see docs/benchmarks.md
_GENERATION_NS = 450.0  # what a generation takes beside its binomials, of a run among others


class Surviving(NamedTuple):
  """How often each outcome occurs.

  Node 1 of the tree is the sum of all. Node 2^l + r, r < 2^l, is the sum of nodes 2^(l+1) + r and 2^(l+1) + r + 2^l. The leaves
  of a tree of depth d are nodes 2^d to 2^(d+1) - 1; what lies beyond is not read.

  Attributes:
    tree: [2 * capacity] int32, capacity a power of 2, at least `LEAST`.
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
    capacity: of the tree, a power of 2, at least `LEAST`.
    told_apart: whether it is kept which outcome a leaf is.
  """
  outcome = jnp.arange(counts.shape[0], dtype=np.int32) if told_apart else None
  return _packed(counts, capacity, outcome)


def leaves(state: Surviving) -> Array:
  """[capacity] int32 counts, 0 where there is no leaf."""
  at = jnp.arange(state.tree.shape[0] // 2)
  return jnp.where(at < 1 << state.depth, jnp.asarray(state.tree).at[at + (1 << state.depth)].get(mode="clip"), 0)


def over_leaves(state: Surviving, of: Any) -> Any:
  """Sums over leaves, as many as the tree has and not as many as it could have.

  Args:
    of: ([width] int32 counts, 0 where there is no leaf) -> arrays [width], each of which is summed.
  """
  size = 1 << state.depth
  width = min(_SUMMED, state.tree.shape[0] // 2)
  place = jnp.arange(width)

  def add(i: Array, sums: Any) -> Any:
    counts = jax.lax.dynamic_slice_in_dim(jnp.asarray(state.tree), size + i * width, width)
    found = of(jnp.where(place + i * width < size, counts, 0))
    return jax.tree.map(lambda total, x: total + jnp.sum(x, dtype=total.dtype), sums, found)

  shapes = jax.eval_shape(of, jax.ShapeDtypeStruct((width,), np.int32))
  return jax.lax.fori_loop(0, -(-size // width), add, jax.tree.map(lambda x: jnp.zeros((), x.dtype), shapes))


def drawn(key: Array, state: Surviving, t: Any, num: int) -> Surviving:
  """As many items again, multinomial with the given counts as weights.

  Where few outcomes are left: from node to node binomial, from the root to the leaves. Where more are left than about 3 sqrt(num):
  leaves are Poisson of a mean a little below their share, and the items that lack then (of the order of sqrt(num)) are drawn
  one by one; should more be drawn than there are, all are drawn again. Given its sum Poisson numbers are multinomial whatever
  the sum is, so both ways have one law. Sums in the tree are those of its leaves in the first way only.

  Outcomes that died out leave the tree in generations 1, 2, 3, 4, 6, 8, 12, 16, ...: their number falls about as 1 / t.

  Args:
    key: used once.
    state: weights.
    t: [] int32, generation.
    num: items, fewer than 2^24; a Python int.
  """
  one = jax.tree.map(lambda x: jnp.asarray(x)[None], (jax.random.key_data(key), state, t))
  return jax.tree.map(lambda x: x[0], _drawn(num)(*one))


def leapt(
  key: Array, role: int, state: Surviving, absorbed_at: Array, first: Array, stop: Array, num: int
) -> tuple[Surviving, Array]:
  """Generations first, ..., stop - 1 of `drawn`, and the first of all in which one outcome was left; 0 is none.

  Args:
    key: of the run.
    role: what is folded into the key of a generation.
    state: what model `first` is fitted to.
    absorbed_at: [] int32.
    first, stop: [] int32.
    num: items, fewer than 2^24; a Python int.
  """
  one = jax.tree.map(lambda x: jnp.asarray(x)[None], (jax.random.key_data(key), state, absorbed_at, first, stop))
  words, state, absorbed_at, first, stop = one
  return jax.tree.map(lambda x: x[0], _leapt(num)(words, jnp.full(1, role, np.uint32), state, absorbed_at, first, stop))


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


@functools.lru_cache(32)
def _drawn(num: int) -> Any:
  """Of words [runs, 2], states and t [runs]."""
  return side_by_side(lambda words, state, t: _next((words[:, 0], words[:, 1]), state, t, num))


@functools.lru_cache(32)
def _leapt(num: int) -> Any:
  """Of words [runs, 2], role, state, absorbed_at, first and stop [runs]."""

  def leap(words: Array, role: Array, state: Surviving, absorbed_at: Array, first: Array, stop: Array) -> Any:
    def step(carry: Any) -> Any:
      t, state, absorbed_at = carry
      going = t < stop
      absorbed_at = jnp.where(going & (absorbed_at == 0) & ~state.mixed, t, absorbed_at)
      none = jnp.zeros_like(role)
      folded = hashed(hashed((words[:, 0], words[:, 1]), (none, t.astype(np.uint32))), (none, role))
      return t + 1, _next(folded, state, t, num, going), absorbed_at

    going = lambda carry: jnp.any((carry[0] < stop) & (carry[1].mixed | (carry[2] == 0)))
    return jax.lax.while_loop(going, step, (first, state, absorbed_at))[1:]

  return side_by_side(leap)


def _next(words: tuple[Array, Array], state: Surviving, t: Array, num: int, going: Array | bool = True) -> Surviving:
  """`drawn` of a batch of runs, as far as they are going on; loops are as long as the run with most outcomes has them."""
  capacity = state.tree.shape[1] // 2
  going = going & state.mixed
  size = 1 << state.depth
  enough = max(_LEAVES, 1 << math.ceil(math.log2(2 * math.sqrt(num))))
  each = going & (size > enough) & (2 * size <= capacity)
  odd = t // (t & -t)
  due = going & ((odd == 1) | (odd == 3))
  # One reduction for all that is asked of all runs: bit d is a tree of depth d to be split.
  asked = jnp.where(going & ~each, size, 0) | jnp.where(each, 1 << 29, 0) | jnp.where(due, 1 << 30, 0)
  asked = jax.lax.reduce(asked, np.int32(0), jax.lax.bitwise_or, (0,))
  most = _level(jnp.maximum(asked & ((1 << 29) - 1), 1))
  state = _split(words, state, going & ~each, most)

  def seldom(state: Surviving) -> Surviving:
    state = _each(words, state, each, num) if 4 * enough <= capacity else state
    return _without_the_dead(state, due)

  return jax.lax.cond(asked >= 1 << 29, seldom, lambda state: state, state)


def _without_the_dead(state: Surviving, due: Array) -> Surviving:
  """The least tree of the counts that are positive, in their order, of those runs that are due."""
  tree, depth, mixed, outcome = state
  size = 1 << jnp.max(jnp.where(due, depth, 0))
  run = jnp.arange(len(depth))[:, None]
  least = jnp.where(due, 1 << depth, 0)

  def leaves_at(block: Array) -> tuple[Array, Array]:
    node = block * _LEAVES + jax.lax.iota(np.int32, _LEAVES)[None]
    return node, (node >= least[:, None]) & (node < 2 * least[:, None])

  def count(block: Array, alive: Array) -> Array:
    _, here = leaves_at(block)
    return alive + jnp.sum(here & (_take(tree, block * _LEAVES, _LEAVES) > 0), axis=1, dtype=np.int32)

  blocks = -(-2 * size // _LEAVES)
  begin = _first_block(due, depth)
  num = jax.lax.fori_loop(begin, blocks, count, jnp.zeros_like(depth))
  new = 32 - jax.lax.clz(jnp.maximum(num, 1) - 1)

  def move(block: Array, carry: Any) -> Any:
    """No leaf is written where one lies that has not been read."""
    before, tree, outcome = carry
    node, here = leaves_at(block)
    counts = _take(tree, block * _LEAVES, _LEAVES)
    alive = here & (counts > 0)
    place = before[:, None] + jnp.cumsum(alive, axis=1, dtype=np.int32) - 1
    there = lambda first, end: jnp.where(alive, first + place, end)
    if outcome is not None:
      stands_for = outcome.at[run, node - least[:, None]].get(mode="clip")
      outcome = outcome.at[run, there(0, outcome.shape[1])].set(stands_for, mode="drop")
    tree = tree.at[run, there((1 << new)[:, None], tree.shape[1])].set(counts, mode="drop")
    return before + jnp.sum(alive, axis=1, dtype=np.int32), tree, outcome

  _, tree, outcome = jax.lax.fori_loop(begin, blocks, move, (jnp.zeros_like(depth), tree, outcome))
  depth = jnp.where(due, new, depth)

  def clear(block: Array, tree: Array) -> Array:
    node = block * _LEAVES + jax.lax.iota(np.int32, _LEAVES)[None]
    behind = due[:, None] & (node >= ((1 << depth) + num)[:, None]) & (node < (2 << depth)[:, None])
    return _put(tree, jnp.where(behind, 0, _take(tree, block * _LEAVES, _LEAVES)), block * _LEAVES)

  tree = jax.lax.fori_loop(0, blocks, clear, tree)
  return Surviving(_summed(tree, jnp.where(due, depth, 0)), depth, jnp.where(due, num > 1, mixed), outcome)


def _split(words: tuple[Array, Array], state: Surviving, going: Array, most: Array) -> Surviving:
  """From the root to the leaves, of those runs that are going on, the deepest tree of depth `most`."""
  levels = jnp.where(going, state.depth, 0)

  def draw(node: Array, width: int, carry: Any) -> Any:
    """Nodes from `node` on, as many as are of its level: what lies behind them stays, also where it is written again."""
    tree, mixed = carry
    level = _level(node)
    half = 1 << level
    count = node + jax.lax.iota(np.int32, width)
    here = (level < levels)[:, None] & (count < 2 * half)[None]
    a, b = _take(tree, node + half, width), _take(tree, node + 2 * half, width)
    # Runs without this node keep what they have: weights 0 and 1 of nothing.
    random = _hashed(words, count, count | np.int32(-(1 << 31)))
    tree = _put(
      tree, binomial_split(random[1], jnp.where(here, _take(tree, node, width), a + b), a, b, here), node + half
    )
    # What has been written is read again: were anything else read after it, a compiler would have to copy the tree.
    left, second = _take(tree, node + half, width), _take(tree, node + 2 * half, width)
    tree = _put(tree, jnp.where(here, _take(tree, node, width) - left, second), node + 2 * half)
    left, right = _take(tree, node + half, width), _take(tree, node + 2 * half, width)
    return tree, mixed | jnp.any(here & (left > 0) & (right > 0), axis=1)

  carry = state.tree, ~going & state.mixed
  carry = jax.lax.fori_loop(0, jnp.minimum(most, 3), lambda level, carry: draw(1 << level, 4, carry), carry)
  carry = jax.lax.fori_loop(
    0, (1 << most) // _WIDTH, lambda i, carry: draw(jnp.maximum(i * _WIDTH, 8), _WIDTH, carry), carry
  )
  return state._replace(tree=carry[0], mixed=carry[1])


def _each(words: tuple[Array, Array], state: Surviving, going: Array, num: int) -> Surviving:
  """Leaf by leaf, of those runs that are going on; what is drawn lies behind the leaves until all is."""
  depth = state.depth
  table = poisson_table(1 - min(_SPARED / math.sqrt(num), 0.5))
  levels = jnp.where(going, depth, 0)
  end = (2 << jnp.max(levels)) // _LEAVES

  def attempt(carry: Any) -> Any:
    i, tree, total, again = carry

    def draw(block: Array, carry: Any) -> Any:
      tree, total = carry
      node = block * _LEAVES
      behind = node + (1 << _level(node))
      here = (again & (_level(node) == levels))[:, None]
      random = _hashed(words, node + jax.lax.iota(np.int32, _LEAVES), (1 << 30) + i)
      found = poisson_counts(random, _take(tree, node, _LEAVES), table)
      tree = _put(tree, jnp.where(here, found, _take(tree, behind, _LEAVES)), behind)
      return tree, total + jnp.sum(jnp.where(here, _take(tree, behind, _LEAVES), 0), axis=1, dtype=np.int32)

    tree, total = jax.lax.fori_loop(_first_block(again, depth), end, draw, (tree, jnp.where(again, 0, total)))
    return i + 1, tree, total, going & (total > num)

  start = jnp.zeros((), np.int32), _summed(state.tree, depth), jnp.zeros_like(depth), going
  _, tree, total, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[3]), attempt, start)
  lacking = jnp.where(going, num - total, 0)
  run = jnp.arange(len(depth))[:, None]

  def find(i: Array, found: Array) -> Array:
    row = i * _ROWS + jax.lax.iota(np.int32, _ROWS)
    item = high_product(_hashed(words, row, 1 << 29)[0], jnp.uint32(num)).astype(np.int32)

    def down(level: Array, carry: Any) -> Any:
      place, item = carry
      half = 1 << level
      left = tree[run, 2 * half + place]
      right = (item >= left) & (level < levels)[:, None]
      return jnp.where(right, place + half, place), jnp.where(right, item - left, item)

    place, _ = jax.lax.fori_loop(0, jnp.max(levels), down, (jnp.zeros_like(item), item))
    return _put(
      found, jnp.where(row[None] < lacking[:, None], place + (2 << levels)[:, None], tree.shape[1]), i * _ROWS
    )

  # All places first: a loop that reads the tree and adds to it would copy it. Seven standard deviations more are never needed.
  most = _ROWS * math.ceil((_SPARED + 7) * math.sqrt(num) / _ROWS)
  times = jnp.minimum(-(-jnp.max(lacking) // _ROWS), most // _ROWS)
  found = jax.lax.fori_loop(0, times, find, jnp.zeros((len(depth), most), np.int32))
  add = lambda i, tree: tree.at[run, _take(found, i * _ROWS, _ROWS)].add(1, mode="drop")
  tree = jax.lax.fori_loop(0, times, add, tree)

  def settle(block: Array, carry: Any) -> Any:
    tree, alive = carry
    node = block * _LEAVES
    here = (_level(node) == levels)[:, None]
    found = _take(tree, node + (1 << _level(node)), _LEAVES)
    tree = _put(tree, jnp.where(here, found, _take(tree, node, _LEAVES)), node)
    return tree, alive + jnp.sum(here & (_take(tree, node, _LEAVES) > 0), axis=1, dtype=np.int32)

  tree, alive = jax.lax.fori_loop(_first_block(going, depth), end, settle, (tree, jnp.zeros_like(depth)))
  return state._replace(tree=tree, mixed=jnp.where(going, alive > 1, state.mixed))


def _first_block(which: Array, depth: Array) -> Array:
  """Of _LEAVES nodes, the first in which leaves of one of these runs lie."""
  return (1 << jnp.min(jnp.where(which, depth, 30))) // _LEAVES


def _summed(tree: Array, depth: Array) -> Array:
  """The tree with the sums of its leaves."""

  def add(node: Array, width: int, tree: Array) -> Array:
    level = _level(node)
    both = _take(tree, node + (1 << level), width) + _take(tree, node + (2 << level), width)
    here = (level < depth)[:, None] & (node + jax.lax.iota(np.int32, width) < 2 << level)[None]
    return _put(tree, jnp.where(here, both, _take(tree, node, width)), node)

  most = jnp.max(depth)
  blocks = (1 << most) // _LEAVES
  tree = jax.lax.fori_loop(1, blocks, lambda i, tree: add((blocks - i) * _LEAVES, _LEAVES, tree), tree)
  below = jnp.minimum(most, _level(_LEAVES))
  return jax.lax.fori_loop(1, below + 1, lambda i, tree: add(1 << (below - i), _LEAVES // 2, tree), tree)


def _level(node: Any) -> Any:
  return node.bit_length() - 1 if isinstance(node, int) else 31 - jax.lax.clz(node)


def _take(tree: Array, at: Any, width: int) -> Array:
  return jax.lax.dynamic_slice(tree, (0, at), (tree.shape[0], width), allow_negative_indices=False)


def _put(tree: Array, found: Array, at: Any) -> Array:
  return jax.lax.dynamic_update_slice(tree, found, (0, at), allow_negative_indices=False)


def _hashed(words: tuple[Array, Array], first: Array, second: Any) -> tuple[Array, Array]:
  """[runs, width] words for numbers [width]."""
  second = jnp.broadcast_to(jnp.asarray(second), first.shape)
  return hashed((words[0][:, None], words[1][:, None]), (first.astype(np.uint32)[None], second.astype(np.uint32)[None]))


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
