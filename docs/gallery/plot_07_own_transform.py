"""
A transform of your own
=======================

A transform changes what models emit: here a privacy rule, by which rows further than two standard deviations from
the mean are pulled back. What is small in one generation takes the variance away in ten.
"""

import jax.numpy as jnp

import collapse_jax as cj
from collapse_jax import store, transforms


def clipped(task, limit):
  task = transforms.in_rows(task)

  def sample(key, problem, params, context):
    data, metrics = task.sample(key, problem, params, context)
    mean, std = jnp.mean(data.rows), jnp.std(data.rows)
    return store.with_rows(data, jnp.clip(data.rows, mean - limit * std, mean + limit * std)), metrics

  return transforms.resample(task, sample)


results = cj.sweep(
  lambda num_samples, limit: clipped(cj.tasks.gaussian(1, num_samples), limit),
  ["replace"],
  {"num_samples": [200], "limit": [1.5, 2.0, 3.0]},
  num_generations=10,
  num_seeds=50,
)
cj.plotting.trajectories(results, "covariance_trace_ratio", colour="limit")
