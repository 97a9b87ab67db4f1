"""Figures of results of known numbers: their lines, bands, theory, axes and captions, read back."""

import itertools

import numpy as np
import pytest
from looking import assert_curve, bands, caption, interval, legend, lines, results, runs, theory
from matplotlib.colors import to_hex

from collapse_jax import decisions, plotting
from collapse_jax.plotting import panels
from collapse_jax.plotting.figures import WORKFLOW_COLOURS, workflow_colours
from collapse_jax.refused import Refused

T = np.arange(1, 7)
CURVES = np.stack([3.0 + 0.1 * T, 2.0 - 0.2 * T, 5.0 + 0 * T])  # of three workflows, all apart


def simple(log_scale=0, generations=None, **more):
  about = {"loss": {"long_name": "loss of the model", "units": "nats", "log_scale": log_scale}}
  return results({"loss": runs(CURVES), **more}, about=about, generations=generations)


def test_curves_and_bands():
  """Of each workflow in its colour: the mean of its runs and 1.96 standard errors around it."""
  known = simple()
  figure = plotting.trajectories(known, "loss")
  [axis] = figure.axes
  assert len(axis.lines) == len(bands(axis)) == 3
  for i, workflow in enumerate(known.workflow.values):
    assert_curve(axis, i, T, known.loss.sel(workflow=workflow).values)
    assert axis.lines[i].get_color() == WORKFLOW_COLOURS[workflow]
    assert to_hex(axis.collections[i].get_facecolor()[0]) == WORKFLOW_COLOURS[workflow].lower()
  assert axis.get_yscale() == axis.get_xscale() == "linear"
  assert (axis.get_xlabel(), axis.get_ylabel()) == ("generation t", "loss of the model (nats)")
  assert legend(figure) == list(known.workflow.values)
  assert caption(figure) == "band: 95% interval of the mean over 5 seeds; 0 non-finite runs left out of the means"


def test_every_panel_shows_the_cell_that_it_names():
  """A row a dim, a column a workflow, a curve a size: 12 curves, none of them in another's place."""
  axes = {"workflow": ["accumulate", "mine"], "dim": [1, 30], "num_samples": [10, 100, 1000]}
  mean = np.arange(12.0).reshape(2, 2, 3)[..., None] + 0.1 * T
  known = results({"loss": runs(mean)}, **axes)
  figure = plotting.trajectories(known, "loss", rows="dim", columns="workflow", colour="num_samples")
  cells = itertools.product(axes["dim"], axes["workflow"])
  for axis, (dim, workflow) in zip(figure.axes, cells):
    assert axis.get_title() == f"dim = {dim}\n{workflow}"
    for i, num in enumerate(axes["num_samples"]):
      assert_curve(axis, i, T, known.loss.sel(dim=dim, workflow=workflow, num_samples=num).values)
      assert axis.lines[i].get_label() == f"num_samples = {num}"
  assert legend(figure) == ["num_samples = 10", "num_samples = 100", "num_samples = 1000"]
  shades = [[line.get_color() for line in axis.lines] for axis in figure.axes]
  assert all(np.array_equal(one, shades[0]) for one in shades) and len({tuple(shade) for shade in shades[0]}) == 3


def test_workflows_in_one_panel_keep_their_colours():
  known = simple().assign_coords(workflow=["replace", "my own", "accumulate"])
  figure = plotting.trajectories(known.expand_dims(num_samples=[9]), "loss", columns="num_samples", colour="workflow")
  [axis] = figure.axes
  colours = workflow_colours(known.workflow.values)
  assert len(set(colours.values())) == 3 and colours["replace"] == WORKFLOW_COLOURS["replace"]
  for i, workflow in enumerate(known.workflow.values):
    assert_curve(axis, i, T, known.loss.sel(workflow=workflow).values)
    assert axis.lines[i].get_color() == colours[workflow] and axis.lines[i].get_label() == workflow


