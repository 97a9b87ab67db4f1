"""Results, of a sweep or as somebody else measured them, in a file of five columns. Imports no JAX."""

import os
from typing import Any

import numpy as np

from collapse_jax import diagnostics
from collapse_jax.data import files
from collapse_jax.diagnostics import reading
from collapse_jax.refused import Refused

__all__ = ["COLUMNS", "metric_of", "read", "runs"]

COLUMNS = ("workflow", "seed", "generation", "metric", "value")


def read(path: str | os.PathLike[str]) -> Any:
  """A Dataset, as of `sweep`, from a CSV file with the columns workflow, seed, generation, metric, value, in any order.

  A line a number. What is not there, and values that are empty or no numbers that can be, are NaN. Seeds are any labels.

  Args:
    path: of the file.
  Returns:
    a Dataset with dims workflow, seed, generation and a variable a metric.
  Raises:
    FileNotFoundError: there is none.
    ValueError: other columns, generations that are no integers from 1, or two values of the same thing; the message says which.
  """
  import pandas
  import xarray

  path = files.home(path)
  files.check_regular(path)
  shown = files.shown(path)
  try:
    text = {name: str for name in COLUMNS if name != "value"}
    table = pandas.read_csv(path, skipinitialspace=True, dtype=text, **files.exact_numbers())
  except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
    raise Refused(f"{shown} is no CSV file: {str(error).strip()}.") from None
  table.columns = [str(name).strip() for name in table.columns]
  if sorted(table.columns) != sorted(COLUMNS):
    raise Refused(f"{shown} must have the columns {', '.join(COLUMNS)}, has {', '.join(table.columns)}.")
  if not len(table):
    raise Refused(f"{shown} holds no rows.")
  names = ["workflow", "seed", "generation", "metric"]
  line = lambda wrong: f"{shown}, line {int(np.flatnonzero(wrong)[0]) + 2}"
  if (empty := table[names].isna().any(axis=1).to_numpy()).any():
    raise Refused(f"{line(empty)}: only the value may be missing.")
  generation = pandas.to_numeric(table["generation"], errors="coerce").to_numpy(float)
  if (wrong := ~((generation >= 1) & (generation == np.round(generation)))).any():
    found = table["generation"].to_numpy()[np.flatnonzero(wrong)[0]]
    raise Refused(
      f"{line(wrong)}: generation must be an integer from 1, got {found}; 1 is the model that is fitted to real data only.",
      argument="generation",
      value=found,
    )
  value = pandas.to_numeric(table["value"], errors="coerce")
  if (wrong := (value.isna() & table["value"].notna()).to_numpy()).any():
    raise Refused(f"{line(wrong)}: {table['value'].to_numpy()[np.flatnonzero(wrong)[0]]!r} is no number.")
  table = table.assign(value=value.astype(float), generation=generation.astype(int))
  if (twice := table.duplicated(names).to_numpy()).any():
    raise Refused(f"{line(twice)}: a second value of the same workflow, seed, generation and metric.")
  for name in ("workflow", "seed", "metric"):
    table[name] = table[name].str.strip()
  if table["seed"].str.fullmatch(r"\d{1,9}").all():
    table["seed"] = table["seed"].astype(int)
  whole = table.set_index(["metric", "workflow", "seed", "generation"])["value"].to_xarray()
  # In the order of the file, where there is one.
  whole = whole.sel(workflow=table["workflow"].unique(), metric=table["metric"].unique())
  return xarray.Dataset(
    {str(name): whole.sel(metric=name, drop=True).astype(np.float64) for name in whole.metric.values},
    attrs={"primary_metric": str(whole.metric.values[0])},
  )


def runs(results: Any) -> Any:
  """What `sweep`, `loop` or `read` returned, or the path of a CSV file, with every coordinate as a dim."""
  return diagnostics.complete(read(results) if isinstance(results, str | os.PathLike) else results)


def metric_of(results: Any, metric: str) -> str:
  """The metric that is asked for, "" for the primary one, or else the first that has a worse direction.

  Args:
    results: a Dataset, complete.
    metric: its name, or "".
  Raises:
    ValueError: there is none of that name.
  """
  known = reading.scalars(results)
  if not known:
    raise Refused("these results have no metric.")
  metric = metric or results.attrs.get("primary_metric") or known[0]
  if metric not in known:
    raise Refused.must_be("metric", f"one of {', '.join(known)}", metric)
  return metric
