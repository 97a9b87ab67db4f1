"""Edited labels of a linear regression, the analysis behind token editing (Zhu et al. 2412.14689)."""

import itertools

from collapse_jax import tasks, theory, transforms, workflows
from collapse_jax.plotting.panels import band, finish, panels, text_of, viridis
from collapse_jax.systems.drawing import GREY, THEORY, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "pairs"]

SOURCE = "2412.14689"
DIM, NUM_SAMPLES, NUM_RUNS = 2, 500, 1600


# mask, base, noise, share, generation, value in the notes, and what the paper's theorem or another mask would give.
CASES = (
  ("fresh", "chain", "additive", 0.27, 11, None, 2.0),
  ("disjoint", "chain", "additive", 0.1, 12, 2.00, 2.1),
  ("fixed", "chain", "regenerated", 0.27, 12, 1.66, 2.0),
  ("fixed", "chain", "regenerated", 0.6, 16, 3.44, 2.0),
  ("fresh", "chain", "regenerated", 0.27, 11, None, 2.0),
  ("fresh", "anchor", "regenerated", 0.27, 8, 1.504, 2.0),
  ("disjoint", "chain", "regenerated", 0.1, 12, 3.92, 2.0),
)


def pairs(seed: int = 0) -> list[Pair]:
  """Squared errors over that of the first fit, n / d = 250."""
  rows = []
  first = DIM / (NUM_SAMPLES - DIM - 1)
  for mask, base, noise, share, t, value, twin in CASES:
    task = tasks.linear_regression(DIM, NUM_SAMPLES, draws="rows")
    task = transforms.edit_labels(task, share, base=base, mask=mask, noise=noise)
    out = simulate(task, workflows.replace(), NUM_RUNS, t, seed)
    law = theory.edited_regression(share, t, base=base, mask=mask, noise=noise)
    error = out["test_mse"] / first
    what = f"{noise}, {mask} masks, {base}, m = {share:g}"
    if mask == "fresh" and base == "chain":
      predicted = share if noise == "additive" else share * (2 - share)
      rows.append(
        pair(
          "edited labels",
          SOURCE,
          f"growth per generation, {what}",
          (error[:, -1] - error[:, 0]) / (t - 1),
          predicted,
          0.0,
          0.270 if noise == "additive" else 0.467,
        )
      )
    else:
      rows.append(
        pair(
          "edited labels",
          SOURCE,
          f"error of model {t}, {what}",
          error[:, -1],
          law[-1],
          twin if mask != "disjoint" or noise != "additive" else 1.5,
          value,
        )
      )
  return rows


def figures(results):
  """Error over that of the first fit: a row a form of noise, a column a mask, a curve a base and share; the paper's bound."""

  def draw(part):
    figure, axes = panels(part.sizes["noise"], part.sizes["mask"], share_y="row")
    cells = list(itertools.product(part.base.values, part.share.values))
    n, dim, T = int(part.num_samples.values), int(part.dim.values), int(part.generation.values[-1])
    left_out, known = 0, False
    for (i, noise), (j, mask) in itertools.product(enumerate(part.noise.values), enumerate(part["mask"].values)):
      axis = axes[i][j]
      axis.set_title(f"{noise}, {mask} masks", fontsize=9)
      for (base, share), shade in zip(cells, viridis(len(cells))):
        one = part.sel(noise=noise, mask=mask, base=base, share=share)
        if str(one.cell_status.values) != "ok":
          continue
        error = one.test_mse.transpose("seed", "generation").values * (n - dim - 1) / dim
        left_out += band(axis, part.generation.values, error, shade, f"{base}, share {text_of(share)}", False)
        try:
          law = theory.edited_regression(float(share), T, base=str(base), mask=str(mask), noise=str(noise))
        except ValueError:  # disjoint masks that do not fill the rows
          continue
        known = True
        axis.plot(part.generation.values, law[part.generation.values - 1], **THEORY)
      axis.axhline(2, color=GREY, linestyle=":", linewidth=1)
    for row in axes:
      row[0].set_ylabel("test error / expected\nerror of the first fit")
    for axis in axes[-1]:
      axis.set_xlabel("generation t")
    finish(
      figure, axes, "", part, left_out, 0, known, "dotted: the paper's bound, for additive noise and disjoint masks"
    )
    return figure

  return sliced("label_editing", results, ("noise", "base", "mask", "share"), draw)


TEXT = """## Edited labels

Zhu et al., [2412.14689](https://arxiv.org/abs/2412.14689), analyse token editing by a linear regression of which a share of the labels
is made anew each generation.

```python
task = transforms.edit_labels(tasks.linear_regression(2, 50), share=0.27, base="chain", mask="fixed")
workflow = workflows.replace()
```

`python -m experiments.label_editing`. The paper's bound of twice the first error is one for additive noise and masks that do not
overlap. With fresh masks and a chain the error grows without bound, by m (2 - m) a generation where labels are made anew; anchored
to the real labels it stays below 1 + m (2 - m) / (1 - m^2).

![Edited labels, their laws and the bound](figures/label_editing.png)
"""

SYSTEM = System(TEXT, pairs, figures)
