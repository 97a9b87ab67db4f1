"""
Eight definitions of collapse
=============================

Papers mean different things by "model collapse" (Schaeffer et al., arXiv 2503.03150). Each is a test here, so that
you can say which one you mean, and which of them your runs show.
"""

import collapse_jax as cj

results = cj.sweep(
  cj.tasks.gaussian,
  ["replace", "accumulate"],
  {"dim": [1], "num_samples": [10, 20, 40]},
  num_generations=20,
  num_seeds=100,
)
findings = cj.diagnose(results)
findings

# %%
# One of them in words, cell by cell:

for row in findings:
  if row["applies"] and row["metric"] == "covariance_trace_ratio":
    print(row["workflow"], row["num_samples"], row["definition"], "-", row["statement"])
