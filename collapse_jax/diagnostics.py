"""Verdicts on trajectories, and simulation set beside theory. Functions of arrays and of result Datasets, no JAX."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from collapse_jax import theory

LABELS = ("growing", "bounded", "improving", "undecided")
SMALLEST = float(np.finfo(np.float32).tiny)  # logs of metrics that reached 0 stop here
_COMPARED = ("squared_error_of_mean", "covariance_trace_ratio", "covariance_log_det_ratio")


class Verdict(NamedTuple):
  """What a metric did over the generations of one cell; averages are over the runs that stayed finite.

  Attributes:
    final_mean, final_sem: mean at the last generation and its standard error, in the metric's units.
    slope, slope_low, slope_high: per generation over the last half, with a 95% interval.
    label: "growing" (keeps getting worse), "bounded" (flat, or on its way to a limit), "improving" (keeps getting
      better), or "undecided": fewer than two runs or half of the runs are finite, or too few generations recorded.
    num_finite, num_runs: runs that stayed finite, and all.
  """
  final_mean: float
  final_sem: float
  slope: float
  slope_low: float
  slope_high: float
  label: str
  num_finite: int
  num_runs: int


# ------------------------------------------------------------------------------------------------ verdicts

def verdict(values, generations, worse: str = "higher") -> Verdict:
  """Whether a metric keeps growing (like log t, t, ...) or levels off (flat, or c + a/t from either side).

  Growing: the mean over runs of the least-squares slope over (T/2, T] is on the worse side of 0 by its t-interval
  (one-sided 97.5%, so a flat metric is called growing in 2.5% of cells), and over (T/8, T] the mean over runs is
  closer to a straight line in log t, which has no limit, than to one in 1/t, which has. Improving is the mirror image.
  Runs are independent, so that noise may be correlated over generations.

  Args:
    values: [seeds, T] of a metric, logged where it is judged on a log scale.
    generations: [T] increasing; may be a recorded subset.
    worse: "higher" or "lower".
  Raises:
    ValueError: shapes do not match, or another `worse`.
  """
  values, generations = np.asarray(values, np.float64), np.asarray(generations, np.float64)
  if values.ndim != 2 or generations.shape != values.shape[1:] or not values.shape[1]:
    raise ValueError(f"values must be [seeds, T] and generations [T], got {values.shape} and {generations.shape}.")
  if worse not in ("higher", "lower"):
    raise ValueError(f'worse must be "higher" or "lower", got {worse!r}.')
  num_runs = len(values)
  values = values[np.isfinite(values).all(axis=1)]
  num = len(values)
  if not num:
    return Verdict(*[np.nan] * 5, "undecided", 0, num_runs)
  final_mean, final_sem, _, _ = _mean_interval(values[:, -1])
  last = generations > generations[-1] / 2
  late = generations > generations[-1] / 8
  enough = last.sum() >= 2 and late.sum() >= 4
  slopes = _slopes(values[:, last], generations[last]) if enough else np.full(num, np.nan)
  slope, _, low, high = _mean_interval(slopes)
  label = "bounded"
  if not enough or num < 2 or 2 * num < num_runs:
    label = "undecided"
  elif abs(slope) * generations[-1] > 1e-6 * np.abs(values).max():  # below that it is rounding
    mean = values[:, late].mean(axis=0)
    sustained = _residual(mean, np.log(generations[late])) <= _residual(mean, 1 / generations[late])
    if sustained and (low > 0 or high < 0):
      label = "growing" if (low > 0) == (worse == "higher") else "improving"
  return Verdict(final_mean, final_sem, slope, low, high, label, num, num_runs)


def verdicts(results) -> list[dict[str, Any]]:
  """A verdict for every cell that could run and every scalar metric with a worse direction, the primary one first.

  Metrics with the attribute log_scale are judged, averaged and reported as natural logs. One whose worse direction
  is lower and that is exactly 0 at the end in most runs is growing: it cannot get worse.

  Returns:
    rows: the cell's coordinates by dim, `metric`, `log` (bool) and `verdict`.
  """
  results = complete(results)
  generations = results.generation.values
  rows = []
  for name in metrics(results):
    about = results[name].attrs
    log = bool(about.get("log_scale"))
    for cell, values in cells(results, name):
      found = verdict(logged(values) if log else values, generations, about["worse"])
      if log and about["worse"] == "lower" and np.mean(values[:, -1] <= SMALLEST) > 0.5:
        found = found._replace(label="growing")
      rows.append({**cell, "metric": name, "log": log, "verdict": found})
  return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Rows of `verdicts` counted per workflow and metric: `workflow`, `metric`, `num_cells`, `num_lost`, a count per label.

  `num_lost` is the number of runs that did not stay finite.
  """
  summary: dict[tuple[str, str], dict[str, Any]] = {}
  for row in rows:
    key = (str(row["workflow"]), row["metric"])
    empty = {"workflow": key[0], "metric": key[1], "num_cells": 0, "num_lost": 0} | dict.fromkeys(LABELS, 0)
    entry = summary.setdefault(key, empty)
    found = row["verdict"]
    entry["num_cells"] += 1
    entry["num_lost"] += found.num_runs - found.num_finite
    entry[found.label] += 1
  return list(summary.values())


