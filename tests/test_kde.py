"""Kernel density estimation: densities against exact sums and scikit-learn, loops against their variance law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

import collapse_jax as cj
from collapse_jax import tasks, theory, workflows
from collapse_jax.data import generators
from collapse_jax.tasks import _kde
from collapse_jax.tasks._kde import kernel_noise, kernel_variance, log_kernel_sum, log_kernel_volume, rule_bandwidth

NORMAL = generators.Dataset(
  "normal",
  1,
  lambda key: None,
  lambda key, truth, n, m: tuple(jax.random.normal(k, (s, 1)) for k, s in zip(jax.random.split(key), (n, m))),
  lambda key, truth, n: jax.random.normal(key, (n, 1)),
)


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("kernel", ["gaussian", "tophat"])
def test_log_density_has_float32_precision(dim, kernel):
  rng = np.random.default_rng(0)
  rows, points = (rng.normal(size=(n, dim)).astype(np.float32) for n in (303, 50))
  for width in (0.05, 0.5, 5.0, 50.0):
    log_norm = np.log(303) + log_kernel_volume(kernel, dim) + dim * np.log(width)
    ours = np.asarray(log_kernel_sum(jnp.asarray(points), jnp.asarray(rows), None, width, kernel)) - log_norm
    # One leaf: with its default tree scikit-learn loses the far tail (60% of the log density at h = 0.05, dim = 3).
    theirs = KernelDensity(bandwidth=width, kernel=kernel, leaf_size=1000).fit(rows).score_samples(points)
    covered = np.isfinite(theirs) & (theirs > -1e300)
    np.testing.assert_array_equal(np.isfinite(ours), covered)
    np.testing.assert_allclose(ours[covered], theirs[covered], rtol=1e-5, atol=1e-5)
    if kernel == "gaussian":
      squared = ((points[:, None].astype(np.float64) - rows[None]) ** 2).sum(-1)
      np.testing.assert_allclose(ours, logsumexp(-0.5 * squared / width**2, axis=1) - log_norm, rtol=1e-5, atol=1e-5)


BANDWIDTHS = np.asarray([0.01, 0.0316, 0.1, 0.316, 1.0, 3.16, 10.0, 31.6, 100.0], np.float32)


def test_sums_are_interpolated_where_that_is_right(monkeypatch):
  """At the paper's bandwidths, of rows smoothed twice, against direct sums in float64; each run by its own bound."""
  names, rows, points = ("moons", "circles", "blobs"), [], []
  for name in names:
    source = generators.get(name, 40)
    train, test = source.split(jax.random.key(1), source.init(jax.random.key(0)), 256, 40)
    noise = np.random.default_rng(2).normal(size=(len(BANDWIDTHS), *train.shape)).astype(np.float32)
    rows.append(np.asarray(train)[None] + 1.5 * BANDWIDTHS[:, None, None] * noise)
    points.append(np.broadcast_to(test, (len(BANDWIDTHS), *test.shape)))
  rows, points, width = np.concatenate(rows), np.concatenate(points), np.tile(BANDWIDTHS, len(names))
  squared = ((points[:, :, None].astype(np.float64) - rows[:, None]) ** 2).sum(-1)
  right = logsumexp(-0.5 * squared / width[:, None, None].astype(np.float64) ** 2, axis=2)

  def worst():
    """Of each run; NaN where it was left to direct sums."""
    plain = _kde._direct
    monkeypatch.setattr(_kde, "_direct", lambda *arguments: jnp.nan * plain(*arguments))
    jax.clear_caches()
    found = jax.vmap(lambda *arguments: log_kernel_sum(*arguments[:2], None, arguments[2]))(points, rows, width)
    monkeypatch.setattr(_kde, "_direct", plain)
    jax.clear_caches()
    return np.abs(found - right).max(axis=1)

  error = worst().reshape(len(names), -1)
  directly = np.isnan(error)
  assert error[~directly].max() < 1e-5
  # From six bandwidths along the box on: the wide ones, whatever stands beside them.
  assert (~directly).sum(axis=1).tolist() == [5, 5, 4]
  assert not directly[:, -2:].any() and directly[:, :2].all()
  monkeypatch.setattr(_kde, "_ERROR", np.inf)  # a bound that bounds nothing
  assert np.nanmax(worst()) > 1e-3


