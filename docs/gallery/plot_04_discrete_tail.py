"""
The tail goes first
===================

Tokens with Zipf's frequencies, counted and drawn again. Under `replace` a token that was not drawn once never comes
back, which is how rare ones are lost first: half of them are gone when the entropy, an average, is down by a tenth.
"""

import numpy as np

import collapse_jax as cj

zipf = 1 / np.arange(1, 201)
results = cj.sweep(
  lambda num_samples: cj.tasks.discrete(200, num_samples, zipf / zipf.sum(), draws="rows"),
  ["replace", "mix(0.1)"],
  {"num_samples": [500]},
  num_generations=20,
  num_seeds=20,
)
print(results[["support_ratio", "entropy"]].mean("seed").isel(generation=[0, 4, 19]).to_dataframe().round(3))

# %%

cj.plotting.trajectories(results, "support_ratio", columns="num_samples", colour="workflow")
