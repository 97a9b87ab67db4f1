"""The Gaussian task against its closed forms: |z| < 5 with a fixed seed, and a wrong theory must exceed 5."""

import decimal
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score

import collapse_jax as cj
from collapse_jax import random, tasks, theory, workflows
from collapse_jax.tasks import gaussian as gaussian_factory  # noqa: F401
from collapse_jax.types import Context

T = 10


@functools.cache
def simulate(name, num_runs, num_generations, dim, num_samples, **options):
  task = tasks.gaussian(dim, num_samples, **options)
  workflow = workflows.parse(name)()
  program = jax.jit(jax.vmap(lambda key: cj.run(key, task, workflow, num_generations)))
  return jax.tree.map(np.asarray, program(jax.random.split(jax.random.key(0), num_runs)))


@pytest.mark.parametrize("name", ["replace", "accumulate", "mix(0.25)", "mix(0.5, fresh=True)"])
def test_moments_of_rows_follow_theory(name):
  """As those of the exact law do in test_validation."""
  dim, n = 2, 10
  out = simulate(name, 20_000, T, dim, n, draws="rows")
  right, wrong = (theory.schedule_moments(workflows.parse(name)().schedule(num, T)) for num in (n, n - 1))
  assert out["finite"].all()
  assert np.abs(z_score(out["covariance_trace_ratio"], right.trace_ratio)).max() < 5
  assert np.abs(z_score(out["squared_error_of_mean"], dim * right.mean_error)).max() < 5
  assert np.abs(z_score(out["squared_error_of_mean"], dim * wrong.mean_error)).max() > 5
  assert np.abs(z_score(out["covariance_trace_ratio"][:, 1:], right.trace_ratio[:-1])).max() > 5  # one generation off


@pytest.mark.parametrize(("dim", "n", "draws"), [(3, 10, "rows"), (6, 6, "auto"), (8, 4, "auto"), (8, 4, "rows")])
def test_log_det_under_replace(dim, n, draws):
  """The (pseudo-)determinant, exact at any depth, also where there are fewer rows than dimensions."""
  out = simulate("replace", 1000, 30, dim, n, draws=draws)
  mean, variance = theory.gaussian_replace_log_det(dim, n, 30)
  assert np.abs(z_score(out["covariance_log_det_ratio"], mean, variance)).max() < 5
  wrong, variance = theory.gaussian_replace_log_det(dim, n + 1, 30)
  assert np.abs(z_score(out["covariance_log_det_ratio"], wrong, variance)).max() > 5


def test_collapse_below_the_smallest_float32_stays_finite():
  """n = 10, T = 2000: the log variance ends near -441, where a float32 standard deviation underflows at -175."""
  out = simulate("replace", 100, 2000, 1, 10)
  mean, variance = theory.gaussian_replace_log_det(1, 10, 2000)
  assert out["finite"].all()
  assert mean[-1] < -430
  assert np.abs(z_score(out["marginal_log_variance"], mean, variance)).max() < 5
  np.testing.assert_allclose(out["marginal_log_variance"], out["covariance_log_det_ratio"], rtol=1e-4, atol=1e-3)


def test_temperature_scales_the_sampling_covariance():
  """Under replace E trace = (tau (1 - 1/n))^(t-1) (1 - 1/n)."""
  out = simulate("replace", 20_000, 5, 1, 50, temperature=0.5)
  expected = (1 - 1 / 50) ** np.arange(1, 6) * 0.5 ** np.arange(5)
  assert np.abs(z_score(out["covariance_trace_ratio"], expected)).max() < 5
  assert np.abs(z_score(out["covariance_trace_ratio"], expected * 0.97 ** np.arange(5))).max() > 5