def test_direct_sums_are_right_near_and_far(monkeypatch):
  """To float32's spacing of the log density: rows about the points, all far away but one, in tight clusters, and repeated; of the same
  runs together, of which some need no nearest rows."""
  rng = np.random.default_rng(5)
  n, m = 300, 40
  direct = jax.jit(_kde._direct)
  for dim in (1, 2, 3):
    spread, points = rng.normal(size=(n, dim)), rng.normal(size=(m, dim)).astype(np.float32)
    points[-3:] += 40  # which are looked after alone, where the others have rows near enough
    lost = spread + 300
    lost[7] = points[3]
    clusters = 0.01 * spread + rng.normal(size=(3, dim))[np.arange(n) % 3]
    rows = np.stack([spread, lost, clusters, np.repeat(spread[:10], 30, axis=0), spread + 3000]).astype(np.float32)
    weight = rng.integers(0, 2, (len(rows), n)).astype(np.float32)
    weight[:, 7] = 1
    squared = ((points[None, :, None].astype(np.float64) - rows[:, None]) ** 2).sum(-1)
    for width in np.float32([0.02, 0.3, 20.0]):
      each = lambda rows, w, points=points, width=width: direct(
        np.tile(points, (len(rows), 1, 1)), rows, w, np.tile(width, len(rows))
      )
      exponent = -0.5 * squared / np.float64(width) ** 2
      for w in (None, weight):
        put = rows if w is None else np.where(w[..., None] > 0, rows, np.float32(_kde._FAR))
        right = logsumexp(exponent, axis=2, b=None if w is None else w[:, None].astype(np.float64))
        np.testing.assert_allclose(each(put, w), right, rtol=4e-7, atol=3e-6)
        alone = [each(put[i : i + 1], None if w is None else w[i : i + 1])[0] for i in range(len(rows))]
        np.testing.assert_allclose(each(put, w), alone, rtol=2e-7, atol=2e-6)
  monkeypatch.setattr(_kde, "_POWERS", _kde._POWERS[:-2])  # 2^x to 7e-5 and no better
  again = jax.jit(lambda *arguments: _kde._direct(*arguments))  # traced anew
  found = again(points[None], rows[:1], None, np.ones(1, np.float32))
  assert np.abs(found - logsumexp(-0.5 * squared[:1], axis=2)).max() > 1e-5


def test_powers_of_two():
  x = -np.concatenate([np.linspace(0, 126, 20_000), np.arange(127)]).astype(np.float32)
  found = np.asarray(jax.jit(_kde._exp2)(x), np.float64)
  assert np.abs(found / 2.0 ** x.astype(np.float64) - 1).max() < 2.5e-7
  assert _kde._exp2(jnp.float32(0)) == 1 and 0 < _kde._exp2(jnp.float32(-1e30)) < 1.2e-38
  assert np.isnan(_kde._exp2(jnp.float32(np.nan)))


@pytest.mark.slow  # as programs are compiled for users, with what compilers fuse
@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_log_density_far_from_all_rows(dim):
  """Up to 1e6 bandwidths away, where the exponent is a difference of numbers of 1e12."""
  rng = np.random.default_rng(3)
  rows = rng.normal(size=(37, dim)).astype(np.float32)
  for width in (0.01, 1.0):
    for away in (0.0, 1e2, 1e4, 5e4, 1e6):
      points = (rng.normal(size=(8, dim)) * 0.3 + away * width).astype(np.float32)
      squared = ((points[:, None].astype(np.float64) - rows[None]) ** 2).sum(-1)
      right = logsumexp(-0.5 * squared / np.float64(np.float32(width)) ** 2, axis=1)
      found = jax.jit(log_kernel_sum)(jnp.asarray(points), jnp.asarray(rows), None, width)
      np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-5)


def test_totals_of_long_runs_do_not_drift():
  """What `accumulate` carries for 10,000 generations, against sums in float64. What is left is below a hundredth of the spread over
  runs of what is measured, hence below 0.1 of the standard error of 1e2 runs; its mean over points is a tenth of that."""
  T, n = 10_000, 10
  task = tasks.kde(NORMAL, n, 0.5, num_test=200)
  problem, _ = task.init(jax.random.key(0))

  def of(t):
    return task.summary.of(problem, jax.random.normal(jax.random.fold_in(jax.random.key(1), t), (n, 1)), None)

  @jax.jit
  def carried():
    step = lambda total, t: (task.summary.add(problem, total, 1.0, of(t), 1.0), of(t))
    return jax.lax.scan(step, of(0), jnp.arange(1, T))

  total, each = carried()
  each = jax.tree.map(
    lambda x, first: np.concatenate([np.asarray(first, np.float64)[None], np.asarray(x, np.float64)]), each, of(0)
  )
  error = np.asarray(total.log_kernel_sum, np.float64) - logsumexp(each.log_kernel_sum, axis=0)
  assert np.abs(error).max() < 5e-5 and abs(error.mean()) < 5e-6  # test_nll has a standard deviation of 0.05 over runs
  count = T * n
  assert float(total.count) == count
  mean = each.mean.mean(axis=0)
  scatter = each.scatter.sum() + n * ((each.mean - mean) ** 2).sum()
  np.testing.assert_allclose(total.mean, mean, atol=1e-6)
  np.testing.assert_allclose(total.scatter, scatter, rtol=1e-5)


def test_row_weights_are_repetitions():
  rng = np.random.default_rng(1)
  for dim in (2, 5):
    rows, points = (jnp.asarray(rng.normal(size=(n, dim)), jnp.float32) for n in (20, 7))
    weight = jnp.asarray(rng.integers(0, 3, 20), jnp.float32)
    repeated = jnp.repeat(rows, np.asarray(weight).astype(int), axis=0)
    for kernel in ("gaussian", "tophat"):
      np.testing.assert_allclose(
        log_kernel_sum(points, rows, weight, 1.5, kernel),
        log_kernel_sum(points, repeated, None, 1.5, kernel),
        rtol=1e-5,
        atol=1e-5,
      )


