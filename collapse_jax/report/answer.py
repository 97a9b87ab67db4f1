"""The answer that results give, in words: what the primary metric did under each workflow, by how much, and what to make of it.

No sentence says more than the verdicts do: "undecided" stays undecided, but for runs that leave nothing but collapse, growing or
diverging; and where cells differ, they are counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from collapse_jax import diagnostics
from collapse_jax.diagnostics import curves, judgement, reading
from collapse_jax.report.tables import cell_text

__all__ = ["LABELS", "Answer", "answers", "by_workflow", "meaning", "sentence"]

LABELS = ("diverging", "growing", "undecided", "bounded")  # the worst first
MOVED = 2.0  # times as bad as in the first generation: who levels off there has not held
_LOST = {  # measures -> what goes on where a verdict is growing or diverging
  "risk": "the error keeps growing",
  "variance": "the spread keeps shrinking",
  "tail": "the tail keeps thinning",
  "modes": "the modes keep merging",
  "hallucination": "made-up data keep spreading",
}


class Answer(NamedTuple):
  """What the primary metric of an experiment did under a workflow.

  Attributes:
    workflow: as the results call it.
    label: the worst verdict of its cells, in the order of `LABELS`.
    counts: verdict -> number of cells, the worst first.
    about: the metric in words.
    lost: what goes on, where the verdict is growing or diverging.
    number: what decided, in the cell with this verdict where the metric got worst: "halves every 7.1 generations".
    detail: since when, and its interval: "95% interval 6.8 to 7.4"; "" where neither is to be told.
    cell: that cell, "" where there is only one.
    possible: which verdicts the runs leave, where they rule out one at least: "bounded or growing"; else "".
    curve: [T] median over runs of that cell, on the scale of the verdict.
    rows: training rows of the last generation beside those of the first, over cells; those that are not known are left out.
    real: share of real ones among the last.
    factor: how many times as bad the metric is in the last generation of that cell as in the first; NaN where that is not known.
  """

  workflow: str
  label: str
  counts: dict[str, int]
  about: str
  lost: str
  number: str
  detail: str
  cell: str
  possible: str
  curve: np.ndarray
  rows: list[float]
  real: list[float]
  factor: float = np.nan


def answers(results, rows=None) -> list[Answer]:
  """One answer per workflow; none where no metric has a direction that is worse.

  Args:
    results: a Dataset of `sweep`.
    rows: of `diagnostics.verdicts`, where they are known already.
  """
  results = diagnostics.complete(results)
  name = next(iter(diagnostics.metrics(results)), None)
  if name is None:
    return []
  rows = diagnostics.verdicts(results, [name]) if rows is None else rows
  found: dict[str, list[tuple[dict[str, Any], curves.Verdict, np.ndarray]]] = {}
  for row, (cell, values) in zip(rows, diagnostics.cells(results, name)):  # the primary metric comes first
    found.setdefault(str(cell["workflow"]), []).append((cell, row["verdict"], values))
  return [_answer(results, name, workflow, cells) for workflow, cells in found.items()]


def _answer(results, name, workflow, cells) -> Answer:
  about = results[name].attrs
  labels = [verdict.label for _, verdict, _ in cells]
  counts = {label: labels.count(label) for label in LABELS if label in labels}
  label = next(iter(counts))
  with_label = [one for one in cells if one[1].label == label]
  cell, verdict, values = max(with_label, key=lambda one: _worsening(about, one[2]))
  number, detail = _number(about, verdict, values, results.generation.values)
  long_name = about.get("long_name") or name
  others = {dim: value for dim, value in cell.items() if dim != "workflow"}
  curve = reading.finite_runs(judgement.judged(about, values))
  sizes = [_at_ends(results, "train_size", one) for one, _, _ in cells]
  return Answer(
    workflow=workflow,
    label=label,
    counts=counts,
    about=long_name,
    lost=_LOST.get(about.get("measures", ""), f"the {long_name} keeps getting worse"),
    number=number,
    detail=detail,
    cell=cell_text(results, others) if len(cells) > 1 else "",
    possible=" or ".join(verdict.possible) if len(verdict.possible) == 2 else "",
    curve=np.median(curve, axis=0) if len(curve) else np.zeros(0),
    rows=_known(last / first for first, last in sizes),
    real=_known(_at_ends(results, "real_share", one)[1] for one, _, _ in cells),
    factor=_factor(about, values),
  )


def _at_ends(results, name, cell) -> tuple[float, float]:
  """The mean of a variable over runs in the first and in the last generation; NaN where it is not known."""
  values = reading.at_cell(results, name, cell, ("seed", "generation"))
  if values is None:
    return np.nan, np.nan
  first, last = (one[np.isfinite(one)] for one in (values[:, 0], values[:, -1]))
  return (first.mean(), last.mean()) if len(first) and len(last) else (np.nan, np.nan)


def _known(values) -> list[float]:
  return [float(value) for value in values if np.isfinite(value)]


def _sign(about) -> int:
  return -1 if about["worse"] == "lower" else 1


def _change(about, values) -> np.ndarray:
  """[kept] of each run that stayed finite, from the first to the last generation, on the scale of the verdict."""
  kept = judgement.judged(about, values)
  kept = kept[np.isfinite(kept).all(axis=1)]
  return kept[:, -1] - kept[:, 0]


def _worsening(about, values) -> tuple[int, float]:
  """By which cells are compared: how many runs became infinitely bad, then the change for the worse."""
  change = _sign(about) * _change(about, values)
  return _num_gone(about, values), float(np.median(change)) if len(change) else -np.inf


def _factor(about, values) -> float:
  change = _sign(about) * _change(about, values)
  if about.get("log_scale"):
    return float(np.exp(np.median(change))) if len(change) else np.nan
  kept = reading.finite_runs(values).mean(axis=0)
  return float((kept[-1] / kept[0]) ** _sign(about)) if len(change) and min(kept[0], kept[-1]) > 0 else np.nan


def _num_gone(about, values) -> int:
  return int(curves.went_infinite(_sign(about) * judgement.judged(about, values)).sum())


def _number(about, verdict, values, generations) -> tuple[str, str]:
  """What decided, and details: runs that were lost, the rate of what goes on like t or faster, or what changed in all."""
  logged, unit = bool(about.get("log_scale")), "" if about.get("units", "1") in ("", "1") else f" {about['units']}"
  gone = _num_gone(about, values)
  if gone:
    return f"{'0' if logged and about['worse'] == 'lower' else 'infinite'} in {gone} of {len(values)} runs", ""
  if verdict.label == "diverging" and verdict.slope_low * verdict.slope_high > 0:
    slopes = verdict.slope, verdict.slope_low, verdict.slope_high
    return _log_rate(*slopes) if logged else _rate(*slopes, unit)
  change = _change(about, values)
  if not len(change):
    return "no run stayed finite", ""
  since = f"since generation {generations[0]}"
  if logged:
    middle, low, high = np.exp(_median(change))
    return f"\N{MULTIPLICATION SIGN} {_told(middle)}", f"{since}, median of runs" + _interval(low, high, _told)
  kept = reading.finite_runs(values).mean(axis=0)
  half = stats.t.ppf(0.975, len(change) - 1) * change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else np.nan
  interval = _interval(change.mean() - half, change.mean() + half, "{:+.3g}".format, " of the change")
  return f"{kept[0]:.4g} \N{RIGHTWARDS ARROW} {kept[-1]:.4g}{unit}", since + interval


def _median(sample) -> tuple[float, float, float]:
  """The median and its 95% interval by order statistics, of whatever law; NaN where there are fewer than six."""
  sample, num = np.sort(sample), len(sample)
  outside = int(stats.binom.ppf(0.025, num, 0.5))  # so many on each side at least: P(fewer) <= 2.5%
  ends = (sample[outside - 1], sample[num - outside]) if outside else (np.nan, np.nan)
  return float(np.median(sample)), *ends


def _interval(low, high, told, of="") -> str:
  return "" if np.isnan([low, high]).any() else f", 95% interval{of} {told(low)} to {told(high)}"


def _rate(slope, low, high, unit) -> tuple[str, str]:
  """Of slopes per generation over the last half."""
  return f"{slope:+.3g}{unit} a generation", f"95% interval {low:+.3g} to {high:+.3g}"


def _log_rate(slope, low, high) -> tuple[str, str]:
  """Of slopes of a log per generation over the last half, none of which is 0."""
  if abs(slope) <= np.log(2):
    times = [np.log(2) / abs(one) for one in (low, high)]
    return (
      f"{'doubles' if slope > 0 else 'halves'} every {_told(np.log(2) / abs(slope))} generations",
      f"95% interval {_told(min(times))} to {_told(max(times))}",
    )
  factor, low, high = (_told(np.exp(one)) for one in (slope, low, high))
  return f"\N{MULTIPLICATION SIGN} {factor} a generation", f"95% interval {low} to {high}"


def _told(value) -> str:
  """Three digits, without an exponent where that is readable."""
  return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


# ------------------------------------------------------------------------------------------------------- sentences
def by_workflow(named: Mapping[str, Sequence[Answer]]) -> dict[str, dict[str, Answer]]:
  """Workflow -> experiment -> answer, of experiment -> answers."""
  table: dict[str, dict[str, Answer]] = {}
  for name, found in named.items():
    for one in found:
      table.setdefault(one.workflow, {})[name] = one
  return table


def sentence(found: Mapping[str, Answer]) -> tuple[str, str, str]:
  """What a workflow did in all experiments: a label for the colour, the verdict in words, and what it rests on.

  Args:
    found: experiment -> answer of this workflow.
  """
  counts = _counts(found.values())
  label = next(iter(counts))
  name, worst = max((item for item in found.items() if item[1].label == label), key=lambda item: _known_factor(item[1]))
  cell = f"in the worst cell, {worst.cell}" if worst.cell else ""
  where = ", ".join(part for part in (worst.detail, worst.possible, cell) if part)
  total, bounded = sum(counts.values()), counts.get("bounded", 0)
  others = ", ".join(f"{num} {one}" for one, num in counts.items() if one != "bounded")
  if bounded:
    words = "levels off" if _moved(found.values()) else "holds"
    words += "" if bounded == total else f" in {bounded} of {total} cells"
  else:
    words = "does not hold" if _lost(worst) else "is undecided"
  parts = [
    _listed(dict.fromkeys(one.lost for one in found.values() if _lost(one))),
    others if total > 1 else "",
    f"{f'in {name}, ' if len(found) > 1 else ''}{worst.about}: {worst.number}{f' ({where})' if where else ''}",
  ]
  shade = "growing" if label == "undecided" and _lost(worst) else label
  return shade, words, "; ".join(part for part in parts if part) + "."


def _counts(found) -> dict[str, int]:
  """Verdict -> number of cells, the worst first."""
  counts = {label: sum(one.counts.get(label, 0) for one in found) for label in LABELS}
  return {label: num for label, num in counts.items() if num}


def _known_factor(answer) -> float:
  return 0.0 if np.isnan(answer.factor) else answer.factor


def _moved(found) -> bool:
  """Whether what is bounded was so far from where it began, in some experiment."""
  return any(one.label == "bounded" and _known_factor(one) > MOVED for one in found)


def _lost(answer) -> bool:
  return answer.label in ("diverging", "growing") or answer.possible == "growing or diverging"


def meaning(named: Mapping[str, Sequence[Answer]], results: Mapping[str, Any]) -> list[str]:
  """What the answers mean for someone who must choose, as sentences.

  Args:
    named: experiment -> answers.
    results: experiment -> Dataset, of the same experiments.
  """
  table = by_workflow(named)
  said = [text for workflow in table if (text := _instead(workflow, table))]
  if {one.label for found in named.values() for one in found} == {"bounded"}:
    said.append("Nothing collapsed: every verdict is bounded.")
  counts = {workflow: _counts(found.values()) for workflow, found in table.items()}
  left = {workflow: some["undecided"] for workflow, some in counts.items() if "undecided" in some}
  if left:
    cells = _listed(f"{num} of {sum(counts[workflow].values())} cells of {workflow}" for workflow, num in left.items())
    said.append(f"The runs leave {cells} undecided; more generations or more seeds may decide.")
  costs = [f"{workflow} {cost}" for workflow, found in table.items() if (cost := _cost(found.values()))]
  if costs:
    said.append(f"Training rows of the last generation, beside the first: {'; '.join(costs)}.")
  shares = {name: reading.num_beside(diagnostics.complete(one), "real_fraction") for name, one in results.items()}
  return said + [_enough(name, one) for name, one in results.items() if shares[name] > 1]


def _instead(workflow, table) -> str:
  """What held where a workflow did not."""
  places = [name for name, one in table[workflow].items() if _lost(one)]
  held = {
    other: [found[name] for name in places if name in found and found[name].label == "bounded"]
    for other, found in table.items()
    if other != workflow
  }
  better = [
    f"{other} {'levelled off' if _moved(some) else 'held'}{f' in {len(some)}' if len(places) > 1 else ''}"
    for other, some in held.items()
    if some
  ]
  if not places or not better:
    return ""
  num = f"{len(places)} experiments" if len(places) > 1 else places[0]
  return f"Where {workflow} did not hold in every cell ({num}), {_listed(better)}."


def _cost(found) -> str:
  rows = _range([value for one in found for value in one.rows], _told)
  real = _range([100 * value for one in found for value in one.real], lambda value: f"{value:.2g}%")
  if not rows or not real:
    return ""
  return f"{'as many' if rows == '1' else f'{rows} times as many'}, {real} of them real"


def _range(values, told) -> str:
  return " to ".join(dict.fromkeys(told(end) for end in (min(values), max(values)))) if values else ""


def _enough(name, results) -> str:
  """The smallest real share of a sweep over it that keeps the primary metric, in the cell that needs most."""
  from collapse_jax import decisions  # which run sweeps too

  found = [one for _, one in decisions.required_shares(results, float(results.attrs.get("tolerance", 0.2)))]
  most = max(found, key=lambda one: (np.isnan(one.share), one.share))
  which = f", the one of {len(found)} cells that needs most" if len(found) > 1 else ""
  said = str(most)
  return f"In {name}{which}: {said[0].lower()}{said[1:]}"


def _listed(texts) -> str:
  *most, last = list(texts) or [""]
  return f"{', '.join(most)} and {last}" if most else last
