"""
Theory against simulation
=========================

A task brings its own law, which a sweep evaluates under each schedule and keeps beside the results as
`METRIC_expected`. The difference to the simulated mean, in standard errors, is a z-score: beyond 5 either the law
is wrong, or the code.
"""

import pandas as pd

import collapse_jax as cj

results = cj.sweep(
  cj.tasks.gaussian,
  ["replace", "accumulate"],
  {"dim": [1], "num_samples": [100]},
  num_generations=20,
  num_seeds=100,
)
rows = pd.DataFrame(cj.diagnostics.compare_with_theory(results, generations=[1, 2, 20]))
print(rows[["workflow", "metric", "generation", "simulated", "predicted", "z"]].round(4).to_string(index=False))

# %%
# The largest of them, of so many:

print(f"{len(rows)} comparisons, largest |z| {rows.z.abs().max():.2f}")
cj.plotting.trajectories(results, "squared_error_of_mean", columns="num_samples", colour="workflow")
