"""Flow matching and diffusion that are trained again and again: Bertrand et al. 2310.00429, in the plane."""

import functools
from typing import Any

import jax
import numpy as np

from collapse_jax import diagnostics, store, tasks, theory, transforms, vocabulary, workflows
from collapse_jax.plotting.panels import NULL_LABEL, finish, log_axis, panels, text_of, viridis
from collapse_jax.systems.drawing import SHADES, THEORY, curves, name_axes, shares_of, sliced
from collapse_jax.systems.runs import showing, simulate
from collapse_jax.systems.types import Pair, System, pair
from collapse_jax.tasks._flow import SAMPLE_METRICS, against

__all__ = ["NUM_SHOWN", "SYSTEM", "figures", "looked_at", "pairs"]

SOURCE, NEON, SIMS = "2310.00429", "2510.03597", "2408.16333"
NUM_SHOWN = 64  # rows of every model that results keep, to be looked at
VARIANCES = (0.1, 0.5, 2.0)
TRAINED = (  # solvers whose exact linear scores are trained
  "flow_euler(50)",
  "flow_midpoint(4)",
  "flow_heun(4)",
  "ddpm_beta(30)",
  "ddpm_posterior(200)",
  "ddim(100)",
  "edm_heun(12)",
)
TWIN = "flow_euler(8)"  # of the wrong theory
TEMPERATURE, WEIGHT = 0.8, 0.5  # of what a model is to go away from, and how far


def pairs(seed: int = 0) -> list[Pair]:
  """Predictions beside simulations."""
  return [*(row for name in TRAINED for row in _trained(name, seed)), *_negative(seed)]


def _trained(name, seed):
  """Ten generations of linear scores, each trained by gradient steps on what the last one emitted."""
  num, T = 1000, 10
  options: Any = {"amount": 500, "batch_size": 256, "learning_rate": 0.1, "decay": "cosine"}
  task = tasks.flow(VARIANCES, num, score="linear_trained", **_sampler(name), **options)
  found = np.log(simulate(task, workflows.replace(), 32, T, seed)["variance_ratios"])

  def law(name, variance):
    solver, num_steps = _call(name)
    return theory.sampler_log_variance(
      solver, num_steps=num_steps, variance=variance, num_samples=num, num_generations=T
    )

  return [
    pair(
      "trained linear scores",
      SOURCE,
      f"log variance ratio, {name}, s = {variance:g}, t = {t}",
      found[:, t - 1, i],
      law(name, variance)[t - 1],
      law(TWIN, variance)[t - 1],
    )
    for i, variance in enumerate(VARIANCES)
    for t in (2, 5, 10)
  ]


def _negative(seed):
  """Models that go away from what they would become on samples of 0.8 times their variance."""
  n, l, w = 2000, TEMPERATURE, WEIGHT
  task = tasks.flow([0.5], n, solver="flow_rk4", num_steps=20)

  def own(key, problem, params, context):
    data, metrics = task.sample(key, problem, params, context)
    return store.with_rows(data, np.sqrt(l) * data.rows[0]), metrics

  exact = functools.partial(theory.negative_extrapolation, l * (1 - 1 / n), w)
  neon = simulate(transforms.extrapolate(task, w, own), workflows.replace(), 200, 1, seed)
  sims = simulate(transforms.negative_guidance(task, w, own), workflows.replace(), 200, 2, seed)
  return [
    pair(
      "Neon, exact linear scores",
      NEON,
      f"variance ratio, extrapolated by {w:g} from samples of {l:g} times the variance",
      neon["covariance_trace_ratio"][:, 0],
      (1 - 1 / n) * exact("variance"),
      (1 - 1 / n) * exact("log_variance"),
    ),
    pair(
      "SIMS, exact linear scores",
      SIMS,
      f"variance ratio of what is emitted, guided by {w:g} away from {l:g} times the variance",
      sims["covariance_trace_ratio"][:, 1],
      (1 - 1 / n) ** 2 * exact("log_variance"),
      (1 - 1 / n) ** 2 / (1 + w - w / l),  # of extrapolated precisions
    ),
  ]


def _call(text):
  """ "ddim(100)" -> ("ddim", 100)."""
  name, (num_steps,), _ = vocabulary.parse_call(text)
  return name, num_steps


def _sampler(text):
  return dict(zip(("solver", "num_steps"), _call(text)))


def looked_at(task):
  """A flow in the plane with what figures show of it: rows that it emits, and metrics of real rows in their place.

  Args:
    task: `tasks.flow` with a network or an empirical score.
  """
  nulls = {
    f"{name}_{vocabulary.NULL}": info._replace(long_name=f"{info.long_name}, for real rows", worse="", measures="")
    for name, info in SAMPLE_METRICS.items()
  }

  def look(problem, context, batch):
    real = context.real.rows[0, : len(problem.test)]
    found = against(jax.random.key(0), problem.test, real)
    return {f"{name}_{vocabulary.NULL}": found[name] for name in found}

  return transforms.observe(showing(task, NUM_SHOWN), look, nulls)


def figures(results):
  """Metrics over generations by the share of real rows, and rows that models of some generations emit."""
  found = sliced("flow", results, ("start", "workflow"), _curves)
  if "shown_rows" in results:
    found |= sliced("flow_samples", results, ("start", "workflow"), _samples)
  return found


METRICS = ("precision", "recall", "sliced_wasserstein", "covariance_trace_ratio")


