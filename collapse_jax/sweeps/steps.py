"""The loop for models too large, or too irregular, to scan: a generation at a time, checkpointed, over the same grid.

Runs of a cell are vectorised over seeds. A generation is four programs (select, fit, emit, update), and rows are pooled to
one shape whatever the workflow, so that the costly ones compile once for all workflows.
"""

import contextlib
import functools
import json
import logging
import math
import re
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import interrupts, vocabulary
from collapse_jax import store as storage
from collapse_jax.generation import assess, context_of, emit, prepared, provenance, role_keys, start, with_health
from collapse_jax.generation import fit as fitted
from collapse_jax.random import PRNG, new_key
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks, cost, devices, fingerprint
from collapse_jax.sweeps.grid import (
  COMMON_METRICS,
  accepted,
  check_numbers,
  checked_axes,
  made,
  task_maker,
  workflow_makers,
)
from collapse_jax.sweeps.scheduler import (
  Results,
  made_by,
  merged,
  to_dataset,
  version,
)
from collapse_jax.types import Data, MetricInfo, Metrics, Run, TaskSetting, Workflow

if TYPE_CHECKING:
  import xarray

_log = logging.getLogger(__name__)
_FORMAT = 2  # of checkpoints; 1: without a description of themselves
OnBatch = Callable[[dict[str, Any], int, range, Data], None]
OnMetrics = Callable[[dict[str, Any], int, range, Metrics], None]


class Stop(Exception):
  """Raised by `on_metrics` to end a cell early; its message says why and goes into the results."""


