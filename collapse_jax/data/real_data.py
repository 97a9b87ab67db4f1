"""Real rows: scikit-learn's bundled data sets and CSV files. Imports no JAX, so that input can be checked before it.

scikit-learn is imported where it is used, which keeps the check of a flag fast.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from collapse_jax.data import csv_file, files
from collapse_jax.data.csv_file import MIN_ROWS
from collapse_jax.refused import Refused

__all__ = [
  "LabelledData",
  "RealData",
  "check",
  "digits",
  "load",
  "load_labelled",
  "logistic_fit",
  "numbers",
  "read_csv",
  "split",
  "standardise",
]

SYNTHETIC = ("blobs", "blobs_mismatched", "circles", "moons", "normal", "ring", "swiss_roll")
BUNDLED = ("wine", "breast_cancer", "iris", "digits")


class RealData(NamedTuple):
  """Standardised rows: train [num_train, dim], test [num_test, dim] float32, the names of dropped columns, and what was
  concluded about the layout of a file."""

  name: str
  train: np.ndarray
  test: np.ndarray
  dropped: tuple[str, ...]
  layout: str = ""


def check(name: str) -> None:
  """Raises ValueError, in one line, where `name` is neither a known data set nor a readable CSV file."""
  if name not in SYNTHETIC:
    load(name)


def load(name: str, num_test: int = 500) -> RealData:
  """A bundled data set or a CSV file, split and standardised; see `split`.

  Raises:
    ValueError: unknown name, or a file that cannot be used, and why.
  """
  if name in BUNDLED:
    from sklearn import datasets

    rows = getattr(datasets, f"load_{name}")(return_X_y=True)[0]
    return split(name, rows, [f"column {i + 1}" for i in range(rows.shape[1])], num_test)
  looks_like_a_name = Path(name).suffix == "" and "/" not in name
  if name == "" or (looks_like_a_name and not os.path.exists(name)):
    raise Refused(
      f"unknown data set {name!r}; known: {', '.join(SYNTHETIC + BUNDLED)}, or a path to a CSV file.",
      argument="dataset",
      value=name,
    )
  rows, columns, layout = csv_file.read(name)
  return split(files.shown(Path(name).name), rows, columns, num_test)._replace(layout=layout)


class LabelledData(NamedTuple):
  """Covariates [rows, 1 + features] float64, the first column 1, the others standardised; labels [rows] of 0.0 and 1.0."""

  name: str
  covariates: np.ndarray
  labels: np.ndarray


LABELLED = ("breast_cancer", "wine", "digits")


def load_labelled(dataset, num_features: int | None = None) -> LabelledData:
  """Rows of two classes; see `tasks.logistic_regression`.

  Raises:
    ValueError: unknown name, a file or arrays that cannot be used, not two classes, too few columns.
  """
  name, rows, classes = _labelled_rows(dataset)
  rows = numbers(name, rows)
  found = np.unique(classes)
  if len(found) != 2 or classes.shape != (len(rows),):
    raise Refused(
      f"{name} must have labels of two values, one for each row, got {len(found)} values.",
      argument="dataset",
      value=name,
    )
  if len(rows) < MIN_ROWS:
    raise Refused(f"{name} must have at least {MIN_ROWS} rows, got {len(rows)}.", argument="dataset", value=name)
  rows = standardise(name, rows, rows, [str(i + 1) for i in range(rows.shape[1])]).train.astype(np.float64)
  if num_features is not None:
    if not isinstance(num_features, int | np.integer) or not 1 <= num_features <= rows.shape[1]:
      raise Refused.must_be("num_features", f"an integer from 1 to {rows.shape[1]} for {name}", num_features)
    loadings = np.linalg.svd(rows, full_matrices=False)[2][:num_features]
    loadings *= np.sign(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1))
    rows = rows @ loadings.T
    rows /= rows.std(axis=0)
  return LabelledData(name, np.column_stack([np.ones(len(rows)), rows]), (classes == found[1]).astype(np.float64))


def digits(num_features: int) -> tuple[np.ndarray, np.ndarray]:
  """scikit-learn's digits: leading principal components [1797, num_features], each of variance 1, and labels [1797] 0 to 9."""
  from sklearn import datasets

  rows, labels = datasets.load_digits(return_X_y=True)
  rows = rows - rows.mean(axis=0)
  loadings = np.linalg.svd(rows, full_matrices=False)[2][:num_features]
  loadings *= np.sign(np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1))
  components = rows @ loadings.T
  return components / components.std(axis=0), labels


