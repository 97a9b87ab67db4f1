"""The driver of models too large to scan: a generation at a time, checkpointed.

Runs are vectorised over seeds, and over cells that differ in what `init` reads alone. A generation is four programs (select, fit,
emit, update), and rows are pooled to one shape whatever the workflow, so that the costly ones compile once for all workflows.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from collapse_jax import interrupts
from collapse_jax import store as storage
from collapse_jax.generation import (
  assess,
  context_of,
  emission,
  emit,
  in_program,
  prepared,
  provenance,
  role_keys,
  settled,
  start,
  with_health,
)
from collapse_jax.generation import fit as fitted
from collapse_jax.random import fold_in, new_key
from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices, fingerprint
from collapse_jax.sweeps.checkpoints import Checkpoints, folder_name
from collapse_jax.sweeps.chunks import OtherSweep
from collapse_jax.sweeps.cost import Clock
from collapse_jax.sweeps.dataset import padded
from collapse_jax.sweeps.grid import Cell, Grid, noted
from collapse_jax.sweeps.job import Job, Numbers, Stop
from collapse_jax.types import Array, Context, Data, Metrics, Params, Problem, PyTree, Run, TaskSetting, Workflow

__all__ = ["Programs", "memory_per_device", "run"]


class Programs(NamedTuple):
  """Of a generation. All are handed what is `shared`, so that it is a constant of none."""

  begin: Any
  choose: Any
  fit: Any
  evaluate_and_emit: Any
  update: Any


class _Alike(NamedTuple):
  """A cell whose programs others share, and those runs of it that begin in one of its own.

  Attributes:
    make: (shared) -> its task.
    place: along the axes that programs depend on.
    counts: of rows that its models emit, see `store.Emission`.
  """

  cell: Cell
  make: Callable[[Any], TaskSetting]
  workflow: Workflow
  place: tuple[int, ...]
  counts: Any


def run(job: Job, init_axes: Sequence[str] = ()) -> dict[str, Any]:
  """Computes all cells; attributes of the results.

  Cells that differ along `init_axes` only share programs, and all their runs are vectorised over together, as many as memory and
  chunk_size allow. What they share is dealt in turn to the processes, unless what is shared is split over all of them: then all go
  through every cell.
  """
  grid, numbers = job.grid, job.numbers
  num_seeds = numbers.num_seeds
  chunk = min(job.machine.chunk_size or num_seeds, num_seeds)
  together = devices.are_of_all_processes(grid.shared)
  num_hands, mine = (1, 0) if together else (jax.process_count(), jax.process_index())
  batches = [
    (family, cells, width, range(first, min(first + chunk, num_seeds)))
    for family in _families(job, init_axes)
    for cells, width in _side_by_side(family, _most(job, len(family), num_hands))
    for first in range(0, num_seeds, chunk)
  ]
  clock = Clock(numbers.num_generations * math.ceil(len(batches) / num_hands))
  about = _about(job)
  costly: dict[Any, Any] = {}
  shared_by: dict[int, Programs] = {}  # by the first cell of a family
  begins: dict[tuple[int, ...], Any] = {}
  widths: dict[Any, int] = {}
  stopped: list[str] = []
  for turn, (family, cells, width, seeds) in enumerate(batches):
    if turn % num_hands != mine:
      continue
    first = family[0]
    try:
      if id(first) not in shared_by:
        key = first.place, first.cell.workflow if first.counts is None else first.counts
        if key not in costly:
          costly[key] = _costly_programs(first.make, first.workflow, numbers.num_generations, grid.shared)
        shared_by[id(first)] = _programs(first.make, first.workflow, numbers, grid.shared, *costly[key])
      programs = shared_by[id(first)]
      size = id(first), width, len(seeds)
      if size not in widths:
        began = time.perf_counter()
        widths[size] = _fitting(programs, grid.shared, width, len(seeds), job.machine.memory)
        clock.compiling += time.perf_counter() - began
      at_once = widths[size]
      clock.num_left += numbers.num_generations * (math.ceil(len(cells) / at_once) - 1)
      for some in (cells[i : i + at_once] for i in range(0, len(cells), at_once)):
        for one in some:
          if one.cell.index not in begins:
            begins[one.cell.index] = _begin(one.make, one.workflow, numbers, grid.shared)
        parts = [(one.cell, programs._replace(begin=begins[one.cell.index])) for one in some]
        for one, (metrics, reason) in zip(some, _run_cells(job, parts, seeds, at_once, about, clock)):
          stopped += [reason] if reason else []
          kept = {name: padded(value, numbers.recorded) for name, value in metrics.items()}
          job.results.write(one.cell.index, seeds.start, kept)
          job.finished(one.cell)
    except OtherSweep:
      raise
    except Refused as error:
      for one in cells:
        grid.refuse(one.cell, error)
      clock.num_left -= numbers.num_generations
  return {
    "compile_seconds": clock.compiling,
    "num_compilations": clock.num_compilations,
    "stopped": devices.joined(stopped if not together or jax.process_index() == 0 else []),
  }


def _families(job: Job, init_axes: Sequence[str]) -> list[list[_Alike]]:
  """Cells by what their programs are made of; those whose task and workflow do not go together are refused."""
  grid, num_generations = job.grid, job.numbers.num_generations
  found: dict[Any, list[_Alike]] = {}
  for cell, task, workflow in grid.runnable():
    make = functools.partial(_task, grid, cell.values, workflow)
    try:
      with noted(cell):
        jax.eval_shape(lambda key, s: start(key, make(s), workflow, num_generations), new_key(0), grid.shared)  # noqa: B023
        counts = emission(prepared(task, workflow), workflow, num_generations).counts
    except Refused as error:
      grid.refuse(cell, error)
      continue
    place = tuple(i for name, i in zip(grid.axes, cell.index[1:]) if name not in init_axes)
    found.setdefault((cell.workflow, place), []).append(_Alike(cell, make, workflow, place, counts))
  return list(found.values())


def _most(job: Job, num: int, num_hands: int) -> int:
  """Cells of a family of so many that are vectorised over together at most: one where a model is split over devices."""
  if devices.mesh_of_arrays(job.grid.shared) is not None:
    return 1
  chunk_size = job.machine.chunk_size or num * job.numbers.num_seeds
  return max(1, min(math.ceil(num / num_hands), chunk_size // job.numbers.num_seeds))


def _side_by_side(family: list[_Alike], most: int) -> list[tuple[list[_Alike], int]]:
  """Parts of about equal size, and that size, which all have in memory, so that programs compile once."""
  width = math.ceil(len(family) / math.ceil(len(family) / most))
  return [(family[i : i + width], width) for i in range(0, len(family), width)]


def _about(job: Job) -> dict[str, Any]:
  """What fixes the numbers of all cells, for checkpoints."""
  if job.saving.directory is None:
    return {}
  about = {**job.saving.about, **fingerprint.made_with()}
  shared = job.grid.shared
  return about if shared is None else about | {"shared": fingerprint.of_values(shared)}


def _task(grid: Grid, values: Mapping[str, Any], workflow: Workflow, shared: PyTree) -> TaskSetting:
  return prepared(grid.task_of(values, shared), workflow)


def _whole(shared: PyTree) -> Any:
  """Of results that every device has whole: all but fitted parameters, which the task itself splits. None: of a single device."""
  mesh = devices.mesh_of_arrays(shared)
  return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def _costly_programs(
  make: Callable[[Any], TaskSetting], workflow: Workflow, num_generations: int, shared: PyTree
) -> tuple[Any, Any]:
  """The costly programs, which do not depend on how a workflow stores data: fit, and evaluate with sampling."""

  def fit(shared: PyTree, keys: Array, problems: Problem, contexts: Context, previous: Params) -> Params:
    task = make(shared)

    def one(key: Array, problem: Problem, context: Context, previous: Params) -> Params:
      num = emission(task, workflow, num_generations).num(context.t)
      return fitted(task, key, problem, context._replace(num=num, previous=previous))

    return jax.vmap(one, in_axes=(0, 0, _axes(contexts), 0))(keys, problems, contexts, previous)

  def evaluate_and_emit(
    shared: PyTree, keys: Array, problems: Problem, params: Params, contexts: Context, previous: Params
  ) -> tuple[Data, Metrics]:
    task = make(shared)

    def one(key: Array, problem: Problem, params: Params, context: Context, previous: Params) -> tuple[Data, Metrics]:
      context = context._replace(previous=previous)
      run = Run(key, problem, context.real, None, None)
      batch, sampling = emit(task, workflow, run, params, context, num_generations=num_generations)
      metrics = assess(task, role_keys(key, context.t)["evaluate"], problem, params, sampling, context)
      if task.absorbed is not None:  # `_checked` keeps the first
        metrics["collapse_generation"] = jnp.where(task.absorbed(problem, params), context.t, 0)
      return batch, metrics

    return jax.vmap(one, in_axes=(0, 0, 0, _axes(contexts), 0))(keys, problems, params, contexts, previous)

  programs = jax.jit(fit), jax.jit(evaluate_and_emit, out_shardings=_whole(shared))
  if devices.mesh_of_arrays(shared) is not None:
    return programs
  kept = _Kept()
  return _Once(programs[0], 3, kept), _Once(programs[1], 4, kept)


_KEPT_BYTES, _COMPARED_BYTES = 2**26, 2**28


class _Kept(dict[str, Any]):
  """Results by what they are of, and how many bytes more may be kept."""

  left = _KEPT_BYTES


class _Once:
  """A program that is not run again for what it was run for in generation 1, which is the same under all workflows.

  Args:
    program: compiled where it is called.
    context: place of the contexts among its arguments, behind what is shared.
    kept: what programs have given, and they may yet keep.
  """

  def __init__(self, program: Any, context: int, kept: _Kept):
    self._program, self._context, self._kept = program, context, kept

  def __getattr__(self, name: str) -> Any:  # how it is traced, lowered, and how often it was compiled
    return getattr(self._program, name)

  def __call__(self, shared: PyTree, *arguments: Any) -> Any:
    leaves = jax.tree.leaves(arguments)
    traced = any(isinstance(x, jax.core.Tracer) for x in leaves)
    if traced or _size(leaves) > _COMPARED_BYTES or int(arguments[self._context - 1].t) > 1:
      return self._program(shared, *arguments)
    name = f"{self._context} {fingerprint.of_values(arguments)}"  # what is shared is the same in the whole sweep
    if name in self._kept and not any(
      x.is_deleted() for x in jax.tree.leaves(self._kept[name])
    ):  # with a donated store
      return self._kept[name]
    found = self._program(shared, *arguments)
    size = _size(jax.tree.leaves(found))
    if size <= self._kept.left:
      self._kept[name] = found
      self._kept.left -= size
    return found


def _size(leaves: Sequence[Any]) -> int:
  return sum(x.nbytes for x in leaves)


def _programs(
  make: Callable[[Any], TaskSetting],
  workflow: Workflow,
  numbers: Numbers,
  shared: PyTree,
  fit: Any,
  evaluate_and_emit: Any,
) -> Programs:
  """Those of a cell, of which the costly ones are there."""
  num_generations = numbers.num_generations

  def choose(shared: PyTree, runs: Run, t: Array) -> tuple[Context, Metrics]:
    task = make(shared)

    def one(run: Run) -> tuple[Context, Metrics]:
      context = context_of(task, workflow, run, t, num_generations=num_generations)
      pooled = _pooled(task, context.data, num_generations)
      return context._replace(t=None, num=None, data=pooled, previous=None), provenance(context.data)

    return jax.vmap(one)(runs)

  def update(shared: PyTree, runs: Run, batches: Data, t: Array) -> Run:
    task = make(shared)

    def one(run: Run, batch: Data) -> Run:
      keys = role_keys(run.key, t)
      return run._replace(store=workflow.update(task, run.problem, keys["update"], run.store, batch, t))

    return jax.vmap(one)(runs, batches)

  whole = functools.partial(jax.jit, out_shardings=_whole(shared))
  begin = _begin(make, workflow, numbers, shared)
  return Programs(begin, whole(choose), fit, evaluate_and_emit, whole(update, donate_argnums=1))


def _begin(make: Callable[[Any], TaskSetting], workflow: Workflow, numbers: Numbers, shared: PyTree) -> Any:
  """The program of a cell in which its runs begin: (shared, numbers of seeds) -> Run [seeds, ...]."""

  def begin(shared: PyTree, seeds: Array) -> Run:
    one = lambda i: start(fold_in(new_key(numbers.seed), i), make(shared), workflow, numbers.num_generations)
    return jax.vmap(one)(seeds)

  return jax.jit(begin, out_shardings=_whole(shared))


def memory_per_device(
  task: Callable[..., TaskSetting],
  workflows: Any,
  values: Mapping[str, Any],
  *,
  num_generations: int,
  num_seeds: int,
  shared: Any,
) -> dict[str, float]:
  """Bytes that fitting, and sampling with evaluation, take on each device: compiled from shapes, nothing is allocated.

  Args:
    task, num_generations, shared: as in `sweep`; of `shared`, shapes (with shardings) suffice.
    workflows: as in `sweep`; the first counts.
    values: of the axes.
    num_seeds: in one program.
  """
  grid = Grid(task, workflows, {name: [value] for name, value in values.items()}, shared)
  cell, _, flow = next(grid.runnable())
  make = functools.partial(_task, grid, cell.values, flow)
  numbers = Numbers(num_generations, num_seeds, 0, 1, False)
  programs = _programs(make, flow, numbers, shared, *_costly_programs(make, flow, num_generations, shared))
  return _bytes(programs, shared, num_seeds)


def _bytes(programs: Programs, shared: Any, num_runs: int) -> dict[str, float]:
  """That the costly programs of so many runs take on each device, as compiled."""
  runs = jax.eval_shape(programs.begin, shared, jax.ShapeDtypeStruct((num_runs,), jnp.int32))
  contexts, _ = jax.eval_shape(programs.choose, shared, runs, jnp.asarray(1))
  contexts = contexts._replace(t=jax.ShapeDtypeStruct((), jnp.int32))
  fitting = programs.fit.lower(shared, runs.key, runs.problem, contexts, None).compile()
  params = jax.eval_shape(programs.fit, shared, runs.key, runs.problem, contexts, None)
  if (
    devices.mesh_of_arrays(shared) is not None
  ):  # else what is compiled here would be compiled again where it is called
    params = jax.tree.map(
      lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), params, fitting.output_shardings
    )
  sampling = programs.evaluate_and_emit.lower(shared, runs.key, runs.problem, params, contexts, None).compile()
  return {"fit": devices.bytes_used(fitting), "sample": devices.bytes_used(sampling)}


def _fitting(programs: Programs, shared: Any, width: int, num_seeds: int, memory: float) -> int:
  """Cells side by side, at most `width`, whose programs fit memory as compiled; one is not asked."""
  while width > 1 and (used := max(_bytes(programs, shared, width * num_seeds).values())) > memory:
    width = max(1, min(width - 1, int(width * memory / used)))
  return width


def _axes(context: Any) -> Any:
  """Generation and number of rows are the same for all runs."""
  return context._replace(t=None, num=None, data=0, real=0, previous=0, latest=0)


class _Going:
  """Runs of a cell under way.

  Attributes:
    seen: metrics of each generation that is done.
    reason: why they ended early, or "".
    runs, params: as they begin, or as a checkpoint of generation `done` has them.
  """

  def __init__(self, cell: Cell, seeds: range, runs: Run):
    self.cell, self.seeds, self.done, self.reason = cell, seeds, 0, ""
    self.runs: Any = runs
    self._begun: Any = runs
    self.params: Params = None
    self.seen: list[Metrics] = []
    self.checkpoints: Checkpoints | None = None

  def restore(self, params_like: Params, metrics_like: Metrics, place: Callable[[Any], Any]) -> None:
    """Goes on from the newest checkpoint."""
    self._like, self._place = (params_like, metrics_like), place
    self._restore(None)

  def _restore(self, most: int | None) -> None:
    assert self.checkpoints is not None
    self.done, self.runs, params, metrics = self.checkpoints.restore(self._begun, *self._like, most)
    self.params = self._place(params) if self.done and self._like[0] is not None else None
    self.seen = [jax.tree.map(lambda x: x[:, i], metrics) for i in range(self.done)]  # noqa: B023

  def step_back(self) -> None:
    """To the checkpoint of a generation before, if it is there."""
    newest = self.done, self.runs, self.params, self.seen
    self._restore(self.done - 1)
    if self.done != newest[0] - 1:
      self.done, self.runs, self.params, self.seen = newest

  def taken(self) -> tuple[Run, Params]:
    """Its runs and params, of which nothing is kept here."""
    found = self.runs, self.params
    self.runs = self._begun = self.params = None
    return found


def _run_cells(
  job: Job, parts: Sequence[tuple[Cell, Programs]], seeds: range, width: int, about: Mapping[str, Any], clock: Clock
) -> list[tuple[Metrics, str]]:
  """All generations of some runs of some cells, at most `width`, side by side.

  Returns:
    of each cell metrics [seeds, generations done, ...], and why it stopped early or "".
  """
  shared, numbers = job.grid.shared, job.numbers
  cells = []
  for cell, programs in parts:
    cells.append(one := _Going(cell, seeds, clock.call(programs.begin, shared, jnp.asarray(seeds))))
    if job.saving.directory is not None:
      # Its own whatever runs beside it, so that it can be gone on from beside others.
      program, params_like, metrics_like = _traced(programs, shared, one.runs, seeds, numbers.warm_start)
      described = dict(about) | {
        "cell": cell.saved_names,
        "seeds": [seeds.start, seeds.stop],
        "num_generations": numbers.num_generations,
        "seed": numbers.seed,
        "warm_start": numbers.warm_start,
        "shapes": [list(x.shape) for x in jax.tree.leaves(one.runs)],
        "program": program,
        "num_devices": devices.size(devices.mesh_of_arrays(shared)),
      }
      folder = job.saving.directory / folder_name(cell.saved_names, seeds)
      together = devices.are_of_all_processes(shared)
      one.checkpoints = Checkpoints(folder, job.saving.keep_all, job.saving.resume, described, together)
      one.restore(params_like if numbers.warm_start else None, metrics_like, job.saving.place)
  for done in range(numbers.num_generations):
    if any(one.done == done for one in cells):
      for one in cells:
        if one.done == done + 1:  # a kill between two files left it ahead of others: they go on side by side
          one.step_back()
  ways = sorted({one.done for one in cells}, reverse=True)
  clock.num_left += numbers.num_generations * (len(ways) - 1)
  for done in ways:
    _go_on(job, parts[0][1], {i: one for i, one in enumerate(cells) if one.done == done}, width, clock)
  return [(_stacked(one.seen), one.reason) for one in cells]


@functools.partial(jax.jit, static_argnames="num")
def _part(tree: PyTree, first: Array, num: int) -> PyTree:
  """`num` runs of a tree with a leading axis of runs."""
  return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, num), tree)


@jax.jit
def _beside(trees: Sequence[PyTree]) -> PyTree:
  """Trees with leading axes of runs as one."""
  return jax.tree.map(lambda *x: jnp.concatenate(x), *trees)


@jax.jit
def _chosen(tree: PyTree, index: Array) -> PyTree:
  return jax.tree.map(lambda x: x[index], tree)


def _go_on(job: Job, programs: Programs, going: dict[int, _Going], width: int, clock: Clock) -> None:
  """Takes runs of cells that have all done as many generations through the rest, in programs of `width` cells.

  Each keeps its place, which may decide how its numbers are rounded. One that no cell needs (any more) holds a copy of another
  cell's runs, so that nobody waits for it.
  """
  shared, numbers, watch = job.grid.shared, job.numbers, job.watch
  first = next(iter(going.values()))
  num, done, warm_start = len(first.seeds), first.done, numbers.warm_start
  is_first = not devices.are_of_all_processes(shared) or jax.process_index() == 0
  clock.num_left -= done
  begun = {place: one.taken() for place, one in going.items()}
  runs, params = begun[0] if width == 1 else _beside([begun[place] for place in _filled(going, width)])
  del begun
  part = lambda tree, place: tree if width == 1 else _part(tree, place * num, num=num)
  on_host = lambda tree, place: jax.tree.map(lambda x: np.asarray(x)[place * num : (place + 1) * num], tree)
  for t in range(1, numbers.num_generations + 1):
    clock.start()
    interrupts.check()
    if t > done:
      at = jnp.asarray(t, jnp.int32)
      contexts, shares = clock.call(programs.choose, shared, runs, at)
      contexts = contexts._replace(t=at)
      keys = jax.vmap(lambda key: role_keys(key, t)["fit"])(runs.key)  # noqa: B023
      previous = params if warm_start else None
      params = None  # the last model's memory, where it is not gone on from
      params = clock.call(programs.fit, shared, keys, runs.problem, contexts, previous)
      # What calls the host waits for its arguments on a thread; on one core that thread is the one that would compute them.
      jax.block_until_ready((contexts, params))
      batches, metrics = clock.call(
        programs.evaluate_and_emit, shared, runs.key, runs.problem, params, contexts, previous
      )
      written = jax.tree.map(np.asarray, batches) if watch.on_batch is not None and is_first else None
      runs = clock.call(programs.update, shared, runs, batches, at)
      measured = settled(metrics | shares)
      job.grid.check_metrics(measured.keys() - {"collapse_generation", *shares})
      for place, one in going.items():
        one.seen.append(_checked(on_host(measured, place), one.seen[-1] if one.seen else {}))
        if watch.on_batch is not None and is_first:
          watch.on_batch(one.cell.names, t, one.seeds, on_host(written, place))
        if watch.on_params is not None or one.checkpoints is not None:
          its_params = part(params, place)
          if watch.on_params is not None:
            watch.on_params(one.cell.names, t, one.seeds, its_params)
          if one.checkpoints is not None:
            one.checkpoints.save(t, part(runs, place), its_params, _stacked(one.seen))
          del its_params
      pace = clock.step()
      if watch.progress:
        for one in going.values():
          _report(one.cell, one.seeds, t, one.seen[-1], watch.primary_metric, pace)
    before = len(going)
    for place, one in list(going.items()):
      try:
        if watch.on_metrics is not None:
          watch.on_metrics(one.cell.names, t, one.seeds, one.seen[t - 1])
      except Stop as stop:
        one.reason = f"{one.cell}: {stop}"
        del going[place]
    if not going:
      clock.num_left -= numbers.num_generations - max(t, done)
      return
    if t >= done and len(going) < before:
      index = np.add.outer(num * np.asarray(_filled(going, width)), np.arange(num))
      runs, params = _chosen((runs, params if warm_start else None), index.ravel())


def _filled(going: Mapping[int, _Going], width: int) -> list[int]:
  """Whose runs each of `width` places holds: those of its own cell, or of another one."""
  return [place if place in going else next(iter(going)) for place in range(width)]


def _traced(
  programs: Programs, shared: PyTree, runs: Run, seeds: range, warm_start: bool
) -> tuple[str, Params, Metrics]:
  """A name for what the programs of a cell compute; shapes of params; shapes of the metrics of a generation [seeds, ...].

  What is traced here is not traced again where it is called.
  """
  begin, choose, fit, evaluate_and_emit, update = programs
  t = jax.ShapeDtypeStruct((), jnp.int32)
  traces = [begin.trace(shared, jnp.asarray(seeds)), choose.trace(shared, runs, t)]
  contexts, shares = traces[-1].out_info
  contexts = contexts._replace(t=t)
  keys = jax.eval_shape(jax.vmap(lambda key: role_keys(key, 1)["fit"]), runs.key)
  traces.append(fit.trace(shared, keys, runs.problem, contexts, None))
  params = traces[-1].out_info
  if warm_start:
    traces.append(fit.trace(shared, keys, runs.problem, contexts, params))
    traces.append(evaluate_and_emit.trace(shared, runs.key, runs.problem, params, contexts, params))
  traces.append(evaluate_and_emit.trace(shared, runs.key, runs.problem, params, contexts, None))
  batches, metrics = traces[-1].out_info
  traces.append(update.trace(shared, runs, batches, t))
  metrics = jax.eval_shape(jax.vmap(lambda found: with_health(in_program(found))), metrics | shares)
  return fingerprint.of(*(one.jaxpr for one in traces)), params, metrics


def _checked(metrics: Metrics, before: Metrics) -> Metrics:
  """Adds `finite`, a run's own; the generation in which drift ended stays what it was before, once it has."""
  checked: Metrics = jax.tree.map(np.asarray, jax.vmap(with_health)(metrics))
  if "collapse_generation" in before:
    ended = before["collapse_generation"]
    checked["collapse_generation"] = np.where(ended > 0, ended, checked["collapse_generation"])
  return checked


def _pooled(task: TaskSetting, data: Data, num_generations: int) -> Data:
  """All rows of a generation as one batch of a capacity that no workflow exceeds, so that `fit` compiles once for all."""
  if data.rows is None or task.summary is not None:
    return data
  rows, weight = storage.flat(data)
  spare = max(num_generations * task.num_samples - weight.shape[0], 0)
  pad = lambda x: jnp.pad(x, [(0, spare)] + [(0, 0)] * (x.ndim - 1))[None]
  return Data(jax.tree.map(pad, rows), pad(weight), jnp.sum(weight)[None], jnp.ones(1), jnp.full(1, -1, jnp.int32))


def _stacked(seen: list[Metrics]) -> Metrics:
  stacked: Metrics = jax.tree.map(lambda *x: np.stack(x, axis=1), *seen)
  return stacked


def _report(cell: Cell, seeds: range, t: int, metrics: Metrics, primary: str, pace: str) -> None:
  value = f"{primary} {np.mean(metrics[primary]):.4g}, " if primary in metrics else ""
  print(f"  {cell}, seeds {seeds.start} to {seeds.stop - 1}, generation {t}: {value}{pace}", flush=True)