@interrupts.kept()
def sweep(
  task: Callable[..., TaskSetting],
  workflows: Sequence[str] | Mapping[str, Any],
  axes: Mapping[str, Sequence[Any]],
  *,
  num_generations: int,
  num_seeds: int,
  seed: int = 0,
  shared: Any = None,
  warm_start: bool = False,
  chunk_size: int | None = None,
  directory: Path | None = None,
  resume: bool = False,
  about: Mapping[str, Any] | None = None,
  keep_all: bool = False,
  place: Callable[[Any], Any] = lambda params: params,
  on_batch: OnBatch | None = None,
  on_metrics: OnMetrics | None = None,
  primary_metric: str = "",
  text_axes: Sequence[str] = (),
  progress: bool = False,
) -> "xarray.Dataset":
  """`collapse_jax.sweep` with a host loop over generations.

  Once `jax.distributed` is initialised, cells and chunks of seeds are dealt to the processes, and all return the whole.

  Args:
    task: factory, called with one value of each axis and, where `shared` is given, with shared=...; inside a jit, so that
      what is shared (a base model's parameters) is neither a constant of the program nor copied for each run.
    workflows, axes, num_generations, num_seeds, seed, warm_start, primary_metric, text_axes: as there; all values of axes
      are static.
    shared: arrays that all runs read.
    chunk_size: seeds in one program; default all.
    directory: checkpoints of data, params and metrics go there after every generation, and the two newest of a cell stay, so that
      there is a whole one whenever the machine stops; None: none are written.
    resume: go on from the checkpoints in `directory`; else they are deleted, which is logged. A resumed sweep ends with the numbers
      of an uninterrupted one. What was computed by a program that differs, or from other data, is refused.
    about: what else fixes the numbers, JSON values, by which a refusal can name what differs.
    place: puts fitted parameters of a checkpoint on the devices.
    keep_all: keep the checkpoint of every generation, not only of the last two.
    on_batch: called with cell, generation, seeds and the batches (leading axis over these seeds), before the checkpoint.
    on_metrics: called with cell, generation, seeds and metrics (leading axis over these seeds); may raise `Stop`.
    progress: print a line for each generation.
  Returns:
    a Dataset as `collapse_jax.sweep` gives; a cell that was stopped holds NaN from the next generation on, and
    `attrs["stopped"]` says why.
  Raises:
    ValueError: nothing to run, no cell can run, or checkpoints that belong to another sweep.
  """
  begun = time.perf_counter()
  devices.check()
  makers = workflow_makers(workflows)
  task = task_maker(task)
  axes = checked_axes(task, makers, axes, () if shared is None else ("shared",))
  num_generations, num_seeds, _, chunk_size = check_numbers(num_generations, num_seeds, 1, chunk_size)
  status = np.full((len(makers), *map(len, axes.values())), "ok", dtype=object)
  results = Results((*status.shape, num_seeds, num_generations))
  info: dict[str, MetricInfo] = dict(COMMON_METRICS)
  stopped, turn = [], -1
  chunk = min(chunk_size or num_seeds, num_seeds)
  clock = Clock(math.ceil(status.size * math.ceil(num_seeds / chunk) / jax.process_count()) * num_generations)
  programs: dict[Any, Any] = {}
  about = (
    {**(about or {}), "jax": jax.__version__, "collapse_jax": version()} | fingerprint.settings() if directory else {}
  )
  if directory is not None and shared is not None:
    about["shared"] = fingerprint.of_values(shared)
  for index in np.ndindex(*status.shape):
    name = list(makers)[index[0]]
    values = {axis: axes[axis][i] for axis, i in zip(axes, index[1:])}
    make = functools.partial(_make, task, values)
    try:
      one, workflow = made(task, makers[name], values | ({} if shared is None else {"shared": shared}), axes)
      one = prepared(one, workflow)
      jax.eval_shape(lambda key, s: start(key, make(s), workflow, num_generations), new_key(0), shared)  # noqa: B023
    except Refused as error:
      status[index] = str(error)
      clock.num_left -= math.ceil(num_seeds / chunk / jax.process_count()) * num_generations
      continue
    info |= {key: about for key, about in one.metrics.items() if key not in info}
    cell = {"workflow": name, **values}
    nums = {workflow.emit(one.num_samples, t) for t in range(1, num_generations + 1)}
    program = (index[1:], one.rows is not None, name if len(nums) > 1 else nums.copy().pop())
    if program not in programs:
      lifted = functools.partial(_prepared, make, workflow)
      programs[program] = _programs(lifted, workflow, max(nums), num_generations)
    for first in range(0, num_seeds, chunk):
      turn += 1
      if turn % jax.process_count() != jax.process_index():
        continue
      seeds = range(first, min(first + chunk, num_seeds))
      folder = None if directory is None else Path(directory) / _folder(cell, seeds)
      metrics, reason = _run_cell(
        make,
        workflow,
        programs[program],
        shared,
        cell,
        seeds,
        num_generations,
        seed,
        warm_start,
        folder,
        resume,
        about,
        keep_all,
        place,
        on_batch,
        on_metrics,
        primary_metric,
        clock,
        progress,
      )
      stopped += [reason] if reason else []
      results.write(index, first, {name: _padded(value, num_generations) for name, value in metrics.items()})
  results = merged(results)
  if not results.values:
    raise Refused(str(status.flat[0]))
  everywhere = devices.gather({"stopped": np.frombuffer("; ".join(stopped).encode(), np.uint8)})
  stopped = [one["stopped"].tobytes().decode() for one in everywhere if one["stopped"].size]
  attributes = {
    "jax_version": jax.__version__,
    "device": devices.name(),
    "wall_seconds": time.perf_counter() - begun,
    "num_processes": jax.process_count(),
    "compile_seconds": clock.compiling,
    "num_compilations": clock.num_compilations,
    "num_runs": int(np.sum(status == "ok")) * num_seeds,
    "seed": seed,
    "record_every": 1,
    "stopped": "; ".join(stopped),
    **fingerprint.settings(),
    **made_by(task, workflows),
    "primary_metric": primary_metric or next((name for name in info if name not in COMMON_METRICS), ""),
  }
  generations = list(range(1, num_generations + 1))
  return to_dataset(results, list(makers), axes, text_axes, generations, status, info, attributes)


class Clock:
  """Seconds of steps of about equal size, with those of compiling apart.

  Args:
    num_left: steps, all in all.
  """

  def __init__(self, num_left: int):
    self.num_left, self.compiling, self.num_compilations = num_left, 0.0, 0
    self._num_done, self._running = 0, 0.0
    self.start()

  def start(self) -> None:
    """Of a step."""
    self._begun, self._compiled = time.perf_counter(), self.compiling

  def call(self, program, *arguments):
    before = program._cache_size()
    clock = time.perf_counter()
    out = program(*arguments)
    if program._cache_size() > before:  # dispatch is asynchronous: the time of a first call is that of compiling
      self.compiling += time.perf_counter() - clock
      self.num_compilations += 1
    return out

  def step(self) -> str:
    """Ends a step: how long it was, and how long those that are left will take at the mean pace."""
    wall = time.perf_counter() - self._begun
    self._running += wall - (self.compiling - self._compiled)
    self.num_left, self._num_done = self.num_left - 1, self._num_done + 1
    return f"{wall:.1f} s, about {cost.text(self.num_left * self._running / self._num_done)} left"


