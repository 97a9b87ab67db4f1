"""What a sweep is asked for: workflows, axes, and a task for each cell; checked before anything is computed."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from collapse_jax import workflows as workflow_library
from collapse_jax.generation import prepared
from collapse_jax.refused import Refused
from collapse_jax.types import MetricInfo, PyTree, TaskSetting, Workflow
from collapse_jax.vocabulary import BESIDE, LARGEST

__all__ = [
  "COMMON_METRICS",
  "RESERVED",
  "Cell",
  "Grid",
  "accepted",
  "check_numbers",
  "labels",
  "noted",
  "of_results",
  "task_maker",
  "workflow_makers",
]

_T = TypeVar("_T")
MAX_GENERATIONS = 20_000_000  # their numbers are listed
COMMON_METRICS = {
  "finite": MetricInfo("all metrics of this generation are finite"),
  "train_size": MetricInfo("training rows, weighted", "items"),
  "real_share": MetricInfo("share of real rows in the training data"),
}
RESERVED = (
  "workflow",
  "seed",
  "generation",
  "batch",
  "shares",
  "cell_status",
  "collapse_generation",
  "censored",
  *COMMON_METRICS,
)  # of Datasets


@dataclasses.dataclass(frozen=True)
class Cell:
  """One point of the grid.

  Attributes:
    index: in the grid, workflow first.
    workflow: its name.
    values: of the axes.
  """

  index: tuple[int, ...]
  workflow: str
  values: dict[str, Any]

  @property
  def names(self) -> dict[str, Any]:
    """As coordinates of the results name it."""
    return {"workflow": self.workflow, **self.values}

  @property
  def saved_names(self) -> dict[str, Any]:
    """As what is kept for another process names it: by their places on the axis those whose text may be another one there."""
    places = zip(self.values.items(), self.index[1:])
    return {"workflow": self.workflow, **{name: value if _is_plain(value) else f"#{i}" for (name, value), i in places}}

  def __str__(self) -> str:
    return ", ".join(f"{name} {value}" for name, value in self.names.items())


class Grid:
  """Workflows x axes: which cells there are, what they are made of, and which of them are refused.

  Args:
    task, workflows, axes: as for `sweep`.
    shared: what the task is given as `shared`; None: nothing.
  Attributes:
    makers: name -> factory of a workflow.
    refused: index of a cell -> why it cannot run.
    failed: index of a cell -> why a run of it ended early, the first.
    info: of the metrics of all tasks that were made.
  Raises:
    Refused: nothing that could be run, in any cell.
  """

  def __init__(self, task: Any, workflows: Any, axes: Any, shared: PyTree = None):
    self.makers = workflow_makers(workflows)
    self.task = task_maker(task)
    self.shared = shared
    self.axes = _checked_axes(self.task, self.makers, axes, () if shared is None else ("shared",))
    self.shape = (len(self.makers), *map(len, self.axes.values()))
    self.refused: dict[tuple[int, ...], Refused] = {}
    self.failed: dict[tuple[int, ...], str] = {}
    self.info = dict(COMMON_METRICS)

  def cell(self, index: tuple[int, ...]) -> Cell:
    values = {axis: each[i] for (axis, each), i in zip(self.axes.items(), index[1:])}
    return Cell(tuple(index), list(self.makers)[index[0]], values)

  def __iter__(self) -> Iterator[Cell]:
    """Cells that are not refused."""
    return (self.cell(index) for index in np.ndindex(*self.shape) if index not in self.refused)

  def task_of(self, values: Mapping[str, Any], shared: PyTree = None) -> TaskSetting:
    """The task by values of axes, which may be tracers."""
    given = accepted(self.task, values)
    return self.task(**given) if self.shared is None else self.task(shared=shared, **given)

  def can_be_given(self, name: str) -> bool:
    """Whether the task's factory has a parameter of this name, which is no axis."""
    names = _parameters(self.task)[0]
    return names is not None and name in names and name not in self.axes

  def workflow_of(self, name: str, values: Mapping[str, Any]) -> Workflow:
    return self.makers[name](**accepted(self.makers[name], values))

  def made(self, cell: Cell) -> tuple[TaskSetting, Workflow]:
    """The task and the workflow of a cell, from the numbers that the axes hold."""
    workflow, task = self.workflow_of(cell.workflow, cell.values), self.task_of(cell.values, self.shared)
    for what, kind in ((task, TaskSetting), (workflow, Workflow)):
      if not isinstance(what, kind):
        raise Refused(f"a factory must return a {kind.__name__}, got {what!r}.", value=what, allowed=kind.__name__)
    self.check_metrics(task.metrics, itertools.chain(*(info.dims for info in task.metrics.values())))
    return task, workflow

  def runnable(self) -> Iterator[tuple[Cell, TaskSetting, Workflow]]:
    """Cells with their tasks and workflows; those that cannot be made are `refused`.

    Raises:
      Refused: none can be made.
    """
    for cell in self:
      try:
        task, workflow = self.made(cell)
        prepared(task, workflow)
      except Refused as error:
        self.refuse(cell, error)
        continue
      self.info |= {name: about for name, about in task.metrics.items() if name not in self.info}
      yield cell, task, workflow

  def refuse(self, cell: Cell, error: Refused) -> None:
    """Marks a cell as one that cannot run; raises where there is no other."""
    self.refused[cell.index] = error
    if len(self.refused) == math.prod(self.shape):
      raise self.refused[min(self.refused)]

  @property
  def status(self) -> np.ndarray:
    """Of each cell: "ok", or why it cannot run, or why a run of it failed."""
    texts = np.full(self.shape, "ok", dtype=object)
    for index, reason in (self.failed | self.refused).items():
      texts[index] = str(reason)
    return texts

  def check_metrics(self, names: Iterable[str], dims: Iterable[str] = ()) -> None:
    """Refuses metrics, or dims of theirs, that are called as something else in the results is."""
    names = list(names)
    taken = {*RESERVED, *self.axes}
    for name in (*names, *dims):
      if name in taken or name in of_results(names):
        raise Refused(
          f"metrics must not be called {name}: the results have {', '.join(sorted(taken))}, and of a metric NAME "
          f"{', '.join(f'NAME_{ending}' for ending in BESIDE)}.",
          argument="metrics",
          value=name,
          allowed="another name",
        )


