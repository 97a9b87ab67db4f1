"""Theory travels: what a task predicts stands beside the results of a sweep, and all that reads results shows it."""

import inspect
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from looking import Page, legend, theory

import collapse_jax as cj
from collapse_jax import diagnostics, plotting, report, store, tasks, workflows
from collapse_jax import theory as laws
from collapse_jax.sweeps import expected
from collapse_jax.types import Expected, MetricInfo, TaskSetting, Workflow

T = 12


def poisson_mean(rate, num_samples):
  """A user's own task, with its own law."""

  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    return jnp.sum(weight * rows) / jnp.sum(weight)

  draw = lambda key, mean, num: store.batch(jax.random.poisson(key, mean, (num,)).astype(jnp.float32))
  return TaskSetting(
    init=lambda key: (jnp.asarray(rate), draw(key, rate, num_samples)),
    fit=fit,
    sample=lambda key, problem, mean, context: (draw(key, mean, context.num), {}),
    evaluate=lambda key, problem, mean: {"squared_error": (mean - problem) ** 2},
    num_samples=num_samples,
    metrics={"squared_error": MetricInfo("squared error", worse="higher", log_scale=True, measures="risk")},
    predict=lambda schedule: {
      "squared_error": Expected(
        rate / num_samples * laws.schedule_noise(schedule),
        limit=rate / num_samples * laws.schedule_noise(schedule, limit=True),
      )
    },
  )


def table(num_generations=T):
  """Three tenths of real data, and the last model's."""
  shares = np.diag(np.append(1.0, np.full(num_generations - 1, 0.7)))
  shares[1:, 0] = 0.3
  return shares


@pytest.fixture(scope="module")
def own():
  """A user's task under a table of weights, and under weights alone, both by names of the user's own."""
  pool = workflows.accumulate()._replace(schedule=None)
  flows = {"mine": workflows.weights(table()), "by weights": pool}
  make = lambda num_samples: poisson_mean(3.0, num_samples)
  return cj.sweep(make, flows, {"num_samples": [40]}, num_generations=T, num_seeds=500)


def test_a_users_own_task_and_table(own):
  """Dashed lines, z-scores and limits, without a name that anything could know."""
  assert "task" not in own.attrs
  errors = own.squared_error_expected.transpose("workflow", "num_samples", "generation").values[:, 0]
  pooled = np.cumsum(1 / np.arange(1, T + 1) ** 2)
  np.testing.assert_allclose(errors, 3 / 40 * np.array([laws.linear_noise(table()), pooled]), rtol=1e-12)
  rows = diagnostics.compare_with_theory(own, range(1, T + 1))
  assert len(rows) == 2 * T and max(abs(row["z"]) for row in rows) < 5
  late = own.assign(squared_error_expected=own.squared_error_expected.shift(generation=-1))
  assert max(abs(row["z"]) for row in diagnostics.compare_with_theory(late, range(1, T + 1))) > 5
  figure = plotting.figures_for(own)["squared_error"]
  np.testing.assert_allclose([y for _, y in theory(figure.axes[0])], errors)
  assert legend(figure)[-1] == "theory"
  page = Page(report.page({"own": own}, {"own": {}}))
  column = [row["mean at the end \N{RIGHTWARDS ARROW} limit by theory"] for row in page.table("verdict").records()]
  late = 3 / 40 * laws.linear_noise(table(200))[-1]
  assert [float(text.split("\N{RIGHTWARDS ARROW}")[1]) for text in column] == pytest.approx(
    [late, np.pi**2 / 80], rel=1e-3
  )
  assert len(page.table("predicted", "generation").rows) == 2 * 3


def test_shares_of_batches(own):
  np.testing.assert_allclose(own.shares.sel(workflow="mine"), table())
  assert own.shares.dims == ("workflow", "generation", "batch") and list(own.batch) == list(range(T))


