"""Programs of the scan driver: cells that share one, what is static in it and what traced, compiled for chunks that fit memory."""

import dataclasses
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh

from collapse_jax.generation import Packed, advance_packed, leaps, prepared, run, start
from collapse_jax.random import fold_in, new_key
from collapse_jax.refused import Refused
from collapse_jax.sweeps import cost, devices, fingerprint, stopping
from collapse_jax.sweeps.grid import COMMON_METRICS, Cell, Grid, accepted
from collapse_jax.sweeps.job import Numbers
from collapse_jax.types import Array, Leap, Metrics, Number, Run, TaskSetting, Workflow

__all__ = ["Binding", "Bound", "Program", "Traced", "bytes_of", "can_stop", "emitted", "groups", "traced"]

_log = logging.getLogger(__name__)
_ROOM = "max_samples"  # a factory's parameter: rows that there is room for where num_samples is traced
_EMITTED = "/emitted"  # beside the values of a cell: rows that each model emits, decided on the host


class Bound(NamedTuple):
  """A cell, and which of its values a program has as constants and which it is given."""

  cell: Cell
  static: dict[str, Any]
  traced: dict[str, float]

  @property
  def arguments(self) -> dict[str, Array]:
    """What its program is called with."""
    arguments: dict[str, Array] = jax.tree.map(_scalar, self.traced)
    return arguments

  @property
  def place(self) -> tuple[int, ...]:
    """Of the program that it is the first cell of, among those that are traced: its index and, where there is one, the room."""
    has_room = _ROOM in self.static and _ROOM not in self.cell.values
    return (*self.cell.index, self.static[_ROOM]) if has_room else self.cell.index


@dataclasses.dataclass(frozen=True)
class Binding:
  """(traced values) -> task and workflow of a group of cells; called while tracing.

  Attributes:
    grid: what makes them.
    workflow: its name.
    static: values that are no tracers.
  """

  grid: Grid
  workflow: str
  static: dict[str, Any]

  def __call__(self, traced: dict[str, Any]) -> tuple[TaskSetting, Workflow]:
    given = self.static | traced
    values = {name: value for name, value in given.items() if name != _EMITTED}
    workflow = self.grid.workflow_of(self.workflow, values)
    if _EMITTED in given:
      num = given[_EMITTED]  # None: num_samples
      emit = lambda n, t: n if num is None else num  # as many as before: what is known of the workflow holds
      workflow = Workflow(**workflow._asdict() | {"emit": emit})
    return self.grid.task_of(values), workflow


def groups(
  grid: Grid, numbers: Numbers, static_axes: Sequence[str], before: "dict[tuple[int, ...], Traced]", memory: float
) -> list[list[Bound]]:
  """Cells that share a program, the costly ones (by their static numbers) first.

  Args:
    grid: its cells that can be run.
    numbers: of generations and seeds.
    static_axes: names of axes whose values are never traced.
    before: programs that have been traced, by `place` of the first cell of a group; those that had to be traced here are added.
    memory: bytes that a run may take.
  """
  found: dict[tuple[Any, ...], list[Bound]] = {}
  num_generations = numbers.num_generations
  families: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}  # keys of groups that differ in their number of rows only
  whole = set()  # cells whose models emit num_samples rows
  for cell, task, workflow in grid.runnable():
    one = prepared(task, workflow)
    in_task, in_workflow = accepted(grid.task, cell.values), accepted(grid.makers[cell.workflow], cell.values)
    traced = {
      axis
      for axis, value in cell.values.items()
      if axis not in static_axes and _traceable(axis, value, one.rows is not None, axis in in_workflow)
    }
    if "num_samples" in traced and not _takes_traced(grid.task, in_task, "num_samples"):
      traced.remove("num_samples")
    static = {axis: value for axis, value in cell.values.items() if axis not in traced}
    given = {axis: float(cell.values[axis]) for axis in sorted(traced)}
    if "num_samples" in traced or any(axis in traced for axis in in_workflow):  # else it emits a static number
      num = emitted(workflow, one.num_samples, num_generations)
      given |= {} if num is None else {_EMITTED: float(num)}
      whole |= {cell.index} if num == one.num_samples else set()
    fixed = tuple(i for axis, i in zip(grid.axes, cell.index[1:]) if axis in static)  # values need not be hashable
    key = (cell.workflow, fixed, tuple(given), one.rows is not None)
    if key not in found and _has_room(grid, one, workflow, static, num_generations):
      rest = tuple(i for axis, i in zip(grid.axes, cell.index[1:]) if axis in static and axis != "num_samples")
      families.setdefault((cell.workflow, rest, tuple(given)), []).append(key)
    found.setdefault(key, []).append(Bound(cell, static, given))
  for key, cells in list(found.items()):
    same, others = ([one for one in cells if (one.cell.index in whole) == wanted] for wanted in (True, False))
    if same and not (others and _runs(grid, others[0], num_generations)):  # a fact that the task may need to know
      for bound in same:
        del bound.traced[_EMITTED]
        bound.static[_EMITTED] = None
      found[key] = same
      found |= {(*key, _EMITTED): others} if others else {}
  for keys in families.values():
    if len(keys) > 1:
      apart = [found.pop(key) for key in keys]
      found |= {(keys[0], i): group for i, group in enumerate(_side_by_side(grid, numbers, apart, before, memory))}
  size = lambda cells: math.prod(v for v in cells[0].static.values() if isinstance(v, int) and v > 0)
  return sorted(found.values(), key=size, reverse=True)