def _make(task, values, shared):
  return task(**accepted(task, values)) if shared is None else task(shared=shared, **accepted(task, values))


def _prepared(make, workflow, shared):
  return prepared(make(shared), workflow)


def _programs(make, workflow: Workflow, num: int, num_generations: int):
  """The costly programs, which do not depend on how a workflow stores data: fit, and evaluate with sampling."""

  def fit(shared, keys, problems, contexts, previous):
    one = lambda key, problem, context, old: fitted(make(shared), key, problem, context._replace(num=num, previous=old))
    return jax.vmap(one, in_axes=(0, 0, _axes(contexts), 0))(keys, problems, contexts, previous)

  def evaluate_and_emit(shared, keys, problems, params, contexts):
    task = make(shared)

    def one(key, problem, params, context):
      run = Run(key, problem, context.real, None, None)
      batch, sampling = emit(task, workflow, run, params, context._replace(num=num), num_generations=num_generations)
      return batch, assess(task, role_keys(key, context.t)["evaluate"], problem, params, sampling, context)

    return jax.vmap(one, in_axes=(0, 0, 0, _axes(contexts)))(keys, problems, params, contexts)

  return jax.jit(fit), jax.jit(evaluate_and_emit)


def _cheap_programs(make, workflow: Workflow, num_generations, seed):
  """The other programs: begin runs, choose training data, update the store."""

  def begin(shared, seeds):
    one = lambda i: start(jax.random.fold_in(new_key(seed), i), make(shared), workflow, num_generations)
    return jax.vmap(one)(seeds)

  def choose(shared, runs, t):
    task = _prepared(make, workflow, shared)

    def one(run):
      context = context_of(task, workflow, run, t, num_generations=num_generations)
      latest = None if context.data.rows is None else storage.latest(context.data)
      pooled = _pooled(task, context.data, num_generations)
      return context._replace(t=None, num=None, data=pooled, previous=None, latest=latest), provenance(context.data)

    return jax.vmap(one)(runs)

  def update(shared, runs, batches, t):
    task = _prepared(make, workflow, shared)

    def one(run, batch):
      keys = role_keys(run.key, t)
      return run._replace(store=workflow.update(task, run.problem, keys["update"], run.store, batch, t))

    return jax.vmap(one)(runs, batches)

  return begin, choose, update


def memory_per_device(
  task: Callable[..., TaskSetting],
  workflow: str,
  values: Mapping[str, Any],
  *,
  num_generations: int,
  num_seeds: int,
  shared: Any,
) -> dict[str, float]:
  """Bytes that fitting, and sampling with evaluation, take on each device: compiled from shapes, nothing is allocated.

  Args:
    task, num_generations, shared: as in `sweep`; of `shared`, shapes (with shardings) suffice.
    workflow, values: of the cell.
    num_seeds: in one program.
  """
  maker = workflow_makers([workflow])[workflow]
  flow = maker(**accepted(maker, values))
  make = functools.partial(_make, task, dict(values))
  num = max(flow.emit(_prepared(make, flow, shared).num_samples, t) for t in range(1, num_generations + 1))
  fit, evaluate_and_emit = _programs(functools.partial(_prepared, make, flow), flow, num, num_generations)
  begin, choose, _ = _cheap_programs(make, flow, num_generations, 0)
  runs = jax.eval_shape(begin, shared, jax.ShapeDtypeStruct((num_seeds,), jnp.int32))
  contexts, _ = jax.eval_shape(choose, shared, runs, jnp.asarray(1))
  contexts = contexts._replace(t=jax.ShapeDtypeStruct((), jnp.int32))
  fitting = fit.lower(shared, runs.key, runs.problem, contexts, None).compile()
  params = jax.eval_shape(fit, shared, runs.key, runs.problem, contexts, None)
  params = jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), params, fitting.output_shardings
  )
  sampling = evaluate_and_emit.lower(shared, runs.key, runs.problem, params, contexts).compile()
  return {"fit": devices.bytes_used(fitting), "sample": devices.bytes_used(sampling)}


