"""
An autoencoder that emits means
===============================

A decoder's mean has no noise: every direction loses the decoder's variance in each generation, the small ones until
nothing is left.
"""

import collapse_jax as cj
from collapse_jax import theory

variances = [1.0, 0.5, 0.25]
results = cj.sweep(
  lambda num_samples, decoder_variance: cj.tasks.vae(
    variances, num_samples, 2, decoder_variance=decoder_variance, fit="closed_form"
  ),
  ["replace"],
  {"num_samples": [5000], "decoder_variance": [0.02, 0.1]},
  num_generations=12,
  num_seeds=10,
)
cj.plotting.trajectories(results, "covariance_trace_ratio", columns="num_samples", colour="decoder_variance")

# %%
# Where half of the rows are real, the directions come to rest at (theory):

print(theory.linear_vae_mix_limit(variances, 0.1, 0.5).round(3))