@pytest.mark.parametrize("name", ["replace", "accumulate", "accumulate_subsample"])
def test_any_truth_gives_the_whitened_numbers_of_the_standard_one(name):
  dim, n = 3, 12
  root = np.array([[2.0, 0, 0], [0.5, 1.0, 0], [-0.3, 0.2, 0.1]])
  options = {"mean": np.array([5.0, -2.0, 1.0]), "covariance": root @ root.T}
  program = lambda **options: jax.jit(
    lambda noise_var: cj.run(
      jax.random.key(3), tasks.gaussian(dim, n, noise_var, **options), workflows.parse(name)(), T
    )
  )
  standard = program()
  plain, general = standard(1.0), program(**options)(1.0)
  np.testing.assert_allclose(
    general["whitened_squared_error_of_mean"], plain["squared_error_of_mean"], rtol=2e-3, atol=1e-5
  )
  np.testing.assert_allclose(general["whitened_trace_ratio"], plain["covariance_trace_ratio"], rtol=2e-3)
  np.testing.assert_allclose(
    general["covariance_log_det_ratio"], plain["covariance_log_det_ratio"], rtol=2e-3, atol=2e-3
  )
  scaled = standard(4.0)
  np.testing.assert_allclose(scaled["squared_error_of_mean"], 4 * plain["squared_error_of_mean"], rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(scaled["covariance_trace_ratio"], plain["covariance_trace_ratio"], rtol=1e-3)


def test_sizes_in_room_for_the_largest_give_the_numbers_of_each():
  """Below, at and above dim + 1 rows; with one row more or less in use they are others."""
  axes = {"dim": [3], "num_samples": [3, 4, 12]}
  run = lambda task, name: cj.sweep(task, [name], axes, num_generations=6, num_seeds=4)
  kept = ["covariance_log_det_ratio", "squared_error_of_mean", "train_size", "real_share"]
  of_rows = lambda dim, num_samples, max_samples=None: tasks.gaussian(
    dim, num_samples, draws="rows", max_samples=max_samples
  )
  for name in ("accumulate_subsample", "accumulate"):
    together = run(of_rows, name)
    apart = run(lambda dim, num_samples: of_rows(dim, num_samples), name)
    assert (together.num_compilations, apart.num_compilations) == (1, 3)
    for metric in kept:
      np.testing.assert_allclose(together[metric], apart[metric], rtol=2e-4, atol=2e-5)
    more = (
      together["covariance_log_det_ratio"].values[..., 1:, :, :]
      - apart["covariance_log_det_ratio"].values[..., :2, :, :]
    )
    assert np.abs(more).min(axis=(-1, -2)).max() > 1e-3


@pytest.mark.parametrize("driver", ["scan", "steps", "host"])
def test_rows_that_only_have_room_count_nowhere(driver):
  """Neither in what is stored nor in the law beside it, whoever says how much room there is."""
  of_rows = lambda **room: lambda num_samples: tasks.gaussian(2, num_samples, draws="rows", **room)
  run = lambda task, driver: cj.sweep(
    task, ["accumulate"], {"num_samples": [5]}, num_generations=3, num_seeds=2, driver=driver
  )
  roomy, plain = run(of_rows(max_samples=12), driver), run(of_rows(), "scan")
  np.testing.assert_array_equal(roomy.train_size.values.ravel(), [5, 10, 15] * 2)
  for name in ("covariance_log_det_ratio", "covariance_log_det_ratio_expected"):
    np.testing.assert_allclose(roomy[name], plain[name], rtol=2e-4, atol=2e-5)


def test_room_is_for_rows_that_are_all_emitted():
  task = tasks.gaussian(2, 5, draws="rows", max_samples=8)
  assert (task.num_samples, task.used) == (8, 5) and task._replace(num_samples=6).used is None
  assert tasks.gaussian(2, 5, max_samples=8).num_samples == 5  # the exact law needs none
  with pytest.raises(ValueError, match="a workflow that emits num_samples"):
    cj.run(jax.random.key(0), task, workflows.accumulate(3), 2)
  for wrong in (4, 8.5):
    with pytest.raises(ValueError, match="max_samples"):
      tasks.gaussian(2, 5, draws="rows", max_samples=wrong)


def test_fit_is_the_biased_maximum_likelihood_fit():
  """Mean, covariance, pseudo-determinant and Wasserstein-2 of a fit to rows, against NumPy in float64."""
  rng = np.random.default_rng(0)
  root = np.linalg.cholesky(np.cov(rng.normal(size=(4, 20))))
  for n in (3, 30):
    task = tasks.gaussian(4, n, mean=np.arange(4.0), covariance=root @ root.T, wasserstein2=True, draws="rows")
    problem, real = task.init(jax.random.key(1))
    rows = np.asarray(real.rows[0], np.float64)
    stats = task.summary.of(problem, real.rows[0], None)
    params = task.fit(jax.random.key(2), problem, Context(1, n, real._replace(summary=stats), real))
    mean, covariance = gaussian_module().moments(problem, params)
    np.testing.assert_allclose(mean, rows.mean(0), atol=2e-5)
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), atol=2e-5)
    metrics = task.evaluate(None, problem, params)
    white = np.linalg.solve(root, (rows - rows.mean(0)).T)
    eigenvalues = np.linalg.eigvalsh(white @ white.T / n)[::-1][: min(4, n - 1)]
    np.testing.assert_allclose(metrics["covariance_log_det_ratio"], np.log(eigenvalues).sum(), rtol=1e-3)
    expected = theory.wasserstein2_squared(rows.mean(0), np.cov(rows.T, bias=True), np.arange(4.0), root @ root.T)
    np.testing.assert_allclose(metrics["wasserstein2_squared"], expected, rtol=1e-3)
    half = np.ones(n)
    half[n // 2 :] = 0  # a weighted fit equals the fit of the truncated array
    if n > 3:
      masked = task.summary.of(problem, real.rows[0], jnp.asarray(half, jnp.float32))
      truncated = task.summary.of(problem, real.rows[0][: n // 2], None)
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), masked, truncated)


def gaussian_module():
  import sys

  return sys.modules["collapse_jax.tasks._gaussian"]


def fitted(stats):
  return gaussian_module()._fitted(stats)


def covariance(model):
  return 4.0**model.exponent * model.factor @ model.factor.T


def test_adding_summaries_is_pooling_rows():
  task = tasks.gaussian(3, 8, draws="rows")
  problem, real = task.init(jax.random.key(0))
  rows = 3.0 + real.rows[0] * jnp.array([[1.0, 0.1, 10.0]])
  a, b = task.summary.of(problem, rows[:5], None), task.summary.of(problem, rows[5:], None)
  pooled = task.summary.of(problem, rows, None)
  for both in (task.summary.add(problem, a, 1.0, b, 1.0), task.summary.add(problem, b, 1.0, a, 1.0)):
    both, whole = fitted(both), fitted(pooled)
    np.testing.assert_allclose(covariance(both), covariance(whole), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(both.mean, whole.mean, rtol=1e-5)
    np.testing.assert_allclose(both.log_det, whole.log_det, rtol=1e-4)
  alone = fitted(task.summary.add(problem, a, 1.0, b, 0.0))
  np.testing.assert_allclose(alone.mean, fitted(a).mean, rtol=1e-6)
  np.testing.assert_allclose(alone.log_det, fitted(a).log_det, rtol=1e-4)


def test_extend_equals_add():
  """The multiplicative update of a pool is the pooled covariance, full rank or not."""
  for dim, n in ((3, 20), (6, 4)):
    task = tasks.gaussian(dim, n)
    problem, real = task.init(jax.random.key(0))
    total = jax.tree.map(lambda x: x[0], real.summary)
    context = Context(1, n, real._replace(summary=total), real)
    new, _ = task.sample(jax.random.key(1), problem, task.fit(jax.random.key(2), problem, context), context)
    fast = task.summary.extend(problem, total, new)
    moved = task.summary.move(problem, total, new.draw)
    slow = task.summary.add(problem, moved, 1.0, jax.tree.map(lambda x: x[0], new.summary), 1.0)
    fast, slow = fitted(fast), fitted(slow)
    np.testing.assert_allclose(covariance(fast), covariance(slow), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted(moved).log_det, fitted(total).log_det, rtol=1e-4)
    np.testing.assert_allclose(fast.mean, slow.mean, atol=1e-5)
    np.testing.assert_allclose(fast.log_det, slow.log_det, rtol=1e-3)
    assert fast.rank == slow.rank == min(dim, n - 1)


def test_a_billion_rows_match_theory():
  n = 1e9
  out = simulate("accumulate", 4000, T, 2, n)
  right = theory.gaussian_accumulate(int(n), T)
  assert np.abs(z_score(out["squared_error_of_mean"], 2 * right.mean_error)).max() < 5
  # Of pooled data each batch adds its own error, of variance 2 / dim, to the mean of all before: float32 resolves it.
  spread = ((out["covariance_trace_ratio"].astype(np.float64) - 1) * np.sqrt(n)).var(axis=0, ddof=1)
  law = np.cumsum(1 / np.arange(1, T + 2.0) ** 2)
  z = lambda law: (spread / law - 1) / np.sqrt(2 / 3999)
  assert np.abs(z(law[:-1])).max() < 5
  assert np.abs(z(law[1:])).max() > 5  # one generation late


def test_chi_square_law():
  from scipy import stats

  for freedom in (1.0, 2.0, 3.0, 99.0, 1e9):
    draw = lambda key, f=freedom: random.chi_square(key, jnp.full(50, f))
    x = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 1000)), np.float64).ravel()
    assert stats.kstest(x, stats.chi2(freedom).cdf).pvalue > 1e-4
    wrong = stats.chi2(freedom + 0.06 * np.sqrt(2 * freedom))  # its mean is off by 0.06 standard deviations
    assert stats.kstest(x, wrong.cdf).pvalue < 1e-4


