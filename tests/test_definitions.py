"""The eight definitions of collapse: how often each fires where nothing changes, and where everything does."""

import numpy as np
import pytest
import xarray
from looking import Page

import collapse_jax as cj
from collapse_jax import diagnostics, report, tasks, workflows
from collapse_jax.diagnostics import definitions

NUM_SWEEPS, NUM_SEEDS = 200, 20
MOST_FALSE_ALARMS = 0.08  # 5%, and two standard errors of 200 sweeps


def share_firing(results, num_sweeps, alpha=0.05):
  """(definition, metric, num_samples) -> share of the sweeps, NUM_SEEDS runs each, in which the definition fires."""
  fired: dict = {}
  for i in range(num_sweeps):
    for row in cj.diagnose(results.isel(seed=slice(i * NUM_SEEDS, (i + 1) * NUM_SEEDS)), alpha):
      if row["applies"]:
        fired.setdefault((row["definition"], row["metric"], row.get("num_samples")), []).append(row["fires"])
  assert all(len(one) == num_sweeps for one in fired.values())
  return {at: np.mean(one) for at, one in fired.items()}


def gaussian(workflow, num_generations, num_sweeps, num_samples=(10, 20, 40)):
  return cj.sweep(
    tasks.gaussian,
    [workflow],
    {"dim": [2], "num_samples": list(num_samples)},
    num_generations=num_generations,
    num_seeds=num_sweeps * NUM_SEEDS,
  )


def blobs(workflow, num_generations, num_sweeps):
  make = lambda num_samples, bandwidth: tasks.kde("blobs", num_samples, bandwidth, num_test=20)
  return cj.sweep(
    make,
    workflow,
    {"num_samples": [20], "bandwidth": [0.5]},
    num_generations=num_generations,
    num_seeds=num_sweeps * NUM_SEEDS,
  )


@pytest.fixture(scope="module")
def unchanging():
  """Every generation is fitted to fresh real rows, so that nothing ever changes."""
  return gaussian("mix(1.0, fresh=True)", 12, NUM_SWEEPS)


def test_false_alarms(unchanging):
  found = share_firing(unchanging, NUM_SWEEPS)
  assert len(found) == 3 * 10 + 2  # per num_samples; and the scaling law by two metrics of risk
  assert max(found.values()) <= MOST_FALSE_ALARMS, found
  latest = workflows.replace()
  fresh = latest._replace(
    update=lambda task, problem, key, store, batch, t: latest.update(
      task, problem, key, store, task.fresh(key, problem), t
    )
  )
  found = share_firing(blobs({"fresh": fresh}, 12, NUM_SWEEPS), NUM_SWEEPS)
  assert {"mode_separation", "far_share"} <= {metric for _, metric, _ in found}
  assert max(found.values()) <= MOST_FALSE_ALARMS, found


