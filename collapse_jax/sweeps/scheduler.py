"""A grid of hyperparameters x seeds, vectorised over seeds, in chunks that fit memory; returns an xarray.Dataset.

What fixes a shape is static and costs a compilation; everything else is traced, so that one program serves a whole
axis. Programs compile and chunks run side by side in a few threads, which keeps all cores busy.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import math
import operator
import pathlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # noqa: F401  JAX's LAPACK: a limit of threads reaches only what is loaded
from threadpoolctl import threadpool_limits

from collapse_jax import interrupts
from collapse_jax.data import files
from collapse_jax.generation import advance, generation, prepared, recorded, run, start
from collapse_jax.random import new_key
from collapse_jax.refused import Refused
from collapse_jax.sweeps import cost, devices, fingerprint, stopping
from collapse_jax.sweeps.chunks import Chunks, read_object
from collapse_jax.sweeps.grid import (
  COMMON_METRICS,
  accepted,
  check_metrics,
  check_numbers,
  checked_axes,
  labels,
  made,
  task_maker,
  workflow_makers,
)
from collapse_jax.types import MetricInfo, Metrics, TaskSetting, Workflow

if TYPE_CHECKING:
  import xarray

_log = logging.getLogger(__name__)
_EMITTED = "/emitted"  # beside the values of a cell: rows that each model emits, decided on the host
OnCell = Callable[[dict[str, Any], Metrics], None]


@dataclasses.dataclass
class Cell:
  """One point of the grid: where its results go and how its task and workflow are made."""

  index: tuple[int, ...]
  workflow: str
  static: dict[str, Any]
  traced: dict[str, float]


@interrupts.kept()
def sweep(
  task: Callable[..., TaskSetting],
  workflows: Sequence[str] | Mapping[str, Any],
  axes: Mapping[str, Sequence[Any]],
  *,
  num_generations: int,
  num_seeds: int,
  seed: int = 0,
  record_every: int = 1,
  warm_start: bool = False,
  text_axes: Sequence[str] = (),
  static_axes: Sequence[str] = (),
  primary_metric: str = "",
  mesh: "jax.sharding.Mesh | None" = None,
  chunk_size: int | None = None,
  memory_bytes: float | None = None,
  num_workers: int | None = None,
  directory: Any = None,
  resume: bool = False,
  on_cell: OnCell | None = None,
  progress: bool = False,
) -> "xarray.Dataset":
  """Runs every workflow on every cell of a grid for many seeds.

  Runs are split over the devices of `mesh`, and over processes once `jax.distributed` is initialised: each process
  computes its share of the chunks, and all return the whole. A run's numbers depend neither on this nor on chunk_size:
  bit for bit where a device computes chunks of the same size, else up to rounding.

  Args:
    task: a task, or a factory, called with one value of each axis by name. Floats arrive as tracers, so that one compilation serves
      the whole axis; ints and strings are static, but num_samples is traced where the task draws from the exact law.
    workflows: names as in `workflows.parse` ("replace", "mix(0.2)"), or name -> Workflow, or name -> factory that
      takes some of the axes by name.
    axes: name -> values; each becomes a dimension, also at length 1.
    num_generations: T.
    num_seeds: runs per cell; run i of every cell has the same key, so that cells and workflows are paired, unless a task draws rows
      for some of them and statistics for others without keeping both together (`TaskSetting.rows`).
    seed: of all keys; a run depends on (seed, i) only, not on what else is in the sweep.
    record_every: keep metrics of generation 1 and of multiples of this only.
    warm_start: hand each fit the previous model.
    text_axes: axes whose coordinate is text; numbers among them are also in the coordinate NAME_value.
    static_axes: axes whose numbers must not be traced, because they fix a shape or pick a branch.
    primary_metric: the metric that reports lead with; default the first of the task.
    mesh: devices that share each chunk; default one device.
    chunk_size: runs of a program call on each device; default: what shares the runs among workers and devices, or less
      where memory (as the compiled program reports it) does not suffice. Halved where memory runs out nevertheless.
    memory_bytes: of a device, for all chunks in flight; default half of what the device or the machine has.
    num_workers: threads; default the cores, on an accelerator 1.
    directory: finished chunks are written there, so that a sweep that was killed can go on; None: none are written. One
      sweep at a time may write there.
    resume: go on from the chunks in `directory`, whatever number of processes wrote them; else they are deleted, which is
      logged. Damaged or misplaced ones are computed again. What a program that differs computed, or one under other settings of
      JAX or from other data, is refused.
    on_cell: called with name -> value of a cell and its metrics [num_seeds, recorded, ...] once all its runs are done; with
      several processes in the first one, at the end.
    progress: show a progress bar on standard error.
  Returns:
    a Dataset with dims workflow, the axes, seed, generation and those of vector metrics. Cells that cannot run hold
    NaN, and `cell_status` says why.
  Raises:
    ValueError: nothing to run, no cell can run (the first reason), chunks to resume from that another sweep made, or a
      directory that one is writing.
    MemoryError: a single run does not fit.
    OSError: `directory` cannot be written.
    RuntimeError: this process was forked from one that had used JAX.
  """
  begun = time.perf_counter()
  devices.check()
  origin = made_by(task, workflows)
  task = task_maker(task)
  makers = workflow_makers(workflows)
  numbers = check_numbers(num_generations, num_seeds, record_every, chunk_size)
  axes = checked_axes(task, makers, axes)
  (num_generations, num_seeds, record_every, chunk_size), seed = numbers, operator.index(seed)
  status = np.full((len(makers), *map(len, axes.values())), "ok", dtype=object)
  _check_table(status.size * num_seeds * max(num_generations // record_every, 1))
  groups = _group(task, makers, axes, status, num_generations, static_axes)
  if not groups:
    raise Refused(str(status.flat[0]))
  mesh = devices.local(mesh)
  workers, memory = _agreed(num_workers or devices.num_workers(mesh), memory_bytes or 0.5 * devices.memory_bytes())
  generations = recorded(range(1, num_generations + 1), record_every)
  results = Results((*status.shape, num_seeds, len(generations)))
  programs = []
  each = math.ceil(num_seeds / (workers * devices.size(mesh) * jax.process_count()))

  @functools.cache
  def traced(at: int) -> Traced:
    cell = groups[at][0]
    return _traced(task, makers[cell.workflow], cell, num_generations, warm_start, directory is not None)

  def begin() -> Chunks:
    about = {
      "workflows": list(makers),
      "axes": axes,
      "num_generations": num_generations,
      "num_seeds": num_seeds,
      "seed": seed,
      "record_every": record_every,
      "warm_start": warm_start,
      "jax": jax.__version__,
      "collapse_jax": version(),
    } | fingerprint.settings()
    saved = Chunks(directory, about, resume, jax.process_index(), jax.process_count())
    try:
      _restore(saved, results, groups, traced, len(generations))
    except BaseException:
      saved.close()
      raise
    return saved

  def compile_group(at: int):
    cells = groups[at]
    maker, static = makers[cells[0].workflow], cells[0].static
    if all(results.done[cell.index].all() for cell in cells):
      return cells, None, ""
    bind = functools.partial(_bind, task, maker, static)
    try:
      bytes_per_run, name, _ = traced(at)
      if bytes_per_run > memory:
        raise Refused(_too_large("one run", bytes_per_run, memory))
      stops = not warm_start and _can_stop(task, maker, cells[0])
      program = Program(bind, num_generations, seed, record_every, warm_start, stops, mesh, name, tuple(axes))
      fits = max(1, min(each, int(memory / workers / bytes_per_run)))
      if chunk_size:
        program.compile(min(chunk_size, num_seeds), cells[0].traced)
      else:
        program.choose(fits, memory / workers, num_seeds, cells[0].traced)
    except Refused as error:  # task and workflow do not go together: a fact about the cells, not a crash
      return cells, None, str(error)
    except Exception as error:
      error.add_note(f"in a sweep, {_named(cells[0], axes)}")
      raise
    programs.append(program)
    return cells, program, ""

  def run_chunk(program: Program, cell: Cell, first: int, num: int):
    found = []
    for at, metrics in program.run(first, num, jax.tree.map(_scalar, cell.traced)):
      if saved is not None:
        saved.save(cell.index, at, metrics, program.name)
      found.append((at, metrics))
    return cell, found

  def left(cell: Cell, width: int) -> Iterator[tuple[int, int]]:
    """(first seed, number) of what this process has to do: chunks are dealt in turn, without runs that are committed."""
    for first in range(0, num_seeds, width):
      turn = first // width + int(np.ravel_multi_index(cell.index, status.shape))
      if turn % jax.process_count() == jax.process_index():
        seeds = first + np.flatnonzero(~results.done[cell.index][first : first + width])
        parts = np.split(seeds, np.flatnonzero(np.diff(seeds) > 1) + 1)
        yield from ((int(part[0]), len(part)) for part in parts if part.size)

  def finished(cell: Cell):
    if on_cell is not None and results.done[cell.index].all():
      on_cell(_values(cell, axes), {name: value[cell.index] for name, value in results.values.items()})

  alone = jax.process_count() == 1
  num_runs = sum(len(cells) for cells in groups) * num_seeds
  saved = None if directory is None else devices.unanimously(begin)
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  # LAPACK's own threads would only get in the way of these.
  with threadpool_limits(1, "blas"), _progress_bar(num_runs, int(results.done.sum()), progress) as bar:
    pending: set[concurrent.futures.Future] = set()
    compiling: set[concurrent.futures.Future] = set()
    to_compile = iter(range(len(groups)))

    def compile_next():  # one at a time per worker, behind the chunks that are ready to run
      for at in itertools.islice(to_compile, 1):
        future = pool.submit(compile_group, at)
        compiling.add(future)
        pending.add(future)

    try:
      for _ in range(workers):
        compile_next()
      while pending:
        done, pending = concurrent.futures.wait(pending, 1.0, concurrent.futures.FIRST_COMPLETED)
        interrupts.check()
        for future in done:
          if future in compiling:
            cells, program, refusal = future.result()
            for cell in cells:
              if refusal:
                status[cell.index] = refusal
                bar.update(num_seeds)
                continue
              parts = [] if program is None else list(left(cell, program.width))
              pending |= {pool.submit(run_chunk, program, cell, first, num) for first, num in parts}
              if not parts and alone:
                finished(cell)
            compile_next()
          else:
            cell, found = future.result()
            bar.update(sum(results.write(cell.index, first, metrics) for first, metrics in found))
            if alone:
              finished(cell)
    finally:  # without waiting for chunks that run: an interrupted sweep abandons them, and they commit nothing
      pool.shutdown(wait=False, cancel_futures=True)
      if saved is not None:
        saved.close()
  results = merged(results)
  if not results.values:
    raise Refused(str(status.flat[0]))
  if not results.done[status == "ok"].all():
    raise RuntimeError(
      "some runs were computed by no process: processes of one sweep must be given the same arguments."
    )
  if not alone and jax.process_index() == 0:
    for cell in itertools.chain(*groups):
      finished(cell)
  wall = time.perf_counter() - begun
  info = COMMON_METRICS | _metric_info(task, groups)
  sizes = sorted({program.size for program in programs})
  attributes = {
    "jax_version": jax.__version__,
    "device": devices.name(),
    "wall_seconds": wall,
    "num_devices": devices.size(mesh),
    "num_processes": jax.process_count(),
    "chunk_size": sizes[0] if len(sizes) == 1 else ",".join(map(str, sizes)),
    "compile_seconds": float(sum(program.compile_seconds for program in programs)),
    "num_compilations": len(programs),
    "num_runs": int(np.sum(status == "ok")) * num_seeds,
    "seed": seed,
    "record_every": record_every,
    **fingerprint.settings(),
    **origin,
    "primary_metric": primary_metric or next((name for name in info if name not in COMMON_METRICS), ""),
  }
  return to_dataset(results, list(makers), axes, text_axes, generations, status, info, attributes)


def _values(cell: Cell, axes) -> dict[str, Any]:
  return {"workflow": cell.workflow} | {axis: axes[axis][i] for axis, i in zip(axes, cell.index[1:])}


def _named(cell: Cell, axes) -> str:
  return ", ".join(f"{name} {value}" for name, value in _values(cell, axes).items())


def _agreed(workers: int, memory: float) -> tuple[int, float]:
  """The least of any process, so that all cut the sweep into the same chunks."""
  everyone = devices.gather({"workers": np.asarray(workers), "memory": np.asarray(memory)})
  return min(int(one["workers"]) for one in everyone), min(float(one["memory"]) for one in everyone)


class Program:
  """The runs of a group of cells, compiled for one size of chunk, or for a smaller one once memory has run out.

  Attributes:
    size: runs of a call on each device.
    name: tells programs apart, see `fingerprint`.
    compile_seconds: of all sizes together.
  """

  def __init__(
    self,
    bind: Callable[[Any], tuple[TaskSetting, Workflow]],
    num_generations: int,
    seed: int,
    record_every: int,
    warm_start: bool,
    stops: bool,
    mesh,
    name: str = "",
    axes: Sequence[str] = (),
  ):
    self.size, self.compile_seconds, self.name = 0, 0.0, name
    self._mesh, self._lock = mesh, threading.RLock()
    self._compiled: dict[int, Callable[..., Any]] = {}
    self._stopping = stopping.Stopping(bind, num_generations, seed, record_every, mesh) if stops else None
    self._runs = functools.partial(_run_seeds, bind, axes, num_generations, seed, record_every, warm_start)

  @property
  def width(self) -> int:
    """Runs of a call."""
    return self.size * devices.size(self._mesh)

  def choose(self, size: int, memory: float, num_seeds: int, traced) -> None:
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

  def compile(self, size: int, traced) -> float:
    """For chunks of this size from now on, or smaller ones where memory runs out; the bytes that they use on a device."""
    with self._lock:
      self.size = size
      while True:
        clock, width = time.perf_counter(), self.width
        try:
          if self._stopping is not None:
            used = self._stopping.compile(width, traced)
            self._compiled[self.size] = self._stopping
          else:
            index = jax.ShapeDtypeStruct((width,), np.int32)
            compiled = devices.over_runs(self._runs, self._mesh, True, False).lower(index, traced).compile()
            used = devices.bytes_used(compiled)
            self._compiled[self.size] = compiled
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
          self._halve(self.size, error)
        else:
          return used
        finally:
          self.compile_seconds += time.perf_counter() - clock

  def run(self, first: int, num: int, traced) -> Iterator[tuple[int, Metrics]]:
    """(first, metrics) of chunks that cover `num` seeds from `first` on, and no other; smaller ones where memory runs out."""
    end = first + num
    while first < end:
      with self._lock:
        if self.size not in self._compiled:
          self.compile(self.size, traced)
        size, width = self.size, self.width
      try:
        index = devices.place(np.arange(first, first + width, dtype=np.int32), self._mesh)
        metrics = jax.tree.map(np.asarray, self._compiled[size](index, traced))
      except (jax.errors.JaxRuntimeError, MemoryError) as error:
        self._halve(size, error)
        continue
      yield first, {name: value[: end - first] for name, value in metrics.items()}
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


class Plan(NamedTuple):
  """What `sweep` would do. Memory in bytes; times of this machine from an empty compilation cache, good to a factor of two.

  `refusals` says why cells cannot run.
  """

  cells: int
  cells_refused: int
  runs: int
  fits: int
  programs: int
  memory_of_run: float
  compile_seconds: float
  run_seconds: float
  refusals: tuple[str, ...]

  def __str__(self):
    total = cost.text(self.compile_seconds + self.run_seconds)
    lines = [
      f"cells: {self.cells}",
      f"cells that cannot run: {self.cells_refused}",
      f"runs: {self.runs}",
      f"fits: {self.fits}",
      f"programs to compile: {self.programs}",
      f"memory of the largest run: {self.memory_of_run / 2**20:.1f} MiB",
      f"time on this machine: about {total} (compiling {cost.text(self.compile_seconds)}, running "
      f"{cost.text(self.run_seconds)}), good to a factor of two",
    ]
    return "\n".join([*lines, *(f"cannot run: {reason}" for reason in self.refusals)])


def plan(
  task: Callable[..., TaskSetting],
  workflows,
  axes: Mapping[str, Sequence[Any]],
  *,
  num_generations: int,
  num_seeds: int,
  record_every: int = 1,
  static_axes: Sequence[str] = (),
) -> Plan:
  """What `sweep` would do, found by tracing alone: nothing of it is compiled or run. Raises as `sweep` does."""
  devices.check()
  task = task_maker(task)
  makers = workflow_makers(workflows)
  num_generations, num_seeds, record_every, _ = check_numbers(num_generations, num_seeds, record_every)
  axes = checked_axes(task, makers, axes)
  status = np.full((len(makers), *map(len, axes.values())), "ok", dtype=object)
  _check_table(status.size * num_seeds * max(num_generations // record_every, 1))
  traced, groups = [], []
  memory = 0.5 * devices.memory_bytes()
  for group in _group(task, makers, axes, status, num_generations, static_axes):
    one = _cost_of_run(task, makers[group[0].workflow], group[0], num_generations, record_every)
    if one[1] > memory:
      for cell in group:
        status[cell.index] = _too_large("one run", one[1], memory)
    else:
      groups.append(group)
      traced.append(one)
  if not groups:
    raise Refused(str(status.flat[0]))
  cells = sum(map(len, groups))
  work = sum(len(group) * num_seeds * one for group, (one, _) in zip(groups, traced))
  compiling, running = cost.seconds(work, len(groups), devices.num_workers())
  return Plan(
    cells,
    int(np.sum(status != "ok")),
    cells * num_seeds,
    cells * num_seeds * num_generations,
    len(groups),
    max(size for _, size in traced),
    compiling,
    running,
    tuple(sorted({str(reason) for reason in status.flat if reason != "ok"})),
  )


def _cost_of_run(task, maker, cell, num_generations, record_every) -> tuple[float, float]:
  """(nanoseconds of a reference core, bytes); zeros where task and workflow do not go together."""

  def begin(key, traced):
    return start(key, *_bind(task, maker, cell.static, traced), num_generations)

  def step(evaluate, state, t, traced):
    one, workflow = _bind(task, maker, cell.static, traced)
    return generation(one, workflow, state, t, num_generations=num_generations, evaluate=evaluate)

  key, traced = new_key(0), jax.tree.map(_scalar, cell.traced)
  try:
    jaxpr, state = jax.make_jaxpr(begin, return_shape=True)(key, traced)
    t = jax.ShapeDtypeStruct((), jnp.int32)
    num_recorded = len(recorded(range(1, num_generations + 1), record_every))
    fallbacks = _bind(task, maker, cell.static, traced)[1].redrawn
    total = cost.RUN_NS + cost.work(jaxpr, fallbacks)
    total += num_recorded * cost.work_of(functools.partial(step, True), state, t, traced, fallbacks=fallbacks)
    if num_recorded < num_generations:
      without = cost.work_of(functools.partial(step, False), state, t, traced, fallbacks=fallbacks)
      total += (num_generations - num_recorded) * without
  except Refused:
    return 0.0, 0.0
  except OverflowError:
    return math.inf, math.inf
  return total, _bytes_of(state)


def load(directory) -> "xarray.Dataset":
  """Opens the results that a binary or `to_netcdf` left in a directory (or the file itself).

  Raises:
    FileNotFoundError: there are none.
    ValueError: the file is damaged, or no such file; or the config.json beside it is of another run, which was killed while it
      replaced this one's results.
  """
  import h5py
  import xarray

  path = pathlib.Path(directory)
  path = path / "results.nc" if path.is_dir() else path
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; run an experiment with --output_dir={directory} first.")
  size = files.check_regular(path)
  try:
    with h5py.File(path) as file:
      file.attrs.get(
        "_nc3_strict"
      )  # where that fails, h5netcdf leaves an object behind that complains when it is deleted
      claimed: list[int] = []
      file.visititems(
        lambda name, one: claimed.append(one.size * one.dtype.itemsize) if isinstance(one, h5py.Dataset) else None
      )
    if sum(claimed) > 1100 * size + files.MIB:  # zlib makes nothing smaller than that
      raise Refused("its arrays are larger than such a file can hold")
    results = xarray.load_dataset(path, engine="h5netcdf")
  except Exception as error:  # whatever HDF5 finds
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise Refused(f"{files.shown(path)} cannot be read as results: {files.shown(reason).rstrip('.')}.") from None
  depth = len(pathlib.PurePath(str(results.attrs.get("experiment", ""))).parts)
  above = path.resolve().parents
  config = above[min(depth, len(above) - 1)] / "config.json"
  mine = theirs = results.attrs.get("config_id")
  with contextlib.suppress(OSError, ValueError):  # there is none, or it is somebody else's
    theirs = read_object(config).get("id", mine) if config.is_file() else mine
  if mine is not None and mine != theirs:
    raise Refused(
      f"{path} and {config} are of two runs, one of which was killed while it replaced the other; give --resume."
    )
  return results


def _run_seeds(bind, axes, num_generations, seed, record_every, warm_start, seed_index, traced):
  """Metrics [chunk, T] of the runs `seed_index` of one cell: the program of a sweep."""
  one_task, workflow = bind(traced)
  one = lambda i: run(
    jax.random.fold_in(new_key(seed), i),
    one_task,
    workflow,
    num_generations,
    warm_start=warm_start,
    record_every=record_every,
  )
  metrics = jax.vmap(one)(seed_index)
  check_metrics(metrics.keys() - COMMON_METRICS.keys(), axes)
  return metrics


def _bind(task, maker, static, traced) -> tuple[TaskSetting, Workflow]:
  values = _plain(static | traced)
  workflow = maker(**accepted(maker, values))
  if _EMITTED in static or _EMITTED in traced:
    num = traced.get(_EMITTED)  # None: num_samples
    workflow = workflow._replace(emit=lambda n, t: n if num is None else num)
  return task(**accepted(task, values)), workflow


def _plain(values):
  """Those of axes."""
  return {name: value for name, value in values.items() if name != _EMITTED}


def _can_stop(task, maker, cell: Cell) -> bool:
  one, workflow = _bind(task, maker, cell.static, cell.traced)
  return workflow.absorbing and prepared(one, workflow).absorbed is not None


def made_by(task, workflows) -> dict[str, str]:
  """Attributes by which theory knows what a name stands for: the factory of the tasks, if it is one that has a name, and the
  names that a user gave to workflows of their own."""
  factory = f"{getattr(task, '__module__', '')}.{getattr(task, '__qualname__', '')}"
  own = list(workflows) if isinstance(workflows, Mapping) else []
  return {"task_factory": factory, "own_workflows": json.dumps(own)}


def _emitted(workflow: Workflow, num_samples, num_generations: int):
  """The number of rows that every model emits; None where it is not the same in all generations."""
  num = workflow.emit(num_samples, 1)
  return num if all(workflow.emit(num_samples, t) == num for t in range(2, num_generations + 1)) else None


def _runs(task, maker, cell: Cell, num_generations: int) -> bool:
  """Whether task and workflow go together, found by tracing."""
  one = lambda key, traced: run(key, *_bind(task, maker, cell.static, traced), num_generations)
  try:
    jax.eval_shape(one, jax.random.key(0), jax.tree.map(_scalar, cell.traced))
  except ValueError:
    return False
  return True


def _group(task, makers, axes, status, num_generations: int, static_axes=()) -> list[list[Cell]]:
  """Cells that share a program, the costly ones (by their static numbers) first; refusals go into `status`."""
  groups: dict[tuple, list[Cell]] = {}
  whole = set()  # cells whose models emit num_samples rows
  for w, (name, maker) in enumerate(makers.items()):
    for at in itertools.product(*(range(len(values)) for values in axes.values())):
      values = {axis: axes[axis][i] for axis, i in zip(axes, at)}
      try:
        one, workflow = made(task, maker, values, axes)
        one = prepared(one, workflow)
      except Refused as error:
        status[(w, *at)] = str(error)
        continue
      in_task, in_workflow = accepted(task, values), accepted(maker, values)
      traced = {
        axis
        for axis, value in values.items()
        if axis not in static_axes and _traceable(axis, value, one.rows is not None, axis in in_workflow)
      }
      if "num_samples" in traced and not _takes_traced(task, in_task, "num_samples"):
        traced.remove("num_samples")
      static = {axis: value for axis, value in values.items() if axis not in traced}
      numbers = {axis: float(values[axis]) for axis in sorted(traced)}
      if "num_samples" in traced or any(
        axis in traced for axis in in_workflow
      ):  # else the workflow emits a static number
        num = _emitted(workflow, one.num_samples, num_generations)
        numbers |= {} if num is None else {_EMITTED: float(num)}
        whole |= {(w, *at)} if num == one.num_samples else set()
      cell = Cell((w, *at), name, static, numbers)
      fixed = tuple(i for axis, i in zip(axes, at) if axis in static)  # values need not be hashable
      groups.setdefault((name, fixed, tuple(numbers), one.rows is not None), []).append(cell)
  for key, cells in list(groups.items()):
    same, others = ([cell for cell in cells if (cell.index in whole) == wanted] for wanted in (True, False))
    if same and not (
      others and _runs(task, makers[key[0]], others[0], num_generations)
    ):  # a fact that the task may need to know
      for cell in same:
        del cell.traced[_EMITTED]
        cell.static[_EMITTED] = None
      groups[key] = same
      groups |= {(*key, _EMITTED): others} if others else {}
  size = lambda cells: math.prod(v for v in cells[0].static.values() if isinstance(v, int) and v > 0)
  return sorted(groups.values(), key=size, reverse=True)


def _takes_traced(task, values, axis) -> bool:
  """Whether a factory takes a tracer for this axis; a design matrix, say, fixes its rows also under an exact law."""

  def make(x):
    task(**values | {axis: x})
    return x

  try:
    jax.eval_shape(make, jax.ShapeDtypeStruct((), np.float32))
  except (TypeError, ValueError):
    return False
  return True


def _traceable(axis, value, law, in_workflow) -> bool:
  if axis == "num_samples":
    return law
  if isinstance(value, bool | str) or not isinstance(value, float | np.floating):
    return False
  return law or not in_workflow  # a workflow's number decides how many rows are emitted


class Traced(NamedTuple):
  """Of a cell's program: bytes of a run, a name of what it computes ("" where none is asked for), and metrics of a run [2, ...].

  Bytes are a generous estimate: the store twice (it may be copied once), and a few batches.
  """

  bytes_per_run: float
  name: str
  metrics: dict[str, jax.ShapeDtypeStruct]


def _traced(task, maker, cell, num_generations, warm_start, named: bool) -> Traced:
  def begin(key, traced):
    return start(key, *_bind(task, maker, cell.static, traced), num_generations)

  def go_on(state, traced):  # two generations, for the first of a warm-started run differs from all others
    return advance(
      *_bind(task, maker, cell.static, traced),
      state,
      range(1, min(num_generations, 2) + 1),
      num_generations=num_generations,
      warm_start=warm_start,
    )

  traced = jax.tree.map(_scalar, cell.traced)
  try:
    first, state = jax.make_jaxpr(begin, return_shape=True)(new_key(0), traced)
    if not named:
      return Traced(_bytes_of(state), "", {})
    going_on, (_, metrics) = jax.make_jaxpr(go_on, return_shape=True)(state, traced)
    return Traced(_bytes_of(state), fingerprint.of(first, going_on), metrics)
  except OverflowError:  # rows are counted in int32
    return Traced(math.inf, "", {})


def _restore(
  saved: Chunks, results: "Results", groups: list[list[Cell]], traced: Callable[[int], Traced], num_recorded: int
) -> None:
  """Reads what is committed; a ValueError where it was computed by a program that is not the cell's."""
  group_of = {cell.index: at for at, cells in enumerate(groups) for cell in cells}
  grid = set(np.ndindex(*results.shape[:-2]))

  def expected(index, first, num):
    if index not in grid or first + num > results.shape[-2]:
      return None
    with contextlib.suppress(Refused):  # what cannot be traced did not compute this
      mine = traced(group_of[index]) if index in group_of else Traced(0.0, "", {})
      return mine.name or None, {
        name: ((num, num_recorded, *one.shape[1:]), one.dtype) for name, one in mine.metrics.items()
      }
    return None, {}

  for one in saved.saved(expected):
    results.write(one.cell, one.first, one.metrics)