@pytest.mark.parametrize("freedom", [1.0, 2.0, 7.5, 1e3, 1e6, 1e9, 1e12, 1e13])
def test_chi_squares_do_not_cancel(freedom):
  """Against the same variates in float64, and in law; the variate over its mean, less one, is the wrong twin."""
  from scipy import stats

  key = jax.random.key(2)
  draw = lambda dtype: [
    np.asarray(x, np.float64) for x in jax.jit(random.chi_squares)(key, jnp.full(50_000, freedom, dtype))
  ]
  value, excess = draw(np.float32)
  with jax.enable_x64(True):
    exact_value, exact = draw(np.float64)
  same = np.isclose(value, exact_value, rtol=1e-4)  # but for a few that a rounding error rejects
  assert same.mean() > 0.999
  np.testing.assert_allclose(value[same], exact_value[same], rtol=2e-5)
  np.testing.assert_allclose(excess[same], exact[same], rtol=3e-6, atol=1e-6 * np.sqrt(2 / freedom))
  if freedom >= 1e9:
    cubic = lambda z: z + np.sqrt(8 / freedom) / 6 * (z**2 - 1)  # Cornish and Fisher
    law = lambda x: stats.norm.cdf(2 * x / np.sqrt(2 / freedom) - cubic(x / np.sqrt(2 / freedom)))
    assert stats.kstest(excess, law).pvalue > 1e-3
    assert freedom < 1e13 or stats.kstest(np.float32(value) / np.float32(freedom) - 1, law).pvalue < 1e-4


