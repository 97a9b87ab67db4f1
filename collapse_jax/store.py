"""Batches in storage of fixed capacity: append, total, draw rows, exact n-subset."""

import functools

import jax
import jax.numpy as jnp

from collapse_jax.random import choose, index, table
from collapse_jax.refused import Refused
from collapse_jax.types import Array, Context, Data, Problem, PyTree, TaskSetting


def batch(
  rows: PyTree = None,
  row_weight: Array | None = None,
  summary: PyTree = None,
  count=None,
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
  return jax.tree.leaves(rows)[0].shape[axis]


def flat(data: Data) -> tuple[PyTree, Array]:
  """All stored rows [slots * n, ...] and their weights [slots * n]: what a fit by weighted rows uses.

  What does not count is 0, so that neither empty slots nor a rejected row of NaN can get into a weighted sum.
  """
  n = num_rows(data.rows, 1)
  weight = jnp.ones((data.origin.shape[0], 1)) if data.weight is None else data.weight[:, None]
  weight = weight * (jnp.ones((1, n)) if data.row_weight is None else data.row_weight)
  weight = weight.reshape(-1)
  rows = jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:])), data.rows)
  return rows if data.weight is None and data.row_weight is None else blanked(rows, weight), weight


def blanked(rows: PyTree, weight: Array) -> PyTree:
  """Rows [m, ...] with 0 where their weight [m] is."""
  blank = lambda x: jnp.where((weight != 0).reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros((), x.dtype))
  return jax.tree.map(blank, rows)


def in_use(context: Context) -> Array:
  """[num] 1.0 for the rows to emit that will count, else 0.0; see `Context.used`."""
  number = jnp.arange(context.num)
  return jnp.ones(number.shape) if context.used is None else (number < context.used).astype(float)


def mass(data: Data) -> Array:
  """[slots] rows in use of each batch, times its weight."""
  return data.count if data.weight is None else data.weight * data.count


def size(data: Data) -> Array:
  """[] rows in use of all batches, weighted. A sum of many equal counts drifts in float32, that of their differences does not."""
  each = mass(data)
  used = each != 0
  return each[0] * jnp.sum(used) + jnp.sum(jnp.where(used, each - each[0], 0))


def summarise(task: TaskSetting, problem: Problem, data: Data) -> Data:
  """Adds each slot's summary where the sampler gave none."""
  if task.summary is None or data.summary is not None:
    return data
  of, rows = functools.partial(task.summary.of, problem), data.rows
  if task.summary.of_drawn is not None and data.draw is not None and data.latent is not None:
    of, rows = functools.partial(task.summary.of_drawn, problem, data.draw), data.latent
  if data.row_weight is None:
    summary = jax.vmap(lambda rows: of(rows, None))(rows)
  else:
    summary = jax.vmap(lambda rows, weight: of(blanked(rows, weight), weight))(rows, data.row_weight)
  return data._replace(summary=summary)


def seal(task: TaskSetting, problem: Problem, data: Data, keep_rows: bool = False) -> Data:
  """The form in which a batch is stored: with its summary, without rows that nothing will read."""
  data = summarise(task, problem, data)._replace(draw=None, latent=None)
  if task.summary is None or keep_rows or task.summary.keep_rows:
    return data
  return data._replace(rows=None, row_weight=None)


def moved(task: TaskSetting, problem: Problem, store: Data, new: Data) -> Data:
  """The store with its summaries as `Summary.move` tells them beside a new batch."""
  if task.summary is None or task.summary.move is None or new.draw is None or store.count.shape[0] == 1:
    return store
  move = lambda stored: task.summary.move(problem, stored, new.draw)
  return store._replace(summary=jax.vmap(move)(store.summary))


def pad(data: Data, capacity: int) -> Data:
  """Rows padded to `capacity` per slot; the padding has weight 0."""
  if data.rows is None or num_rows(data.rows, 1) == capacity:
    return data
  slots, n = data.count.shape[0], num_rows(data.rows, 1)
  extend = lambda x: jnp.pad(x, [(0, 0), (0, capacity - n)] + [(0, 0)] * (x.ndim - 2))
  row_weight = jnp.ones((slots, n)) if data.row_weight is None else data.row_weight
  return data._replace(rows=jax.tree.map(extend, data.rows), row_weight=extend(row_weight))