def smallest_bounded_share(results, metric: str) -> list[dict[str, Any]]:
  """The smallest real share from which on the metric is never growing, for a Dataset with the dim real_fraction.

  Returns:
    rows: the coordinates of a cell but for real_fraction, `metric`, and `share`: None where none of those tried will do.
  """
  labels: dict[tuple, list[tuple[float, str]]] = {}
  for row in verdicts(results):
    if row["metric"] == metric:
      cell = {dim: row[dim] for dim in grid_dims(results) if dim != "real_fraction"}
      labels.setdefault(tuple(cell.items()), []).append((float(row["real_fraction"]), row["verdict"].label))
  rows = []
  for items, found in labels.items():
    share = None
    for fraction, label in sorted(found, reverse=True):
      if label == "growing":
        break
      share = fraction
    rows.append({**dict(items), "metric": metric, "share": share})
  return rows


# ------------------------------------------------------------------------------------------ result Datasets

def complete(results):
  """The same results with the dims workflow, seed and generation and the variable cell_status, made where missing.

  Coordinates that a selection has turned into scalars become dims of length 1 again. The argument is not changed.
  """
  scalars = [str(name) for name, value in results.coords.items()
             if value.ndim == 0 and not str(name).endswith(("_value", "_note"))]
  made = [name for name in ("workflow", "seed", "generation") if name not in results.dims and name not in scalars]
  new = {"workflow": ["data"], "seed": [0], "generation": [1]}
  results = results.expand_dims({name: new[name] for name in made} | {name: [results[name].values] for name in scalars})
  if "generation" not in results.coords:
    results = results.assign_coords(generation=np.arange(1, results.sizes["generation"] + 1))
  if "cell_status" not in results:
    inside = [v.dims for v in results.data_vars.values() if {"seed", "generation"} <= set(v.dims)]
    dims = [d for d in results.dims if inside and all(d in one for one in inside) and d not in ("seed", "generation")]
    ok = np.full([results.sizes[d] for d in dims], "ok")
    return results.assign(cell_status=(dims, ok))
  status = results.cell_status
  return results.assign(cell_status=status.isel({d: 0 for d in ("seed", "generation") if d in status.dims}, drop=True))


def grid_dims(results) -> list[str]:
  """The dims of a cell: workflow first, then the hyperparameters."""
  dims = [str(d) for d in complete(results).cell_status.dims]
  return sorted(dims, key=lambda d: d != "workflow")


def metrics(results) -> list[str]:
  """Scalar metrics with a worse direction, the primary one first."""
  base = {*results.cell_status.dims, "seed", "generation"}
  names = [n for n, v in results.data_vars.items() if set(v.dims) == base and v.attrs.get("worse")]
  return sorted(names, key=lambda n: n != results.attrs.get("primary_metric"))


def cells(results, name: str) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
  """(coordinates of the cell by dim, values [seeds, T]) of a scalar metric; cells that could not run are left out."""
  grid = grid_dims(results)
  values = results[name].transpose(*grid, "seed", "generation").values
  status = results.cell_status.transpose(*grid).values
  for at in np.ndindex(*status.shape):
    if status[at] == "ok":
      yield {dim: results[dim].values[i] for dim, i in zip(grid, at)}, values[at]


def logged(values) -> np.ndarray:
  """Natural log in float64; 0 becomes the log of the smallest float32, NaN and infinity stay."""
  return np.log(np.maximum(np.asarray(values, np.float64), SMALLEST))


# ------------------------------------------------------------------------------------------------- theory

