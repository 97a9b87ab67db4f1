"""Forecasts and the share of real rows that is enough: intervals cover what they say, against laws that are known exactly."""

import numpy as np
import pytest
import xarray
from scipy import optimize

import collapse_jax as cj
from benchmarks import backtest
from collapse_jax import decisions, theory
from collapse_jax.decisions import _forecast, _reading, _share

NUM, SEEDS, REPEATS = 1000, 20, 60
SHARES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


def errors(workflow, num_generations, num_runs, seed=0, dim=3, share=0.2):
  """Squared errors [runs, T] of the mean of Gaussians of known variance, in units of 1 / n, by their exact law."""
  rng = np.random.default_rng(seed)
  draw = lambda mean, rows: mean + rng.normal(size=(num_runs, dim)) / np.sqrt(rows)
  real = mean = draw(0.0, 1.0)
  found, pool = [], 1.0
  for _ in range(num_generations):
    found.append((mean**2).sum(axis=1))
    if workflow == "replace":
      mean = draw(mean, 1.0)
    elif workflow == "accumulate":
      mean = (pool * mean + draw(mean, 1.0)) / (pool + 1)
      pool += 1
    else:
      mean = share * real + (1 - share) * draw(mean, (1 - share) / share)
  return np.array(found).T


def made(values, workflows=("replace",), generations=None, **about):
  """A Dataset of values [workflows, seeds, T]."""
  generations = np.arange(1, values.shape[2] + 1) if generations is None else generations
  return xarray.Dataset(
    {"error": (("workflow", "seed", "generation"), values, {"worse": "higher", **about})},
    {"workflow": list(workflows), "seed": np.arange(values.shape[1]), "generation": generations},
  )


def least_squares(values, at, level=0.9):
  """The wrong twin: a line through the mean curve, with residuals that are taken for independent."""
  from scipy import stats

  t, y = np.arange(1, values.shape[1] + 1), values.mean(axis=0)
  design = lambda t: np.stack([np.ones(len(t)), t], axis=1)
  found, squares, *_ = np.linalg.lstsq(design(t), y)
  spread = np.linalg.inv(design(t).T @ design(t)) * squares[0] / (len(t) - 2)
  error = np.sqrt(np.einsum("hi,ij,hj->h", design(at), spread, design(at)))
  half = stats.t.ppf(0.5 + level / 2, len(t) - 2) * error
  return design(at) @ found - half, design(at) @ found + half


def test_forecasts_cover():
  """90% intervals at twice, three times and ten times the generations that are fitted."""
  fitted, at = 10, np.array([20, 30, 100])
  hits, twins, told = [], [], []
  for workflow, label in (("replace", "replace"), ("accumulate", "accumulate"), ("mix", "mix(0.2)")):
    values = errors(workflow, fitted, SEEDS * REPEATS)
    cell = {"workflow": label, "num_samples": 10**6}
    known = _forecast.laws(made(values[None], [label]), cell, 100)
    truth = 3 * theory.linear_noise(_weights(label, 100), num=_rows(label, 100))[at - 1]
    for runs in values.reshape(REPEATS, SEEDS, fitted):
      found = _forecast.forecast_curve(runs, np.arange(1, fitted + 1), at, known)
      told.append(np.isfinite(found.mean))
      hits += [*((found.low <= truth) & (truth <= found.high))[told[-1]]]
      if label == "replace":
        low, high = least_squares(runs, at)
        twins += [*((low <= truth) & (truth <= high))]
  assert np.mean(told) > 0.8
  assert 0.85 <= np.mean(hits) <= 0.95, np.mean(hits)
  assert np.mean(twins) < 0.5  # which the line above would catch


def test_intervals_cover_where_a_few_runs_carry_the_mean():
  """The squared error of a product of sums of exponentials: 20 runs, 90% intervals at twice the generations. Twin: Student's."""
  fitted, repeats = 10, 400
  factors = np.random.default_rng(0).gamma(100, 0.01, (repeats * SEEDS, fitted))
  values = (factors.cumprod(axis=1) - 1) ** 2
  known = _forecast.laws(made(values[None]), {"workflow": "replace", "num_samples": 100}, 2 * fitted)
  truth, generations = 1.01 ** (2 * fitted) - 1, np.arange(1, fitted + 1)

  def coverage():
    found = [
      _forecast.forecast_curve(runs, generations, [2 * fitted], known)
      for runs in values.reshape(repeats, SEEDS, fitted)
    ]
    return np.mean([one.low[0] <= truth <= one.high[0] for one in found if np.isfinite(one.mean[0])])

  assert 0.85 <= coverage() <= 0.95
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_forecast, "ENOUGH", SEEDS + 1)
    assert coverage() < 0.84


def _weights(label, num_generations):
  return cj.workflows.parse(label)().weights(num_generations)