def allocate(real: Data, slots: int, capacity: int) -> Data:
  """An empty store of `slots` batches of up to `capacity` rows, with `real` in slot 0."""
  real = pad(real, capacity)
  place = lambda x: jnp.zeros((slots, *x.shape[1:]), x.dtype).at[0].set(x[0])
  store = jax.tree.map(place, real)
  return store._replace(origin=jnp.full(slots, -1, jnp.int32).at[0].set(real.origin[0]))


def put(store: Data, new: Data, slot) -> Data:
  """Writes a one-slot batch. A row mask appears in both or in neither.

  Raises:
    ValueError: the batch masks rows and the store has no place for a mask.
  """
  if store.rows is not None:
    new = pad(new, num_rows(store.rows, 1))
  if store.row_weight is not None and new.row_weight is None:
    new = new._replace(row_weight=jnp.ones_like(store.row_weight[:1]))
  if store.row_weight is None and new.row_weight is not None:
    raise Refused("a task that masks rows must give its real batch a row_weight too")
  write = lambda s, b: jax.lax.dynamic_update_index_in_dim(s, b[0].astype(s.dtype), slot, 0)
  return jax.tree.map(write, store, new._replace(draw=None, latent=None))


def total(task: TaskSetting, problem: Problem, store: Data) -> Data:
  """Folds the slots' summaries with their weights: what `fit` is handed. O(slots)."""
  if task.summary is None:
    return store
  take = lambda j: jax.tree.map(lambda x: x[j], store.summary)
  slots = store.count.shape[0]
  if slots == 1:
    return store._replace(summary=take(0))
  add = functools.partial(task.summary.add, problem)
  both = add(take(0), store.weight[0], take(1), store.weight[1])
  both = jax.lax.fori_loop(2, slots, lambda j, sum_: add(sum_, 1.0, take(j), store.weight[j]), both)
  return store._replace(summary=both)


def latest(data: Data) -> Data:
  """The youngest batch, one slot."""
  slot = jnp.argmax(data.origin)
  return jax.tree.map(lambda x: x[slot][None], data._replace(summary=None, draw=None, latent=None))


def draw_rows(key: Array, data: Data, num: int) -> PyTree:
  """`num` rows with replacement, each in proportion to its weight; leaves [num, ...]. O(num log(slots n))."""
  slot_key, row_key = jax.random.split(key)
  slots, n = data.origin.shape[0], num_rows(data.rows, 1)
  if slots == 1:
    slot = jnp.zeros(num, jnp.int32)
  elif data.weight is None:
    slot = index(slot_key, num, slots)
  else:
    slot = choose(slot_key, table(mass(data)), num, fine=False)
  row = index(row_key, num, n) if data.row_weight is None else choose(row_key, table(data.row_weight), num, slot)
  return jax.tree.map(lambda x: x[slot, row], data.rows)


def subset(key: Array, stamps: Array, num: int, t) -> tuple[Array, Array]:
  """A uniform `num`-subset of the first num * (t + 1) stored rows, t >= 1, in O(num) and without a sort.

  The first `num` distinct values of an i.i.d. uniform stream are an exact uniform subset. `stamps` [capacity] int32
  marks first occurrences and is never cleared, since later generations stamp higher. With num * (t + 1) >= 2 num the
  stream of 2 num + 40 values holds fewer than `num` distinct ones with probability below 1e-9.

  Returns:
    the new stamps, and indices [num] int32 in order of their first occurrence.
  """
  length = 2 * num + 40
  stream = index(key, length, num * (t + 1))
  stamp = (t + 1) * length - jnp.arange(length, dtype=stamps.dtype)
  stamps = stamps.at[stream].max(stamp)
  first = stamps[stream] == stamp
  place = jnp.where(first, jnp.cumsum(first) - 1, length)
  return stamps, jnp.zeros(num, jnp.int32).at[place].set(stream, mode="drop")
