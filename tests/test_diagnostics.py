"""Verdicts, theory beside simulation, figures and report on results whose law is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from looking import Page, bands, interval, lines

from benchmarks import verdicts as benchmark
from collapse_jax import diagnostics, plotting, report, tasks, theory, workflows
from collapse_jax.data import generators


def made(values, task="gaussian", metric="covariance_trace_ratio", worse="lower", log_scale=1, **axes):
  """A result Dataset of one metric, values [workflow, axes..., seed, generation]."""
  values = np.asarray(values)
  grid = ("workflow", *axes)
  coordinates = {
    "workflow": ["replace", "accumulate", "my own"][: len(values)],
    **axes,
    "generation": np.arange(1, values.shape[-1] + 1),
  }
  about = {"long_name": "a metric", "units": "1", "worse": worse, "log_scale": log_scale}
  return xarray.Dataset(
    {metric: ((*grid, "seed", "generation"), values, about)}, coordinates, {"task": task, "primary_metric": metric}
  )


def test_verdicts_where_runs_are_lost():
  t = np.arange(1, 101.0)
  noise = 0.1 * np.random.default_rng(0).normal(size=(100, 100))
  flat = noise.copy()
  flat[:97, 60:] = np.nan  # 97 of 100 blew up: the other three say nothing
  assert diagnostics.verdict(flat, t).label == "undecided"
  flat = noise.copy()
  flat[:60, 60:] = np.inf
  assert diagnostics.verdict(flat, t).label == "diverging"
  assert diagnostics.verdict(flat, t, worse="lower").label == "undecided"
  assert diagnostics.verdict(np.full((10, 100), np.inf), t).label == "undecided"  # bad from the start is not growth
  assert diagnostics.verdict(noise[:1], t).label == "undecided"


def test_few_runs_do_not_make_a_rise_bounded():
  """Three runs of five generations are too few for a label, whatever they do; forty are enough."""
  t = np.arange(1, 6.0)
  wobble = np.array([-0.1, 0.0, 0.1])[:, None] * t
  assert diagnostics.verdict(t + wobble, t).label == "undecided"
  assert diagnostics.verdict(1 + wobble, t).label == "undecided"
  many = np.tile(wobble, (14, 1))
  assert diagnostics.verdict(t + many, t).label == "diverging"
  assert diagnostics.verdict(1 + many, t).label == diagnostics.verdict(-t + many, t).label == "bounded"


@pytest.mark.parametrize("lost", [1, 45, 50])
def test_infinite_runs_are_never_beside_the_point(lost):
  """Some runs end infinitely bad and the others are flat: not bounded; infinitely good is no harm."""
  t = np.arange(1, 101.0)
  values = 0.1 * np.random.default_rng(0).normal(size=(100, 100))
  assert diagnostics.verdict(values, t).label == "bounded"
  values[:lost, 60:] = np.inf
  found = diagnostics.verdict(values, t)
  assert found.label == "undecided" and "diverging" in found.possible
  rising = diagnostics.verdict(values + 0.1 * t, t)
  assert rising.label == "diverging" and rising.num_finite == 100 - lost


GRID = [
  (T, num, noise, kind)
  for T in (5, 20, 100, 1000)
  for num in (2, 3, 5, 20, 100)
  for noise in (0.02, 0.5)
  for kind in benchmark.NOISES
]


@pytest.mark.parametrize("curve", benchmark.CURVES)
def test_verdicts_on_known_curves(curve):
  """Right or undecided, but for chance (20 sweeps a cell); right where the noise is small and the runs are many."""
  right = benchmark.CURVES[curve][1]
  for at in GRID:
    if curve == "log t" and at[2] == 0.5:
      continue  # over the last half it rises by less than half a standard deviation between runs, which counts as flat
    rates = benchmark.rates(curve, *at, repeats=20, worse="lower" if at[1] % 2 else "higher")
    wrong = 1 - rates.get(right, 0.0) - rates.get("undecided", 0.0)
    assert wrong <= 0.101, (at, rates)
  if "oscillation" not in curve and curve != "1 - 1/t":  # there it has levelled off before the last generations
    for T in (20, 100):
      assert benchmark.rates(curve, T, 100, 0.02, "walk", repeats=20).get(right, 0.0) >= 0.9


def test_a_change_below_the_resolution_is_none():
  """A drift of 4e-8 a generation, as rounding makes: seen in a metric of that size, not in one near 1 or in the log of one."""
  t = np.arange(1, 1001.0)
  noise = np.random.default_rng(0).normal(size=(100, 1000))
  drift = -4e-11 * t + 1e-10 * noise
  assert diagnostics.verdict(drift, t, worse="lower").label == "diverging"
  assert diagnostics.verdict(1 + drift, t, worse="lower").label == "bounded"
  results = made(np.exp(drift)[None])
  assert [row["verdict"].label for row in diagnostics.verdicts(results)] == ["bounded"]


def test_a_ratio_of_zero_has_collapsed():
  values = np.exp(-np.arange(1, 101.0)) * np.ones((1, 20, 1))
  values[..., 40:] = 0.0
  [row] = diagnostics.verdicts(made(values))
  assert row["verdict"].label == "diverging" and row["verdict"].final_mean == -np.inf
  [row] = diagnostics.verdicts(made(values, metric="squared_error_of_mean", worse="higher"))
  assert row["verdict"].label == "bounded"


def test_a_cell_that_was_stopped_is_drawn_up_to_there():
  values = np.ones((2, 3, 6)) + np.arange(3)[:, None]
  values[1, :, 4:] = np.nan
  figure = plotting.trajectories(made(values, task="mine", worse="higher", log_scale=0), "covariance_trace_ratio")
  whole, part = figure.axes[0].lines
  assert list(part.get_xdata()) == [1, 2, 3, 4] and len(whole.get_xdata()) == 6
  assert "ended at t = 4" in part.get_label()


def solid_lines(axis):
  return lines(axis, "-")


def normal_sample(mean, num=400, seed=0):
  return mean + 0.01 * np.random.default_rng(seed).normal(size=(num, len(mean)))


def beside(results, metric, **theory_of):
  """With what theory says of a metric: ending -> values [workflow, ...]."""
  grid = [dim for dim in results[metric].dims if dim not in ("seed", "generation")]
  shape = [results.sizes[dim] for dim in grid]
  for ending, values in theory_of.items():
    values = np.asarray(values, float)
    dims = [*grid, "generation"] if values.ndim > 1 else grid
    results[f"{metric}_{ending}"] = dims, values.reshape(shape + list(values.shape[1:]))
  return results


def test_theory_uses_finite_runs_and_says_how_many():
  """Correct simulated means pass, a wrong generation or one NaN among them does not turn into a pass."""
  n, T = 100, 12
  replaced, law = theory.gaussian_replace(n, T).trace_ratio, theory.gaussian_accumulate(n, T).trace_ratio
  values = np.stack([normal_sample(replaced), normal_sample(law, seed=1), normal_sample(law, seed=2)])
  values[1, :7, 5:] = np.nan
  expected = np.stack([replaced, law, np.full(T, np.nan)])
  known = lambda values: beside(
    made(values[:, None, None], dim=[3], num_samples=[n]), "covariance_trace_ratio", expected=expected
  )
  rows = diagnostics.compare_with_theory(known(values))
  assert [row["workflow"] for row in rows] == ["replace"] * 3 + ["accumulate"] * 3  # nothing is known of "my own"
  assert all(abs(row["z"]) < 5 for row in rows)
  assert [row["num_finite"] for row in rows[3:]] == [400, 400, 393]
  late = diagnostics.compare_with_theory(known(np.roll(values, 1, axis=-1)))
  assert max(abs(row["z"]) for row in late) > 5


def test_spreads_that_theory_knows():
  """A known variance is taken for the sample's, a lower bound where the sample's is less; NaN is not known."""
  values = np.random.default_rng(0).normal(size=(1, 1, 1, 20, 4))
  sample = values[0, 0, 0].std(axis=0, ddof=1)
  told = {"expected": np.zeros((1, 4)), "expected_variance": [[4.0, np.nan, np.nan, np.nan]]}
  told["expected_least_variance"] = [[9.0, 9.0, 0.01, np.nan]]
  results = beside(made(values, dim=[1], num_samples=[10]), "covariance_trace_ratio", **told)
  rows = diagnostics.compare_with_theory(results, (1, 2, 3, 4))
  spread = [2.0, 3.0, *sample[2:]]
  np.testing.assert_allclose([row["standard_error"] for row in rows], np.array(spread) / np.sqrt(20))
  ratios = values[0, 0, 0].mean(axis=0) / spread * np.sqrt(20)
  by_student = [ratios[0], *(diagnostics.normal_deviate(ratio, 19) for ratio in ratios[1:])]
  np.testing.assert_allclose([row["z"] for row in rows], by_student)


@pytest.mark.parametrize(("up_to", "shown"), [(np.nan, [1, 2, 10]), (2, [1, 2]), (0, [])])
def test_nothing_is_compared_beyond_what_theory_vouches_for(up_to, shown):
  values = np.random.default_rng(0).uniform(size=(1, 1, 1, 20, 30))
  results = made(values, dim=[1], num_samples=[10])
  told = {"expected": np.full((1, 30), 0.5), "expected_up_to": [up_to]}
  rows = diagnostics.compare_with_theory(beside(results, "covariance_trace_ratio", **told))
  assert [row["generation"] for row in rows] == shown
  assert diagnostics.compare_with_theory(results.isel(seed=slice(9))) == []  # too few runs


@pytest.mark.parametrize(("metric", "up_to"), [("covariance_trace_ratio", 2), ("squared_error_of_mean", 1)])
def test_heavy_tails_are_left_out(metric, up_to):
  """Under `replace` with 10 rows; the covariance at once with 4, the error of the mean's first generation never."""
  law = lambda n: tasks.gaussian(1, n).predict(workflows.replace().schedule(n, 30))[metric]
  assert law(10).up_to == up_to and law(4).up_to == (1 if metric == "squared_error_of_mean" else 0)
  assert law(1000).up_to is None