def _bytes_of(shapes) -> float:
  size = lambda tree: sum(math.prod(x.shape) * 4 for x in jax.tree.leaves(tree))
  return 2.0 * size(shapes.store) + 8.0 * size((shapes.problem, shapes.real)) + 65536


def _check_table(entries: int) -> None:
  needed = 32.0 * entries
  if needed > devices.memory_bytes():
    raise Refused(_too_large("the table of results", needed, devices.memory_bytes()))


def _too_large(what, needed, memory) -> str:
  size = f"about {needed / 2**30:.3g} GiB" if needed < math.inf else "more memory than can be counted"
  return (
    f"{what} needs {size} and {memory / 2**30:.3g} GiB may be used: lower num_samples, "
    "num_generations or the dimension, or raise record_every."
  )


def _scalar(value):
  return jnp.asarray(value, float)


def _metric_info(task, groups) -> dict[str, MetricInfo]:
  info: dict[str, MetricInfo] = {}
  for cells in groups:
    values = _plain(cells[0].static | cells[0].traced)
    for name, one in task(**accepted(task, values)).metrics.items():
      info.setdefault(name, one)
  return info


class Results:
  """Arrays [workflow, axes..., seed, generation, ...], made when a metric is first seen, and which runs are in them."""

  def __init__(self, shape):
    self.shape = shape
    self.values: dict[str, np.ndarray] = {}
    self.done = np.zeros(shape[:-1], bool)

  def write(self, index, first, metrics) -> int:
    """Puts metrics [seeds, ...] of a cell in place; how many of these runs are new."""
    at = (*index, slice(first, min(self.shape[-2], first + len(metrics["finite"]))))
    num = int(np.sum(~self.done[at]))
    for name, value in metrics.items():
      self.put(at, name, value[: at[-1].stop - first])
    return num

  def put(self, at, name, value) -> None:
    """Metrics [runs, ...] of the runs at an index of cells and seeds."""
    if name not in self.values:
      empty = False if value.dtype == bool else np.nan
      dtype = bool if value.dtype == bool else np.result_type(value.dtype, np.float32)
      self.values[name] = np.full(self.shape + value.shape[2:], empty, dtype)
    self.values[name][at] = value
    self.done[at] = True


