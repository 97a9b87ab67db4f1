"""The driver of models too large to scan: a generation at a time, checkpointed.

Runs of a cell are vectorised over seeds. A generation is four programs (select, fit, emit, update), and rows are pooled to
one shape whatever the workflow, so that the costly ones compile once for all workflows.
"""

import functools
import math
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


def run(job: Job, init_axes: Sequence[str] = ()) -> dict[str, Any]:
  """Computes all cells; attributes of the results.

  Cells that differ along `init_axes` only share the costly programs. Cells are dealt in turn to the processes, unless what is
  shared is split over all of them: then all go through every cell.
  """
  grid, numbers = job.grid, job.numbers
  num_seeds = numbers.num_seeds
  chunk = min(job.machine.chunk_size or num_seeds, num_seeds)
  starts = range(0, num_seeds, chunk)
  together = devices.are_of_all_processes(grid.shared)
  num_hands, mine = (1, 0) if together else (jax.process_count(), jax.process_index())
  each = numbers.num_generations * math.ceil(len(starts) / num_hands)  # steps of a cell in a process
  clock = Clock(numbers.num_generations * math.ceil(math.prod(grid.shape) * len(starts) / num_hands))
  about = _about(job)
  costly: dict[Any, Any] = {}
  stopped: list[str] = []
  turn = -1
  for cell, task, workflow in grid.runnable():
    make = functools.partial(_task, grid, cell.values, workflow)
    try:
      with noted(cell):
        jax.eval_shape(lambda key, s: start(key, make(s), workflow, numbers.num_generations), new_key(0), grid.shared)  # noqa: B023
        counts = emission(prepared(task, workflow), workflow, numbers.num_generations).counts
        place = tuple(i for name, i in zip(grid.axes, cell.index[1:]) if name not in init_axes)
        key = place, cell.workflow if counts is None else counts
        if key not in costly:
          costly[key] = _costly_programs(make, workflow, numbers.num_generations, grid.shared)
        programs = _programs(make, workflow, numbers, grid.shared, *costly[key])
        for first in starts:
          turn += 1
          if turn % num_hands == mine:
            seeds = range(first, min(first + chunk, num_seeds))
            metrics, reason = _run_cell(job, programs, cell, seeds, about, clock)
            stopped += [reason] if reason else []
            kept = {name: padded(value, numbers.recorded) for name, value in metrics.items()}
            job.results.write(cell.index, first, kept)
    except OtherSweep:
      raise
    except Refused as error:
      grid.refuse(cell, error)
      clock.num_left -= each
      continue
    job.finished(cell)
  return {
    "compile_seconds": clock.compiling,
    "num_compilations": clock.num_compilations,
    "stopped": devices.joined(stopped if not together or jax.process_index() == 0 else []),
  }


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
    if name in self._kept:
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

  def begin(shared: PyTree, seeds: Array) -> Run:
    one = lambda i: start(fold_in(new_key(numbers.seed), i), make(shared), workflow, num_generations)
    return jax.vmap(one)(seeds)

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
  return Programs(whole(begin), whole(choose), fit, evaluate_and_emit, whole(update, donate_argnums=1))


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
  runs = jax.eval_shape(programs.begin, shared, jax.ShapeDtypeStruct((num_seeds,), jnp.int32))
  contexts, _ = jax.eval_shape(programs.choose, shared, runs, jnp.asarray(1))
  contexts = contexts._replace(t=jax.ShapeDtypeStruct((), jnp.int32))
  fitting = programs.fit.lower(shared, runs.key, runs.problem, contexts, None).compile()
  params = jax.eval_shape(programs.fit, shared, runs.key, runs.problem, contexts, None)
  params = jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), params, fitting.output_shardings
  )
  sampling = programs.evaluate_and_emit.lower(shared, runs.key, runs.problem, params, contexts, None).compile()
  return {"fit": devices.bytes_used(fitting), "sample": devices.bytes_used(sampling)}


def _axes(context: Any) -> Any:
  """Generation and number of rows are the same for all runs."""
  return context._replace(t=None, num=None, data=0, real=0, previous=0, latest=0)


def _run_cell(
  job: Job, programs: Programs, cell: Cell, seeds: range, about: Mapping[str, Any], clock: Clock
) -> tuple[Metrics, str]:
  """All generations of some runs of a cell: metrics [seeds, generations done, ...], and why it stopped early or ""."""
  shared, numbers, watch = job.grid.shared, job.numbers, job.watch
  warm_start = numbers.warm_start
  runs, params = clock.call(programs.begin, shared, jnp.asarray(seeds)), None
  done, reason, checkpoints = 0, "", None
  together = devices.are_of_all_processes(shared)
  is_first = not together or jax.process_index() == 0
  seen: list[Metrics] = []
  if job.saving.directory is not None:
    program, params_like, metrics_like = _traced(programs, shared, runs, seeds, warm_start)
    about = dict(about) | {
      "cell": cell.saved_names,
      "seeds": [seeds.start, seeds.stop],
      "num_generations": numbers.num_generations,
      "seed": numbers.seed,
      "warm_start": warm_start,
      "shapes": [list(x.shape) for x in jax.tree.leaves(runs)],
      "program": program,
      "num_devices": devices.size(devices.mesh_of_arrays(shared)),
    }
    folder = job.saving.directory / folder_name(cell.saved_names, seeds)
    checkpoints = Checkpoints(folder, job.saving.keep_all, job.saving.resume, about, together)
    done, runs, params, metrics = checkpoints.restore(runs, params_like if warm_start else None, metrics_like)
    params = job.saving.place(params) if done and warm_start else None
    seen = [jax.tree.map(lambda x: x[:, i], metrics) for i in range(done)]  # noqa: B023
  try:
    clock.num_left -= done
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
        runs = clock.call(programs.update, shared, runs, batches, at)
        measured = settled(metrics | shares)
        job.grid.check_metrics(measured.keys() - {"collapse_generation", *shares})
        seen.append(_checked(measured, seen[-1] if seen else {}))
        if watch.on_batch is not None and is_first:
          watch.on_batch(cell.names, t, seeds, jax.tree.map(np.asarray, batches))
        if watch.on_params is not None:
          watch.on_params(cell.names, t, seeds, params)
        if checkpoints is not None:
          checkpoints.save(t, runs, params, _stacked(seen))
        pace = clock.step()
        if watch.progress:
          _report(cell, seeds, t, seen[-1], watch.primary_metric, pace)
      if watch.on_metrics is not None:
        watch.on_metrics(cell.names, t, seeds, seen[t - 1])
  except Stop as stop:
    clock.num_left -= numbers.num_generations - len(seen)
    reason = f"{cell}: {stop}"
  return _stacked(seen), reason


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