@pytest.mark.parametrize(
  ("arguments", "part"),
  [
    ((0, 10), "dim must be an integer of at least 1"),
    ((2, 1), "num_samples must be at least 2"),
    ((2, 10, 0.0), "noise_var must be above 0"),
    ((2, 10, float("nan")), "noise_var"),
  ],
)
def test_bad_arguments(arguments, part):
  with pytest.raises(ValueError, match=part):
    tasks.gaussian(*arguments)


def test_bad_options():
  with pytest.raises(ValueError, match="temperature must be above 0"):
    tasks.gaussian(2, 10, temperature=-1.0)
  with pytest.raises(ValueError, match="positive definite"):
    tasks.gaussian(2, 10, covariance=np.ones((2, 2)))
  with pytest.raises(ValueError, match="mean must have shape"):
    tasks.gaussian(2, 10, mean=np.zeros(3))
  with pytest.raises(ValueError, match="draws='rows' or 'auto'"):
    cj.run(jax.random.key(0), tasks.gaussian(2, 10, draws="law"), workflows.accumulate_subsample(), 2)


WIDE = {
  "replace": workflows.replace(),
  "accumulate": workflows.accumulate(),
  "mix": workflows.mix(0.5),
  "window": workflows.sliding_window(2),
  "fresh": workflows.mix(0.5, fresh=True),
}


