"""
Mixing, and the golden ratio
============================

Each generation has n new real rows and n rows of the last model. What should a real row weigh? Pooled, each kind
weighs a half. The best weight of the real ones is 0.618, one over the golden ratio (arXiv 2502.18049).
"""

import numpy as np

import collapse_jax as cj
from collapse_jax import theory, workflows

weights = [0.3, 0.4, 0.5, 0.618, 0.7, 0.8, 0.9, 1.0]
results = cj.sweep(
  cj.tasks.gaussian,
  {"mix": lambda real_weight: workflows.mix(0.5, fresh=True, real_weight=real_weight)},
  {"dim": [1], "num_samples": [100], "real_weight": weights},
  num_generations=12,
  num_seeds=400,
)
error = results.squared_error_of_mean.isel(generation=-1).mean("seed").squeeze() * 100  # in units of sigma^2 / n

# %%
# Simulation beside theory, and the weight that theory finds best:

import matplotlib.pyplot as plt

grid = np.linspace(0.25, 1, 100)
figure, axis = plt.subplots(layout="constrained")
axis.plot(weights, error, "o", label="simulation")
axis.plot(grid, [theory.weighted_mixing_error(w, 1.0) for w in grid], "k--", label="theory")
axis.axvline(float(theory.golden_weight(1.0)), color="0.7", label="1 / golden ratio")
axis.set(xlabel="weight of the real rows", ylabel="error of the mean, in units of the first model's")
axis.legend(frameon=False)