def test_old_results_have_no_theory(own):
  """Files without the new variables."""
  old = own.drop_vars([name for name in own.data_vars if "_expected" in name or "_limit" in name] + ["shares"])
  assert diagnostics.compare_with_theory(old) == []
  assert not theory(plotting.figures_for(old)["squared_error"].axes[0])
  assert not any("limit" in column for column in Page(report.page({"old": old}, {"old": {}})).table("verdict").columns)


@pytest.mark.parametrize(
  "select", [{"workflow": 0}, {"num_samples": 0}, {"seed": slice(5)}, {"generation": slice(3, 4)}]
)
def test_theory_after_selection(own, select):
  part = diagnostics.complete(own.isel(select))
  assert diagnostics.complete(part) is part
  cell = {dim: part[dim].values[0] for dim in part.cell_status.dims}
  law = diagnostics.predicted(part, cell, "squared_error")
  np.testing.assert_array_equal(
    law.mean, own.squared_error_expected.sel(cell, drop=True).sel(generation=part.generation)
  )
  assert diagnostics.predicted_limit(part, cell, "squared_error") == pytest.approx(
    float(own.squared_error_limit.sel(cell))
  )
  alone = diagnostics.complete(own.isel(seed=0))
  assert alone.squared_error_expected.dims == own.squared_error_expected.dims
  assert alone.cell_status.dims == own.cell_status.dims


# ------------------------------------------------------------------------------------------- without a simulation
def results_of(shape, axes, names=("loss",), generations=T, seeds=3, scalars=()):
  """A sweep's Dataset as it is handed over: metrics of zeros."""
  grid = ("workflow", *axes)
  about = {"units": "nats"}
  made = {name: ((*grid, "seed", "generation"), np.zeros((*shape, seeds, generations)), about) for name in names}
  made |= {name: ((*grid, "seed"), np.zeros((*shape, seeds)), about) for name in scalars}
  made["cell_status"] = grid, np.full(shape, "ok", object)
  coordinates = {"workflow": [f"w{i}" for i in range(shape[0])], **axes, "generation": np.arange(1, generations + 1)}
  return xarray.Dataset(made, coordinates)


def task_that(predict, num_samples=10):
  return poisson_mean(1.0, num_samples)._replace(predict=predict)


def test_what_is_stored():
  """The mean, and what is given besides, in the recorded generations of the cells that ran; a number for a metric of the run."""
  t = np.arange(1.0, T + 1)
  full = lambda schedule: {"loss": Expected(t, 2 * t, 7, 99.0, 0.5 * t), "end": Expected(4.0, up_to=0)}
  some = lambda schedule: {"loss": Expected(10 * t)}
  cells = [((0, 0), task_that(full), workflows.replace()), ((0, 1), task_that(some), workflows.replace())]
  cells += [((1, 0), task_that(None), workflows.replace()), ((1, 1), task_that(full), workflows.replace())]
  raw = results_of((2, 2), {"size": [1, 2]}, scalars=["end"])
  raw.cell_status[1, 1] = "too large"
  found = expected.Laws(cells, (2, 2), T).beside(raw.isel(generation=[0, 4, 9]))
  np.testing.assert_array_equal(found.loss_expected[0], [[1, 5, 10], [10, 50, 100]])
  assert np.isnan(found.loss_expected[1]).all() and found.loss_expected.attrs["units"] == "nats"
  np.testing.assert_array_equal(found.loss_expected_variance[0, 0], [2, 10, 20])
  np.testing.assert_array_equal(found.loss_expected_least_variance[0, 0], [0.5, 2.5, 5])
  assert float(found.loss_expected_up_to[0, 0]) == 7 and float(found.loss_limit[0, 0]) == 99
  assert np.isnan(found.loss_expected_variance[0, 1]).all() and np.isnan(found.loss_limit[0, 1])
  assert found.end_expected.dims == ("workflow", "size") and float(found.end_expected[0, 0]) == 4
  assert "end_limit" not in found


