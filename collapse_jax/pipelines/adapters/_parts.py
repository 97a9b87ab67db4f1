"""What adapters share: packages that may be missing, rows as numbers or as a table and back, seeds of code that takes none."""

import contextlib
import importlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.pipelines import kinds
from collapse_jax.refused import Refused

__all__ = ["Adapter", "as_table", "from_table", "need", "numbers", "rows_of_numbers", "seeded"]


class Adapter(NamedTuple):
  """A pipeline, as functions; see `pipelines.Pipeline`.

  Attributes:
    identity: role -> what fixes the numbers of a step.
    name: of what is adapted, for people.
    evaluate: None: metrics by kind of data are taken.
    save, load: None: models are pickled.
  """

  fit: Callable[..., Any]
  sample: Callable[..., Any]
  identity: Callable[[str], Any]
  name: str
  evaluate: Callable[..., dict[str, float]] | None = None
  save: Callable[[Any, Path], None] | None = None
  load: Callable[[Path], Any] | None = None


def need(module: str, extra: str, why_none: str = "") -> Any:
  """A module of a package that the base installation has not.

  Args:
    module: its name.
    extra: that brings it; "" where none can.
    why_none: what is said in its place.
  Raises:
    Refused: it is not installed; with the extra that brings it.
  """
  package = module.split(".")[0]
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != package:
      raise  # it is there, and lacks something
    how = f"pip install 'collapse-jax[{extra}]'" if extra else why_none
    raise Refused(f"{package} is not installed: {how}.", argument="package", value=package) from None


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
  """What `random`, NumPy and, where it is loaded, PyTorch draw by themselves is drawn by a seed, and afterwards as before."""
  torch = sys.modules.get("torch")
  # Of the one global generator, which is what such code draws from.
  before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None  # noqa: NPY002
  random.seed(seed)
  np.random.seed(seed)  # noqa: NPY002
  if torch:
    torch.manual_seed(seed)
  try:
    yield
  finally:
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    if torch:
      torch.set_rng_state(before[2])


def numbers(data: kinds.Rows, what: str) -> np.ndarray:
  """Rows as float64 [n, columns]; arrays [n, ...] are flattened, one after another.

  Args:
    data: a table, arrays or a dataset.
    what: the adapter, for errors.
  Raises:
    Refused: a column that is no number.
  """
  kind = kinds.kind_of(data)
  if kind == "arrays":
    columns = {name: np.asarray(value).reshape(len(value), -1) for name, value in data.items()}
  else:
    table = as_table(data, what)
    columns = {name: table[name].to_numpy()[:, None] for name in table.columns}
  for name, column in columns.items():
    if column.dtype.kind not in "biuf":
      raise Refused(f"{what} needs columns of numbers: {name} has none.", argument="data", value=name)
  return np.concatenate([column.astype(np.float64) for column in columns.values()], axis=1)


def rows_of_numbers(values: np.ndarray, like: kinds.Rows) -> kinds.Rows:
  """The way back of `numbers`.

  Args:
    values: [n, columns].
    like: no rows, of the kind and the columns of those that `values` are like.
  """
  if kinds.kind_of(like) == "arrays":
    sizes = [int(np.prod(value.shape[1:])) for value in like.values()]
    parts = np.split(values, np.cumsum(sizes)[:-1], axis=1)
    return {
      name: part.reshape(len(values), *value.shape[1:]).astype(np.result_type(value.dtype, np.float32))
      for (name, value), part in zip(like.items(), parts)
    }
  import pandas

  names = list(like.columns) if kinds.kind_of(like) == "table" else like.column_names
  return from_table(pandas.DataFrame(values, columns=names), like)


def as_table(data: kinds.Rows, what: str) -> Any:
  """Rows as a pandas DataFrame.

  Raises:
    Refused: arrays of more than one number a row.
  """
  import pandas

  kind = kinds.kind_of(data)
  if kind == "arrays":
    if deep := [name for name, value in data.items() if np.ndim(value) > 1]:
      raise Refused(f"{what} needs a table: {deep[0]} has more than one number a row.", argument="data", value=deep[0])
    return pandas.DataFrame(data)
  return data if kind == "table" else data.to_pandas() if kind == "dataset" else pandas.DataFrame(data)


def from_table(table: Any, like: kinds.Rows) -> kinds.Rows:
  """The way back of `as_table`."""
  kind = kinds.kind_of(like)
  if kind == "arrays":
    return {name: table[name].to_numpy() for name in table.columns}
  if kind == "text":
    return table.to_dict("records")
  if kind == "dataset":
    import datasets

    return datasets.Dataset.from_pandas(table, features=like.features, preserve_index=False)
  return table
