"""Training-workflows: the only place where they are told apart.

All but two are schedules of whole batches: one function with other arguments. `accumulate` carries the total of a pool that only
grows, and `accumulate_subsample` redraws rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax import theory, vocabulary
from collapse_jax._citation import citing
from collapse_jax.refused import Refused
from collapse_jax.types import Array, Data, Number, Problem, PyTree, TaskSetting, Workflow

__all__ = [
  "accumulate",
  "accumulate_subsample",
  "grown_replace",
  "mix",
  "parse",
  "replace",
  "sliding_window",
  "weights",
]


def __dir__() -> list[str]:
  return __all__


@citing("2305.17493", "2410.16713")
def replace(num_emitted: int | None = None) -> Workflow:
  """Generation t is fitted to the output of model t - 1 only (Shumailov et al. 2023; Kazdan et al. 2410.16713).

  Args:
    num_emitted: rows that each model emits; default num_samples, as many as there are real ones.
  Raises:
    ValueError: num_emitted is no integer of at least 1.

  >>> import collapse_jax as cj
  >>> cj.workflows.replace().weights(3)
  array([[1., 0., 0.],
         [0., 1., 0.],
         [0., 0., 1.]])
  """
  vocabulary.check_num_emitted(num_emitted)
  return _scheduled(
    slots=lambda T: 1, slot=lambda t: 0, weights=lambda T: np.eye(T), emit=_always(num_emitted)
  )._replace(absorbing=num_emitted is None)


@citing("2404.01413")
def accumulate(num_emitted: int | None = None) -> Workflow:
  """Generation t is fitted to all data so far, real and synthetic (Gerstgrasser et al. 2404.01413).

  Tasks with a `Summary` carry the total of the pool, so that a generation costs the same at any t.

  Args:
    num_emitted: rows that each model emits; default num_samples. With 1 a discrete task is Polya's urn.
  Raises:
    ValueError: num_emitted is no integer of at least 1.

  >>> import collapse_jax as cj
  >>> cj.workflows.accumulate().weights(3).round(3)
  array([[1.   , 0.   , 0.   ],
         [0.5  , 0.5  , 0.   ],
         [0.333, 0.333, 0.333]])
  """
  vocabulary.check_num_emitted(num_emitted)

  def init(task: TaskSetting, problem: Problem, real: Data, num_generations: int) -> Data:
    if num_emitted is not None and real.rows is not None:
      real = _masked(real)
    real = storage.seal(task, problem, real)
    total = jax.tree.map(lambda x: x[0], real.summary)
    capacity = 0 if real.rows is None else max(storage.num_rows(real.rows, 1), num_emitted or 0)
    store: Data = storage.allocate(real._replace(summary=None), num_generations, capacity)
    return store._replace(summary=total)

  def update(task: TaskSetting, problem: Problem, key: Array, store: Data, batch: Data, t: Number) -> Data:
    total = store.summary
    if task.summary is not None:
      batch = storage.summarise(task, problem, batch)
      if task.summary.extend is not None and batch.draw is not None:
        total = task.summary.extend(problem, total, batch)
      else:
        total = task.summary.add(problem, total, 1.0, jax.tree.map(lambda x: x[0], batch.summary), 1.0)
    batch = storage.seal(task, problem, batch)
    return storage.put(store._replace(summary=None), batch._replace(summary=None), t)._replace(summary=total)

  return Workflow(
    init,
    lambda task, problem, key, store, t: store,
    update,
    _always(num_emitted),
    _uniform_over_history if num_emitted is None else None,
    schedule=lambda n, T: _schedule(_always(num_emitted), n, T, lambda t: 0, pooled=True),
  )


@citing("2410.16713")
def accumulate_subsample() -> Workflow:
  """Generation t is fitted to num_samples rows of all data so far, redrawn without replacement (2410.16713).

  >>> import collapse_jax as cj
  >>> cj.workflows.accumulate_subsample().redrawn
  True
  """

  def init(task: TaskSetting, problem: Problem, real: Data, num_generations: int) -> tuple[Data, Array, Array]:
    n = task.num_samples
    stored = storage.allocate(real._replace(summary=None, draw=None, latent=None), num_generations, n)
    return stored, jnp.zeros(n * num_generations, jnp.int32), jnp.arange(n, dtype=jnp.int32)

  def used(task: TaskSetting) -> Array | None:
    return None if task.used is None else jnp.asarray(task.used, jnp.int32)

  def select(task: TaskSetting, problem: Problem, key: Array, store: PyTree, t: Array) -> Data:
    stored, _, chosen = store
    return _rows_at(task, problem, stored, chosen, used(task))

  def update(
    task: TaskSetting, problem: Problem, key: Array, store: PyTree, batch: Data, t: Array
  ) -> tuple[Data, Array, Array]:
    stored, stamps, _ = store
    stamps, chosen = storage.subset(key, stamps, task.num_samples, t, used(task))
    return storage.put(stored, batch._replace(summary=None), t), stamps, chosen

  return Workflow(
    init,
    select,
    update,
    weights=_uniform_over_history,
    redrawn=True,
    schedule=lambda n, T: _schedule(_always(None), n, T, lambda t: 0, pooled=True, redrawn=n),
    batches=lambda store: store[0],
  )


@citing("2310.00429")
def mix(real_fraction: Number, fresh: bool = False, real_weight: Number = None) -> Workflow:
  """All n real rows and n(1-f)/f rows of the last model, f = real_fraction (Bertrand et al. 2310.00429).

  >>> import collapse_jax as cj
  >>> cj.workflows.mix(0.2).weights(3)
  array([[1. , 0. , 0. ],
         [0.2, 0.8, 0. ],
         [0.2, 0. , 0.8]])
  >>> cj.workflows.mix(0.2).emit(100, 1)
  400

  Args:
    real_fraction: share of real rows, in [0, 1], with 0 for `replace`; may be traced if the task draws from the exact law.
    fresh: draw the n real rows anew each generation.
    real_weight: share of the real batch in the fit, in (0, 1] (2502.18049); default f: rows count alike; may be traced.
  Raises:
    ValueError: real_fraction outside [0, 1], real_weight outside (0, 1] or beside no real rows, or no task rows are fresh.
  """
  real_fraction, real_weight = _number(real_fraction), _number(real_weight)
  if not isinstance(real_fraction, jax.core.Tracer):
    vocabulary.check_real_fraction(
      real_fraction, fresh, None if isinstance(real_weight, jax.core.Tracer) else real_weight
    )
    if real_fraction == 0:
      return replace()
  share = real_fraction if real_weight is None else real_weight

  def emit(n: Number, t: Number) -> Number:
    if any(isinstance(x, jax.core.Tracer) for x in (n, real_fraction)):
      # A sweep hands over the number of the next line, and of `replace`.
      some = jnp.where(real_fraction == 0, 0.5, real_fraction)
      return jnp.round(n * (1 - some) / some)
    return round(float(n) * (1 - float(real_fraction)) / float(real_fraction))

  def weights(num_generations: int) -> np.ndarray:
    table = np.zeros((num_generations, num_generations))
    table[0, 0] = 1
    for t in range(1, num_generations):
      table[t, 0], table[t, t] = share, 1 - share
    return table

  return _scheduled(
    slots=lambda T: 2,
    slot=lambda t: 1,
    weights=weights,
    emit=emit,
    fresh=fresh,
    real_weight=real_weight,
    real_factor=jnp.sign(real_fraction) if isinstance(real_fraction, jax.core.Tracer) else None,
  )


@citing("2404.01413")
def grown_replace() -> Workflow:
  """Generation t is fitted to num_samples * t rows, all of model t - 1 (Gerstgrasser et al. 2404.01413).

  >>> import collapse_jax as cj
  >>> [cj.workflows.grown_replace().emit(100, t) for t in (1, 2, 3)]
  [200, 300, 400]
  """
  return _scheduled(slots=lambda T: 1, slot=lambda t: 0, weights=lambda T: np.eye(T), emit=lambda n, t: n * (t + 1))


def sliding_window(size: int) -> Workflow:
  """Generation t is fitted to the last `size` batches; the real one counts while it is among them.

  Args:
    size: batches, at least 1; 1 is `replace`.
  Raises:
    ValueError: size is no integer of at least 1.

  >>> import collapse_jax as cj
  >>> cj.workflows.sliding_window(2).weights(4)
  array([[1. , 0. , 0. , 0. ],
         [0.5, 0.5, 0. , 0. ],
         [0. , 0.5, 0.5, 0. ],
         [0. , 0. , 0.5, 0.5]])
  """
  vocabulary.check_size(size)
  return _scheduled(
    slots=lambda T: min(size, T), slot=lambda t: t % size, weights=lambda T: theory.sliding_window(size, T)
  )


@citing("2410.22812")
def weights(table: Any, fresh: bool = False) -> Workflow:
  """Generation t is fitted to all batches so far, batch j with share table[t - 1][j] (Dey and Donoho 2410.22812).

  The shares of a generation become weights whose mean over the batches that are used is 1.

  Args:
    table: [T, T]; row t - 1 holds shares of batches 0..t-1 that sum to 1, and zeros; may be traced, and is then not checked.
    fresh: draw the real rows, batch 0, anew each generation.
  Raises:
    ValueError: not such a table, or (when a run starts) fewer rows than generations, or no task rows are fresh.

  >>> import collapse_jax as cj
  >>> cj.workflows.weights([[1, 0], [0.5, 0.5]]).weights(2)
  array([[1. , 0. ],
         [0.5, 0.5]])
  """
  if not isinstance(table, jax.core.Tracer):
    vocabulary.check_table(table, fresh)
    table = np.asarray(table, float)
  factor = table * (table > 0).sum(axis=1, keepdims=True)

  def shares(num_generations: int) -> Any:
    if num_generations > len(table):
      raise Refused(
        f"weights has {len(table)} rows, too few for num_generations {num_generations}.", argument="weights"
      )
    return table[:num_generations, :num_generations]

  return _scheduled(slots=lambda T: len(shares(T)), slot=lambda t: t, weights=shares, fresh=fresh, factor=factor)


def parse(text: str) -> Callable[..., Workflow]:
  """The workflow factory that a flag names: "replace", "mix(0.2)", "mix(0.2, fresh=True)"; "mix" alone takes its
  real_fraction from an axis of that name.

  Args:
    text: a name, or a call with literals.
  Raises:
    ValueError: unknown name, or arguments that are not literals or do not fit.
  """
  vocabulary.check_workflow(text)
  name, arguments, keywords = vocabulary.parse_call(text)
  if not vocabulary.is_call(text):
    return FACTORIES[name]
  made = FACTORIES[name](*arguments, **keywords)
  return lambda: made


def _always(num_emitted: int | None) -> Callable[[Number, Number], Number]:
  return lambda n, t: n if num_emitted is None else num_emitted


def _number(value: Any) -> Any:
  """Python's own where it is an array of JAX that is no tracer and has no dims."""
  return (
    value.item()
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer) and not value.ndim
    else value
  )