def test_a_law_goes_with_the_functions_that_it_is_of():
  """Other functions of storage, other data: no schedule, no shares, no absorption, unless given; the wrong twin keeps them all."""
  base = workflows.replace()
  double = lambda n, t: 2 * n
  known = lambda one: (one.weights is not None, one.absorbing, expected.schedule_of(one, 10, T) is not None)
  kept = Workflow(**base._asdict() | {"emit": double})
  assert known(base) == known(kept) == known(base._replace(cites=())) == (True, True, True)
  assert (kept.schedule(10, 3).sizes == 10).all() and kept.emit(10, 1) == 20  # so that its law is not of what it does
  for new in ({"emit": double}, {"select": base.select}, {"init": base.init}, {"update": base.update}):
    assert known(base._replace(**new)) == (False, False, False), new
  given = base._replace(emit=double, weights=base.weights)
  assert known(given) == (True, False, True)
  np.testing.assert_array_equal(expected.schedule_of(given, 10, 3).sizes, [10, 20, 20])
  one = base._replace(select=base.select, absorbing=True, schedule=base.schedule)
  assert (one.absorbing, one.schedule) == (True, base.schedule)


def test_what_is_not_predicted(caplog):
  """A workflow without shares, runs that are warm-started, a metric that there is not; a wrong shape is told at once."""
  t = np.ones(T)
  cell = lambda workflow, predict=lambda schedule: {"loss": Expected(t)}: [((0,), task_that(predict), workflow)]
  raw = results_of((1,), {})
  known = lambda *arguments, **keywords: "loss_expected" in expected.Laws(*arguments, **keywords).beside(raw)
  assert known(cell(workflows.replace()), (1,), T)
  assert not known(cell(workflows.replace()._replace(schedule=None, weights=None)), (1,), T)
  assert not known(cell(workflows.replace()), (1,), T, warm_start=True)
  assert not known(cell(workflows.replace(), lambda schedule: {"lost": Expected(t)}), (1,), T)
  assert "predicts lost" in caplog.text
  with pytest.raises(ValueError, match=r"mean of loss with shape \(3,\), where \(12,\)"):
    expected.Laws(cell(workflows.replace(), lambda schedule: {"loss": Expected(np.ones(3))}), (1,), T)


@pytest.mark.parametrize(
  ("one", "part"),
  [
    (np.ones(4), "predict gives ndarray of loss, where an Expected"),
    ((np.ones(T),), "predict gives tuple of loss"),
    (Expected(np.ones(T), limit=np.ones(T)), r"limit of loss with shape \(12,\), where a number"),
    (Expected(np.ones(T), up_to=[3, 4]), r"up_to of loss with shape \(2,\)"),
    (None, None),
  ],
)
def test_what_is_no_law_is_told_before_the_run(one, part):
  told = lambda one: expected.Laws([((0,), task_that(lambda schedule: {"loss": one}), workflows.replace())], (1,), T)
  if part is None:
    told(Expected(np.ones(T), limit=np.float64(1.0), up_to=3))
    return
  with pytest.raises(ValueError, match=part):
    told(one)


def test_a_stale_schedule_predicts_nothing(caplog):
  """A workflow that was changed after it was made still has the schedule that it had; the runs' real share tells."""
  cells = [((i,), task_that(lambda schedule: {"loss": Expected(np.ones(T))}), workflows.replace()) for i in range(2)]
  raw = results_of((2,), {}, names=("loss", "real_share"))
  raw.real_share[0, :, 0], raw.real_share[1] = 1.0, 1.0  # the second one was given fresh real data
  found = expected.Laws(cells, (2,), T).beside(raw)
  assert np.isfinite(found.loss_expected[0]).all() and np.isnan(found.loss_expected[1]).all()
  assert np.isfinite(found.shares[0]).all() and np.isnan(found.shares[1]).all()
  assert "theory is left out" in caplog.text


