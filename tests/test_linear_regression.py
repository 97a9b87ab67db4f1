"""Least squares against NumPy, and its error against the exact law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score

import collapse_jax as cj
from collapse_jax import tasks, theory, workflows
from collapse_jax.tasks._linear_regression import weighted_least_squares

T = 6


@pytest.mark.parametrize(("n", "dim"), [(40, 3), (12, 10), (10, 10), (6, 20), (60, 3)])
def test_weighted_least_squares_is_numpys(n, dim):
  """Any multiplicities, with fewer or more rows in use than dim, full and deficient rank."""
  rng = np.random.default_rng(0)
  solve = jax.jit(jax.vmap(weighted_least_squares))
  lanes = 30
  design, label = rng.standard_normal((lanes, n, dim)), rng.standard_normal((lanes, n))
  times = rng.integers(0, 3, (lanes, n)).astype(float)
  times[:, : min(n, 3)] = 1
  found = np.asarray(solve(*(jnp.asarray(x, jnp.float32) for x in (design, label, times))))
  for i in range(lanes):
    rows = np.repeat(np.arange(n), times[i].astype(int))
    used = design[i][rows]
    condition = np.linalg.cond(design[i][times[i] > 0])
    expected = np.linalg.lstsq(used, label[i][rows], rcond=None)[0]
    np.testing.assert_allclose(found[i], expected, atol=2e-6 * condition * np.abs(expected).max() + 1e-5)


def simulated(workflow, n, dim, num_seeds=2000, **options):
  task = tasks.linear_regression(dim, n, 0.5, **options)
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(0), i), task, workflow, T)["test_mse"]
  return np.asarray(jax.jit(jax.vmap(one))(jnp.arange(num_seeds)), np.float64)


@pytest.mark.parametrize(("n", "dim"), [(40, 8), (8, 40)])
def test_labels_follow_the_law_too(n, dim):
  """The exact law of the coefficients is held against theory in test_validation; this is its slow form."""
  workflow = workflows.accumulate()
  error = simulated(workflow, n, dim, draws="rows")
  expected = theory.linear_regression_mse(workflow.weights(T), dim, n, 0.5)
  assert np.abs(z_score(error, expected)).max() < 5
  late = theory.linear_regression_mse(workflow.weights(T + 1), dim, n, 0.5)[1:]
  assert n < dim or np.abs(z_score(error, late)).max() > 5


def test_fresh_covariates():
  """Each generation adds the same error under `replace`; batch estimates of many designs pool to least squares."""
  error = simulated(workflows.replace(), 40, 8, covariates="fresh")
  base = 0.5 * 8 / (40 - 8 - 1)
  z = (error.mean(axis=0) - base * np.arange(1, T + 1)) / (error.std(axis=0, ddof=1) / np.sqrt(len(error)))
  assert np.abs(z).max() < 5
  task = tasks.linear_regression(5, 4, covariates="fresh")  # a batch is short of rank, a pool is not
  problem, _ = task.init(jax.random.key(0))
  batches = [task.fresh(jax.random.key(i), problem) for i in range(4)]
  for num in (1, 3):
    stats = [task.summary.of(problem, jax.tree.map(lambda x: x[0], b.rows), None) for b in batches[:num]]
    total = stats[0]
    for one in stats[1:]:
      total = task.summary.add(problem, total, 1.0, one, 1.0)
    context = cj.Data(summary=total)
    found = task.fit(None, problem, type("Context", (), {"data": context}))
    x = np.concatenate([np.asarray(b.rows["x"][0]) for b in batches[:num]])
    y = np.concatenate([np.asarray(b.rows["label"][0]) for b in batches[:num]])
    np.testing.assert_allclose(found, np.linalg.lstsq(x, y, rcond=None)[0], atol=2e-4)


def test_subsample_is_close_to_first_order():
  """n/d = 40: within 15% of linear_noise with redrawn rows; far from that without."""
  ratio = simulated(workflows.accumulate_subsample(), 200, 5).mean(axis=0) / theory.linear_regression_mse(
    np.eye(1), 5, 200, 0.5
  )
  table = workflows.accumulate().weights(T)
  np.testing.assert_allclose(ratio, theory.linear_noise(table, redrawn=True), rtol=0.15)
  assert abs(ratio[-1] / theory.linear_noise(table)[-1] - 1) > 0.3


def test_bad_arguments():
  for bad, part in (
    ({"dim": 0}, "dim"),
    ({"noise_var": 0.0}, "noise_var"),
    ({"covariates": "other"}, "covariates"),
    ({"covariates": "fresh", "draws": "law"}, "draws='law'"),
    ({"num_samples": 1}, "num_samples"),
  ):
    with pytest.raises(ValueError, match=part):
      tasks.linear_regression(**{"dim": 2, "num_samples": 5} | bad)
  with pytest.raises(ValueError, match="covariates='fresh'"):
    cj.run(jax.random.key(0), tasks.linear_regression(2, 5), workflows.mix(0.2), 2)


@pytest.mark.parametrize(("n", "dim"), [(20, 3), (5, 5), (4, 9)])
def test_arms_that_draw_rows_are_paired_with_those_that_draw_from_the_law(n, dim):
  """One first generation for all workflows: rows are drawn given the estimate that the law draws."""
  one = lambda name, options, key: cj.run(key, tasks.linear_regression(dim, n, **options), workflows.parse(name)(), 2)[
    "test_mse"
  ]
  keys = jax.random.split(jax.random.key(0), 20)
  law, rows, redrawn = (
    jax.jit(jax.vmap(functools.partial(one, name, options)))(keys)
    for name, options in (("replace", {}), ("replace", {"draws": "rows"}), ("accumulate_subsample", {}))
  )
  np.testing.assert_allclose(rows, law, rtol=2e-3)  # squares of inverses of designs that may be close to singular
  np.testing.assert_allclose(redrawn[:, 0], law[:, 0], rtol=2e-3)
  assert np.abs(np.asarray(redrawn[:, 1]) / law[:, 1] - 1).max() > 0.01


def test_designs_are_normal():
  """Made of an orthonormal basis and Bartlett's triangle: all moments of single entries, and of pairs of them, to the fourth."""
  task = tasks.linear_regression(3, 4, draws="rows")
  design = np.asarray(
    jax.vmap(lambda key: task.init(key)[0].design)(jax.random.split(jax.random.key(1), 4000)), np.float64
  )
  flat = design.reshape(4000, -1)
  for power, moment, fourth in ((1, 0, 1), (2, 1, 3), (3, 0, 15), (4, 3, 105)):
    assert np.abs(z_score(flat**power, moment, fourth - moment**2)).max() < 5
  first, second = np.triu_indices(12, 1)
  assert np.abs(z_score(flat[:, first] * flat[:, second], 0.0, 1.0)).max() < 5
  assert np.abs(z_score(flat[:, first] ** 2 * flat[:, second] ** 2, 1.0, 8.0)).max() < 5


def test_label_noise_is_white():
  """Its part within the span of the design and the rest are of one variance."""
  task = tasks.linear_regression(2, 5, 4.0, draws="rows")

  def one(key):
    problem, real = task.init(key)
    return real.rows["label"][0] - problem.design @ problem.coefficients

  noise = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(2), 4000)), np.float64) / 2
  first, second = np.triu_indices(5, 1)
  assert np.abs(z_score(noise**2, 1.0, 2.0)).max() < 5
  assert np.abs(z_score(noise[:, first] * noise[:, second], 0.0, 1.0)).max() < 5
