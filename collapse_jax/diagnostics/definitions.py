"""Eight published definitions of model collapse as tests on trajectories (Schaeffer et al. 2025, arXiv 2503.03150).

Each is a function of the runs of one cell that says whether the definition fires at a significance level, and in words by
how much. What changes is judged per run, between its first and its last generation: the log of a metric on a log scale
(`MetricInfo.log_scale`), of any other the metric itself; a risk that is better the higher it is counts negative. No run is
dropped in silence: an infinite value is a very large one, a NaN is counted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from collapse_jax.diagnostics import curves, judgement, reading

__all__ = [
  "DEFINITIONS",
  "Definition",
  "Diagnosis",
  "Finding",
  "any_increase",
  "catastrophic_increase",
  "changed_scaling",
  "collapsing_variance",
  "diagnose",
  "diverging",
  "entangled_modes",
  "hallucination",
  "lost_tail",
  "summary",
  "undefined",
  "with_first_coordinate",
]

_FEWEST_RUNS = 5  # fewer cannot be significant at 5%
_LEAST = 1e-3  # a change of a log that counts: less is rounding, or too small to name


class Finding(NamedTuple):
  """What a definition says of a cell.

  Attributes:
    applies: False where the definition is undefined; `statement` says why.
    fires: by this definition, the cell collapsed.
    p_value: of the test; NaN where the definition does not apply.
    statement: the size of the effect in words, or why the definition does not apply.
  """

  applies: bool
  fires: bool
  p_value: float
  statement: str


def undefined(reason: str) -> Finding:
  """Of a definition that does not apply, and why."""
  return Finding(False, False, np.nan, f"undefined: {reason}")


# -------------------------------------------------------------------------------------------- the definitions
def catastrophic_increase(
  values, generations, alpha: float = 0.05, unit: str = "nats", factor: float = 10.0
) -> Finding:
  """The risk of the typical run rises by more than a factor.

  Args:
    values: [seeds, T] log risk.
    generations: [T].
    alpha: significance level, here and below.
    unit: of the values; a difference of nats is told as a factor.
    factor: what counts as catastrophic; the paper gives no number.
  """
  return _change(values, alpha, unit, least=np.log(factor))


def any_increase(values, generations, alpha: float = 0.05, unit: str = "nats") -> Finding:
  """The risk of the typical run rises. Values [seeds, T] log risk.

  Args:
    values, generations, alpha, unit: as of `catastrophic_increase`.
  """
  return _change(values, alpha, unit)


def diverging(values, generations, alpha: float = 0.05, unit: str = "nats") -> Finding:
  """The risk rises in the last half of the generations, and not towards a limit. Values [seeds, T] log risk.

  Args:
    values, generations, alpha, unit: as of `catastrophic_increase`.
  """
  return _trend(values, generations, alpha, unit, "higher")


def changed_scaling(values, num_samples, alpha: float = 0.05) -> Finding:
  """The risk falls with num_samples at another rate than it does for the first generation, faster or slower.

  Args:
    values: [sizes, seeds, T] log risk; run i of every size is paired.
    num_samples: [sizes], three or more.
  """
  x = np.log(np.asarray(num_samples, np.float64))
  if len(x) < 3:
    return undefined("needs three values of num_samples or more")
  ends = np.asarray(values, np.float64)[..., [0, -1]]
  x = x - x.mean()
  ends = np.where(np.isfinite(ends), ends, np.nan)  # a slope through infinity is none
  first, last = np.einsum("k,kse->es", x, ends) / (x @ x)
  change = last - first
  kept = change[~np.isnan(change)]
  if _too_few(kept, change, 6):  # two-sided
    return undefined(_too_few(kept, change, 6))
  p_value = min(1.0, 2 * min(_signed_rank(kept), _signed_rank(-kept)))
  statement = (
    f"risk goes like num_samples^{np.nanmedian(first):.2f} at the first generation and "
    f"num_samples^{np.nanmedian(last):.2f} at the last"
  )
  return Finding(True, p_value < alpha, p_value, statement + _lost(kept, change))


def collapsing_variance(values, generations, alpha: float = 0.05, unit: str = "nats") -> Finding:
  """The variance falls in the last half of the generations, not towards a limit above 0. Values [seeds, T] log variance.

  Args:
    values, generations, alpha, unit: as of `catastrophic_increase`, for the log of a variance.
  """
  return _trend(values, generations, alpha, unit, "lower")


def entangled_modes(values, generations, alpha: float = 0.05, unit: str = "nats") -> Finding:
  """The modes of the typical run come closer to each other. Values [seeds, T] log of their separation.

  Args:
    values, generations, alpha, unit: as of `catastrophic_increase`, for the log of a distance.
  """
  return _change(values, alpha, unit, sign=-1)


def lost_tail(values, generations, alpha: float = 0.05, unit: str = "nats") -> Finding:
  """The typical run covers less of the real tail. Values [seeds, T] log of the share that is covered.

  Args:
    values, generations, alpha, unit: as of `catastrophic_increase`, for the log of a share.
  """
  return _change(values, alpha, unit, sign=-1)


def hallucination(values, generations, alpha: float = 0.05, unit: str = "nats") -> Finding:
  """The typical run makes more data where the truth has next to none. Values [seeds, T] log of their share.

  Args:
    values, generations, alpha, unit: as of `catastrophic_increase`, for the log of a share.
  """
  return _change(values, alpha, unit)


class Definition(NamedTuple):
  """A definition: the measure that it reads (`MetricInfo.measures`) and its test."""

  measures: str
  test: Callable[..., Finding]


DEFINITIONS = {
  "catastrophic increase of population risk": Definition("risk", catastrophic_increase),
  "any increase of population risk": Definition("risk", any_increase),
  "asymptotically diverging population risk": Definition("risk", diverging),
  "change in scaling law": Definition("risk", changed_scaling),
  "collapsing variance": Definition("variance", collapsing_variance),
  "entanglement of real modes": Definition("modes", entangled_modes),
  "disappearance of real tail": Definition("tail", lost_tail),
  "appearance of hallucinated data": Definition("hallucination", hallucination),
}


def _change(values, alpha, unit, least=0.0, sign=1) -> Finding:
  """Wilcoxon's signed-rank test of sign * (last - first) > least over runs: heavy tails do not matter to it."""
  ends = np.asarray(values, np.float64)[:, [0, -1]]
  first, last = ends.T
  with np.errstate(invalid="ignore"):
    change = np.where(first == last, 0.0, last - first)  # also where both are infinite
  kept = change[~np.isnan(change)]
  if _too_few(kept, change):
    return undefined(_too_few(kept, change))
  p_value = _signed_rank(sign * kept - least)
  statement = f"median run: {_told(np.quantile(kept, 0.5, method='closest_observation'), unit)}"
  for value, word in ((np.inf, "infinite"), (-np.inf, "0")):
    num = int((last == value).sum())
    statement += f"; {word} at the end in {num} of {len(change)} runs" if num else ""
  return Finding(True, p_value < alpha, p_value, statement + _lost(kept, change))