def rounding_error(monkeypatch, workflow, dim, sizes, num_runs, num_generations, **options):
  """Metrics [sizes, runs, T] of the same draws in float32 and float64, for sizes that float32 holds."""
  monkeypatch.setattr(
    gaussian_module(),
    "normal",
    lambda key, shape=(): (
      random._normal_quantile(random._symmetric(random.bits(key, int(np.prod(shape))))).reshape(shape).astype(float)
    ),
  )

  def program(key, n):
    return cj.run(key, tasks.gaussian(dim, n, **options), workflow, num_generations)

  def metrics():
    over_runs = jax.vmap(jax.vmap(program, (0, None)), (None, 0))
    keys = jax.random.split(jax.random.key(5), num_runs)
    return jax.tree.map(lambda x: np.asarray(x, np.float64), jax.jit(over_runs)(keys, jnp.asarray(sizes, float)))

  single = metrics()
  with jax.enable_x64(True):
    return single, metrics()


def check_drift(monkeypatch, name, num_generations):
  """Means within a tenth of the standard error of 1e4 runs, n = 1e5 to 1e12."""
  single, double = rounding_error(monkeypatch, WIDE[name], 2, 2.0 ** np.array([17, 23, 30, 40]), 50, num_generations)
  for metric in ("covariance_trace_ratio", "covariance_log_det_ratio", "marginal_log_variance", "marginal_mean"):
    error = single[metric][..., -1] - double[metric][..., -1]
    sd = double[metric][..., -1].std(axis=1)
    typical = np.median(error, axis=1)  # a run whose chi-squared draw was accepted in one precision only is another run
    # The last rounding of the trace is that of a number near 1, and random: it is left to 50 runs, not 1e4.
    last = 2.0**-24 / np.sqrt(50) * 5 if metric == "covariance_trace_ratio" else 0
    assert (np.abs(typical) < 1e-3 * sd + last).all(), (metric, typical / sd)
    assert (np.median(np.abs(error), axis=1) < 0.02 * sd + 2.0**-24 * (last > 0)).all(), (metric, error / sd[:, None])


@pytest.mark.parametrize("name", WIDE)
def test_float32_does_not_drift(name, monkeypatch):
  """The same runs in float32 and float64."""
  check_drift(monkeypatch, name, 300)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_generations"), [("accumulate", 10_000), ("window", 1000)])
def test_float32_does_not_drift_in_optimised_programs(name, num_generations, monkeypatch):
  """XLA may contract and reorder what it fuses."""
  check_drift(monkeypatch, name, num_generations)


def rows_in_float64(shares, sizes, dim, num_runs, fresh=False):
  """Mean log pseudo-determinants [T] of fits to rows, and their standard errors; batch j has sizes[j] rows and shares[t][j]."""
  rng = np.random.default_rng(11)
  real = lambda: rng.normal(size=(num_runs, sizes[0], dim))
  batches, found = [real()], []
  for t, share in enumerate(shares):
    if fresh and t > 0:
      batches[0] = real()
    used = [j for j in range(t + 1) if share[j] > 0]
    rows = np.concatenate([batches[j] for j in used], axis=1)
    weight = np.concatenate([np.full(sizes[j], share[j] / sizes[j]) for j in used])
    mean = np.einsum("m,rmd->rd", weight, rows)
    _, size, direction = np.linalg.svd(np.sqrt(weight)[:, None] * (rows - mean[:, None]), full_matrices=False)
    size = np.where(size > 1e-9 * size[:, :1], size, 0)  # T is small: what has rank is far above
    found.append(2 * np.log(np.where(size > 0, size, 1)).sum(axis=1))
    noise = rng.normal(size=(num_runs, sizes[t + 1], size.shape[1]))
    batches.append(mean[:, None] + np.einsum("rmk,rk,rkd->rmd", noise, size, direction))
  return np.mean(found, axis=1), np.std(found, axis=1) / np.sqrt(num_runs)


