"""What a sweep would do: cells, programs, memory and time, found by tracing alone."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.generation import generation, recorded, start
from collapse_jax.random import new_key
from collapse_jax.refused import Refused
from collapse_jax.sweeps import cost, devices, programs
from collapse_jax.sweeps.dataset import check_table, too_large
from collapse_jax.sweeps.grid import Grid, check_numbers
from collapse_jax.sweeps.job import chosen_driver
from collapse_jax.types import Array, Metrics, Run, TaskSetting

__all__ = ["Plan", "plan"]


class Plan(NamedTuple):
  """What `sweep` would do. Memory in bytes; times of this machine from an empty compilation cache, good to a factor of two.

  `refusals` says why cells cannot run. Programs, memory and times are NaN of the drivers "steps" and "host".
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
    return "\n".join([*lines, *(f"cannot run: {reason}" for reason in self.refusals)])


def plan(
  task: Callable[..., TaskSetting],
  workflows: Any,
  axes: Mapping[str, Sequence[Any]],
  *,
  num_generations: int,
  num_seeds: int,
  driver: str = "auto",
  record_every: int = 1,
  static_axes: Sequence[str] = (),
  shared: Any = None,
) -> Plan:
  """What `sweep` would do, found by tracing alone: nothing of it is compiled or run. Raises as `sweep` does.

  Args:
    task, workflows, axes, num_generations, num_seeds, record_every, static_axes: as of `sweep`.
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
  costs = []  # (cells, nanoseconds of a run, bytes of a run) of each program
  memory = 0.5 * devices.memory_bytes()
  for group in programs.groups(grid, num_generations, static_axes):
    bind = programs.Binding(grid, group[0].cell.workflow, group[0].static)
    work, size = _cost_of_run(bind, group[0].arguments, num_generations, record_every)
    if size > memory:
      for one in group:
        grid.refuse(one.cell, too_large("one run", size, memory))
    else:
      costs.append((len(group), work, size))
  cells = sum(num for num, _, _ in costs)
  compiling, running = cost.seconds(
    sum(num * num_seeds * work for num, work, _ in costs), len(costs), devices.num_workers()
  )
  memory = max(size for _, _, size in costs)
  return _plan(grid, cells, num_generations, num_seeds, len(costs), memory, compiling, running)


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


def _cost_of_run(
  bind: programs.Binding, arguments: dict[str, Any], num_generations: int, record_every: int
) -> tuple[float, float]:
  """(nanoseconds of a reference core, bytes); zeros where task and workflow do not go together."""

  def begin(key: Array, traced: dict[str, Any]) -> Run:
    return start(key, *bind(traced), num_generations)

  def step(evaluate: bool, state: Run, t: Array, traced: dict[str, Any]) -> tuple[Run, Metrics]:
    return generation(*bind(traced), state, t, num_generations=num_generations, evaluate=evaluate)

  try:
    jaxpr, state = jax.make_jaxpr(begin, return_shape=True)(new_key(0), arguments)
    t = jax.ShapeDtypeStruct((), jnp.int32)
    num_recorded = len(recorded(range(1, num_generations + 1), record_every))
    fallbacks = bind(arguments)[1].redrawn
    total = cost.RUN_NS + cost.work(jaxpr, fallbacks)
    total += num_recorded * cost.work_of(functools.partial(step, True), state, t, arguments, fallbacks=fallbacks)
    if num_recorded < num_generations:
      without = cost.work_of(functools.partial(step, False), state, t, arguments, fallbacks=fallbacks)
      total += (num_generations - num_recorded) * without
  except Refused:
    return 0.0, 0.0
  except OverflowError:
    return math.inf, math.inf
  return total, programs.bytes_of(state)
