"""Distances of Gaussians to the truth, from widths of 1e-30 to 1e30 and to the truth but for 1e-6, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from scipy import special, stats

from collapse_jax import diagnostics, generation, tasks, theory, workflows
from collapse_jax.diagnostics import definitions
from collapse_jax.tasks import _gaussian_distances as distances


def by_quadrature(mean, log_std):
  """Total variation as half the integral of |p - q|, the difference by expm1 of the log ratio; for widths about 1."""
  std = np.exp(log_std)
  ends = np.sort(np.concatenate([np.linspace(-12, 12, 2401), mean + std * np.linspace(-12, 12, 2401)]))
  nodes, weights = np.polynomial.legendre.leggauss(8)
  half = np.diff(ends) / 2
  x = (ends[:-1] + half)[:, None] + half[:, None] * nodes
  log_ratio = (mean * (2 * x - mean) / 2 + x**2 * np.expm1(2 * log_std) / 2) / std**2 - log_std
  small = stats.norm.pdf(x) * np.abs(np.expm1(np.minimum(log_ratio, 50)))
  large = stats.norm.pdf(x, mean, std) * np.abs(np.expm1(-np.maximum(log_ratio, 0)))
  return 0.5 * np.sum(half[:, None] * weights * np.where(log_ratio > 0, large, small))


KEY = jax.random.key(0)
to_standard, bures_squared = jax.jit(distances.distances_to_standard), jax.jit(distances.bures_squared)
NARROW = [-1000.0, -200.0, -69.0, -30.0, -20.0]


def test_total_variation_in_one_dimension():
  """By what the densities' crossing points give, and 1 wherever a model is collapsed or wide beyond measure."""
  rng = np.random.default_rng(0)
  mean = np.concatenate([rng.choice([-1, 1], 60) * 10 ** rng.uniform(-6, 0.7, 60), [0, 0, 1e-3, 0.3]]).astype(
    np.float32
  )
  log_std = np.concatenate([rng.choice([-1, 1], 60) * 10 ** rng.uniform(-6, 0.2, 60), [1e-6, -1e-3, 0, 0]]).astype(
    np.float32
  )
  found = jax.jit(jax.vmap(distances.total_variation))(mean, log_std)
  expected = np.array([by_quadrature(m, s) for m, s in zip(mean.astype(float), log_std.astype(float))])
  np.testing.assert_allclose(found, expected, rtol=3e-6)
  exact = [theory.total_variation_gaussian(m, np.exp(s)) for m, s in zip(mean.astype(float), log_std.astype(float))]
  np.testing.assert_allclose(exact, expected, rtol=1e-6)  # of the quadrature, which has kinks
  far = jnp.asarray(NARROW + [-x for x in NARROW])
  for offset in (0.0, 1e-30, 0.3, 5.0, 1e30):
    np.testing.assert_allclose(jax.vmap(distances.total_variation, (None, 0))(jnp.asarray(offset), far), 1, rtol=1e-6)


def test_total_variation_stays_at_one_under_replace():
  """Three rows a generation, to t = 150; what was computed before fell to 0.04 and to NaN."""
  one = lambda key: generation.run(key, tasks.gaussian(1, 3, distances=True), workflows.replace(), 150)[
    "total_variation"
  ]
  found = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 64)))
  assert np.isfinite(found).all() and found[:, -1].min() > 0.999
  assert diagnostics.verdict(np.log(found), np.arange(1, 151.0)).final_mean == pytest.approx(0, abs=1e-3)


def near_the_truth(dim, num_samples, seed=0):
  """A factor as far from I as that of a fit to so many rows, in float64, and as a float32 factor with what it leaves."""
  rng = np.random.default_rng(seed)
  deviation = np.tril(rng.standard_normal((dim, dim))) / np.sqrt(num_samples)
  factor = (np.eye(dim) + deviation).astype(np.float32)
  low = (np.eye(dim) - factor.astype(float) + deviation).astype(np.float32)
  return deviation, jnp.asarray(factor), jnp.asarray(low)