def merged(results: Results) -> Results:
  """What all processes have computed; the same object where there is one.

  A run that several have (all read what is committed) is handed in by the first of them.
  """
  if jax.process_count() == 1:
    return results
  taken, shares = np.zeros_like(results.done), []
  for one in devices.gather({"done": results.done}):
    shares.append(one["done"] & ~taken)
    taken |= one["done"]
  mine = shares[jax.process_index()]
  whole = Results(results.shape)
  for share, one in zip(shares, devices.gather({name: value[mine] for name, value in results.values.items()})):
    for name, value in one.items():
      whole.put(share, name, value)
  return whole


def to_dataset(results, workflow_names, axes, text_axes, generations, status, info, attributes):
  import xarray

  grid = ("workflow", *axes)
  coordinates: dict[str, Any] = {"workflow": workflow_names}
  for name, values in axes.items():
    numeric = [isinstance(value, int | float | np.generic) for value in values]
    if name in text_axes or not all(numeric):
      coordinates[name] = labels(values)
      if any(numeric):
        coordinates[f"{name}_value"] = (
          name,
          [float(value) if is_number else np.nan for value, is_number in zip(values, numeric)],
        )
    else:
      coordinates[name] = values
  coordinates |= {"seed": np.arange(results.shape[-2]), "generation": np.asarray(generations)}
  variables = {}
  ended = results.values.pop("collapse_generation", None)
  if ended is not None:
    last = ended[..., -1]
    about_last = {
      "long_name": "first generation whose model knows one outcome; the last one where censored",
      "units": "1",
    }
    variables["collapse_generation"] = ((*grid, "seed"), np.where(last == 0, generations[-1], last), about_last)
    variables["censored"] = ((*grid, "seed"), last == 0, {"long_name": "drift had not ended at the last generation"})
  for name, value in results.values.items():
    about = info.get(name, MetricInfo(name.replace("_", " ")))
    extra = about.dims or tuple(f"{name}_{i}" for i in range(value.ndim - len(results.shape)))
    dims = (*grid, "seed", "generation", *extra)
    notes = {
      "long_name": about.long_name,
      "units": about.units,
      "worse": about.worse,
      "log_scale": int(about.log_scale),
      "measures": about.measures,
    }
    variables[name] = (dims, value, notes)
  variables["cell_status"] = (grid, status.astype(str), {"long_name": "ok, or why the cell cannot run"})
  return xarray.Dataset(variables, coordinates, {"package_version": version(), **attributes})


def _progress_bar(total, done, show):
  from tqdm import tqdm

  return tqdm(total=total, initial=done, unit="run", disable=not show, smoothing=0.05, mininterval=0.5)


def version() -> str:
  from collapse_jax import __version__

  return __version__
