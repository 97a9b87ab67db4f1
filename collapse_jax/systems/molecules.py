"""Conformers of molecules, the third domain of the accumulation study (Gerstgrasser et al. 2404.01413), in internal coordinates."""

import itertools

from collapse_jax import tasks, theory, workflows
from collapse_jax.data import molecules
from collapse_jax.plotting.panels import finish, panels
from collapse_jax.systems.drawing import SHADES, THEORY, curves, name_axes, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "pairs"]

SOURCE = "2404.01413"
NUM_SAMPLES, NUM_RUNS, T = 20, 1500, 5


def pairs(seed: int = 0) -> list[Pair]:
  """Lengths and angles are fitted as a Gaussian, whatever is done with torsions; the wrong theory divides by n - 1, and loses nothing."""
  molecule = molecules.alkane(4, 400)
  task = tasks.molecules(molecule, NUM_SAMPLES, num_components=2, num_em_steps=2)
  out = simulate(task, workflows.replace(), NUM_RUNS, T, seed)["stiff_variance_ratio"]
  law, twin = (theory.gaussian_replace(NUM_SAMPLES, T, unbiased).trace_ratio for unbiased in (False, True))
  what = "variance of lengths and angles over the real one, replace, t = "
  return [pair("conformers", SOURCE, f"{what}{t}", out[:, t - 1], law[t - 1], twin[t - 1]) for t in (1, T)]


_SHOWN = ("recall_coverage", "precision_matching", "torsion_divergence", "excess_strain", "stiff_variance_ratio")


def figures(results):
  """A figure a molecule: a row a metric, a column a workflow, a curve a model of torsions."""

  def draw(part):
    metrics = [metric for metric in _SHOWN if metric in part]
    figure, axes = panels(len(metrics), part.sizes["workflow"], share_y="row")
    left_out, law = 0, "stiff_variance_ratio_expected"
    for (metric, row), (j, workflow) in itertools.product(zip(metrics, axes), enumerate(part.workflow.values)):
      row[j].set_title(str(workflow), fontsize=9)
      for model, shade in zip(part.model.values, SHADES):
        cell = {"workflow": workflow, "model": model}
        left_out += curves(row[j], part, metric, cell, shade, str(model).replace("_", " "))
        if metric == "stiff_variance_ratio" and law in part:
          row[j].plot(part.generation.values, part[law].sel(cell).values, **THEORY)
    name_axes(axes, part, metrics)
    finish(figure, axes, "", part, left_out, 0, law in part)
    return figure

  return sliced("molecules", results, ("workflow", "model"), draw)


TEXT = """## Conformers of molecules

Gerstgrasser et al., [2404.01413](https://arxiv.org/abs/2404.01413), loop a diffusion model of conformers. Here molecules are small
and told by internal coordinates: lengths and angles, which are normal, and torsions, by a mixture of von Mises laws or by diffusion
on their torus.

```python
task = tasks.molecules(cj.data.molecules.alkane(num_carbons=4, num=100), 20, num_components=3, num_em_steps=5)
workflow = workflows.accumulate()
```

`python -m experiments.molecules` has butane, alanine dipeptide and ibuprofen as RDKit embeds them (extra `molecules`); `alkane` is a
chain whose law is known. Coverage and matching are taken after alignment, the strain of torsions from relaxed MMFF energies. Under
`replace` lengths and angles shrink by 1 - 1/n a generation. The figure has the dipeptide: what diffusion does wrong grows with each
generation, in strain as in distance, and levels off under `accumulate`; the mixture, which fits well at once, hardly drifts.

![Conformers over generations](figures/molecules.png)
"""

SYSTEM = System(TEXT, pairs, figures)
