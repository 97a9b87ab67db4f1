"""The driver of tasks that are any Python: a generation at a time, a seed at a time.

What the workflow does (its store, the choice of training data, the update) is jitted; `init`, `fit`, `sample`, `evaluate` and
`fresh` of the task are called with NumPy arrays and concrete keys, and params are any object.
"""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import interrupts
from collapse_jax import store as storage
from collapse_jax.generation import emission, latest, prepared, provenance, role_keys, written
from collapse_jax.random import fold_in, new_key, split
from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices, fingerprint
from collapse_jax.sweeps.checkpoints import Checkpoints, folder_name
from collapse_jax.sweeps.chunks import OtherSweep
from collapse_jax.sweeps.dataset import padded, progress_bar
from collapse_jax.sweeps.grid import Cell, accepted, noted
from collapse_jax.sweeps.job import Failed, Job, Stop
from collapse_jax.types import Array, Context, Data, Metrics, Params, Problem, PyTree, Run, TaskSetting, Workflow
from collapse_jax.vocabulary import is_null

__all__ = ["Programs", "run"]

_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float)


def run(job: Job) -> dict[str, Any]:
  """Computes all cells, runs dealt in turn to the processes, and in each to its threads; attributes of the results."""
  grid = job.grid
  programs: dict[Any, Programs] = {}
  stopped: list[str] = []
  with (
    progress_bar(len(list(grid)) * job.numbers.num_seeds, 0, job.watch.progress) as bar,
    _side_by_side(job.machine.workers) as every,
  ):
    for cell, i, found in every(functools.partial(_outcome, job), _turns(job, programs)):
      interrupts.check()
      if isinstance(found, Refused):
        grid.refuse(cell, found)
      elif found is not None:
        metrics, stop = found
        stopped += [f"{cell}, seed {i}: {stop}"] if stop is not None else []
        if isinstance(stop, Failed):
          grid.failed.setdefault(cell.index, f"seed {i}, {stop}")
        kept = {name: padded(value, range(1, job.results.shape[-1] + 1)) for name, value in metrics.items()}
        job.results.write(cell.index, i, kept)
        bar.update(1)
        job.finished(cell)
  return {
    "compile_seconds": 0.0,  # of the workflow's programs, small beside what runs on the host
    "num_compilations": 3 * len(programs),
    "stopped": devices.joined(stopped),
  }


class _Turn(NamedTuple):
  """A run that this process does: of which cell and seed, and what it is made of."""

  cell: Cell
  i: int
  task: TaskSetting
  workflow: Workflow
  programs: "Programs"


def _turns(job: Job, programs: dict[Any, "Programs"]) -> Iterator[_Turn]:
  """All runs of this process, as they are asked for; programs of workflows are kept, by their kinds."""
  turn = -1
  for cell, task, workflow in job.grid.runnable():
    task = prepared(task, workflow)
    key = _kind(job, cell, task)
    if key not in programs:
      programs[key] = _programs(task, workflow, job.numbers.num_generations)
    for i in range(job.numbers.num_seeds):
      turn += 1
      if turn % jax.process_count() == jax.process_index():
        yield _Turn(cell, i, task, workflow, programs[key])


def _outcome(job: Job, turn: _Turn) -> tuple[Cell, int, tuple[Metrics, Stop | None] | Refused | None]:
  """Cell, seed, and metrics [1, recorded, ...] with what stopped the run early; or why the cell cannot run, None if told."""
  cell, i = turn.cell, turn.i
  if cell.index in job.grid.refused:
    return cell, i, None
  try:
    with noted(cell):
      return cell, i, _Loop(job, *turn).run()
  except OtherSweep:
    raise
  except Refused as error:
    return cell, i, error


