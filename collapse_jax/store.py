"""Batches in storage of fixed capacity: append, total, draw rows, exact n-subset."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32, Shaped

from collapse_jax.random import choose, index, split, table
from collapse_jax.refused import Refused
from collapse_jax.types import Array, Context, Data, Number, Problem, PyTree, SummaryOf, TaskSetting

__all__ = [
  "Emission",
  "allocate",
  "batch",
  "blank",
  "draw_rows",
  "emission",
  "first_rows",
  "flat",
  "in_use",
  "latest",
  "mass",
  "moved",
  "num_rows",
  "pad",
  "put",
  "same",
  "seal",
  "size",
  "statistics",
  "subset",
  "summarise",
  "take",
  "total",
  "weighed",
  "with_rows",
]


def batch(
  rows: PyTree = None,
  row_weight: Shaped[Array, " n"] | None = None,
  summary: PyTree = None,
  count: Number = None,
  origin: int = 0,
  draw: PyTree = None,
  latent: PyTree = None,
) -> Data:
  """One slot.

  Args:
    rows: leaves [n, ...], or None under exact-law draws.
    row_weight: [n], or None where every row counts once.
    summary: the task's statistics of these rows, if at hand.
    count: rows in use; derived from rows or row_weight where omitted.
    origin: generation that made the batch; the loop sets it.
    draw: see `Data.draw`.
    latent: leaves [n, ...], see `Data.latent`.
  """
  one = functools.partial(jax.tree.map, lambda x: jnp.asarray(x)[None])
  if count is None:
    count = num_rows(rows) if row_weight is None else jnp.sum(row_weight)
  return Data(
    one(rows),
    one(row_weight),
    jnp.asarray(count, float)[None],
    jnp.ones(1),
    jnp.full(1, origin, jnp.int32),
    one(summary),
    draw,
    one(latent),
  )


def num_rows(rows: PyTree, axis: int = 0) -> int:
  """Rows of leaves [n, ...], or of [slots, n, ...] along axis 1.

  Args:
    rows: a pytree of at least one leaf.
    axis: of the leaves.
  """
  return int(jax.tree.leaves(rows)[0].shape[axis])


def with_rows(data: Data, rows: PyTree, row_weight: Array | None = None) -> Data:
  """A one-slot batch with other rows, of the same model and generation: the way to change what a sampler drew.

  Args:
    data: one slot, with rows.
    rows: leaves [n, ...] or [1, n, ...], as those of `data` are.
    row_weight: [n] or [1, n]; None: those of `data` where the number of rows is the same.
  Raises:
    Refused: `data` has no rows, or another number than there would be weights.
  """
  if data.rows is None:
    raise Refused("this batch has statistics and no rows: wrap the sampler of transforms.in_rows(task).")
  slotted = jax.tree.leaves(rows)[0].ndim == jax.tree.leaves(data.rows)[0].ndim
  rows = rows if slotted else jax.tree.map(lambda x: x[None], rows)
  weight = data.row_weight if row_weight is None else jnp.asarray(row_weight, float).reshape(1, -1)
  num = num_rows(rows, 1)
  if weight is not None and weight.shape[1] != num:
    raise Refused(f"row_weight must be given for {num} rows, there are {weight.shape[1]} weights.")
  count = jnp.full(1, num, float) if weight is None else jnp.sum(weight, axis=1)
  return Data(rows, weight, count, data.weight, data.origin)


def take(data: Data, index: Array, row_weight: Array | None = None) -> Data:
  """A one-slot batch of some rows of one, which stay what a sampler knows of them.

  Args:
    data: one slot, with rows.
    index: [k] of the rows that are taken.
    row_weight: [k]; None: those they had.
  """
  chosen = jax.tree.map(lambda x: x[:, index], (data.rows, data.row_weight, data.latent))
  weight = chosen[1] if row_weight is None else row_weight[None]
  count = jnp.full(1, index.shape[0], float) if weight is None else jnp.sum(weight, axis=1)
  return Data(chosen[0], weight, count, data.weight, data.origin, draw=data.draw, latent=chosen[2])


def weighed(data: Data, factor: Array) -> Data:
  """A one-slot batch whose rows count `factor` [n] times as much.

  Args:
    data: one slot of n rows.
    factor: [n], at least 0.
  """
  weight = factor[None] if data.row_weight is None else data.row_weight * factor[None]
  return data._replace(row_weight=weight)


def blank(rows: PyTree, weight: Array) -> PyTree:
  """Rows, leaves [n, ...], with 0 for those of weight [n] 0: these may hold anything, and 0 * NaN is NaN.

  Args:
    rows: leaves [n, ...], of JAX or of NumPy as `weight` is.
    weight: [n].
  """
  used = weight != 0
  xp = (
    np if isinstance(weight, np.ndarray) else jnp
  )  # on the host, arrays of any shape go through without a compilation
  return jax.tree.map(lambda x: xp.where(used.reshape(-1, *[1] * (x.ndim - 1)), x, xp.zeros((), x.dtype)), rows)


def flat(data: Data) -> tuple[PyTree, Float[Array, " rows"]]:
  """All stored rows [slots * n, ...] and their weights [slots * n]: what a fit by weighted rows uses.

  Rows of weight 0 are 0.

  Args:
    data: batches with rows [slots, n, ...].
  """
  n = num_rows(data.rows, 1)
  weight = jnp.ones((data.origin.shape[0], 1)) if data.weight is None else data.weight[:, None]
  weight = weight * (jnp.ones((1, n)) if data.row_weight is None else data.row_weight)
  rows, weight = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), data.rows), weight.reshape(-1)
  return rows if data.weight is None and data.row_weight is None else blank(rows, weight), weight


def in_use(context: Context) -> Float[Array, " num"]:
  """[num] 1.0 for the rows to emit that will count, else 0.0; see `Context.used`.

  Args:
    context: `num` is a Python int.
  """
  return jnp.ones(context.num) if context.used is None else first_rows(context.num, context.used)


def first_rows(num: int, used: Number) -> Float[Array, " num"]:
  """[num] 1.0 for the first `used` of as many rows, else 0.0.

  Args:
    num: a Python int.
    used: at most num.
  """
  counts: Array = jnp.arange(num) < used
  return counts.astype(float)


def mass(data: Data) -> Float[Array, " slots"]:
  """[slots] rows in use of each batch, times its weight.

  Args:
    data: `slots` batches.
  """
  each: Array = data.count if data.weight is None else data.weight * data.count
  return each


def size(data: Data) -> Float[Array, ""]:
  """[] rows in use of all batches, weighted. A sum of many equal counts drifts in float32, that of their differences does not.

  Args:
    data: `slots` batches.
  """
  each = mass(data)
  used = each != 0
  return each[0] * jnp.sum(used) + jnp.sum(jnp.where(used, each - each[0], 0))


def statistics(of: SummaryOf, problem: Problem, rows: PyTree, row_weight: Array | None) -> PyTree:
  """`Summary.of` rows, leaves [n, ...]; what rows of weight 0 hold is not looked at.

  Args:
    of: `Summary.of`.
    problem: the run's.
    rows: leaves [n, ...].
    row_weight: [n], or None where every row counts once.
  """
  return of(problem, rows if row_weight is None else blank(rows, row_weight), row_weight)


def summarise(task: TaskSetting, problem: Problem, data: Data) -> Data:
  """Adds each slot's summary where the sampler gave none.

  Args:
    task, problem: a task and the problem of the run.
    data: one or more slots, with rows [slots, n, ...] or with a summary.
  """
  if task.summary is None or data.summary is not None:
    return data
  of, rows = task.summary.of, data.rows
  of_drawn = task.summary.of_drawn
  if of_drawn is not None and data.draw is not None and data.latent is not None:
    of, rows = lambda problem, latent, weight: of_drawn(problem, data.draw, latent, weight), data.latent
  summary = jax.vmap(functools.partial(statistics, of, problem))(rows, data.row_weight)
  return data._replace(summary=summary)


def seal(task: TaskSetting, problem: Problem, data: Data) -> Data:
  """The form in which a batch is stored: with its summary, without rows that nothing will read.

  Args:
    task, problem: a task and the problem of the run.
    data: one or more slots, as sampled.
  """
  data = summarise(task, problem, data)._replace(draw=None, latent=None)
  if task.summary is None or task.summary.keep_rows:
    return data
  return data._replace(rows=None, row_weight=None)


def moved(task: TaskSetting, problem: Problem, store: Data, new: Data) -> Data:
  """The store with its summaries as `Summary.move` tells them beside a new batch.

  Args:
    task, problem: a task and the problem of the run.
    store: sealed batches, summaries [slots, ...].
    new: one slot with its `draw`, as sampled.
  """
  if task.summary is None or task.summary.move is None or new.draw is None or store.count.shape[0] == 1:
    return store
  move = lambda stored: task.summary.move(problem, stored, new.draw)
  return store._replace(summary=jax.vmap(move)(store.summary))


def same(data: Data, **fields: Any) -> Data:
  """The same data in another form: what was derived from it stays.

  Args:
    data: any batches.
    fields: those that change.
  """
  return Data(**data._asdict() | fields)


class Emission(NamedTuple):
  """How many rows the models of a run emit.

  Attributes:
    num: (t) -> rows that model t draws: the most of all generations, a Python int; under exact-law draws, those of generation t.
    used: (t) -> how many of them count; None: all.
    counts: [T] Python ints, rows that models 1..T emit; None under exact-law draws.
  """

  num: Callable[[Any], Any]
  used: Callable[[Any], Any] | None = None
  counts: tuple[int, ...] | None = None


def emission(task: TaskSetting, emit: Callable[[Any, Any], Any], num_generations: int) -> Emission:
  """The only place where it is decided how many rows are drawn and how many of them count.

  Where no model is to emit any, as many are drawn as there are real ones, to be looked at: what becomes of them is the workflow's.

  Args:
    emit: as `Workflow.emit`.
    num_generations: the horizon T.
  """
  n = task.num_samples
  if task.rows is not None:
    return Emission(lambda t: emit(n, t))
  counts = tuple(emit(n, t) for t in range(1, num_generations + 1))
  if task.used is not None:
    if {*counts} != {n}:
      raise Refused(
        "a task whose batches have room for more rows than they use needs a workflow that emits num_samples."
      )
    return Emission(lambda t: n, lambda t: task.used, counts)
  most = max(counts) or n
  used = None if min(counts) == max(counts) else lambda t: jnp.asarray(counts, jnp.int32)[t - 1]
  return Emission(lambda t: most, used, counts)


def pad(data: Data, capacity: int) -> Data:
  """Rows padded to `capacity` per slot; the padding has weight 0.

  Args:
    data: rows [slots, n, ...], or none.
    capacity: rows per slot, at least n.
  Returns:
    rows [slots, capacity, ...] and row_weight [slots, capacity]; `data` itself where nothing is missing.
  """
  if data.rows is None or num_rows(data.rows, 1) == capacity:
    return data
  slots, n = data.count.shape[0], num_rows(data.rows, 1)

  def extend(x: Array, filled: float | int) -> Array:
    return jnp.pad(x, [(0, 0), (0, capacity - n)] + [(0, 0)] * (x.ndim - 2), constant_values=filled)

  row_weight = jnp.ones((slots, n)) if data.row_weight is None else data.row_weight
  rows = jax.tree.map(lambda x: extend(x, _unused(x.dtype)), data.rows)
  return same(data, rows=rows, row_weight=extend(row_weight, 0))


def _unused(dtype: Any) -> float | int:
  """What unused rows hold: that which is read by accident is seen."""
  return np.nan if jnp.issubdtype(dtype, jnp.floating) else 0


@functools.partial(jax.jit, static_argnames=("slots", "capacity"))
def allocate(real: Data, slots: int, capacity: int) -> Data:
  """An empty store of `slots` batches of up to `capacity` rows, with `real` in slot 0.

  Args:
    real: one sealed slot of n rows.
    slots: capacity in batches.
    capacity: rows per batch, at least n.
  Returns:
    Data of [slots] and rows [slots, capacity, ...]; origin -1 where nothing is stored.
  """
  real = pad(real, capacity)
  place = lambda x, empty: jnp.concatenate([x, jnp.full((slots - 1, *x.shape[1:]), empty, x.dtype)])
  store = jax.tree.map(lambda x: place(x, 0), same(real, rows=None))
  rows = jax.tree.map(lambda x: place(x, _unused(x.dtype)), real.rows)
  return same(store, rows=rows, origin=place(real.origin.astype(jnp.int32), -1))


def put(store: Data, new: Data, slot: Number) -> Data:
  """Writes a one-slot batch. A row mask appears in both or in neither.

  Args:
    store: as `allocate` makes it.
    new: one slot of at most as many rows as a batch of the store has.
    slot: where, a Python or traced int32.
  Raises:
    ValueError: the batch masks rows and the store has no place for a mask.
  """
  if store.rows is not None:
    new = pad(new, num_rows(store.rows, 1))
  if store.row_weight is not None and new.row_weight is None:
    new = same(new, row_weight=jnp.ones_like(store.row_weight[:1]))
  if store.row_weight is None and new.row_weight is not None:
    raise Refused("a task that masks rows must give its real batch a row_weight too")
  written: Data = _written(store, new._replace(draw=None, latent=None), slot)
  return written


@jax.jit
def _written(store: Data, new: Data, slot: Number) -> Data:
  def write(held: Array, one: Array) -> Array:
    one = one.astype(held.dtype)
    return one if held.shape == one.shape else _placed(0)(held, one[0], slot)  # of a single slot nothing is kept

  written: Data = jax.tree.map(write, store, new)
  return written


@functools.cache
def _placed(axis: int) -> Callable[[Array, Array, Number], Array]:
  """(x, new, index) -> x with `new` at an index along this axis.

  Runs side by side write at one index, which JAX makes a scatter of: a dozen kernels, where the update of a slice is one.
  """

  def place(x: Array, new: Array, index: Number) -> Array:
    return jax.lax.dynamic_update_index_in_dim(x, new, index, axis)

  placed = jax.custom_batching.custom_vmap(place)

  @placed.def_vmap
  def _side_by_side(size: int, batched: Any, x: Array, new: Array, index: Number) -> tuple[Array, bool]:
    if batched[2]:
      return jax.vmap(place, [0 if one else None for one in batched], axis_size=size)(x, new, index), True
    x, new = (v if one else jnp.broadcast_to(v, (size, *v.shape)) for v, one in zip((x, new), batched))
    return _placed(axis + 1)(x, new, index), True

  differentiable = jax.custom_jvp(placed)

  @differentiable.defjvp
  def _moved(primals: Any, tangents: Any) -> Any:
    """Linear in both; what is differentiated backwards must be JAX's own."""
    return differentiable(*primals), place(tangents[0], tangents[1], primals[2])

  def of(x: Array, new: Array, index: Number) -> Array:
    found: Array = (differentiable if jnp.issubdtype(x.dtype, jnp.inexact) else placed)(x, new, index)
    return found

  return of


