"""The tables of a report page as rows of texts: verdicts, definitions, theory beside simulation. Reads Datasets only."""

import base64
import json
from typing import Any

import numpy as np
from scipy import stats

from collapse_jax import diagnostics, plotting
from collapse_jax.diagnostics import definitions

__all__ = ["agreement", "cell_text", "part"]


def part(name, results, figures, rows) -> dict[str, Any]:
  """What the page says of one experiment.

  Args:
    name: of the experiment.
    results: its Dataset.
    figures: title -> bytes of a PNG file.
    rows: of `diagnostics.verdicts`, where there are generations.
  """
  attrs = results.attrs
  drawn = [{"name": title, "png": base64.b64encode(png).decode()} for title, png in figures.items()]
  if "generation" not in results.sizes:  # no trajectory to judge
    what = (
      f"{attrs.get('num_runs', '?')} runs, one generation each, in {float(attrs.get('wall_seconds', np.nan)):.0f} s."
    )
    return {"name": name, "what": what, "finding": attrs.get("finding", ""), "figures": drawn}
  sizes = " x ".join(f"{results.sizes[d]} {d}" for d in results.cell_status.dims if results.sizes[d] > 1)
  bad = (
    int((~results.finite.where(results.cell_status == "ok", True).all("generation")).sum())
    if "finite" in results
    else 0
  )
  what = (
    f"{attrs.get('num_runs', '?')} runs ({sizes or '1 cell'} x {results.sizes['seed']} seeds), "
    f"{int(results.generation.values[-1])} generations, in {float(attrs.get('wall_seconds', np.nan)):.0f} s; "
    f"{attrs.get('num_compilations', '?')} programs took {float(attrs.get('compile_seconds', np.nan)):.0f} "
    "thread-seconds to compile (several compile side by side)."
  )
  verdicts = [_verdict_row(results, row) for row in rows]
  findings = definitions.diagnose(results)
  theory = diagnostics.compare_with_theory(results)
  comparisons = json.loads(attrs.get("comparisons", "[]"))
  set_beside = [{"metric": row["system"], "workflow": row["source"], "z": row["z"]} for row in comparisons]
  summary: dict[tuple[str, str], dict[str, Any]] = {}
  for row in rows:
    key = (str(row["workflow"]), row["metric"])
    entry = summary.setdefault(
      key, {"workflow": key[0], "metric": key[1], "diverging": 0, "growing": 0, "bounded": 0, "undecided": 0}
    )
    entry[row["verdict"].label] += 1
  status = results.cell_status.values.ravel()
  reasons = sorted({reason for reason in status if reason != "ok"})
  return {
    "name": name,
    "what": what,
    "about": _about(attrs.get("system", "")),
    "finding": attrs.get("finding", ""),
    "health": "Every run stayed finite." if not bad else f"{bad} runs became non-finite and are left out of the means.",
    "refused": [f"{reason} ({int((status == reason).sum())} cells)" for reason in reasons],
    "summary": list(summary.values()),
    "verdicts": verdicts,
    "limits": any(row["limit"] for row in verdicts),
    "nulls": any(row["null"] for row in verdicts),
    "workflows": [str(name) for name in results.workflow.values],
    "definitions": [_definition_row(row) for row in definitions.summary(findings)],
    "findings": [_finding_row(results, row) for row in findings if row["applies"]],
    "figures": drawn,
    "theory": [_theory_row(results, row) for row in theory],
    "z_scores": [*theory, *set_beside],
    "comparisons": [_comparison_row(row) for row in comparisons],
    "worst_comparison": f"{max((abs(row['z']) for row in comparisons), default=0):.1f}",
    "samples": _samples(attrs.get("samples", "")),
    "worst": f"{max((abs(row['z']) for row in theory), default=0):.1f}",
  }


def _about(name: str) -> list[str]:
  """What the published system is that results are of."""
  from collapse_jax.systems import page, table

  return page.summaries(table.SYSTEMS[name].text) if name in table.SYSTEMS else []


def _samples(text: str) -> list[dict[str, Any]]:
  """Cells with the texts of up to five generations, of a JSON of cell -> generation -> texts."""
  cells = []
  for name, generations in json.loads(text or "{}").items():
    numbers = sorted(map(int, generations))
    shown = sorted({numbers[round(i)] for i in np.linspace(0, len(numbers) - 1, 5)})
    cells.append({"name": name, "columns": [{"t": t, "texts": generations[str(t)]} for t in shown]})
  return cells


