"""What a sweep would do: cells, programs, memory and time, found by tracing alone."""

import contextlib
import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from collapse_jax.refused import Refused
from collapse_jax.sweeps import cost, devices, programs
from collapse_jax.sweeps.dataset import check_table, too_large
from collapse_jax.sweeps.grid import Grid, check_numbers
from collapse_jax.sweeps.job import Numbers, chosen_driver
from collapse_jax.types import TaskSetting

__all__ = ["Plan", "plan"]


class Plan(NamedTuple):
  """What `sweep` would do. Memory in bytes; times of this machine from an empty compilation cache, good to a factor of two.

  `refusals` says why cells cannot run. Programs, memory and times are NaN of the drivers "steps" and "host". `traced` has each
  program by the first cell that shares it (`programs.Bound.place`); a sweep with the same arguments takes these over.
  """

  cells: int
  cells_refused: int
  runs: int
  fits: int
  programs: float
  memory_of_run: float
  compile_seconds: float
  run_seconds: float
  refusals: tuple[str, ...]
  traced: Mapping[tuple[int, ...], Any] = MappingProxyType({})

  def __str__(self) -> str:
    lines = [
      f"cells: {self.cells}",
      f"cells that cannot run: {self.cells_refused}",
      f"runs: {self.runs}",
      f"fits: {self.fits}",
    ]
    if not math.isnan(self.programs):
      total = cost.text(self.compile_seconds + self.run_seconds)
      lines += [
        f"programs to compile: {self.programs}",
        f"memory of the largest run: {self.memory_of_run / 2**20:.1f} MiB",
        f"time on this machine: about {total} (compiling {cost.text(self.compile_seconds)}, running "
        f"{cost.text(self.run_seconds)}), good to a factor of two",
      ]
    else:
      lines.append("time on this machine: not known; only programs that JAX traces whole (driver scan) can be counted")
    return "\n".join([*lines, *(f"cannot run: {reason}" for reason in self.refusals)])


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
  """Without looking for garbage: tracing makes millions of small objects, most of which stay, and a third of it went there."""
  was = gc.isenabled()
  gc.disable()
  try:
    yield
  finally:
    if was:
      gc.enable()


@_uncollected()
def plan(
  task: Callable[..., TaskSetting],
  workflows: Any,
  axes: Mapping[str, Sequence[Any]],
  *,
  num_generations: int,
  num_seeds: int,
  driver: str = "auto",
  record_every: int = 1,
  warm_start: bool = False,
  static_axes: Sequence[str] = (),
  shared: Any = None,
) -> Plan:
  """What `sweep` would do, found by tracing alone: nothing of it is compiled or run. Raises as `sweep` does.

  Args:
    task, workflows, axes, num_generations, num_seeds, record_every, warm_start, static_axes: as of `sweep`.
    driver: as of `sweep`. Of "steps" and "host" it says how many cells, runs and fits there are, and which cells are refused, but
      not what they cost (`sweeps.memory_per_device` compiles the fits of "steps").
    shared: as of `sweep`.
  """
  devices.check()
  driver = chosen_driver(driver, {"shared": shared})
  num_generations, num_seeds, record_every, _ = check_numbers(num_generations, num_seeds, record_every)
  grid = Grid(task, workflows, axes, shared)
  check_table(math.prod(grid.shape) * num_seeds * max(num_generations // record_every, 1))
  if driver != "scan":
    cells = sum(1 for _ in grid.runnable())
    return _plan(grid, cells, num_generations, num_seeds)
  numbers = Numbers(num_generations, num_seeds, 0, record_every, bool(warm_start))
  found: dict[tuple[int, ...], programs.Traced] = {}
  costs = []  # (cells, nanoseconds of a run, bytes of a run) of each program
  memory = 0.5 * devices.memory_bytes()
  for group in programs.groups(grid, numbers, static_axes, found, memory):
    bind = programs.Binding(grid, group[0].cell.workflow, group[0].static)
    try:
      one = found.get(group[0].place) or programs.traced(bind, group[0].arguments, numbers)
    except Refused:  # task and workflow do not go together
      costs.append((len(group), 0.0, 0.0))
      continue
    found[group[0].place] = one
    work, size = one.work(numbers), one.bytes_per_run
    if size > memory:
      for bound in group:
        grid.refuse(bound.cell, too_large("one run", size, memory))
    else:
      costs.append((len(group), work, size))
  cells, workers = sum(num for num, _, _ in costs), devices.num_workers()
  compiling, running = cost.seconds(
    sum(num * num_seeds * work for num, work, _ in costs),
    sum(cost.effort(work * math.ceil(num_seeds / workers)).compile_seconds for _, work, _ in costs),
    workers,
  )
  memory = max(size for _, _, size in costs)
  known = len(costs), memory, compiling, running
  return _plan(grid, cells, num_generations, num_seeds, *known)._replace(traced=found)


def _plan(
  grid: Grid,
  cells: int,
  num_generations: int,
  num_seeds: int,
  programs: float = math.nan,
  memory: float = math.nan,
  compiling: float = math.nan,
  running: float = math.nan,
) -> Plan:
  runs = cells * num_seeds
  refusals = tuple(sorted({str(reason) for reason in grid.refused.values()}))
  return Plan(cells, len(grid.refused), runs, runs * num_generations, programs, memory, compiling, running, refusals)