def predicted(results, cell: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray | None] | None:
  """Closed form of a metric in a cell of a Gaussian sweep, at its generations; None where there is none.

  Args:
    results: has the attribute task="gaussian".
    cell: coordinates by dim, as `cells` yields them.
    name: of the metric.
  Returns:
    expected values [T], NaN where unknown; variance of one run [T], or None where it is unknown.
  """
  if results.attrs.get("task") != "gaussian" or float(cell.get("temperature", 1.0)) != 1.0:
    return None
  if name not in _COMPARED or "num_samples" not in cell or "dim" not in cell:
    return None
  pick = results.generation.values - 1
  num_samples, dim, num_generations = int(cell["num_samples"]), int(cell["dim"]), int(results.generation.values[-1])
  unbiased = bool(results.attrs.get("unbiased", 0))
  workflow = str(cell["workflow"])
  if workflow.startswith("mix") and "real_fraction" in cell:
    share = float(cell["real_fraction"])
    workflow = f"mix({share}, fresh={'fresh=True' in workflow})" if share else "replace"
  if name == "covariance_log_det_ratio":
    if unbiased:
      return None
    mean, variance = (x[pick] for x in theory.gaussian_replace_log_det(dim, num_samples, num_generations))
    known = np.full(len(pick), workflow == "replace") | (pick == 0)  # every workflow shares the first generation
    return np.where(known, mean, np.nan), np.where(known, variance, np.nan)
  try:
    moments = theory.gaussian_moments(workflow, num_samples, num_generations, unbiased=unbiased)
  except (TypeError, ValueError):  # a user's workflow, under a name of its own
    return None
  if moments is None:
    return None
  if name == "covariance_trace_ratio":
    return moments.trace_ratio[pick], None
  return moments.mean_error[pick] * dim * float(cell.get("noise_var", 1.0)), None


def compare_with_theory(results, generations=(1, 2, 10, 100)) -> list[dict[str, Any]]:
  """z-scores of simulated means over seeds against closed forms, a row per cell, metric and generation.

  The log determinant has a known variance. Elsewhere the standard error is the sample's, from at least 10 finite runs;
  for the squared error of the mean it is at least that of a Gaussian mean, 2 E^2 / dim, because few runs of a skewed
  metric tend to miss its tail. Under `replace` both soon get too heavy a tail for a sample error to mean anything,
  and are compared at t = 1 and while 10 t <= num_samples.

  Returns:
    rows: coordinates by dim, `metric`, `generation`, `simulated`, `standard_error`, `predicted`, `z`, `num_finite`.
  """
  results = complete(results)
  rows = []
  for name in _COMPARED:
    if name not in results:
      continue
    for cell, values in cells(results, name):
      closed_form = predicted(results, cell, name)
      if closed_form is None:
        continue
      expected, variance = closed_form
      replaced = cell["workflow"] == "replace" or float(cell.get("real_fraction", 1)) == 0
      for t in generations:
        at = np.flatnonzero(results.generation.values == t)
        heavy = replaced and variance is None and t > 1 and 10 * t > cell["num_samples"]
        if not len(at) or heavy or not np.isfinite(expected[at[0]]):
          continue
        sample = values[:, at[0]].astype(np.float64)
        sample = sample[np.isfinite(sample)]
        if not len(sample) or (variance is None and len(sample) < 10):
          continue
        spread = sample.var(ddof=1) if variance is None else variance[at[0]]
        if name == "squared_error_of_mean":
          spread = max(spread, 2 * expected[at[0]] ** 2 / int(cell["dim"]))
        error = float(np.sqrt(spread / len(sample)))
        if error == 0:
          continue
        mean = float(sample.mean())
        rows.append({**cell, "metric": name, "generation": int(t), "simulated": mean, "standard_error": error,
                     "predicted": float(expected[at[0]]), "z": float((mean - expected[at[0]]) / error),
                     "num_finite": len(sample)})
  return rows


# ------------------------------------------------------------------------------------------------- parts

def _mean_interval(values) -> tuple[float, float, float, float]:
  """Mean, standard error and 95% t-interval of values [seeds]; NaN but for the mean where there is one seed."""
  num = len(values)
  mean = float(values.mean())
  if num < 2:
    return mean, np.nan, np.nan, np.nan
  sem = float(values.std(ddof=1) / np.sqrt(num))
  half = float(stats.t.ppf(0.975, num - 1)) * sem
  return mean, sem, mean - half, mean + half


def _slopes(values, x):
  """Least-squares slope of each row of values [seeds, k] against x [k]."""
  x = x - x.mean()
  return values @ x / (x @ x)


def _residual(y, x) -> float:
  """Sum of squares that a straight line in x leaves of y."""
  x = x - x.mean()
  y = y - y.mean()
  return float(y @ y - (x @ y) ** 2 / (x @ x))