def _trend(values, generations, alpha, unit, worse) -> Finding:
  """The verdict on a trajectory as a test."""
  sign = -1 if worse == "lower" else 1
  found = curves.verdict(values, generations, worse, alpha, judgement.resolution(values))
  endless = bool(found.possible) and "bounded" not in found.possible
  if curves.went_infinite(sign * values).any() and not (endless and np.isfinite(found.final_mean)):
    return _change(values, alpha, unit, sign=sign)  # of all runs: those that ended at infinity changed most
  if not found.possible:
    return undefined("needs four generations, and two runs and half of them finite")
  hows: dict[tuple[str, ...], str] = {
    ("bounded",): "levels off, or no trend in the last half",
    ("growing",): "goes on, slower than t",
    ("diverging",): "goes on, like t or faster",
  }
  how = hows.get(found.possible, "goes on" if endless else "undecided whether it levels off or goes on")
  lost = found.num_runs - found.num_finite
  statement = f"{how}; {_measured(found.slope, unit)} per generation" + (f"; {lost} runs not finite" if lost else "")
  return Finding(True, endless, found.p_value, statement)


def _signed_rank(change) -> float:
  """One-sided p of change > 0; 1 where the typical run did not change, and none became infinite."""
  from scipy import stats

  if not (np.median(np.abs(change)) > _LEAST or np.isinf(change).any()):
    return 1.0
  change = change[np.abs(change) > _LEAST]
  if not len(change):
    return 1.0
  ranks = stats.rankdata(np.abs(change))  # also of infinities
  exact = len(ranks) <= 50 and len(set(ranks)) == len(ranks)
  method = "exact" if exact else "approx"
  return float(stats.wilcoxon(np.sign(change) * ranks, alternative="greater", method=method, correction=True).pvalue)


