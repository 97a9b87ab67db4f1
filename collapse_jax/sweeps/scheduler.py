"""A grid of hyperparameters x seeds, by one of three drivers; returns an xarray.Dataset.

What is asked for is checked before anything is computed (`grid`), a driver fills arrays of results (`scan_driver`, `steps_driver`,
`host_driver`), and all end in the same Dataset (`dataset`).
"""

import math
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from collapse_jax import interrupts
from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices, expected, fingerprint, host_driver, scan_driver, steps_driver
from collapse_jax.sweeps.dataset import Results, check_table, merged, to_dataset
from collapse_jax.sweeps.grid import COMMON_METRICS, Grid, check_numbers
from collapse_jax.sweeps.job import (
  Job,
  Machine,
  Numbers,
  OnBatch,
  OnCell,
  OnMetrics,
  OnParams,
  Saving,
  Watch,
  chosen_driver,
)
from collapse_jax.types import TaskSetting

if TYPE_CHECKING:
  import xarray

__all__ = ["sweep"]

_UNTRACEABLE = (
  jax.errors.ConcretizationTypeError,
  jax.errors.TracerArrayConversionError,
  jax.errors.TracerIntegerConversionError,
)


@interrupts.kept()
def sweep(
  task: TaskSetting | Callable[..., TaskSetting],
  workflows: Sequence[str] | Mapping[str, Any],
  axes: Mapping[str, Sequence[Any]],
  *,
  num_generations: int,
  num_seeds: int,
  seed: int = 0,
  driver: str = "auto",
  record_every: int = 1,
  warm_start: bool = False,
  shared: Any = None,
  text_axes: Sequence[str] = (),
  static_axes: Sequence[str] = (),
  init_axes: Sequence[str] | None = None,
  primary_metric: str = "",
  mesh: "jax.sharding.Mesh | None" = None,
  chunk_size: int | None = None,
  memory_bytes: float | None = None,
  num_workers: int | None = None,
  directory: Any = None,
  resume: bool = False,
  about: Mapping[str, Any] | None = None,
  keep_all: bool | None = None,
  place: Callable[[Any], Any] | None = None,
  on_cell: OnCell | None = None,
  on_batch: OnBatch | None = None,
  on_params: OnParams | None = None,
  on_metrics: OnMetrics | None = None,
  progress: Any = False,
  traced: Mapping[tuple[int, ...], Any] | None = None,
) -> "xarray.Dataset":
  """Runs every workflow on every cell of a grid for many seeds.

  Runs are split over the devices of `mesh`, and over processes once `jax.distributed` is initialised: each process
  computes its share of the chunks, and all return the whole. A run's numbers depend neither on this nor on chunk_size:
  bit for bit where a device computes chunks of the same size, else up to rounding.

  Three drivers compute the same:
  - "scan": a run is one program, vectorised over seeds. The fastest, for what JAX can trace and fits memory.
  - "steps": a generation is four programs (select, fit, emit, update), vectorised over seeds, with a checkpoint after each:
    for models that take long to fit, such as language models.
  - "host": `init`, `fit`, `sample`, `evaluate` and `fresh` of the task are any Python, which is called with NumPy arrays, seed by
    seed, and params any object. In what the workflow computes from `problem`, leaves that are no arrays are None.

  Args:
    task: a task, or a factory, called with one value of each axis by name. With the driver "scan" floats arrive as tracers, so that
      one compilation serves the whole axis; ints and strings are static, but num_samples is traced where the task draws from the
      exact law. A factory with a parameter `max_samples`, which is no axis and makes tasks with `used`, is given it where the room
      for a larger batch costs less than another compilation: num_samples is then traced too, and at most that. With the others all
      values are static.
    workflows: names as in `workflows.parse` ("replace", "mix(0.2)"), or name -> Workflow, or name -> factory that
      takes some of the axes by name.
    axes: name -> values; each becomes a dimension, also at length 1.
    num_generations: T.
    num_seeds: runs per cell; run i of every cell has the same key, so that cells and workflows are paired, unless a task draws rows
      for some of them and statistics for others without keeping both together (`TaskSetting.rows`).
    seed: of all keys; a run depends on (seed, i) only, not on what else is in the sweep.
    driver: "auto" is steps where an option is given that only this driver has (`shared`, `place`, `on_batch`, `on_params`,
      `on_metrics`, `keep_all`), else scan; never host, which is thousands of times slower and is to be asked for.
    record_every: keep metrics of generation 1 and of multiples of this only.
    warm_start: hand each fit the previous model.
    shared: arrays that all runs read (steps): the factory is called with shared=..., inside a jit, so that a base model's
      parameters are neither a constant of the program nor copied for each run.
    text_axes: axes whose coordinate is text; numbers among them are also in the coordinate NAME_value.
    static_axes: axes whose numbers must not be traced, because they fix a shape or pick a branch; with steps and host
      none are.
    init_axes: axes whose values the task's `init` alone reads (it puts them into its problem): cells along them share all programs
      but that in which runs begin, which else are compiled for each, and their runs are vectorised over together (steps).
    primary_metric: the metric that reports lead with; default the first of the task.
    mesh: devices that share each chunk; default one device (scan).
    chunk_size: runs of a program call on each device; default: what shares the runs among workers and devices, or less
      where memory (as the compiled program reports it) does not suffice. Halved where memory runs out nevertheless. With the driver
      "steps": default all seeds of a cell, and of as many cells along `init_axes` as memory suffices for; below num_seeds, cells
      go one after another.
    memory_bytes: of a device, for all chunks in flight; default half of what the device or the machine has (scan).
    num_workers: threads; default the cores, on an accelerator 1 (scan); or runs side by side in as many threads, default 1 (host).
    directory: what is finished is written there, so that a sweep that was killed can go on: chunks (scan), or after every
      generation the data and metrics of a cell, and the params where runs are warm-started (steps, host); None: nothing is
      written. One sweep at a time may write there.
    resume: go on from what is in `directory`, whatever number of processes wrote it; else it is deleted, which is
      logged. What is damaged or misplaced is computed again. What a program that differs computed, or one under other settings of
      JAX or from other data, is refused; the code of a task that runs on the host cannot be compared, nor that of callbacks
      (`jax.pure_callback`), which are told apart by name only: see `about`.
    about: what else fixes the numbers, JSON values such as versions, by which a refusal can name what differs.
    keep_all: keep the checkpoint of every generation, not only of the last two (steps, host).
    place: puts fitted parameters of a checkpoint on the devices (steps).
    on_cell: called with name -> value of a cell and its metrics [num_seeds, recorded, ...] once all its runs are done; with
      several processes in the first one, at the end.
    on_batch: called with cell, generation, seeds and the batches (leading axis over these seeds), before the checkpoint; not scan.
    on_params: the same with the fitted parameters; steps.
    on_metrics: called with cell, generation, seeds and metrics (leading axis over these seeds); may raise `sweeps.Stop`; not scan.
    progress: show a progress bar on standard error, or print a line for each generation (steps); or anything with `update(runs)`,
      such as a bar that several sweeps share.
    traced: what `sweeps.plan` with the same arguments has as `traced`, which is not traced again (scan).
  Returns:
    a Dataset with dims workflow, the axes, seed, generation and those of vector metrics. Cells that cannot run hold
    NaN, and `cell_status` says why. A cell that was stopped holds NaN from the next generation on, and `attrs["stopped"]` says why;
    so does a run whose task raised `sweeps.Failed`, and there `cell_status` says it too.
  Raises:
    Refused: an argument that cannot be used, nothing to run, no cell can run (the first reason), chunks or checkpoints to resume
      from that another sweep made, a directory that one is writing, or (scan, steps) a task that cannot be traced.
    Exception: any other error of the code of a task or workflow ends the sweep; what is finished is kept.
    MemoryError: a single run does not fit.
    OSError: `directory` cannot be written.
    RuntimeError: this process was forked from one that had used JAX.
  """
  begun = time.perf_counter()
  devices.check()
  options = {
    "mesh": mesh,
    "memory_bytes": memory_bytes,
    "num_workers": num_workers,
    "chunk_size": chunk_size,
    "shared": shared,
    "init_axes": init_axes,
  }
  options |= {"place": place, "keep_all": keep_all or None, "on_batch": on_batch, "on_params": on_params}
  options |= {"on_metrics": on_metrics}
  driver = chosen_driver(driver, options)
  sizes = check_numbers(num_generations, num_seeds, record_every, chunk_size)
  numbers = Numbers(*sizes[:2], operator.index(seed), sizes[2], bool(warm_start))
  grid = Grid(task, workflows, axes, shared)
  generations = numbers.recorded
  shape = (*grid.shape, numbers.num_seeds, len(generations))
  check_table(math.prod(shape))
  cells = ((cell.index, one, workflow) for cell, one, workflow in grid.runnable())
  laws = expected.Laws(cells, grid.shape, numbers.num_generations, numbers.warm_start)
  mesh = devices.local(mesh)
  usual = 1 if driver == "host" else devices.num_workers(mesh)  # any Python need not bear threads
  workers, memory = _agreed(num_workers or usual, memory_bytes or 0.5 * devices.memory_bytes())
  job = Job(
    grid,
    numbers,
    Machine(mesh, workers, memory, sizes[3]),
    Saving(None if directory is None else Path(directory), resume, about or {}, bool(keep_all), place or (lambda x: x)),
    Watch(on_cell, on_batch, on_params, on_metrics, progress, primary_metric),
    Results(shape),
  )
  try:
    if driver == "scan":
      computed = scan_driver.run(job, static_axes, traced or {})
    elif driver == "steps":
      computed = steps_driver.run(job, init_axes or ())
    else:
      computed = host_driver.run(job)
  except _UNTRACEABLE as error:
    if driver == "host":  # the user's own, of a jit of theirs
      raise
    first = str(error).strip().splitlines()[0]
    text = f'the task or a workflow cannot be traced by JAX; driver="host" runs any Python. JAX says: {first}'
    raise Refused(text, argument="driver", value=driver, allowed="host") from error
  results = merged(job.results)
  _agree_on_refusals(grid)
  ok = grid.status == "ok"
  if not results.done[ok].all():
    raise RuntimeError(
      "some runs were computed by no process: processes of one sweep must be given the same arguments."
    )
  if jax.process_count() > 1 and jax.process_index() == 0:
    for cell in grid:
      job.tell(cell, results)
  attributes = {
    "jax_version": jax.__version__,
    "device": devices.name(),
    "driver": driver,
    "wall_seconds": time.perf_counter() - begun,
    "num_processes": jax.process_count(),
    **computed,
    "num_runs": int(ok.sum()) * numbers.num_seeds,
    "seed": numbers.seed,
    "record_every": numbers.record_every,
    **fingerprint.settings(),
    "primary_metric": primary_metric or next((name for name in grid.info if name not in COMMON_METRICS), ""),
  }
  return laws.beside(to_dataset(results, grid, text_axes, generations, attributes))


def _agreed(workers: int, memory: float) -> tuple[int, float]:
  """The least of any process, so that all cut the sweep into the same chunks."""
  everyone = devices.gather({"workers": np.asarray(workers), "memory": np.asarray(memory)})
  return min(int(one["workers"]) for one in everyone), min(float(one["memory"]) for one in everyone)


def _agree_on_refusals(grid: Grid) -> None:
  """A cell that was refused in any process, while it ran there, is refused in all."""
  if jax.process_count() > 1:
    for one in devices.gather({"status": grid.status.astype(str)}):
      for index in zip(*np.nonzero(one["status"] != "ok")):
        grid.refused.setdefault(tuple(map(int, index)), Refused(str(one["status"][index])))
