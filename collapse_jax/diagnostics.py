"""Verdicts on trajectories, and simulation set beside theory. Plain functions of arrays and of result Datasets."""

from typing import Any, NamedTuple

import numpy as np

from collapse_jax import theory
from collapse_jax.verdicts import Verdict, verdict


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
    raise ValueError("results must hold a variable with dims workflow, seed and generation.")
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


def predicted(results, cell: dict[str, Any], name: str) -> Expected | None:
  """Closed form of a metric in a cell, NaN in generations without one; None where theory has nothing to say."""
  if float(cell.get("temperature", 1.0)) != 1.0 and results.attrs.get("task") != "gaussian":
    return None
  predict = {"gaussian": _gaussian, "kde": _kde, "linear_regression": _linear_regression,
             "discrete": _discrete, "logistic_regression": _logistic_regression,
             "exponential_family": _exponential_family}.get(results.attrs.get("task"))
  return None if predict is None else predict(results, cell, name)


def predicted_limit(results, cell: dict[str, Any], name: str) -> float | None:
  """Limit, over generations, of the mean of a metric in a cell; infinite where it diverges; None without a closed form."""
  if float(cell.get("temperature", 1.0)) != 1.0:
    return None
  task, workflow, n = results.attrs.get("task"), _workflow(cell), float(cell.get("num_samples", np.nan))
  unbiased = bool(results.attrs.get("unbiased", 0))
  try:
    moments = theory.gaussian_limit(workflow, int(n), unbiased)
  except (TypeError, ValueError):  # a user's own name that is no call, or no num_samples
    return None
  if (task, name, workflow, unbiased) == ("gaussian", "covariance_log_det_ratio", "replace", False):
    return -np.inf
  if task == "gaussian" and moments is not None:
    error = moments.mean_error * int(cell["dim"]) * float(cell.get("noise_var", 1.0))
    limit = {"covariance_trace_ratio": moments.trace_ratio, "squared_error_of_mean": error}.get(name)
    return None if limit is None else float(limit)
  if task == "discrete" and name == "heterozygosity" and moments is not None:
    return float((1 - 1 / int(cell["num_outcomes"])) * moments.trace_ratio)
  if task == "kde" and name == "model_variance" and workflow in ("replace", "accumulate"):
    if cell.get("kernel", "gaussian") != "gaussian" or not _is_number(cell["bandwidth"]):
      return None
    return theory.kde_variance_limit(int(n), float(cell["bandwidth"])) if workflow == "replace" else np.inf
  if task == "linear_regression" and workflow in ("replace", "accumulate"):
    first = predicted(results, cell, name)
    if first is None or results.generation.values[0] != 1:
      return None
    unseen = max(int(cell["dim"]) - n, 0)
    return float(theory.ACCUMULATE_LIMIT * (first.mean[0] - unseen) + unseen) if workflow == "accumulate" else np.inf
  return None


def _workflow(cell) -> str:
  """The workflow of a cell as theory has it, also where its real share is an axis."""
  workflow = str(cell["workflow"])
  if not (workflow.startswith("mix") and "real_fraction" in cell):
    return workflow
  share = float(cell["real_fraction"])
  return "replace" if share == 0 else f"mix({share}, fresh={'fresh' in workflow})"


def _is_number(text) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def _gaussian(results, cell, name) -> Expected | None:
  last, pick = int(results.generation.values[-1]), results.generation.values - 1
  workflow = _workflow(cell)
  n, dim = int(cell["num_samples"]), int(cell["dim"])
  unbiased, temperature = bool(results.attrs.get("unbiased", 0)), float(cell.get("temperature", 1.0))
  if name == "covariance_log_det_ratio":
    if unbiased or temperature != 1:
      return None
    mean, variance = (x[pick] for x in theory.gaussian_replace_log_det(dim, n, last))
    if workflow != "replace":  # every workflow shares the first generation
      mean, variance = np.where(pick == 0, mean, np.nan), np.where(pick == 0, variance, np.nan)
    return Expected(mean, variance)
  moments = _moments(workflow, n, last, unbiased, temperature)
  if moments is None:
    return None
  if name == "covariance_trace_ratio":
    return Expected(moments.trace_ratio[pick])
  if name == "squared_error_of_mean":
    mean = moments.mean_error[pick] * dim * float(cell.get("noise_var", 1.0))
    # Given the past, each step of the mean is Gaussian with dim coordinates; a random variance only adds to this.
    return Expected(mean, least_variance=2 * mean ** 2 / dim)
  return None


