"""Real rows: scikit-learn's bundled data sets and CSV files. Imports no JAX, so that input can be checked before it.

scikit-learn and pandas are imported where they are used, which keeps the check of a flag fast.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

SYNTHETIC = ("blobs", "blobs_mismatched", "circles", "moons", "swiss_roll")
BUNDLED = ("wine", "breast_cancer", "iris", "digits")
MIN_ROWS = 4  # two to train on, two in reserve


class RealData(NamedTuple):
  """Standardised rows: train [num_train, dim], test [num_test, dim] float32, and the names of dropped columns."""
  name: str
  train: np.ndarray
  test: np.ndarray
  dropped: tuple[str, ...]


def check(name: str) -> None:
  """Raises ValueError, in one line, where `name` is neither a known data set nor a readable CSV file."""
  if name not in SYNTHETIC:
    load(name)


@functools.cache
def load(name: str, num_test: int = 500) -> RealData:
  """A bundled data set or a CSV file, split and standardised; see `split`.

  Raises:
    ValueError: unknown name, or a file that cannot be used, and why.
  """
  if name in BUNDLED:
    from sklearn import datasets
    rows = getattr(datasets, f"load_{name}")(return_X_y=True)[0]
    return split(name, rows, [f"column {i + 1}" for i in range(rows.shape[1])], num_test)
  if Path(name).suffix == "" and "/" not in name and not Path(name).exists():
    raise ValueError(f"unknown data set {name!r}; known: {', '.join(SYNTHETIC + BUNDLED)}, or a path to a CSV file.")
  rows, columns = read_csv(name)
  return split(Path(name).name, rows, columns, num_test)


def split(name: str, rows: np.ndarray, columns: list[str], num_test: int = 500) -> RealData:
  """Holds out a fixed random 30% of the rows (at most num_test) and standardises by the others.

  Columns that are constant in the training rows carry no density and are dropped by name.

  Raises:
    ValueError: too few rows, a number that is not finite, or only constant columns.
  """
  rows = np.asarray(rows, np.float64)
  if rows.ndim != 2 or len(rows) < MIN_ROWS or not np.isfinite(rows).all():
    raise ValueError(f"{name} must be finite numbers in at least {MIN_ROWS} rows, got shape {rows.shape}.")
  order = np.random.default_rng(2410_16713).permutation(len(rows))
  held_out = min(num_test, max(1, round(0.3 * len(rows))))
  test, train = rows[order[:held_out]], rows[order[held_out:]]
  return standardise(name, train, test, columns)


def standardise(name: str, train: np.ndarray, test: np.ndarray, columns: list[str]) -> RealData:
  """Both parts in units of the training rows' mean and standard deviation."""
  mean, std = train.mean(axis=0), train.std(axis=0)
  varies = std > 1e-12 * np.maximum(np.abs(mean), 1)
  if not varies.any():
    raise ValueError(f"{name}: every column is constant, so that there is no density to estimate.")
  scale = lambda x: ((x - mean) / np.where(varies, std, 1))[:, varies].astype(np.float32)
  dropped = tuple(column for column, keep in zip(columns, varies) if not keep)
  return RealData(name, scale(train), scale(test), dropped)


def read_csv(path: str) -> tuple[np.ndarray, list[str]]:
  """Numeric rows [rows, columns] and column names; the delimiter (comma, semicolon, tab) and a header are detected.

  Raises:
    ValueError: the file cannot be used; the message names file, place and remedy.
  """
  import csv

  import pandas
  file = Path(path)
  if not file.exists():
    raise ValueError(f"{path}: no such file.")
  if file.is_dir():
    raise ValueError(f"{path} is a directory; name a CSV file.")
  try:
    text = file.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} cannot be read as UTF-8 text ({type(error).__name__}).") from None
  lines = text.splitlines()
  first = next((line for line in lines if line.strip()), None)
  if first is None or "\0" in text:
    raise ValueError(f"{path} holds no rows." if first is None else f"{path} is not a text file.")
  delimiter = max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark))))
  cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter))]
  has_header = not any(_is_number(cell) for cell in cells)
  for number, record in _records(text, delimiter):
    if len(record) != len(cells):
      raise ValueError(f"{path} line {number} has {len(record)} columns where the first has {len(cells)}.")
  table = pandas.read_csv(file, sep=delimiter, header=0 if has_header else None, dtype=str, encoding="utf-8-sig",
                          keep_default_na=False, skipinitialspace=True)
  names = [str(name) if has_header else f"column {i + 1}" for i, name in enumerate(table.columns)]
  if len(table) < MIN_ROWS:
    count = {0: "no rows of numbers", 1: "one row"}.get(len(table), f"{len(table)} rows")
    raise ValueError(f"{path} holds {count}; at least {MIN_ROWS} are needed to split training from test rows.")
  columns = []
  for i, name in enumerate(names):
    text_cells = table.iloc[:, i].str.strip()
    values = pandas.to_numeric(text_cells, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
      row = bad[0] + 1 + has_header
      cell = text_cells.iloc[bad[0]]
      what = "is missing" if cell.lower() in ("", "na", "nan", "null") else f"is not a finite number: {cell[:40]!r}"
      raise ValueError(f"{path}: column {name!r}, row {row} {what}; remove the column or the row.")
    columns.append(values)
  return np.stack(columns, axis=1), names


def _records(text, delimiter):
  import csv
  import io
  reader = csv.reader(io.StringIO(text), delimiter=delimiter)
  for record in reader:
    if record:
      yield reader.line_num, record


def _is_number(cell: str) -> bool:
  try:
    float(cell)
  except ValueError:
    return cell == ""
  return True
