"""The Gaussian task against its closed forms: |z| < 5 with a fixed seed, and a wrong theory must exceed 5."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import z_score

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
  right, wrong = (theory.gaussian_moments(name, num, T) for num in (n, n - 1))
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
  one = lambda task: jax.jit(lambda key: cj.run(key, task, workflows.parse(name)(), T))(jax.random.key(3))
  plain, general = one(tasks.gaussian(dim, n)), one(tasks.gaussian(dim, n, **options))
  np.testing.assert_allclose(general["whitened_squared_error_of_mean"], plain["squared_error_of_mean"], rtol=2e-3, atol=1e-5)
  np.testing.assert_allclose(general["whitened_trace_ratio"], plain["covariance_trace_ratio"], rtol=2e-3)
  np.testing.assert_allclose(general["covariance_log_det_ratio"], plain["covariance_log_det_ratio"], rtol=2e-3, atol=2e-3)
  scaled = one(tasks.gaussian(dim, n, 4.0))
  np.testing.assert_allclose(scaled["squared_error_of_mean"], 4 * plain["squared_error_of_mean"], rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(scaled["covariance_trace_ratio"], plain["covariance_trace_ratio"], rtol=1e-3)


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
    metrics = task.evaluate(problem, params)
    white = np.linalg.solve(root, (rows - rows.mean(0)).T)
    eigenvalues = np.linalg.eigvalsh(white @ white.T / n)[::-1][:min(4, n - 1)]
    np.testing.assert_allclose(metrics["covariance_log_det_ratio"], np.log(eigenvalues).sum(), rtol=1e-3)
    expected = theory.wasserstein2_squared(rows.mean(0), np.cov(rows.T, bias=True), np.arange(4.0), root @ root.T)
    np.testing.assert_allclose(metrics["wasserstein2_squared"], expected, rtol=1e-3)
    half = np.ones(n)
    half[n // 2:] = 0  # a weighted fit equals the fit of the truncated array
    if n > 3:
      masked = task.summary.of(problem, real.rows[0], jnp.asarray(half, jnp.float32))
      truncated = task.summary.of(problem, real.rows[0][:n // 2], None)
      jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), masked, truncated)


def gaussian_module():
  import sys
  return sys.modules["collapse_jax.tasks.gaussian"]


def test_adding_summaries_is_pooling_rows():
  task = tasks.gaussian(3, 8, draws="rows")
  problem, real = task.init(jax.random.key(0))
  rows = 3.0 + real.rows[0] * jnp.array([[1.0, 0.1, 10.0]])
  a, b = task.summary.of(problem, rows[:5], None), task.summary.of(problem, rows[5:], None)
  pooled = task.summary.of(problem, rows, None)
  for both in (task.summary.add(problem, a, 1.0, b, 1.0), task.summary.add(problem, b, 1.0, a, 1.0)):
    covariance = lambda s: jnp.exp(2 * s.log_scale) * s.factor @ s.factor.T
    np.testing.assert_allclose(covariance(both), covariance(pooled), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(both.mean, pooled.mean, rtol=1e-5)
    np.testing.assert_allclose(both.log_det, pooled.log_det, rtol=1e-4)
  alone = task.summary.add(problem, a, 1.0, b, 0.0)
  np.testing.assert_allclose(alone.mean, a.mean, rtol=1e-6)
  np.testing.assert_allclose(alone.log_det, a.log_det, rtol=1e-4)


def test_extend_equals_add():
  """The multiplicative update of a pool is the pooled covariance, full rank or not."""
  for dim, n in ((3, 20), (6, 4)):
    task = tasks.gaussian(dim, n)
    problem, real = task.init(jax.random.key(0))
    total = jax.tree.map(lambda x: x[0], real.summary)
    context = Context(1, n, real._replace(summary=total), real)
    new, _ = task.sample(jax.random.key(1), problem, task.fit(jax.random.key(2), problem, context), context)
    fast = task.summary.extend(problem, total, new)
    slow = task.summary.add(problem, total, 1.0, jax.tree.map(lambda x: x[0], new.summary), 1.0)
    covariance = lambda s: jnp.exp(2 * s.log_scale) * s.factor @ s.factor.T
    np.testing.assert_allclose(covariance(fast), covariance(slow), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fast.mean, slow.mean, atol=1e-5)
    np.testing.assert_allclose(fast.log_det, slow.log_det, rtol=1e-3)
    assert fast.rank == slow.rank == min(dim, n - 1)


def test_a_billion_rows_match_theory():
  n = 1e9
  out = simulate("accumulate", 2000, T, 2, n)
  right = theory.gaussian_moments("accumulate", int(n), T)
  assert np.abs(z_score(out["squared_error_of_mean"], 2 * right.mean_error)).max() < 5
  deviation = (out["covariance_trace_ratio"].astype(np.float64) - 1) * np.sqrt(n)  # of order one: float32 resolves it
  assert 0.5 < deviation[:, -1].std() < 3


def test_chi_square_law():
  from scipy import stats
  for freedom in (1.0, 2.0, 3.0, 99.0, 1e9):
    draw = lambda key, f=freedom: random.chi_square(key, jnp.full(50, f))
    x = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 1000)), np.float64).ravel()
    assert stats.kstest(x, stats.chi2(freedom).cdf).pvalue > 1e-4
    assert stats.kstest(x, stats.chi2(freedom * (1 + 6 / np.sqrt(freedom * 5e4)) + 0.05).cdf).pvalue < 1e-4 or freedom > 3


@pytest.mark.parametrize("freedom", [1.0, 2.0, 7.5, 1e3, 1e6, 1e9, 1e12, 1e13])
def test_chi_square_excess_does_not_cancel(freedom):
  """Against the same variates in float64, and in law; the variate over its mean, less one, is the wrong twin."""
  from scipy import stats
  key = jax.random.key(2)
  draw = lambda dtype: [np.asarray(x, np.float64) for x in jax.jit(random.chi_squares)(key, jnp.full(50_000, freedom, dtype))]
  value, excess = draw(np.float32)
  with jax.enable_x64(True):
    exact_value, exact = draw(np.float64)
  same = np.isclose(value, exact_value, rtol=1e-4)  # but for a few that a rounding error rejects
  assert same.mean() > 0.999
  np.testing.assert_allclose(value[same], exact_value[same], rtol=2e-5)
  np.testing.assert_allclose(excess[same], exact[same], rtol=3e-6, atol=1e-6 * np.sqrt(2 / freedom))
  if freedom >= 1e9:
    cubic = lambda z: z + np.sqrt(8 / freedom) / 6 * (z ** 2 - 1)  # Cornish and Fisher
    law = lambda x: stats.norm.cdf(2 * x / np.sqrt(2 / freedom) - cubic(x / np.sqrt(2 / freedom)))
    assert stats.kstest(excess, law).pvalue > 1e-3
    assert freedom < 1e13 or stats.kstest(np.float32(value) / np.float32(freedom) - 1, law).pvalue < 1e-4


@pytest.mark.parametrize(("arguments", "part"), [
    ((0, 10), "dim must be an integer of at least 1"), ((2, 1), "num_samples must be at least 2"),
    ((2, 10, 0.0), "noise_var must be above 0"), ((2, 10, float("nan")), "noise_var")])
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
