"""Network flows row by row and column by column, as STAN models them (Xu et al. 2009.12740)."""

import itertools

import numpy as np

from collapse_jax import tasks, theory, workflows
from collapse_jax.data import traffic
from collapse_jax.plotting.panels import finish, log_axis, panels, text_of, viridis
from collapse_jax.systems.drawing import SHADES, THEORY, curves, name_axes, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "pairs"]

SOURCE = "2009.12740"
NUM_RUNS = 5000


def pairs(seed: int = 0) -> list[Pair]:
  """Predictions beside simulations."""
  return [*_memory(seed), *_columns(seed), *_ends(seed)]


def _least_squares(source, window, intercept=False, **options):
  return tasks.ar_window(
    source, 1, window=window, head="linear", intercept=intercept, num_test=1, num_lags=1, num_bins=2, **options
  )


# coefficients, rows of a series, whether a constant is fitted too, whether batches are pooled.
MEMORY = (
  ((0.5,), 300, False, False),
  ((0.5,), 300, False, True),
  ((0.9,), 800, True, False),
  ((0.5, 0.2), 200, True, False),
)


def _memory(seed):
  """Coefficients of the last rows; the wrong theory takes the fit for the other one, or the pool for the newest batch."""
  rows, T = [], 4
  for lags, length, intercept, pooled in MEMORY:
    task = _least_squares(traffic.autoregression(length, lags, 1.0), len(lags), intercept)
    out = simulate(task, workflows.accumulate() if pooled else workflows.replace(), NUM_RUNS, T, seed)
    law = theory.autoregression_loop(lags, length, T, intercept=intercept, pooled=pooled)
    twin = theory.autoregression_loop(lags, length, T, intercept=not intercept and not pooled)
    fit = f"{'accumulate' if pooled else 'replace'}, {'with' if intercept else 'without'} an intercept"
    for k, t in itertools.product(range(len(lags)), (1, T)):
      found = out[f"lag{k + 1}_coefficient"][:, t - 1]
      what = f"coefficient of lag {k + 1}, truth {', '.join(map(str, lags))}, {fit}, t = {t}"
      if t > 1 or not pooled:  # the first models of all workflows are the same
        rows.append(pair("memory of a series", SOURCE, what, found, law[t - 1, k], twin[t - 1, k]))
  return rows


def _columns(seed):
  """y = 0.9 x + e of 12 independent rows; the wrong theory is of first order, or of two coefficients."""
  length, T, ratio = 12, 3, 0.49
  source = traffic.autoregression(length, (), 1.0, coupling=0.9, coupled_std=ratio**0.5)
  out = simulate(_least_squares(source, 0), workflows.replace(), 3 * NUM_RUNS, T, seed)
  slope, left = out["cross_coefficient"][:, -1], out["residual_variances"][:, -1, 1]
  return [
    pair("columns of a row", SOURCE, f"coefficient between columns, t = {T}", slope, 0.9, 0.9 * (1 - 1 / length) ** T),
    pair(
      "columns of a row",
      SOURCE,
      f"variance of that coefficient, t = {T}",
      (slope - 0.9) ** 2,
      theory.cross_column_variance(ratio, length, T)[-1],
      ratio * T / length,
    ),
    pair(
      "columns of a row",
      SOURCE,
      f"residual variance over the truth's, t = {T}",
      left / ratio,
      theory.residual_variance_replace(length, T)[-1],
      theory.residual_variance_replace(length, T, 2)[-1],
    ),
  ]


def _ends(seed):
  """Normal rows drawn again until they lie in [0, 1]; the wrong theory holds on to the first law."""
  num, T = 4000, 5
  base = traffic.autoregression(num, (), 0.25)
  source = base._replace(
    columns=(traffic.Column("x", bounded=True),), draw=lambda key, n: 0.3 + base.draw(key, n), log_density=None
  )
  task = _least_squares(source, 0, True, ends="redraw")
  out = simulate(task, workflows.replace(), 200, T + 1, seed, at_once=20)
  law = theory.truncated_normal_loop(0.3, 0.25, T)
  return [
    pair(
      "redrawn values",
      SOURCE,
      f"standard deviation of model {t + 1} of N(0.3, 0.25^2)",
      np.sqrt(out["residual_variances"][:, t, 0]),
      law.std[t - 1],
      0.25,
      value,
    )
    for t, value in ((1, 0.204), (2, 0.185), (5, 0.161))
  ]


