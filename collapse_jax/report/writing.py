"""The report page: numbers and texts into page.html.j2, which has all the HTML."""

from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax import diagnostics, plotting
from collapse_jax.report import answer, tables
from collapse_jax.report.panel import panel

__all__ = ["page", "write_report"]

_HOME = Path(__file__).parent
_SPARK_POINTS = 40


def write_report(results, path, figures=None) -> None:
  """Writes one HTML page: the answer, figures, verdicts, theory against simulation, how to reproduce.

  Args:
    results: a sweep's Dataset, or name -> Dataset.
    path: of the page; it embeds everything and refers to nothing outside.
    figures: name -> (title -> PNG bytes) where they are drawn already; by default those of `plotting.figures_for`.
  """
  Path(path).write_text(page(results, figures), encoding="utf-8")


def page(results, figures=None) -> str:
  """The page of `write_report`.

  Args:
    results: a Dataset of `sweep`, or name -> Dataset.
    figures: name -> title -> bytes of a PNG file; None: as `plotting.render` draws them.
  """
  import jinja2

  if not isinstance(results, dict):
    results = {str(results.attrs.get("task", "results")): results}
  judged = {name: diagnostics.complete(one) for name, one in results.items() if "generation" in one.sizes}
  results = results | judged
  if figures is None:
    figures = {name: {title: png for title, (png, _) in plotting.render(one).items()} for name, one in results.items()}
  verdicts = {name: diagnostics.verdicts(one) for name, one in judged.items()}
  answers = {name: answer.answers(one, verdicts[name]) for name, one in judged.items()}
  answers = {name: found for name, found in answers.items() if found}
  parts = [tables.part(name, one, figures[name], verdicts.get(name, [])) for name, one in results.items()]
  for part in parts:
    part["panel"] = panel(judged[part["name"]]) if part["name"] in judged else None
  attributes = [one.attrs for one in results.values()]
  loader = jinja2.FileSystemLoader(_HOME)
  environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
  text = environment.get_template("page.html.j2").render(
    parts=parts,
    sentences={name: answer.sentence(found) for name, found in answer.by_workflow(answers).items()},
    meaning=answer.meaning(answers, {name: judged[name] for name in answers}),
    matrix={name: _row(found) for name, found in answers.items()},
    horizons=sorted({int(judged[name].generation.values[-1]) for name in answers}),
    agreement=tables.agreement({part["name"]: part.get("z_scores", []) for part in parts}),
    commands=sorted({str(a["command"]) for a in attributes if "command" in a}),
    versions=f"collapse_jax {attributes[0].get('package_version', '?')}, JAX {attributes[0].get('jax_version', '?')}, "
    f"{attributes[0].get('device', '')}; seed {attributes[0].get('seed', '?')}",
    asset=lambda name: jinja2.utils.markupsafe.Markup((_HOME / name).read_text(encoding="utf-8")),
    libraries=[
      f"vendor/{file.name}"
      for name in ("vega", "vega-lite", "vega-embed")
      for file in _HOME.glob(f"vendor/{name}-[0-9]*.js")
    ],
  )
  return text.encode("utf-8", "replace").decode()


def _row(found) -> dict[str, dict[str, Any]]:
  """Workflow -> what its entry of the matrix shows."""
  every = np.concatenate([one.curve[np.isfinite(one.curve)] for one in found])
  low, high = (every.min(), every.max()) if len(every) else (0.0, 0.0)
  return {
    one.workflow: {
      "label": one.label,
      "several": f"{one.counts[one.label]} of {sum(one.counts.values())}" if sum(one.counts.values()) > 1 else "",
      "number": one.number,
      "possible": one.possible,
      "spark": _spark(one.curve, low, high),
    }
    for one in found
  }


def _spark(curve, low, high) -> list[tuple[float, float]]:
  """Points of a curve within a square of side 1, y upwards; curves of one row share their scale.

  Args:
    curve: [T], whose NaN and infinities are left out.
    low, high: of all of them.
  """
  if not len(curve):
    return []
  shown = np.unique(np.linspace(0, len(curve) - 1, min(len(curve), _SPARK_POINTS)).round().astype(int))
  span = high - low or 1.0
  return [(i / max(len(curve) - 1, 1), (curve[i] - low) / span) for i in shown if np.isfinite(curve[i])]