def _has_room(grid: Grid, task: TaskSetting, workflow: Workflow, static: dict[str, Any], num_generations: int) -> bool:
  """Whether rows of a task may be drawn in room for more of them."""
  if "num_samples" not in static or task.rows is not None or not grid.can_be_given(_ROOM):
    return False
  num = static["num_samples"]
  return bool(num == task.num_samples == emitted(workflow, num, num_generations))


def _side_by_side(
  grid: Grid, numbers: Numbers, apart: list[list[Bound]], before: "dict[tuple[int, ...], Traced]", memory: float
) -> list[list[Bound]]:
  """Groups that differ in num_samples, those in one program that are cheaper in the room of the largest than compiled apart.

  A run's cost is taken to be in proportion to the room, and the machine to be the reference: the choice must be the same wherever
  a sweep goes on. Where a run of the largest needs more than `memory`, all stay apart.
  """
  apart = sorted(apart, key=lambda group: group[0].static["num_samples"])
  sizes = [group[0].static["num_samples"] for group in apart]

  def roomy(first: int, last: int) -> list[Bound]:
    def bound(one: Bound) -> Bound:
      rest = {axis: value for axis, value in one.static.items() if axis != "num_samples"}
      num = float(one.static["num_samples"])
      return Bound(one.cell, rest | {_ROOM: sizes[last]}, one.traced | {"num_samples": num})

    return [bound(one) for group in apart[first : last + 1] for one in group]

  largest = roomy(len(apart) - 1, len(apart) - 1)[0]
  given = largest.cell.values | largest.static
  try:
    task = prepared(grid.task_of(given), grid.workflow_of(largest.cell.workflow, given))
    if task.used is None or not _takes_traced(grid.task, accepted(grid.task, given), "num_samples"):
      return apart  # its parameter of that name is something else
    of_largest = traced(Binding(grid, largest.cell.workflow, largest.static), largest.arguments, numbers)
  except Refused:  # task and workflow do not go together
    return apart
  if of_largest.bytes_per_run > memory:
    return apart  # the others may fit
  row_ns = of_largest.work(numbers) / sizes[-1] * numbers.num_seeds
  best: list[tuple[float, list[list[Bound]]]] = [(0.0, [])]  # of the first 0, 1, ... groups
  for last in range(len(apart)):
    ways = []
    for first in range(last + 1):
      together = apart[last] if first == last else roomy(first, last)
      running = row_ns * sizes[last] * sum(map(len, apart[first : last + 1]))
      compiling = 1e9 * cost.effort(row_ns * sizes[last]).compile_seconds
      ways.append((best[first][0] + compiling + running, [*best[first][1], together]))
    best.append(min(ways, key=lambda way: way[0]))
  chosen = best[-1][1]
  if _ROOM in chosen[-1][0].static:
    before.setdefault(chosen[-1][0].place, of_largest)
  return chosen


def emitted(workflow: Workflow, num_samples: Number, num_generations: int) -> Number:
  """The number of rows that every model emits; None where it is not the same in all generations.

  Args:
    workflow: its `emit` is called with Python numbers.
    num_samples: rows per batch.
    num_generations: T.
  """
  num = workflow.emit(num_samples, 1)
  return num if all(workflow.emit(num_samples, t) == num for t in range(2, num_generations + 1)) else None


def _runs(grid: Grid, one: Bound, num_generations: int) -> bool:
  """Whether task and workflow go together, found by tracing."""
  bind = Binding(grid, one.cell.workflow, one.static)
  try:
    jax.eval_shape(lambda key, traced: run(key, *bind(traced), num_generations), jax.random.key(0), one.arguments)
  except ValueError:
    return False
  return True


