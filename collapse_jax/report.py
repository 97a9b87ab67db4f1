"""A self-contained report page of one or several result Datasets."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from collapse_jax import diagnostics, plotting
from collapse_jax.diagnostics import definitions

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>collapse_jax report</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { border-top: 2px solid #ddd; padding-top: 1rem } img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto }
td, th { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left } td.n { text-align: right }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere } figure { margin: 1rem 0 } summary { cursor: pointer }
.texts td { vertical-align: top; min-width: 14rem; white-space: pre-wrap; overflow-wrap: anywhere }
.diverging { color: #b00020; font-weight: 600 } .growing { color: #a15c00; font-weight: 600 }
.bounded { color: #00695c; font-weight: 600 } .why { color: #666 }
@media print { details::details-content { content-visibility: visible; display: block; height: auto } }
</style></head><body>
<h1>Model collapse: simulation report</h1>
<p>Each generation is fitted to data that earlier generations made. The verdict <b>diverging</b> means that
the metric is still getting worse at the end, like t or faster, or became infinite; <b>growing</b> that it is getting worse more
slowly, and not towards a limit (a KDE's likelihood falls like log t even when data accumulate); <b>bounded</b> that it is not;
<b>undecided</b> that the runs do not tell these apart, or that too few of them stayed finite. Metrics on a log scale are judged by their logs.</p>
{% if agreement %}
<h2>Theory against simulation</h2>
<p>{{ agreement.total }} comparisons of simulated means with closed forms; the largest |z| is {{ agreement.worst }}, where
{{ agreement.expected }} would be usual for as many independent ones. Each experiment below has them one by one.</p>
<table><tr><th>experiment</th><th>metric</th><th>workflow or source</th><th>comparisons</th><th>root mean square of z</th>
<th>largest |z|</th></tr>
{% for r in agreement.rows %}<tr><td>{{ r.name }}</td><td>{{ r.metric }}</td><td>{{ r.workflow }}</td>
<td class="n">{{ r.num }}</td><td class="n">{{ r.rms }}</td><td class="n">{{ r.worst }}</td></tr>{% endfor %}</table>
{% endif %}
{% for part in parts %}
<h2>{{ part.name }}</h2>
<p>{{ part.what }}</p>
{% if part.finding %}<p><b>{{ part.finding }}</b></p>{% endif %}
{% if part.verdicts is defined %}
<p>{{ part.health }}</p>
{% if part.refused %}<p>Cells that could not run:</p><ul>{% for r in part.refused %}<li>{{ r }}</li>{% endfor %}</ul>{% endif %}
<h3>Verdict per workflow</h3>
<table><tr><th>workflow</th><th>metric</th><th>cells diverging</th><th>cells growing</th><th>cells bounded</th><th>undecided</th></tr>
{% for r in part.summary %}<tr><td>{{ r.workflow }}</td><td>{{ r.metric }}</td>
<td class="n diverging">{{ r.diverging }}</td><td class="n growing">{{ r.growing }}</td>
<td class="n bounded">{{ r.bounded }}</td><td class="n">{{ r.undecided }}</td></tr>{% endfor %}</table>
<details {{ "open" if part.verdicts|length <= 12 }}><summary>every cell ({{ part.verdicts|length }} rows)</summary>
<table><tr><th>cell</th><th>metric</th><th>final mean ± s.e.</th><th>slope per generation over the last half [95% interval]</th>
<th>finite runs</th>{% if part.limits %}<th>mean at the end &rarr; limit by theory</th>{% endif %}<th>verdict</th></tr>
{% for r in part.verdicts %}<tr><td>{{ r.cell }}</td><td>{{ r.metric }}</td><td class="n">{{ r.final }}</td>
<td class="n">{{ r.slope }}</td><td class="n">{{ r.finite }}</td>{% if part.limits %}<td class="n">{{ r.limit }}</td>{% endif %}

<td class="{{ r.label }}">{{ r.label }}{% if r.possible %}: {{ r.possible }}{% endif %}</td></tr>{% endfor %}
</table></details>
<h3>Definitions of collapse</h3>
<p>Cells in which each of the eight definitions of Schaeffer et al. (arXiv 2503.03150) fires, of those to which it applies. Every
test has level 5%, so that one cell in twenty fires without any change; the verdicts above have level 0.1%. Catastrophic means
tenfold. The first coordinate of a Gaussian is judged by its whole law: its risk is the excess negative log-likelihood, its
tail the real mass beyond 2 standard deviations that the model covers.</p>
<table><tr><th>definition</th><th>metric</th>{% for w in part.workflows %}<th>{{ w }}</th>{% endfor %}</tr>
{% for r in part.definitions %}<tr><td>{{ r.definition }}</td>{% if r.why %}
<td class="why" colspan="{{ part.workflows|length + 1 }}">{{ r.why }}</td>{% else %}<td>{{ r.metric }}</td>
{% for w in part.workflows %}<td class="n">{{ r.counts.get(w, "") }}</td>{% endfor %}{% endif %}</tr>
{% endfor %}</table>
<details><summary>every cell ({{ part.findings|length }} rows)</summary>
<table><tr><th>cell</th><th>definition</th><th>metric</th><th>fires</th><th>p</th><th>what happened</th></tr>
{% for r in part.findings %}<tr><td>{{ r.cell }}</td><td>{{ r.definition }}</td><td>{{ r.metric }}</td><td>{{ r.fires }}</td>
<td class="n">{{ r.p }}</td><td>{{ r.statement }}</td></tr>{% endfor %}</table></details>
{% endif %}
<h3>Figures</h3>
{% for f in part.figures %}<figure><img alt="{{ f.name }}" src="data:image/png;base64,{{ f.png }}">
<figcaption>{{ f.name }}</figcaption></figure>{% endfor %}
{% if part.samples %}
<h3>Samples</h3>
<p>The first texts that each generation's model of seed 0 wrote.</p>
{% for cell in part.samples %}<h4>{{ cell.name }}</h4>
<table class="texts"><tr>{% for column in cell.columns %}<th>generation {{ column.t }}</th>{% endfor %}</tr>
<tr>{% for column in cell.columns %}<td>{% for one in column.texts %}<p>{{ one }}</p>{% endfor %}</td>{% endfor %}</tr></table>
{% endfor %}
{% endif %}
{% if part.theory %}
<h3>Theory against simulation</h3>
<p>{{ part.theory|length }} comparisons of means over finite runs; largest |z| = {{ part.worst }}. Standard errors are the sample's over
seeds, or the known one for the log determinant. Under replace, variances are compared while 5 t &le; num_samples and the squared error
of the mean at t = 1 and while 10 t &le; num_samples: later their tails are too heavy for a sample's error. The variance of a KDE is
predicted from each run's first generation.</p>
<details {{ "open" if part.theory|length <= 12 }}><summary>z-scores ({{ part.theory|length }} rows)</summary>
<table><tr><th>cell</th><th>metric</th><th>generation</th><th>simulated ± s.e.</th><th>predicted</th><th>runs</th><th>z</th></tr>
{% for r in part.theory %}<tr><td>{{ r.cell }}</td><td>{{ r.metric }}</td><td class="n">{{ r.generation }}</td>
<td class="n">{{ r.simulated }}</td><td class="n">{{ r.predicted }}</td><td class="n">{{ r.runs }}</td>
<td class="n">{{ r.z }}</td></tr>{% endfor %}</table></details>
{% endif %}
{% if part.comparisons %}
<h3>Predicted and simulated</h3>
<p>{{ part.comparisons|length }} quantities of the system that a theory foretells, each by runs of its own; largest
|z| = {{ part.worst_comparison }}. The last column is what others found for the same quantity, by a formula or by simulation, where that is known.</p>
<details {{ "open" if part.comparisons|length <= 12 }}><summary>pairs ({{ part.comparisons|length }} rows)</summary>
<table><tr><th>system</th><th>source</th><th>quantity</th><th>predicted</th><th>simulated ± s.e.</th><th>z</th>
<th>z of a wrong theory</th><th>reference</th></tr>
{% for r in part.comparisons %}<tr><td>{{ r.system }}</td><td>{{ r.source }}</td><td>{{ r.quantity }}</td>
<td class="n">{{ r.predicted }}</td><td class="n">{{ r.simulated }}</td><td class="n">{{ r.z }}</td>
<td class="n">{{ r.twin_z }}</td><td class="n">{{ r.reference }}</td></tr>{% endfor %}</table></details>
{% endif %}
{% endfor %}
<h2>How to reproduce</h2>
{% for c in commands %}<p><code>{{ c }}</code></p>{% endfor %}
<p>{{ versions }}</p>
</body></html>
"""


