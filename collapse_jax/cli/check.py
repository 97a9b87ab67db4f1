"""Fail where results have become worse than a tolerance allows: a gate for continuous integration.

  collapse check runs/mine --metric=test_nll --tolerance=5%
  collapse check results/gaussian --metric=covariance_trace_ratio --tolerance=0.5 --workflows=accumulate
  collapse check runs/mine --tolerance=0.2 || echo "the generator collapses"

Compares the mean over seeds in the last generation with that in the first, relative to the first, in every cell; of a metric
that does not say which direction is worse, either counts. Prints one sentence. Exit status 0: all cells are within the tolerance;
1: one is not, or did not run, or has runs that did not stay finite; 2: the question cannot be answered. Also takes a CSV file with
the columns workflow, seed, generation, metric, value.
"""

from typing import NamedTuple

import numpy as np
from absl import flags

from collapse_jax.cli import reading
from collapse_jax.cli.parts import flag_values
from collapse_jax.refused import Refused

__all__ = ["Change", "changes", "define", "main", "sentence"]


class Change(NamedTuple):
  """What became of a cell.

  Attributes:
    cell: "workflow=replace, num_samples=10".
    first, last: means over seeds in the first and in the last generation.
    worse: (last - first) / |first| in the direction that is worse, its size where neither is; infinite where the cell did not run,
      or has lost runs.
    error: its standard error over seeds, NaN for a single one.
    why: why it is infinite, or "".
  """

  cell: str
  first: float
  last: float
  worse: float
  error: float
  why: str = ""


def define() -> None:
  """Flags of this command."""
  flags.DEFINE_string("metric", None, "Which metric; default: the first one of the results.")
  flags.DEFINE_string("tolerance", "0.2", "How much worse the last generation may be than the first: 0.05, or 5%.")
  flags.DEFINE_string("workflows", None, "Comma list: only these of the results' workflows; default: all.")


def main(arguments: list[str]) -> None:
  """Prints a sentence; exit status 1 where a cell is beyond the tolerance."""
  tolerance = reading.tolerance()
  wanted = flag_values.items("workflows") if flag_values.FLAGS.workflows is not None else []
  found = reading.measured(reading.only(arguments, "one directory with results, or a CSV file"))
  for name in wanted:
    if name not in found.workflow.values:
      raise Refused(f"--workflows names {name!r}; these results have {', '.join(map(str, found.workflow.values))}.")
  if wanted:
    found = found.sel(workflow=wanted)
  name = reading.metric(found)
  rows = changes(found, name)
  generations = [int(t) for t in found.generation.values[[0, -1]]]
  print(sentence(rows, name, tolerance, generations, bool(found[name].attrs.get("worse"))))
  if not all(row.worse <= tolerance for row in rows):
    raise SystemExit(1)


def changes(results, name: str) -> list[Change]:
  """The change of each cell.

  Args:
    results: a Dataset of `sweep`, of which every coordinate is a dim.
    name: of a metric.
  """
  from collapse_jax import diagnostics

  sign = {"higher": 1.0, "lower": -1.0}.get(results[name].attrs.get("worse", ""), 0.0)
  several = [dim for dim in results.cell_status.dims if dim == "workflow" or results.sizes[dim] > 1]
  text = lambda cell: ", ".join(f"{dim}={cell[dim]}" for dim in several)
  rows = [_change(text(cell), values, sign) for cell, values in diagnostics.cells(results, name)]
  status = results.cell_status
  for at in np.argwhere(status.values != "ok"):
    cell = {dim: status[dim].values[i] for dim, i in zip(status.dims, at)}
    rows.append(Change(text(cell), np.nan, np.nan, np.inf, np.nan, f"it did not run ({status.values[tuple(at)]})"))
  return rows


def _change(cell: str, values, sign: float) -> Change:
  """Of values [seeds, T]; sign 0: neither direction is worse."""
  first, last = np.asarray(values[:, 0], np.float64), np.asarray(values[:, -1], np.float64)
  lost = int((~np.isfinite(first) | ~np.isfinite(last)).sum())
  if lost:
    return Change(cell, np.nan, np.nan, np.inf, np.nan, f"{lost} of {len(first)} runs did not stay finite")
  begun = abs(first.mean())
  if not begun:
    return Change(cell, 0.0, last.mean(), np.inf, np.nan, "its first mean is 0, to which nothing is relative")
  rest = last - last.mean() / first.mean() * first  # of a ratio of means
  error = rest.std(ddof=1) / np.sqrt(len(first)) / begun if len(first) > 1 else np.nan
  change = (last.mean() - first.mean()) / begun
  return Change(cell, first.mean(), last.mean(), sign * change if sign else abs(change), error)


def sentence(rows: list[Change], name: str, tolerance: float, generations: list[int], directed: bool = True) -> str:
  """Of the worst cell, and how many are like it.

  Args:
    rows: of all cells, at least one.
    name: of the metric.
    tolerance: the largest change that is allowed.
    generations: the first and the last.
    directed: whether one direction is worse.
  """
  worst = max(rows, key=lambda row: row.worse)
  beyond = sum(row.worse > tolerance for row in rows)
  verdict = f"{'beyond' if beyond else 'within'} the tolerance of {tolerance:.3g}"
  others = f"; {beyond} of {len(rows)} cells are" if beyond and len(rows) > 1 else ""
  if worst.why:
    return f"{name} cannot be said to hold where {worst.cell}: {worst.why}{others and f'; {beyond} of {len(rows)} cells fail'}."
  spread = "" if np.isnan(worst.error) else f" +- {worst.error:.2g}"
  word = "away" if not directed else "worse" if worst.worse > 0 else "better"
  change = f"{abs(worst.worse):.3g}{spread} {word}, relative to the first"
  means = f"{worst.first:.4g} to {worst.last:.4g}"
  where = f"where {worst.cell}" if len(rows) == 1 else f"at worst, where {worst.cell}"
  return (
    f"{name} goes from {means} between generations {generations[0]} and {generations[1]} {where}: "
    f"{change}, {verdict}{others}."
  )