def _rows(label, num_generations):
  return np.append(1.0, np.full(num_generations - 1, 4.0 if label.startswith("mix") else 1.0))


def test_forecast_of_a_sweep_and_of_its_file(tmp_path):
  """The Dataset of a sweep, with shares and grid, and a file that somebody else wrote, give the same numbers."""
  results = cj.sweep(
    lambda num_samples: cj.tasks.exponential_family("gaussian", num_samples, draws="law"),
    ["replace", "mix(0.5)"],
    {"num_samples": [1000]},
    num_generations=9,
    num_seeds=30,
  )
  metric = "squared_error_of_mean"
  found = decisions.forecast(results, horizon=20, metric=metric)
  assert found["mean"].dims == ("workflow", "num_samples", "generation")
  assert list(found.generation.values) == list(range(10, 21))
  assert (found.status == "ok").all() and (found.family == "noise").all()
  expected = 1 / 1000 * np.array([20.0, 1.0 + (1 / 3) * (1 - 0.25**19)])
  low, high = (found[name].sel(generation=20).values[:, 0] for name in ("low", "high"))
  assert ((low < expected) & (expected < high)).all() and (high < 4 * low).all()

  table = results[metric].isel(num_samples=0, drop=True).to_dataframe("value").reset_index()
  table.assign(metric=metric)[["metric", "value", "generation", "seed", "workflow"]].to_csv(
    tmp_path / "a.csv", index=False
  )
  again = decisions.forecast(str(tmp_path / "a.csv"), metric=metric)
  for name in ("mean", "low", "high"):
    np.testing.assert_allclose(again[name], found[name].isel(num_samples=0), rtol=1e-5)
  named = results.assign_coords(workflow=["mine", "yours"])  # known by their shares
  assert (decisions.forecast(named, 20, metric).family == "noise").all()
  with pytest.raises(ValueError, match="horizon must be a generation beyond"):
    decisions.forecast(results, 9)


@pytest.mark.parametrize(
  ("values", "status"),
  [
    (np.ones((5, 3)), "cannot tell: 3 generations are too few"),
    (np.full((5, 9), np.nan), "cannot tell: 5 of 5 runs did not stay finite"),
    (1 + np.arange(9.0)[None], "one run: no interval"),
    (1 - np.exp(-np.arange(9.0))[None] + 1, "cannot tell: the last third of the generations rejects what theory has"),
  ],
)
def test_what_cannot_be_told(values, status):
  found = decisions.forecast(made(values[None]), 20)
  assert str(found.status.values[0]).startswith(status)
  assert np.isnan(found.low).all() and np.isfinite(found["mean"]).all() == status.startswith("one")


def test_what_the_last_third_rejects_is_not_followed():
  """Under `replace` theory has t, which runs that saturate are not; where no theory is known they are followed, lost ones counted."""
  t = np.arange(1, 16)
  values = 1 + 2 * (1 - np.exp(-t / 3)) + 0.02 * np.random.default_rng(0).normal(size=(12, 15))
  values[0, 3] = np.nan
  rejected = decisions.forecast(made(values[None]), 30)
  assert np.isnan(rejected["mean"]).all() and rejected.rival.item() == "saturating"
  assert "rejects what theory has for the workflow" in rejected.status.item()
  found = decisions.forecast(made(values[None], ["mine"]), 30)
  assert found.family.item() == "saturating" and found.status.item().endswith(
    "1 of 12 runs, which did not stay finite, are left out"
  )
  assert abs(found["mean"].sel(generation=16).item() - 3) < 0.05
  unknown = decisions.forecast(made(errors("replace", 6, 8)[None], ["mine"]), 300)
  assert unknown.status.item().startswith("cannot tell") and unknown.rival.item()


def test_likelihoods_are_told_where_all_families_agree():
  """The same numbers: theory's families are the only ones of squared errors and variances, not of likelihoods and tails."""
  t, random = np.arange(1, 7), np.random.default_rng(1)
  values = 5 + 0.6 * 1.2**t * random.gamma(1.0, 1.0, (20, 1)) + 0.3 * random.normal(size=(20, 6))
  told = lambda **about: np.isfinite(decisions.forecast(made(values[None], **about), 12)["mean"]).all()
  assert told(measures="risk", log_scale=1) and told()
  assert not told(measures="risk") and not told(measures="tail")


def test_rivals_below_are_held_against_the_lower_end():
  """Intervals of errors are far longer above: half of that is no measure of what lies below."""
  mean, low, high = np.array([1.0]), np.array([0.8]), np.array([3.0])
  leaves = lambda rival: _forecast._leaves(np.array([rival]), mean, low, high).item()
  assert leaves(0.85) and not leaves(0.92)
  assert leaves(2.0) and not leaves(1.5)