def total(task: TaskSetting, problem: Problem, store: Data) -> Data:
  """Folds the slots' summaries with their weights: what `fit` is handed. O(slots).

  Args:
    task, problem: a task and the problem of the run.
    store: batches with summaries [slots, ...] and weights [slots].
  Returns:
    the store, its summary without the axis of slots.
  """
  if task.summary is None:
    return store
  take = lambda j: jax.tree.map(lambda x: x[j], store.summary)
  slots = store.count.shape[0]
  if slots == 1:
    return store._replace(summary=take(0))
  add = functools.partial(task.summary.add, problem)
  weight = jnp.ones(slots) if store.weight is None else store.weight
  both = add(take(0), weight[0], take(1), weight[1])
  both = jax.lax.fori_loop(2, slots, lambda j, sum_: add(sum_, 1.0, take(j), weight[j]), both)
  return store._replace(summary=both)


@jax.jit
def latest(data: Data) -> Data:
  """The youngest batch, one slot.

  Args:
    data: one or more slots, of which one at least has a batch.
  Returns:
    without summary, draw and latent.
  """
  slot = jnp.argmax(data.origin)
  youngest: Data = jax.tree.map(lambda x: x[slot][None], data._replace(summary=None, draw=None, latent=None))
  return youngest


@functools.partial(jax.jit, static_argnames="num")
def draw_rows(key: Array, data: Data, num: int) -> PyTree:
  """`num` rows with replacement, each in proportion to its weight; leaves [num, ...]. O(num log(slots n)).

  Args:
    key: used once.
    data: rows [slots, n, ...], and mass in at least one slot.
    num: a Python int.
  """
  slot_key, row_key = split(key)
  slots, n = data.origin.shape[0], num_rows(data.rows, 1)
  if slots == 1:
    slot = jnp.zeros(num, jnp.int32)
  elif data.weight is None:
    slot = index(slot_key, num, slots)
  else:
    slot = choose(slot_key, table(mass(data)), num, fine=False)
  row = index(row_key, num, n) if data.row_weight is None else choose(row_key, table(data.row_weight), num, slot)
  return jax.tree.map(lambda x: x[slot, row], data.rows)


