"""Exact means and errors of one-parameter families under several schedules, by law and by rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import z_score

import collapse_jax as cj
from collapse_jax import tasks, theory, workflows
from collapse_jax.tasks.exponential_family import FAMILIES

T, N = 6, 20
MEANS = {"bernoulli": 0.3, "poisson": 2.5, "exponential": 1.5, "gaussian": -1.0}


def fitted_means(family, workflow, draws, num_seeds=60_000, **options):
  task = tasks.exponential_family(family, N, MEANS[family], draws=draws, **options)
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(1), i), task, workflow, T)["fitted_mean"]
  return np.asarray(jax.jit(jax.vmap(one))(jnp.arange(num_seeds)), np.float64)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_and_law_agree(family):
  workflow = workflows.accumulate()
  means = fitted_means(family, workflow, "rows", 5000)
  one = FAMILIES[family]
  variance = float(one.variance(jnp.float32(MEANS[family])))
  expected = variance * theory.quadratic_family(workflow.weights(T), N, one.curvature)
  assert np.abs(z_score((means - MEANS[family]) ** 2, expected)).max() < 5


def test_a_billion_rows():
  """The first generation's error has variance 1/n whatever n is."""
  for n in (1e2, 1e6, 1e9):
    task = tasks.exponential_family("exponential", n, 1.0, draws="law")
    one = lambda i, task=task: cj.run(jax.random.fold_in(jax.random.key(1), i), task, workflows.replace(), 1)["fitted_mean"][0]
    means = np.asarray(jax.jit(jax.vmap(one))(jnp.arange(4000)), np.float64)
    spread = (means - 1).var() * n
    assert abs(spread - 1) < 5 * np.sqrt(2 / 4000) + (1e-7 * np.sqrt(n)) ** 2, n


def test_absorption_and_temperature():
  """A Bernoulli mean of 0 or 1 stays; a sharper model gets there sooner, an exponential one shrinks by its temperature."""
  long = lambda temperature: cj.sweep(
      lambda num_samples, temperature: tasks.exponential_family("bernoulli", num_samples, 0.5, temperature=temperature), ["replace"],
      {"num_samples": [5], "temperature": [temperature]}, num_generations=40, num_seeds=200).fitted_mean.values[0, 0, 0]
  plain, sharp = long(1.0), long(0.5)
  for means in (plain, sharp):
    gone = (means == 0) | (means == 1)
    assert (np.diff(gone.astype(int), axis=1) >= 0).all()
  assert ((sharp[:, 9] % 1) == 0).mean() > ((plain[:, 9] % 1) == 0).mean() + 0.1
  shrunk = fitted_means("exponential", workflows.replace(), "law", temperature=0.5)
  assert np.abs(z_score(shrunk, 1.5 * 0.5 ** np.arange(T))).max() < 5


def test_bad_arguments():
  for bad, part in ((("cauchy", 5), "family"), (("bernoulli", 5, 1.0), "between 0 and 1"), (("poisson", 1), "num_samples"),
                    (("poisson", 5, -1.0), "between")):
    with pytest.raises(ValueError, match=part):
      tasks.exponential_family(*bad)
  with pytest.raises(ValueError, match="temperature must be 1"):
    tasks.exponential_family("poisson", 5, temperature=2.0)