def _curves(part):
  figure, axes = panels(len(METRICS), part.sizes["start"], share_y="row")
  left_out, known = 0, False
  for row, metric in zip(axes, METRICS):
    for axis, start in zip(row, part.start.values):
      if metric == METRICS[0]:
        axis.set_title(f"start: {start}", fontsize=9)
      for workflow, shade in zip(part.workflow.values, viridis(part.sizes["workflow"])):
        cell = {"start": start, "workflow": workflow}
        left_out += curves(axis, part, metric, cell, shade, str(workflow))
        null = diagnostics.null_of(part, cell, metric)
        if null is not None:
          axis.plot(part.generation.values, null, ":", color="0.4", linewidth=1.2, zorder=4, label=NULL_LABEL)
        law = _law(part, cell) if metric == "covariance_trace_ratio" else None
        if law is not None:
          known = True
          axis.plot(part.generation.values, law, **THEORY)
  for row, metric in zip(axes, METRICS):
    values = part[metric].values[np.isfinite(part[metric].values)]
    if part[metric].attrs.get("log_scale") and len(values) and 0 < 100 * values.min() < values.max():  # it explodes
      log_axis(row[0])
  name_axes(axes, part, METRICS)
  finish(
    figure, axes, _model(part), part, left_out, 0, known, "theory is of normal data and exact scores" if known else ""
  )
  return figure


def _model(part) -> str:
  """What was fitted, to what: every grid value that the panels do not show."""
  return ", ".join(f"{name} = {text_of(value.item())}" for name, value in part.coords.items() if not value.ndim)


def _law(part, cell):
  """Variance ratio of what models emit, with exact linear scores of isotropic data, the same sampler and infinite data; None:
  shares are not known."""
  shares = shares_of(part, cell)
  if shares is None:
    return None
  solver, num_steps = _call(str(part.sampler.values))
  scale = 0.25 if solver.startswith("edm") else 1.0
  emitted = [1.0]  # batch 0 is real
  for row in shares:
    fitted = row[: len(emitted)] @ emitted
    factor = theory.variance_factor(solver, num_steps=num_steps, variance=max(scale * fitted, 1e-300))
    emitted.append(fitted * float(factor))
  return np.array(emitted[1:])


def _samples(part):
  """Rows of four generations, of all seeds together."""
  shown = sorted({1, *(part.generation.values[i] for i in np.linspace(0, part.sizes["generation"] - 1, 4).astype(int))})
  start = part.start.values[0]
  figure, axes = panels(part.sizes["workflow"], len(shown), share_y=True)
  for row, workflow in zip(axes, part.workflow.values):
    for axis, t in zip(row, shown):
      cell = part.sel(start=start, workflow=workflow)
      if str(cell.cell_status.values) == "ok":
        x, y = cell.shown_rows.sel(generation=t).values.reshape(-1, 2).T
        axis.plot(x, y, ".", markersize=1, color=SHADES[0])
      axis.set_title(f"{workflow}, t = {t}", fontsize=8)
      axis.set_aspect("equal")
  for axis in axes[-1]:
    axis.set_xlabel("x")
  for axis in axes[:, 0]:
    axis.set_ylabel("y")
  figure.suptitle(_model(part), fontsize=11)
  figure.supxlabel(f"rows of the models of all {part.sizes['seed']} runs together", fontsize=8, color="0.35")
  return figure


TEXT = """## Iterative retraining of flows and diffusion models

Bertrand et al., [2310.00429](https://arxiv.org/abs/2310.00429): a flow or diffusion model is trained again and again on all real
rows and lambda rows of the last model to each of them, `mix(1 / (1 + lambda))`. Three things add up: the rows are finite, the solver
of the differential equation is inexact, and training stops early.

```python
task = tasks.flow("eight_gaussians", 100, score="mlp", solver="flow_midpoint", num_steps=4, amount=20, num_test=20)
workflow = workflows.mix(0.5)
```

`python -m experiments.flow` runs lambda from 0 to 4, cold and warm (`start`), flow matching and DDPM; `--samplers`, `--amounts` and
`--num_samples` take lists, so that each of the three is told from the others. The solver alone is known exactly where scores are
linear: it multiplies a variance by `theory.variance_factor` every generation, of either sign. Loops of linear scores that are
trained by gradient steps follow it for ten generations under seven solvers.

## Going away from one's own samples

Neon, [2510.03597](https://arxiv.org/abs/2510.03597), extrapolates the parameters of a model away from what training on its own
samples makes of them, and SIMS, [2408.16333](https://arxiv.org/abs/2408.16333), its score. What that does to a Gaussian whose samples
have too small a variance is exact, and depends on what is extrapolated.

```python
task = transforms.extrapolate(tasks.flow([0.5, 1.0], 100, solver="flow_euler", num_steps=20), w=1.0)
workflow = workflows.replace()
```

`transforms.negative_guidance` is SIMS, `transforms.correct` moves samples to a correction of theirs
([2402.07087](https://arxiv.org/abs/2402.07087)), and `farthest_point`, `threshold_filter`
([2509.16499](https://arxiv.org/abs/2509.16499)) and `probe_filter` ([2511.12742](https://arxiv.org/abs/2511.12742)) choose among them.
The table of `python -m experiments.flow` holds both laws beside simulations.
"""

SYSTEM = System(TEXT, pairs, figures)
