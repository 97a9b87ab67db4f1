"""Verdicts on the trajectories of result Datasets. Imports no JAX."""

from typing import Any

import numpy as np

from collapse_jax.diagnostics.curves import Verdict, verdict
from collapse_jax.diagnostics.reading import cells, complete, metrics

__all__ = ["is_log", "judged", "resolution", "verdict_of", "verdicts"]


def verdicts(results, names=None) -> list[dict[str, Any]]:
  """One row per workflow, cell and metric with a worse direction: the cell's coordinates, `metric`, `verdict`.

  Args:
    results: a Dataset of `sweep`.
    names: of the metrics; None: all, the primary one first.
  """
  results = complete(results)
  rows = []
  for name in metrics(results) if names is None else names:
    label = f"log {name}" if results[name].attrs.get("log_scale") else name
    for cell, values in cells(results, name):
      found = verdict_of(results, name, values)
      if results[name].attrs.get("measures") == "tail" and _drift_ended(results, cell):
        found = found._replace(label="diverging")  # it cannot fall below one outcome, where it is now
      rows.append({**cell, "metric": label, "verdict": found})
  return rows


def _drift_ended(results, cell) -> bool:
  """Whether most runs of a cell, of those of which it is known, have come down to one outcome."""
  if "censored" not in results:
    return False
  known = np.isfinite(results.collapse_generation.sel(cell))
  return bool((~results.censored.sel(cell) & known).sum() > 0.5 * known.sum())


def verdict_of(results, name: str, values) -> Verdict:
  """The verdict on values [seeds, T] of a metric, on the scale and in the direction that its attributes name.

  Args:
    results: a Dataset of `sweep`; attributes of the metric and the generations are read.
    name: of the metric.
    values: [seeds, T] in the metric's own units.
  """
  about = results[name].attrs
  values = judged(about, values)
  logged = about.get("log_scale") or is_log(about)
  return verdict(values, results.generation.values, about["worse"], resolution=resolution(values) if logged else None)


def judged(about, values) -> np.ndarray:
  """Values of a metric as a verdict takes them: their logs where it is judged on a log scale.

  Args:
    about: attributes of the metric.
    values: of any shape, in the metric's own units.
  """
  values = np.asarray(values, np.float64)
  if not about.get("log_scale"):
    return values
  least = 0.0 if about["worse"] == "lower" else 1e-300  # a ratio that falls to 0 has collapsed, an error of 0 has not
  with np.errstate(divide="ignore"):
    return np.log(np.maximum(values, least))


def resolution(values) -> float:
  """Of values in nats: a ratio is rounded relative to itself, however close to 0 its log is.

  Args:
    values: [seeds, T].
  """
  size = np.abs(values[np.isfinite(values)])
  return 1e-6 * max(1.0, float(size.max(initial=0.0)))


def is_log(about) -> bool:
  """Whether a metric is a log already, as its units say."""
  return str(about.get("units", "")).split(" ")[0] in ("nats", "bits")
