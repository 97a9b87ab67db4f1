"""Verdicts on trajectories, and simulation set beside theory. Plain functions of arrays and of result Datasets."""

from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from collapse_jax import theory


class Verdict(NamedTuple):
  """What a metric did over the generations of one cell.

  Attributes:
    label: "growing", "bounded", or "undecided" where fewer than two runs are finite.
    final_mean, final_sem: mean over finite runs at the last generation, and its standard error.
    slope, slope_low, slope_high: per generation over the last half, least squares per run, with a 95% interval.
    num_finite, num_runs: runs that stayed finite, and all.
  """
  label: str
  final_mean: float
  final_sem: float
  slope: float
  slope_low: float
  slope_high: float
  num_finite: int
  num_runs: int


def verdict(values, generations, worse: str = "higher") -> Verdict:
  """Whether a metric grows without bound or levels off.

  The metric is growing if its slope over the last half is above zero (one-sided 97.5%) and, after the first eighth, its
  mean is closer to a straight line in log t than to one in 1/t, which tends to a limit.

  Args:
    values: [seeds, T] of a metric, logged where it is judged on a log scale.
    generations: [T] increasing.
    worse: "higher" or "lower": the direction that counts as growth.
  """
  values, generations = np.asarray(values, np.float64), np.asarray(generations, np.float64)
  finite = np.isfinite(values).all(axis=1)
  values = values[finite]
  num = len(values)
  if num < 2 or len(generations) < 4:
    final = float(values[:, -1].mean()) if num else np.nan
    return Verdict("undecided", final, np.nan, np.nan, np.nan, np.nan, num, len(finite))
  last = generations > generations[-1] / 2
  slopes = _slopes(values[:, last], generations[last])
  half = stats.t.ppf(0.975, num - 1) * slopes.std(ddof=1) / np.sqrt(num)
  sign = -1.0 if worse == "lower" else 1.0
  rising = sign * slopes.mean() - half > 0
  late = generations > generations[-1] / 8
  mean = values[:, late].mean(axis=0)
  sustained = _residual(mean, np.log(generations[late])) <= _residual(mean, 1 / generations[late])
  scale = 1e-6 * np.abs(values).max()
  label = "growing" if rising and sustained and abs(slopes.mean()) * generations[-1] > scale else "bounded"
  final = values[:, -1]
  return Verdict(label, float(final.mean()), float(final.std(ddof=1) / np.sqrt(num)), float(slopes.mean()),
                 float(slopes.mean() - half), float(slopes.mean() + half), num, len(finite))


def _slopes(values, x):
  """Least-squares slope of each row of values [seeds, k] against x [k]."""
  x = x - x.mean()
  return values @ x / (x @ x)


def _residual(y, x):
  """Sum of squares that a straight line in x leaves of y."""
  slope, intercept = np.polyfit(x, y, 1)
  return float(np.sum((y - intercept - slope * x) ** 2))


def cells(results, name: str):
  """Yields (coordinates of the cell, values [seeds, T]) of a scalar metric, cells that cannot run left out."""
  grid = [dim for dim in results.cell_status.dims]
  values = results[name].transpose(*grid, "seed", "generation")
  for at in np.ndindex(*(results.sizes[dim] for dim in grid)):
    if results.cell_status.values[at] == "ok":
      yield {dim: results[dim].values[i] for dim, i in zip(grid, at)}, values.values[at]


def metrics(results) -> list[str]:
  """Scalar metrics with a worse direction, the primary one first."""
  base = {*results.cell_status.dims, "seed", "generation"}
  names = [n for n, v in results.data_vars.items() if set(v.dims) == base and v.attrs.get("worse")]
  return sorted(names, key=lambda n: n != results.attrs.get("primary_metric"))


def verdicts(results) -> list[dict[str, Any]]:
  """One row per workflow, cell and metric with a worse direction: the cell's coordinates, `metric`, `verdict`."""
  rows = []
  for name in metrics(results):
    about = results[name].attrs
    for cell, values in cells(results, name):
      if about.get("log_scale"):
        values = np.log(np.maximum(values.astype(np.float64), 1e-300))
      rows.append({**cell, "metric": f"log {name}" if about.get("log_scale") else name,
                   "verdict": verdict(values, results.generation.values, about["worse"])})
  return rows


def predicted(results, cell: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray | None] | None:
  """Closed form of a metric in a cell: expected values [T] and, where known, the variance of one run; else None."""
  last = int(results.generation.values[-1])
  pick = results.generation.values - 1
  if results.attrs.get("task") != "gaussian" or float(cell.get("temperature", 1.0)) != 1.0:
    return None
  workflow = cell["workflow"]
  if workflow.startswith("mix") and "real_fraction" in cell:
    share = float(cell["real_fraction"])
    workflow = "replace" if share == 0 else f"mix({share}, fresh={'fresh' in workflow})"
  n, dim = int(cell["num_samples"]), int(cell["dim"])
  unbiased = bool(results.attrs.get("unbiased", 0))
  if name == "covariance_log_det_ratio":
    if unbiased:
      return None
    mean, variance = (x[pick] for x in theory.gaussian_replace_log_det(dim, n, last))
    if workflow != "replace":  # every workflow shares the first generation
      mean, variance = np.where(pick == 0, mean, np.nan), np.where(pick == 0, variance, np.nan)
    return mean, variance
  moments = theory.gaussian_moments(workflow, n, last, unbiased=unbiased)
  if moments is None:
    return None
  if name == "covariance_trace_ratio":
    return moments.trace_ratio[pick], None
  if name == "squared_error_of_mean":
    return moments.mean_error[pick] * dim * float(cell.get("noise_var", 1.0)), None
  return None


def compare_with_theory(results, generations=(1, 2, 10, 100)) -> list[dict[str, Any]]:
  """z-scores of simulated means against closed forms, a row per cell, metric and generation.

  The standard error is the sample's over seeds, or the known one of the log determinant. Under `replace` the trace of
  few samples soon has too heavy a tail for its sample error to mean anything: it is compared while 5 t <= num_samples.
  """
  rows = []
  for name in ("squared_error_of_mean", "covariance_trace_ratio", "covariance_log_det_ratio"):
    if name not in results or results.sizes["seed"] < 10:
      continue
    for cell, values in cells(results, name):
      theory_of_cell = predicted(results, cell, name)
      if theory_of_cell is None:
        continue
      expected, variance = theory_of_cell
      for t in generations:
        at = np.flatnonzero(results.generation.values == t)
        heavy = cell["workflow"] == "replace" and name == "covariance_trace_ratio" and 5 * t > cell["num_samples"]
        if not len(at) or heavy or not np.isfinite(expected[at[0]]):
          continue
        sample = values[:, at[0]].astype(np.float64)
        spread = sample.var(ddof=1) if variance is None else variance[at[0]]
        error = np.sqrt(spread / len(sample))
        rows.append({**cell, "metric": name, "generation": int(t), "simulated": float(sample.mean()),
                     "standard_error": float(error), "predicted": float(expected[at[0]]),
                     "z": float((sample.mean() - expected[at[0]]) / error)})
  return rows