def test_the_level_is_the_callers_and_the_bound_has_teeth(unchanging):
  """At a level of 20%, and where the mean is compared with no test at all, too many sweeps fire."""
  part = unchanging.sel(num_samples=[10])
  assert (
    share_firing(part, NUM_SWEEPS // 2, alpha=0.2)["any increase of population risk", "squared_error_of_mean", 10]
    > 0.12
  )
  risk = np.log(part.squared_error_of_mean.values.reshape(NUM_SWEEPS, NUM_SEEDS, -1)).mean(axis=1)
  assert np.mean(risk[:, -1] > risk[:, 0]) > MOST_FALSE_ALARMS


def test_power():
  """Under `replace` a Gaussian loses its covariance and a KDE widens until its modes merge."""
  num_sweeps = 60
  found = share_firing(gaussian("replace", 60, num_sweeps), num_sweeps)
  for definition, metrics in {
    "catastrophic increase of population risk": ["first_coordinate_risk"],
    "any increase of population risk": ["squared_error_of_mean", "first_coordinate_risk"],
    "asymptotically diverging population risk": ["first_coordinate_risk"],
    "change in scaling law": ["squared_error_of_mean", "first_coordinate_risk"],
    "collapsing variance": ["covariance_trace_ratio", "covariance_log_det_ratio"],
    "disappearance of real tail": ["first_coordinate_tail"],
  }.items():
    for metric in metrics:
      assert found[definition, metric, None if "scaling" in definition else 10] >= 0.95
  assert found["appearance of hallucinated data", "first_coordinate_far", 10] == 0  # a narrow law reaches nowhere
  # The error of the mean tends to dim: no divergence, up to chance in a slope that is not quite 0 yet.
  assert found["asymptotically diverging population risk", "squared_error_of_mean", 10] <= 0.1
  found = share_firing(blobs(["replace"], 40, num_sweeps), num_sweeps)
  assert found["entanglement of real modes", "mode_separation", 20] >= 0.95
  assert found["appearance of hallucinated data", "far_share", 20] >= 0.95


GENERATIONS = np.arange(1, 41.0)


def noisy(curve, seed=0):
  return curve + 0.1 * np.random.default_rng(seed).normal(size=(NUM_SEEDS, len(GENERATIONS)))


@pytest.mark.parametrize(
  ("test", "curve", "fires"),
  [
    (definitions.any_increase, 0.02 * GENERATIONS, True),
    (definitions.any_increase, -0.02 * GENERATIONS, False),
    (definitions.catastrophic_increase, 0.02 * GENERATIONS, False),
    (definitions.catastrophic_increase, 0.1 * GENERATIONS, True),
    (definitions.diverging, 0.1 * GENERATIONS, True),
    (definitions.diverging, np.log(GENERATIONS), True),
    (definitions.diverging, 5 - 5 / GENERATIONS, False),
    (definitions.diverging, -0.1 * GENERATIONS, False),
    (definitions.collapsing_variance, -0.1 * GENERATIONS, True),
    (definitions.collapsing_variance, 0.1 * GENERATIONS, False),
    (definitions.collapsing_variance, 5 / GENERATIONS, False),
    (definitions.entangled_modes, -0.02 * GENERATIONS, True),
    (definitions.lost_tail, -0.02 * GENERATIONS, True),
    (definitions.lost_tail, 0.02 * GENERATIONS, False),
    (definitions.hallucination, 0.02 * GENERATIONS, True),
  ],
)
def test_each_on_known_curves(test, curve, fires):
  finding = test(noisy(curve), GENERATIONS)
  assert finding.applies and finding.fires == fires


def test_infinite_equal_and_lost_values():
  same = np.ones((NUM_SEEDS, 40))
  for definition in definitions.DEFINITIONS.values():
    if definition.test is not definitions.changed_scaling:
      finding = definition.test(same, GENERATIONS)
      assert finding.applies and not finding.fires and finding.p_value > 0.99
  gone = noisy(0 * GENERATIONS)
  gone[:15, 20:] = np.inf
  for test in (definitions.any_increase, definitions.catastrophic_increase, definitions.diverging):
    finding = test(gone, GENERATIONS)
    assert finding.fires and "infinite at the end in 15 of 20 runs" in finding.statement
  assert definitions.collapsing_variance(-gone, GENERATIONS).fires
  part = noisy(0 * GENERATIONS)
  part[:9, 20:] = np.inf  # 45%, the others flat
  for finding in (definitions.diverging(part, GENERATIONS), definitions.collapsing_variance(-part, GENERATIONS)):
    assert finding.applies and "in 9 of 20 runs" in finding.statement
  many = np.tile(part, (5, 1)) + 0.1 * np.random.default_rng(1).normal(size=(100, 40))
  assert definitions.diverging(many, GENERATIONS).fires and definitions.collapsing_variance(-many, GENERATIONS).fires
  lost = noisy(GENERATIONS)
  lost[:3, 30:] = np.nan
  assert "3 of 20 runs left out: not a number" in definitions.any_increase(lost, GENERATIONS).statement
  assert "3 runs not finite" in definitions.diverging(lost, GENERATIONS).statement
  lost[:11, 30:] = np.nan  # the survivors are not a fair sample
  for test in (definitions.any_increase, definitions.diverging):
    assert not test(lost, GENERATIONS).applies


def test_scaling_law():
  sizes = np.array([10.0, 100.0, 1000.0])
  first = -np.log(sizes)[:, None, None] + noisy(0 * GENERATIONS)[None]
  flat = (
    first
    + np.log(sizes)[:, None, None] * (GENERATIONS > 1)
    + noisy(0 * GENERATIONS, 1)[None] * sizes[:, None, None] / 5e3
  )
  assert not definitions.changed_scaling(first, sizes).fires
  finding = definitions.changed_scaling(flat, sizes)
  assert finding.fires and "num_samples^-1.00 at the first" in finding.statement
  assert not definitions.changed_scaling(flat[:2], sizes[:2]).applies
  assert not definitions.changed_scaling(flat[:, :5], sizes).applies  # five runs cannot be significant on both sides
  assert definitions.changed_scaling(flat[:, :6], sizes).fires


def test_undefined_says_why(unchanging):
  def why(results, definition):
    return {row["statement"] for row in cj.diagnose(results) if row["definition"] == definition and not row["applies"]}

  few = unchanging.isel(seed=slice(20))
  assert why(few, "entanglement of real modes") == {"undefined: no metric of how far modes are apart"}
  assert why(few.isel(num_samples=0), "change in scaling law") == {
    "undefined: needs three values of num_samples or more"
  }
  assert "needs half of them, and 5" in why(few.isel(seed=slice(3)), "any increase of population risk").pop()
  assert why(few.isel(generation=[0]), "disappearance of real tail") == {"undefined: needs two generations"}
  negative = few[["squared_error_of_mean"]] - 100
  negative.squared_error_of_mean.attrs["measures"] = "risk"
  assert "negative in places" in why(negative, "any increase of population risk").pop()


def test_first_coordinate_by_integration():
  """Risk, tail and far mass of N(mean, variance) where N(0, 1) is the truth."""
  x = np.linspace(-30, 30, 600_001)
  density = lambda mean, variance: np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)
  truth = density(0.0, 1.0)
  results = cj.sweep(tasks.gaussian, ["replace"], {"dim": [1], "num_samples": [9]}, num_generations=1, num_seeds=1)
  for mean, variance in ((0.0, 1.0), (0.3, 0.7), (-1.5, 2.0), (4.0, 9.0)):
    model = density(mean, variance)
    results.standard_mean[:], results.standard_log_variance[:] = mean, np.log(variance)
    found = definitions.with_first_coordinate(results)
    total = lambda y: np.sum(y) * (x[1] - x[0])
    log_ratio = 0.5 * ((x - mean) ** 2 / variance - x**2 + np.log(variance))
    covered = sum(min(total(model[side]), total(truth[side])) for side in (x < -2, x > 2)) / total(truth[abs(x) > 2])
    for name, expected in (("risk", total(truth * log_ratio)), ("tail", covered), ("far", total(model[abs(x) > 5]))):
      assert found[f"first_coordinate_{name}"].item() == pytest.approx(expected, abs=2e-5)