def test_side_by_side():
  """Three experiments with other workflows, metrics, sizes and runs, a panel each, in the colours that they share."""
  wide = CURVES[:2, None] + np.array([[0], [9]])
  known = {
    "text": simple(),
    "faces": results({"loss": runs(CURVES[:1], seeds=3)}, workflow=["accumulate"]),
    "tables": results(
      {"loss": runs(wide, seed=1), "error": runs(7 * wide, seed=2), "error_expected": wide},
      workflow=["accumulate", "mine"],
      width=[8, 16],
    ),
  }
  figure = plotting.side_by_side(known, ["loss", "loss", "error"])
  drawn, spare = figure.axes[:3], figure.axes[3]
  assert [axis.get_title() for axis in drawn] == ["text", "faces", "tables, width = 8"] and not spare.lines
  assert legend(figure) == ["replace", "accumulate", "accumulate_subsample", "mine", "theory"]
  shades = workflow_colours(legend(figure)[:-1])
  for axis, one, metric in zip(drawn, known.values(), ("loss", "loss", "error")):
    solid = [line for line in axis.lines if line.get_linestyle() == "-"]
    for i, workflow in enumerate(one.workflow.values):
      some = one[metric].sel(workflow=workflow)
      assert_curve(axis, i, T, (some.isel(width=0) if "width" in some.dims else some).values)
      assert solid[i].get_color() == shades[workflow]
  np.testing.assert_allclose([y for _, y in theory(drawn[2])], CURVES[:2])
  assert "over 3 to 5 seeds" in caption(figure)
  assert lines(plotting.side_by_side(known).axes[2], "-")[0][1] == pytest.approx(
    known["tables"].loss.values[0, 0].mean(axis=0)
  )
  for metrics, said in (
    (["loss"], "one for each of 3 experiments"),
    (["loss", "loss", "lose"], "of tables one of loss, error"),
  ):
    with pytest.raises(Refused, match=said):
      plotting.side_by_side(known, metrics)
  with pytest.raises(Refused, match="experiments must be one or more"):
    plotting.side_by_side({})


def test_runs_that_are_lost_are_left_out_and_counted():
  known = simple()
  known.loss[0, 1, 3:] = np.nan
  known.loss[2, [0, 4], 5] = np.inf
  figure = plotting.trajectories(known, "loss")
  for i, kept in enumerate(([0, 2, 3, 4], [0, 1, 2, 3, 4], [1, 2, 3])):
    assert_curve(figure.axes[0], i, T, known.loss.values[i][kept])
  assert "3 non-finite runs left out" in caption(figure)


def test_a_cell_whose_runs_all_ended_is_drawn_up_to_there():
  known = simple()
  known.loss[1, :3, 4:], known.loss[1, 3:, 5:] = np.nan, np.nan
  [axis] = plotting.trajectories(known.isel(workflow=[1]), "loss").axes
  assert_curve(axis, 0, T[:4], known.loss.values[1, :, :4])
  assert "ended at t = 4" in axis.lines[0].get_label()


def test_cells_that_could_not_run_are_counted():
  status = ("workflow", "num_samples"), np.array([["ok", "too large"], ["too large", "too large"]], object)
  known = results(
    {"loss": runs(np.ones((2, 2, 1)) * T), "cell_status": status}, workflow=["replace", "mine"], num_samples=[5, 9]
  )
  figure = plotting.trajectories(known, "loss")
  assert [len(axis.lines) for axis in figure.axes] == [1, 0]
  assert [text.get_text() for text in figure.axes[1].texts] == ["no cell could run"]
  assert "3 cells could not run" in caption(figure) and "0 non-finite runs" in caption(figure)
  assert legend(figure) == ["num_samples = 5"]


def test_log_axes():
  """Of ratios; the band stays above a tenth of the mean; of many generations, too."""
  known = simple(log_scale=1)
  known.loss[1] = np.array([0.1, 9.0, 0.1, 0.1, 0.1])[:, None] * np.ones(6)
  figure = plotting.trajectories(known, "loss")
  [axis] = figure.axes
  assert (axis.get_xscale(), axis.get_yscale()) == ("linear", "log")
  mean, low, high = interval(known.loss.values[1])
  assert (low < 0).all()
  np.testing.assert_allclose(bands(axis)[1][1:], (0.1 * mean, high))
  assert_curve(axis, 0, T, known.loss.values[0])
  late = plotting.trajectories(simple(generations=[1, 2, 10, 50, 100, 500]), "loss").axes[0]
  assert (late.get_xscale(), late.get_yscale()) == ("log", "linear")


def test_one_generation_and_one_seed():
  """One generation: a point with its interval. One seed: a curve without a band, and nothing that calls itself one."""
  first = simple().isel(generation=[0])
  axis = plotting.trajectories(first, "loss").axes[0]
  mean, low, high = interval(first.loss.values[0])
  assert axis.lines[0].get_marker() == "o" and lines(axis)[0][1] == pytest.approx(mean)
  np.testing.assert_allclose(axis.containers[0].lines[2][0].get_segments()[0][:, 1], [low[0], high[0]])
  alone = plotting.trajectories(simple().isel(seed=[2]), "loss")
  np.testing.assert_array_equal(lines(alone.axes[0])[0][1], simple().loss.values[0, 2])
  assert not bands(alone.axes[0]) and "band" not in caption(alone)


