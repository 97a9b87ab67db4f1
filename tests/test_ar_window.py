"""Rows in time: least squares against its laws, densities and samplers of heads against each other, generators, files, defects."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score
from scipy import stats

import collapse_jax as cj
from collapse_jax import metrics, theory
from collapse_jax.data import traffic
from collapse_jax.refused import Refused
from collapse_jax.tasks import _ar_window as module

REPLACE = cj.workflows.replace()
LINEAR = functools.partial(cj.tasks.ar_window, head="linear", num_test=1, num_lags=1)


def simulated(task, num_generations, num_seeds, workflow=REPLACE):
  run = jax.jit(jax.vmap(lambda key: cj.run(key, task, workflow, num_generations)))
  return jax.device_get(run(jax.random.split(jax.random.key(0), num_seeds)))


def test_predicted():
  """What the task says of itself; `systems.traffic` holds the laws against simulations."""
  schedule = lambda text: cj.workflows.parse(text)().schedule(2, 4)
  task = LINEAR(traffic.autoregression(50, [0.5, 0.2]), 2, window=2, intercept=True)
  law = task.predict(schedule("replace"))
  assert sorted(law) == ["lag1_coefficient", "lag2_coefficient"] and task.predict(schedule("accumulate")) == {}
  np.testing.assert_allclose(law["lag2_coefficient"].mean[0], 0.2 - 2.8 / 100)
  task = LINEAR(traffic.autoregression(50, [0.5]), 2, window=1, intercept=False)
  np.testing.assert_allclose(
    task.predict(schedule("accumulate"))["lag1_coefficient"].mean[:2], 0.5 - np.array([1, 1.25]) / 100, atol=1e-4
  )
  assert task.predict(schedule("mix(0.5)")) == {} == task.predict(schedule("accumulate_subsample"))
  task = LINEAR(traffic.autoregression(6, (), 1.0, coupling=0.9, coupled_std=0.7), 2, window=0, intercept=False)
  law = task.predict(schedule("replace"))["cross_coefficient"]
  np.testing.assert_allclose(law.variance, theory.cross_column_variance(0.49, 12, 4))
  assert task.predict(schedule("accumulate"))["cross_coefficient"].variance is None
  found = simulated(task, 2, 2000)
  assert np.abs(z_score(found["cross_coefficient"], 0.9)).max() < 5 and (found["excess_nll"].mean(axis=0) > 0).all()


def test_least_squares():
  """Against NumPy, with windows, an intercept and another order; of fewer rows than coefficients it fits them without NaN."""
  source = traffic.autoregression(30, [0.5], 1.0, coupling=0.9)
  task = LINEAR(source, 2, window=2, order=["y", "x"])
  problem, real = task.init(jax.random.key(0))
  context = cj.types.Context(1, 2, real._replace(summary=task.summary.of(problem, real.rows[0], None)), real)
  params = task.fit(jax.random.key(1), problem, context)
  rows = np.concatenate([np.zeros((2, 2, 2)), np.asarray(real.rows[0], float)], axis=1)
  past = np.concatenate([rows[:, 0:30], rows[:, 1:31], np.ones((2, 30, 1))], axis=-1).reshape(60, 5)
  now = rows[:, 2:].reshape(60, 2)
  for c, seen in ((1, past), (0, np.concatenate([past[:, :4], now[:, 1:], past[:, 4:]], axis=1))):
    fitted, residual, *_ = np.linalg.lstsq(seen, now[:, c])
    place = [0, 1, 2, 3] + [5] * (c == 0)
    np.testing.assert_allclose(params.weights[np.array(place), c, 0], fitted[:-1], rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(params.bias[c, 0], fitted[-1], rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(params.head["std"][c] ** 2, residual[0] / 60, rtol=1e-3)
  few = simulated(LINEAR(traffic.autoregression(3, [0.5]), 1, window=5), 20, 3)
  assert few["finite"].all()


def moved(source, rows, shift):
  """E p(T x) |dT| / p(x) = 1 for every one-to-one T: of the last row."""
  log_density = jax.jit(source.log_density)
  found, jacobian = shift(rows[:, -1])
  return np.exp(np.asarray(log_density(rows.at[:, -1].set(found))[:, -1] - log_density(rows)[:, -1] + jacobian))


def test_flows_have_their_law():
  source = traffic.flows(4)
  rows = jax.jit(source.draw, static_argnums=1)(jax.random.key(0), 20_000)
  assert all(np.asarray(rule(rows)).all() for rule in source.rules.values())
  for name, broken in (("web_is_tcp", (1, 1)), ("bytes_of_packets", (6, 0.99))):
    assert not np.asarray(source.rules[name](rows.at[..., broken[0]].set(broken[1]))).all()

  def sizes(row):  # packets in logits, bytes with them
    logit = jnp.log(row[:, 5]) - jnp.log1p(-row[:, 5]) + 0.1
    few = jax.nn.sigmoid(logit)
    new = row.at[:, 6].add((few - row[:, 5]) * 12.83 / 24).at[:, 5].set(few)
    return new, jnp.log(few) + jnp.log1p(-few) - jnp.log(row[:, 5]) - jnp.log1p(-row[:, 5])

  def squeezed(column):
    def shift(row):
      value = row[:, column] ** 1.05
      return row.at[:, column].set(value), jnp.log(1.05) + 0.05 * jnp.log(row[:, column])

    return shift

  def turned(row):
    return row[:, jnp.array([0, 1, 2, 4, 3, 5, 6, 7])].at[:, 2].set(1 - row[:, 2]), 0.0

  def client(row):  # another range of the client's port, those of ICMP apart
    code = lambda x: jnp.where(x >= 8, 8 + (x - 7) % 8, x)
    return row.at[:, 3].set(code(row[:, 3])).at[:, 4].set(code(row[:, 4])), 0.0

  for shift in (sizes, squeezed(0), squeezed(7), turned, client):
    ratios = moved(source, rows, shift)
    assert abs(z_score(ratios, 1.0)) < 5
  without = moved(source, rows, lambda row: (sizes(row)[0], 0.0))  # twin: no Jacobian
  assert abs(z_score(without, 1.0)) > 5
  unlike = moved(source, rows, lambda row: (row.at[:, 1].set((row[:, 1] + 1) % 3), 0.0))
  assert not unlike.any()  # another protocol than the port's never happens


def test_simulated_set():
  law = theory.simulated_traffic(0.9, 0.9)
  rows = np.asarray(traffic.autoregression(120, coupling=0.9).draw(jax.random.key(1), 20_000), np.float64)[:, 100:]
  x, y = rows[:, 10, 0], rows[:, 10, 1]
  assert abs(z_score(x**2, law["variance_x"])) < 5 and abs(z_score(y**2, law["variance_y"])) < 5
  together = law["correlation"] * math.sqrt(law["variance_x"] * law["variance_y"])
  assert abs(z_score(x * y, together)) < 5 < abs(z_score(x * y, 0.9 * together))
  assert abs(z_score(y * rows[:, 11, 1], law["lag1_y"] * law["variance_y"])) < 5


def neural(source, **options):
  return cj.tasks.ar_window(
    source, 4, **{"window": 2, "hidden": 6, "num_components": 3, "num_test": 2, "num_lags": 1, "amount": 2.0} | options
  )


def model_of(source, seed=0, **options):
  """An untrained model with weights that matter, and its layout."""
  columns = source.columns
  layout = module._Layout(columns, options.get("places", tuple(range(len(columns)))), 2, 6, 3, False)
  weights, bias, head = layout.start(jax.random.key(seed))
  head = {"weights": 30 * head["weights"], "bias": head["bias"]}
  return layout, module.WindowModel(weights, bias, head, jnp.zeros(()))


@pytest.mark.parametrize("ends", ["known", "ignore"])
def test_density_is_that_of_the_sampler(ends):
  """Rows that a model draws have the density that it is fitted by; without the mass inside the ends they have not."""
  source = traffic.flows(3)
  layout, model = model_of(source)
  rows = jax.jit(lambda key: layout.draw(key, model, 20_000, 3, ends))(jax.random.key(1))
  nll = jax.jit(lambda seen: layout.losses(model[:3], seen, ends).sum(axis=1))
  padded = layout.padded(rows)[:, 2:]  # the last row and its window
  if ends == "known":
    shift = lambda x: (x**1.3, jnp.log(1.3) + 0.3 * jnp.log(x))
    assert float(rows[..., 0].min()) >= 0 and float(rows[..., 5].max()) <= 1
  else:
    shift = lambda x: (x + 0.02, 0.0)
    assert float(rows[..., 0].min()) < 0
  value, jacobian = shift(padded[:, -1, 0])
  after = padded.at[:, -1, 0].set(value)
  first_only = jax.jit(lambda seen: layout.losses(model[:3], seen, ends)[:, 0])
  ratio = np.exp(np.asarray(first_only(padded) - first_only(after) + jacobian))
  assert abs(z_score(ratio, 1.0)) < 5
  if ends == "known":
    wrong = jax.jit(lambda seen: layout.losses(model[:3], seen, "ignore")[:, 0])
    assert abs(z_score(np.asarray(jnp.exp(wrong(padded))), np.asarray(jnp.exp(first_only(padded))).mean())) > 5
  # codes: E 1 / p(code) is the number of codes
  chance = np.exp(np.asarray(jax.jit(lambda seen: layout.losses(model[:3], seen, ends)[:, 1])(padded)))
  assert abs(z_score(chance, 3.0)) < 5 and abs(z_score(chance, 2.0)) > 5
  assert np.isfinite(np.asarray(nll(padded))).all()


def test_order():
  """A column sees the window and the columns before it, in the order that was asked for."""
  source = traffic.flows(3)
  layout, model = model_of(source, places=(5, 0, 1, 2, 3, 4, 6, 7))
  seen = layout.padded(source.draw(jax.random.key(0), 8))[:, 2:]
  losses = lambda x: np.asarray(layout.losses(model[:3], x, "known"))
  told = losses(seen)
  changed = [np.any(losses(seen.at[:, -1, c].mul(0.9)) != told, axis=0) for c in (5, 0, 7)]
  assert changed[0].all() and list(changed[2]) == [False] * 7 + [True]
  assert list(changed[1]) == [True] * 5 + [False, True, True]
  assert (losses(seen.at[:, 0, 7].set(0.5)) != told).any(axis=0).all()


def test_ends():
  """Normal laws within [0, 1] by quantiles, also from far outside; published draws give up in an atom of q^12."""
  u = jnp.asarray(np.random.default_rng(0).uniform(size=50_000), jnp.float32)
  for mean, std in ((0.3, 0.25), (-0.5, 0.2), (1.6, 0.3)):
    exact = stats.truncnorm((0 - mean) / std, (1 - mean) / std, loc=mean, scale=std)
    values = np.asarray(module._between(jnp.full(u.shape, mean), jnp.full(u.shape, std), u), np.float64)
    assert abs(z_score(values, exact.mean())) < 5 and abs(z_score((values - exact.mean()) ** 2, exact.var())) < 5
    inside = float(module._log_inside(jnp.asarray(mean), jnp.asarray(std)))
    assert inside == pytest.approx(np.log(stats.norm.cdf(1, mean, std) - stats.norm.cdf(0, mean, std)), rel=1e-4)
  tries = -1 + jax.random.normal(jax.random.key(0), (50_000, module.NUM_REDRAWS))
  outside = 1 - (stats.norm.cdf(2) - stats.norm.cdf(1))
  atom = np.asarray(module._inside(tries, "redraw") == 0)
  assert abs(z_score(atom, theory.redraw_atom(outside, 12))) < 5 < abs(z_score(atom, theory.redraw_atom(outside, 11)))
  assert float(module._inside(tries, "clip").max()) <= 1 and float(module._inside(tries, "ignore").min()) < 0


def test_rounding():
  column = traffic.Column("size", bounded=True, log_scale=10.0)
  rows = jnp.log(jnp.full((20_000, 1, 1), 2.7)) / 10
  size = lambda rounding: np.exp(
    10 * np.asarray(module._rounded(jax.random.key(0), rows, [column], [0], rounding), np.float64)
  )
  assert size("truncate") == pytest.approx(2, rel=1e-4) and size("nearest") == pytest.approx(3, rel=1e-4)
  drawn = size("random").round(3)
  assert set(np.unique(drawn)) == {2.0, 3.0} and abs(z_score(drawn[:, 0, 0], 2.7)) < 5


def test_training():
  """A mixture head comes near the exact NLL, and a warm start goes on from the last model."""
  source = traffic.autoregression(60, [0.8], 0.1)
  task = neural(source, window=1, amount=60.0, learning_rate=1e-2, batch_size=64, num_test=8)
  found = jax.jit(lambda key: cj.run(key, task, cj.workflows.replace(), 1))(jax.random.key(0))
  assert 0 < float(found["excess_nll"][0]) < 0.3  # 1.6 nats at the start
  short = neural(source, window=1, amount=1.0)
  problem, real = short.init(jax.random.key(0))
  context = cj.types.Context(1, 4, real, real)
  first = short.fit(jax.random.key(1), problem, context)
  second = short.fit(jax.random.key(1), problem, context._replace(previous=first))
  assert float(jnp.abs(second.weights - first.weights).max()) < 0.02 < float(jnp.abs(first.weights).max())


def test_metrics_of_series():
  """Nulls of independent rows, and values that are known."""
  rows = jax.random.normal(jax.random.key(0), (4000, 1, 40, 2))
  found = np.asarray(jax.vmap(lambda x: metrics.autocorrelation(x, 2))(rows))
  null = -np.array([39, 38]) / 40 / 40  # of pairs over rows, about their own mean
  assert np.abs(z_score(found[:, :, 0], null)).max() < 5 and np.abs(z_score(found[:, :, 0], 0)).max() > 5
  uniform = jax.random.uniform(jax.random.key(1), (2000, 2, 3000))
  edges = jnp.linspace(0, 1, 21)
  of = lambda x: metrics.jensen_shannon(x[0], x[1][:1500], edges, smoothing=0.0)
  apart = np.asarray(jax.vmap(of)(uniform))
  assert abs(z_score(apart, metrics.jensen_shannon_null(20, 3000, 1500))) < 5
  assert abs(z_score(apart, metrics.jensen_shannon_null(20, 3000, 3000))) > 5
  assert float(metrics.jensen_shannon(jnp.zeros(9), jnp.ones(9), edges, smoothing=0.0)) == pytest.approx(math.log(2))
  told = np.random.default_rng(0).normal(size=(50, 3))
  np.testing.assert_allclose(metrics.column_correlation(jnp.asarray(told)), np.corrcoef(told.T), atol=1e-5)
  assert not np.asarray(metrics.column_correlation(jnp.ones((5, 2)))).any()


UGR16 = """2016-03-18 00:00:01,0.5,42.219.1.1,8.8.8.8,40000,443,TCP,.AP.SF,0,0,10,4100,background
2016-03-18 00:00:04,0.0,9.9.9.9,42.219.1.1,53,1100,UDP,......,0,0,1,80,background
2016-03-18 00:00:02,1.5,42.219.1.2,8.8.8.8,500,80,TCP,.AP.SF,0,0,2,90,background
2016-03-18 00:00:09,0.0,42.219.1.1,8.8.4.4,0,0,ICMP,......,0,0,1,56,blacklist
2016-03-18 00:00:05,0.0,1.1.1.1,2.2.2.2,1,2,TCP,......,0,0,1,60,background
"""


def test_flows_of_a_file(tmp_path):
  file = tmp_path / "march.csv"
  file.write_text(UGR16)
  source = traffic.read_flows(file, 3, internal="42.219.")
  assert source.max_series == 1
  [rows] = np.asarray(source.draw(jax.random.key(0), 1))
  scale = math.log(1431)
  np.testing.assert_allclose(rows[:, 0], np.log1p([0, 3, 5]) / scale, rtol=1e-5)
  np.testing.assert_array_equal(rows[:, 1:5], [[0, 0, 12, 6], [1, 1, 3, 8], [2, 0, 0, 0]])
  np.testing.assert_allclose(rows[:, 6], np.log([4100, 80, 56]) / 24, rtol=1e-5)
  assert all(np.asarray(rule(rows)).all() for rule in source.rules.values())
  named = tmp_path / "named.csv"
  named.write_text("end,td,sa,da,sp,dp,pr,pkt,byt\n" + "2016-03-18 00:00:01,0.5,42.219.1.1,8.8.8.8,1,2,TCP,1,60\n" * 2)
  assert traffic.read_flows(named, 1, internal="42.", columns={"te": "end"}).max_series == 2
  for text, length, internal, message in (
    (UGR16, 9, "42.219.", "has no host"),
    (UGR16, 3, "43.", "has no host"),
    (UGR16.replace(",10,4100,", ",ten,4100,"), 1, "42.", "row 1 is no flow"),
    (UGR16.replace("40000", "70000"), 1, "42.", "row 1 is no flow"),
    ("a,b\n1,2\n", 1, "42.", "has no column"),
    ("", 1, "42.", "cannot be read"),
  ):
    file.write_text(text)
    with pytest.raises(Refused, match=message) as error:
      traffic.read_flows(file, length, internal=internal)
    assert "\n" not in str(error.value)
  file.write_text(UGR16)
  with pytest.raises(Refused, match="num_samples must be at most 0"):
    cj.tasks.ar_window(traffic.read_flows(file, 3, internal="42.219."), 1, num_test=1, num_lags=1)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"order": ["delta"]}, "order must be each of delta"),
    ({"head": "gru"}, "head must be one of mixture, linear"),
    ({"head": "linear"}, "protocol, direction"),
    ({"ends": "published"}, "ends must be one of"),
    ({"rounding": "up"}, "rounding must be one of"),
    ({"window": -1}, "window must be"),
    ({"num_lags": 3}, "num_lags must be"),
    ({"budget": "hours"}, "budget"),
    ({"amount": 0.0}, "amount must be"),
    ({"hidden": 0}, "hidden must be"),
  ],
)
def test_refused(options, message):
  with pytest.raises(Refused, match=message) as error:
    task = neural(traffic.flows(3), **options)
    jax.eval_shape(lambda key: cj.run(key, task, cj.workflows.replace(), 1), jax.random.key(0))
  assert "\n" not in str(error.value)
