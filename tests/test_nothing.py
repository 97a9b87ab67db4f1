"""Nothing kept is no model: where the training data have no mass, no number is finite, in any task, from then on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import by_steps

import collapse_jax as cj
from collapse_jax import store, tasks, transforms, workflows

N, T, LAST = 12, 6, 2  # generation LAST is the last whose training data are kept

TASKS = {
  "gaussian": lambda: tasks.gaussian(2, N),
  "gaussian_rank": lambda: tasks.gaussian(3, 2),
  "kde": lambda: tasks.kde("moons", N, 0.5, num_test=20),
  "kde_tophat": lambda: tasks.kde("normal", N, 9.0, "tophat", num_test=20),
  "kde_scott": lambda: tasks.kde("blobs", N, "scott_scaled", num_test=20),
  "discrete": lambda: tasks.discrete(5, N),
  "discrete_renumbered": lambda: tasks.discrete(500, N),
  "classification": lambda: tasks.classification(2, N),
  "classification_ridge": lambda: tasks.classification(2, N, classifier="ridge", labels="noisy"),
  "bernoulli": lambda: tasks.exponential_family("bernoulli", N),
  "poisson": lambda: tasks.exponential_family("poisson", N),
  "exponential": lambda: tasks.exponential_family("exponential", N),
  "gaussian_family": lambda: tasks.exponential_family("gaussian", N),
  "linear_regression": lambda: tasks.linear_regression(3, N),
  "linear_regression_wide": lambda: tasks.linear_regression(N + 3, N),
  "linear_regression_fresh": lambda: tasks.linear_regression(3, N, covariates="fresh"),
  "logistic_regression": lambda: tasks.logistic_regression("breast_cancer", 40),
  "ngram": lambda: tasks.ngram(N, 4, length=6),
  "flow": lambda: tasks.flow([1.0, 0.5], N, num_steps=3),
  "ppca": lambda: tasks.ppca([2.0, 1.0, 1.0], N, 1),
  "gaussian_mixture": lambda: tasks.gaussian_mixture("ring", N, 2, num_steps=3, num_test=20),
  "labelled": lambda: tasks.labelled("moons", N, num_test=20),
  "labelled_kde": lambda: tasks.labelled("moons", N, "kde", num_test=20),
  "sample_median": lambda: tasks.sample_median(N),
}


def rejecting(task, at=LAST):
  """The task, whose models' rows are all rejected in generation `at`, and none in others."""
  keep = lambda key, problem, rows: jnp.ones(store.num_rows(rows))
  checked = transforms.verify(task, keep)

  def sample(key, problem, params, context):
    data, metrics = checked.sample(key, problem, params, context)
    weight = jnp.where(context.t == at, 0.0, data.row_weight)
    return data._replace(row_weight=weight, count=jnp.sum(weight, axis=1)), metrics

  return checked._replace(sample=sample)


@pytest.mark.parametrize("name", TASKS)
def test_nothing_kept_is_no_model(name):
  out = cj.run(jax.random.key(0), rejecting(TASKS[name]()), workflows.replace(), T)
  np.testing.assert_array_equal(out["finite"], np.arange(1, T + 1) <= LAST)
  np.testing.assert_array_equal(out["train_size"][LAST:], 0)
  for metric, value in out.items():
    if metric not in ("finite", "train_size"):
      assert np.isfinite(value[:LAST]).all() and np.isnan(value[LAST:]).all(), metric


# Rows of model LAST are lost. What else is fitted to in generation LAST + 1, and what later ones see of it, tells when there is a model.
RECOVERING = {
  "replace": [1, 1, 0, 0, 0, 0],
  "sliding_window(2)": [1, 1, 1, 1, 1, 1],
  "accumulate": [1, 1, 1, 1, 1, 1],
  "mix(0.5)": [1, 1, 1, 1, 1, 1],
  "mix(0.5, real_weight=0.2)": [1, 1, 1, 1, 1, 1],
  "grown_replace": [1, 1, 0, 0, 0, 0],
  # Generation 4 sees the real batch again, and 5 only what model 3, which is none, has written.
  "weights([[1,0,0,0,0,0],[0,1,0,0,0,0],[0,0,1,0,0,0],[.5,0,0,.5,0,0],[0,0,0,1,0,0],[0,0,0,.5,.5,0]])": [
    1,
    1,
    0,
    1,
    0,
    1,
  ],
}


@pytest.mark.parametrize("name", ["gaussian", "sample_median"])
@pytest.mark.parametrize("workflow", RECOVERING)
def test_a_model_is_there_again_once_there_are_data(workflow, name):
  out = cj.run(jax.random.key(1), rejecting(TASKS[name]()), workflows.parse(workflow)(), T)
  np.testing.assert_array_equal(out["finite"], np.array(RECOVERING[workflow], bool))
  np.testing.assert_array_equal(np.asarray(out["train_size"]) > 0, np.asarray(out["finite"]))


def test_a_model_of_nothing_has_no_parameters_and_no_rows():
  task, workflow = rejecting(tasks.kde("moons", N, 0.5, num_test=20)), workflows.replace()
  run = cj.start(jax.random.key(0), task, workflow, T)
  run, _ = cj.advance(task, workflow, run, range(1, LAST + 2), num_generations=T, warm_start=True)
  assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(run.params))
  assert float(run.store.count[0]) == 0 and not np.asarray(run.store.row_weight).any()
  assert np.isfinite(run.store.rows).all()  # rows of weight 0 are multiplied with their weight


def test_sweeps_and_the_host_loop_say_so():
  """Runs of which each row is kept with probability a half end one after another, and none is averaged in."""
  keep = lambda key, problem, rows: jax.random.uniform(key, (store.num_rows(rows),)) < 0.5
  task = lambda: transforms.verify(tasks.exponential_family("gaussian", 2), keep)
  results = cj.sweep(task, ["replace"], {}, num_generations=8, num_seeds=40)
  finite = results.finite.values[0]
  assert finite[:, 0].all() and not finite[:, -1].all()
  assert (np.diff(finite.astype(int), axis=1) <= 0).all()  # what has ended stays so
  np.testing.assert_array_equal(np.isfinite(results.fitted_mean.values[0]), finite)
  np.testing.assert_array_equal(results.train_size.values[0] > 0, finite)
  by_host = by_steps(task, ["replace"], {}, num_generations=8, num_seeds=40)
  np.testing.assert_array_equal(by_host.finite.values[0], finite)


def test_no_classifier_without_rows():
  reject = lambda key, problem, rows: jnp.zeros(N)
  task = transforms.train_on_synthetic(transforms.verify(tasks.labelled("moons", N, "kde", num_test=20), reject))
  out = cj.run(jax.random.key(0), task, workflows.replace(), 1)
  assert np.isnan(out["downstream_nll"]).all() and np.isfinite(out["oracle_nll"]).all()
  assert not out["finite"].any()