@functools.partial(jax.jit, static_argnames="num")
def subset(
  key: Array, stamps: Int32[Array, " capacity"], num: int, t: Number, used: Number = None
) -> tuple[Int32[Array, " capacity"], Int32[Array, "{num}"]]:
  """A uniform `num`-subset of the first num * (t + 1) stored rows, t >= 1, in O(num) and without a sort.

  Where only `used` of them are wanted, it is that of a call with this number.

  The first `num` distinct values of an i.i.d. uniform stream are an exact uniform subset. `stamps` [capacity] int32
  marks first occurrences and is never cleared, since later generations stamp higher. With num * (t + 1) >= 2 num the
  stream of 2 num + 40 values holds fewer than `num` distinct ones with probability below 1e-9.

  Args:
    key: used once.
    stamps: [capacity] int32, 0 before the first call; capacity at least num * (t + 1).
    num: a Python int.
    t: generation, a Python or traced int32.
    used: at most num, traced int32; None: num.
  Returns:
    the new stamps, and indices [num] int32 in order of their first occurrence, 0 from `used` on.
  """
  length = 2 * num + 40
  size, wanted = (length, num) if used is None else (2 * used + 40, used)
  stream = index(key, length, wanted * (t + 1))
  position = jnp.arange(length, dtype=stamps.dtype)
  stamp = (t + 1) * size - position
  stamps = stamps.at[stream].max(stamp)  # positions beyond `size` leave less than any later generation does
  first = stamps[stream] == stamp
  place = jnp.cumsum(first) - 1
  if used is not None:
    first = first & (position < size) & (place < used)
  place = jnp.where(first, place, length)
  return stamps, jnp.zeros(num, jnp.int32).at[place].set(stream, mode="drop")