@pytest.mark.parametrize(("num_generations", "num_seeds"), [(100, 1), (100, 20), (3, 4)])
def test_subsets_with_few_real_rows_keep_their_theory(num_generations, num_seeds):
  """None of a few runs may have a real row: that is a draw, and no other schedule. Of many it would be one."""
  flow = workflows.accumulate_subsample()
  cells = [((0,), task_that(lambda schedule: {"loss": Expected(np.ones(num_generations))}), flow)]
  raw = results_of((1,), {}, ("loss", "real_share"), num_generations, num_seeds)
  share = 1 / np.arange(1, num_generations + 1)
  rng = np.random.default_rng(0)
  judged = lambda runs: (
    "loss_expected" in expected.Laws(cells, (1,), num_generations).beside(raw.assign(real_share=runs))
  )
  for _ in range(20):
    hits = [[rng.hypergeometric(10, 10 * t, 10) for t in range(num_generations)] for _ in range(num_seeds)]
    assert judged(raw.real_share.copy(data=np.array([hits]) / 10))
  assert not judged(raw.real_share.copy(data=np.ones(raw.real_share.shape)))
  raw = results_of((1,), {}, ("loss", "real_share"), num_generations, 2000)
  assert judged(raw.real_share + share) and not judged(raw.real_share + np.where(share == 1, 1, 0.0))


def test_a_replaced_emit_predicts_nothing():
  """The schedule is that of the workflow as it was made; the number of rows tells, where the share of real ones does not."""
  cells = [((i,), task_that(lambda schedule: {"loss": Expected(np.ones(T))}), workflows.replace()) for i in range(2)]
  raw = results_of((2,), {}, names=("loss", "train_size"))
  raw.train_size[:] = 10.0
  raw.train_size[1, :, 1:] = 20.0  # as _replace(emit=lambda n, t: 2 * n) has it
  found = expected.Laws(cells, (2,), T).beside(raw)
  assert np.isfinite(found.loss_expected[0]).all() and np.isnan(found.loss_expected[1]).all()


def test_shares_have_the_dims_in_which_they_differ():
  """Rows of `mix` are whole numbers: its shares depend on num_samples, and on nothing else."""
  grid = [(w, n, s) for w in range(2) for n in range(2) for s in range(3)]
  flows, sizes = [workflows.replace(), workflows.mix(0.56)], [2, 100]
  cells = [((w, n, s), task_that(None, sizes[n]), flows[w]) for w, n, s in grid]
  found = expected.Laws(cells, (2, 2, 3), T).beside(results_of((2, 2, 3), {"num_samples": sizes, "dim": [1, 2, 3]}))
  assert found.shares.dims == ("workflow", "num_samples", "generation", "batch")
  np.testing.assert_array_equal(found.shares[0, 0], np.eye(T))
  np.testing.assert_allclose(found.shares[1, :, 3, 0], [0.5, 100 / 179])


def test_long_runs_cost_little():
  """10,000 generations: no table of shares, and a law of less than a second for all but windows."""
  num = 10_000
  flows = [workflows.replace(), workflows.accumulate(), workflows.accumulate_subsample(), workflows.mix(0.2)]
  by_weights = workflows.replace()._replace(schedule=None, weights=lambda T: pytest.fail("a table of T^2 numbers"))
  cells = [((i,), tasks.gaussian(2, 100), flow) for i, flow in enumerate([*flows, by_weights])]
  began = time.perf_counter()
  found = expected.Laws(cells, (5,), num).beside(
    results_of((5,), {}, ("covariance_trace_ratio",), num, seeds=1).isel(generation=slice(99, None, 100))
  )
  assert time.perf_counter() - began < 20
  assert found.sizes["generation"] == 100 and "shares" not in found
  told = np.isfinite(found.covariance_trace_ratio_expected).all("generation")
  assert told.values.tolist() == [True, True, True, True, False]


