"""What samplers do to a Gaussian: a published table, exact constants, and loops that are run step by step in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import outcome, run, z_score
from scipy import stats

import collapse_jax as cj
from collapse_jax import tasks, theory
from collapse_jax.refused import Refused
from collapse_jax.tasks._paths import integrate, path_of

VARIANCES = np.array([0.01, 0.25, 1, 4])
TABLE = {  # g(s) / s at these variances, to the digits shown
  ("flow_euler", 20): (0.634, 0.862, 0.879, 0.862),
  ("flow_euler", 100): (0.914, 0.971, 0.975, 0.971),
  ("flow_midpoint", 10): (0.975, 0.9995, 0.9997, 0.9996),
  ("flow_heun", 10): (1.172, 1.007, 0.9987, 0.988),
  ("flow_rk4", 10): (0.988, 1.000, 1.000, 1.000),
  ("edm_heun", 18): (1.188, 1.114, 1.091, 1.073),
  ("edm_heun", 40): (1.031, 1.020, 1.016, 1.012),
  ("edm_euler", 18): (0.657, 0.716, 0.739, 0.760),
  ("ddpm_beta", 1000): (1.015, 1.003, 0.9999, 0.998),
  ("ddpm_posterior", 1000): (0.928, 0.984, 0.991, 0.994),
  ("ddpm_beta", 50): (1.434, 1.065, 0.998, 0.951),
  ("ddpm_posterior", 50): (0.494, 0.786, 0.854, 0.884),
  ("ddim", 1000): (0.967, 0.994, 0.996, 0.997),
  ("ddim", 100): (0.780, 0.944, 0.964, 0.970),
  ("ddim", 10): (0.118, 0.523, 0.664, 0.715),
}


@pytest.mark.parametrize(("name", "num_steps"), TABLE)
def test_table(name, num_steps):
  found = theory.variance_factor(name, num_steps=num_steps, variance=VARIANCES)
  np.testing.assert_allclose(found, TABLE[name, num_steps], atol=6e-4)
  assert theory.variance_factor(name, num_steps=num_steps, variance=0.25) == pytest.approx(found[1], rel=1e-12)


def test_exact_constants():
  for s in (0.1, 1.0, 7.0):
    slope = [-n * np.log(theory.variance_factor("flow_euler", num_steps=n, variance=s)) for n in (2000, 4000)]
    assert 2 * slope[1] - slope[0] == pytest.approx(theory.flow_euler_constant(s), rel=1e-5)
    assert theory.flow_euler_constant(s) == pytest.approx(theory.flow_euler_constant(1 / s))
  assert theory.flow_euler_constant(1.0) == pytest.approx(1 + np.pi / 2)
  for num_steps in (50, 1000):  # all noise but that of the last step
    assert theory.variance_factor("ddpm_beta", num_steps=num_steps) == pytest.approx(1 - 0.1 / num_steps, rel=1e-12)
  tiny = 1e-9  # far below 1 / N^2 the map squares: g = (N - 1)^2 s^2
  assert theory.variance_factor("flow_euler", num_steps=50, variance=tiny) == pytest.approx(49**2 * tiny, rel=1e-3)
  for name, order in (("flow_midpoint", 3), ("flow_heun", 2), ("flow_rk4", 4)):
    error = [abs(np.log(theory.variance_factor(name, num_steps=n, variance=0.3))) for n in (40, 80)]
    assert np.log2(error[0] / error[1]) == pytest.approx(order, abs=0.3)
  fine = theory.variance_factor("edm_heun", num_steps=2000, variance=0.25)
  assert fine == pytest.approx(6400 / 6400.25, abs=2e-5)
  assert theory.mean_factor("edm_heun", num_steps=2000, variance=0.25) == pytest.approx(
    1 - np.sqrt(0.25 / 6400.25), abs=1e-5
  )
  loop = theory.sampler_loop("flow_euler", num_steps=50, variance=1.0, num_generations=77)
  np.testing.assert_allclose(loop[[0, 4, 9, 19]], [0.950, 0.773, 0.596, 0.348], atol=6e-4)
  assert loop[70] > 1 / 50**2 > loop[71] and loop[76] < 1e-12


# ------------------------------------------------------------------------------------- twins that only know the score
def flow(kind, num_steps, rows, mean, s):
  """Velocity of the linear path from N(0, 1) to N(mean, s): E[x1 - x0 | x_t], by the joint law of the three."""

  def velocity(x, t):
    spread = (1 - t) ** 2 + t**2 * s
    return mean + (t * s - (1 - t)) / spread * (x - t * mean)

  h = 1 / num_steps
  for k in range(num_steps):
    t = k * h
    v = velocity(rows, t)
    if kind == "midpoint":
      v = velocity(rows + h / 2 * v, t + h / 2)
    elif kind == "heun":
      v = (v + velocity(rows + h * v, t + h)) / 2
    elif kind == "rk4":
      v2 = velocity(rows + h / 2 * v, t + h / 2)
      v3 = velocity(rows + h / 2 * v2, t + h / 2)
      v = (v + 2 * v2 + 2 * v3 + velocity(rows + h * v3, t + h)) / 6
    rows = rows + h * v
  return rows


def ddpm(kind, num_steps, rows, mean, s, random):
  """By the predicted noise, as the paper's algorithm has it (Ho et al. 2006.11239)."""
  betas = np.linspace(1e-4, 0.02, num_steps) * 1000 / num_steps
  alphas = np.cumprod(1 - betas)
  for i in range(num_steps - 1, -1, -1):
    score = -(rows - np.sqrt(alphas[i]) * mean) / (alphas[i] * s + 1 - alphas[i])
    rows = (rows + betas[i] * score) / np.sqrt(1 - betas[i])
    if i > 0:
      spread = betas[i] if kind == "beta" else betas[i] * (1 - alphas[i - 1]) / (1 - alphas[i])
      rows = rows + np.sqrt(spread) * random.normal(size=rows.shape)
  return rows


