"""Verdicts on trajectories, and simulation set beside theory. Plain functions of arrays and of result Datasets."""

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from collapse_jax import theory
from collapse_jax.diagnostics.curves import Verdict, verdict
from collapse_jax.refused import Refused
from collapse_jax.vocabulary import parse_call

FEW_RUNS = 10


# -------------------------------------------------------------------------------------------- result Datasets
def complete(results):
  """The Dataset with every coordinate as a dim and with `cell_status`, also after `isel`, `sel` or a user's own making.

  Raises:
    ValueError: no variable has the dims workflow, seed and generation.
  """
  import xarray

  lost = [name for name, value in results.coords.items() if value.ndim == 0]
  status = results.get("cell_status", xarray.DataArray("ok"))
  results = results.drop_vars("cell_status", errors="ignore").expand_dims(lost)
  wanted = {"workflow", "seed", "generation"}
  tables = [set(value.dims) for value in results.data_vars.values() if wanted <= set(value.dims)]
  if not tables:
    raise Refused("results must hold a variable with dims workflow, seed and generation.")
  grid = [dim for dim in results.sizes if dim in set.intersection(*tables) - {"seed", "generation"}]
  for dim in grid:
    if dim not in status.dims:
      status = status.drop_vars(dim, errors="ignore").expand_dims({dim: results[dim].values})
  return results.assign(cell_status=status.transpose(*grid))


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
  results = complete(results)
  rows = []
  for name in metrics(results):
    label = f"log {name}" if results[name].attrs.get("log_scale") else name
    for cell, values in cells(results, name):
      found = verdict_of(results, name, values)
      if results[name].attrs.get("measures") == "tail" and _drift_ended(results, cell):
        found = found._replace(label="diverging")  # it cannot fall below one outcome, where it is now
      rows.append({**cell, "metric": label, "verdict": found})
  return rows


def _drift_ended(results, cell) -> bool:
  """Whether most runs of a cell have come down to one outcome."""
  return "censored" in results and bool((~results.censored.sel(cell)).mean() > 0.5)


def verdict_of(results, name: str, values) -> Verdict:
  """The verdict on values [seeds, T] of a metric, on the scale and in the direction that its attributes name."""
  about = results[name].attrs
  values = np.asarray(values, np.float64)
  if about.get("log_scale"):
    least = 0.0 if about["worse"] == "lower" else 1e-300  # a ratio that falls to 0 has collapsed, an error of 0 has not
    with np.errstate(divide="ignore"):
      values = np.log(np.maximum(values, least))
  logged = about.get("log_scale") or str(about.get("units", "")).startswith("nats")
  return verdict(values, results.generation.values, about["worse"], resolution=resolution(values) if logged else None)


def resolution(values) -> float:
  """Of values in nats: a ratio is rounded relative to itself, however close to 0 its log is."""
  size = np.abs(values[np.isfinite(values)])
  return 1e-6 * max(1.0, float(size.max(initial=0.0)))


def smallest_bounded_share(results) -> list[dict[str, Any]]:
  """Per cell of a sweep over `real_fraction`: the share from which on the primary metric is bounded, or None."""
  results = complete(results)
  name = results.attrs["primary_metric"]
  shares = sorted(results.real_fraction.values)
  others = [dim for dim in results.cell_status.dims if dim != "real_fraction"]
  bounded: dict[tuple, dict[Any, bool]] = {}
  for cell, values in cells(results, name):
    found = bounded.setdefault(tuple(cell[dim] for dim in others), {})
    found[cell["real_fraction"]] = verdict_of(results, name, values).label == "bounded"
  rows = []
  for at, found in bounded.items():
    enough = [share for i, share in enumerate(shares) if all(found.get(s, False) for s in shares[i:])]
    rows.append({**dict(zip(others, at)), "share": float(enough[0]) if enough else None})
  return rows


# ------------------------------------------------------------------------------------------- beside theory
class Expected(NamedTuple):
  """What theory says about one run of a cell.

  Attributes:
    mean: [T]; or [seeds, T] where it is conditional on the first generation of each run.
    variance: [T] over runs where it is known, else None: the sample's is used.
    least_variance: [T] lower bound of it, else None.
    first_order: True where only the leading term in 1 / num_samples is known: drawn, but no ground for a z-score.
  """

  mean: np.ndarray
  variance: np.ndarray | None = None
  least_variance: np.ndarray | None = None
  first_order: bool = False


