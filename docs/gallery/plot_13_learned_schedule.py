"""
The best schedule, by gradients
===============================

A budget of real rows for all generations together: when should they be used? Runs are differentiated through all
their generations.
"""

import numpy as np

import collapse_jax as cj

task = cj.tasks.exponential_family("gaussian", 50, draws="law")
T, budget = 4, 100
found = cj.decisions.learn_schedule(task, T, budget, fresh=True, lags=1, num_runs=32, num_steps=40)
print(found.table.round(2))

# %%
# Its shares, and the error beside that of spending the budget evenly. The last generation, whose rows help no later one, gets
# least; averaged over generations the error is lower, by a hundredth: even is nearly best here.

even = np.zeros((T, T))
even[0, 0], even[1:, 0] = 1, (budget / 50 - 1) / (T - 1)
even[range(1, T), range(1, T)] = 1 - even[1, 0]
errors = cj.sweep(
  task,
  {"weights": lambda learned: cj.workflows.weights(learned * found.table + (1 - learned) * even, fresh=True)},
  {"learned": [1.0, 0.0]},
  num_generations=T,
  num_seeds=10_000,
).squared_error_of_mean[0]
cj.plotting.learned_schedule(found.table, {"learned": errors[0], "even": errors[1]})