def _masked(data: Data) -> Data:
  """With a mask over rows, so that smaller batches can be stored beside it: all have one or none."""
  if data.row_weight is not None:
    return data
  return storage.same(data, row_weight=jnp.ones((1, storage.num_rows(data.rows, 1))))


def _uniform_over_history(num_generations: int) -> np.ndarray:
  return np.tri(num_generations) / np.arange(1, num_generations + 1)[:, None]


def _scheduled(
  slots: Callable[[int], int],
  slot: Callable[[Any], Any],
  weights: Callable[[int], Any],
  emit: Callable[[Any, Any], Any] = lambda n, t: n,
  fresh: bool = False,
  factor: Any = None,
  real_weight: Number = None,
  real_factor: Number = None,
) -> Workflow:
  """A schedule of whole batches.

  Args:
    slots: (num_generations) -> batches kept.
    slot: (t) -> where the batch of model t goes; 0 holds the real batch at first.
    weights: see `Workflow.weights`.
    emit: see `Workflow.emit`.
    fresh: slot 0 is filled with a new real batch each generation after the first.
    factor: [T, T] weight of the batch in slot j in generation t, in row t - 1; None: 1 for all that are kept.
    real_weight: share of slot 0 where there is another batch; None: every row counts alike.
    real_factor: what a row of slot 0 counts where there is another batch; None: 1.
  """

  def init(task: TaskSetting, problem: Problem, real: Data, num_generations: int) -> PyTree:
    if fresh and task.fresh is None:
      raise Refused(
        "fresh=True needs a task that can draw fresh real data; this one has a finite set.",
        argument="fresh",
        value=True,
      )
    real = storage.seal(task, problem, real)
    capacity = 0
    if real.rows is not None:
      emitted = storage.emission(task, emit, num_generations).counts or ()
      capacity = max([storage.num_rows(real.rows, 1), *emitted])
      if min(emitted) < capacity:
        real = _masked(real)
    return storage.allocate(real, slots(num_generations), capacity)

  def select(task: TaskSetting, problem: Problem, key: Array, store: PyTree, t: Array) -> Data:
    if fresh:
      assert task.fresh is not None  # see init
      anew = storage.put(store, storage.seal(task, problem, task.fresh(key, problem)), 0)
      store = jax.tree.map(lambda new, old: jnp.where(t > 1, new, old), anew, store)  # all workflows share model 1
    used = (store.origin >= 0).astype(float)
    if factor is not None:
      used = used * jnp.asarray(factor, float)[t - 1, : used.shape[0]]
    if real_factor is not None:
      used = used.at[0].multiply(jnp.where(t > 1, real_factor, 1.0))
    if real_weight is not None:
      share = used * jnp.stack([jnp.asarray(real_weight, float), jnp.asarray(1 - real_weight, float)])
      used = share / jnp.sum(share) * jnp.sum(used * store.count) / jnp.maximum(store.count, 1e-30)
    return storage.total(task, problem, store._replace(weight=used))

  def update(task: TaskSetting, problem: Problem, key: Array, store: PyTree, batch: Data, t: Array) -> PyTree:
    if task.rows is None and emit(task.num_samples, 1) == 0:  # mix(1.0)
      return store
    return storage.put(storage.moved(task, problem, store, batch), storage.seal(task, problem, batch), slot(t))

  def schedule(n: Number, T: int) -> theory.Schedule:
    num_slots = slots(T)
    return _schedule(emit, n, T, slot, None if factor is None else factor[:T, :num_slots], real_weight, fresh=fresh)

  return Workflow(init, select, update, emit, weights, schedule=schedule)