def _too_few(kept, change, fewest=_FEWEST_RUNS) -> str:
  if len(kept) >= fewest and 2 * len(kept) >= len(change):
    return ""
  return f"{len(kept)} of {len(change)} runs stayed numbers; needs half of them, and {fewest}"


def _lost(kept, change) -> str:
  return f"; {len(change) - len(kept)} of {len(change)} runs left out: not a number" if len(kept) < len(change) else ""


def _measured(change, unit) -> str:
  return f"{change:+.2g} {unit}".removesuffix(" 1")


def _told(change, unit) -> str:
  if unit != "nats":
    return _measured(change, unit)
  if abs(change) < np.log(1e4):
    return f"x {np.exp(change):.3g}"
  return f"x 1e{change / np.log(10):+.0f}" if np.isfinite(change) else ("x infinity" if change > 0 else "x 0")


# -------------------------------------------------------------------------------------------- result Datasets
class Diagnosis(list[dict[str, Any]]):
  """The rows of `diagnose`; where they are shown, also in a notebook, they are a table: in how many cells each definition fires."""

  def table(self):
    """A pandas DataFrame, a row per definition and metric, a column per workflow."""
    import pandas

    rows = summary(self)
    workflows = list(dict.fromkeys(str(row["workflow"]) for row in self))
    told = lambda row, workflow: "fires in {} of {}".format(*row["counts"].get(workflow, (0, 0)))
    cells = [[row["why"] or told(row, workflow) for workflow in workflows] for row in rows]
    names = [(row["definition"], row["metric"]) for row in rows]
    index = pandas.MultiIndex.from_tuples(names, names=["definition", "metric"]) if names else None
    return pandas.DataFrame(cells, index, workflows)

  def __repr__(self) -> str:
    return self.table().to_string()

  def _repr_html_(self) -> str:
    return self.table().to_html()


def diagnose(results, alpha: float = 0.05) -> Diagnosis:
  """Which definitions of collapse hold in which cells of a sweep.

  A definition reads every metric whose attribute `measures` it names: those of the tasks here, and those that a user's own
  task declares (`MetricInfo(..., measures="risk")`). At level alpha, that share of cells without any change fires too.

  Args:
    results: a sweep's Dataset.
    alpha: significance level of each test.
  Returns:
    one row per cell, definition and metric: the cell's coordinates (without num_samples for the scaling law, which is about
    all of them), `definition`, `metric` ("" where there is none), `applies`, `fires`, `p_value`, `statement`. Printed they are a
    table.
  """
  results = with_first_coordinate(reading.complete(results))
  grid = results.cell_status.dims
  names: dict[str, list[str]] = {}
  for name, variable in results.data_vars.items():
    if set(variable.dims) == {*grid, "seed", "generation"}:
      names.setdefault(variable.attrs.get("measures", ""), []).append(str(name))
  runnable = np.argwhere(results.cell_status.values == "ok")
  cells = [{dim: results[dim].values[i] for dim, i in zip(grid, at)} for at in runnable]
  rows = Diagnosis()
  for definition, (measure, test) in DEFINITIONS.items():
    scaling = test is changed_scaling
    for name in names.get(measure, [""]):
      if not name:
        found = [
          (cell, undefined(f"no metric of {_WHAT[measure]}")) for cell in (_without_size(cells) if scaling else cells)
        ]
      elif scaling:
        found = _scaling_of(results, name, alpha)
      else:
        found = [(cell, _found(test, results, name, values, alpha)) for cell, values in reading.cells(results, name)]
      rows += [{**cell, "definition": definition, "metric": name, **finding._asdict()} for cell, finding in found]
  return rows


_WHAT = {  # measures
  "risk": "population risk",
  "variance": "variance",
  "modes": "how far modes are apart",
  "tail": "the tail",
  "hallucination": "hallucinated data",
}


def _without_size(cells) -> list[dict[str, Any]]:
  """The cells, those that differ by num_samples only taken together."""
  rest = [{dim: value for dim, value in cell.items() if dim != "num_samples"} for cell in cells]
  return list({tuple(cell.values()): cell for cell in rest}.values())