def test_figures_of_a_sweep():
  """A figure per metric with a direction and point of the grid; a vector metric and one without a direction have none."""
  axes = {"workflow": ["replace"], "dim": [1, 2], "num_samples": [10], "noise_var": [1.0, 4.0]}
  values = runs(np.arange(4.0).reshape(1, 2, 1, 2, 1) + 0.1 * T)
  vector = (*axes, "seed", "generation", "part"), np.ones((1, 2, 1, 2, 5, 6, 3)), {"worse": "higher"}
  about = {"size": {"worse": ""}}
  known = results({"loss": values, "size": values, "gap": 2 * values, "shares": vector}, about=about, **axes)
  figures = plotting.figures_for(known)
  assert list(figures) == [f"{name}_noise_var_{value}" for name in ("loss", "gap") for value in (1, 4)]
  for scale, (name, var) in zip((1, 1, 2, 2), itertools.product(("loss", "gap"), (1, 4))):
    figure = figures[f"{name}_noise_var_{var}"]
    assert figure.get_suptitle() == f"noise_var = {var}"
    assert [axis.get_title() for axis in figure.axes] == ["dim = 1", "dim = 2"]
    for i, axis in enumerate(figure.axes):
      assert_curve(axis, 0, T, scale * values[0, i, 0, {1: 0, 4: 1}[var]])


def shares_of_real_data(**more):
  """Over 20 generations the metric rises by (0.4 - share) a generation, or is level."""
  t, shares = np.arange(1, 21), np.array([0.0, 0.1, 0.4, 0.8])
  mean = 3 + np.maximum(0.4 - shares, 0)[:, None] * np.array([1.0, 2.0])[:, None, None] * t
  axes = {"workflow": ["mix"], "num_samples": [10, 50], "real_fraction": shares}
  return results({"loss": runs(mean[None], seeds=30, spread=0.02), **more}, **axes)


def test_metric_against_real_share():
  known = shares_of_real_data()
  known.loss[0, 0, 1, 7] = np.nan
  [(name, figure)] = plotting.figures_for(known).items()
  [axis] = figure.axes
  assert name == "loss_against_real_share"
  for i, num in enumerate((10, 50)):
    dots = [line for line in axis.lines if line.get_label() == f"num_samples = {num}"]
    last = known.loss.isel(generation=-1, workflow=0, num_samples=i).transpose("seed", "real_fraction").values
    last = last[np.isfinite(last).all(axis=1)]
    np.testing.assert_allclose(dots[0].get_ydata(), last.mean(axis=0))
    np.testing.assert_array_equal(dots[0].get_xdata(), known.real_fraction)
    np.testing.assert_allclose(bands(axis)[i][1:], interval(last)[1:])
  dotted = lines(axis, ":")
  enough = [found.share for _, found in decisions.required_shares(known, 0.2, "loss")]
  assert [set(x) for x, _ in dotted] == [{share} for share in enough] and 0.1 < min(enough) < max(enough) < 0.4
  assert axis.get_xlabel() == "real share of the training rows\n(dotted: the smallest within 0.2 of generation 1)"
  stricter = plotting.metric_against_real_share(known.assign_attrs(tolerance=0.05), "loss").axes[0]
  assert all(set(x) > set() and min(x) > share for (x, _), share in zip(lines(stricter, ":"), enough))
  assert axis.get_ylabel() == "loss\nat t = 20"
  assert "1 non-finite runs left out" in caption(figure)
  none = plotting.metric_against_real_share(known.isel(real_fraction=[0, 1]), "loss")
  assert not lines(none.axes[0], ":") and none.axes[0].get_xlabel() == "real share of the training rows"


def drifted(sizes=(10, 100, 1000), outcomes=(2, 7)):
  """Times until one outcome is left: times of `replace` are n * num_outcomes / 3, others are thrice as long."""
  times = np.array([1.0, 3.0])[:, None, None] * np.outer(outcomes, sizes) / 3
  times = times[..., None] * np.array([0.5, 0.75, 1.25, 1.5])
  axes = {"workflow": ["replace", "accumulate"], "num_outcomes": list(outcomes), "num_samples": list(sizes)}
  told = runs(np.ones((2, 2, 3, 1)) * 0 * T, seeds=4)
  grid = (*axes, "seed")
  ended = {"collapse_generation": (grid, times, {}), "censored": (grid, np.zeros(times.shape, bool), {})}
  return results({"entropy": told, **ended}, task="discrete", **axes), times