def _moments(workflow: str, num_samples: int, last: int, unbiased: bool = False,
             temperature: float = 1.0) -> theory.Moments | None:
  try:
    if temperature != 1:
      return None if unbiased else theory.gaussian_temperature_moments(workflow, num_samples, temperature, last)
    return theory.gaussian_moments(workflow, num_samples, last, unbiased)
  except (TypeError, ValueError):  # a user's own name that is no call
    return None


def _linear_regression(results, cell, name) -> Expected | None:
  n, dim = int(cell["num_samples"]), int(cell["dim"])
  if name != "test_mse" or results.attrs.get("covariates", "same") != "same" or abs(n - dim) < 2:
    return None
  table, redrawn = _table(results, cell)
  if table is None or redrawn:
    return None
  mean = theory.linear_regression_mse(table, dim, n, float(cell.get("noise_var", 1.0)))[results.generation.values - 1]
  return Expected(mean, least_variance=2 * (mean - max(dim - n, 0)) ** 2 / min(dim, n))


def _logistic_regression(results, cell, name) -> Expected | None:
  """The measured risk of the first generation times the first-order ratio."""
  table, redrawn = _table(results, cell)
  if name != "excess_risk" or table is None or results.generation.values[0] != 1:
    return None
  first = _values(results, cell, name)[:, 0]
  ratio = theory.linear_noise(table, redrawn)[results.generation.values - 1]
  return Expected(first[np.isfinite(first)].mean() * ratio, first_order=True) if np.isfinite(first).any() else None


def _exponential_family(results, cell, name) -> Expected | None:
  """For the truths that the families have by default."""
  table, redrawn = _table(results, cell)
  if name != "squared_error_of_mean" or table is None:
    return None
  n, pick, family = int(cell["num_samples"]), results.generation.values - 1, str(cell["family"])
  known = {"bernoulli": (0.25, -1.0), "poisson": (1.0, 0.0), "exponential": (1.0, 1.0), "gaussian": (1.0, 0.0)}.get(family)
  if known is None or redrawn:  # "median": its variance is pi/2 of the mean's
    variance = np.pi / 2 if known is None else known[0]
    return Expected(variance / n * theory.linear_noise(table, redrawn)[pick], first_order=True)
  return Expected(known[0] * theory.quadratic_family(table, n, known[1])[pick])


def _table(results, cell) -> tuple[np.ndarray | None, bool]:
  """Shares of the batches under the workflow of a cell, if batches are of equal size, and whether rows are redrawn."""
  from collapse_jax import workflows
  try:
    workflow = workflows.parse(str(cell["workflow"]))()
  except (TypeError, ValueError):  # a user's own name that is no call
    return None, False
  if workflow.weights is None or workflow.emit(2, 1) != 2 or workflow.emit(2, 3) != 2:
    return None, False
  return workflow.weights(int(results.generation.values[-1])), workflow.redrawn


def _discrete(results, cell, name) -> Expected | None:
  n, t = int(cell["num_samples"]), results.generation.values
  last = int(t[-1])
  if name == "entropy" and cell["workflow"] == "replace" and cell["num_outcomes"] >= n:
    return Expected(np.where((t > 20) & (5 * t < n), theory.drift_entropy(t, n), np.nan), first_order=True)
  if name != "heterozygosity":
    return None
  moments = _moments(str(cell["workflow"]), n, last)
  if moments is None:
    return None
  return Expected((1 - 1 / int(cell["num_outcomes"])) * moments.trace_ratio[results.generation.values - 1])


