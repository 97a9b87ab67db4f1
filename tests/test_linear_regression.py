"""Least squares against NumPy, and its error against the exact law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import z_score

import collapse_jax as cj
from collapse_jax import tasks, theory, workflows
from collapse_jax.tasks.linear_regression import weighted_least_squares

T = 6


@pytest.mark.parametrize(("n", "dim"), [(40, 3), (12, 10), (10, 10), (6, 20), (60, 3)])
def test_weighted_least_squares_is_numpys(n, dim):
  """Any multiplicities, with fewer or more rows in use than dim, full and deficient rank."""
  rng = np.random.default_rng(0)
  solve = jax.jit(jax.vmap(weighted_least_squares))
  lanes = 30
  design, label = rng.standard_normal((lanes, n, dim)), rng.standard_normal((lanes, n))
  times = rng.integers(0, 3, (lanes, n)).astype(float)
  times[:, :min(n, 3)] = 1
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
  ratio = simulated(workflows.accumulate_subsample(), 200, 5).mean(axis=0) / theory.linear_regression_mse(np.eye(1), 5, 200, 0.5)
  table = workflows.accumulate().weights(T)
  np.testing.assert_allclose(ratio, theory.linear_noise(table, redrawn=True), rtol=0.15)
  assert abs(ratio[-1] / theory.linear_noise(table)[-1] - 1) > 0.3


def test_bad_arguments():
  for bad, part in (({"dim": 0}, "dim"), ({"noise_var": 0.0}, "noise_var"), ({"covariates": "other"}, "covariates"),
                    ({"covariates": "fresh", "draws": "law"}, "draws='law'"), ({"num_samples": 1}, "num_samples")):
    with pytest.raises(ValueError, match=part):
      tasks.linear_regression(**{"dim": 2, "num_samples": 5} | bad)
  with pytest.raises(ValueError, match="covariates='fresh'"):
    cj.run(jax.random.key(0), tasks.linear_regression(2, 5), workflows.mix(0.2), 2)