def _scaling_of(results, name, alpha) -> list[tuple[dict[str, Any], Finding]]:
  cells = list(reading.cells(results, name))
  found = []
  for rest in _without_size([cell for cell, _ in cells]):
    sizes = {
      float(cell["num_samples"]): values
      for cell, values in cells
      if "num_samples" in cell and all(cell[dim] == value for dim, value in rest.items())
    }
    test = lambda values, generations, alpha, unit, sizes=tuple(sizes): changed_scaling(values, sizes, alpha)
    found.append((rest, _found(test, results, name, np.array(list(sizes.values())), alpha)))
  return found


def _found(test, results, name, values, alpha) -> Finding:
  """A test on values [..., seeds, T] of a metric, or of its log."""
  about = results[name].attrs
  values = np.asarray(values, np.float64)
  if np.isnan(values).all():
    return undefined("not measured here")
  if about.get("log_scale"):
    if (values < 0).any():
      return undefined("the metric is negative in places, so that it has no log")
    least = 1e-300 if about["measures"] == "risk" else 0.0  # a variance of 0 has collapsed, a risk of 0 is only small
    with np.errstate(divide="ignore"):
      values = np.log(np.maximum(values, least))
  if about["measures"] == "risk" and about.get("worse") == "lower":
    values = -values
  if len(results.generation) < 2:
    return undefined("needs two generations")
  unit = "nats" if about.get("log_scale") else about.get("units", "1").split(" ")[0]
  return test(values, results.generation.values, alpha=alpha, unit=unit)


TAIL, FAR = 2.0, 5.0  # standard deviations of the truth


def with_first_coordinate(results):
  """Adds risk, tail and hallucinated share of a Gaussian model's first coordinate, by which N(0, 1) is the truth.

  Read from `standard_mean` and `standard_log_variance`; results without these are returned as they are.

  Args:
    results: a Dataset of `sweep`.
  """
  if not {"standard_mean", "standard_log_variance"} <= set(results.data_vars):
    return results
  mean, log_variance = (results[name].values.astype(np.float64) for name in ("standard_mean", "standard_log_variance"))
  with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
    std = np.exp(0.5 * log_variance)
    # In units of the model's width; where that is 0, all mass is on one side.
    mass = lambda distance: special.ndtr(np.where(std > 0, -distance / std, np.copysign(np.inf, -distance)))
    below, above = (lambda x: mass(x + mean)), (lambda x: mass(x - mean))
    of_truth = special.ndtr(-TAIL)
    apart = np.where(mean == 0, 0.0, np.exp(2 * np.log(np.abs(mean)) - log_variance))
    wider = np.where(
      np.abs(log_variance) < 1e-3,
      log_variance**2 * (1 / 2 - log_variance * (1 / 6 - log_variance / 24)),
      np.expm1(-log_variance) + log_variance,
    )
    risk = 0.5 * (apart + np.where(np.isinf(log_variance), np.inf, wider))
    tail = (np.minimum(below(TAIL), of_truth) + np.minimum(above(TAIL), of_truth)) / (2 * of_truth)
    far = below(FAR) + above(FAR)
  added = {
    "first_coordinate_risk": (risk, "risk", "excess negative log-likelihood of the first coordinate"),
    "first_coordinate_tail": (tail, "tail", f"covered share of the truth's mass beyond {TAIL:g} standard deviations"),
    "first_coordinate_far": (far, "hallucination", f"mass of the model beyond {FAR:g} standard deviations"),
  }
  dims = results.standard_mean.dims
  return results.assign(
    {
      name: (dims, values, {"long_name": label, "units": "1", "measures": measure, "log_scale": 1})
      for name, (values, measure, label) in added.items()
    }
  )


def summary(rows) -> list[dict[str, Any]]:
  """The rows of `diagnose` in short: per definition and metric, `counts` (workflow -> cells that fire, cells that it applies
  to) and `why` it applies to none, else "".

  Args:
    rows: of `diagnose`.
  """
  table: dict[tuple[str, str], dict[str, Any]] = {}
  for row in rows:
    start = {"definition": row["definition"], "metric": row["metric"], "counts": {}, "why": row["statement"]}
    entry = table.setdefault((row["definition"], row["metric"]), start)
    fires, applies = entry["counts"].get(str(row["workflow"]), (0, 0))
    entry["counts"][str(row["workflow"])] = (fires + row["fires"], applies + row["applies"])
    if row["applies"]:
      entry["why"] = ""
  return list(table.values())