def _schedule(
  emit: Callable[[Any, Any], Any], n: Number, T: int, slot: Callable[[int], int], *arguments: Any, **keywords: Any
) -> theory.Schedule:
  """The sizes of batches as `emit` has them for a Python number, in float64, and where they are put."""
  sizes = np.array([n] + [emit(n, t) for t in range(1, T)], float)
  return theory.Schedule(sizes, np.array([slot(t) if t else 0 for t in range(T)], int), *arguments, **keywords)


def _rows_at(task: TaskSetting, problem: Problem, stored: Data, chosen: Array, used: Array | None) -> Data:
  """The chosen rows as n slots of one row, so that each keeps its origin; those from `used` on have weight 0."""
  n = storage.num_rows(stored.rows, 1) if used is None else used
  rows = jax.tree.map(lambda x: x[chosen // n, chosen % n], stored.rows)
  row_weight = None if stored.row_weight is None else stored.row_weight[chosen // n, chosen % n]
  if used is not None:
    mask = storage.first_rows(chosen.shape[0], used)
    row_weight = mask if row_weight is None else mask * row_weight
  origin = stored.origin[chosen // n]
  if row_weight is None:
    data = Data(jax.tree.map(lambda x: x[:, None], rows), count=jnp.ones(chosen.shape), origin=origin)
  else:
    data = Data(
      jax.tree.map(lambda x: x[:, None], rows), row_weight[:, None], row_weight, jnp.ones(chosen.shape), origin
    )
  if task.summary is None:
    return data
  return data._replace(summary=storage.statistics(task.summary.of, problem, rows, row_weight))


FACTORIES: dict[str, Callable[..., Workflow]] = {
  "replace": replace,
  "accumulate": accumulate,
  "accumulate_subsample": accumulate_subsample,
  "mix": mix,
  "grown_replace": grown_replace,
  "sliding_window": sliding_window,
  "weights": weights,
}
