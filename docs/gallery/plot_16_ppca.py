"""
Principal components, again and again
=====================================

Probabilistic PCA keeps the largest directions and calls the rest noise. Fitted to its own rows, it wanders: the
kept variances of a run drift ever further from the truth under `replace`, and stay near the first fit under
`accumulate`.
"""

import numpy as np

import collapse_jax as cj

variances = [4.0, 2.0, 1.0, 0.5, 0.25]
results = cj.sweep(
  lambda num_samples: cj.tasks.ppca(variances, num_samples, 2),
  ["replace", "accumulate"],
  {"num_samples": [40.0]},
  num_generations=20,
  num_seeds=100,
)
cj.plotting.trajectories(results, "leading_variance", columns="num_samples", colour="workflow")

# %%

kept = results.kept_variances.mean("seed").squeeze().isel(generation=[0, 19])
print(np.round(kept.values, 2))
