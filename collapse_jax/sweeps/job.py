"""What the drivers of a sweep are given: the grid and what they share, in groups of what travels together."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from collapse_jax.generation import recorded
from collapse_jax.refused import Refused
from collapse_jax.sweeps.dataset import Results
from collapse_jax.sweeps.grid import Cell, Grid
from collapse_jax.types import Data, Metrics, Params

if TYPE_CHECKING:
  from jax.sharding import Mesh

__all__ = [
  "Failed",
  "Job",
  "Machine",
  "Numbers",
  "OnBatch",
  "OnCell",
  "OnMetrics",
  "OnParams",
  "Saving",
  "Stop",
  "Watch",
  "chosen_driver",
]

OnCell = Callable[[dict[str, Any], Metrics], None]
OnBatch = Callable[[dict[str, Any], int, range, Data], None]
OnMetrics = Callable[[dict[str, Any], int, range, Metrics], None]
OnParams = Callable[[dict[str, Any], int, range, Params], None]


class Stop(Exception):
  """Raised by `on_metrics` to end the runs of a cell early; its message says why and goes into the results."""


class Failed(Stop):
  """Raised by a task on the host to end its run: the cell's status says why, what the run has measured stays, the rest goes on."""


class Numbers(NamedTuple):
  """What fixes the runs of a cell, beside its task and workflow; see `sweep`."""

  num_generations: int
  num_seeds: int
  seed: int
  record_every: int
  warm_start: bool

  @property
  def recorded(self) -> list[int]:
    """Generations of which metrics are kept."""
    return recorded(range(1, self.num_generations + 1), self.record_every)


class Machine(NamedTuple):
  """What runs may use: devices, threads, bytes for all chunks in flight, and runs of a program (None: what fits)."""

  mesh: "Mesh | None"
  workers: int
  memory: float
  chunk_size: int | None


class Saving(NamedTuple):
  """Where and how what is finished is kept; see `sweep`."""

  directory: Path | None
  resume: bool
  about: Mapping[str, Any]
  keep_all: bool
  place: Callable[[Any], Any]


class Watch(NamedTuple):
  """Who looks on; see `sweep`."""

  on_cell: OnCell | None
  on_batch: OnBatch | None
  on_params: OnParams | None
  on_metrics: OnMetrics | None
  progress: Any
  primary_metric: str


@dataclasses.dataclass(frozen=True)
class Job:
  """A sweep as its driver sees it, which fills `results` and refuses cells of `grid`."""

  grid: Grid
  numbers: Numbers
  machine: Machine
  saving: Saving
  watch: Watch
  results: Results

  def finished(self, cell: Cell) -> None:
    """To be called where runs of a cell are done: tells of it once all are, unless other processes have some of them."""
    if jax.process_count() == 1 and self.results.done[cell.index].all():
      self.tell(cell, self.results)

  def tell(self, cell: Cell, results: Results) -> None:
    if self.watch.on_cell is not None:
      self.watch.on_cell(cell.names, {name: value[cell.index] for name, value in results.values.items()})


DRIVERS = ("scan", "steps", "host")
# Options that not all drivers have.
_OPTIONS = {
  "mesh": ("scan",),
  "memory_bytes": ("scan",),
  "num_workers": ("scan", "host"),
  "chunk_size": ("scan", "steps"),
  "shared": ("steps",),
  "init_axes": ("steps",),
  "place": ("steps",),
  "keep_all": ("steps", "host"),
  "on_batch": ("steps", "host"),
  "on_params": ("steps",),
  "on_metrics": ("steps", "host"),
}


def chosen_driver(driver: str, options: Mapping[str, Any]) -> str:
  """The driver that is asked for; "auto" is the first but host that has the options that are given (not None).

  Raises:
    Refused: no such driver, or one that has not these options.
  """
  if driver not in ("auto", *DRIVERS):
    raise Refused(
      f"driver must be one of auto, {', '.join(DRIVERS)}, got {driver!r}.",
      argument="driver",
      value=driver,
      allowed=", ".join(("auto", *DRIVERS)),
    )
  given = [name for name, value in options.items() if value is not None and name in _OPTIONS]
  for one in DRIVERS[:2] if driver == "auto" else (driver,):
    lacking = [name for name in given if one not in _OPTIONS[name]]
    if not lacking:
      return one
  drivers = " or ".join(f'driver="{one}"' for one in _OPTIONS[lacking[0]])
  other = f', not for driver="{driver}"' if driver != "auto" else f": {', '.join(given)} do not go together"
  raise Refused(
    f"{lacking[0]} is for {drivers}{other}.", argument=lacking[0], value=options[lacking[0]], allowed=drivers
  )
