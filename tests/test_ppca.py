"""Principal components in a loop: exact trace and mean, the spectrum to first order, law and rows alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score

import collapse_jax as cj
from collapse_jax import theory
from collapse_jax.refused import Refused

VARIANCES = [8.0, 4.0] + [1.0] * 8


def simulated(task, workflow, num_generations, num_seeds):
  run = jax.jit(jax.vmap(lambda key: cj.run(key, task, cj.workflows.parse(workflow)(), num_generations)))
  return jax.device_get(run(jax.random.split(jax.random.key(0), num_seeds)))


def test_published_drift():
  """d 10, k 2, 8 / 4 / 1, n 200: the spectrum polarises while the trace falls as a Gaussian's; the frozen spectrum is far off."""
  task = cj.tasks.ppca(VARIANCES, 200, 2)
  found = simulated(task, "replace", 10, 4000)
  expected = theory.ppca_replace(VARIANCES, 2, 200, 10)
  shares = np.array([8, 4, 8]) / 20  # twin: each variance falls as the trace does
  parts = np.stack([found["kept_variances"][:, :, 0], found["kept_variances"][:, :, 1], 8 * found["noise_variance"]])
  told = np.array([expected.leading[:, 0], expected.leading[:, 1], 8 * expected.noise])
  for value, mean, share in zip(parts, told, shares):
    first_order = (
      0.03 * mean * np.arange(1, 11) / 10
    )  # what 1 / n^2 leaves: 3.90 was published beside 3.79 (0.02) simulated
    assert (np.abs(value.mean(axis=0) - mean) < 5 * value.std(axis=0) / np.sqrt(4000) + first_order).all()
    if share != 4 / 20:  # which hardly moves relative to the trace
      assert np.abs(z_score(value, share * expected.trace))[-1] > 5
  np.testing.assert_allclose(parts.sum(axis=0), found["covariance_trace"], rtol=1e-5)


@pytest.mark.parametrize(("workflow", "draws"), [("replace", "law"), ("mix(0.3)", "rows")])
def test_predicted(workflow, draws):
  """What the task says of itself; with three rows fewer it is wrong."""
  make = lambda num: cj.tasks.ppca([3.0, 1.0, 0.5], num, 1, draws=draws)
  found = simulated(make(12), workflow, 4, 20_000)
  parsed = cj.workflows.parse(workflow)()
  right, wrong = (make(num).predict(parsed.schedule(num, 4)) for num in (12, 9))
  for name in ("covariance_trace", "squared_error_of_mean"):
    assert np.abs(z_score(found[name], right[name].mean)).max() < 5, name
    assert np.abs(z_score(found[name], wrong[name].mean)).max() > 5, name


def test_of_few_rows():
  """Fewer rows than dimensions, or than components: singular fits, no NaN; weights count as copies do."""
  for draws in ("law", "rows"):
    found = simulated(cj.tasks.ppca(VARIANCES, 2, 3, draws=draws), "replace", 300, 2)
    assert found["finite"].all()
    if draws == "law":  # rows near their mean have its rounding in all directions
      assert (found["kept_variances"][:, :, 1:] <= 1e-5 * found["covariance_trace"][:, :, None] + 1e-30).all()
  task = cj.tasks.ppca([2.0, 1.0], 6, 1, draws="rows")
  problem, real = task.init(jax.random.key(0))
  rows, weight = real.rows[0], jnp.array([2.0, 1, 0, 1, 1, 1])
  weighed = task.summary.of(problem, rows, weight)
  copied = task.summary.of(problem, rows[jnp.array([0, 0, 1, 3, 4, 5])], None)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), weighed, copied)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (([1.0], 5, 1), "variances must be two numbers"),
    (([1.0, 0.0], 5, 1), "variances must be two numbers"),
    (([1.0, 2.0], 1, 1), "num_samples must be at least 2"),
    (([1.0, 2.0], 5, 2), "latent_dim must be an integer of at most 1"),
  ],
)
def test_refused(arguments, message):
  with pytest.raises(Refused, match=message):
    cj.tasks.ppca(*arguments)
