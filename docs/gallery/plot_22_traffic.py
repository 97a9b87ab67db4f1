"""
Memory of a time series
=======================

An autoregression is fitted to series, and then to its own. Least squares of a short series forgets a little of the
past in each generation, and what theory says of it is the dashed line.
"""

import collapse_jax as cj
from collapse_jax.data import traffic

results = cj.sweep(
  lambda coefficient, num_samples: cj.tasks.ar_window(
    traffic.autoregression(40, [coefficient], 1.0), num_samples, window=1, head="linear", intercept=False
  ),
  ["replace"],
  {"coefficient": [0.9], "num_samples": [10]},
  num_generations=10,
  num_seeds=30,
  static_axes=("coefficient",),
)
cj.plotting.trajectories(results, "lag1_coefficient", columns="num_samples", colour="workflow")