def of_results(metrics: Iterable[str]) -> set[str]:
  """Those names of metrics that the results have of their own: reserved ones, and what stands beside another metric."""
  names = set(metrics)
  beside = {f"{name}_{ending}" for name in names | {"collapse_generation", *COMMON_METRICS} for ending in BESIDE}
  return names & (beside | set(RESERVED))


@contextlib.contextmanager
def noted(cell: Cell) -> Iterator[None]:
  """Errors of a user's code that are raised here say in which cell."""
  try:
    yield
  except Refused:
    raise
  except Exception as error:
    error.add_note(f"in a sweep, {cell}")
    raise


def workflow_makers(workflows: Any) -> dict[str, Callable[..., Workflow]]:
  """name -> function of axis values that returns a Workflow.

  Raises:
    Refused: neither a list of names nor a mapping from names to Workflows or factories.
  """
  argument = functools.partial(Refused, argument="workflows", value=workflows, allowed="names, or name -> Workflow")
  if isinstance(workflows, str):
    raise argument(f"workflows must be a list of names, got the text {workflows!r}: write [{workflows!r}].")
  if isinstance(workflows, Workflow) or not isinstance(workflows, Iterable):
    what = "a Workflow" if isinstance(workflows, Workflow) else repr(workflows)
    raise argument(f"workflows must be a list of names or a mapping name -> Workflow, got {what}.")
  if not isinstance(workflows, Mapping):
    names = list(workflows)
    for name in names:
      if not isinstance(name, str):
        what = "a Workflow has none" if isinstance(name, Workflow) else f"got {name!r}"
        raise argument(f'workflows in a list must be names, and {what}: pass a mapping such as {{"mine": workflow}}.')
      if names.count(name) > 1:
        raise argument(f"workflows names {name!r} twice.")
    workflows = {name: workflow_library.parse(name) for name in names}
  for name, value in workflows.items():
    if not isinstance(name, str) or (not callable(value) and not isinstance(value, Workflow)):
      raise argument(f"workflows must map names to Workflows or their factories, got {name!r}: {value!r}.")
  if not workflows:
    raise argument("workflows is empty.")
  return {name: _constant(value) if isinstance(value, Workflow) else value for name, value in workflows.items()}