def _takes_traced(task: Callable[..., TaskSetting], values: dict[str, Any], axis: str) -> bool:
  """Whether a factory takes a tracer for this axis; a design matrix, say, fixes its rows also under an exact law."""

  def make(x: Array) -> Array:
    task(**values | {axis: x})
    return x

  try:
    jax.eval_shape(make, jax.ShapeDtypeStruct((), np.float32))
  except (TypeError, ValueError):
    return False
  return True


def _traceable(axis: str, value: Any, law: bool, in_workflow: bool) -> bool:
  if axis == "num_samples":
    return law
  if isinstance(value, bool | str) or not isinstance(value, float | np.floating):
    return False
  return law or not in_workflow  # a workflow's number decides how many rows are emitted


class Traced(NamedTuple):
  """A run of a cell as one traced program: what a plan counts, chunks are named by, and is compiled.

  Attributes:
    bytes_per_run: a generous estimate: the store twice (it may be copied once), and a few batches.
    run: closed jaxpr of (key, traced values), whose results are `packed`; None: rows are too many to be counted in int32.
    packed: shapes [recorded, ...] and dtypes of a run's metrics.
    redrawn: see `Workflow`.
    leap: of the task, where generations that are not recorded are leapt over; None: they are not.
  """

  bytes_per_run: float
  run: Any
  packed: Packed
  redrawn: bool = False
  leap: Leap | None = None

  @property
  def metrics(self) -> dict[str, jax.ShapeDtypeStruct]:
    """name -> shape [recorded, ...] and dtype of a run."""
    found: dict[str, jax.ShapeDtypeStruct] = jax.eval_shape(Packed.metrics, self.packed)
    return found

  @property
  def name(self) -> str:
    """Of what it computes, see `fingerprint`; "" where there is no program."""
    return "" if self.run is None else fingerprint.of(self.run)

  def work(self, numbers: Numbers) -> float:
    """Nanoseconds of a reference core a run.

    Args:
      numbers: as it was traced for.
    """
    if self.run is None:
      return math.inf
    share = 0.0 if numbers.record_every == 1 else len(numbers.recorded) / numbers.num_generations
    counted, beside = cost.Counted(self.redrawn, share), cost.RUN_NS
    if share and self.leap is not None:
      counted, beside = counted._replace(trips=0.0), beside + self.leap.work(numbers.num_generations)
    return beside + cost.work(self.run, counted)


def traced(bind: Binding, arguments: dict[str, Any], numbers: Numbers) -> Traced:
  """What tracing says of a program, before it is compiled.

  Args:
    arguments: its traced values.
    numbers: of generations, and which are recorded.
  """
  facts = []

  def whole(key: Array, traced: dict[str, Any]) -> Packed:
    task, workflow = bind(traced)
    begun = start(key, task, workflow, numbers.num_generations)
    leap = prepared(task, workflow).leap if leaps(task, workflow, numbers.warm_start) else None
    facts.append((bytes_of(begun), workflow.redrawn, leap))
    generations = range(1, numbers.num_generations + 1)
    return advance_packed(
      task,
      workflow,
      begun,
      generations,
      num_generations=numbers.num_generations,
      warm_start=numbers.warm_start,
      record_every=numbers.record_every,
    )[1]

  try:
    run, packed = jax.make_jaxpr(whole, return_shape=True)(new_key(0), arguments)
  except OverflowError:
    return Traced(math.inf, None, Packed({}, {}, ()))
  size, redrawn, leap = facts[0]
  return Traced(size, run, packed, redrawn, leap)


def bytes_of(shapes: Run) -> float:
  """Of a run, by the shapes of its state."""
  size = lambda tree: sum(math.prod(np.shape(x)) * 4 for x in jax.tree.leaves(tree))
  return float(2.0 * size(shapes.store) + 8.0 * size((shapes.problem, shapes.real)) + 65536)


def _scalar(value: float) -> Array:
  return jnp.asarray(value, float)