def kde_results(n=40, T=30, bandwidth=0.5, seeds=300, kernel_of_next=1.0):
  """A Gaussian smoothed bootstrap in NumPy: what KDE does to the variance of its data."""
  rng = np.random.default_rng(1)
  out = np.zeros((2, seeds, T))
  for w, pooled in enumerate((False, True)):
    pool = rng.standard_normal((seeds, n))
    for t in range(T):
      out[w, :, t] = pool.var(axis=1) + bandwidth**2
      rows = np.take_along_axis(pool, rng.integers(0, pool.shape[1], (seeds, n)), axis=1)
      rows = rows + kernel_of_next * bandwidth * rng.standard_normal((seeds, n))
      pool = np.concatenate([pool, rows], axis=1) if pooled else rows
  results = made(out[:, None], metric="model_variance", worse="", num_samples=[n])
  flows = (workflows.replace(), workflows.accumulate())
  told = [tasks.kde("normal", n, bandwidth).predict(flow.schedule(n, T))["model_variance"] for flow in flows]
  up_to = [np.nan if law.up_to is None else law.up_to for law in told]
  return beside(results, "model_variance", expected=[law.mean for law in told], expected_up_to=up_to)


def test_kde_variance_beside_theory():
  rows = diagnostics.compare_with_theory(kde_results(), (1, 2, 8, 30))
  at = [("replace", t) for t in (1, 2, 8)] + [("accumulate", t) for t in (1, 2, 8, 30)]
  assert [(row["workflow"], row["generation"]) for row in rows] == at
  assert max(abs(row["z"]) for row in rows) < 5
  wrong = diagnostics.compare_with_theory(kde_results(kernel_of_next=1.1), (1, 2, 8, 30))
  for workflow in ("replace", "accumulate"):
    assert max(abs(row["z"]) for row in wrong if row["workflow"] == workflow) > 5


