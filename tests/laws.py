"""Every closed form of `theory` against simulation by this package, in one table of z-scores with wrong twins.

A twin is the same form with num_samples - 1 for num_samples, or one generation off: a test that could not tell them from the
right one would show nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from collapse_jax import theory

MAX_Z = 5.0


class Law(NamedTuple):
  """What is expected of one quantity of a cell.

  Attributes:
    form: the function of `theory`, and what of it.
    values: (metrics [seeds, T]) -> [seeds, T], the quantity per run.
    mean: (num_samples, T) -> [T].
    variance: (num_samples, T) -> [T] over runs, where it is known.
    twins: which of "num_samples" and "generation" the quantity can tell; both, except where it depends on one only.
  """

  form: str
  values: Callable[[dict[str, np.ndarray]], np.ndarray]
  mean: Callable[[int, int], np.ndarray]
  variance: Callable[[int, int], np.ndarray] | None = None
  twins: tuple[str, ...] = ("num_samples", "generation")


class Cell(NamedTuple):
  """A simulation and the laws that it is held against."""

  setting: str
  task: Callable[[int], Any]
  workflow: str
  num_samples: int
  laws: tuple[Law, ...]
  num_generations: int = 8
  num_seeds: int = 40_000


def cells() -> list[Cell]:
  """All of them; a cell compiles for some seconds."""
  found = [_gaussian(name) for name in (*PAPER, *SCHEDULES)]
  found += [_unbiased("replace"), _unbiased("accumulate"), _log_det(1, 10), _log_det(6, 4)]
  for name in ("replace", "accumulate", "sliding_window(2)"):
    found += [_least_squares(5, 30, name), _least_squares(16, 5, name)]
  found += [_kde(name, 0.5) for name in PAPER] + [_kde("replace", "scott")]
  found += [_discrete(num, name) for num in (5, 1000) for name in PAPER]
  found += [_family(*family, name) for family in FAMILIES for name in ("replace", "accumulate")]
  return found


PAPER = ("replace", "accumulate", "accumulate_subsample")
WEIGHTS = "weights([[1,0,0,0],[.3,.7,0,0],[.2,.3,.5,0],[0,.4,0,.6]])"
SCHEDULES = ("mix(0.2)", "mix(0.2, fresh=True)", "grown_replace", "sliding_window(3)", WEIGHTS)
# Name, mean, variance, and curvature of the variance function.
FAMILIES = (
  ("bernoulli", 0.3, 0.21, -1.0),
  ("poisson", 2.5, 2.5, 0.0),
  ("exponential", 1.5, 2.25, 1.0),
  ("gaussian", -1.0, 1.0, 0.0),
)


def _metric(name: str):
  return lambda out: out[name]


def _table(name: str, num_generations: int) -> np.ndarray:
  from collapse_jax import workflows

  workflow = workflows.parse(name)()
  assert workflow.weights is not None
  return workflow.weights(num_generations)


def _gaussian(name: str) -> Cell:
  from collapse_jax import tasks

  def moments(n, T) -> theory.Moments:
    found = theory.gaussian_moments(name, n, T)
    assert found is not None
    return found

  trace, error = _metric("covariance_trace_ratio"), lambda out: out["squared_error_of_mean"] / 2
  det = lambda out: np.exp(out["covariance_log_det_ratio"])
  laws = [
    Law("gaussian_moments, trace", trace, lambda n, T: moments(n, T).trace_ratio),
    Law("gaussian_moments, error of the mean", error, lambda n, T: moments(n, T).mean_error),
    Law("trace + error of the mean = 1", lambda out: trace(out) + error(out), lambda n, T: np.ones(T), twins=()),
  ]
  if name == "replace":
    laws += [_log_det_law(2), Law("gaussian_replace_det", det, lambda n, T: theory.gaussian_replace_det(2, n, T))]
  if name == "accumulate":
    laws += [Law("gaussian_accumulate_det", det, lambda n, T: theory.gaussian_accumulate_det(2, n, T))]
  # The table has four generations, one of which the twin that is one off needs; under `replace` tails soon grow heavy.
  num_generations = {WEIGHTS: 3, "replace": 4}.get(name, 8)
  return Cell("Gaussian, dim 2", lambda n: tasks.gaussian(2, n), name, 8, tuple(laws), num_generations)


def _log_det_law(dim: int) -> Law:
  moment = lambda which: lambda n, T: theory.gaussian_replace_log_det(dim, n, T)[which]
  return Law("gaussian_replace_log_det", _metric("covariance_log_det_ratio"), moment(0), moment(1))


def _log_det(dim: int, num_samples: int) -> Cell:
  from collapse_jax import tasks

  return Cell(f"Gaussian, dim {dim}", lambda n: tasks.gaussian(dim, n), "replace", num_samples, (_log_det_law(dim),))


def _unbiased(name: str) -> Cell:
  from collapse_jax import tasks

  def moments(n, T) -> theory.Moments:
    found = theory.gaussian_moments(name, n, T, unbiased=True)
    assert found is not None
    return found

  std = lambda out: np.sqrt(out["covariance_trace_ratio"])
  laws = [
    Law(
      "gaussian_moments(unbiased), error of the mean",
      _metric("squared_error_of_mean"),
      lambda n, T: moments(n, T).mean_error,
    ),
    Law(
      "gaussian_moments(unbiased), trace",
      _metric("covariance_trace_ratio"),
      lambda n, T: moments(n, T).trace_ratio,
      twins=() if name == "replace" else ("num_samples", "generation"),
    ),
  ]
  if name == "replace":
    laws += [Law("unbiased_std_replace", std, theory.unbiased_std_replace)]
  return Cell("Gaussian, dim 1, unbiased", lambda n: tasks.gaussian(1, n, unbiased=True), name, 4, tuple(laws), 4)


def _least_squares(dim: int, num_samples: int, name: str) -> Cell:
  from collapse_jax import tasks

  law = Law(
    "linear_regression_mse",
    _metric("test_mse"),
    lambda n, T: theory.linear_regression_mse(_table(name, T), dim, n),
    # With fewer rows than dim most of the error is what no label shows, the same in every generation.
    twins=("num_samples", "generation") if dim < num_samples else ("num_samples",),
  )
  task = lambda n: tasks.linear_regression(dim, n)
  return Cell(f"least squares, dim {dim}", task, name, num_samples, (law,), num_seeds=10_000)


def _kde(name: str, bandwidth) -> Cell:
  from collapse_jax import tasks

  h = theory.scott_bandwidth if bandwidth == "scott" else bandwidth

  def variance(n, T) -> np.ndarray:
    found = theory.kde_variance(name, n, h, T, dim=2)
    assert found is not None
    return found

  task = lambda n: tasks.kde("normal", n, bandwidth, num_test=2)
  law = Law("kde_variance", _metric("model_variance"), variance)
  return Cell(f"KDE of normal data, bandwidth {bandwidth}", task, name, 8, (law,), num_seeds=20_000)


def _discrete(num_outcomes: int, name: str) -> Cell:
  from collapse_jax import tasks

  def heterozygosity(n, T):
    found = theory.gaussian_moments(name, n, T)
    assert found is not None
    return (1 - 1 / num_outcomes) * found.trace_ratio

  return Cell(
    f"discrete, {num_outcomes} outcomes",
    lambda n: tasks.discrete(num_outcomes, n),
    name,
    12,
    (Law("gaussian_moments, heterozygosity", _metric("heterozygosity"), heterozygosity),),
    num_seeds=10_000,
  )


def _family(family: str, mean: float, variance: float, curvature: float, name: str) -> Cell:
  from collapse_jax import tasks

  laws = (
    Law(
      "quadratic_family",
      _metric("squared_error_of_mean"),
      lambda n, T: variance * theory.quadratic_family(_table(name, T), n, curvature),
    ),
    Law("a martingale", _metric("fitted_mean"), lambda n, T: np.full(T, mean), twins=()),
  )
  num_seeds = 120_000 if family == "exponential" else 40_000  # products of its means have heavy tails
  return Cell(
    f"{family}, mean {mean}", lambda n: tasks.exponential_family(family, n, mean), name, 20, laws, num_seeds=num_seeds
  )


def check(cell: Cell, generations=(1, 2, 5, 8), seed: int = 0) -> list[dict[str, Any]]:
  """Rows of the table for one cell: simulated and predicted means, z, and for each twin the largest |z| over generations."""
  import jax

  import collapse_jax as cj
  from collapse_jax import workflows
  from collapse_jax.random import new_key

  n, T = cell.num_samples, cell.num_generations
  task, workflow = cell.task(n), workflows.parse(cell.workflow)()
  names = (
    "covariance_trace_ratio",
    "squared_error_of_mean",
    "covariance_log_det_ratio",
    "test_mse",
    "model_variance",
    "heterozygosity",
    "fitted_mean",
  )

  def one(i):
    out = cj.run(jax.random.fold_in(new_key(seed), i), task, workflow, T)
    return {name: out[name] for name in names if name in out}

  out = jax.jit(jax.vmap(one))(jax.numpy.arange(cell.num_seeds))
  metrics = {name: np.asarray(value, np.float64) for name, value in out.items()}
  at = np.array([t - 1 for t in generations if t <= T])
  rows = []
  for law in cell.laws:
    values = law.values(metrics)[:, at]
    spread = values.var(axis=0, ddof=1) if law.variance is None else law.variance(n, T)[at]
    error = np.sqrt(spread / len(values))
    z_against = lambda mean, values=values, error=error: (values.mean(axis=0) - mean) / np.maximum(error, 1e-30)
    predicted = law.mean(n, T)[at]
    z = z_against(predicted)
    wrong = {
      "num_samples": lambda law=law: law.mean(n - 1, T)[at],
      "generation": lambda law=law: law.mean(n, T + 1)[1:][at],
    }
    twins = {twin: float(np.abs(z_against(wrong[twin]())).max()) for twin in law.twins}
    for i, t in enumerate(at + 1):
      rows.append(
        {
          "setting": f"{cell.setting}, num_samples {n}",
          "workflow": cell.workflow,
          "form": law.form,
          "generation": int(t),
          "simulated": float(values[:, i].mean()),
          "standard_error": float(error[i]),
          "predicted": float(predicted[i]),
          "z": float(z[i]),
          "twins": twins,
        }
      )
  return rows


def check_all() -> Iterator[dict[str, Any]]:
  """Rows of the whole table, as they come."""
  for cell in cells():
    yield from check(cell)
