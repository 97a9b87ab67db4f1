"""What every task predicts of itself against simulation by this package, in one table of z-scores with wrong twins.

A twin is the same prediction with num_samples - 1 for num_samples, or one generation off: a test that could not tell them from the
right one would show nothing. Beside them stand closed forms of `theory` that no task needs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from collapse_jax import theory

MAX_Z = 5.0


class Law(NamedTuple):
  """What is expected of one quantity of a cell.

  Attributes:
    form: a metric that the task predicts, or what of a function of `theory`.
    values: (metrics [seeds, T]) -> [seeds, T], the quantity per run; None: the metric.
    mean: (num_samples, T) -> [T]; None: as the task predicts.
    twins: which of "num_samples" and "generation" the quantity can tell; both, except where it depends on one only.
  """

  form: str
  values: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None
  mean: Callable[[int, int], np.ndarray] | None = None
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
  found += [_kde(name, 0.5) for name in PAPER]
  found += [_kde("replace", "scott"), _kde("accumulate", "silverman_scaled"), _kde("mix(0.3)", 0.5, "moons")]
  found += [_discrete(num, name) for num in (5, 1000) for name in PAPER]
  found += [_family(*family, name) for family in FAMILIES for name in ("replace", "accumulate")]
  return found


PAPER = ("replace", "accumulate", "accumulate_subsample")
WEIGHTS = "weights([[1,0,0,0],[.3,.7,0,0],[.2,.3,.5,0],[0,.4,0,.6]])"
SCHEDULES = ("mix(0.2)", "mix(0.2, fresh=True)", "grown_replace", "sliding_window(3)", WEIGHTS)
FAMILIES = (("bernoulli", 0.3), ("poisson", 2.5), ("exponential", 1.5), ("gaussian", -1.0))


def schedule(name: str, num_samples: int, num_generations: int) -> theory.Schedule:
  from collapse_jax import workflows

  found = workflows.parse(name)().schedule
  assert found is not None
  return found(num_samples, num_generations)


def predicted(cell: Cell, metric: str, num_samples: int, num_generations: int):
  """What the task says of a metric."""
  return cell.task(num_samples).predict(schedule(cell.workflow, num_samples, num_generations))[metric]


def _gaussian(name: str) -> Cell:
  from collapse_jax import tasks

  det = lambda out: np.exp(out["covariance_log_det_ratio"])
  both = lambda out: out["covariance_trace_ratio"] + out["squared_error_of_mean"] / 2
  laws = [
    Law("covariance_trace_ratio"),
    Law("squared_error_of_mean"),
    Law("trace + error of the mean = 1", both, lambda n, T: np.ones(T), twins=()),
  ]
  if name == "replace":
    det_law = Law("gaussian_replace_det", det, lambda n, T: theory.gaussian_replace_det(2, n, T))
    laws += [Law("covariance_log_det_ratio"), det_law]
  if name == "accumulate":
    laws += [Law("gaussian_accumulate_det", det, lambda n, T: theory.gaussian_accumulate_det(2, n, T))]
  # The table has four generations, one of which the twin that is one off needs; under `replace` tails soon grow heavy.
  num_generations = {WEIGHTS: 3, "replace": 4}.get(name, 8)
  return Cell("Gaussian, dim 2", lambda n: tasks.gaussian(2, n), name, 8, tuple(laws), num_generations)


def _log_det(dim: int, num_samples: int) -> Cell:
  from collapse_jax import tasks

  law = Law("covariance_log_det_ratio")
  return Cell(f"Gaussian, dim {dim}", lambda n: tasks.gaussian(dim, n), "replace", num_samples, (law,))


def _unbiased(name: str) -> Cell:
  from collapse_jax import tasks

  std = lambda out: np.sqrt(out["covariance_trace_ratio"])
  no_change = {"twins": ()} if name == "replace" else {}
  laws = [Law("squared_error_of_mean"), Law("covariance_trace_ratio", **no_change)]
  if name == "replace":
    laws += [Law("unbiased_std_replace", std, theory.unbiased_std_replace)]
  task = lambda n: tasks.gaussian(1, n, 4.0, unbiased=True)
  return Cell("Gaussian, dim 1, variance 4, unbiased", task, name, 4, tuple(laws), 4)


def _least_squares(dim: int, num_samples: int, name: str) -> Cell:
  from collapse_jax import tasks

  # With fewer rows than dim most of the error is what no label shows, the same in every generation.
  law = Law("test_mse", twins=("num_samples", "generation") if dim < num_samples else ("num_samples",))
  task = lambda n: tasks.linear_regression(dim, n)
  return Cell(f"least squares, dim {dim}", task, name, num_samples, (law,), num_seeds=10_000)


def _kde(name: str, bandwidth, dataset="normal") -> Cell:
  from collapse_jax import tasks

  task = lambda n: tasks.kde(dataset, n, bandwidth, num_test=2)
  # With fewer rows a pool varies less, and a bandwidth that goes by its size and spread makes up for it.
  law = Law("model_variance", twins=("generation",) if "scaled" in str(bandwidth) else ("num_samples", "generation"))
  return Cell(f"KDE of {dataset} data, bandwidth {bandwidth}", task, name, 8, (law,), num_seeds=20_000)


def _discrete(num_outcomes: int, name: str) -> Cell:
  from collapse_jax import tasks

  task = lambda n: tasks.discrete(num_outcomes, n)
  return Cell(f"discrete, {num_outcomes} outcomes", task, name, 12, (Law("heterozygosity"),), num_seeds=10_000)


def _family(family: str, mean: float, name: str) -> Cell:
  from collapse_jax import tasks

  laws = (Law("squared_error_of_mean"), Law("fitted_mean", twins=()))
  laws += (Law("variance_share"),) * (family == "gaussian")
  num_seeds = 120_000 if family == "exponential" else 40_000  # products of its means have heavy tails
  task = lambda n: tasks.exponential_family(family, n, mean)
  return Cell(f"{family}, mean {mean}", task, name, 20, laws, num_seeds=num_seeds)


def check(cell: Cell, generations=(1, 2, 5, 8), seed: int = 0) -> list[dict[str, Any]]:
  """Rows of the table for one cell: simulated and predicted means, z, and for each twin the largest |z| over generations."""
  import jax

  import collapse_jax as cj
  from collapse_jax import workflows
  from collapse_jax.random import new_key

  n, T = cell.num_samples, cell.num_generations
  task, workflow = cell.task(n), workflows.parse(cell.workflow)()

  def one(i):
    out = cj.run(jax.random.fold_in(new_key(seed), i), task, workflow, T)
    return {name: value for name, value in out.items() if jax.numpy.ndim(value) == 1}

  out = jax.jit(jax.vmap(one))(jax.numpy.arange(cell.num_seeds))
  metrics = {name: np.asarray(value, np.float64) for name, value in out.items()}
  at = np.array([t - 1 for t in generations if t <= T])
  rows = []
  for law in cell.laws:
    values = (metrics[law.form] if law.values is None else law.values(metrics))[:, at]
    own = predicted(cell, law.form, n, T) if law.mean is None else None
    mean = law.mean or (lambda n, T, law=law: predicted(cell, law.form, n, T).mean)
    spread = values.var(axis=0, ddof=1) if own is None or own.variance is None else own.variance[at]
    error = np.sqrt(spread / len(values))
    z_against = lambda mean, values=values, error=error: (values.mean(axis=0) - mean) / np.maximum(error, 1e-30)
    expected = mean(n, T)[at]
    z = z_against(expected)
    wrong = {
      "num_samples": lambda mean=mean: mean(n - 1, T)[at],
      "generation": lambda mean=mean: mean(n, T + 1)[1:][at],
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
          "predicted": float(expected[i]),
          "z": float(z[i]),
          "twins": twins,
        }
      )
  return rows
