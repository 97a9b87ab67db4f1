"""Tables of mixed columns to model: continuous, categorical, with missing cells. Imports no JAX."""

import itertools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from collapse_jax.data import files
from collapse_jax.refused import Refused

__all__ = ["BUNDLED", "Layout", "Table", "check", "get"]

BUNDLED = ("breast_cancer", "circles", "mixed", "moons")
MOST_BYTES = 1024 * files.MIB
MOST_CATEGORIES = 20  # of a column of integers that is taken for categorical
MOST_TEXTS = 200  # of one of text: more are names, not categories
MIN_ROWS = 10
_NUM_DRAWN = 20_000  # rows of the tables that are made


class Layout(NamedTuple):
  """How a row lies: standardised numbers, then one block of indicators for each categorical column.

  Attributes:
    num_continuous: leading columns of numbers; 0, the mean, where a cell is missing.
    sizes: categories of each block, "missing" among them; a continuous column with missing cells has a block of two. The last is
      that of the label, where there is one.
    blocks: names of these columns.
    categories: names, block by block.
    continuous: names of the leading columns.
    missing: whether the last category of each block says that the cell is missing.
  """

  num_continuous: int
  sizes: tuple[int, ...]
  blocks: tuple[str, ...]
  categories: tuple[tuple[str, ...], ...]
  continuous: tuple[str, ...]
  missing: tuple[bool, ...]

  @property
  def width(self) -> int:
    return self.num_continuous + sum(self.sizes)

  @property
  def slices(self) -> list[slice]:
    """Of the blocks."""
    ends = self.num_continuous + np.cumsum([0, *self.sizes])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]

  @property
  def marks(self) -> dict[str, int]:
    """Where a row says that a cell is missing, by the name of its column."""
    return {name: block.stop - 1 for name, block, last in zip(self.blocks, self.slices, self.missing) if last}


class Table(NamedTuple):
  """Rows [N, layout.width] float32, and whether the last block is a label of two values."""

  name: str
  rows: np.ndarray
  layout: Layout
  labelled: bool


def get(source, label: str | None = None) -> Table:
  """The table that a name, a path, a pandas DataFrame or a Table stands for.

  Columns of text, of truth values and of integers of at most 20 values are categorical, others continuous and standardised.

  Args:
    source: one of `BUNDLED` ("breast_cancer": ten measures and the diagnosis; "moons", "circles"; "mixed": a rare kind, numbers
      that depend on it, and missing cells), the path of a .csv or .parquet file, or a DataFrame.
    label: name of a column of two values, for transforms that train classifiers; those of `BUNDLED` have one.
  Raises:
    Refused: data that cannot be used, in one line: among them a constant column, or one without any cell.
  """
  if isinstance(source, Table):
    return source
  if isinstance(source, str) and source in BUNDLED:
    return _encoded(source, _bundled(source), "label" if label is None else label)
  if isinstance(source, str | os.PathLike):
    return _encoded(files.shown(Path(source).name), _read(source), label)
  if not hasattr(source, "columns") or not hasattr(source, "dtypes"):
    raise Refused.must_be("data", f"one of {', '.join(BUNDLED)}, a path or a pandas DataFrame", type(source).__name__)
  return _encoded("table", source, label)


def check(source) -> None:
  """Raises Refused, in one line, where `get` would."""
  get(source)


def _bundled(name: str):
  import pandas
  from sklearn import datasets

  if name == "breast_cancer":
    found = datasets.load_breast_cancer(as_frame=True).frame
    return found.iloc[:, [*range(10), -1]].rename(columns={"target": "label"})
  random = np.random.default_rng(0)
  if name == "mixed":
    kind = random.choice(["a", "b", "rare"], _NUM_DRAWN, p=[0.6, 0.37, 0.03])
    label = random.random(_NUM_DRAWN) < np.select([kind == "a", kind == "b"], [0.2, 0.6], 0.9)
    size = np.exp(random.normal(np.where(kind == "a", 0.0, 1.0), 0.5))
    age = random.normal(40 + 10 * label, 10)
    age[random.random(_NUM_DRAWN) < 0.1] = np.nan
    return pandas.DataFrame({"size": size, "age": age, "kind": kind, "label": label})
  make = {
    "moons": lambda: datasets.make_moons(_NUM_DRAWN, noise=0.2, random_state=0),
    "circles": lambda: datasets.make_circles(_NUM_DRAWN, noise=0.3, factor=0.5, random_state=0),
  }[name]
  rows, label = make()
  return pandas.DataFrame({"x": rows[:, 0], "y": rows[:, 1], "label": label})