def test_collapse_times():
  known, times = drifted()
  known.censored[0, 1, 2, 0] = True
  known.censored[1] = True
  figure = plotting.figures_for(known)["collapse_times"]
  left, right = figure.axes
  curves = [line for line in left.lines if str(line.get_label()).startswith("num_outcomes")]
  assert [line.get_label() for line in curves] == ["num_outcomes = 2", "num_outcomes = 7"]
  np.testing.assert_array_equal(curves[0].get_xdata(), [10, 100, 1000])
  np.testing.assert_array_equal(curves[1].get_xdata(), [10, 100])  # a mean without the censored run would be too small
  for i, curve in enumerate(curves):
    kept = times[0, i, : len(curve.get_xdata())].T
    np.testing.assert_allclose(curve.get_ydata(), kept.mean(axis=0))
    low, high = bands(left)[i][1:]
    np.testing.assert_allclose(high, interval(kept)[2])
    np.testing.assert_allclose(low, np.maximum(interval(kept)[1], 0.1 * kept.mean(axis=0)))
  assert not right.lines and [text.get_text() for text in right.texts] == ["drift did not end"]
  assert {(axis.get_xscale(), axis.get_yscale()) for axis in figure.axes} == {("log", "log")}
  assert left.get_ylabel() == "generations until one outcome is left" and left.get_xlabel() == "num_samples"
  assert "7 cells with runs that did not end are left out" in caption(figure)
  known.censored[:, :, :, 0] = True
  assert "collapse_times" not in plotting.figures_for(known)  # where nothing ended there is nothing to be seen


def test_logs_that_span_little_are_told_in_plain_numbers():
  figure, axes = panels.panels(1, 2)
  for axis, low in zip(axes[0], (0.3, 1e-5)):
    axis.plot([1, 2], [low, 1.5])
    panels.log_axis(axis)
  figure.canvas.draw()
  few, many = ({text.get_text() for text in axis.get_yticklabels(which="both") if text.get_text()} for axis in axes[0])
  assert {"0.3", "0.6", "1"} <= few
  assert any("10^" in text for text in many) and not any("times" in text for text in few | many)


def test_fitted_densities():
  """The first coordinate's normal density at its own mean and width, in a grid fine enough for each, beside the truth."""
  axes = {"workflow": ["replace", "accumulate"], "dim": [1], "num_samples": [10, 30], "noise_var": [4.0]}
  means = 0.1 * np.arange(2 * 2 * 2 * 4).reshape(2, 1, 2, 1, 2, 4)
  status = tuple(axes), np.full((2, 1, 2, 1), "ok", object)
  known = results({"marginal_mean": means, "marginal_log_variance": -means, "cell_status": status}, **axes)
  figure = plotting.fitted_densities(known, num_samples=30, seed=1)
  density = lambda x, mean, variance: np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)
  for i, axis in enumerate(figure.axes[:2]):
    assert axis.get_title() == axes["workflow"][i]
    assert len(lines(axis, "-")) == 4
    for t, (x, y) in enumerate(lines(axis, "-")):
      mean = means[i, 0, 1, 0, 1, t]
      np.testing.assert_allclose(y, density(x, mean, np.exp(-mean)), rtol=1e-9, atol=1e-300)
      assert np.isclose(x, mean, rtol=0, atol=1e-9).any()
    [(x, truth)] = theory(axis)
    np.testing.assert_allclose(truth, density(x, 0, 4.0))
  assert figure.axes[0].get_xlabel() == "first coordinate (data units)"


def test_learning_curves():
  """Mean over seeds against the part of the budget, a curve a generation."""
  values = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5) ** 1.5
  dims = ("workflow", "seed", "generation", "training_progress")
  loss = (("workflow", "seed", "generation"), np.ones((2, 3, 4)), {})
  curve = dims, values, {"long_name": "held-out loss", "units": "nats per token"}
  known = results({"test_nll": loss, "learning_curve": curve}, workflow=["replace", "accumulate"])
  figure = plotting.learning_curves(known)
  for i, axis in enumerate(figure.axes):
    assert axis.get_title() == ["replace", "accumulate"][i] and axis.get_xlabel() == "part of the training budget"
    for t, (x, y) in enumerate(lines(axis)):
      np.testing.assert_allclose(x, [0.2, 0.4, 0.6, 0.8, 1.0])
      np.testing.assert_allclose(y, values[i, :, t].mean(axis=0))
      assert axis.lines[t].get_label() == f"generation {t + 1}"
    assert len(axis.lines) == 4
  assert figure.axes[0].get_ylabel() == "held-out loss (nats per token)"


