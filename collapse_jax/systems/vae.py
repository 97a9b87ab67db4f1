"""Autoencoders fed on the means of their decoders, the second domain of the accumulation study (Gerstgrasser et al. 2404.01413)."""

import itertools

import numpy as np

from collapse_jax import tasks, theory, workflows
from collapse_jax.plotting.panels import band, finish, panels
from collapse_jax.systems.drawing import SHADES, THEORY, curves, name_axes, sliced
from collapse_jax.systems.runs import expected_shares, showing, simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["NUM_SHOWN", "SYSTEM", "figures", "looked_at", "pairs"]

SOURCE = "2404.01413"
NUM_SHOWN = 16  # rows of every model that results keep, to be looked at
VARIANCES, NOISE, KEPT = (3.0, 1.0, 0.37, 0.1), 0.1, 3
T = 5


def pairs(seed: int = 0) -> list[Pair]:
  """A linear autoencoder loses its noise in every direction and generation; the wrong theory has half as much again."""
  task = tasks.vae(VARIANCES, 20_000, KEPT, decoder_variance=NOISE, fit="closed_form")
  rows: list[Pair] = []
  for name in ("replace", "accumulate"):
    workflow = workflows.parse(name)()
    found = simulate(task, workflow, 200, T, seed)["direction_variances"]
    law, twin = (
      theory.linear_vae(VARIANCES, noise, KEPT, expected_shares(workflow, T)) for noise in (NOISE, 1.5 * NOISE)
    )
    rows += [
      pair(
        "linear autoencoder",
        SOURCE,
        f"variance in the direction of {VARIANCES[i]:g}, {name}, t = {t}",
        found[:, t - 1, i],
        law[t - 1, i],
        twin[t - 1, i],
      )
      for i, t in ((0, T), (1, T), (2, 2))
    ]
  return rows


def looked_at(task):
  """`tasks.vae` with rows of every model, which figures show."""
  return showing(task, NUM_SHOWN)


def figures(results):
  """Metrics and shares of attributes over generations by workflow, and pictures that models of some generations emit."""
  found = sliced("vae", results, ("workflow",), lambda part: _curves(part, results.attrs))
  if "shown_rows" in results and "height" in results.attrs:
    shape = int(results.attrs["height"]), int(results.attrs["width"])
    found |= sliced("vae_samples", results, ("workflow",), lambda part: _samples(part, shape))
  return found


def _curves(part, attrs):
  metrics = [name for name in ("attribute_rates", "covariance_trace_ratio", "test_negative_elbo") if name in part]
  figure, axes = panels(len(metrics), part.sizes["workflow"], share_y="row")
  left_out, law, known = 0, "covariance_trace_ratio_expected", False
  names, rates = str(attrs.get("attributes", "")).split(","), np.atleast_1d(attrs.get("rates", []))
  for (metric, row), (j, workflow) in itertools.product(zip(metrics, axes), enumerate(part.workflow.values)):
    cell = {"workflow": workflow}
    row[j].set_title(str(workflow), fontsize=9)
    if metric == "attribute_rates":
      if str(part.sel(cell).cell_status.values) != "ok":
        continue
      if len(rates):
        row[j].plot([], [], ":", color="0.3", linewidth=1, label="true rates")
      values = part.sel(cell).attribute_rates.transpose("attribute", "seed", "generation").values
      for i, (each, shade) in enumerate(zip(values, itertools.cycle(SHADES))):
        left_out += band(row[j], part.generation.values, each, shade, names[i] if i < len(names) else str(i), False)
        if i < len(rates):
          row[j].axhline(rates[i], color=shade, linestyle=":", linewidth=1)
      continue
    left_out += curves(row[j], part, metric, cell, "0.3", "models")
    if metric == "covariance_trace_ratio" and law in part and np.isfinite(part[law].sel(cell)).any():
      row[j].plot(part.generation.values, part[law].sel(cell).values, **THEORY)
      known = True
  name_axes(axes, part, metrics)
  finish(figure, axes, "", part, left_out, 0, known)
  return figure


def _samples(part, shape):
  """Of the first run."""
  shown = sorted({1, *(part.generation.values[i] for i in np.linspace(0, part.sizes["generation"] - 1, 5).astype(int))})
  figure, axes = panels(part.sizes["workflow"], len(shown))
  side = int(np.sqrt(NUM_SHOWN))
  for row, workflow in zip(axes, part.workflow.values):
    for axis, t in zip(row, shown):
      cell = part.sel(workflow=workflow)
      if str(cell.cell_status.values) == "ok":
        rows = cell.shown_rows.sel(generation=t).isel(seed=0).values.reshape(side, side, *shape)
        axis.imshow(np.block([list(line) for line in rows]), cmap="gray", vmin=0, vmax=1)
      axis.set_title(f"{workflow}, t = {t}", fontsize=8)
      axis.set_axis_off()
  figure.suptitle(part.attrs.get("slice", ""), fontsize=11)
  figure.supxlabel("rows that models of the first run emit", fontsize=8, color="0.35")
  return figure


TEXT = """## Autoencoders and the attributes of what they draw

Gerstgrasser et al., [2404.01413](https://arxiv.org/abs/2404.01413), loop a variational autoencoder of faces: under `replace` minor
attributes vanish, and accumulating slows that. Decoders emit their means, so that each direction loses the variance sigma^2 of the
decoder's noise a generation: exact for linear ones, where a direction of variance l lives for l / sigma^2 generations under
`replace`, for exp(l / sigma^2 - 0.58) under `accumulate`, and keeps l - sigma^2 / f with a real share f.

```python
task = tasks.vae("digits", 100, 4, fit="closed_form", decoder_variance=0.02, num_test=20)
workflow = workflows.accumulate()
```

`python -m experiments.vae` draws letters in eight fonts, whose attributes (bold, italic, serif, inverted) have known rates, and looks
for them among what models emit; `--networks=linear,mlp`, `--data=mnist5k`. Dots are the rates of the truth, dashes the law of the
linear one.

The figure is of a perceptron: inverted letters (5%) are gone in its first generation, bold ones (30%) within ten under `replace`
and not under `accumulate`.

![Attributes of letters over generations](figures/vae.png)

![Letters over generations](figures/vae_samples.png)

The four domains of the study, test losses (of molecules: how far torsions are from real ones) of letters, conformers of a dipeptide
by diffusion, a language model of Python's documentation, and a regression beside its law. Under `replace` all of them rise without
rest, under `accumulate` little, or up to a level:

```
python -m experiments.vae
python -m experiments.molecules --molecules=alanine_dipeptide --models=diffusion --num_samples=60 --num_conformers=300 \\
  --num_generations=6 --num_seeds=4
python -m experiments.language_model
python -m experiments.linear_regression --dims=10 --num_samples=100 --noise_vars=1
python -m experiments.compare results/vae results/molecules results/language_model results/linear_regression \\
  --figure=four_domains.png --metrics=test_negative_elbo,torsion_divergence,test_loss,test_mse
```

![Four domains, replacing and accumulating](figures/four_domains.png)
"""

SYSTEM = System(TEXT, pairs, figures)