def mixed(n, m, T):
  return [[1.0]] + [[n / (n + m)] + [0] * (t - 1) + [m / (n + m)] for t in range(1, T)], [n] + [m] * T


UNEVEN = [[1, 0, 0, 0], [0.3, 0.7, 0, 0], [0.2, 0.3, 0.5, 0], [0, 0.25, 0.35, 0.4]]


@pytest.mark.parametrize(
  ("workflow", "dim", "n", "plan", "fresh"),
  [
    (workflows.sliding_window(2), 2, 2, ([[1], [0.5, 0.5], [0, 0.5, 0.5], [0, 0, 0.5, 0.5]], [2] * 5), False),
    (workflows.mix(0.3), 3, 2, mixed(2, 5, 4), False),
    (workflows.weights(UNEVEN), 3, 2, (UNEVEN, [2] * 5), False),
    (workflows.mix(0.5), 31, 10, mixed(10, 10, 4), False),
    (workflows.mix(0.5, fresh=True), 3, 2, mixed(2, 2, 4), True),
  ],
)
def test_pseudo_determinant_of_pooled_small_samples(workflow, dim, n, plan, fresh):
  """The rank is that of the pooled rows in every run, against rows in float64; a rank from a threshold is off by |z| > 10."""
  T, num_runs = 4, 4000
  expected, error = rows_in_float64(*plan, dim, num_runs, fresh)
  task = tasks.gaussian(dim, n)
  program = jax.jit(jax.vmap(lambda key: cj.run(key, task, workflow, T)))
  out = program(jax.random.split(jax.random.key(2), num_runs))["covariance_log_det_ratio"]
  found = np.asarray(out, np.float64)
  z = (found.mean(axis=0) - expected) / np.hypot(error, found.std(axis=0) / np.sqrt(num_runs))
  assert np.abs(z).max() < 5, (found.mean(axis=0), expected)


def rows_in_decimals(size, dim, n, num_runs, T):
  """Log determinant and log variance of the first coordinate [runs, T] under a sliding window, to 120 digits."""
  rng = np.random.default_rng(12)
  exact = np.vectorize(lambda x: decimal.Decimal(float(x)), otypes=[object])
  log = np.vectorize(lambda x: float(x.ln()), otypes=[float])
  with decimal.localcontext(prec=120):
    batches, found = [[list(exact(rng.normal(size=(dim, num_runs)))) for _ in range(n)]], []
    for _ in range(T):
      rows = [row for one in batches[-size:] for row in one]
      mean = [sum(row[i] for row in rows) / len(rows) for i in range(dim)]
      away = [[row[i] - mean[i] for i in range(dim)] for row in rows]
      root = [[0] * dim for _ in range(dim)]
      for i in range(dim):
        for j in range(i + 1):
          rest = sum(row[i] * row[j] for row in away) / len(rows) - sum(root[i][k] * root[j][k] for k in range(j))
          root[i][j] = np.vectorize(lambda x: x.sqrt(), otypes=[object])(rest) if i == j else rest / root[j][j]
      found.append([2 * sum(log(root[i][i]) for i in range(dim)), 2 * log(root[0][0])])
      noise = exact(rng.normal(size=(n, dim, num_runs)))
      batches.append([[mean[i] + sum(root[i][k] * one[k] for k in range(i + 1)) for i in range(dim)] for one in noise])
  return np.moveaxis(found, 0, -1)


def test_windows_at_any_condition():
  """sliding_window(2) of 4 rows in 3 dimensions, whose condition number passes 1e30: against rows in exact arithmetic."""
  T, num_runs = 120, 60
  reference = rows_in_decimals(2, 3, 4, num_runs, T)
  out = simulate("sliding_window(2)", 2000, T, 3, 4)
  assert out["finite"].all()
  for metric, exact in zip(("covariance_log_det_ratio", "marginal_log_variance"), reference, strict=True):
    found = out[metric].astype(np.float64)
    spread = np.hypot(found.std(axis=0) / np.sqrt(2000), exact.std(axis=0) / np.sqrt(num_runs))
    assert np.abs((found.mean(axis=0) - exact.mean(axis=0)) / spread)[[1, 9, 39, 79, 119]].max() < 5
    assert np.abs((found.mean(axis=0) - exact.mean(axis=0) + 10) / spread)[79] > 5  # what float32 rows lose
  assert reference[0].mean(axis=0)[79] < -95


