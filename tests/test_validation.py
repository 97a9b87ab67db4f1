"""The table of closed forms against simulation: every |z| below 5, and every wrong twin above."""

import numpy as np
import pytest
from scipy import stats

import collapse_jax as cj
from collapse_jax import diagnostics, plotting, tasks, theory, workflows
from tests import laws

CELLS = laws.cells()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.setting}, {cell.workflow[:20]}".replace(" ", "_"))
def test_simulation_follows_theory(cell):
  for row in laws.check(cell):
    assert abs(row["z"]) < laws.MAX_Z, row
    assert all(z > laws.MAX_Z for z in row["twins"].values()), row


def test_the_table_is_long_enough():
  """At least 60 pairs of form and workflow and setting; only martingales, sums and what does not change have no twin."""
  laws = [(cell.setting, cell.workflow, law.form) for cell in CELLS for law in cell.laws]
  assert len(set(laws)) == len(laws) >= 60
  assert np.mean([bool(law.twins) for cell in CELLS for law in cell.laws]) > 0.7


# task, its factory, what its attributes say, axes, workflows that emit other numbers, weigh, or draw real data anew.
BESIDE = [
  (
    "exponential_family",
    tasks.exponential_family,
    {},
    {"family": ["gaussian"], "num_samples": [100]},
    ["mix(0.5, fresh=True)", "mix(0.5, fresh=True, real_weight=0.3)", "replace(2)", "mix(0.56)", "accumulate(1)"],
  ),
  (
    "exponential_family",
    lambda family, num_samples: tasks.exponential_family(family, num_samples, 0.2),
    {"temperature": 1.0},
    {"family": ["bernoulli"], "num_samples": [20]},
    ["replace(5)"],
  ),
  (
    "gaussian",
    lambda dim, num_samples, temperature: tasks.gaussian(dim, num_samples, 4.0, unbiased=True, temperature=temperature),
    {"unbiased": 1, "noise_var": 4.0},
    {"dim": [2], "num_samples": [40], "temperature": [0.7]},
    ["accumulate(8)", "mix(0.3, real_weight=0.7)", "grown_replace"],
  ),
  (
    "discrete",
    lambda num_outcomes, num_samples: tasks.discrete(num_outcomes, num_samples, [0.9, 0.1]),
    {"temperature": 1.0},
    {"num_outcomes": [2], "num_samples": [30]},
    ["replace(5)", "mix(0.3, real_weight=0.7)"],
  ),
  (
    "kde",
    tasks.kde,
    {},
    {"dataset": ["normal"], "bandwidth": [0.5], "num_samples": [12]},
    ["mix(0.3, real_weight=0.7)", "replace(24)"],
  ),
  (
    "linear_regression",
    tasks.linear_regression,
    {},
    {"dim": [3], "num_samples": [40], "temperature": [0.5]},
    ["sliding_window(2)"],
  ),
]


def scores(results):
  """(workflow, metric) -> largest |z| over generations."""
  found = {}
  for row in diagnostics.compare_with_theory(results, (1, 2, 3, 4)):
    key = (str(row["workflow"]), row["metric"])
    found[key] = max(found.get(key, 0.0), abs(row["z"]))
  return found


@pytest.mark.slow
@pytest.mark.parametrize(
  "task, make, about, axes, names", BESIDE, ids=lambda value: value if isinstance(value, str) else ""
)
def test_reports_predict_what_is_simulated(task, make, about, axes, names, monkeypatch):
  """2,000 runs of each; laws of batches that are all equal, and of a temperature of 1, must fail."""
  results = cj.sweep(make, names, axes, num_generations=4, num_seeds=2000)
  results.attrs |= {"task": task, **about}
  found = scores(results)
  assert {name for name, _ in found} == set(names)
  assert max(found.values()) < laws.MAX_Z, found
  schedule = diagnostics._Cell.schedule
  careless = lambda cell: (one := schedule(cell))._replace(
    sizes=np.full(len(one.sizes), one.sizes[0]), fresh=False, real_weight=None
  )
  monkeypatch.setattr(diagnostics._Cell, "schedule", careless)
  wrong = scores(results.assign_coords(temperature=[1.0]) if "temperature" in axes else results)
  assert max(wrong.values()) > laws.MAX_Z, wrong


def made(task, metrics, workflow="accumulate", seeds=12, T=4, **about):
  import xarray

  dims = ("workflow", "dim", "num_samples", "seed", "generation")
  shape = (1, 1, 1, seeds, T)
  info = {"long_name": "a metric", "units": "1", "worse": "higher", "log_scale": 0}
  variables = {name: (dims, np.full(shape, value), info) for name, value in metrics.items()}
  axes = {"workflow": [workflow], "dim": [2], "num_samples": [50], "generation": np.arange(1, T + 1)}
  return xarray.Dataset(variables, axes, {"task": task, "primary_metric": next(iter(metrics)), **about})


ALL_SAID = {"unbiased": 0, "noise_var": 4.0, "temperature": 1.0}


