"""Results of a sweep: arrays that are filled as runs are done, and the Dataset that they become."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices
from collapse_jax.sweeps.grid import Grid, labels
from collapse_jax.types import MetricInfo, Metrics

if TYPE_CHECKING:
  import xarray

__all__ = ["Results", "check_table", "merged", "padded", "progress_bar", "to_dataset", "too_large", "version"]


def check_table(entries: int) -> None:
  """Refuses arrays of results that do not fit."""
  needed = 32.0 * entries
  if needed > devices.memory_bytes():
    raise too_large("the table of results", needed, devices.memory_bytes())


def too_large(what: str, needed: float, memory: float) -> Refused:
  """Of something that needs more bytes than may be used.

  Args:
    what: needs the memory.
    needed, memory: bytes.
  """
  size = f"about {needed / 2**30:.3g} GiB" if needed < math.inf else "more memory than can be counted"
  return Refused(
    f"{what} needs {size} and {memory / 2**30:.3g} GiB may be used: lower num_samples, "
    "num_generations or the dimension, or raise record_every.",
    value=needed,
    allowed=f"{memory:.0f} bytes",
  )


class Results:
  """Arrays [workflow, axes..., seed, generation, ...], made when a metric is first seen, and which runs are in them."""

  def __init__(self, shape: tuple[int, ...]):
    self.shape = shape
    self.values: dict[str, np.ndarray] = {}
    self.done = np.zeros(shape[:-1], bool)

  def write(self, index: tuple[int, ...], first: int, metrics: Metrics) -> int:
    """Puts metrics [seeds, ...] of a cell in place; how many of these runs are new."""
    at: tuple[Any, ...] = (*index, slice(first, min(self.shape[-2], first + len(metrics["finite"]))))
    num = int(np.sum(~self.done[at]))
    for name, value in metrics.items():
      self.put(at, name, value[: at[-1].stop - first])
    return num

  def put(self, at: Any, name: str, value: np.ndarray) -> None:
    """Metrics [runs, generations, ...] of the runs at an index of cells and seeds; cells may differ in the sizes that follow."""
    if name not in self.values:
      empty = False if value.dtype == bool else np.nan
      dtype = bool if value.dtype == bool else np.result_type(value.dtype, np.float32)
      self.values[name] = np.full(self.shape + value.shape[2:], empty, dtype)
    held, own = self.values[name], len(self.shape)
    sizes = tuple(map(max, held.shape[own:], value.shape[2:]))
    self.values[name] = _filled_up(held, held.shape[:own] + sizes)
    self.values[name][at] = _filled_up(value, value.shape[:2] + sizes)
    self.done[at] = True


def _filled_up(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The array in the corner of one of that shape, the rest of which is NaN, or False."""
  if array.shape == shape:
    return array
  whole = np.full(shape, False if array.dtype == bool else np.nan, array.dtype)
  whole[tuple(map(slice, array.shape))] = array
  return whole


def padded(value: np.ndarray, recorded: Sequence[int]) -> np.ndarray:
  """Metrics [runs, generations done, ...] at the generations that are recorded: NaN, or False, where they were not reached."""
  value = value if value.dtype in (bool, np.float64) else value.astype(np.float32)
  missing = np.full((len(value), recorded[-1], *value.shape[2:]), False if value.dtype == bool else np.nan, value.dtype)
  whole = np.concatenate([value, missing], axis=1)
  return whole[:, np.asarray(recorded) - 1]


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


def to_dataset(
  results: Results, grid: Grid, text_axes: Sequence[str], generations: Sequence[int], attributes: Mapping[str, Any]
) -> "xarray.Dataset":
  """The Dataset of a sweep.

  Args:
    results: of all runs.
    grid: which cells they are of.
    text_axes: see `sweep`.
    generations: of which there are metrics.
    attributes: name -> value.
  """
  import xarray

  dims_of_grid = ("workflow", *grid.axes)
  coordinates: dict[str, Any] = {"workflow": list(grid.makers)}
  for name, values in grid.axes.items():
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
  variables: dict[str, tuple[Any, ...]] = {}
  ended = results.values.pop("collapse_generation", None)
  if ended is not None:
    last = np.fmax.reduce(ended, axis=-1)  # of the generations that were reached: a run may have been stopped
    reached = np.asarray(generations, last.dtype)[np.maximum(np.isfinite(ended).sum(axis=-1), 1) - 1]
    about_last = {
      "long_name": "first generation whose model knows one outcome; the last one of the run where censored",
      "units": "1",
    }
    variables["collapse_generation"] = ((*dims_of_grid, "seed"), np.where(last == 0, reached, last), about_last)
    variables["censored"] = (
      (*dims_of_grid, "seed"),
      last == 0,
      {"long_name": "drift had not ended at the last generation"},
    )
  for name, value in results.values.items():
    about = grid.info.get(name, MetricInfo(name.replace("_", " ")))
    extra = about.dims or tuple(f"{name}_{i}" for i in range(value.ndim - len(results.shape)))
    dims = (*dims_of_grid, "seed", "generation", *extra)
    notes = {
      "long_name": about.long_name,
      "units": about.units,
      "worse": about.worse,
      "log_scale": int(about.log_scale),
      "measures": about.measures,
    }
    variables[name] = (dims, value, notes)
  variables["cell_status"] = (dims_of_grid, grid.status.astype(str), {"long_name": "ok, or why the cell cannot run"})
  return xarray.Dataset(variables, coordinates, {"package_version": version(), **attributes})


def progress_bar(total: int, done: int, show: Any) -> Any:
  """Of runs, on standard error.

  Args:
    total, done: runs.
    show: False: nothing is shown; or what several sweeps share, of which only `update(runs)` is called.
  """
  if not isinstance(show, bool):
    show.update(done)
    return contextlib.nullcontext(show)
  from tqdm import tqdm

  return tqdm(total=total, initial=done, unit="run", disable=not show, smoothing=0.05, mininterval=0.5)


def version() -> str:
  """Of this package."""
  from collapse_jax import __version__

  return __version__
