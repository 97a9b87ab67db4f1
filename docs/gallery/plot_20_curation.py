"""
Curation by a reward
====================

People publish the better of several samples. What they like a little more takes over, unless real rows stay in
(Ferbach et al., arXiv 2407.09499).
"""

import numpy as np

import collapse_jax as cj
from collapse_jax import transforms


def liked(num_samples, num_candidates):
  task = cj.tasks.discrete(2, num_samples, [0.9, 0.1])
  task = task._replace(evaluate=lambda key, problem, p: {"share_of_liked": p[1]}, metrics={})
  return transforms.curate(task, reward=lambda rows: rows.astype(float), num_candidates=num_candidates)


results = cj.sweep(
  liked,
  ["replace", "mix(0.5)"],
  {"num_samples": [2000], "num_candidates": [2]},
  num_generations=12,
  num_seeds=10,
)
cj.plotting.trajectories(results, "share_of_liked", columns="num_samples", colour="workflow")

# %%
# Theory of a large number of rows, two candidates, nothing real kept:

print(np.round(cj.theory.curation_two_types(0.1, 1.0, 2, 12), 3))
