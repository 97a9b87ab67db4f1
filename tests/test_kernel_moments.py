"""Sums of kernels at any bandwidth: against direct sums in float64, alone and in the loop of a growing pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import collapse_jax as cj
from collapse_jax import tasks, workflows
from collapse_jax.tasks import _kde
from collapse_jax.tasks import _kernel_moments as kernel_moments

NARROWEST, WIDEST = 0.1, 0.4
WIDTHS = kernel_moments.ladder(WIDEST, NARROWEST)


def exact(points, rows, weight, bandwidth):
  squared = ((np.asarray(points, np.float64)[:, None] - np.asarray(rows, np.float64)[None]) ** 2).sum(-1)
  with np.errstate(divide="ignore"):
    return logsumexp(-0.5 * squared / bandwidth**2, axis=1, b=np.asarray(weight, np.float64)[None])


def pool(dim, seed=0):
  """Clusters of rows, some counted twice, some not at all; points among them, between them and far from all."""
  rng = np.random.default_rng(seed)
  centres = 2 * rng.normal(size=(4, dim))
  draw = lambda n: (centres[rng.integers(4, size=n)] + 0.3 * rng.normal(size=(n, dim))).astype(np.float32)
  points = np.concatenate([draw(40), centres.astype(np.float32), draw(4) + 4, centres[:1].astype(np.float32) + 60])
  near = points[-2:-1] + 0.05  # the last batch holds a row far nearer to one point than all before
  batches = [
    (draw(30), np.ones(30)),
    (draw(20), rng.integers(0, 3, 20)),
    (np.concatenate([draw(9), near]), np.ones(10)),
  ]
  return points, [(rows, weight.astype(np.float32)) for rows, weight in batches]


def total(points, batches, dim, factors=(1.0, 2.0, 1.0)):
  found = [
    kernel_moments.moments(jnp.asarray(points), jnp.asarray(rows), jnp.asarray(w), WIDTHS) for rows, w in batches
  ]
  both = kernel_moments.add(found[0], factors[0], found[1], factors[1], WIDTHS, dim)
  return kernel_moments.add(both, 1.0, found[2], factors[2], WIDTHS, dim)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_sums_at_any_bandwidth(dim, monkeypatch):
  points, batches = pool(dim)
  rows = np.concatenate([rows for rows, _ in batches])
  weight = np.concatenate([factor * w for factor, (_, w) in zip((1, 2, 1), batches)])
  known = lambda bandwidth, of: kernel_moments.log_sum(of, bandwidth, WIDTHS, dim)

  def wrong(of):
    """The largest error in units of what is allowed: the bound and the rounding of a log density in float32."""
    worst = 0.0
    for bandwidth in (WIDEST, 0.31, 0.22, 0.17, NARROWEST):
      found, bound = known(bandwidth, of)
      right = exact(points, rows, weight, bandwidth)
      allowed = np.asarray(bound) + 3e-6 + 1e-6 * np.abs(right)
      worst = max(worst, float((np.abs(np.asarray(found) - right) / allowed).max()))
    return worst

  of = total(points, batches, dim)
  assert wrong(of) < 1
  assert float(np.median(known(0.22, of)[1])) < 1e-6  # a bound that says something
  with monkeypatch.context() as m:  # twins: nearer rows do not move what was known; a derivative left out
    m.setattr(kernel_moments, "_from", lambda nearest, batch, weight, *_: batch._replace(sums=weight * batch.sums))
    assert wrong(total(points, batches, dim)) > 5
  assert wrong(of._replace(sums=of.sums.at[:, 3].set(0.0))) > 5


def test_off_the_ladder_nothing_is_claimed():
  points, batches = pool(2)
  of = total(points, batches, 2)
  for bandwidth in (1.1 * WIDTHS[0], 0.9 * WIDTHS[-1]):
    assert np.isinf(kernel_moments.log_sum(of, bandwidth, WIDTHS, 2)[1]).all()
  rows, weight = (jnp.asarray(x) for x in batches[0])
  late = kernel_moments.moments(jnp.asarray(points), rows, weight, WIDTHS, 0.2)  # wider rungs are passed
  assert np.isinf(kernel_moments.log_sum(late, 0.39, WIDTHS, 2)[1]).all()
  early = kernel_moments.moments(jnp.asarray(points), rows, weight, WIDTHS)
  for a, b in zip(kernel_moments.log_sum(late, 0.2, WIDTHS, 2), kernel_moments.log_sum(early, 0.2, WIDTHS, 2)):
    np.testing.assert_array_equal(a, b)
  empty = kernel_moments.moments(jnp.asarray(points), rows, jnp.zeros(len(rows)), WIDTHS)
  with_nothing = kernel_moments.add(early, 1.0, empty, 1.0, WIDTHS, 2)
  np.testing.assert_allclose(with_nothing.sums, early.sums, rtol=1e-6)


@pytest.mark.parametrize(
  ("dataset", "rule", "workflow"),
  [
    ("moons", "scott", workflows.accumulate()),
    ("blobs", "scott", workflows.sliding_window(6)),
    ("swiss_roll", "silverman", workflows.accumulate()),
  ],
  ids=["moons", "blobs in a window", "swiss_roll"],
)
def test_pools_under_a_rule(dataset, rule, workflow, monkeypatch):
  """In the loop: the fitted density is that of all rows of the pool, by direct sums in float64."""
  n, T = 12, 40
  task = tasks.kde(dataset, n, rule, num_test=60)
  run = cj.start(jax.random.key(3), task, workflow, T)
  run, _ = jax.jit(lambda run: cj.advance(task, workflow, run, range(1, T), num_generations=T))(run)

  def fitted():
    context = cj.generation.context_of(task, workflow, run, T, num_generations=T)
    return task.fit(jax.random.key(0), run.problem, context), context.data

  params, data = fitted()
  rows = np.asarray(data.rows).reshape(-1, data.rows.shape[-1])
  width, dim = float(params.bandwidth), rows.shape[1]
  right = exact(run.problem.points, rows, np.ones(len(rows)), width)
  right = right - np.log(len(rows)) - 0.5 * dim * np.log(2 * np.pi) - dim * np.log(width)
  np.testing.assert_allclose(params.log_density, right, rtol=2e-6, atol=1e-5)
  # Nothing was summed anew: a pool that is not known, is.
  monkeypatch.setattr(_kde, "log_kernel_sum", lambda points, *_: jnp.zeros(len(points)))
  _kde._where_known.clear_cache()
  np.testing.assert_array_equal(fitted()[0].log_density, params.log_density)
  monkeypatch.undo()
  monkeypatch.setattr(_kde, "_ERROR", -1.0)
  monkeypatch.setattr(_kde, "_RELATIVE", -1.0)
  _kde._where_known.clear_cache()
  again = fitted()[0].log_density
  assert (np.asarray(again) != np.asarray(params.log_density)).any()
  np.testing.assert_allclose(again, right, rtol=2e-6, atol=1e-5)
  _kde._where_known.clear_cache()
