"""
KDE: the bandwidth is a bias
============================

A kernel density estimate is wider than its data by its bandwidth, and passes that on in each generation. Where
nothing real is left the error of a large bandwidth grows without end; a bandwidth that is too small copies rows,
and loses some each time.
"""

import collapse_jax as cj

results = cj.sweep(
  cj.tasks.kde,
  ["replace", "accumulate"],
  {"dataset": ["moons"], "num_samples": [100], "bandwidth": [0.05, 0.15, 0.5]},
  num_generations=10,
  num_seeds=10,
)
cj.plotting.trajectories(results, "test_nll", colour="bandwidth")

# %%
# The last generation, mean over runs, in nats per row:

print(results.test_nll.isel(generation=-1, dataset=0, num_samples=0).mean("seed").to_pandas().round(2))