@pytest.mark.parametrize(
  "about, known",
  [
    ({}, True),
    ({"task_factory": "collapse_jax.tasks.gaussian.gaussian"}, True),
    ({"task_factory": "mine.<lambda>"}, False),
    ({"task_factory": "mine.<lambda>"} | ALL_SAID, True),
    ({"own_workflows": '["accumulate"]'}, False),
    ({"own_workflows": '["mine"]'}, True),
  ],
)
def test_nothing_is_guessed(about, known):
  """A factory of the user's own may set anything, a workflow of theirs may have any name."""
  results = diagnostics.complete(
    made("gaussian", {"covariance_trace_ratio": 1.0, "squared_error_of_mean": 0.1}, **about)
  )
  cell = {"workflow": "accumulate", "dim": 2, "num_samples": 50}
  for name in ("covariance_trace_ratio", "squared_error_of_mean"):
    assert (diagnostics.predicted(results, cell, name) is not None) == known
    assert (diagnostics.predicted_limit(results, cell, name) is not None) == known
  if known:
    error = diagnostics.predicted(results, cell, "squared_error_of_mean").mean
    np.testing.assert_allclose(error, 2 * about.get("noise_var", 1.0) * theory.gaussian_accumulate(50, 4).mean_error)
  lines = [
    line
    for axis in plotting.trajectories(results, "covariance_trace_ratio").axes
    for line in axis.lines
    if line.get_linestyle() == "--"
  ]
  assert len(lines) == known
  for line in lines:
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(line.get_ydata(), theory.gaussian_accumulate(50, 4).trace_ratio)


def test_sweeps_say_what_made_them():
  grid = {"num_samples": [5]}
  options = {"num_generations": 2, "num_seeds": 2}
  ours = cj.sweep(
    lambda num_samples: tasks.gaussian(1, num_samples), {"replace": workflows.accumulate()}, grid, **options
  )
  assert ours.attrs["own_workflows"] == '["replace"]' and ours.attrs["task_factory"].endswith("<lambda>")
  ours = ours.expand_dims({"dim": [1]}).assign_attrs(task="gaussian")
  assert (
    diagnostics.predicted(
      diagnostics.complete(ours), {"workflow": "replace", "dim": 1, "num_samples": 5}, "covariance_trace_ratio"
    )
    is None
  )
  theirs = cj.sweep(tasks.sample_median, ["replace"], grid, **options)
  assert theirs.attrs["own_workflows"] == "[]" and theirs.attrs["task_factory"].startswith("collapse_jax.tasks.")


def test_few_runs_have_the_level_of_many():
  """Traces of 10 runs, n = 10, dim 1: |z| > 5 in 2.7e-3 of the rows by the sample's error alone, in next to none by ours."""
  for freedom in (9, 99, 9999):
    for z in (0.5, 2.0, 4.0):
      t = stats.t.isf(stats.norm.sf(z), freedom)
      assert diagnostics.normal_deviate(t, freedom) == pytest.approx(z, rel=0.006)
      assert diagnostics.normal_deviate(-t, freedom) == -diagnostics.normal_deviate(t, freedom)
  rng, num = np.random.default_rng(0), 20_000
  samples = rng.chisquare(9, (num, 10)) / 10
  raw = (samples.mean(axis=1) - 0.9) / samples.std(axis=1, ddof=1) * np.sqrt(10)
  expected = diagnostics.Expected(
    np.array([0.9]), least_variance=theory.schedule_trace_variance(theory.schedule_of("replace", 10, 1), 1)
  )
  ours = np.array([diagnostics._compared(sample, expected, 0)["z"] for sample in samples])
  assert (np.abs(raw) > 5).sum() > 20 and (np.abs(ours) > 5).sum() == 0
  assert (np.abs(ours) > 3).mean() < 2.7e-3


@pytest.mark.parametrize(
  "workflow, about, known",
  [
    ("replace", {}, True),
    ("sliding_window(1)", {}, True),
    ("replace(2)", {}, False),
    ("accumulate", {}, False),
    ("replace", {"probabilities": [0.9, 0.1]}, False),
    ("replace", {"own_workflows": '["replace"]'}, False),
  ],
)
def test_law_of_collapse_times(workflow, about, known):
  """Drawn where it holds, and where it is."""
  import xarray

  dims, shape = ("workflow", "num_outcomes", "num_samples", "seed"), (1, 2, 3, 10)
  times = np.random.default_rng(0).integers(50, 100, shape)
  results = xarray.Dataset(
    {
      "collapse_generation": (dims, times),
      "censored": (dims, np.zeros(shape, bool)),
      "heterozygosity": ((*dims, "generation"), np.zeros((*shape, 3))),
    },
    {"workflow": [workflow], "num_outcomes": [2, 5], "num_samples": [10, 20, 50], "generation": [1, 2, 3]},
    {"task": "discrete", **about},
  )
  lines = [
    line for axis in plotting.collapse_times(results).axes for line in axis.lines if line.get_linestyle() == "--"
  ]
  assert len(lines) == (2 if known else 0)
  for line, num in zip(lines, (2, 5)):
    np.testing.assert_array_equal(line.get_xdata(), [10, 20, 50])
    np.testing.assert_allclose(line.get_ydata(), [2 * n * (num - 1) * np.log(num / (num - 1)) for n in (10, 20, 50)])