_TASKS = "collapse_jax.tasks."


class _Unknown(Exception):
  """Nothing tells what a law depends on."""


class _Cell(NamedTuple):
  """A cell of results, and what is known of its task and workflow. A parameter is a coordinate, an attribute of the results,
  or the default of a task's own factory; what a factory of the user's own sets is known only if an attribute says so."""

  results: Any
  at: dict[str, Any]

  def known(self, name: str, default: Any) -> Any:
    if name in self.at:
      return self.at[name]
    about = self.results.attrs
    if name not in about and not about.get("task_factory", _TASKS).startswith(_TASKS):
      raise _Unknown
    return about.get(name, default)

  @property
  def generations(self) -> np.ndarray:
    return self.results.generation.values

  def num_samples(self) -> int:
    if "num_samples" not in self.at:
      raise _Unknown
    return int(self.at["num_samples"])

  def first(self, name: str) -> np.ndarray:
    """[seeds] of the first generation."""
    if self.generations[0] != 1 or name not in self.results:
      raise _Unknown
    return _values(self.results, self.at, name)[:, 0]

  def workflow(self) -> tuple[str, dict[str, Any]]:
    """The workflow as a flag has it, and those of its arguments that are axes; a real share of 0 is `replace`."""
    text = str(self.at["workflow"])
    if text in json.loads(self.results.attrs.get("own_workflows", "[]")):
      raise _Unknown
    if "real_fraction" in self.at:
      share = float(self.at["real_fraction"])
      return ("replace", {}) if share == 0 else (text, {"real_fraction": share})
    return text, {}

  def schedule(self) -> theory.Schedule:
    """The schedule of its workflow, up to the last generation."""
    from collapse_jax import workflows

    text, axes = self.workflow()
    try:
      name, arguments, keywords = parse_call(text)
      make = functools.partial(workflows.FACTORIES[name], *arguments, **keywords)
      axes |= {
        axis: self.at[axis] for axis in inspect.signature(make).parameters if axis in self.at and axis not in axes
      }
      schedule = make(**axes).schedule
      if schedule is None:
        raise _Unknown
      return schedule(self.num_samples(), int(self.generations[-1]))
    except (KeyError, TypeError, ValueError):  # a user's own name
      raise _Unknown from None


def predicted(results, cell: dict[str, Any], name: str) -> Expected | None:
  """Closed form of a metric in a cell, NaN in generations without one; None where theory has nothing to say.

  Every law is a function of the cell's `theory.Schedule`. Nothing is predicted where the task or the workflow is known by a
  name only: `_Cell`.
  """
  predict = _LAWS.get(results.attrs.get("task"))
  try:
    return None if predict is None else predict(_Cell(results, cell), name)
  except _Unknown:
    return None


def predicted_limit(results, cell: dict[str, Any], name: str) -> float | None:
  """Limit, over generations, of the mean of a metric in a cell; infinite where it diverges; None without a closed form."""
  task, one = results.attrs.get("task"), _Cell(results, cell)
  try:
    if task not in _LAWS or float(one.known("temperature", 1.0)) != 1:
      return None
    text, axes = one.workflow()
    if text == "mix" or axes:  # its share is an axis
      text = f"mix({axes['real_fraction']}, fresh={'fresh' in text})"
    moments = theory.gaussian_limit(text, one.num_samples(), task == "gaussian" and bool(one.known("unbiased", 0)))
    return _limit(one, task, name, text, moments)
  except (_Unknown, KeyError, TypeError, ValueError):  # a user's own name
    return None


def predicted_collapse_time(results, cell: dict[str, Any]) -> float | None:
  """Mean generations until one outcome is left, diffusion limit: uniform outcomes, as many rows a generation as are real."""
  one = _Cell(results, cell)
  try:
    if (
      results.attrs.get("task", "discrete") != "discrete"
      or float(one.known("temperature", 1.0)) != 1
      or not _drifts(one)
    ):
      return None
    return theory.drift_collapse_time(int(cell["num_outcomes"]), one.num_samples()) if _uniform(one) else None
  except _Unknown:
    return None


