"""
The sampler's own bias
======================

With exact scores and many rows, what is left of a loop's drift is the solver of the differential equation: DDIM
loses variance, EDM's Heun gains it, a midpoint rule keeps it.
"""

import collapse_jax as cj

solvers = {"ddim": 100, "edm_heun": 18, "flow_euler": 20, "flow_midpoint": 20}
results = cj.sweep(
  lambda solver, num_samples: cj.tasks.flow([0.25], num_samples, solver=solver, num_steps=solvers[solver]),
  ["replace"],
  {"solver": ["ddim", "edm_heun"], "num_samples": [10_000]},
  num_generations=10,
  num_seeds=10,
)
cj.plotting.trajectories(results, "covariance_trace_ratio", columns="num_samples", colour="solver")

# %%
# The factor of one pass, from theory alone:

from collapse_jax import theory

for solver, steps in solvers.items():
  print(solver, float(theory.variance_factor(solver, num_steps=steps, variance=0.25)))
