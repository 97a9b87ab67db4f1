"""What theory says of each cell of a sweep, beside its results: the laws of its task under the schedule of its workflow."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from collapse_jax import theory
from collapse_jax.types import Expected, Number, TaskSetting, Workflow

if TYPE_CHECKING:
  import xarray

__all__ = ["Laws", "schedule_of"]

_log = logging.getLogger(__name__)
MAX_TABLE = 1_000_000  # numbers of a table of shares, also of a workflow that is known by its weights alone
MAX_STEPS = 2e9  # of a law: about what generations x places^2 take a second or two
Cell = tuple[tuple[int, ...], TaskSetting, Workflow]
FIELDS = (  # ending of the variable, field of `Expected`, whether it may change with time, what it is
  ("expected", "mean", True, "{}, expected by theory"),
  ("expected_variance", "variance", True, "variance of {} over runs, by theory"),
  ("expected_least_variance", "least_variance", True, "lower bound of the variance of {} over runs"),
  ("expected_up_to", "up_to", False, "last generation in which means of {} are held against theory"),
  ("limit", "limit", False, "limit of {}, expected by theory"),
)


class Laws:
  """Laws and shares of the cells of a grid, by their index in it.

  Args:
    cells: (index, task, workflow), made from Python numbers.
    shape: of the grid, workflows first.
    num_generations: T.
    warm_start: whether fits see the previous model, of which no law knows.
  Raises:
    ValueError: a task predicts what is no `Expected`, or of other shapes.
  """

  def __init__(self, cells: Iterable[Cell], shape: tuple[int, ...], num_generations: int, warm_start: bool = False):
    self._shape, self._num_generations = shape, num_generations
    self._expected: dict[str, dict[tuple[int, ...], Expected]] = {}
    self._tables: list[np.ndarray] = []
    self._which = np.full(shape, -1)  # of the tables
    self._redrawn = np.zeros(shape, int)  # rows of subsets
    self._rows: dict[tuple[int, ...], np.ndarray] = {}  # of training data, by schedules of which laws are told
    for index, task, workflow in cells:
      schedule = schedule_of(workflow, task.num_samples if task.used is None else task.used, num_generations)
      if schedule is None:
        continue
      if num_generations**2 <= MAX_TABLE:
        self._which[index], self._redrawn[index] = self._table(schedule.weights), schedule.redrawn
      places = 1 if schedule.pooled else int(np.max(schedule.slots)) + 1
      if task.predict is None or warm_start or float(num_generations) * places**2 > MAX_STEPS:
        continue
      if workflow.schedule is not None:  # else the sizes are those that it emits
        self._rows[index] = schedule.rows
      for name, one in task.predict(schedule).items():
        self._expected.setdefault(name, {})[index] = self._checked(name, one)

  def _table(self, weights: np.ndarray) -> int:
    for i, table in enumerate(self._tables):
      if np.array_equal(table, weights):
        return i
    self._tables.append(weights)
    return len(self._tables) - 1

  def _checked(self, name: str, one: Expected) -> Expected:
    if not isinstance(one, Expected):
      raise ValueError(f"predict gives {type(one).__name__} of {name}, where an Expected is asked for.")
    for field in ("up_to", "limit"):
      if np.shape(getattr(one, field)) != ():
        shape = np.shape(getattr(one, field))
        raise ValueError(f"predict gives {field} of {name} with shape {shape}, where a number is asked for.")
    for field in ("mean", "variance", "least_variance"):
      value = getattr(one, field)
      if value is not None and np.shape(value) not in ((), (self._num_generations,)):
        raise ValueError(
          f"predict gives {field} of {name} with shape {np.shape(value)}, where ({self._num_generations},) is asked for."
        )
    return one

  def beside(self, results: "xarray.Dataset") -> "xarray.Dataset":
    """The results with METRIC_expected and, where they are known, METRIC_expected_variance, METRIC_expected_least_variance,
    METRIC_expected_up_to and METRIC_limit beside each metric that they hold, and with `shares`."""
    grid, runs = results.cell_status.dims, results.cell_status.values == "ok"
    at = results.generation.values - 1
    runs &= ~self._stale(results, at)
    added: dict[str, Any] = {}
    for metric, cells in self._expected.items():
      if metric not in results:
        _log.warning("the task predicts %s, which is none of its metrics.", metric)
        continue
      cells = {index: one for index, one in cells.items() if runs[index]}
      over_time = (*grid, "generation") if "generation" in results[metric].dims else grid
      units = results[metric].attrs.get("units", "1")
      for ending, field, changes, about in FIELDS:
        dims = over_time if changes else grid
        values = self._values(cells, field, at, dims)
        if not np.isnan(values).all():
          added[f"{metric}_{ending}"] = (dims, values, {"long_name": about.format(metric), "units": units})
    batches = {"batch": np.arange(self._num_generations)}
    shares = self._shares(grid, at, runs)
    return results.assign(added | shares).assign_coords(batches if shares else {})

  def _values(
    self, cells: Mapping[tuple[int, ...], Expected], field: str, at: np.ndarray, dims: Sequence[str]
  ) -> np.ndarray:
    """Of a field of the cells' laws, NaN where it is None."""
    found = np.full(self._shape + ((len(at),) if "generation" in dims else ()), np.nan)
    for index, one in cells.items():
      value = getattr(one, field)
      if value is not None:
        value = np.asarray(value, np.float64)
        found[index] = value[at] if value.ndim else value
    return found

  def _stale(self, results: "xarray.Dataset", at: np.ndarray) -> np.ndarray:
    """Cells whose runs were trained on another share of real rows, or on another number of rows, than the schedule has: a workflow
    that was changed after it was made, and its schedule was not; or a task that leaves rows out."""
    stale = np.zeros(self._shape, bool)
    told = set().union(*self._expected.values())
    order = (*results.cell_status.dims, "seed", "generation")
    real_share, train_size = (
      results[name].transpose(*order).values if name in results else None for name in ("real_share", "train_size")
    )
    for index in map(tuple, np.argwhere(results.cell_status.values == "ok")):
      runs = _whole(real_share, index)
      if self._which[index] >= 0 and len(runs):
        share = self._tables[self._which[index]][at, 0]
        apart = np.abs(runs.mean(axis=0) - share) > 1e-3
        stale[index] = (apart & self._no_chance(index, share, runs)).any()
      runs = _whole(train_size, index)
      if index in told and index in self._rows and len(runs):
        rows = self._rows[index][at]
        stale[index] |= (np.abs(runs.mean(axis=0) - rows) > 1e-3 * rows).any()
    if any(stale[index] for index in told):
      _log.warning(
        "theory is left out where the share of real rows, or their number, is not that of the workflow's schedule."
      )
    return stale

  def _no_chance(self, index: tuple[int, ...], share: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """[recorded] whether the mean share of the runs is farther from the expected one than chance takes it.

    Of subsets, by Hoeffding's bound exp(-n KL) on the mean of n draws, with or without replacement: any one of all cells and
    generations is beyond it with a chance below 1e-6, however few the rows and the runs are.
    """
    mean, num = runs.mean(axis=0), int(self._redrawn[index]) * len(runs)
    if not num:
      beyond: np.ndarray = np.abs(mean - share) > 1e-3 + 6 * runs.std(axis=0) / np.sqrt(len(runs))
      return beyond
    divergence = special.rel_entr(mean, share) + special.rel_entr(1 - mean, 1 - share)
    beyond = num * divergence > np.log(2e6 * runs.shape[1] * np.prod(self._shape))
    return beyond

  def _shares(self, grid: tuple[Any, ...], at: np.ndarray, runs: np.ndarray) -> dict[str, Any]:
    """`shares`, over the dims of the grid in which they differ."""
    which = np.where(runs | (self._which < 0), self._which, -1)
    if not (which >= 0).any():
      return {}
    kept = [0]
    for axis in range(1, which.ndim):
      if (which != which.take([0], axis=axis)).any():
        kept.append(axis)
      else:
        which = which.take([0], axis=axis)
    which = which.reshape([which.shape[axis] for axis in kept])
    if which.size * len(at) * self._num_generations > MAX_TABLE:
      return {}
    tables = np.stack([*self._tables, np.full_like(self._tables[0], np.nan)])[:, at]
    dims = (*(grid[axis] for axis in kept), "generation", "batch")
    about = {"long_name": "expected share of each batch, 0 = real, in the training data", "units": "1"}
    return {"shares": (dims, tables[which], about)}


def _whole(values: np.ndarray | None, index: tuple[int, ...]) -> np.ndarray:
  """[runs, recorded] those runs of a cell in which a metric [cells..., runs, recorded] is finite; none where there is none."""
  if values is None:
    return np.empty((0, 0))
  runs = values[index].astype(np.float64)
  whole: np.ndarray = runs[np.isfinite(runs).all(axis=1)]
  return whole


def schedule_of(workflow: Workflow, num_samples: Number, num_generations: int) -> theory.Schedule | None:
  """A workflow's own schedule, or what its weights say of it; None where neither is known.

  Args:
    workflow: a workflow.
    num_samples: rows per batch.
    num_generations: T.
  """
  if workflow.schedule is not None:
    schedule: theory.Schedule = workflow.schedule(num_samples, num_generations)
    return schedule
  if workflow.weights is None or num_generations**2 > MAX_TABLE:
    return None
  sizes = [num_samples, *(workflow.emit(num_samples, t) for t in range(1, num_generations))]
  return theory.schedule_of_weights(workflow.weights(num_generations), sizes, workflow.redrawn)