def figures(results):
  """Flows: a row a metric, a column a workflow, a curve a way of writing values. Memory: coefficients and their laws."""
  if results.attrs.get("setting") == "memory":
    return sliced("traffic", results, ("workflow", "coefficient"), _of_memory)
  return sliced("traffic", results, ("workflow", "ends", "rounding"), _of_flows)


def _of_memory(part):
  metrics = ("lag1_coefficient", "residual_variances")
  part = part.isel(column=0)
  figure, axes = panels(2, part.sizes["workflow"], share_y="row")
  left_out = 0
  shades = viridis(part.sizes["coefficient"])
  for (j, workflow), (coefficient, shade) in itertools.product(
    enumerate(part.workflow.values), zip(part.coefficient.values, shades)
  ):
    cell = {"workflow": workflow, "coefficient": coefficient}
    axes[0][j].set_title(str(workflow), fontsize=9)
    for axis, metric in zip(axes[:, j], metrics):
      left_out += curves(axis, part, metric, cell, shade, f"truth {text_of(coefficient)}")
    if "lag1_coefficient_expected" in part:
      axes[0][j].plot(part.generation.values, part.lag1_coefficient_expected.sel(cell).values, **THEORY)
  name_axes(axes, part, metrics)
  finish(figure, axes, "", part, left_out, 0, "lag1_coefficient_expected" in part)
  return figure


_SHOWN = ("excess_nll", "autocorrelation_error", "correlation_error", "rules_passed", "size_ratio", "atom_share")


def _of_flows(part):
  metrics = [metric for metric in _SHOWN if metric in part]
  figure, axes = panels(len(metrics), part.sizes["workflow"], share_y="row")
  cells, left_out = list(itertools.product(part.ends.values, part.rounding.values)), 0
  for (metric, row), (j, workflow) in itertools.product(zip(metrics, axes), enumerate(part.workflow.values)):
    row[j].set_title(str(workflow), fontsize=9)
    if part[metric].attrs.get("log_scale"):
      log_axis(row[j])
    for (ends, rounding), shade in zip(cells, itertools.cycle(SHADES)):
      cell = {"workflow": workflow, "ends": ends, "rounding": rounding}
      left_out += curves(row[j], part, metric, cell, shade, f"ends {ends}, sizes {rounding}")
  name_axes(axes, part, metrics)
  finish(figure, axes, "", part, left_out, 0, False)
  return figure


TEXT = """## Network traffic, row by row

Xu et al., [2009.12740](https://arxiv.org/abs/2009.12740): a row of network flows is written column by column, each by a network that
sees the rows before it and the columns before it. What the published sampler adds of its own, a loop goes on with: values outside
their range are drawn again and become 0 after twelve tries, and sizes lose their fractions.

```python
source = cj.data.traffic.flows(length=20)
task = tasks.ar_window(
  source, 4, window=2, hidden=4, num_components=2, budget="steps", amount=5, ends="redraw", num_test=2
)
workflow = workflows.accumulate()
```

`python -m experiments.traffic`. The flows come from a law that is known, so that the excess cross entropy is exact, and so are the
rules that every real row keeps: web is TCP, DNS is UDP, a packet has 41 to 65,536 bytes. `data.traffic.read_flows` reads files as
UGR'16 has them. With least squares for heads the loop has laws (`--setting=memory`): what is between rows fades by 2 / L a
generation, what is between columns only diffuses, and with an intercept memory tends to -1/3, not to 0. In the figure sizes are cut
to whole numbers, which makes atoms at a single packet whatever is done at the ends.

![Network flows over generations, by how values are written](figures/traffic.png)
"""

SYSTEM = System(TEXT, pairs, figures)