@pytest.mark.parametrize("dataset", ["blobs", "moons", "circles", "ring", "swiss_roll", "wine"])
def test_variance_of_data_sets(dataset):
  """Over training rows of 60,000 runs: the law, and not that of one row less, or of one more."""
  source, num = generators.get(dataset, 30), 4

  def one(key):
    truth_key, split_key = jax.random.split(key)
    return jnp.mean(jnp.var(source.split(split_key, source.init(truth_key), num, 30)[0], axis=0))

  found = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 60_000)), np.float64)
  z = lambda expected: abs(found.mean() - expected) / (found.std(ddof=1) / np.sqrt(len(found)))
  assert z(source.variance(num)) < 5 < min(z(source.variance(num - 1)), z(source.variance(num + 1)))


@pytest.mark.parametrize("select", [{}, {"dim": 0}, {"workflow": 0}, {"dim": 0, "num_samples": 1, "workflow": 1}])
def test_figures_and_report_after_selection(select, tmp_path):
  """Whatever a user has selected, and without cell_status."""
  values = np.random.default_rng(0).uniform(0.5, 1, (2, 2, 2, 12, 5))
  results = made(values, dim=[3, 10], num_samples=[10, 20]).isel(select)
  figures = plotting.figures_for(results)
  assert list(figures) == ["covariance_trace_ratio"]
  whole = diagnostics.complete(results)
  runs = [cell for _, cell in diagnostics.cells(whole, "covariance_trace_ratio")]
  axes = figures["covariance_trace_ratio"].axes
  drawn, filled = ([one for axis in axes for one in found(axis)] for found in (solid_lines, bands))
  assert len(drawn) == len(filled) == len(runs)
  for values in runs:
    mean, low, high = interval(values)
    [at] = [i for i, (_, y) in enumerate(drawn) if np.allclose(y, mean, rtol=1e-12)]
    np.testing.assert_allclose(filled[at][1:], (np.maximum(low, 0.1 * mean), high))
  report.write_report(results, tmp_path / "report.html")
  page = Page((tmp_path / "report.html").read_text())
  assert [image["alt"] for image in page.images] == list(figures)
  rows = [row["verdict"].label for row in diagnostics.verdicts(results)]
  counted = np.sum([[int(text) for text in row[2:]] for row in page.table("cells diverging").rows], axis=0)
  assert list(counted) == [rows.count(label) for label in ("diverging", "growing", "bounded", "undecided")]


def test_file_names_of_figures(tmp_path):
  """A path among the values makes no folders."""
  values = np.random.default_rng(0).uniform(0.5, 1, (2, 2, 2, 12, 5))
  results = made(values, "kde", "nll", "higher", 0, bandwidth=["0.1", "scott"], table=["a/b.csv", "../c d.csv"])
  for name, figure in plotting.figures_for(results.expand_dims({"dataset": ["x"], "num_samples": [9]})).items():
    assert "/" not in name and " " not in name
    (tmp_path / name).write_bytes(plotting.png(figure))
  assert len(list(tmp_path.iterdir())) == 4


def test_nothing_to_show_is_named():
  with pytest.raises(ValueError, match="workflow, seed and generation"):
    diagnostics.complete(xarray.Dataset({"x": ("a", [1.0])}))