@pytest.mark.parametrize(("dim", "n"), [(1, 10), (3, 8), (5, 3)])
def test_one_real_batch_for_all_workflows(dim, n):
  """Also where one of them needs rows: these are drawn given the statistics, and follow the law of plain rows."""
  from scipy import stats

  task, keys = tasks.gaussian(dim, n), jax.random.split(jax.random.key(4), 2000)
  real = jax.jit(jax.vmap(lambda key: task.rows().init(key)[1]))(keys)
  rows = np.asarray(real.rows[:, 0], np.float64)
  first = {}
  for name in ("replace", "accumulate", "accumulate_subsample"):
    one = functools.partial(cj.run, task=task, workflow=workflows.parse(name)(), num_generations=1)
    first[name] = jax.jit(jax.vmap(one))(keys[:50])
  for name in ("accumulate", "accumulate_subsample"):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), first[name], first["replace"])
  law = task.init(keys[7])[1]
  model = fitted(jax.tree.map(lambda x: x[0], law.summary))
  np.testing.assert_allclose(rows[7].mean(axis=0), model.mean, atol=1e-5)
  np.testing.assert_allclose(np.atleast_2d(np.cov(rows[7].T, bias=True)), covariance(model), atol=2e-5)
  for values in (
    rows[:, 0, 0],
    rows[:, -1, -1],
    (rows[:, 0, 0] - rows[:, 1, -1]) / np.sqrt(2),
    rows[:, 1].sum(axis=1) / np.sqrt(dim),
    rows[:, :2, 0].sum(axis=1) / np.sqrt(2),
  ):
    assert stats.kstest(values, "norm").pvalue > 1e-3
  assert stats.kstest(np.sum(rows**2, axis=(1, 2)), stats.chi2(n * dim).cdf).pvalue > 1e-3
  assert stats.kstest(rows[:, 0, 0] - rows[:, :, 0].mean(axis=1), "norm").pvalue < 0.05 or n > 5


@pytest.mark.parametrize("kind", ["curate", "verify"])
def test_chosen_rows_collapse_as_deep_as_others(kind):
  """Once rows are equal in float32 nothing is left to choose by: log det falls as under `replace`, far below float32."""
  n, late, last, num_runs = 5, 80, 120, 200
  if kind == "curate":
    task = cj.transforms.curate(tasks.gaussian(2, n), 8, lambda rows: -(rows[:, 0] ** 2))
  else:
    task = cj.transforms.verify(tasks.gaussian(2, n), lambda key, problem, rows: jnp.ones(n, bool))
  program = jax.jit(jax.vmap(lambda key: cj.run(key, task, workflows.replace(), last)))
  out = jax.tree.map(np.asarray, program(jax.random.split(jax.random.key(6), num_runs)))
  assert out["finite"].all()
  mean, variance = theory.gaussian_replace_log_det(2, n, last)
  fall = out["covariance_log_det_ratio"][:, -1] - out["covariance_log_det_ratio"][:, late - 1]
  assert abs(z_score(fall, mean[-1] - mean[late - 1], variance[-1] - variance[late - 1])) < 5
  assert abs(z_score(fall, 0.9 * (mean[-1] - mean[late - 1]), variance[-1] - variance[late - 1])) > 5
  assert out["covariance_log_det_ratio"][:, -1].max() < -80


def test_a_point_has_no_determinant():
  """A batch of one row is a point: log det is -inf, not the 0 of the truth, and the run is not finite."""
  out = jax.tree.map(np.asarray, cj.run(jax.random.key(0), tasks.gaussian(2, 5), workflows.replace(1), 3))
  assert np.isneginf(out["covariance_log_det_ratio"][1:]).all()
  assert out["finite"].tolist() == [True, False, False]
  assert out["covariance_trace_ratio"].tolist()[1:] == [0, 0]
