"""Tables of numbers, categories and missing cells, by a copula or the networks of Xu et al. (1907.00503)."""

import itertools
from typing import Any

import numpy as np

from collapse_jax import tasks, workflows
from collapse_jax.plotting.panels import finish, panels
from collapse_jax.systems.drawing import GREY, SHADES, THEORY, curves, name_axes, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "pairs"]

SOURCE = "1907.00503"
NUM_SAMPLES, NUM_RUNS, T = 20, 3000, 5
MOST_COLUMNS = 6  # of a table that are drawn


def pairs(seed: int = 0) -> list[Pair]:
  """Shares of categories drift without selection, whatever else is in a table; the wrong theory has fewer rows."""
  rows = []
  task = tasks.table("mixed", NUM_SAMPLES, num_test=10)
  for kind, workflow in (("replace", workflows.replace()), ("accumulate", workflows.accumulate())):
    out = simulate(task, workflow, NUM_RUNS, T, seed)
    predict: Any = task.predict
    schedule: Any = workflow.schedule
    law, twin = (predict(schedule(n, T)) for n in (NUM_SAMPLES, NUM_SAMPLES - 8))
    told = f"of a copula, {kind}, t = {T}"
    found, name = out["category_diversity"][:, -1], "category_diversity"
    rows.append(
      pair("table", SOURCE, f"diversity of categories {told}", found, law[name].mean[-1], twin[name].mean[-1])
    )
    for name, what in (("minority_share", "rarest category"), ("missing_share", "missing cells")):
      found = (out[name][:, -1] - law[name].mean[-1]) ** 2
      right, wrong = law[name].variance[-1], twin[name].variance[-1]
      rows.append(pair("table", SOURCE, f"variance of the share of the {what} {told}", found, right, wrong))
  return rows


_SHOWN = (
  "category_diversity",
  "minority_share",
  "category_support",
  "missing_share",
  "number_distance",
  "correlation_error",
)


def figures(results):
  """Metrics, a row each, a column a workflow, a curve a model; and the table's columns over generations, a picture each."""
  return sliced("table", results, ("workflow", "model"), _metrics) | sliced(
    "table_columns", results, ("workflow", "model"), _columns
  )


def _metrics(part):
  metrics = [metric for metric in _SHOWN if metric in part]
  figure, axes = panels(len(metrics), part.sizes["workflow"], share_y="row")
  left_out, theory_drawn = 0, False
  for (metric, row), (j, workflow) in itertools.product(zip(metrics, axes), enumerate(part.workflow.values)):
    row[j].set_title(str(workflow), fontsize=9)
    for model, shade in zip(part.model.values, SHADES):
      cell = {"workflow": workflow, "model": model}
      left_out += curves(row[j], part, metric, cell, shade, str(model))
      law = f"{metric}_expected"
      if law in part and np.isfinite(part[law].sel(cell)).any():
        row[j].plot(part.generation.values, part[law].sel(cell).values, **THEORY)
        theory_drawn = True
  name_axes(axes, part, metrics)
  finish(figure, axes, "", part, left_out, 0, theory_drawn)
  return figure


def _columns(part):
  """Categories as stacked shares of all runs, numbers by quantiles, the median a line; a column a workflow and model."""
  blocks: dict[str, list[int]] = {}
  for k, name in enumerate(part.category_column.values):
    blocks.setdefault(str(name), []).append(k)
  numbers = list(part.number.values) if "number_quantiles" in part else []
  chosen = [("categories", name) for name in blocks][:MOST_COLUMNS]
  chosen += [("number", name) for name in numbers][: MOST_COLUMNS - len(chosen)]
  cells = list(itertools.product(part.workflow.values, part.model.values))
  figure, axes = panels(len(chosen), len(cells), share_y="row")
  for (j, (workflow, model)), (row, (kind, name)) in itertools.product(enumerate(cells), zip(axes, chosen)):
    row[j].set_title(f"{workflow}, {model}", fontsize=9)
    one = part.sel(workflow=workflow, model=model)
    if str(one.cell_status.values) != "ok":
      continue
    if kind == "categories":
      shares = one.category_shares.isel(category=blocks[name]).mean("seed").transpose("category", "generation").values
      shades = itertools.cycle((*SHADES, GREY))
      texts = [str(part.category.values[k]) for k in blocks[name]]
      row[j].stackplot(one.generation.values, shares, colors=[shade for shade, _ in zip(shades, texts)], alpha=0.85)
      below = np.cumsum(shares[:, 0]) - shares[:, 0]
      for text, low, share in zip(texts, below, shares[:, 0]):
        if j == 0 and share > 0.08:
          label = text.removeprefix(f"{name}: ")
          row[j].text(one.generation.values[0], low + share / 2, f" {label}", va="center", fontsize=8, color="white")
      row[j].set_ylim(0, 1)
    else:
      levels = one.number_quantiles.sel(number=name).mean("seed").transpose("level", "generation").values
      for k in range(len(levels) // 2):
        row[j].fill_between(
          one.generation.values, levels[k], levels[-1 - k], color=SHADES[0], alpha=0.2 + 0.2 * k, linewidth=0
        )
      row[j].plot(one.generation.values, levels[len(levels) // 2], color=SHADES[0], linewidth=1.4)
    row[j].margins(x=0)
  for row, (kind, name) in zip(axes, chosen):
    row[0].set_ylabel(f"{name}\n({'shares' if kind == 'categories' else 'standard deviations'})")
  for axis in axes[-1]:
    axis.set_xlabel("generation t")
  finish(figure, axes, "", part, 0, 0, False)
  text = f"means over {part.sizes['seed']} seeds; numbers: median, middle half and nine tenths"  # no intervals: fans
  figure.supxlabel(text, fontsize=8, color="0.35")
  return figure


TEXT = """## Tables of mixed columns

Xu et al., [1907.00503](https://arxiv.org/abs/1907.00503): tables of numbers and categories are modelled by an autoencoder (TVAE) or
by a generator that is asked for a category, against a critic (CTGAN); beside them stand a Gaussian copula, whose loop has a law, and
diffusion. What people lose first when such models are fed on their own rows is the rare category.

```python
task = tasks.table("mixed", 50, "copula")
workflow = workflows.accumulate()
```

`python -m experiments.table` takes `--dataset=FILE.csv` (or `.parquet`): columns of text and of few whole numbers are categories,
others numbers, and empty cells are a category of their column. Shares of categories in a copula drift without selection: they keep
their mean, and the chance that two rows differ falls by 1/n a generation under `replace` and comes to rest under `accumulate`,
whatever the other columns are; so does the share of missing cells. Networks add errors of their own, which `accumulate` slows: TVAE
narrows numbers, and CTGAN writes more of rare categories each generation, of missing cells too. Its rows are asked for by how often
categories are there, but columns that are not asked for come out near what its training shows, where rare categories are oftener.
The authors' program does so too (ctgan 0.12.1, which also asks by the logarithm when it emits): after 400 steps on 1,000 rows it makes
12 to 15% of a share of 3% (three seeds), and here it is 7 to 9% (four). `python -m experiments.reproduce --only=deep/table` drew:

![A table over generations, by model and workflow](figures/table.png)

![Its columns: shares of categories, and quantiles of numbers](figures/table_columns.png)
"""

SYSTEM = System(TEXT, pairs, figures)
