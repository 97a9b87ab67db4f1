"""
A task of your own in twenty lines
==================================

Four functions make a task: draw real data, fit, sample, judge. Here the location and scale of a Laplace
distribution, fitted by median and mean absolute deviation.
"""

import jax
import jax.numpy as jnp

import collapse_jax as cj
from collapse_jax import store
from collapse_jax.types import MetricInfo, TaskSetting


def laplace(num_samples):
  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    order = jnp.argsort(jnp.where(weight > 0, rows, jnp.inf))
    below = jnp.cumsum(weight[order]) / weight.sum()
    centre = rows[order][jnp.searchsorted(below, 0.5)]
    return centre, jnp.sum(weight * jnp.abs(rows - centre)) / weight.sum()

  draw = lambda key, model, num: store.batch(model[0] + model[1] * jax.random.laplace(key, (num,)))
  return TaskSetting(
    init=lambda key: (None, draw(key, (0.0, 1.0), num_samples)),
    fit=fit,
    sample=lambda key, problem, model, context: (draw(key, model, context.num), {}),
    evaluate=lambda key, problem, model: {"scale": model[1], "squared_error": model[0] ** 2},
    num_samples=num_samples,
    metrics={
      "scale": MetricInfo("fitted scale", worse="lower", measures="variance", log_scale=True),
      "squared_error": MetricInfo("squared error of the centre", worse="higher", measures="risk"),
    },
  )


results = cj.sweep(laplace, ["replace", "accumulate"], {"num_samples": [20]}, num_generations=30, num_seeds=100)
cj.plotting.trajectories(results, "scale", columns="num_samples", colour="workflow")

# %%
# `cj.testing.check_task(laplace(20))` says whether a task keeps to all that the loop relies on; see the page on tasks of your own.

cj.diagnose(results)
