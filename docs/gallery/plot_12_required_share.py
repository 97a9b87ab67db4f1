"""
How much real data is enough?
=============================

The smallest share of real rows with which a metric stays within a tolerance of the first generation's, and its
interval. The sampler here is too timid, temperature 0.9, as of a language model: a bias, which only real rows hold
against.
"""

import collapse_jax as cj

shares = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]
results = cj.sweep(
  lambda num_samples: cj.tasks.gaussian(1, num_samples, temperature=0.9),
  ["mix"],
  {"num_samples": [200], "real_fraction": shares},
  num_generations=20,
  num_seeds=60,
)
answer = cj.decisions.required_share(results, tolerance=0.2, metric="covariance_trace_ratio")
print(answer)

# %%

cj.plotting.metric_against_real_share(results, "covariance_trace_ratio")
