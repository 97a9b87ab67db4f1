"""
Without `sweep`: seeds vectorised by hand
=========================================

A run is a pure function of a key. `jax.vmap` and `jax.jit` do what they do with any function, and so does
`jax.grad`.
"""

import functools

import jax
import jax.numpy as jnp

import collapse_jax as cj

task, workflow = cj.tasks.gaussian(dim=1, num_samples=50), cj.workflows.accumulate()
run = functools.partial(cj.run, task=task, workflow=workflow, num_generations=15)
metrics = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 200))
print({name: value.shape for name, value in metrics.items()})

# %%
# The error, and how it depends on the temperature of the samples, as a derivative through fifteen generations:


def trace(temperature, key):
  hot = cj.tasks.gaussian(dim=1, num_samples=50, temperature=temperature)
  return cj.run(key, hot, workflow, 15)["covariance_trace_ratio"][-1]


keys = jax.random.split(jax.random.key(1), 200)
value, slope = jax.jit(jax.vmap(jax.value_and_grad(trace), (None, 0)))(1.0, keys)
print(f"trace ratio {jnp.mean(value):.3f}, its derivative with respect to temperature {jnp.mean(slope):.3f}")
