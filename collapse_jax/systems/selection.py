"""Selection by nearness to real data: an analogue of Alrashedy et al. 2311.00931."""

from collapse_jax import tasks, theory, transforms, workflows
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, pair

SOURCE = "2311.00931"


def pairs(seed: int = 0) -> list[Pair]:
  return [*_variance(seed), *_purity(seed)]


def _variance(seed):
  """What is kept of N(0, 1), and the loop of Gaussians with a fixed anchor of 2000 rows."""
  rows, n = [], 2000
  for num_neighbors, num_runs, value in ((1, 48, 0.568), (50, 12, 0.174)):
    task = transforms.select_nearest(tasks.gaussian(1, n), 0.5, num_neighbors=num_neighbors)
    kept = simulate(task, workflows.replace(), num_runs, 2, seed)["covariance_trace_ratio"][:, 1] / (1 - 1 / n) ** 2
    law, twin = (theory.nearest_variance(1.0, 0.5, k, n) for k in (num_neighbors, 10 * num_neighbors))
    rows.append(
      pair(
        "nearest to real", SOURCE, f"variance of the nearer half, {num_neighbors} neighbours", kept, law, twin, value
      )
    )
  out = simulate(transforms.select_nearest(tasks.gaussian(1, n), 0.9), workflows.replace(), 48, 9, seed)
  laws, twins = (theory.nearest_loop(share, 9, 1, n) for share in (0.9, 0.85))
  reference = (0.736, 0.578, 0.476, 0.406, 0.354, 0.315, 0.284, 0.259)
  for t, value in enumerate(reference, 1):
    rows.append(
      pair(
        "nearest to real, loop",
        SOURCE,
        f"variance after {t} selections of 90 %",
        out["covariance_trace_ratio"][:, t] / (1 - 1 / n) ** (t + 1),
        laws[t],
        twins[t],
        value,
      )
    )
  return rows


def _purity(seed):
  """Realistic share of the fifth that is nearest, half of all being `distance` off in 8 dimensions."""
  rows = []
  for distance, value in ((2.0, 0.68), (4.0, 0.96), (6.0, 1.00)):
    task = transforms.select_nearest(tasks.unrealistic(1000, 0.5, distance), 0.2, lambda rows: rows["x"])
    values = simulate(task, workflows.replace(), 32, 2, seed)["purity"][:, 1]
    rows.append((distance, values, value))
  return [
    pair(
      "nearest to real, purity",
      SOURCE,
      f"realistic share of the nearest fifth, distance {distance:g}",
      values,
      theory.nearest_purity(distance, 8, 1000, 0.2),
      theory.nearest_purity(0.7 * distance, 8, 1000, 0.2),
      value,
    )
    for distance, values, value in rows
  ]