def _read(source):
  import pandas

  name = os.fspath(source)
  path = Path(files.home(name))
  if path.suffix == "" and "/" not in name and not path.exists():
    raise Refused(
      f"unknown table {name!r}; known: {', '.join(BUNDLED)}, or a path to a .csv or .parquet file.",
      argument="data",
      value=name,
    )
  if path.suffix not in (".csv", ".parquet"):
    raise Refused.must_be("data", "a file that ends in .csv or .parquet", name)
  files.check_regular(path, MOST_BYTES)
  try:
    return pandas.read_csv(path, **files.exact_numbers()) if path.suffix == ".csv" else pandas.read_parquet(path)
  except ImportError:
    raise Refused("Parquet files need the package pyarrow: pip install 'collapse-jax[hub]'.", argument="data") from None
  except (OSError, ValueError) as error:  # errors of parsers, and of Arrow, are ValueErrors
    reason = " ".join(str(error).split())[:200]
    raise Refused(f"{files.shown(path)} cannot be read: {reason}.", argument="data", value=name) from None


def _encoded(name: str, frame, label: str | None) -> Table:
  import pandas

  columns = [str(column) for column in frame.columns]
  if len(frame) < MIN_ROWS or not columns:
    raise Refused(f"{name} must have at least {MIN_ROWS} rows, got {len(frame)}.", argument="data", value=name)
  if len(set(columns)) < len(columns):
    raise Refused(f"{name} has two columns of one name.", argument="data", value=name)
  if label is not None and label not in columns:
    raise Refused.must_be("label", f"a column of {name}", label)
  order = [i for i, column in enumerate(columns) if column != label]
  order += [columns.index(label)] if label is not None else []
  numbers, blocks, names, categories, continuous, holes = [], [], [], [], [], []
  kinds: tuple[str, ...]
  for i in order:
    column, title = frame.iloc[:, i], columns[i]
    missing = column.isna().to_numpy()
    there = column[~missing]
    if missing.all():
      raise Refused(f"{name}: all cells of column {title!r} are missing; remove it.", argument="data", value=title)
    distinct = there.nunique()
    if distinct == 1 and not missing.any():
      raise Refused(f"{name}: column {title!r} is constant; remove it.", argument="data", value=title)
    is_number = pandas.api.types.is_numeric_dtype(column) and not pandas.api.types.is_bool_dtype(column)
    whole = is_number and (there.astype(float) % 1 == 0).all()
    if title == label and (distinct != 2 or missing.any()):
      raise Refused.must_be("label", f"a column of two values, none missing, in {name}", f"{distinct} values")
    if is_number and title != label and not (whole and distinct <= MOST_CATEGORIES):
      values = column.to_numpy(float, na_value=np.nan)
      if not np.isfinite(values[~missing]).all():
        raise Refused(f"{name}: column {title!r} is not finite everywhere.", argument="data", value=title)
      mean, std = np.nanmean(values), max(np.nanstd(values), 1e-30)
      numbers.append(np.where(missing, 0.0, (values - mean) / std))
      continuous.append(title)
      if not missing.any():
        continue
      codes, kinds = missing.astype(int), ("present", "missing")
    else:
      found, labels = pandas.factorize(column.astype(str).where(~missing), sort=True)
      if len(labels) > MOST_TEXTS:
        raise Refused(
          f"{name}: column {title!r} has {len(labels)} different texts, more than {MOST_TEXTS}; remove it.",
          argument="data",
          value=title,
        )
      codes, kinds = np.where(missing, len(labels), found), (*map(str, labels), *(["missing"] if missing.any() else []))
    blocks.append(np.eye(len(kinds))[codes])
    names.append(title)
    categories.append(kinds)
    holes.append(bool(missing.any()))
  sizes = tuple(len(kinds) for kinds in categories)
  layout = Layout(len(numbers), sizes, tuple(names), tuple(categories), tuple(continuous), tuple(holes))
  rows = np.concatenate([np.reshape(np.transpose(numbers), (len(frame), -1)), *blocks], axis=1).astype(np.float32)
  return Table(name, rows, layout, label is not None)
