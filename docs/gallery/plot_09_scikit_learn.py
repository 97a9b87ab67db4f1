"""
scikit-learn in the loop
========================

With `driver="host"` the functions of a task are plain Python that is handed NumPy arrays. Here a Gaussian mixture
of scikit-learn on two moons.
"""

from sklearn.datasets import make_moons
from sklearn.mixture import GaussianMixture

import collapse_jax as cj
from collapse_jax import store
from collapse_jax.random import seed_of
from collapse_jax.types import MetricInfo


def mixture(num_samples, num_components):
  def init(key):
    rows, _ = make_moons(num_samples + 500, noise=0.1, random_state=seed_of(key))
    return rows[num_samples:], store.batch(rows[:num_samples])

  def fit(key, test, context):
    rows, _ = store.flat(context.data)
    return GaussianMixture(num_components, random_state=seed_of(key)).fit(rows)

  def sample(key, test, model, context):
    model.random_state = seed_of(key)
    return store.batch(model.sample(context.num)[0]), {}

  metrics = {"test_nll": MetricInfo("test negative log likelihood", "nats per item", worse="higher", measures="risk")}
  evaluate = lambda key, test, model: {"test_nll": -model.score(test)}
  return cj.TaskSetting(init, fit, sample, evaluate, num_samples, metrics=metrics)


results = cj.sweep(
  mixture,
  ["replace", "accumulate"],
  {"num_samples": [100], "num_components": [4]},
  num_generations=6,
  num_seeds=2,
  driver="host",
)
cj.plotting.trajectories(results, "test_nll", columns="num_samples", colour="workflow")