@pytest.mark.parametrize("dim", [1, 2, 10])
def test_distances_do_not_cancel(dim):
  """KL, 2-Wasserstein and total variation of fits to 1e2 to 1e12 rows; the textbook forms in float32 miss by more than all."""
  kl = lambda factor, low, log_det: to_standard(
    KEY, jnp.zeros(dim), factor, jnp.zeros(()), log_det, jnp.asarray(dim), low
  )
  squared = lambda scale, factor, low, log_det: bures_squared(
    scale, factor, jnp.zeros(()), log_det, jnp.asarray(dim), low
  )
  scale = (1.5 * np.eye(dim) + np.tril(0.3 * np.random.default_rng(1).standard_normal((dim, dim)))).astype(np.float32)
  for num in (1e2, 1e4, 1e6, 1e9, 1e12):
    deviation, factor, low = near_the_truth(dim, num)
    excess = np.linalg.eigvalsh(
      deviation + deviation.T + deviation.T @ deviation
    )  # of the covariance's eigenvalues from 1
    series = excess**2 / 2 - excess**3 / 3
    exact_kl = 0.5 * np.sum(np.where(np.abs(excess) < 1e-4, series, excess - np.log1p(excess)))
    exact_squared = np.sum((excess / (1 + np.sqrt(1 + excess))) ** 2)
    log_det = jnp.asarray(np.sum(np.log1p(excess)), jnp.float32)
    found = kl(factor, low, log_det)
    assert found["kl_from_truth"] == pytest.approx(exact_kl, rel=1e-5)
    assert squared(jnp.asarray(2.0), factor, low, log_det) == pytest.approx(4 * exact_squared, rel=1e-3)
    root = np.linalg.svd(scale.T @ scale @ (np.eye(dim) + deviation))
    if num < 1e10:  # in float64 too the reference is a difference
      rotation = (root[0] @ root[2]).T
      expected = np.sum((scale @ (np.eye(dim) + deviation) @ rotation - scale) ** 2)
      assert squared(jnp.asarray(scale), factor, low, log_det) == pytest.approx(expected, rel=1e-3)
    if dim > 1:
      points = np.asarray(distances.normal(KEY, (distances.NUM_POINTS, dim)), float)
      white = np.linalg.solve(np.eye(dim) + deviation, points.T).T
      log_ratio = 0.5 * np.sum((white @ deviation.T) * (points + white), axis=1) - 0.5 * np.sum(np.log1p(excess))
      assert found["total_variation"] == pytest.approx(np.maximum(-np.expm1(log_ratio), 0).mean(), rel=1e-3)
    if num >= 1e9:  # the textbook
      trace = jnp.sum(factor**2)
      assert abs(float(0.5 * (trace - dim - log_det)) / exact_kl - 1) > 0.1
      assert abs(float(dim + trace - 2 * jnp.sum(jnp.linalg.svd(factor, compute_uv=False))) / exact_squared - 1) > 0.1


@pytest.mark.parametrize("dim", [1, 2, 10])
@pytest.mark.parametrize("log_width", [-69.0, -20.0, -3.0, 3.0, 20.0, 40.0])
def test_distances_at_any_width(dim, log_width):
  """Model N(offset, width^2 I) beside the closed forms."""
  for offset in (0.0, 0.5, 1e4):
    mean = jnp.full(dim, offset)
    found = to_standard(
      KEY,
      mean,
      jnp.eye(dim),
      jnp.asarray(log_width),
      jnp.asarray(2 * dim * log_width),
      jnp.asarray(dim),
      jnp.zeros((dim, dim)),
    )
    kl = dim * (0.5 * np.expm1(2 * log_width) - log_width + 0.5 * offset**2)
    assert found["kl_from_truth"] == pytest.approx(kl, rel=1e-5)
    squared = bures_squared(
      jnp.asarray(2.0), jnp.eye(dim), jnp.asarray(log_width), jnp.asarray(0.0), jnp.asarray(dim), jnp.zeros((dim, dim))
    )
    assert squared == pytest.approx(4 * dim * np.expm1(log_width) ** 2, rel=1e-5)
    if dim == 1:
      assert found["total_variation"] == pytest.approx(
        theory.total_variation_gaussian(offset, np.exp(log_width)), rel=1e-5
      )
    elif abs(log_width) >= 20 or offset > 1e3:
      assert found["total_variation"] == pytest.approx(1, abs=1e-3)
    else:
      assert 0.5 < found["total_variation"] <= 1