def write_report(results, path, figures=None) -> None:
  """Writes one HTML page: what was run, verdicts, figures, theory against simulation, how to reproduce.

  Args:
    results: a sweep's Dataset, or name -> Dataset.
    path: of the page; it embeds everything and refers to nothing outside.
    figures: name -> (title -> PNG bytes) where they are drawn already; by default those of `plotting.figures_for`.
  """
  Path(path).write_text(page(results, figures), encoding="utf-8")


def page(results, figures=None) -> str:
  """The page of `write_report`."""
  import jinja2

  if not isinstance(results, dict):
    results = {str(results.attrs.get("task", "results")): results}
  results = {name: diagnostics.complete(one) if "generation" in one.sizes else one for name, one in results.items()}
  if figures is None:
    figures = {name: {title: png for title, (png, _) in plotting.render(one).items()} for name, one in results.items()}
  environment = jinja2.Environment(autoescape=True, trim_blocks=True)
  attributes = [one.attrs for one in results.values()]
  parts = [_part(name, one, figures[name]) for name, one in results.items()]
  text = environment.from_string(_TEMPLATE).render(
    parts=parts,
    agreement=_agreement({part["name"]: part.get("z_scores", []) for part in parts}),
    commands=sorted({str(a["command"]) for a in attributes if "command" in a}),
    versions=f"collapse_jax {attributes[0].get('package_version', '?')}, JAX {attributes[0].get('jax_version', '?')}, "
    f"{attributes[0].get('device', '')}; seed {attributes[0].get('seed', '?')}",
  )
  return text.encode("utf-8", "replace").decode()


