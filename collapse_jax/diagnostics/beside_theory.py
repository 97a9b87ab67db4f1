"""Simulation set beside what theory said of it when it was run. Imports no JAX."""

from typing import Any, NamedTuple

import numpy as np

from collapse_jax.diagnostics.reading import at_cell, cells, complete

__all__ = ["Law", "compare_with_theory", "normal_deviate", "predicted", "predicted_limit"]

FEW_RUNS = 10


class Law(NamedTuple):
  """What theory says of a metric in a cell, as `types.Expected`, in the recorded generations; `up_to` may be infinite.

  Attributes:
    mean: [recorded], NaN where it is not known; a number for a metric without generations.
    variance, least_variance: [recorded] of one run, NaN where they are not known; or None.
    up_to: last generation in which means over runs are held against it.
  """

  mean: np.ndarray
  variance: np.ndarray | None = None
  least_variance: np.ndarray | None = None
  up_to: float = np.inf


def predicted(results, cell: dict[str, Any], name: str) -> Law | None:
  """What `METRIC_expected` and what stands beside it say of a metric in a cell; None where they say nothing.

  Args:
    results: a Dataset of `sweep`.
    cell: coordinate -> value, as of `cells`.
    name: of a metric.
  """
  read = lambda ending: at_cell(results, f"{name}_{ending}", cell, ("generation",))
  mean = read("expected")
  if mean is None or np.isnan(mean).all():
    return None
  up_to = read("expected_up_to")
  last = np.inf if up_to is None or np.isnan(up_to).all() else float(np.ravel(up_to)[0])
  return Law(mean, read("expected_variance"), read("expected_least_variance"), last)


def predicted_limit(results, cell: dict[str, Any], name: str) -> float | None:
  """Limit of the mean of a metric in a cell, over generations; infinite where it has no bound; None where it is not known.

  Args:
    results: a Dataset of `sweep`.
    cell: coordinate -> value, as of `cells`.
    name: of a metric.
  """
  limit = at_cell(results, f"{name}_limit", cell)
  return None if limit is None or np.isnan(limit) else float(limit)


def compare_with_theory(results, generations=(1, 2, 10, 100)) -> list[dict[str, Any]]:
  """z-scores of simulated means against theory, a row per cell, metric and generation; over finite runs.

  Standard errors are those of the variance that theory knows, or the sample's over seeds and not below what theory knows of them.
  By a sample's error the ratio is Student's t; z is the normal deviate of the same probability, so that |z| > 5 is as rare
  with ten runs as with a thousand. Nothing is compared beyond `up_to`: there a law is of first order, or has too heavy a tail for a
  sample's error to mean anything.

  Args:
    results: a Dataset of `sweep`, with METRIC_expected.
    generations: at which they are compared, as far as they are recorded.
  """
  results = complete(results)
  rows: list[dict[str, Any]] = []
  if results.sizes["seed"] < FEW_RUNS:
    return rows
  base = {*results.cell_status.dims, "seed", "generation"}
  for name, variable in results.data_vars.items():
    if set(variable.dims) != base or f"{name}_expected" not in results:
      continue
    for cell, values in cells(results, str(name)):
      law = predicted(results, cell, str(name))
      for t in generations:
        at = np.flatnonzero(results.generation.values == t)
        if law is not None and len(at) and t <= law.up_to:
          row = _compared(values[:, at[0]].astype(np.float64), law, at[0])
          rows += [{**cell, "metric": str(name), "generation": int(t), **row}] if row else []
  return rows


def _compared(sample, law: Law, at) -> dict[str, Any] | None:
  mean, sample = law.mean[at], sample[np.isfinite(sample)]
  if not np.isfinite(mean) or len(sample) < FEW_RUNS:
    return None
  told = np.nan if law.variance is None else law.variance[at]
  spread = sample.var(ddof=1) if np.isnan(told) else told
  if np.isnan(told) and law.least_variance is not None:
    spread = np.fmax(spread, law.least_variance[at])
  if spread == 0:  # too few runs to see it vary
    return None
  error = np.sqrt(spread / len(sample))
  ratio = float((sample.mean() - mean) / error)
  return {
    "simulated": float(sample.mean()),
    "standard_error": float(error),
    "predicted": float(mean),
    "z": normal_deviate(ratio, len(sample) - 1) if np.isnan(told) else ratio,
    "num_finite": len(sample),
  }


def normal_deviate(t: float, freedom: int) -> float:
  """z with the tail probability that t has under Student's law, to half a percent, however far out (Wallace 1959).

  Args:
    t: Student's t.
    freedom: its degrees of freedom, from 1.
  """
  size = np.sqrt(freedom * np.log1p(t * t / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
  return float(np.copysign(size, t))