def _labelled_rows(dataset):
  if isinstance(dataset, tuple):
    if len(dataset) != 2:
      raise Refused(
        f"dataset must be a pair (covariates, labels), got {len(dataset)} arrays.",
        argument="dataset",
        value=len(dataset),
      )
    return "array", dataset[0], np.asarray(dataset[1])
  name = os.fspath(dataset)
  if name in LABELLED:
    from sklearn import datasets

    rows, classes = getattr(datasets, f"load_{name}")(return_X_y=True)
    pair = {"wine": (0, 1), "digits": (3, 8)}.get(name)
    kept = np.ones(len(rows), bool) if pair is None else np.isin(classes, pair)
    return name, rows[kept], classes[kept]
  if Path(name).suffix == "" and "/" not in name and not os.path.exists(name):
    raise Refused(
      f"unknown data set {name!r}; known: {', '.join(LABELLED)}, or a path to a CSV file.",
      argument="dataset",
      value=name,
    )
  table, columns = read_csv(name)
  if len(columns) < 2:
    raise Refused(
      f"{name} must have a column of labels after those of covariates, got one column.", argument="dataset", value=name
    )
  return Path(name).name, table[:, :-1], table[:, -1]


def logistic_fit(data: LabelledData) -> np.ndarray:
  """Unpenalised maximum-likelihood coefficients [1 + features] of all rows, in float64.

  Raises:
    ValueError: the covariates separate the labels, so that there is no finite maximum.
  """
  import warnings

  from sklearn.linear_model import LogisticRegression

  model = LogisticRegression(C=np.inf, solver="newton-cholesky", fit_intercept=False, tol=1e-10, max_iter=200)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of convergence, where labels are separable: found below
    w = model.fit(data.covariates, data.labels).coef_[0]
  if ((data.covariates @ w > 0) == (data.labels == 1)).all():
    raise Refused(
      f"num_features must be smaller for {data.name}: its covariates separate the labels, so that no "
      "unpenalised fit exists.",
      argument="num_features",
    )
  return w


def split(name: str, rows: np.ndarray, columns: list[str], num_test: int = 500) -> RealData:
  """Holds out a fixed random 30% of the rows (at most num_test, at least 1) and standardises by the others.

  Columns that are constant in the training rows carry no density and are dropped by name.

  Args:
    name: what messages and results call it.
    rows: [N, columns].
    columns: their names.
    num_test: most rows that are held out.
  Raises:
    ValueError: too few rows, a number that is not finite or too large, or only constant columns.
  """
  rows = numbers(name, rows)
  if len(rows) < MIN_ROWS:
    raise Refused(f"{name} must have at least {MIN_ROWS} rows, got {len(rows)}.", argument="dataset", value=name)
  order = np.random.default_rng(2410_16713).permutation(len(rows))
  held_out = max(1, min(num_test, round(0.3 * len(rows))))
  test, train = rows[order[:held_out]], rows[order[held_out:]]
  return standardise(name, train, test, columns)


def numbers(name: str, rows) -> np.ndarray:
  """`rows` as float64 [rows, columns]; a ValueError unless they are finite numbers of that rank."""
  try:
    rows = np.asarray(rows, np.float64)
  except (TypeError, ValueError):
    raise Refused(f"{name} must be an array of numbers [rows, columns].", argument="dataset", value=name) from None
  if rows.ndim != 2:
    raise Refused(f"{name} must have the shape [rows, columns], got {rows.shape}.", argument="dataset", value=name)
  bad = np.argwhere(~np.isfinite(rows))
  if len(bad):
    raise Refused(
      f"{name} must be finite, but row {bad[0][0] + 1} of column {bad[0][1] + 1} is not; remove it.",
      argument="dataset",
      value=name,
    )
  return rows


def standardise(name: str, train: np.ndarray, test: np.ndarray, columns: list[str]) -> RealData:
  """Both parts in units of the training rows' mean and standard deviation.

  Args:
    name: what messages and results call it.
    train, test: [n, columns] and [m, columns].
    columns: their names.
  """
  with np.errstate(over="ignore", invalid="ignore"):  # reported below
    mean, std = train.mean(axis=0), train.std(axis=0)
    varies = (np.ptp(train, axis=0) > 0) & ~(std <= 1e-12 * np.abs(mean))
    if not varies.any():
      raise Refused(
        f"{name}: every column is constant in the training rows, so that there is no density to estimate; "
        "add a column or rows that vary.",
        argument="dataset",
        value=name,
      )
    scale = lambda x: ((x - mean) / np.where(varies, std, 1))[:, varies].astype(np.float32)
    train, test = scale(train), scale(test)
  dropped = tuple(column for column, keep in zip(columns, varies) if not keep)
  if not (np.isfinite(std).all() and np.isfinite(train).all() and np.isfinite(test).all()):
    raise Refused(
      f"{name}: numbers too large or too far apart to standardise in float32; rescale or clip them.",
      argument="dataset",
      value=name,
    )
  return RealData(name, train, test, dropped)


def read_csv(path) -> tuple[np.ndarray, list[str]]:
  """Numeric rows [rows, columns] float64 and column names; see `csv_file.read`."""
  return csv_file.read(path)[:2]
