"""
A schedule of your own
======================

A table of shares is a workflow: row t - 1 says how much of generation t's training data each batch is, the real one
first. Here the same number of real rows is used up early, used evenly, or kept for later; the rest is the last
model's.
"""

import jax.numpy as jnp
import numpy as np

import collapse_jax as cj
from collapse_jax import theory, workflows

T = 12


def planned(tilt):
  """Shares of real rows from 1/2 - tilt to 1/2 + tilt; the first model sees nothing else."""
  real = jnp.concatenate([jnp.ones(1), jnp.linspace(0.5 - tilt, 0.5 + tilt, T - 1)])
  return workflows.weights(jnp.diag(1 - real) + jnp.outer(real, jnp.eye(T)[0]))


results = cj.sweep(
  cj.tasks.gaussian,
  {"planned": planned},
  {"dim": [1], "num_samples": [100], "tilt": [-0.5, 0.0, 0.5]},
  num_generations=T,
  num_seeds=300,
)
cj.plotting.trajectories(results, "squared_error_of_mean", columns="num_samples", colour="tilt")

# %%
# What theory says of a schedule needs no run. The error of every model, beside the first one's:

for tilt in (-0.5, 0.0, 0.5):
  print(f"{tilt:+.1f}", np.round(theory.schedule_noise(planned(tilt).schedule(100, T)), 2))
