"""Normalizing flows in a loop: the affine one keeps to the Gaussian law, RealNVP is a density and is nearer to curved data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score

import collapse_jax as cj
from collapse_jax import tasks, testing
from collapse_jax.refused import Refused
from collapse_jax.tasks import _normalizing_flow as flows
from collapse_jax.tasks._networks import dense


def simulated(task, workflow, num_generations, num_seeds):
  run = jax.jit(jax.vmap(lambda key: cj.run(key, task, cj.workflows.parse(workflow)(), num_generations)))
  return jax.device_get(run(jax.random.split(jax.random.key(0), num_seeds)))


@pytest.mark.parametrize(("workflow", "latent_variance"), [("replace", 0.9), ("mix(0.4)", 1.0)])
def test_the_affine_law(workflow, latent_variance):
  """Trace, mean and the first likelihood are what the task says; with fewer rows, or another variance of the noise, they are not."""
  make = lambda num, variance: tasks.normalizing_flow([2.0, 0.5, 1.0], num, latent_variance=variance, num_test=6)
  found = simulated(make(15, latent_variance), workflow, 4, 4000)
  schedule = lambda num: cj.workflows.parse(workflow)().schedule(num, 4)
  right, fewer = (make(num, latent_variance).predict(schedule(num)) for num in (15, 12))
  other = make(15, latent_variance + 0.05).predict(schedule(15))
  for name, expected in right.items():
    known = np.isfinite(expected.mean)
    near, off = (np.abs(z_score(found[name], law[name].mean)[known]).max() for law in (right, fewer))
    assert near < 5 < off, name
  assert np.abs(z_score(found["covariance_trace_ratio"], other["covariance_trace_ratio"].mean)).max() > 5


def test_realnvp():
  """Its density has the Jacobian of its map, whose inverse makes rows, and training brings it nearer to moons than an affine map is."""
  options = {"amount": 600, "num_couplings": 4, "width": 16, "num_test": 1000, "learning_rate": 0.01}
  network, affine = (tasks.normalizing_flow("moons", 1000, network=name, **options) for name in ("realnvp", "affine"))
  trained, straight = (simulated(task, "replace", 1, 2)["test_nll"][:, 0] for task in (network, affine))
  shape = cj.data.shapes.get("moons")
  entropy = -float(jnp.mean(shape.log_density(shape.draw(jax.random.key(1), 20_000))))
  assert (trained < 0.5 * (straight + entropy)).all()
  assert (trained > entropy - 0.15).all()  # of 1,000 test rows


def test_its_maps():
  """Rows go to noise and back, and the logarithm of the Jacobian is that of differentiation."""
  layers = jax.vmap(lambda key: dense(key, [3, 4, 4, 6]))(jax.random.split(jax.random.key(0), 3))
  x = jax.random.normal(jax.random.key(1), (5, 3))
  z, log_det = flows.to_noise(layers, x)
  np.testing.assert_allclose(flows.to_rows(layers, z), x, atol=1e-5)
  jacobian = jax.vmap(jax.jacobian(lambda row: flows.to_noise(layers, row[None])[0][0]))(x)
  np.testing.assert_allclose(np.linalg.slogdet(np.asarray(jacobian))[1], log_det, atol=1e-5)
  assert np.abs(log_det).max() > 0.1


def test_checked():
  testing.check_task(tasks.normalizing_flow([1.0], 8, num_test=6), workflows=["grown_replace"], drivers=("mix(0.5)",))


def test_refused():
  for call, message in (
    (lambda: tasks.normalizing_flow([1.0], 1), "num_samples must be an integer of at least 2"),
    (lambda: tasks.normalizing_flow([1.0], 9, network="glow"), "network must be one of affine, realnvp"),
    (lambda: tasks.normalizing_flow([1.0], 9, network="realnvp"), "network must be 'affine' for rows of one number"),
    (lambda: tasks.normalizing_flow("moon", 9), "moon"),
    (lambda: tasks.normalizing_flow("moons", 9, latent_variance=0.0), "latent_variance must be above 0"),
    (
      lambda: tasks.normalizing_flow("moons", 9, network="realnvp", num_couplings=0),
      "num_couplings must be an integer",
    ),
    (lambda: tasks.normalizing_flow("moons", 9, network="realnvp", budget="days"), "budget must be one of epochs"),
  ):
    with pytest.raises(Refused, match=message):
      call()
