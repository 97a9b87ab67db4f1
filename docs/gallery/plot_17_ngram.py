"""
A language model that is counted
================================

A trigram of characters, fitted to a text, then to its own text. Whole words stay for a while; what is rare goes.
"""

import collapse_jax as cj
from collapse_jax.tasks import _ngram

text = (cj.__doc__ + cj.theory.__doc__ + cj.sweep.__doc__).lower()
truth = _ngram.conditional_frequencies("".join(c if c.isalpha() else " " for c in text))
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