def test_a_users_workflow_of_functions():
  """Weights alone: batches of unequal sizes, of which the rows of a fit are counted."""
  flow = Workflow(None, None, None, emit=lambda n, t: n * t, weights=lambda T: table(T))
  schedule = expected.schedule_of(flow, 10, 4)
  np.testing.assert_array_equal(schedule.sizes, [10, 10, 20, 30])
  np.testing.assert_allclose(schedule.weights, table(4))


def test_parameters_of_the_factory_are_known():
  """Whatever axes a sweep has: noise of a variance, and unbiased fits, that only the factory knows."""
  schedule = workflows.replace().schedule(100, T)
  plain, own = (
    tasks.gaussian(2, 100, *arguments, **keywords).predict(schedule)
    for arguments, keywords in (((), {}), ((4.0,), {"unbiased": True}))
  )
  np.testing.assert_allclose(own["squared_error_of_mean"].mean, 8 * np.arange(1, T + 1) / 100)
  np.testing.assert_allclose(own["covariance_trace_ratio"].mean, np.ones(T))
  assert not np.allclose(plain["squared_error_of_mean"].mean * 4, own["squared_error_of_mean"].mean, rtol=0.01)
  warm = tasks.gaussian(2, 100, temperature=1.3).predict(schedule)
  np.testing.assert_allclose(warm["covariance_trace_ratio"].mean, laws.gaussian_temperature(100, 1.3, T).trace_ratio)


def test_laws_of_drift():
  """Times until one outcome is left, of uniform outcomes that drift; the entropy where there are many."""
  at = lambda flow, T=3, **keywords: tasks.discrete(5, 10, **keywords).predict(flow.schedule(10, T))
  assert at(workflows.replace())["collapse_generation"].mean == laws.drift_collapse_time(5, 10)
  assert at(workflows.sliding_window(1))["collapse_generation"].up_to == 0
  for flow, keywords in (
    (workflows.replace(2), {}),
    (workflows.accumulate(), {}),
    (workflows.replace(), {"probabilities": [0.6] + [0.1] * 4}),
  ):
    assert set(at(flow, **keywords)) == {"heterozygosity"}
  assert at(workflows.replace(), temperature=0.5) == {}
  skewed = at(workflows.accumulate(), probabilities=[0.6] + [0.1] * 4)["heterozygosity"].mean
  np.testing.assert_allclose(skewed, (1 - 0.4) * laws.gaussian_accumulate(10, 3).trace_ratio)
  many = tasks.discrete(1000, 500).predict(workflows.replace().schedule(500, 200))["entropy"].mean
  assert np.isnan(many[[0, 19, 99, 150]]).all() and np.isfinite(many[[20, 98]]).all()


def test_where_least_squares_has_no_law():
  at = lambda task, flow: task.predict(flow.schedule(10, 4))
  assert at(tasks.linear_regression(3, 10), workflows.accumulate())
  for dim, flow, keywords in (
    (9, workflows.replace(), {}),
    (3, workflows.accumulate_subsample(), {}),
    (3, workflows.mix(0.3), {}),
    (3, workflows.replace(), {"covariates": "fresh"}),
  ):
    assert at(tasks.linear_regression(dim, 10, **keywords), flow) == {}
  assert (
    at(tasks.linear_regression(3, 10), workflows.replace())["test_mse"].up_to == 0
  )  # over designs the tail is too heavy


def test_no_name_is_asked():
  """Nothing that reads results asks what a task is called."""
  from collapse_jax.diagnostics import beside_theory, definitions, judgement, published, reading
  from collapse_jax.plotting import figures, panels

  for module in (beside_theory, definitions, judgement, published, reading, figures, panels):
    text = inspect.getsource(module)
    assert 'attrs["task"]' not in text and 'attrs.get("task"' not in text and "parse_call" not in text
