"""Metrics of arrays: closed forms and their nulls, planted damage, twins in NumPy, and data that have nothing in them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score
from scipy import linalg, stats

from collapse_jax import metrics
from collapse_jax.refused import Refused
from collapse_jax.theory import wasserstein2_squared


def normals(key, num_seeds, n, dim, std=1.0):
  return std * jax.random.normal(jax.random.key(key), (num_seeds, n, dim))


@functools.cache
def under_the_null(n, m, dim, num_seeds=100):
  """Metrics [seeds] of pairs of samples of N(0, I), all in one vmapped program."""

  def one(key, x, y, spread):
    kinds = metrics.precision_recall(x, y, 3)
    values = {
      "frechet": metrics.frechet(x, y),
      "frechet_spread": metrics.frechet(x * spread[None], y * spread[None]),
      "mmd": metrics.mmd(x, y, float(dim)),
      "sliced": metrics.sliced_wasserstein(key, x, y, num_directions=16),
      "accuracy": metrics.classifier_accuracy(key, x, y),
      "log_nearest": jnp.mean(jnp.log(metrics.nearest_distance(y, x))),
      "entropy": metrics.entropy(x, 2),
    }
    return values | kinds._asdict()

  spread = jnp.sqrt(10 / jnp.arange(1.0, dim + 1))
  keys = jax.random.split(jax.random.key(9), num_seeds)
  run = jax.jit(lambda k, x, y: jax.lax.map(lambda each: one(*each, spread), (k, x, y), batch_size=20))
  return jax.device_get(run(keys, normals(1, num_seeds, n, dim), normals(2, num_seeds, m, dim))), spread


def test_nulls():
  """What closed forms say of two samples of one law; each is missed by a form that is wrong by a little."""
  n, m, dim = 200, 150, 3
  found, spread = under_the_null(n, m, dim)
  entropy = dim / 2 * np.log(2 * np.pi * np.e)
  expected = {  # value, twin that is wrong
    "frechet": ((1 / n + 1 / m) * dim * (dim + 5) / 4, 1 / n * dim * (dim + 5) / 4),
    "frechet_spread": (float(metrics.frechet_null(spread**2, n, m)), float(metrics.frechet_null(spread, n, m))),
    "coverage": (metrics.coverage_null(n, m, 3), metrics.coverage_null(m, n, 3)),
    "density": (1.0, 3 / 2),
    "mmd": (0.0, float(metrics.mmd_null_std(jnp.ones(dim), n, m, dim))),
    "accuracy": (0.5, 0.5 + metrics.classifier_null_std(n, m)),
    "sliced": (np.sqrt(2 / np.pi * (1 / n + 1 / m)) * 1.6147, np.sqrt(2 / np.pi / n) * 1.6147),
    "log_nearest": (metrics.generalisation_null(entropy, n, dim), metrics.generalisation_null(entropy, m, dim)),
  }
  for name, (value, wrong) in expected.items():
    least = (
      0.01 * abs(value) if name in ("frechet", "frechet_spread", "log_nearest", "sliced") else 0.0
    )  # first order in 1/n
    gap = np.mean(found[name]) - value
    assert abs(gap) < least + 5 * np.std(found[name]) / 10, (name, np.mean(found[name]), value)
    assert abs(z_score(found[name], wrong)) > 5, name
  assert np.std(found["mmd"], ddof=1) == pytest.approx(float(metrics.mmd_null_std(jnp.ones(dim), n, m, dim)), rel=0.35)
  assert np.std(found["accuracy"], ddof=1) == pytest.approx(metrics.classifier_null_std(n, m), rel=0.35)
  many = metrics.sliced_wasserstein_null(jax.random.key(0), normals(7, 1, 20_000, dim)[0], n, m)
  assert float(many) == pytest.approx(expected["sliced"][0], rel=0.01)
  assert abs(np.mean(found["entropy"]) - entropy) < 0.03 * entropy
  assert abs(z_score(found["precision"], np.mean(found["recall"]))) < 5


def test_permutation_null():
  """Of samples of one law the mean of dealt ones; of others it is no law of theirs."""
  n, m, dim = 200, 150, 3
  found, _ = under_the_null(n, m, dim)
  x, y = normals(1, 1, n, dim)[0], normals(2, 1, m, dim)[0]
  dealt = functools.partial(metrics.permutation_null, num_permutations=10)
  metric = lambda a, b: metrics.precision_recall(a, b, 3)
  mean, std = jax.jit(lambda key, x, y: dealt(key, metric, x, y))(jax.random.key(0), x, y)
  for name in mean._fields:
    spread = np.hypot(np.std(found[name]), getattr(std, name) / np.sqrt(10))  # the pool is one of many
    assert abs(getattr(mean, name) - np.mean(found[name])) < 4 * spread, name


def test_shrunk():
  """A sample of half the variance: recall falls and density grows, and coverage is what it was (both by simulation elsewhere)."""
  x, y = normals(3, 1, 500, 8)[0], normals(4, 1, 500, 8, np.sqrt(0.5))[0]
  found = metrics.precision_recall(x, y, 5)
  assert found.precision > 0.98 and abs(found.recall - 0.63) < 0.1
  assert abs(found.density - 1.70) < 0.15 and abs(found.coverage - metrics.coverage_null(500, 500, 5)) < 0.03
  accuracy = metrics.classifier_accuracy(
    jax.random.key(0), *(normals(k, 1, 4000, 8, s)[0] for k, s in ((5, 1), (6, np.sqrt(0.5))))
  )
  cut = 8 * np.log(2.0)  # the better guess: |x|^2 above d log(1/s) / (1/s - 1)
  best = 0.5 * (stats.chi2.cdf(cut / 0.5, 8) + stats.chi2.sf(cut, 8))
  assert best - 0.03 < accuracy < best + 5 * metrics.classifier_null_std(4000, 4000)


def test_twins():
  """The same in float64 NumPy, pair by pair; in many dimensions distances are taken another way."""
  for dim, n, m in ((2, 40, 30), (50, 40, 30)):
    x, y = (np.asarray(normals(k, 1, num, dim, s)[0], np.float64) for k, num, s in ((1, n, 1.0), (2, m, 0.7)))
    far = lambda a, b: np.sqrt(np.sum((a[:, None] - b[None]) ** 2, axis=2))
    ball_x, ball_y = (np.sort(far(a, a), axis=1)[:, 3] for a in (x, y))
    cross = far(x, y)
    plain = {
      "precision": (cross <= ball_x[:, None]).any(axis=0).mean(),
      "recall": (cross <= ball_y[None]).any(axis=1).mean(),
      "density": (cross <= ball_x[:, None]).sum() / (3 * m),
      "coverage": (cross.min(axis=1) <= ball_x).mean(),
    }
    found = metrics.precision_recall(x, y, 3)._asdict()
    assert {name: float(value) for name, value in found.items()} == pytest.approx(plain, abs=1e-6)
    np.testing.assert_allclose(metrics.nearest_distance(y, x), cross.min(axis=0), rtol=1e-5)
    kernel = np.exp(-(far(np.concatenate([x, y]), np.concatenate([x, y])) ** 2) / (2 * 1.7))
    own = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    np.testing.assert_allclose(metrics.mmd(x, y, 1.7), own - 2 * kernel[:n, n:].mean(), atol=2e-6)
    moments = [(a.mean(axis=0), np.cov(a.T)) for a in (x, y)]
    np.testing.assert_allclose(metrics.frechet(x, y), wasserstein2_squared(*moments[0], *moments[1]), rtol=2e-4)
  both = linalg.sqrtm(np.cov(x[:, :2].T) @ np.cov(y[:, :2].T)).real
  plain = np.sum((x.mean(0) - y.mean(0))[:2] ** 2) + np.trace(np.cov(x[:, :2].T) + np.cov(y[:, :2].T) - 2 * both)
  np.testing.assert_allclose(metrics.frechet(x, y, lambda rows: rows[:, :2]), plain, rtol=1e-4)
  for n, m in ((7, 7), (7, 5), (1, 4)):
    a, b = x[:n, :1], y[:m, :1]
    for order, plain in ((1, stats.wasserstein_distance(a[:, 0], b[:, 0])), (2, _squared_w2(a[:, 0], b[:, 0]))):
      np.testing.assert_allclose(metrics.sliced_wasserstein(jax.random.key(0), a, b, order=order), plain, rtol=1e-5)


def _squared_w2(a, b):
  long_a, long_b = np.sort(np.repeat(a, len(b))), np.sort(np.repeat(b, len(a)))
  return np.mean((long_a - long_b) ** 2)


def test_sliced_of_gaussians():
  """SW2^2 of N(0, a) and N(u, b): |u|^2 / d + (sqrt a - sqrt b)^2."""
  x, y = normals(1, 1, 20_000, 4)[0], normals(2, 1, 10_000, 4, 0.6)[0] + 0.5
  found = metrics.sliced_wasserstein(jax.random.key(0), x, y, order=2, num_directions=512)
  assert float(found) == pytest.approx(0.25 + 0.16, rel=0.05)


def test_copies():
  rows = np.array([[0.0, 1], [-0.0, 1], [2, 3], [2, 3], [4, 5]])
  assert float(metrics.duplicates(rows)) == pytest.approx(0.8) and int(metrics.num_distinct(rows)) == 3
  assert float(metrics.duplicates(rows, rows[3:])) == pytest.approx(0.6)
  many = normals(0, 1, 5000, 3)[0]
  assert int(metrics.num_distinct(many)) == 5000  # no two of them have one hash
  again = jnp.concatenate([many, many[:1000]])
  assert int(metrics.num_distinct(again)) == 5000 and float(metrics.duplicates(again)) == pytest.approx(2000 / 6000)
  close = jnp.concatenate([many, jnp.nextafter(many[:10], jnp.inf)])
  assert int(metrics.num_distinct(close)) == 5010


def test_score():
  """Values near nulls for a sample of the law, far from them for a collapsed one that copies; units of the data."""
  real, fair, train = (np.asarray(normals(k, 1, 300, 2, 5.0)[0]) + 1e4 for k in (1, 2, 3))
  found = metrics.score(real, fair, train=train)
  near = {
    "precision": 0.05,
    "recall": 0.05,
    "density": 0.15,
    "coverage": 0.06,
    "entropy": 0.3,
    "classifier_accuracy": 0.13,
  }
  near |= {"mmd_squared": 0.02, "sliced_wasserstein": 0.6, "frechet_distance": 1.5, "generalisation_score": 0.1}
  assert found["duplicate_share"] == (0, 0)
  for name, most in near.items():
    assert abs(found[name].value - found[name].null) <= most, (name, found[name])
  assert found["entropy"].null == pytest.approx(np.log(2 * np.pi * np.e * 25), rel=0.05)
  bad = metrics.score(real, np.concatenate([1e4 + 0.3 * (fair - 1e4)[:150], train[:150]]), train=train)
  assert bad["duplicate_share"] == (0.5, 0.0)
  assert bad["generalisation_score"].value < 0.8 * bad["generalisation_score"].null
  assert bad["entropy"].value < bad["entropy"].null - 0.2  # of half the rows it is lower by 2 log 0.3
  assert bad["frechet_distance"].value > 3 * bad["frechet_distance"].null
  parts = {"b": fair[:, 1], "a": fair[:, :1].reshape(-1, 1, 1)}
  assert metrics.score({"a": real[:, 0], "b": real[:, 1]}, parts)["mmd_squared"].value == pytest.approx(
    metrics.score(real, fair)["mmd_squared"].value
  )


@pytest.mark.parametrize("kind", ["one point", "constant column", "four rows"])
def test_nothing_in_them(kind):
  rows = np.asarray(normals(0, 1, 8, 3)[0])
  sample = {"one point": np.ones((8, 3)), "constant column": rows * [1, 0, 1], "four rows": rows[:4]}[kind]
  for real in (rows, sample)[: 1 if kind == "four rows" else 2]:
    found = metrics.score(real, sample, train=sample)
    assert all(np.isfinite(one).all() for one in found.values()), found


def test_refused():
  rows = np.ones((8, 3))
  for call, message in (
    (lambda: metrics.precision_recall(rows, rows[:5], 5), "sample must be an array .* at least 6 rows"),
    (lambda: metrics.precision_recall(rows, rows, 0), "num_neighbors must be at least 1"),
    (lambda: metrics.frechet(rows, rows[:, :2]), "sample must have 3 numbers a row"),
    (lambda: metrics.sliced_wasserstein(jax.random.key(0), rows, rows, order=3), "order must be 1 or 2"),
    (lambda: metrics.score(rows, np.full((8, 3), np.nan)), "sample has 8 rows with numbers that are not finite"),
    (lambda: metrics.score(rows, rows[:3]), "sample must have at least 4 rows, got 3"),
    (lambda: metrics.score(rows, rows[:, :2]), "sample must have 3 numbers a row"),
    (lambda: metrics.score(rows, np.zeros((0, 3))), "sample has no rows"),
    (lambda: metrics.score(rows, {"a": np.ones(3), "b": np.ones(4)}), "sample must be arrays with as many rows"),
    (lambda: metrics.score(rows, 1.0), "sample must be a table, numbers"),
  ):
    with pytest.raises(Refused, match=message) as caught:
      call()
    assert "\n" not in str(caught.value)