class Program:
  """The runs of a group of cells, compiled for one size of chunk, or for a smaller one once memory has run out.

  Attributes:
    size: runs of a call on each device.
    name: tells programs apart, see `fingerprint`.
    compile_seconds: of tracing, and of compiling all sizes.
  """

  def __init__(
    self,
    bind: Binding,
    numbers: Numbers,
    mesh: Mesh | None,
    run: Traced,
    stops: bool,
    name: str,
    trace_seconds: float,
  ):
    self.size, self.compile_seconds, self.name = 0, trace_seconds, name
    self._mesh, self._lock = mesh, threading.RLock()
    self._compiled: dict[int, Callable[..., Any]] = {}
    self._stopping = None
    if stops:
      self._stopping = stopping.Stopping(bind, numbers.num_generations, numbers.seed, numbers.record_every, mesh)
    bind.grid.check_metrics(run.metrics.keys() - {"collapse_generation", *COMMON_METRICS})
    self._runs = functools.partial(_run_seeds, run, numbers.seed)
    self._work = run.work(numbers)

  @property
  def width(self) -> int:
    """Runs of a call."""
    return self.size * devices.size(self._mesh)

  def choose(self, size: int, memory: float, num_seeds: int, traced: dict[str, Any]) -> None:
    """Compiles for chunks of at most this size that use at most this memory on a device."""
    while True:
      together = devices.size(self._mesh)
      calls = math.ceil(num_seeds / (size * together))
      used = self.compile(math.ceil(num_seeds / calls / together), traced)  # all of one size
      if used <= memory or self.size == 1:
        _log.info("chunks of %d runs use %.4g MiB on a device", self.size, used / 2**20)
        return
      size = max(1, min(self.size - 1, int(self.size * memory / used)))
      _log.info(
        "chunks of %d runs would use %.4g MiB of %.4g: trying %d", self.size, used / 2**20, memory / 2**20, size
      )

  def compile(self, size: int, traced: dict[str, Any]) -> float:
    """For chunks of this size from now on, or smaller ones where memory runs out; the bytes that they use on a device."""
    with self._lock:
      self.size = size
      while True:
        clock, width = time.perf_counter(), self.width
        options = devices.known_options(cost.effort(self._work * self.size).options)
        try:
          if self._stopping is not None:
            used = self._stopping.compile(width, traced, options)
            self._compiled[self.size] = self._stopping
          else:
            index = jax.ShapeDtypeStruct((width,), np.int32)
            jitted = devices.over_runs(self._runs, self._mesh, True, False, options=options)
            compiled = jitted.lower(index, traced).compile()
            used = devices.bytes_used(compiled)
            self._compiled[self.size] = compiled
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
          self._halve(self.size, error)
        else:
          return used
        finally:
          self.compile_seconds += time.perf_counter() - clock

  def run(self, first: int, num: int, traced: dict[str, Any]) -> Iterator[tuple[int, Metrics]]:
    """(first, metrics) of chunks that cover `num` seeds from `first` on, and no other; smaller ones where memory runs out."""
    end = first + num
    while first < end:
      with self._lock:
        if self.size not in self._compiled:
          self.compile(self.size, traced)
        size, width = self.size, self.width
      try:
        index = devices.place(np.arange(first, first + width, dtype=np.int32), self._mesh)
        found = jax.tree.map(np.asarray, self._compiled[size](index, traced))
      except (jax.errors.JaxRuntimeError, MemoryError) as error:
        self._halve(size, error)
        continue
      metrics = found.metrics() if isinstance(found, Packed) else found
      yield first, {name: np.ascontiguousarray(value[: end - first]) for name, value in metrics.items()}
      first += width

  def _halve(self, size: int, error: Exception) -> None:
    """Goes on with half of a size for which memory ran out; raises any other error, and where one run is too much."""
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
      raise error
    if size == 1:
      raise MemoryError(
        "memory does not suffice for one run: lower num_samples, num_generations or the dimension, "
        "or raise record_every."
      ) from None
    with self._lock:
      self.size = min(self.size, math.ceil(size / 2))
    _log.warning("memory ran out for chunks of %d runs: going on with chunks of %d", size, self.size)


def _run_seeds(run: Traced, seed: int, seed_index: Array, traced: dict[str, Any]) -> Packed:
  """Metrics [chunk, recorded] of the runs `seed_index` of one cell: the program of a sweep."""

  def one(i: Array) -> list[Array]:
    results: list[Array] = jaxpr_as_fun(run.run)(fold_in(new_key(seed), i), *jax.tree.leaves(traced))
    return results

  packed: Packed = jax.tree.unflatten(jax.tree.structure(run.packed), jax.vmap(one)(seed_index))
  return packed


def can_stop(bind: Binding, arguments: dict[str, Any]) -> bool:
  """Whether runs may end when they are absorbed."""
  task, workflow = bind(arguments)
  return workflow.absorbing and prepared(task, workflow).absorbed is not None