def _constant(value: _T) -> Callable[..., _T]:
  return lambda: value


def task_maker(task: Any) -> Callable[..., TaskSetting]:
  """A factory, also of a task that is given as such."""
  if isinstance(task, TaskSetting):
    return _constant(task)
  if not callable(task):
    raise Refused(
      f"task must be a TaskSetting or a factory of one, got {task!r}.",
      argument="task",
      value=task,
      allowed="a TaskSetting, or a function of axis values that returns one",
    )
  factory: Callable[..., TaskSetting] = task
  return factory


@functools.cache
def _parameters(factory: Callable[..., Any]) -> tuple[frozenset[str] | None, frozenset[str]]:
  """Names that a factory takes (None where it takes any), and those that it cannot do without."""
  kinds = inspect.Parameter
  try:
    parameters = inspect.signature(factory).parameters.values()
  except ValueError:  # some that are written in C do not tell
    return None, frozenset()
  named = [p for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
  needed = frozenset(p.name for p in named if p.default is kinds.empty)
  return None if any(p.kind is kinds.VAR_KEYWORD for p in parameters) else frozenset(p.name for p in named), needed


def accepted(factory: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
  """Those of the values that a factory takes."""
  names = _parameters(factory)[0]
  return {name: value for name, value in values.items() if names is None or name in names}


def _checked_axes(
  task: Callable[..., Any],
  makers: Mapping[str, Callable[..., Any]],
  axes: Mapping[str, Sequence[Any]],
  given: Sequence[str] = (),
) -> dict[str, list[Any]]:
  """name -> values, as lists.

  Args:
    task, makers: factories of the task, and of workflows by name.
    given: what the task is given besides.
  Raises:
    Refused: an axis without values or with one twice, of a reserved name, or that no factory takes; one that a factory needs.
  """
  if not isinstance(axes, Mapping):
    raise Refused(f"axes must be a mapping name -> values, got {axes!r}.", argument="axes", value=axes)
  lists: dict[str, list[Any]] = {}
  for name, values in axes.items():
    try:
      lists[name] = [_number(value) for value in (() if isinstance(values, str) else values)]
    except TypeError:  # a number, or an array without dims
      lists[name] = []
    if not lists[name]:
      what = "is empty" if isinstance(values, Sequence) and not values else f"must be a list of values, got {values!r}"
      raise Refused(f"axis {name} {what}.", argument=name, value=values, allowed="a list of values")
  for name, values in lists.items():
    if name in RESERVED or any(name == f"{other}_value" for other in lists):
      raise Refused(
        f"axis {name} has a name that the results use: {', '.join(RESERVED)} and NAME_value of an axis NAME are taken.",
        argument="axes",
        value=name,
        allowed="another name",
      )
    if len(set(map(_comparable, values))) < len(values):
      raise Refused(f"axis {name} names a value twice: {', '.join(labels(values))}.", argument=name, value=values)
  _check_parameters(task, makers, lists, given)
  return lists


def _check_parameters(
  task: Callable[..., Any], makers: Mapping[str, Callable[..., Any]], axes: Mapping[str, Any], given: Sequence[str]
) -> None:
  """Every axis is taken by the task or by each workflow, and what these need are axes."""
  for name, maker in makers.items():
    takes = [_parameters(factory)[0] for factory in (task, maker)]
    known = sorted(set().union(*(names for names in takes if names is not None)) - set(axes) - set(given))
    for axis in axes:
      if not any(names is None or axis in names for names in takes):
        near = difflib.get_close_matches(axis, known, 1, 0.5)
        hint = f": did you mean {near[0]}?" if near else f"; they take {', '.join(known) or 'no other'}."
        raise Refused(
          f"neither the task nor the workflow {name} takes the axis {axis}{hint}",
          argument="axes",
          value=axis,
          allowed=", ".join(known),
        )
  for what, factory, has in (
    ("the task", task, given),
    *((f"workflow {name}", one, ()) for name, one in makers.items()),
  ):
    missing = sorted(_parameters(factory)[1] - set(axes) - set(has))
    if missing:
      raise Refused(
        f"{what} needs {missing[0]}: give an axis of that name, one value is enough.",
        argument="axes",
        value=list(axes),
        allowed=", ".join([*axes, *missing]),
      )


def check_numbers(
  num_generations: Any, num_seeds: Any, record_every: Any = 1, chunk_size: Any = None
) -> tuple[int, int, int, int | None]:
  """The four as Python ints.

  Args:
    num_generations, num_seeds, record_every, chunk_size: as of `sweep`.
  Raises:
    Refused: not integers from 1 on, or too large.
  """
  numbers = {
    "num_generations": num_generations,
    "num_seeds": num_seeds,
    "record_every": record_every,
    "chunk_size": 1 if chunk_size is None else chunk_size,
  }
  for name, value in numbers.items():
    largest = MAX_GENERATIONS if name == "num_generations" else LARGEST
    try:
      numbers[name] = operator.index(value)
    except TypeError:
      numbers[name] = 0
    if not 1 <= numbers[name] <= largest:
      raise Refused(
        f"{name} must be an integer from 1 to {largest}, got {value}.",
        argument=name,
        value=value,
        allowed=f"1 to {largest}",
      )
  num_generations, num_seeds, record_every, size = numbers.values()
  return num_generations, num_seeds, record_every, None if chunk_size is None else size


def _is_plain(value: Any) -> bool:
  """Whether its text says what it is."""
  if isinstance(value, tuple | list):
    return all(map(_is_plain, value))
  return value is None or isinstance(value, str | int | float | np.generic)


def _is_array(value: Any) -> bool:
  return isinstance(value, np.ndarray | jax.Array)


def _number(value: Any) -> Any:
  """Python's own where it is an array without dims."""
  scalar = _is_array(value) and not value.ndim and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)
  return value.item() if scalar and not isinstance(value, jax.core.Tracer) else value


def _comparable(value: Any) -> Any:
  """What tells the values of an axis apart; arrays by what they hold."""
  if isinstance(value, tuple | list):
    return tuple(map(_comparable, value))
  if _is_array(value) and value.ndim:
    value = np.asarray(value)
    return value.shape, str(value.dtype), value.tobytes()
  return value if isinstance(value, Hashable) else id(value)


def labels(values: Iterable[Any]) -> list[str]:
  """Texts for the values of an axis, no two alike: numbers as short as they may be, other things by their name or shape."""

  def text(value: Any, exact: bool = False) -> str:
    if isinstance(value, str):
      return value
    if isinstance(value, int | float | np.generic):
      return str(value) if exact else f"{value:g}"
    parts = value if isinstance(value, tuple) else (value,)
    shapes = [" x ".join(map(str, x.shape)) for x in parts if hasattr(x, "shape")]
    return getattr(value, "name", None) or ("array of " + " and ".join(shapes) if shapes else str(value)[:60])

  short = [text(value) for value in values]
  found: list[str] = []
  for value, label in zip(values, short):
    label = text(value, short.count(label) > 1)
    again = itertools.count(2)
    unique = label
    while unique in found or (unique != label and unique in short):
      unique = f"{label} ({next(again)})"
    found.append(unique)
  return found