def _drifts(cell: _Cell) -> bool:
  """Whether every model is fitted to num_samples rows of the last one."""
  schedule = cell.schedule()
  return not schedule.pooled and not schedule.slots.any() and bool((schedule.sizes == cell.num_samples()).all())


def _limit(one: _Cell, task, name, workflow, moments) -> float | None:
  n, cell = one.num_samples(), one.at
  if (task, name, workflow) == ("gaussian", "covariance_log_det_ratio", "replace") and not one.known("unbiased", 0):
    return -np.inf
  if task == "gaussian" and moments is not None:
    if name == "squared_error_of_mean":
      return float(moments.mean_error * _true_trace(one))
    return float(moments.trace_ratio) if name == "covariance_trace_ratio" else None
  if task == "discrete" and name == "heterozygosity" and moments is not None and _uniform(one):
    return float((1 - 1 / int(cell["num_outcomes"])) * moments.trace_ratio)
  if task == "kde" and name == "model_variance" and workflow in ("replace", "accumulate"):
    h = _bandwidth(one)
    return theory.kde_variance_limit(n, h) if workflow == "replace" else np.inf
  if task == "linear_regression" and workflow in ("replace", "accumulate"):
    first, unseen = predicted(one.results, cell, name), max(int(cell["dim"]) - n, 0)
    if first is None or one.generations[0] != 1:
      return None
    return float(theory.ACCUMULATE_LIMIT * (first.mean[0] - unseen) + unseen) if workflow == "accumulate" else np.inf
  return None


def _gaussian(cell: _Cell, name) -> Expected | None:
  pick, dim = cell.generations - 1, int(cell.at["dim"])
  if name not in ("covariance_log_det_ratio", "covariance_trace_ratio", "squared_error_of_mean"):
    return None
  how: dict[str, Any] = {
    "unbiased": bool(cell.known("unbiased", 0)),
    "temperature": float(cell.known("temperature", 1.0)),
  }
  schedule = cell.schedule()
  if name == "covariance_log_det_ratio":
    mean, variance = theory.schedule_log_det(schedule, dim, **how)
    return Expected(mean[pick], variance[pick])
  moments = theory.schedule_moments(schedule, **how)
  if name == "covariance_trace_ratio":
    spread = theory.schedule_trace_variance(schedule, dim, **how)
    standard = "whitened_trace_ratio" not in cell.results
    return Expected(moments.trace_ratio[pick], least_variance=spread[pick] if standard and spread is not None else None)
  mean = moments.mean_error[pick] * _true_trace(cell)
  # Given the past, each step of the mean is Gaussian with dim coordinates; a random variance only adds to this.
  return Expected(mean, least_variance=2 * mean**2 / dim)


def _true_trace(cell: _Cell) -> float:
  if "whitened_trace_ratio" in cell.results:  # a covariance that no attribute has
    raise _Unknown
  return int(cell.at["dim"]) * float(cell.known("noise_var", 1.0))


def _linear_regression(cell: _Cell, name) -> Expected | None:
  n, dim = cell.num_samples(), int(cell.at["dim"])
  if name != "test_mse" or cell.known("covariates", "same") != "same" or abs(n - dim) < 2:
    return None
  schedule = cell.schedule()
  if schedule.redrawn or (schedule.sizes != n).any():
    return None
  unseen = max(dim - n, 0)
  base = theory.linear_regression_mse(np.ones((1, 1)), dim, n, float(cell.known("noise_var", 1.0)))[0] - unseen
  growth = theory.schedule_noise(schedule, temperature=float(cell.known("temperature", 1.0)))[cell.generations - 1]
  return Expected(base * growth + unseen, least_variance=2 * (base * growth) ** 2 / min(dim, n))


def _logistic_regression(cell: _Cell, name) -> Expected | None:
  """The measured risk of the first generation times the first-order ratio."""
  if name != "excess_risk" or cell.known("labels", "model") != "model" or float(cell.known("temperature", 1.0)) != 1:
    return None
  first = cell.first(name)
  ratio = theory.schedule_noise(cell.schedule())[cell.generations - 1]
  return Expected(first[np.isfinite(first)].mean() * ratio, first_order=True) if np.isfinite(first).any() else None