def _axes(context):
  """Generation and number of rows are the same for all runs."""
  return context._replace(t=None, num=None, data=0, real=0, previous=0, latest=0)


def _run_cell(
  make,
  workflow: Workflow,
  programs,
  shared,
  cell,
  seeds: range,
  num_generations,
  seed,
  warm_start,
  folder,
  resume,
  about,
  keep_all,
  place,
  on_batch,
  on_metrics,
  primary,
  clock,
  progress,
) -> tuple[Metrics, str]:
  """All generations of some runs of one cell: metrics [seeds, generations done, ...], and why it stopped early or ""."""
  fit, evaluate_and_emit = programs
  begin, choose, update = _cheap_programs(make, workflow, num_generations, seed)

  begin, choose, update = jax.jit(begin), jax.jit(choose), jax.jit(update)
  runs, params, seen = clock.call(begin, shared, jnp.asarray(seeds)), None, []
  done, reason, checkpoints = 0, "", None
  if folder is not None:
    program, params_like, metrics_like = _traced(
      begin, choose, fit, evaluate_and_emit, update, shared, runs, seeds, warm_start
    )
    about = dict(about) | {
      "cell": cell,
      "seeds": [seeds.start, seeds.stop],
      "num_generations": num_generations,
      "seed": seed,
      "warm_start": warm_start,
      "shapes": [list(x.shape) for x in jax.tree.leaves(runs)],
      "program": program,
      "num_devices": _num_devices(shared),
    }
    checkpoints = _Checkpoints(folder, keep_all, resume, about)
    done, runs, params, metrics = checkpoints.restore(runs, params_like if warm_start else None, metrics_like)
    params = place(params) if done and warm_start else None
    seen = [jax.tree.map(lambda x: x[:, i], metrics) for i in range(done)]  # noqa: B023
  try:
    clock.num_left -= done
    for t in range(1, num_generations + 1):
      clock.start()
      interrupts.check()
      if t > done:
        at = jnp.asarray(t, jnp.int32)
        contexts, shares = clock.call(choose, shared, runs, at)
        contexts = contexts._replace(t=at)
        keys = jax.vmap(lambda key: role_keys(key, t)["fit"])(runs.key)  # noqa: B023
        params = clock.call(fit, shared, keys, runs.problem, contexts, params if warm_start else None)
        batches, metrics = clock.call(evaluate_and_emit, shared, runs.key, runs.problem, params, contexts)
        runs = clock.call(update, shared, runs, batches, at)
        seen.append(_checked(jax.tree.map(np.asarray, metrics | shares)))
        if on_batch is not None:
          on_batch(cell, t, seeds, jax.tree.map(np.asarray, batches))
        if checkpoints is not None:
          checkpoints.save(t, runs, params, _stacked(seen))
        pace = clock.step()
        if progress:
          _report(cell, seeds, t, seen[-1], primary, pace)
      if on_metrics is not None:
        on_metrics(cell, t, seeds, seen[t - 1])
  except Stop as stop:
    clock.num_left -= num_generations - len(seen)
    reason = f"{', '.join(f'{name} {value}' for name, value in cell.items())}: {stop}"
  return _stacked(seen), reason


def _traced(begin, choose, fit, evaluate_and_emit, update, shared, runs, seeds: range, warm_start: bool):
  """A name for what the programs of a cell compute; shapes of params; shapes of the metrics of a generation [seeds, ...].

  What is traced here is not traced again where it is called.
  """
  t = jax.ShapeDtypeStruct((), jnp.int32)
  traces = [begin.trace(shared, jnp.asarray(seeds)), choose.trace(shared, runs, t)]
  contexts, shares = traces[-1].out_info
  contexts = contexts._replace(t=t)
  keys = jax.eval_shape(jax.vmap(lambda key: role_keys(key, 1)["fit"]), runs.key)
  traces.append(fit.trace(shared, keys, runs.problem, contexts, None))
  params = traces[-1].out_info
  if warm_start:
    traces.append(fit.trace(shared, keys, runs.problem, contexts, params))
  traces.append(evaluate_and_emit.trace(shared, runs.key, runs.problem, params, contexts))
  batches, metrics = traces[-1].out_info
  traces.append(update.trace(shared, runs, batches, t))
  metrics = jax.eval_shape(jax.vmap(with_health), metrics | shares)
  return fingerprint.of(*(one.jaxpr for one in traces)), params, metrics