def test_value_of_real_data():
  """The map's colours and numbers, and the curves, are of the same cell as its ticks say."""
  import xarray

  real, synthetic = [0, 8, 32], [0, 16, 64]
  loss = np.random.default_rng(0).uniform(1, 2, (3, 3, 4))
  about = {"long_name": "test loss", "units": "nats per token"}
  known = xarray.Dataset(
    {"test_loss": (("num_real", "num_synthetic", "seed"), loss, about)},
    {"num_real": real, "num_synthetic": synthetic},
    {"task": "real_data_value"},
  )
  figures = plotting.figures_for(known.transpose("seed", "num_synthetic", "num_real"))
  assert list(figures) == ["test_loss_map", "test_loss_curves"]
  axis = figures["test_loss_map"].axes[0]
  np.testing.assert_allclose(axis.images[0].get_array(), loss.mean(axis=2))
  assert axis.get_ylim()[0] < axis.get_ylim()[1]  # the first row is the lowest
  assert [text.get_text() for text in axis.get_yticklabels()] == ["0", "8", "32"]
  assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "16", "64"]
  assert (axis.get_xlabel(), axis.get_ylabel()) == ("synthetic rows", "real rows")
  shown = {tuple(reversed(text.get_position())): text.get_text() for text in axis.texts}
  assert shown == {at: f"{value:.3f}" for at, value in np.ndenumerate(loss.mean(axis=2))}
  left, right = figures["test_loss_curves"].axes
  for i, r in enumerate(real):
    assert_curve(left, i, np.array(synthetic), loss[i].T)
    if r:
      assert_curve(right, i, r / (r + np.array(synthetic)), loss[i].T)
  np.testing.assert_allclose(lines(right)[0], ([0, 0], loss[0, 1:].mean(axis=1)))  # no rows at all have no share
  assert legend(figures["test_loss_curves"]) == ["0 real rows", "8 real rows", "32 real rows"]


# ------------------------------------------------------------------------------------------------------- theory
def test_theory_is_drawn_at_its_own_generation():
  """Whatever `METRIC_expected` says, as a black dashed line, with gaps where it says nothing; in no other panel."""
  expected = np.stack([np.array([3.0, 3.7, 3.1, 4.2, 3.9, 5.0]), np.full(6, np.nan), np.r_[7.0, np.nan, 5, 6, 8, 4]])
  generations = [1, 10, 20, 30, 40, 50]
  figure = plotting.trajectories(simple(generations=generations, loss_expected=expected), "loss")
  drawn = theory(figure.axes[0])
  assert len(drawn) == 2
  for line, i in zip(drawn, (0, 2)):
    np.testing.assert_array_equal(line, (generations, expected[i]))
  assert legend(figure)[-1] == "theory" and len(legend(figure)) == 4
  unknown = plotting.trajectories(simple(), "loss")
  assert not theory(unknown.axes[0]) and "theory" not in legend(unknown)


def test_theory_of_every_curve_of_a_panel():
  expected = np.array([[1.0], [2.0]])[None] + 0.25 * T
  known = results({"loss": runs(expected), "loss_expected": expected}, workflow=["mine"], num_samples=[5, 50])
  [axis] = plotting.trajectories(known, "loss").axes
  np.testing.assert_array_equal([y for _, y in theory(axis)], expected[0])
  [axis] = plotting.trajectories(known.isel(num_samples=[1]), "loss").axes
  np.testing.assert_array_equal([y for _, y in theory(axis)], expected[0, 1:])


def test_theory_against_real_share():
  """At the last generation, of the same num_samples and share."""
  expected = 5 + np.arange(2 * 4 * 20.0).reshape(1, 2, 4, 20) ** 0.5
  known = shares_of_real_data(loss_expected=expected)
  [axis] = plotting.metric_against_real_share(known, "loss").axes
  drawn = theory(axis)
  assert len(drawn) == 2
  for i, (x, y) in enumerate(drawn):
    np.testing.assert_array_equal(x, known.real_fraction)
    np.testing.assert_array_equal(y, expected[0, i, :, -1])


def test_theory_that_is_only_drawn_is_named():
  """Of first order, or with tails too heavy for means over runs: no z-score is made of it, as the caption says."""
  expected = {"loss_expected": CURVES}
  held, drawn = (
    plotting.trajectories(simple(**expected, loss_expected_up_to=np.array([6.0, last, 6.0])), "loss") for last in (1, 0)
  )
  assert len(theory(held.axes[0])) == len(theory(drawn.axes[0])) == 3
  assert "only" in caption(drawn) and "only" not in caption(held)