def test_bias_of_schedules():
  """t under `replace`, the harmonic numbers under `accumulate`, a plateau under `mix`."""
  t = np.arange(1, 11)
  np.testing.assert_allclose(_forecast._bias(_weights("replace", 10)), t)
  np.testing.assert_allclose(_forecast._bias(_weights("accumulate", 10)), np.cumsum(1 / t))
  np.testing.assert_allclose(_forecast._bias(_weights("mix(0.2)", 10)), (1 - 0.8**t) / 0.2)


# ------------------------------------------------------------------------------------------------- required share
def law_of(share, num_generations):
  """Error under mix(share), of the first generation's."""
  weights = _weights(f"mix({share})", num_generations)
  return theory.linear_noise(weights, num=np.append(1.0, np.full(num_generations - 1, (1 - share) / share)))


def test_share_covers():
  """90% intervals cover the share that the closed form has; a share below it does not."""
  T, seeds, repeats, tolerance = 10, 40, 200, 0.2
  truth = optimize.brentq(lambda share: law_of(share, T)[-1] - 1 - tolerance, 0.5, 0.9)
  values = np.array([errors("mix", T, seeds * repeats, dim=10, share=share) for share in SHARES])
  found = [
    _share._found(SHARES, values[:, i : i + seeds], "higher", tolerance, 0.9, i)
    for i in range(0, seeds * repeats, seeds)
  ]
  open_to = lambda x, end: np.where(np.isnan(x), end, x)
  low, high = open_to([one.low for one in found], 0.0), open_to([one.high for one in found], 1.0)
  covers = lambda share: np.mean((low <= share) & (share <= high))
  assert 0.85 <= covers(truth) <= 0.95, covers(truth)
  assert covers(truth - 0.3) < 0.5


def test_share_in_words():
  values = np.array([errors("mix", 10, 30, dim=30, share=share) for share in SHARES])
  results = made(values, [f"mix({share})" for share in SHARES])
  found = decisions.required_share(results, tolerance=0.2, metric="error")
  assert found.status == "ok" and found.low < found.share < found.high
  assert str(found) == (
    f"With a real share of {found.share:.3g} ({found.low:.3g} to {found.high:.3g}) error stays within 0.2 of the first "
    "generation's until generation 10."
  )
  axis = xarray.concat([made(one[None], ["mix"]) for one in values], "real_fraction").assign_coords(
    real_fraction=SHARES
  )
  assert decisions.required_share(axis, 0.2) == found
  assert decisions.required_share(axis.isel(real_fraction=slice(3)), 0.2).status.startswith("not reachable")
  assert decisions.required_share(axis, 9.0).status == "every share that was tried is enough"
  assert decisions.required_share(axis.isel(seed=[0]), 0.2).status.startswith("cannot tell")
  with pytest.raises(ValueError, match="two shares"):
    decisions.required_share(made(values[:1], ["accumulate"]))
  with pytest.raises(ValueError, match="2 cells"):
    decisions.required_share(xarray.concat([axis, axis], "dim").assign_coords(dim=[1, 2]))


def test_metric_of():
  """Any name will do, also one that ends as what theory says of another does; the first has a worse direction."""
  values = np.array([errors("mix", 10, 30, dim=30, share=share) for share in SHARES])
  results = made(values, [f"mix({share})" for share in SHARES]).rename(error="speed_limit")
  size = (results.speed_limit.dims, np.zeros(results.speed_limit.shape))
  several = _reading.runs(results.assign(size=size)[["size", "speed_limit"]])
  assert _reading.metric_of(several, "") == "speed_limit" == decisions.required_share(results).metric
  with pytest.raises(ValueError, match="metric must be one of speed_limit, size, got 'los'"):
    _reading.metric_of(several, "los")
  with pytest.raises(ValueError, match="no metric"):
    _reading.metric_of(_reading.runs(results > 0), "")


def test_falling():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(7, 20))
  expected = [optimize.isotonic_regression(one, increasing=False).x for one in values.T]
  np.testing.assert_allclose(_share._falling(values), np.transpose(expected), atol=1e-12)


def test_share_of_a_task_that_is_run():
  task = cj.tasks.exponential_family("gaussian", 1000, draws="law")
  found = decisions.required_share(task, tolerance=0.2, horizon=6, metric="squared_error_of_mean", num_seeds=4000)
  truth = optimize.brentq(lambda share: law_of(share, 6)[-1] - 1.2, 0.5, 0.9)
  assert found.status == "ok" and found.low - 0.03 < truth < found.high + 0.03 and found.high - found.low < 0.25


# ------------------------------------------------------------------------------------------------------- files
HEAD = "workflow,seed,generation,metric,value\n"


