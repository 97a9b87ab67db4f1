"""Published values, shipped as data, set beside results."""

import csv
import importlib.resources
from typing import Any

import numpy as np

from collapse_jax.diagnostics.reading import complete

__all__ = ["compare", "values"]

MAX_Z = 4.0  # both sides are means over about as many seeds: the standard error of a difference is sqrt(2) of ours


def values() -> list[dict[str, Any]]:
  """The table: source (arXiv number), place, task, select (coordinates of the cell), metric, generation (None: the metric
  has none), statistic, value, tolerance (relative, what the reading or the formula is good for) and basis.
  """
  text = (importlib.resources.files("collapse_jax.diagnostics") / "published.csv").read_text(encoding="utf-8")
  rows: list[dict[str, Any]] = []
  for row in csv.DictReader(text.splitlines()):
    select = dict(item.split("=") for item in row["select"].split(";"))
    rows.append(
      {
        **row,
        "select": select,
        "generation": int(row["generation"]) if row["generation"] else None,
        "value": float(row["value"]),
        "tolerance": float(row["tolerance"]),
      }
    )
  return rows


def compare(experiments: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
  """Published values beside all results that have a matching cell.

  Args:
    experiments: name -> result Dataset.
  Returns:
    rows of the table with `experiment`, `measured`, `standard_error` (over finite runs), `factor` (by which the metric was
    multiplied) and `agrees`: within the tolerance or 4 standard errors of the difference; and how many published values have no
    matching cell.
  """
  rows, unmatched = [], 0
  experiments = {name: complete(results) for name, results in experiments.items()}
  for one in values():
    found = [
      {**one, "experiment": name, **measured}
      for name, results in experiments.items()
      if (measured := _measured(results, one)) is not None
    ]
    unmatched += not found
    rows += found
  return rows, unmatched


def _measured(results, one) -> dict[str, Any] | None:
  if one["metric"] not in results:
    return None
  grid = results.cell_status.dims
  cell: dict[str, Any] = {}
  for dim in grid:
    match = [i for i, value in enumerate(results[dim].values) if _same(value, one["select"].get(dim))]
    if dim not in one["select"]:  # other settings, such as a temperature, must be the usual ones
      match = [0] if results.sizes[dim] == 1 and str(results[dim].values[0]) in ("1", "1.0", "gaussian") else []
    if not match:
      return None
    cell[dim] = match[0]
  if not set(one["select"]) <= set(grid):
    return None
  metric = results[one["metric"]].isel(cell)
  if str(results.cell_status.isel(cell).values) != "ok":
    return None
  if one["generation"] is not None:
    if one["generation"] not in results.generation.values:
      return None
    metric = metric.sel(generation=one["generation"])
  if "censored" in results and one["generation"] is None and results.censored.isel(cell).any():
    return None
  sample = metric.values.astype(np.float64).ravel() * _factor(one)
  sample = sample[np.isfinite(sample)]
  if len(sample) < 2:
    return None
  mean, error = float(sample.mean()), float(sample.std(ddof=1) / np.sqrt(len(sample)))
  allowed = max(one["tolerance"] * abs(one["value"]), MAX_Z * np.sqrt(2) * error)
  return {
    "measured": mean,
    "standard_error": error,
    "factor": _factor(one),
    "agrees": bool(abs(mean - one["value"]) <= allowed),
  }


def _factor(one) -> float:
  select = one["select"]
  if one["statistic"] == "times_num_samples":
    return float(select["num_samples"])
  if one["statistic"] == "over_base":  # the error of the first generation, noise_var d / (n - d - 1)
    n, dim = float(select["num_samples"]), float(select["dim"])
    return (n - dim - 1) / (dim * float(select["noise_var"]))
  return 1.0


def _same(value, wanted) -> bool:
  if wanted is None:
    return False
  try:
    return float(value) == float(wanted)
  except ValueError:
    return str(value) == wanted