def _kde(results, cell, name) -> Expected | None:
  """Variance of the model given the run's real batch, in which it is linear; so it holds for any data set."""
  if name != "model_variance" or cell.get("kernel", "gaussian") != "gaussian" or results.generation.values[0] != 1:
    return None
  if not _is_number(cell["bandwidth"]):  # a rule
    return None
  bandwidth = float(cell["bandwidth"])
  last, pick = int(results.generation.values[-1]), results.generation.values - 1
  n = int(cell["num_samples"])
  curves = [theory.kde_variance(str(cell["workflow"]), n, bandwidth, last, truth_variance=v) for v in (1.0, 2.0)]
  if curves[0] is None or curves[1] is None:
    return None
  slope, intercept = (curves[1] - curves[0])[pick], (2 * curves[0] - curves[1])[pick]
  first = _values(results, cell, name)[:, :1]
  return Expected(intercept + slope * (first - intercept[0]) / slope[0])


def _values(results, cell, name) -> np.ndarray:
  return results[name].sel(cell).transpose("seed", "generation").values.astype(np.float64)


def compare_with_theory(results, generations=(1, 2, 10, 100)) -> list[dict[str, Any]]:
  """z-scores of simulated means against closed forms, a row per cell, metric and generation; over finite runs.

  Standard errors are the sample's over seeds, or the known one of the log determinant. Products of random factors soon
  have too heavy a tail for a sample's error to mean anything: under `replace`, variances are compared while
  5 t <= num_samples, the squared error of the mean at t = 1 and while 10 t <= num_samples, the heterozygosity while
  t <= num_samples; the error of a regression where num_samples and dim are a factor of 2 apart.
  """
  results = complete(results)
  rows = []
  for name in ("squared_error_of_mean", "covariance_trace_ratio", "covariance_log_det_ratio", "model_variance", "test_mse",
               "heterozygosity"):
    if name not in results or results.sizes["seed"] < 10:
      continue
    for cell, values in cells(results, name):
      theory_of_cell = predicted(results, cell, name)
      if theory_of_cell is None or theory_of_cell.first_order:
        continue
      for t in generations:
        at = np.flatnonzero(results.generation.values == t)
        if len(at) and not _heavy_tailed(cell, name, t):
          row = _compared(values[:, at[0]].astype(np.float64), theory_of_cell, at[0])
          rows += [{**cell, "metric": name, "generation": int(t), **row}] if row else []
  return rows


def _heavy_tailed(cell, name, t) -> bool:
  n = cell["num_samples"]
  if name == "test_mse":  # inverse Wishart over designs
    return bool(n < 2 * cell["dim"] + 10 and cell["dim"] < 2 * n + 10)
  if cell["workflow"] != "replace" and cell.get("real_fraction", 1) != 0:
    return False
  tails = {"covariance_trace_ratio": 5 * t > n, "model_variance": 5 * t > n, "heterozygosity": t > n,
           "squared_error_of_mean": t > 1 and 10 * t > n}
  return bool(tails.get(name, False))


def _compared(sample, expected: Expected, at) -> dict[str, Any] | None:
  mean = expected.mean[..., at]
  finite = np.isfinite(sample) & np.isfinite(mean)
  conditional = np.ndim(mean) == 1
  if finite.sum() < 10 or (conditional and at == 0):  # given the first generation, the first says nothing
    return None
  sample, mean = sample[finite], np.broadcast_to(mean, finite.shape)[finite]
  spread = (sample - mean).var(ddof=1) if expected.variance is None else expected.variance[at]
  if expected.least_variance is not None:
    spread = max(spread, expected.least_variance[at])
  if spread == 0:  # too few runs to see it vary
    return None
  error = np.sqrt(spread / len(sample))
  return {"simulated": float(sample.mean()), "standard_error": float(error), "predicted": float(mean.mean()),
          "z": float((sample - mean).mean() / error), "num_finite": len(sample)}