def test_read(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text(
    HEAD + 'replace,a,1,loss,1.5\nreplace,a,2,loss,\nreplace,b,2,loss,2\n"mix(0.2, fresh=True)",a,1,loss,3\n'
  )
  found = decisions.read(path)
  assert found.loss.dims == ("workflow", "seed", "generation") and list(found.workflow.values) == [
    "replace",
    "mix(0.2, fresh=True)",
  ]
  np.testing.assert_array_equal(found.loss[0], [[1.5, np.nan], [np.nan, 2.0]])
  assert _reading.runs(path).cell_status.dims == ("workflow",)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("a,b\n1,2\n", "must have the columns workflow, seed, generation, metric, value"),
    (HEAD, "holds no rows"),
    ("", "is no CSV file"),
    (HEAD + "replace,1,0,loss,1\n", "line 2: generation must be an integer from 1, got 0"),
    (HEAD + "replace,1,1,loss,1\nreplace,1,1,loss,2\n", "line 3: a second value"),
    (HEAD + "replace,1,1,loss,high\n", "line 2: 'high' is no number"),
    (HEAD + "replace,1,,loss,1\n", "line 2: only the value may be missing"),
  ],
)
def test_files_that_are_refused(tmp_path, text, said):
  path = tmp_path / "a.csv"
  path.write_text(text)
  with pytest.raises(cj.Refused, match=said):
    decisions.forecast(path)


# ---------------------------------------------------------------------------------------------------- schedules
def best_weights(num_generations):
  """Of fresh real rows beside as many of the last model: those that make each generation's error least, the golden ratio in the end."""
  error, found = 1.0, []
  for _ in range(num_generations - 1):
    found.append((error + 1) / (error + 2))
    error = found[-1]
  return np.array(found)


def test_the_golden_ratio_is_learned():
  task = cj.tasks.exponential_family("gaussian", 100, draws="law")
  found = decisions.learn_schedule(task, 6, fresh=True, lags=1, num_runs=1024, num_steps=150)
  np.testing.assert_allclose(found.table[1:, 0], best_weights(6), atol=0.006)
  assert abs(found.table[-1, 0] - theory.golden_weight(1.0)) < 0.005
  assert abs(found.error[-1] - 0.618 / 100) < 5 * found.standard_error[-1]
  assert found.real_rows == pytest.approx(100 * found.table[:, 0].sum())


def test_a_learned_schedule_is_better_at_the_same_budget():
  """Of a ridge regression, for which no formula is known: than `accumulate`, `mix` and constant shares."""
  T, rows = 5, backtest.ROWS
  budget = rows * float(np.sum(1 / np.arange(1, T + 1)))  # that of `accumulate`
  found = decisions.learn_schedule(backtest.ridge(), T, budget, num_runs=128, num_steps=120)
  assert found.real_rows <= budget * (1 + 1e-5) and found.real_rows > 0.98 * budget
  assert (found.table >= 0).all() and np.allclose(found.table.sum(axis=1), 1) and not np.triu(found.table, 1).any()
  np.testing.assert_allclose(found.workflow().weights(T), found.table)
  learned = backtest.error_under(found.table)[:, 1:].mean(axis=1)
  for name, table in backtest.tables(budget, T).items():
    gain = backtest.error_under(table)[:, 1:].mean(axis=1) - learned  # the same runs
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain)), name
  with pytest.raises(ValueError, match="budget must be at least num_samples"):
    decisions.learn_schedule(backtest.ridge(), T, rows - 1)


def test_ask_and_tell():
  """Where nothing is differentiable: the same golden ratio, of a formula that is only called."""
  search = decisions.begin_search(4, 100, lags=1)
  for _ in range(30):
    search, tables = decisions.propose(search, 24)
    search = decisions.tell(search, [_error(table) for table in tables])
  np.testing.assert_allclose(search.table[1:, 0], best_weights(4), atol=0.02)
  with pytest.raises(ValueError, match="errors must be 24 numbers"):
    decisions.tell(search, [1.0])


def _error(table):
  error, total = 1.0, 0.0
  for share in table[1:, 0]:
    error = share**2 + (1 - share) ** 2 * (error + 1)
    total += error
  return total


def test_figure_of_a_schedule():
  from collapse_jax import plotting

  rng = np.random.default_rng(0)
  table, errors = (
    np.tri(4) / np.arange(1, 5)[:, None],
    {"learned": rng.normal(size=(9, 4)), "mix": rng.normal(size=(9, 4))},
  )
  figure = plotting.learned_schedule(table, errors, "loss")
  left, right, *_ = figure.axes
  shown = left.images[0].get_array()
  np.testing.assert_allclose(shown[3], 0.25)
  assert np.ma.count_masked(np.ma.masked_invalid(shown)) == 6
  for line, (name, values) in zip(right.lines, errors.items()):
    assert line.get_label() == name
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
  assert right.get_ylabel() == "loss"