def test_shares_of_tails_at_any_width():
  """Of N(mean, exp(log_variance)), by logs of tails; a width of 0 is a point."""
  mean = np.array([0.0, 0.3, -1.0, 3.0, 1e4, -6.0, 2.0, 0.0, 1.0, 1e-6, 0.0])
  log_variance = np.array([0.0, -138.0, 138.0, -138.0, 0.0, -2000.0, -np.inf, -np.inf, -1e5, 2e-6, 1e-6])
  dims = ("workflow", "seed", "generation")
  shaped = lambda x: (dims, x.reshape(1, -1, 1))
  results = xarray.Dataset({"standard_mean": shaped(mean), "standard_log_variance": shaped(log_variance)})
  results = definitions.with_first_coordinate(results)
  found = {name: results[f"first_coordinate_{name}"].values.ravel() for name in ("risk", "tail", "far")}
  assert not any(np.isnan(values).any() for values in found.values())
  with np.errstate(over="ignore", divide="ignore"):
    std = np.exp(0.5 * log_variance)
  usual = slice(0, 5)  # where float64 has the width
  tails = lambda x: [np.exp(special.log_ndtr((-x + sign * mean[usual]) / std[usual])) for sign in (-1, 1)]
  of_truth = special.ndtr(-2.0)
  covered = sum(np.minimum(side, of_truth) for side in tails(2.0)) / (2 * of_truth)
  np.testing.assert_allclose(found["tail"][usual], covered, rtol=1e-12)
  np.testing.assert_allclose(found["far"][usual], sum(tails(5.0)), rtol=1e-12)
  np.testing.assert_array_equal(found["far"][5:9], [1, 0, 0, 0])
  np.testing.assert_array_equal(found["tail"][7:9], 0)
  np.testing.assert_array_equal(found["risk"][5:9], np.inf)
  np.testing.assert_allclose(found["risk"][9:], 0.5 * np.array([1e-12 + 2e-12, 0.5e-12]), rtol=1e-5)
  assert found["risk"][1] == pytest.approx(0.5 * (np.exp(138) * (1 + 0.09)), rel=1e-12)


def test_distances_of_first_fits():
  """Means over runs, to first order in 1 / n: W2^2 = (d + d (d + 1) / 4) / n and KL = (d + d (d + 1) / 2) / (2 n)."""
  dim, num_runs = 10, 1000
  sizes = np.array([1e5, 1e7, 1e9, 1e12], np.float32)

  def one(key, num):
    out = generation.run(key, tasks.gaussian(dim, num, wasserstein2=True, distances=True), workflows.replace(), 1)
    return num * out["wasserstein2_squared"][0], num * out["kl_from_truth"][0]

  each_size = jax.vmap(one, (None, 0))
  found = jax.jit(jax.vmap(each_size, (0, None)))(jax.random.split(jax.random.key(0), num_runs), jnp.asarray(sizes))
  for values, right, wrong in zip(found, (37.5, 32.5), (35.0, 30.0)):
    values = np.asarray(values, float)
    error = values.std(axis=0, ddof=1) / np.sqrt(num_runs)
    assert (np.abs(values.mean(axis=0) - right) < 5 * error).all(), values.mean(axis=0)
    assert (np.abs(values.mean(axis=0) - wrong) > 5 * error).all() and (values > 0).all()
