"""
Three workflows diverge
=======================

The same estimator in the same loop: forget the old data, keep all of them, or keep a budget drawn from all of them.
"""

import collapse_jax as cj

results = cj.sweep(
  cj.tasks.linear_regression,
  ["replace", "accumulate", "accumulate_subsample"],
  {"dim": [5], "num_samples": [100]},
  num_generations=20,
  num_seeds=100,
)

# %%
# Bands are 95% intervals of the mean over runs, dashes what theory says of each schedule.

cj.plotting.trajectories(results, "test_mse", columns="dim", colour="workflow")

# %%
# In words:

cj.report.summary(results)
