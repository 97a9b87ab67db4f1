"""What the interactive panel of an experiment draws: numbers only. How it is drawn is in panel.json, a Vega-Lite specification."""

from typing import Any

import numpy as np

from collapse_jax import diagnostics
from collapse_jax.diagnostics import reading
from collapse_jax.plotting import figures
from collapse_jax.plotting.panels import interval
from collapse_jax.report.tables import cell_text

__all__ = ["panel"]

_MOST_ROWS = 12_000  # of an experiment; each takes about 40 bytes of the page
_FEWEST_POINTS, _MOST_POINTS = 8, 60  # of a curve


def panel(results) -> dict[str, Any] | None:
  """Curves of every cell, workflow and metric, as far as they find room; None where not even those of the primary metric do.

  Args:
    results: a Dataset of `sweep`, in which every coordinate is a dim.
  Returns:
    `cells`: texts; `metrics`: `title`, `log` where it is drawn on a log axis, `positive` where it can be; `workflows`, `colours`;
    `long`: whether generations are on a log axis; `seeds`; and `rows`, a CSV of cell, metric and workflow by number, t, mean, low
    and high end of the 95% interval of the mean over runs that stayed finite, their number, and theory.
  """
  grid = list(results.cell_status.dims)
  workflows = [str(name) for name in results.workflow.values]
  num_cells = int(np.prod([results.sizes[dim] for dim in grid]))
  names = reading.scalars(results)[: max(_MOST_ROWS // (num_cells * _FEWEST_POINTS), 0)]
  if not names:
    return None
  points = min(_MOST_POINTS, _MOST_ROWS // (num_cells * len(names)))
  t = results.generation.values
  spaced = np.geomspace if t[-1] >= figures.LONG else np.linspace
  shown = np.unique(np.searchsorted(t, spaced(t[0], t[-1], points).round().clip(t[0], t[-1])))
  texts: dict[str, int] = {}
  lines = ["cell,metric,workflow,t,mean,low,high,runs,theory"]
  for m, name in enumerate(names):
    for cell, values in diagnostics.cells(results, name):
      rest = {dim: value for dim, value in cell.items() if dim != "workflow"}
      at = texts.setdefault(cell_text(results, rest), len(texts))
      law = diagnostics.predicted(results, cell, name)
      theory = np.full(len(t), np.nan) if law is None else np.broadcast_to(law.mean, len(t))
      kept = reading.finite_runs(values)
      mean, half = interval(kept)
      key = f"{at},{m},{workflows.index(str(cell['workflow']))}"
      for i in shown[shown < len(mean)]:
        numbers = (mean[i], mean[i] - half[i], mean[i] + half[i])
        told = ",".join(f"{number:.5g}" for number in numbers)
        lines.append(f"{key},{t[i]},{told},{len(kept)},{f'{theory[i]:.5g}' if np.isfinite(theory[i]) else ''}")
  colours = figures.workflow_colours(workflows)
  return {
    "cells": list(texts),
    "metrics": [_about(name, results[name]) for name in names],
    "workflows": workflows,
    "colours": [colours[name] for name in workflows],
    "long": bool(t[-1] >= figures.LONG),
    "seeds": results.sizes["seed"],
    "rows": "\n".join(lines),
  }


def _about(name, values) -> dict[str, Any]:
  about, known = values.attrs, values.values[np.isfinite(values.values)]
  units = about.get("units", "1")
  title = (about.get("long_name") or name) + ("" if units in ("1", "") else f" ({units})")
  return {
    "title": title,
    "log": bool(about.get("log_scale")),
    "positive": bool((known >= 0).all() and (known > 0).any()),
  }