def _num_devices(shared) -> int:
  """Over which what is shared is split."""
  return max(
    (len(leaf.sharding.device_set) for leaf in jax.tree.leaves(shared) if isinstance(leaf, jax.Array)), default=1
  )


def _checked(metrics: Metrics) -> Metrics:
  """Adds `finite`, a run's own."""
  return jax.tree.map(np.asarray, jax.vmap(with_health)(metrics))


def _pooled(task, data: Data, num_generations: int) -> Data:
  """All rows of a generation as one batch of a capacity that no workflow exceeds, so that `fit` compiles once for all."""
  if data.rows is None or task.summary is not None:
    return data
  rows, weight = storage.flat(data)
  spare = max(num_generations * task.num_samples - weight.shape[0], 0)
  pad = lambda x: jnp.pad(x, [(0, spare)] + [(0, 0)] * (x.ndim - 1))[None]
  return Data(jax.tree.map(pad, rows), pad(weight), jnp.sum(weight)[None], jnp.ones(1), jnp.full(1, -1, jnp.int32))


def _stacked(seen: list[Metrics]) -> Metrics:
  return jax.tree.map(lambda *x: np.stack(x, axis=1), *seen)


def _padded(value, num_generations):
  """Generations that were not reached: NaN, or False."""
  missing = num_generations - value.shape[1]
  empty = False if value.dtype == bool else np.nan
  value = value if value.dtype == bool else value.astype(np.float32)
  return np.concatenate([value, np.full((value.shape[0], missing, *value.shape[2:]), empty, value.dtype)], axis=1)


def _folder(cell, seeds: range) -> str:
  label = ",".join(f"{name}={value}" for name, value in cell.items())
  return vocabulary.file_name(f"{label},seeds={seeds.start}-{seeds.stop - 1}")


def _report(cell, seeds, t, metrics, primary, pace):
  first = primary if primary in metrics else None
  value = "" if first is None else f"{first} {np.mean(metrics[first]):.4g}, "
  print(
    f"  {', '.join(f'{k} {v}' for k, v in cell.items())}, seeds {seeds.start} to {seeds.stop - 1}, generation {t}: "
    f"{value}{pace}",
    flush=True,
  )


