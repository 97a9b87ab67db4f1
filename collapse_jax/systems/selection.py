"""Selection by nearness to real data: an analogue of Alrashedy et al. 2311.00931."""

import numpy as np

from collapse_jax import tasks, theory, transforms, workflows
from collapse_jax.plotting.panels import finish, log_axis, panels, text_of, viridis, wrapped
from collapse_jax.systems.drawing import GREY, SHADES, THEORY, curves, is_chain, name_axes, points, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "pairs"]

SOURCE = "2311.00931"


def pairs(seed: int = 0) -> list[Pair]:
  """Predictions beside simulations."""
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


def figures(results):
  """Gaussian: variance over generations by kept share; unrealistic samples: accuracy and purity against it."""
  gaussian = results.attrs["setting"] == "gaussian"
  return sliced(
    "selection",
    results,
    ("keep_fraction", "workflow") if gaussian else ("keep_fraction", "selection"),
    _kept_variance if gaussian else _kept_accuracy,
  )


def _kept_variance(part):
  figure, axes = panels(1, part.sizes["workflow"], share_y=True)
  n, T, num_neighbors = int(part.num_samples.values), int(part.generation.values[-1]), int(part.attrs["num_neighbors"])
  left_out = known = 0
  for axis, workflow in zip(axes[0], part.workflow.values):
    axis.set_title(str(workflow), fontsize=9)
    for keep, shade in zip(part.keep_fraction.values, viridis(part.sizes["keep_fraction"])):
      cell = {"keep_fraction": keep, "workflow": workflow}
      left_out += curves(axis, part, "covariance_trace_ratio", cell, shade, f"{text_of(keep)} kept")
      alike = (part.train_size.sel(cell) == n).all()  # batches of one size
      if str(part.selection.values) == "nearest" and is_chain(part, cell) and alike:
        law = theory.nearest_loop(float(keep), T, num_neighbors, n) if keep < 1 else np.ones(T)
        known = 1
        axis.plot(
          part.generation.values, (law * (1 - 1 / n) ** np.arange(1, T + 1))[part.generation.values - 1], **THEORY
        )
    log_axis(axis)
  name_axes(axes, part, ["covariance_trace_ratio"])
  finish(figure, axes, "", part, left_out, 0, bool(known))
  return figure


def _kept_accuracy(part):
  """Of models of the last generation; what is kept is chosen by nearness, or at random."""
  metrics = [name for name in ("accuracy", "purity") if name in part]
  figure, axes = panels(1, len(metrics))
  keep = np.sort(part.keep_fraction.values)
  left_out = 0
  for axis, metric in zip(axes[0], metrics):
    for selection, shade in zip(part.selection.values, (SHADES[0], GREY)):
      values = (
        part[metric].isel(generation=-1).sel(selection=selection, keep_fraction=keep).transpose("seed", "keep_fraction")
      )
      left_out += points(
        axis, keep, values.values, shade, {"nearest": "nearest to real rows"}.get(str(selection), "at random")
      )
    axis.set_xscale("log")
    axis.set_xlabel("kept share of the samples")
    axis.set_ylabel(wrapped(part[metric].attrs))
  finish(figure, axes, "", part, left_out, 0, False)
  return figure


TEXT = """## Selection by nearness to real data

An analogue of Alrashedy et al., [2311.00931](https://arxiv.org/abs/2311.00931), for any rows and embedding: the samples nearest to real
rows are kept. It rejects what is unrealistic, and is a collapse of its own: it favours dense regions.

```python
task = transforms.select_nearest(tasks.gaussian(1, 100), keep_fraction=0.5)
workflow = workflows.replace()
```

`python -m experiments.selection --setting=gaussian` (or `unrealistic`). Where as many are drawn
whatever is kept (`oversample=False`), accuracy has its best in between: fewer rows are too few, more are too unlike.

The nearest half of a normal with 50 neighbours keeps .182 of its variance by theory for a real batch of 2000, .174 in a simulation
elsewhere; a level set, the limit for large batches and many neighbours, would leave .143.

![The price in variance](figures/selection.png)
![Accuracy and purity against the kept share](figures/selection_unrealistic.png)
"""

SYSTEM = System(TEXT, pairs, figures)