@contextlib.contextmanager
def _side_by_side(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
  """A `map` that keeps the order, in as many threads; in this one where that is enough."""
  if workers == 1:
    yield map
    return
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  try:
    yield pool.map
  finally:  # runs of an interrupted sweep are not waited for
    pool.shutdown(wait=False, cancel_futures=True)


class Programs(NamedTuple):
  """What a workflow does, jitted.

  Attributes:
    begin: (task, problem, arrays of it, real) -> store.
    choose: (task, problem, arrays, key of the run, store, t) -> keys of the roles, training data, their youngest batch, size and
      real share.
    update: (task, problem, arrays, key, store, batch, t) -> store.
  """

  begin: "_Jitted"
  choose: "_Jitted"
  update: "_Jitted"


class _CallsPython(Exception):
  """A workflow needs what the task has as Python (`fresh`): its program cannot be jitted."""


def _kind(job: Job, cell: Cell, task: TaskSetting) -> tuple[Any, ...]:
  """What tells programs of workflows apart: where batches are stored as rows, of the task only the numbers of these matter."""
  if task.summary is not None:
    return cell.index
  taken = accepted(job.grid.makers[cell.workflow], cell.values)
  values = [i for axis, i in zip(job.grid.axes, cell.index[1:]) if axis in taken]
  used = None if task.used is None else int(task.used)
  return cell.workflow, tuple(values), task.num_samples, used, task.fresh is None


def _programs(task: TaskSetting, workflow: Workflow, num_generations: int) -> Programs:
  def choose(task: TaskSetting, problem: Problem, key: Array, store: PyTree, t: Array) -> tuple[Any, ...]:
    keys = role_keys(key, t)
    data = workflow.select(task, problem, keys["select"], store, t)
    return keys, data, latest(workflow, store, data), provenance(data)

  def begin(task: TaskSetting, problem: Problem, real: Data) -> PyTree:
    return workflow.init(task, problem, real, num_generations)

  def update(task: TaskSetting, problem: Problem, key: Array, store: PyTree, batch: Data, t: Array) -> PyTree:
    return workflow.update(task, problem, key, store, batch, t)

  return Programs(*(_Jitted(function, task) for function in (begin, choose, update)))


class _Jitted:
  """A function (task, arguments); run as Python where it calls what of the task is Python."""

  def __init__(self, function: Callable[..., Any], task: TaskSetting):
    def calls_python(*_: Any) -> Any:
      raise _CallsPython

    known = task if task.fresh is None else task._replace(fresh=calls_python)
    self._function, self._jitted = function, jax.jit(functools.partial(function, known))

  def __call__(self, task: TaskSetting, problem: Problem, arrays: PyTree, *arguments: Any) -> Any:
    try:
      return self._jitted(arrays, *arguments)
    except _CallsPython:
      return self._function(task, problem, *arguments)

  def name(self, *arguments: Any) -> str:
    """Of what it computes; "" where that is Python."""
    try:
      return fingerprint.of(self._jitted.trace(*arguments).jaxpr)
    except _CallsPython:
      return ""


class _Loop:
  """A run of a cell, generation by generation.

  Attributes:
    store, params: after the generations done; params are None before the first.
    place: generation -> its place among those that are recorded.
    seen: metrics of these.
  """

  def __init__(self, job: Job, cell: Cell, i: int, task: TaskSetting, workflow: Workflow, programs: Programs):
    self.job, self.cell, self.seeds = job, cell, range(i, i + 1)
    self.task, self.workflow, self.programs = task, workflow, programs
    init_key, self.key = split(fold_in(new_key(job.numbers.seed), i))
    self.problem, real = task.init(init_key)
    self.arrays = jax.tree.map(lambda x: x if isinstance(x, _ARRAYS) else None, self.problem)
    self.real = jax.tree.map(np.asarray, real)
    self.store = programs.begin(task, self.problem, self.arrays, self.real)
    table = emission(task, workflow, job.numbers.num_generations)
    if table.counts is not None and any(table.counts):  # each as many as count: nothing here has to be of one shape
      self.nums = list(table.counts)
    else:
      self.nums = [table.num(t) for t in range(1, job.numbers.num_generations + 1)]
    self.params: Any = None
    self.absorbed_at = 0
    self.place = {t: i for i, t in enumerate(job.numbers.recorded)}
    self.seen: list[Metrics] = []

  def run(self) -> tuple[Metrics, Stop | None]:
    """Metrics [1, recorded, ...], and what stopped the run early."""
    watch = self.job.watch
    checkpoints, done = None, 0
    if self.job.saving.directory is not None:
      checkpoints = self._checkpoints()
      done = self._restore(checkpoints)
    try:
      for t in range(1, self.job.numbers.num_generations + 1):
        interrupts.check()
        at = self.place.get(t)  # None: metrics are not asked for
        if t > done:
          batch = self._generation(t, at is not None)
          if watch.on_batch is not None and batch is not None:
            watch.on_batch(self.cell.names, t, self.seeds, jax.tree.map(lambda x: np.asarray(x)[None], batch))
          if checkpoints is not None:
            checkpoints.save(t, self._state(), self._saved_params(), self._stacked())
        if watch.on_metrics is not None and at is not None:
          watch.on_metrics(self.cell.names, t, self.seeds, {name: x[None] for name, x in self.seen[at].items()})
    except Stop as stop:
      return self._stacked() or {"finite": np.zeros((1, 0), bool)}, stop
    return self._stacked(), None

  def _context(self, t: int) -> tuple[dict[str, Any], Context, Metrics]:
    """Keys of the roles, what fit and sample look at, and size and real share of the training data."""
    keys, data, youngest, shares = self.programs.choose(
      self.task, self.problem, self.arrays, self.key, self.store, np.int32(t)
    )
    previous = self.params if self.job.numbers.warm_start else None
    data, youngest, shares = jax.tree.map(np.asarray, (data, youngest, shares))
    num = self.nums[t - 1]
    context = Context(t, num, _pooled(self.task, data), self.real, previous, youngest, self.task.used)
    # A sampler is not asked for no rows: for one, which does not count.
    return keys, context if num else context._replace(num=1, used=0), shares

  def _generation(self, t: int, evaluate: bool) -> Data | None:
    """Goes on by a generation; the batch, or None where there were no training data, and so no model."""
    keys, context, metrics = self._context(t)
    batch = None
    if np.sum(storage.mass(context.data)) > 0:
      self.params = self.task.fit(keys["fit"], self.problem, context)
      batch, sampling = written(self.task, keys["sample"], self.problem, self.params, context)
      if self.task.absorbed is not None and not self.absorbed_at and self.task.absorbed(self.problem, self.params):
        self.absorbed_at = t
      if evaluate:
        judged = self.task.evaluate(keys["evaluate"], self.problem, self.params) | sampling
        self.job.grid.check_metrics(judged)
        metrics |= judged
      stored = batch
      if len(set(self.nums)) > 1 and batch.rows is not None:  # of one shape, so that the update compiles once
        stored = storage.pad(batch, max(self.nums))
      self.store = self.programs.update(
        self.task, self.problem, self.arrays, keys["update"], self.store, stored, np.int32(t)
      )
    elif evaluate:
      metrics = {
        name: np.full_like(x, np.nan) if x.dtype.kind == "f" else x for name, x in self.seen[-1].items()
      } | metrics
    if evaluate:
      metrics = {name: np.asarray(value) for name, value in metrics.items() if name != "finite"}
      told = [value for name, value in metrics.items() if not is_null(name, metrics)]
      metrics["finite"] = np.asarray(all(np.isfinite(value).all() for value in told))
      if self.task.absorbed is not None:
        metrics["collapse_generation"] = np.asarray(self.absorbed_at, np.int32)
      self.seen.append(metrics)
    return batch

  def _stacked(self) -> Metrics:
    return {name: np.stack([one[name] for one in self.seen])[None] for name in self.seen[0]} if self.seen else {}

  def _state(self) -> Run:
    """What is saved: the rest of a run follows from its key."""
    return Run(self.key, None, Data(), self.store, None, jnp.asarray(self.absorbed_at))

  def _saved_params(self) -> Params:
    """Params follow from data and key, unless each fit begins from those before it."""
    if not self.job.numbers.warm_start:
      return None
    if not all(isinstance(leaf, _ARRAYS) for leaf in jax.tree.leaves(self.params)):
      raise Refused(
        "directory cannot keep params of warm-started runs that are no arrays: let fit return a tree of arrays, or leave out "
        "warm_start or directory.",
        argument="directory",
        value=self.job.saving.directory,
        allowed="params that are trees of arrays",
      )
    return jax.tree.map(np.asarray, self.params)

  def _checkpoints(self) -> Checkpoints:
    numbers, saving = self.job.numbers, self.job.saving
    assert saving.directory is not None
    about = {
      **saving.about,
      **fingerprint.made_with(),
      "cell": self.cell.saved_names,
      "seeds": [self.seeds.start, self.seeds.stop],
      **numbers._asdict(),
      "program": self._program(),
      "num_devices": 1,
    }
    del about["num_seeds"]  # seeds may be added
    folder = saving.directory / folder_name(self.cell.saved_names, self.seeds)
    return Checkpoints(folder, saving.keep_all, saving.resume, about)

  def _program(self) -> str:
    """A name for what the workflow computes, how much it has emitted, and the problem and the real data of the run."""
    begin, choose, update = self.programs
    most = max(self.nums)
    rows = jax.tree.map(lambda x: np.zeros((1, most, *x.shape[2:]), x.dtype), self.real.rows)
    batch = self.real if rows is None else storage.same(self.real, rows=rows, row_weight=None, draw=None, latent=None)
    t = np.int32(1)
    code = (
      begin.name(self.arrays, self.real),
      choose.name(self.arrays, self.key, self.store, t),
      update.name(self.arrays, self.key, self.store, batch, t),  # a batch such as the real one
    )
    return " ".join((*code, fingerprint.of_values((self.real, self.arrays, np.asarray(self.nums)))))

  def _restore(self, checkpoints: Checkpoints) -> int:
    """Goes to where the checkpoints end: the number of generations done."""
    like = None
    if checkpoints.any and self.job.numbers.warm_start:  # of the structure that the first fit gives
      keys, context, _ = self._context(1)
      self.params = self.task.fit(keys["fit"], self.problem, context)
      like, self.params = self._saved_params(), None
    done, state, params, metrics = checkpoints.restore(self._state(), like, None)
    if done:
      self.store, self.absorbed_at = state.store, int(state.absorbed_at)
      self.params = params
      num = len([t for t in self.place if t <= done])
      self.seen = [{name: value[0, i] for name, value in metrics.items()} for i in range(num)]
    return done


def _pooled(task: TaskSetting, data: Data) -> Data:
  """The rows that count as one batch of NumPy arrays: nothing in it is padding."""
  if data.rows is None or task.summary is not None:
    return data
  rows, weight = jax.tree.map(np.asarray, storage.flat(data))
  rows = jax.tree.map(lambda x: x[weight > 0][None], rows)
  weight = weight[weight > 0][None]
  once: Any = np.ones(1, np.float32)
  mixed: Any = np.full(1, -1, np.int32)
  return Data(rows, weight, weight.sum(1), once, mixed)