class _Checkpoints:
  """Run, params and metrics after each generation, in a file for each: an .npz, whose arrays have names and checksums.

  One of them, `about`, says of which sweep, cell, seeds and generation it is: a file in another's place is as good as damaged.

  Raises:
    ValueError: checkpoints to resume from were made by another sweep.
    OSError: they cannot be written, or read.
  """

  def __init__(self, folder: Path, keep_all: bool, resume: bool, about: dict[str, Any]):
    self._folder, self._keep_all = Path(folder), keep_all
    self._about = json.loads(json.dumps({"checkpoint_format": _FORMAT, **about}, default=str))
    chunks.make_folder(self._folder)
    for part in self._folder.glob("*.part"):
      part.unlink()
    named, found = self._folder / "run.json", False
    if resume:
      found = self._is_named(named)
    elif self._files() or named.exists():
      _log.warning("%d checkpoints of an earlier sweep in %s are deleted", len(self._files()), self._folder)
      for file in (*self._files().values(), named):
        file.unlink(missing_ok=True)
    if not found:
      chunks.write(named, json.dumps(self._about).encode())

  def _is_named(self, named: Path) -> bool:
    """Whether a file says what the checkpoints are. A ValueError where it, or else a checkpoint, says that they are not ours."""
    theirs = None
    try:
      theirs = chunks.read_object(named) if named.exists() else None
    except ValueError as error:
      _log.warning("%s Checkpoints beside it say what they are.", error)
    found = theirs is not None
    for _, file in () if found else self._newest_first():
      with contextlib.suppress(Exception), np.load(file, allow_pickle=False) as arrays:
        theirs = _description(arrays)
        del theirs["t"]
        break
    if theirs is not None:
      chunks.check_same(_fixed(theirs), _fixed(self._about), f"the checkpoints in {self._folder} were made")
      if theirs.get("program") != self._about.get("program"):
        if theirs.get("num_devices") == self._about.get("num_devices"):
          raise Refused(
            f"resume: the checkpoints in {self._folder} were made by another task or workflow, or from other data."
          )
        _log.warning(
          "%s: whether code is the same cannot be told, for its programs are split over another number of devices",
          self._folder,
        )
    return found

  def _files(self) -> dict[int, Path]:
    return {int(file.stem): file for file in self._folder.glob("*.npz") if re.fullmatch(r"[1-9]\d{0,9}", file.stem)}

  def _newest_first(self) -> list[tuple[int, Path]]:
    return sorted(self._files().items(), reverse=True)

  def save(self, t: int, run: Run, params, metrics: Metrics) -> None:
    """Older ones go, but for the last, once this one is durable."""
    about = np.frombuffer(json.dumps(self._about | {"t": t}).encode(), np.uint8)
    leaves = {"about": about} | _named({"run": _plain(run), "params": params, "metrics": metrics})

    def into(file):  # one array at a time is copied from the devices
      with zipfile.ZipFile(file, "w") as archive:
        for name, leaf in leaves.items():
          with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.asarray(leaf), allow_pickle=False)

    older = [file for at, file in self._newest_first() if at < t]
    chunks.write(self._folder / f"{t}.npz", into)
    chunks.discard(() if self._keep_all else older[1:], self._folder / f"{t}.npz")

  def restore(self, run: Run, params, metrics: Metrics) -> tuple[int, Run, Any, Metrics]:
    """The newest generation that is whole (0: none is), and its run, params and metrics [seeds, generation, ...].

    Args:
      run, params: of the structure, shapes and dtypes that are to be found; params may be None, to leave them out.
      metrics: the same, of one generation.
    """
    for t, file in self._newest_first():
      like = {
        "run": _plain(run),
        "params": params,
        "metrics": {name: jax.ShapeDtypeStruct((x.shape[0], t, *x.shape[1:]), x.dtype) for name, x in metrics.items()},
      }
      try:
        with np.load(file, allow_pickle=False) as arrays:
          if arrays.zip.testzip() is not None:  # arrays that are not read here are looked at too
            raise Refused("a checksum is wrong")
          if _fixed(_description(arrays)) != _fixed(self._about) | {"t": t}:
            raise Refused("it belongs elsewhere")
          found = jax.tree.unflatten(
            jax.tree.structure(like), [_of_kind(arrays[name], x) for name, x in _named(like).items()]
          )
      except Exception as error:  # damage has as many names as a zip file has fields
        if isinstance(error, MemoryError) or getattr(error, "filename", None):  # that is the machine's
          raise
        _log.warning("%s is damaged (%s): what came after the checkpoint before it is computed again", file, error)
        file.unlink()
        continue
      run = jax.tree.map(jnp.asarray, found["run"])
      return t, run._replace(key=jax.random.wrap_key_data(run.key, impl=PRNG)), found["params"], found["metrics"]
    return 0, run, None, {}


def _description(arrays) -> dict[str, Any]:
  return dict(json.loads(arrays["about"].tobytes()))


def _fixed(about: Mapping[str, Any]) -> dict[str, Any]:
  """What must be equal; programs are compared where they can be."""
  return {name: value for name, value in about.items() if name not in ("program", "num_devices")}


def _named(tree) -> dict[str, Any]:
  """Its leaves, by names such as run/problem/weights."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _of_kind(value: np.ndarray, like) -> np.ndarray:
  """The array, as of the expected dtype: files do not know all of JAX's."""
  if value.shape != like.shape or value.dtype not in (like.dtype, np.dtype(f"V{np.dtype(like.dtype).itemsize}")):
    raise Refused(f"it holds {value.dtype}{value.shape}, not {like.dtype}{like.shape}")
  return value.view(like.dtype)


def _plain(run: Run) -> Run:
  return run._replace(key=jax.random.key_data(run.key))
