"""
A forecast, or that there is none
=================================

Eight generations have been run; what will the metric be in the twentieth? Families of curves that theory has for
the workflow are fitted run by run, and what cannot be told is said to be so.
"""

import collapse_jax as cj

whole = cj.sweep(
  cj.tasks.gaussian,
  ["replace", "accumulate"],
  {"dim": [1], "num_samples": [100]},
  num_generations=20,
  num_seeds=100,
)
seen = whole.sel(generation=slice(1, 8))
told = cj.decisions.forecast(seen, horizon=20, metric="squared_error_of_mean")
print(told.status.squeeze().to_pandas())

# %%
# The forecast with its 90% interval, from what was seen (left of the line), and what then happened.

import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for axis, workflow in zip(axes, whole.workflow.values):
  mean = whole.squared_error_of_mean.sel(workflow=workflow).squeeze().mean("seed")
  one = told.sel(workflow=workflow).squeeze()
  axis.fill_between(one.generation, one.low, one.high, alpha=0.3, label="90% interval")
  axis.plot(one.generation, one["mean"], label="forecast")
  axis.plot(mean.generation, mean, "k.", label="runs")
  axis.axvline(8.5, color="0.8")
  axis.set(title=workflow, xlabel="generation")
axes[0].legend(frameon=False)