def test_rules_are_scikit_learns():
  for n, dim in ((10, 2), (1000, 3), (50, 13)):
    rows = np.random.default_rng(0).normal(size=(n, dim)) * 7
    for rule in ("scott", "silverman"):
      assert rule_bandwidth(rule, n, 7.0, dim) == pytest.approx(KernelDensity(bandwidth=rule).fit(rows).bandwidth_)
      assert rule_bandwidth(f"{rule}_scaled", n, 7.0, dim) == pytest.approx(7 * rule_bandwidth(rule, n, 7.0, dim))


def test_kernel_noise_has_the_kernels_variance():
  for kernel in ("gaussian", "tophat"):
    noise = np.asarray(kernel_noise(jax.random.key(0), kernel, 100_000, 2))[:, 0]
    assert abs(z_score(noise**2, kernel_variance(kernel, 2))) < 5
    assert abs(z_score(noise**2, 1.05 * kernel_variance(kernel, 2))) > 5


@pytest.mark.parametrize("bandwidth", [0.5, "scott"])
@pytest.mark.parametrize("name", ["replace", "accumulate", "accumulate_subsample"])
def test_variance_follows_theory(name, bandwidth):
  n, T = 20, 20
  task, workflow = tasks.kde(NORMAL, n, bandwidth, num_test=5), workflows.parse(name)()
  run = jax.jit(jax.vmap(lambda key: cj.run(key, task, workflow, T)))
  variance = np.asarray(run(jax.random.split(jax.random.key(0), 1500))["model_variance"])
  width = (lambda rows: theory.scott_bandwidth(rows, 1)) if bandwidth == "scott" else lambda rows: bandwidth
  expected = theory.schedule_kde_variance(workflow.schedule(n, T), lambda rows: float(width(rows)) ** 2)
  assert np.abs(z_score(variance, expected)).max() < 5
  assert np.abs(z_score(variance[:, 1:], expected[:-1])).max() > 5  # one generation off


@pytest.mark.parametrize("kernel", ["gaussian", "tophat"])
def test_running_density_equals_recomputation(kernel):
  """Under accumulate the carried log-sums are those of all rows so far."""
  T, n = 6, 20
  task, workflow = tasks.kde("moons", n, 0.5, kernel, num_test=50), workflows.accumulate()
  run = cj.start(jax.random.key(0), task, workflow, T)
  run, _ = cj.advance(task, workflow, run, range(1, T), num_generations=T)
  rows = run.store.rows.reshape(-1, 2)
  assert len(rows) == T * n
  np.testing.assert_allclose(
    run.store.summary.log_kernel_sum, log_kernel_sum(run.problem.points, rows, None, 0.5, kernel), rtol=1e-5, atol=1e-5
  )


def test_uncovered_test_rows_are_reported():
  out = cj.run(jax.random.key(0), tasks.kde("moons", 10, 0.05, "tophat"), workflows.replace(), 3)
  assert not np.asarray(out["finite"]).any()
  assert np.isinf(out["test_nll"]).all()
  assert 0 < out["covered_share"][0] < 1


def test_temperature_scales_the_noise():
  cold = tasks.kde(NORMAL, 50, 0.5, num_test=5, temperature=1e-6)
  out = jax.jit(jax.vmap(lambda key: cj.run(key, cold, workflows.replace(), 2)))(
    jax.random.split(jax.random.key(0), 5000)
  )
  expected = (1 - 1 / 50) ** np.array([1, 2]) + 0.25  # a bootstrap: no kernel variance joins the data
  assert np.abs(z_score(out["model_variance"], expected)).max() < 5


@pytest.mark.parametrize(
  ("arguments", "part"),
  [
    (("wine", 1000, 0.5), "at most 125"),
    (("moons", 1, 0.5), "at least 2"),
    (("moons", 10, 0.0), "above 0"),
    (("moons", 10, "best"), "scott"),
    (("moons", 10, 0.5, "cosine"), "kernel"),
    (("mars", 10, 0.5), "unknown data set"),
  ],
)
def test_bad_arguments(arguments, part):
  with pytest.raises(ValueError, match=part):
    tasks.kde(*arguments)


def test_a_model_that_writes_nothing():
  """mix(1.0) asks no rows of the model: every generation is the first. mix(0.8) has batches of 20 and of 5 rows."""
  task = tasks.kde(NORMAL, 20, 0.5)
  metrics = jax.jit(lambda key: cj.run(key, task, workflows.mix(1.0), 3))(jax.random.key(0))
  assert bool(metrics["finite"].all())
  np.testing.assert_allclose(metrics["test_nll"], metrics["test_nll"][0], rtol=1e-6)
  metrics = jax.jit(lambda key: cj.run(key, task, workflows.mix(0.8), 3))(jax.random.key(0))
  np.testing.assert_allclose(metrics["train_size"], [20, 25, 25])
