"""
A language model that is counted
================================

How often each character follows each, counted in a text, then in a text of its own. Pairs that are rare go first.
"""

import numpy as np

import collapse_jax as cj

text = (cj.__doc__ + cj.theory.__doc__ + cj.sweep.__doc__).lower()
alphabet, characters = np.unique([c if c.isalpha() else " " for c in text], return_inverse=True)
counts = np.full((len(alphabet), len(alphabet)), 0.01)
np.add.at(counts, (characters[:-1], characters[1:]), 1)
truth = counts / counts.sum(axis=1, keepdims=True)
results = cj.sweep(
  lambda num_samples: cj.tasks.ngram(num_samples, truth=truth, length=32),
  ["replace"],
  {"num_samples": [40]},
  num_generations=12,
  num_seeds=10,
)
cj.plotting.trajectories(results, "test_nll", columns="num_samples", colour="workflow")

# %%
# How sure the model is of the next character, in nats; a model that repeats itself is surer:

print(results.entropy.mean("seed").squeeze().isel(generation=[0, 5, 11]).to_pandas().round(2))