def _part(name, results, figures) -> dict[str, Any]:
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
  rows = diagnostics.verdicts(results)
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
    "finding": attrs.get("finding", ""),
    "health": "Every run stayed finite." if not bad else f"{bad} runs became non-finite and are left out of the means.",
    "refused": [f"{reason} ({int((status == reason).sum())} cells)" for reason in reasons],
    "summary": list(summary.values()),
    "verdicts": verdicts,
    "limits": any(row["limit"] for row in verdicts),
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


def _samples(text: str) -> list[dict[str, Any]]:
  """Cells with the texts of up to five generations, of a JSON of cell -> generation -> texts."""
  cells = []
  for name, generations in json.loads(text or "{}").items():
    numbers = sorted(map(int, generations))
    shown = sorted({numbers[round(i)] for i in np.linspace(0, len(numbers) - 1, 5)})
    cells.append({"name": name, "columns": [{"t": t, "texts": generations[str(t)]} for t in shown]})
  return cells


def _agreement(z_scores: dict[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
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


def _cell(results, row) -> str:
  names = [d for d in results.cell_status.dims if d == "workflow" or results.sizes[d] > 1]
  return ", ".join(str(row[d]) if d == "workflow" else f"{d} {plotting.text_of(row[d])}" for d in names if d in row)


def _verdict_row(results, row) -> dict[str, str]:
  v = row["verdict"]
  return {
    "cell": _cell(results, row),
    "metric": row["metric"],
    "final": f"{v.final_mean:.4g} ± {v.final_sem:.2g}",
    "slope": f"{v.slope:.3g} [{v.slope_low:.3g}, {v.slope_high:.3g}]",
    "finite": f"{v.num_finite}/{v.num_runs}",
    "label": v.label,
    "possible": " or ".join(v.possible) if 1 < len(v.possible) < 3 else "",
    "limit": _limit(results, row),
  }


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
    "cell": _cell(results, row),
    "definition": row["definition"],
    "metric": row["metric"],
    "fires": "fires" if row["fires"] else "",
    "p": f"{row['p_value']:.2g}",
    "statement": row["statement"],
  }


def _theory_row(results, row) -> dict[str, str]:
  return {
    "cell": _cell(results, row),
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