def judged(curve, **about):
  """Definition -> its finding about one metric of 20 runs of a curve."""
  about = {"long_name": "", "units": "1", "log_scale": 0, "measures": "risk", "worse": "higher"} | about
  metric = ("workflow", "seed", "generation"), noisy(np.asarray(curve))[None], about
  rows = cj.diagnose(xarray.Dataset({"metric": metric}, {"workflow": ["mine"], "generation": GENERATIONS}))
  return {row["definition"]: row for row in rows if row["applies"]}


def test_only_what_is_on_a_log_scale_is_logged():
  """A risk in bits is a log already; one that is better the higher it is rises as the metric falls."""
  rise = 3 + 0.05 * GENERATIONS
  for units, words in (("bits per item", "median run: +2 bits"), ("nats", "median run: x 7")):
    found = judged(rise, units=units)["any increase of population risk"]
    assert found["fires"] and found["statement"].startswith(words), found["statement"]
  logged = judged(np.exp(rise), log_scale=1)["any increase of population risk"]
  assert logged["fires"] and logged["statement"].startswith("median run: x 7")
  falling = judged(1 - 0.01 * GENERATIONS, worse="lower")["any increase of population risk"]
  assert falling["fires"] and falling["statement"].startswith("median run: +0.")
  assert not judged(1 + 0.01 * GENERATIONS, worse="lower")["any increase of population risk"]["fires"]


def test_report_has_the_table(unchanging, tmp_path):
  few = unchanging.isel(seed=slice(20)).assign_attrs(task="gaussian")
  report.write_report(few, tmp_path / "report.html", figures={"gaussian": {}})
  page = Page((tmp_path / "report.html").read_text())
  [table] = [one for one in page.tables if one.heading == "Definitions of collapse" and "cell" not in one.columns]
  assert {row[0] for row in table.rows} == set(definitions.DEFINITIONS)
  assert ["entanglement of real modes", "undefined: no metric of how far modes are apart"] in table.rows
  found = cj.diagnose(few)
  for shown in table.records():
    for workflow in few.workflow.values:
      at = (shown["definition"], shown["metric"], workflow)
      rows = [row for row in found if (row["definition"], row["metric"], row["workflow"]) == at and row["applies"]]
      assert shown.get(workflow, "") == (f"{sum(row['fires'] for row in rows)} of {len(rows)}" if rows else "")
  assert any("0 of 3" in row for row in table.rows)


@pytest.mark.slow
def test_nothing_fires_where_nothing_happens():
  """Ten million and a billion rows a batch under `accumulate`: the variance falls by 1e-7 and 1e-9, far below what it varies by.

  Only the risk rises for certain, to pi^2 / 6 times that of the first fit, which is no more than it is with ten rows.
  """
  results = cj.sweep(
    tasks.gaussian, ["accumulate"], {"dim": [3], "num_samples": [10**7, 10**9]}, num_generations=1000, num_seeds=100
  )
  assert {row["verdict"].label for row in diagnostics.verdicts(results)} <= {"bounded", "undecided"}
  fired = {row["definition"] for row in cj.diagnose(results) if row["fires"]}
  assert fired <= {"any increase of population risk"}


def test_what_is_found_is_a_table():
  """Counts of cells a workflow, or why there is none; also in a notebook."""
  loss = np.random.default_rng(0).normal(size=(2, 2, 20, 10)) + np.array([0.0, 3.0])[:, None, None, None] * np.arange(
    10
  )
  about = {"worse": "higher", "measures": "risk", "units": "nats", "log_scale": 0}
  results = xarray.Dataset(
    {"loss": (("workflow", "dim", "seed", "generation"), loss, about)},
    {"workflow": ["still", "rising"], "dim": [1, 2], "generation": np.arange(1, 11)},
  )
  found = cj.diagnose(results)
  table = found.table()
  assert list(table.loc[("any increase of population risk", "loss")]) == ["fires in 0 of 2", "fires in 2 of 2"]
  assert table.loc[("disappearance of real tail", "")].str.startswith("undefined: ").all()
  assert repr(found) == table.to_string() and "<table" in found._repr_html_()
  assert found == list(found) and repr(definitions.Diagnosis()).startswith("Empty DataFrame")