def agreement(z_scores: dict[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
  """All comparisons with theory in one table, a row per experiment, metric and workflow."""
  groups: dict[tuple[str, str, str], list[float]] = {}
  for name, rows in z_scores.items():
    for row in rows:
      groups.setdefault((name, row["metric"], str(row["workflow"])), []).append(abs(row["z"]))
  every = np.concatenate([np.zeros(0), *groups.values()])
  if not len(every):
    return None
  table = [
    {
      "name": name,
      "metric": metric,
      "workflow": workflow,
      "num": len(z),
      "worst": f"{max(z):.1f}",
      "rms": f"{np.sqrt(np.mean(np.square(z))):.2f}",
    }
    for (name, metric, workflow), z in groups.items()
  ]
  usual = stats.norm.isf(0.5 / len(every) / 2)
  return {"rows": table, "total": len(every), "worst": f"{every.max():.1f}", "expected": f"{usual:.1f}"}


def cell_text(results, row) -> str:
  """The coordinates of a cell, as far as they tell it from others of the same results."""
  names = [d for d in results.cell_status.dims if d == "workflow" or results.sizes[d] > 1]
  return ", ".join(str(row[d]) if d == "workflow" else f"{d} {plotting.text_of(row[d])}" for d in names if d in row)


def _verdict_row(results, row) -> dict[str, str]:
  v = row["verdict"]
  return {
    "cell": cell_text(results, row),
    "metric": row["metric"],
    "final": f"{v.final_mean:.4g} ± {v.final_sem:.2g}",
    "slope": f"{v.slope:.3g} [{v.slope_low:.3g}, {v.slope_high:.3g}]",
    "finite": f"{v.num_finite}/{v.num_runs}",
    "label": v.label,
    "possible": " or ".join(v.possible) if 1 < len(v.possible) < 3 else "",
    "limit": _limit(results, row),
    "null": _null(results, row),
  }


def _null(results, row) -> str:
  """What the metric would be of real rows at the last generation."""
  null = diagnostics.null_of(results, row, row["metric"].removeprefix("log "))
  return "" if null is None else f"{null[-1]:.4g}"


def _limit(results, row) -> str:
  """The mean over finite runs at the last generation, never of a log, and its limit."""
  name = row["metric"].removeprefix("log ")
  limit = diagnostics.predicted_limit(results, row, name)
  if limit is None:
    return ""
  cell = {dim: row[dim] for dim in results.cell_status.dims}
  last = results[name].sel(cell).isel(generation=-1).values.astype(np.float64)
  last = last[np.isfinite(last)]
  return f"{last.mean() if len(last) else np.nan:.4g} \N{RIGHTWARDS ARROW} {limit:.4g}"


def _definition_row(row) -> dict[str, Any]:
  counts = {
    workflow: f"{fires} of {applies}" if applies else "" for workflow, (fires, applies) in row["counts"].items()
  }
  return row | {"counts": counts}


def _finding_row(results, row) -> dict[str, str]:
  return {
    "cell": cell_text(results, row),
    "definition": row["definition"],
    "metric": row["metric"],
    "fires": "fires" if row["fires"] else "",
    "p": f"{row['p_value']:.2g}",
    "statement": row["statement"],
  }


def _theory_row(results, row) -> dict[str, str]:
  return {
    "cell": cell_text(results, row),
    "metric": row["metric"],
    "generation": str(row["generation"]),
    "simulated": f"{row['simulated']:.5g} ± {row['standard_error']:.2g}",
    "predicted": f"{row['predicted']:.5g}",
    "runs": str(row["num_finite"]),
    "z": f"{row['z']:.2f}",
  }


def _comparison_row(row) -> dict[str, str]:
  optional = lambda value, form: "" if value is None else format(value, form)
  return {
    "system": row["system"],
    "source": row["source"],
    "quantity": row["quantity"],
    "predicted": f"{row['predicted']:.4g}",
    "simulated": f"{row['simulated']:.4g} ± {row['standard_error']:.2g}",
    "z": f"{row['z']:.2f}",
    "twin_z": optional(row["twin_z"], ".0f"),
    "reference": optional(row["reference"], ".4g"),
  }
