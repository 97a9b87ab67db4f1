"""The table of closed forms against simulation: every |z| below 5, and every wrong twin above."""

import numpy as np
import pytest
from scipy import stats

import collapse_jax as cj
from collapse_jax import diagnostics, plotting, tasks, theory, workflows
from collapse_jax.diagnostics import beside_theory
from collapse_jax.sweeps import expected
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


# factory, axes, workflows that emit other numbers, weigh, or draw real data anew. Of each the factory alone knows something.
BESIDE = {
  "exponential_family": (
    tasks.exponential_family,
    {"family": ["gaussian"], "num_samples": [100]},
    ["mix(0.5, fresh=True)", "mix(0.5, fresh=True, real_weight=0.3)", "replace(2)", "mix(0.56)", "accumulate(1)"],
  ),
  "a coin": (
    lambda num_samples: tasks.exponential_family("bernoulli", num_samples, 0.2),
    {"num_samples": [20]},
    ["replace(5)"],
  ),
  "gaussian": (
    lambda dim, num_samples, temperature: tasks.gaussian(dim, num_samples, 4.0, unbiased=True, temperature=temperature),
    {"dim": [2], "num_samples": [40], "temperature": [0.7]},
    ["accumulate(8)", "mix(0.3, real_weight=0.7)", "grown_replace"],
  ),
  "discrete": (
    lambda num_samples: tasks.discrete(2, num_samples, [0.9, 0.1]),
    {"num_samples": [30]},
    ["replace(5)", "mix(0.3, real_weight=0.7)"],
  ),
  "kde": (
    tasks.kde,
    {"dataset": ["normal"], "bandwidth": [0.5], "num_samples": [12]},
    ["mix(0.3, real_weight=0.7)", "replace(24)"],
  ),
  "linear_regression": (
    tasks.linear_regression,
    {"dim": [3], "num_samples": [40], "temperature": [0.5]},
    ["sliding_window(2)"],
  ),
}


def scores(results):
  """(workflow, metric) -> largest |z| over generations."""
  found = {}
  for row in diagnostics.compare_with_theory(results, (1, 2, 3, 4)):
    key = (str(row["workflow"]), row["metric"])
    found[key] = max(found.get(key, 0.0), abs(row["z"]))
  return found


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE)
def test_reports_predict_what_is_simulated(name):
  """2,000 runs of each; laws of batches that are all equal, and of a temperature of 1, must fail."""
  make, axes, names = BESIDE[name]
  results = cj.sweep(make, names, axes, num_generations=4, num_seeds=2000)
  found = scores(results)
  assert {name for name, _ in found} == set(names)
  assert max(found.values()) < laws.MAX_Z, found
  values = {axis: 1.0 if axis == "temperature" else value for axis, [value] in axes.items()}

  def careless(text):
    workflow = workflows.parse(text)()
    equal = lambda n, T: workflow.schedule(n, T)._replace(sizes=np.full(T, float(n)), fresh=False, real_weight=None)
    return workflow._replace(schedule=equal)

  index = lambda i: (i, *(0 for _ in axes))
  cells = [(index(i), make(**values), careless(text)) for i, text in enumerate(names)]
  stale = [name for name in results.data_vars if "_expected" in name or name.endswith("_limit")]
  runs = results.drop_vars([*stale, "shares", "real_share", "train_size"])  # nor what would tell that it is wrong
  wrong = scores(expected.Laws(cells, results.cell_status.shape, 4).beside(runs))
  assert max(wrong.values()) > laws.MAX_Z, wrong


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
  least = theory.schedule_trace_variance(laws.schedule("replace", 10, 1), 1)
  law = diagnostics.Law(np.array([0.9]), least_variance=least)
  ours = np.array([beside_theory._compared(sample, law, 0)["z"] for sample in samples])
  assert (np.abs(raw) > 5).sum() > 20 and (np.abs(ours) > 5).sum() == 0
  assert (np.abs(ours) > 3).mean() < 2.7e-3


def test_law_of_collapse_times():
  """Drawn where it is known of every cell of a curve."""
  import xarray

  dims, shape = ("workflow", "num_outcomes", "num_samples", "seed"), (1, 2, 3, 10)
  times = np.random.default_rng(0).integers(50, 100, shape)
  law = 2.0 + np.arange(6).reshape(shape[:3])
  law[0, 1, 2] = np.nan
  results = xarray.Dataset(
    {
      "collapse_generation": (dims, times),
      "collapse_generation_expected": (dims[:3], law),
      "censored": (dims, np.zeros(shape, bool)),
      "heterozygosity": ((*dims, "generation"), np.zeros((*shape, 3))),
    },
    {"workflow": ["mine"], "num_outcomes": [2, 5], "num_samples": [10, 20, 50], "generation": [1, 2, 3]},
  )
  [line] = [
    line for axis in plotting.collapse_times(results).axes for line in axis.lines if line.get_linestyle() == "--"
  ]
  np.testing.assert_array_equal(line.get_xdata(), [10, 20, 50])
  np.testing.assert_array_equal(line.get_ydata(), law[0, 0])