def _exponential_family(cell: _Cell, name) -> Expected | None:
  if name != "squared_error_of_mean" or float(cell.known("temperature", 1.0)) != 1:
    return None
  family, pick, schedule = str(cell.known("family", "")), cell.generations - 1, cell.schedule()
  if family == "median":  # its variance is pi/2 of the mean's
    scale = np.pi / 2 * float(cell.known("noise_var", 1.0)) / cell.num_samples()
    return Expected(scale * theory.schedule_noise(schedule)[pick], first_order=True)
  curvature = {"bernoulli": -1.0, "poisson": 0.0, "exponential": 1.0, "gaussian": 0.0}.get(family)
  if curvature is None:
    return None
  return Expected(_family_variance(cell, family) * theory.schedule_family(schedule, curvature)[pick])


def _family_variance(cell: _Cell, family) -> float:
  """Variance of the truth: of any run, that of the fitted mean over the ratio of the two."""
  variances: dict[str, Callable[[Any], Any]] = {
    "bernoulli": lambda mean: mean * (1 - mean),
    "poisson": lambda mean: mean,
    "exponential": lambda mean: mean**2,
    "gaussian": np.ones_like,
  }
  if not {"variance_ratio", "fitted_mean"} <= set(cell.results.data_vars):
    return {"bernoulli": 0.25}.get(family, 1.0)
  mean, ratio = (_values(cell.results, cell.at, name) for name in ("fitted_mean", "variance_ratio"))
  told = np.isfinite(mean) & np.isfinite(ratio) & (ratio > 1e-3)
  if not told.any():
    raise _Unknown
  return float(np.median(variances[family](mean[told]) / ratio[told]))


def _discrete(cell: _Cell, name) -> Expected | None:
  t = cell.generations
  if name not in ("entropy", "heterozygosity") or float(cell.known("temperature", 1.0)) != 1:
    return None
  n, num = cell.num_samples(), int(cell.at["num_outcomes"])
  if name == "entropy":
    if not (_drifts(cell) and num >= n and _uniform(cell)):
      return None
    return Expected(np.where((t > 20) & (5 * t < n), theory.drift_entropy(t, n), np.nan), first_order=True)
  schedule = cell.schedule()
  if _uniform(cell):
    return Expected((1 - 1 / num) * theory.schedule_moments(schedule).trace_ratio[t - 1])
  if schedule.fresh:
    return None
  of_first = theory.second_moments(schedule, lambda variance, error, rows: variance, first=1.0).variance
  return Expected(cell.first(name)[:, None] * of_first[t - 1] / of_first[0])


def _uniform(cell: _Cell) -> bool:
  """Whether all outcomes are as probable: the truth's entropy, by any run, is that of so many."""
  if not {"entropy", "entropy_ratio"} <= set(cell.results.data_vars):
    return cell.known("probabilities", None) is None
  entropy, ratio = (_values(cell.results, cell.at, name) for name in ("entropy", "entropy_ratio"))
  told = np.isfinite(entropy) & (ratio > 1e-3)
  if not told.any():
    raise _Unknown
  return bool(abs(np.median(entropy[told] / ratio[told]) / np.log(int(cell.at["num_outcomes"])) - 1) < 1e-5)


def _kde(cell: _Cell, name) -> Expected | None:
  """Variance of the model given the run's real batch, in which it is linear; so it holds for any data set."""
  if name != "model_variance":
    return None
  h, schedule, tempered = _bandwidth(cell), cell.schedule(), float(cell.known("temperature", 1.0))
  if schedule.fresh:
    return None
  curves = [
    theory.schedule_kde_variance(schedule, lambda rows: h**2, temperature=tempered, first=v)[cell.generations - 1]
    for v in (0.0, 1.0)
  ]
  return Expected(curves[0] + (cell.first(name)[:, None] - curves[0][0]) * (curves[1] - curves[0]))


def _bandwidth(cell: _Cell) -> float:
  """Of a Gaussian kernel, where it is a number."""
  try:
    if cell.known("kernel", "gaussian") == "gaussian":
      return float(cell.at["bandwidth"])
  except (KeyError, ValueError):  # a rule
    pass
  raise _Unknown