def ddim(num_steps, rows, mean, s):
  alphas = np.append(1.0, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
  times = [0, *np.round(np.linspace(1, 1000, num_steps)).astype(int)]
  for now, later in itertools.pairwise(reversed(times)):
    a, b = alphas[now], alphas[later]
    noise = np.sqrt(1 - a) * (rows - np.sqrt(a) * mean) / (a * s + 1 - a)
    rows = np.sqrt(b) * (rows - np.sqrt(1 - a) * noise) / np.sqrt(a) + np.sqrt(1 - b) * noise
  return rows


def edm(kind, num_steps, rows, mean, s):
  i = np.arange(num_steps)
  sigma = np.append((80 ** (1 / 7) + i / (num_steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, 0.0)
  denoised = lambda x, noise: mean + s / (s + noise**2) * (x - mean)
  for now, later in itertools.pairwise(sigma):
    slope = (rows - denoised(rows, now)) / now
    moved = rows + (later - now) * slope
    if kind == "heun" and later > 0:
      moved = rows + (later - now) / 2 * (slope + (moved - denoised(moved, later)) / later)
    rows = moved
  return rows


@pytest.mark.parametrize(
  ("name", "num_steps"),
  [(name, 12) for name in theory.SAMPLERS if not name.startswith("ddpm")] + [("ddpm_beta", 50), ("ddpm_posterior", 50)],
)
def test_loops(name, num_steps):
  """Rows are drawn, moved step by step, and another generation is fitted to them; deterministic ones agree to rounding."""
  family, _, kind = name.partition("_")
  random = np.random.default_rng(0)
  mean, s = 3.0, 0.25
  means, variances = [], []
  for _ in range(3):
    rows = random.normal(size=20_000)
    rows = (rows - rows.mean()) / rows.std() * (80 if family == "edm" else 1)
    if family == "ddpm":
      rows = ddpm(kind, num_steps, rows, mean, s, random)
    else:
      rows = {"flow": flow, "ddim": lambda kind, *rest: ddim(*rest), "edm": edm}[family](kind, num_steps, rows, mean, s)
    factor = theory.variance_factor(name, num_steps=num_steps, variance=s)
    expected = theory.mean_factor(name, num_steps=num_steps, variance=s) * mean, factor * s
    loose = 5 * np.sqrt(2 / len(rows)) if family == "ddpm" else 1e-9
    assert rows.mean() == pytest.approx(expected[0], rel=loose) and rows.var() == pytest.approx(expected[1], rel=loose)
    mean, s = expected
    means.append(mean)
    variances.append(s)
  np.testing.assert_allclose(
    variances, theory.sampler_loop(name, num_steps=num_steps, variance=0.25, num_generations=3)
  )


def test_finite_data():
  """A loop of fits to n rows; the twin with g(s) = s is far off."""
  random, n, num_steps, seeds = np.random.default_rng(1), 100, 20, 20_000
  at, logs = np.ones(seeds), []
  for t in range(5):
    emitted = at if t == 0 else at * theory.variance_factor("flow_euler", num_steps=num_steps, variance=at)
    at = emitted * random.chisquare(n - 1, seeds) / n
    logs.append(np.log(at))
  expected = theory.sampler_log_variance(
    "flow_euler", num_steps=num_steps, variance=1.0, num_samples=n, num_generations=5
  )
  np.testing.assert_allclose(expected[[1, 4]], [-0.169, -0.619], atol=6e-4)
  drift = 0.01 * np.arange(1, 6) ** 2 / 25  # what the first order leaves out grows with the variance of the logs
  assert (np.abs(np.mean(logs, axis=1) - expected) < 5 * np.std(logs, axis=1) / np.sqrt(seeds) + drift).all()
  assert np.abs(z_score(np.array(logs).T, theory.gaussian_replace_log_variance(n, 5)))[1:].min() > 5


@pytest.mark.parametrize(
  ("name", "num_steps"), [(name, {"ddpm": 50, "edm": 18}.get(name.split("_")[0], 10)) for name in theory.SAMPLERS]
)
def test_the_task_integrates(name, num_steps):
  """Rows that `tasks.flow` emits, by float32 and JAX; where the sampler is biased, those that it should emit are far off."""
  num, s, mean = 50_000, jnp.array([0.05, 0.25, 4.0]), jnp.array([0.0, 1.0, -2.0])
  field = functools.partial(path_of(name, num_steps).linear, mean[None], s[None])
  rows = jax.jit(lambda key: integrate(key, field, num, 3, name, num_steps))(jax.random.key(0))
  log_factor = np.log(theory.variance_factor(name, num_steps=num_steps, variance=np.asarray(s)))
  spread = np.sqrt(2 / num)
  found = np.log(np.var(np.asarray(rows, np.float64), axis=0) / np.asarray(s))
  assert (np.abs(found - log_factor) < 5 * spread).all()
  if np.abs(log_factor).max() > 10 * spread:
    assert np.abs(found).max() > 5 * spread
  shift = (rows.mean(axis=0) - theory.mean_factor(name, num_steps=num_steps, variance=np.asarray(s)) * mean) / np.sqrt(
    s
  )
  assert (np.abs(shift) < 5 * np.exp(0.5 * log_factor.max()) / np.sqrt(num) + 1e-3).all()


@pytest.mark.parametrize("workflow", ["replace", "mix(0.5)"])
def test_a_loop_of_scores(workflow):
  """`tasks.flow` in a loop beside what it predicts, of which first order is all: at 2,000 rows it is enough, and a fair sampler is not."""
  num, seeds, flow = 2000, 64, cj.workflows.parse(workflow)()
  task = tasks.flow([0.25, 1.0], num, solver="flow_euler", num_steps=20)
  simulate = jax.jit(jax.vmap(lambda key: cj.run(key, task, flow, 4)))
  found = np.asarray(simulate(jax.random.split(jax.random.key(1), seeds))["covariance_trace_ratio"])
  expected = task.predict(flow.schedule(num, 4))["covariance_trace_ratio"].mean
  assert np.abs(z_score(found, expected)).max() < 5
  assert np.abs(z_score(found, theory.schedule_moments(flow.schedule(num, 4)).trace_ratio))[1:].min() > 5


def test_binary():
  """What would run, and what is refused before anything does."""
  said = run("-m", "experiments.samplers", "--dry_run", "--samplers=ddim(5),edm_heun(4)", "--num_samples=50").stdout
  assert "cells: 6\n" in said  # two samplers, three workflows
  for samplers, message in (
    ("ddim", "names with a number of steps"),
    ("ddpm_beta(5)", "at least 21"),
    ("dim(5)", "one of"),
  ):
    assert message in outcome("samplers", ["--dry_run", f"--samplers={samplers}"])


# ------------------------------------------------------------------------------------- empirical scores and budgets
def test_early_stopping():
  random = np.random.default_rng(2)
  for how in ({"noise_var": 0.04}, {"time": 0.3}):
    limit = theory.early_stopping(0.5, **how, real_fraction=0.3, mean=2.0)
    path = theory.early_stopping(0.5, **how, real_fraction=0.3, mean=2.0, num_generations=200)
    assert (path.mean[-1], path.variance[-1]) == (pytest.approx(limit.mean), pytest.approx(limit.variance))
    rows = real = 2 + np.sqrt(0.5) * random.normal(size=(4, 30_000))
    moments = []
    for t in range(4):
      mixed = rows if t == 0 else np.where(random.random(rows.shape) < 0.3, real, rows)
      shrink = np.exp(-how.get("time", 0.0))
      rows = shrink * mixed + np.sqrt(how.get("noise_var", 1 - shrink**2)) * random.normal(size=rows.shape)
      rows = np.take_along_axis(rows, random.permuted(np.tile(np.arange(30_000), (4, 1)), axis=1), axis=1)
      moments.append((rows.mean(axis=1), rows.var(axis=1)))
    for found, expected in zip(np.array(moments).transpose(1, 0, 2), (path.mean[:4], path.variance[:4])):
      assert (np.abs(found.mean(axis=1) - expected) < 5 * np.sqrt(2 / 120_000) * 2).all()
  assert theory.early_stopping(1.0, noise_var=0.04, real_fraction=0.3).variance == pytest.approx(1 + 0.04 / 0.3)
  np.testing.assert_allclose(
    theory.early_stopping(1.0, noise_var=0.04, num_generations=3).variance, 1 + 0.04 * np.arange(1, 4)
  )
  assert theory.early_stopping(1.0, noise_var=0.04).variance == np.inf
  assert theory.early_stopping(0.2, time=0.1).variance == pytest.approx(1.0)
  assert theory.early_stopping(0.2, time=0.0, mean=3.0) == (3.0, 0.2)


def test_early_stopping_mixture():
  """Of rows that are -1 or 1 the limit is a mixture of ever smoother copies; one Gaussian of its variance about each is not."""
  random, h, a, num = np.random.default_rng(6), 0.2, 0.3, 40_000
  real = lambda: random.choice([-1.0, 1.0], num)
  rows = real()
  for _ in range(60):
    rows = random.permutation(np.where(random.random(num) < a, real(), rows) + h * random.normal(size=num))
  law = theory.early_stopping_mixture(h**2, a, 80)
  cdf = lambda x, share, var: (
    0.5
    * sum(w * (stats.norm.cdf((x - 1) / np.sqrt(v)) + stats.norm.cdf((x + 1) / np.sqrt(v))) for w, v in zip(share, var))
  )
  sample = rows[:4000]  # rows of one loop share ancestors: fewer of them are nearly independent
  assert stats.kstest(sample, lambda x: cdf(x, *law)).pvalue > 1e-4
  assert stats.kstest(rows, lambda x: cdf(x, [1.0], [h**2 / a])).pvalue < 1e-6
  assert 1 + law.share @ law.noise_var == pytest.approx(
    theory.early_stopping(1.0, noise_var=h**2, real_fraction=a).variance
  )


def test_memorising():
  random, n, seeds = np.random.default_rng(3), 200, 1000
  rows, left = np.tile(np.arange(n), (seeds, 1)), []
  for _ in range(5):
    rows = np.take_along_axis(rows, random.integers(0, n, rows.shape), axis=1)
    ordered = np.sort(rows, axis=1)
    left.append(1 + np.sum(np.diff(ordered, axis=1) > 0, axis=1))
  expected = theory.distinct_rows(n, 50)
  np.testing.assert_allclose(expected[[0, 1, 4, 9, 49]], [126.4, 93.7, 53.6, 31.6, 7.5], atol=0.06)
  assert (np.abs(np.mean(left, axis=1) - expected[:5]) < 0.01 * n).all()  # first order in 1 / n
  assert np.abs(np.mean(left, axis=1)[1:] - expected[:4]).min() > 0.04 * n


def test_budget():
  random, n, rate, seeds = np.random.default_rng(4), 20, 0.3, 100_000
  mean, variance = np.zeros(seeds), np.ones(seeds)
  for t in range(5):
    emitted_mean, emitted = (
      mean + np.sqrt(variance / n) * random.normal(size=seeds),
      variance * random.chisquare(n - 1, seeds) / n,
    )
    share = 1.0 if t == 0 else rate
    mean, variance = mean + share * (emitted_mean - mean), variance + share * (emitted - variance)
  found = theory.partial_fit(n, rate, 30)
  assert abs(z_score(variance, found.variance[4])) < 5 and abs(z_score(mean**2, found.mean_error[4])) < 5
  assert abs(z_score(variance, theory.partial_fit(n, 1.0, 30).variance[4])) > 5
  assert (found.variance[-1], found.mean_error[-1]) == (pytest.approx(0.613, abs=6e-4), pytest.approx(0.151, abs=6e-4))
  theta, m, a = np.zeros(seeds), 47, 0.3
  for _ in range(40):  # real rows stay, whose mean is 0
    theta += rate * ((1 - a) * (theta + random.normal(size=seeds) / np.sqrt(m)) - theta)
  assert abs(z_score(theta**2, theory.partial_fit_mix(m, rate, a))) < 5
  assert abs(z_score(theta**2, theory.partial_fit_mix(m, 1.0, a))) > 5
  assert theory.partial_fit_rate([0.1, 0.2], 2.0) == pytest.approx(1 - 0.8 * 0.6)
  assert theory.partial_fit_rate(np.full(50, 0.1), [1.0, 0.0]) == pytest.approx([1 - 0.9**50, 0])


def test_negative_extrapolation():
  """Guidance by exact scores along the ODE of variance exploding, integrated finely; as if of precisions it is wrong."""
  s, l, w = 0.7, 0.8, 0.5
  noise = np.geomspace(1e-8, 1e8, 200_001)
  rate = lambda v: (1 + w) / (s + v) - w / (l * s + v)  # d log x^2 / d v of x' = -score / 2
  logs = np.log(noise)
  change = np.sum(0.5 * (rate(noise) * noise)[1:] * np.diff(logs) + 0.5 * (rate(noise) * noise)[:-1] * np.diff(logs))
  emitted = np.exp(np.log(noise[-1]) - change)
  assert emitted / s == pytest.approx(theory.negative_extrapolation(l, w), rel=1e-4)
  assert theory.negative_extrapolation(l, w) == pytest.approx(1.1180, abs=1e-4)
  assert emitted / s != pytest.approx(1 / (1 + w - w / l), rel=0.01)
  for parameter in ("log_variance", "variance"):
    best = theory.negative_weight(0.9, l, parameter)
    assert 0.9 * theory.negative_extrapolation(l, best, parameter) == pytest.approx(1)
  assert theory.negative_weight(l, l) == pytest.approx(1) and theory.negative_weight(l, l, "variance") == pytest.approx(
    1 / l
  )


def test_refused():
  for call, message in (
    (lambda: theory.variance_factor("flow_eulr", num_steps=3), "name must be one of flow_euler"),
    (lambda: theory.variance_factor("ddim", num_steps=0), "num_steps must be at least 1"),
    (lambda: theory.variance_factor("ddim", num_steps=1001), "num_steps must be at most 1000"),
    (lambda: theory.variance_factor("ddpm_beta", num_steps=5), "at least 21 for ddpm"),
    (lambda: theory.variance_factor("edm_heun", num_steps=1), "at least 2 for edm"),
    (lambda: theory.variance_factor("ddim", num_steps=5, variance=0), "variance must be above 0"),
    (lambda: theory.early_stopping(1.0), "one of noise_var and time"),
    (lambda: theory.partial_fit(10, 1.5, 3), "rate must be"),
    (lambda: tasks.flow([1.0], 5, solver="euler"), "name must be one of"),
    (lambda: tasks.flow([1.0], 5, num_steps=0), "num_steps must be an integer of at least 1"),
    (lambda: tasks.flow([0.0], 5), "variances must be numbers above 0"),
    (lambda: tasks.flow([1.0], 5, mean=[1.0, 2.0]), "mean must be 1 numbers"),
  ):
    with pytest.raises(Refused, match=message):
      call()


# ------------------------------------------------------------------------------------- autoencoders
def test_linear_vae():
  variances, num_generations = [3.0, 1.0, 0.35, 0.05], 6
  t = np.arange(1, num_generations + 1)
  tables = {
    "replace": np.eye(num_generations),
    "accumulate": np.tril(np.ones((num_generations, num_generations))) / t[:, None],
  }
  lost = {"replace": 0.1 * t, "accumulate": 0.1 * np.cumsum(1 / t)}
  for name, table in tables.items():
    found = theory.linear_vae(variances, 0.1, 3, table)
    expected = np.maximum(np.array(variances)[None, :3] - lost[name][:, None], 0)
    np.testing.assert_allclose(found[:, :3], expected, atol=1e-12)
    assert (found[:, 3] == 0).all()
    noisy = theory.linear_vae(variances, 0.1, 3, table, emit="noise")
    np.testing.assert_allclose(noisy[:, :3], np.broadcast_to(np.array(variances)[None, :3] - 0.1, (6, 3)))
  assert theory.linear_vae(variances, 0.1, 1, np.eye(1), beta=2.0).tolist() == [[2.8, 0, 0, 0]]
  mixed = np.zeros((400, 400))
  mixed[:, 0], mixed[0, 0] = 0.4, 1.0
  mixed[np.arange(1, 400), np.arange(1, 400)] = 0.6
  np.testing.assert_allclose(
    theory.linear_vae(variances, 0.1, 4, mixed)[-1], theory.linear_vae_mix_limit(variances, 0.1, 0.4), atol=1e-9
  )
  assert theory.linear_vae_extinction(0.35, 0.1) == 4 and theory.linear_vae_extinction(0.05, 0.1, "accumulate") == 1
  for ratio in (3.0, 14.0):
    assert theory.linear_vae_extinction(ratio, 1.0, "accumulate") == pytest.approx(
      np.exp(ratio - np.euler_gamma), rel=0.05
    )
  assert theory.linear_vae_extinction(15.01, 1.0, "accumulate") / theory.linear_vae_extinction(
    15.0, 1.0, "accumulate"
  ) == pytest.approx(np.exp(0.01), rel=1e-4)


def test_ppca():
  """The published drift, and what it is made of."""
  found = theory.ppca_replace([8, 4] + [1] * 8, 2, 200, 10)
  np.testing.assert_allclose(found.leading[-1], [8.39, 3.90], atol=6e-3)
  np.testing.assert_allclose([found.noise[-1], found.trace[-1]], [0.841, 19.02], atol=6e-3)
  np.testing.assert_allclose(found.leading[0], [8.046, 3.993], atol=6e-4)
  np.testing.assert_allclose(found.leading.sum(axis=1) + 8 * found.noise, found.trace)
  assert theory.ppca_divergence([5, 4, 2, 1], 2) == pytest.approx(0.5 * (2 * np.log(1.5) - np.log(2)))
  for call in (
    lambda: theory.ppca_replace([2, 1], 2, 10, 3),
    lambda: theory.linear_vae([2, 1], 0.1, 3, np.eye(2)),
    lambda: theory.linear_vae([2, 1], 0.1, 1, np.eye(2), emit="means"),
    lambda: theory.linear_vae([[2, 1]], 0.1, 1, np.eye(2)),
  ):
    with pytest.raises(Refused):
      call()