def _values(results, cell, name) -> np.ndarray:
  return results[name].sel(cell).transpose("seed", "generation").values.astype(np.float64)


_LAWS = {
  "gaussian": _gaussian,
  "kde": _kde,
  "linear_regression": _linear_regression,
  "discrete": _discrete,
  "logistic_regression": _logistic_regression,
  "exponential_family": _exponential_family,
}


def compare_with_theory(results, generations=(1, 2, 10, 100)) -> list[dict[str, Any]]:
  """z-scores of simulated means against closed forms, a row per cell, metric and generation; over finite runs.

  Standard errors are the sample's over seeds, or the known one of the log determinant, and not below what theory knows of them.
  By a sample's error the ratio is Student's t; z is the normal deviate of the same probability, so that |z| > 5 is as rare
  with ten runs as with a thousand. Products of random factors soon have too heavy a tail for a sample's error to mean anything:
  with e the squared error of a mean in units of the truth's variance to first order, t / num_samples under `replace`, variances
  are compared while e <= 0.2, the squared error of the mean at t = 1 and while e <= 0.1, the heterozygosity while e <= 1; the
  error of a regression where num_samples and dim are a factor of 2 apart.
  """
  results = complete(results)
  rows = []
  for name in (
    "squared_error_of_mean",
    "covariance_trace_ratio",
    "covariance_log_det_ratio",
    "model_variance",
    "test_mse",
    "heterozygosity",
  ):
    if name not in results or results.sizes["seed"] < FEW_RUNS:
      continue
    for cell, values in cells(results, name):
      theory_of_cell = predicted(results, cell, name)
      if theory_of_cell is None or theory_of_cell.first_order:
        continue
      heavy = _heavy_tailed(_Cell(results, cell), name)
      for t in generations:
        at = np.flatnonzero(results.generation.values == t)
        if len(at) and not heavy[at[0]]:
          row = _compared(values[:, at[0]].astype(np.float64), theory_of_cell, at[0])
          rows += [{**cell, "metric": name, "generation": int(t), **row}] if row else []
  return rows


def _heavy_tailed(cell: _Cell, name) -> np.ndarray:
  """[T] bool."""
  n, none = cell.num_samples(), np.zeros(len(cell.generations), bool)
  if name == "test_mse":  # inverse Wishart over designs
    return none | (n < 2 * cell.at["dim"] + 10 and cell.at["dim"] < 2 * n + 10)
  most = {
    "covariance_trace_ratio": 0.2,
    "model_variance": 0.2,
    "heterozygosity": 1.0,
    "squared_error_of_mean": 0.1,
  }.get(name)
  if most is None:
    return none
  error = theory.schedule_noise(cell.schedule())[cell.generations - 1] / n
  return (error > most * (1 + 1e-9)) & ((name != "squared_error_of_mean") | (cell.generations > 1))


def _compared(sample, expected: Expected, at) -> dict[str, Any] | None:
  mean = expected.mean[..., at]
  finite = np.isfinite(sample) & np.isfinite(mean)
  conditional = np.ndim(mean) == 1
  if finite.sum() < FEW_RUNS or (conditional and at == 0):  # given the first generation, the first says nothing
    return None
  sample, mean = sample[finite], np.broadcast_to(mean, finite.shape)[finite]
  spread = (sample - mean).var(ddof=1) if expected.variance is None else expected.variance[at]
  if expected.least_variance is not None:
    spread = max(spread, expected.least_variance[at])
  if spread == 0:  # too few runs to see it vary
    return None
  error = np.sqrt(spread / len(sample))
  ratio = float((sample - mean).mean() / error)
  return {
    "simulated": float(sample.mean()),
    "standard_error": float(error),
    "predicted": float(mean.mean()),
    "z": ratio if expected.variance is not None else normal_deviate(ratio, len(sample) - 1),
    "num_finite": len(sample),
  }


def normal_deviate(t: float, freedom: int) -> float:
  """z with the tail probability that t has under Student's law, to half a percent, however far out (Wallace 1959)."""
  size = np.sqrt(freedom * np.log1p(t * t / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
  return float(np.copysign(size, t))
