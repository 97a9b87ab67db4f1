"""Figures from result Datasets. Drawing reads results and never runs anything; no pyplot, so no global state.

Theory is a black dashed line, data are curves with a band: the 95% interval of the mean over seeds.
"""

import contextlib
import io
import itertools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from collapse_jax import diagnostics, vocabulary
from collapse_jax.diagnostics import reading
from collapse_jax.plotting.panels import (
  NULL_LABEL,
  band,
  finish,
  labels,
  log_axis,
  panels,
  png,
  slices,
  text_of,
  viridis,
  wrapped,
)
from collapse_jax.refused import Refused

__all__ = [
  "WORKFLOW_COLOURS",
  "collapse_times",
  "drawn",
  "figures_for",
  "fitted_densities",
  "learning_curves",
  "loss_histograms",
  "metric_against_real_share",
  "own_style",
  "phase_diagram",
  "render",
  "side_by_side",
  "trajectories",
  "value_curves",
  "value_map",
  "workflow_colours",
]

LONG = 500  # generations from which on their axis is logarithmic
WORKFLOW_COLOURS = {"replace": "#D55E00", "accumulate": "#0072B2", "accumulate_subsample": "#009E73"}  # Okabe and Ito
_OTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#999999", "#8B4513")
_MOST_FIGURES = 8  # of a language model


def workflow_colours(names) -> dict[str, str]:
  """One colour per workflow, the same in every figure."""
  others = iter(_OTHER_COLOURS * (len(names) // len(_OTHER_COLOURS) + 1))
  return {name: WORKFLOW_COLOURS.get(name) or next(others) for name in names}


def trajectories(
  results,
  metric: str,
  *,
  rows: str | None = None,
  columns: str = "workflow",
  colour: str | None = None,
  title: str = "",
):
  """Metric against generation, with theory and null where they are known; every panel has its own vertical scale.

  Args:
    results: a sweep's Dataset, in which every grid dim not named here has length 1 (select first).
    metric: a scalar variable.
    rows: grid dim with a row of panels per value; default none.
    columns: grid dim with a column of panels per value.
    colour: grid dim with a curve per value; default num_samples if it has several values and no panels, else workflow.
    title: above all panels.
  Returns:
    matplotlib Figure.
  """
  results = diagnostics.complete(results)
  if colour is None:
    free = results.sizes.get("num_samples", 1) > 1 and "num_samples" not in (rows, columns)
    colour = "num_samples" if free else "workflow"
  row_values = results[rows].values if rows else [None]
  column_values = (
    results[columns].values[:1] if colour == columns else results[columns].values
  )  # one panel has all curves
  figure, axes = panels(len(row_values), len(column_values))
  counts: Counter = Counter()
  for axis, at in zip(axes.flat, itertools.product(row_values, column_values)):
    panel: dict[str, Any] = {dim: results[dim].values[0] for dim in results.cell_status.dims}
    panel |= {columns: at[1]} | ({rows: at[0]} if rows else {})
    curves = _curves(results, colour, panel)
    counts += _panel(axis, results, metric, [panel | {colour: value} for value in curves], curves.values())
    axis.set_title(_heading(results, panel, rows, None if colour == columns else columns), fontsize=9)
  for axis in axes[-1]:
    axis.set_xlabel("generation t")
  for axis in axes[:, 0]:
    axis.set_ylabel(wrapped(results[metric].attrs))
  _finish(figure, axes, title, results, counts)
  return figure


def _finish(figure, axes, title, results, counts: Counter) -> None:
  """`finish` of panels that count what they show and leave out."""
  about = "some theory is drawn only: to first order, or with tails too heavy for means over runs"
  note = about if counts["laws that are only drawn"] else ""
  finish(figure, axes, title, results, counts["non-finite runs"], counts["missing cells"], counts["laws"] > 0, note)


def _panel(axis, results, metric, cells, styles) -> Counter:
  """Curves of cells with their laws and nulls, each of a (colour, label); counts what it shows and leaves out."""
  about, t = results[metric].attrs, results.generation.values
  counts: Counter = Counter()
  for cell, (shade, label) in zip(cells, styles):
    one = results.sel(cell)
    if str(one.cell_status.values) != "ok":
      counts["missing cells"] += 1
      continue
    values = one[metric].transpose("seed", "generation").values
    counts["non-finite runs"] += band(axis, t, values, shade, label, about.get("log_scale"))
    expected = diagnostics.predicted(results, cell, metric)
    if expected is not None and np.isfinite(expected.mean).sum() > 1:
      axis.plot(t, expected.mean, "k--", linewidth=1, zorder=5)
      counts.update({"laws": 1, "laws that are only drawn": int(expected.up_to == 0)})
    null = diagnostics.null_of(results, cell, metric)
    if null is not None:
      axis.plot(t, null, ":", color="0.4", linewidth=1.2, zorder=4, label=NULL_LABEL)
  if not axis.lines:
    axis.text(0.5, 0.5, "no cell could run", ha="center", va="center", transform=axis.transAxes)
  elif about.get("log_scale"):
    log_axis(axis)
  if t[-1] >= LONG:
    axis.set_xscale("log")
  return counts


def side_by_side(experiments: Mapping[str, Any], metrics: Sequence[str] = (), title: str = ""):
  """Different generators in the same loops: a panel an experiment, a curve a workflow, as 2404.01413 has its four domains.

  Args:
    experiments: name -> a sweep's Dataset; of its grid dims other than workflow the first values are drawn, and named above the
      panel where there are more.
    metrics: a scalar variable of each; () is the first that each has.
    title: above all panels.
  Returns:
    matplotlib Figure.
  Raises:
    Refused: no experiments, not as many metrics, or one that is not there.
  """
  if not experiments:
    raise Refused.must_be("experiments", "one or more", "none")
  if metrics and len(metrics) != len(experiments):
    raise Refused.must_be("metrics", f"one for each of {len(experiments)} experiments", ",".join(metrics))
  every = [diagnostics.complete(results) for results in experiments.values()]
  colours = workflow_colours(list(dict.fromkeys(str(name) for one in every for name in one.workflow.values)))
  columns = min(len(every), 2)
  figure, axes = panels(-(-len(every) // columns), columns, share_x=False)
  counts: Counter = Counter()
  for axis, name, results, metric in itertools.zip_longest(axes.flat, experiments, every, metrics):
    if results is None:
      axis.set_axis_off()
      continue
    scalars = reading.scalars(results)
    metric = metric or scalars[0]
    if metric not in scalars:
      raise Refused.must_be("metrics", f"of {name} one of {', '.join(scalars)}", metric)
    first = {dim: results[dim].values[0] for dim in results.cell_status.dims}
    cells = [first | {"workflow": workflow} for workflow in map(str, results.workflow.values)]
    styles = [(colours[cell["workflow"]], cell["workflow"]) for cell in cells]
    counts += _panel(axis, results, metric, cells, styles)
    chosen = [f"{d} = {text_of(v)}" for d, v in first.items() if d != "workflow" and results.sizes[d] > 1]
    axis.set_title(", ".join([name, *chosen]), fontsize=9)
    axis.set_ylabel(wrapped(results[metric].attrs))
    axis.set_xlabel("generation t")
  _finish(figure, axes, title, every, counts)
  return figure


def _curves(results, colour, panel) -> dict[Any, tuple[Any, str | None]]:
  """Value -> (colour, label) of the curves of a panel; a panel of one workflow with one curve has that one's colour."""
  values = results[colour].values
  workflows = workflow_colours(results.workflow.values)
  if colour == "workflow" and results.sizes["workflow"] > 1 and len(set(values)) > 1:
    return {value: (workflows[value], str(value)) for value in values}
  if len(values) == 1:
    return {values[0]: (workflows[panel["workflow"]], None)}
  return {
    value: (shade, f"{colour} = {text}") for value, text, shade in zip(values, labels(values), viridis(len(values)))
  }


def _heading(results, panel, rows, columns) -> str:
  parts = [str(panel[dim]) if dim == "workflow" else f"{dim} = {text_of(panel[dim])}" for dim in (rows, columns) if dim]
  if "dataset_note" in results.coords and "dataset" in panel:
    note = str(np.atleast_1d(results.dataset_note.sel(dataset=panel["dataset"]).values).flat[0])
    parts += [note] if note else []
  return "\n".join(parts)


def fitted_densities(results, num_samples=None, seed: int = 0):
  """Fitted densities of the first coordinate over the generations of one Gaussian run, a panel per workflow.

  Args:
    results: a Dataset of the Gaussian task.
    num_samples: value of that dim; None: the first.
    seed: position of the run.
  """
  from matplotlib import colormaps
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import LogNorm

  workflows = results.workflow.values
  figure, axes = panels(1, len(workflows))
  num_samples = results.num_samples.values[0] if num_samples is None else num_samples
  generations = results.generation.values
  shown = np.unique(np.searchsorted(generations, np.geomspace(1, generations[-1], 8).round()))
  norm = LogNorm(1, max(generations[-1], 2))
  noise_var = float(results.noise_var.values[0]) if "noise_var" in results else 1.0
  x = np.linspace(-3.5, 3.5, 701) * np.sqrt(noise_var)
  for axis, workflow in zip(axes[0], workflows):
    at = {d: results[d].values[0] for d in results.cell_status.dims} | {
      "workflow": workflow,
      "num_samples": num_samples,
    }
    one = results.sel(at).isel(seed=seed)
    for k in shown:
      mean, std = float(one.marginal_mean.values[k]), np.exp(0.5 * float(one.marginal_log_variance.values[k]))
      points = np.union1d(x, mean + np.linspace(-5, 5, 101) * std)  # a collapsed density is narrower than any grid
      density = np.exp(-0.5 * ((points - mean) / std) ** 2) / np.sqrt(2 * np.pi) / std
      axis.plot(points, density, color=colormaps["viridis"](norm(generations[k])), linewidth=1.5)
    axis.plot(x, np.exp(-0.5 * x**2 / noise_var) / np.sqrt(2 * np.pi * noise_var), "k--", linewidth=1, label="truth")
    axis.set_ylim(0, 4 / np.sqrt(2 * np.pi * noise_var))
    axis.set_title(str(workflow), fontsize=10)
    axis.set_xlabel("first coordinate (data units)")
  axes[0][0].set_ylabel("fitted density")
  axes[0][0].legend(fontsize=8, frameon=False)
  figure.colorbar(ScalarMappable(norm, colormaps["viridis"]), ax=list(axes[0]), label="generation t", pad=0.01)
  heading = f"fitted densities of one run, num_samples = {text_of(num_samples)} (higher peaks are cut off)"
  figure.suptitle(heading, fontsize=11)
  return figure


def collapse_times(results, title: str = ""):
  """Generations until one outcome is left against num_samples, a curve per num_outcomes, a panel per workflow.

  Cells with censored runs are left out: the mean over the others would be too small.
  """
  results = diagnostics.complete(results)
  figure, axes = panels(1, results.sizes["workflow"])
  rest = set(results.cell_status.dims) - {"workflow", "num_outcomes", "num_samples"}
  others = {d: results[d].values[0] for d in rest}
  sizes = results.num_samples.values
  missing, theory_drawn = 0, False
  for axis, workflow in zip(axes[0], results.workflow.values):
    for shade, num in zip(viridis(results.sizes["num_outcomes"]), results.num_outcomes.values):
      some = results.sel(others | {"workflow": workflow, "num_outcomes": num})
      times = some.collapse_generation.transpose("seed", "num_samples").values.astype(np.float64)
      ended = ~some.censored.any("seed").values & np.isfinite(times).all(axis=0)
      missing += int((~ended).sum())
      if ended.any():
        band(axis, sizes[ended], times[:, ended], shade, f"num_outcomes = {text_of(num)}", True, "o")
        cells = [others | {"workflow": workflow, "num_outcomes": num, "num_samples": n} for n in sizes[ended]]
        laws = [diagnostics.predicted(results, cell, "collapse_generation") for cell in cells]
        times = [float(law.mean) for law in laws if law is not None]
        if len(times) == len(cells):
          theory_drawn = True
          axis.plot(sizes[ended], times, "k--", linewidth=1, zorder=5)
    if not axis.lines:
      axis.text(0.5, 0.5, "drift did not end", ha="center", va="center", transform=axis.transAxes)
    axis.set_xscale("log")
    log_axis(axis)
    axis.set_title(str(workflow), fontsize=9)
    axis.set_xlabel("num_samples")
  axes[0][0].set_ylabel("generations until one outcome is left")
  finish(
    figure,
    axes,
    title,
    results,
    0,
    0,
    theory_drawn,
    f"{missing} cells with runs that did not end are left out" if missing else "",
  )
  return figure


def metric_against_real_share(results, metric: str, title: str = ""):
  """Metric at the last generation against real share, a curve per num_samples; other grid dims have length 1.

  A dotted line marks the smallest share that is enough, as `decisions.required_share` has it, where there is one.

  Args:
    results: a Dataset with the dims real_fraction and num_samples; its attribute `tolerance`, default 0.2, says how near the first
      generation the metric is to stay.
    metric: its name.
    title: above the figure.
  """
  results = diagnostics.complete(results)
  figure, axes = panels(1, 1)
  axis = axes[0][0]
  about = results[metric].attrs
  others = {d: results[d].values[0] for d in results.cell_status.dims if d not in ("real_fraction", "num_samples")}
  shares, tolerance = results.real_fraction.values, float(results.attrs.get("tolerance", 0.2))
  enough = _enough(results.sel({d: [value] for d, value in others.items()}), metric, tolerance)
  non_finite, theory_drawn = 0, False
  for shade, num in zip(viridis(results.sizes["num_samples"]), results.num_samples.values):
    some = results.sel(others | {"num_samples": num})
    values = some[metric].isel(generation=-1).transpose("seed", "real_fraction").values
    non_finite += band(axis, shares, values, shade, f"num_samples = {text_of(num)}", about.get("log_scale"), "o")
    cells = [others | {"num_samples": num, "real_fraction": share} for share in shares]
    known = [diagnostics.predicted(results, cell, metric) for cell in cells]
    curve = [np.nan if one is None else one.mean[-1] for one in known]
    if np.isfinite(curve).any():
      theory_drawn = True
      axis.plot(shares, curve, "k--", linewidth=1, zorder=5)
    if np.isfinite(enough.get(num, np.nan)):
      axis.axvline(enough[num], color=shade, linestyle=":", linewidth=1.2)
  told = (
    f"\n(dotted: the smallest within {tolerance:.3g} of generation 1)"
    if np.isfinite(list(enough.values())).any()
    else ""
  )
  axis.set_xlabel(f"real share of the training rows{told}")
  axis.set_ylabel(wrapped(about) + f"\nat t = {int(results.generation.values[-1])}")
  if about.get("log_scale"):
    log_axis(axis)
  finish(figure, axes, title, results, non_finite, 0, theory_drawn)
  return figure


def _enough(results, metric: str, tolerance: float) -> dict[Any, float]:
  """num_samples -> the share that is enough, NaN where none is, or it cannot be told."""
  from collapse_jax import decisions  # which run sweeps too

  if reading.num_beside(results, "real_fraction") < 2:
    return {}
  return {cell["num_samples"]: found.share for cell, found in decisions.required_shares(results, tolerance, metric)}


def figures_for(results) -> dict[str, Any]:
  """The default figures of a result Dataset, by file name."""
  return dict(drawn(results))


def drawn(results) -> Iterator[tuple[str, Any]]:
  """The default figures, by file name, each drawn when it is asked for."""
  plain = lambda name: vocabulary.file_name(name.replace(" ", "\0"))  # nor blanks, and what differs still does
  return ((plain(name), figure) for name, figure in _default(results))


def render(results) -> dict[str, tuple[bytes, bytes]]:
  """The default figures as (PNG, PDF), by file name, the same whatever a user's matplotlibrc asks for."""
  from matplotlib.backends.backend_pdf import FigureCanvasPdf

  found = {}
  with own_style():
    for name, figure in drawn(results):
      first = png(figure)
      figure.set_layout_engine("none")  # what the first rendering found holds for the second
      FigureCanvasPdf(figure).print_pdf(buffer := io.BytesIO())  # without the drawing before it of `savefig`
      found[name] = first, buffer.getvalue()
  return found


@contextlib.contextmanager
def own_style() -> Iterator[None]:
  """What is drawn inside is the same whatever a user's matplotlibrc asks for."""
  import matplotlib

  kept = ("backend", "interactive", "toolbar", "timezone")  # no figure depends on them
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=matplotlib.MatplotlibDeprecationWarning)
    warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
    with matplotlib.rc_context(
      {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith(kept)}
    ):
      yield


def _default(results) -> Iterator[tuple[str, Any]]:
  if {"num_real", "num_synthetic"} <= set(results.dims):
    yield "test_loss_map", value_map(results)
    yield "test_loss_curves", value_curves(results)
    return
  results = diagnostics.complete(results)
  if "system" in results.attrs:
    from collapse_jax.systems.table import SYSTEMS  # which are made of panels: here alone do figures know of systems

    if (system := SYSTEMS.get(results.attrs["system"])) is not None:
      yield from system.figures(results).items()
      return
  grid = [d for d in results.cell_status.dims if d != "workflow"]
  names = diagnostics.metrics(results)
  if "real_fraction" in grid:
    if "required_real_fraction" in results:
      yield "phase_diagram", phase_diagram(results, names[0])
    for name in names[:2]:
      for at, part in slices(results, [d for d in grid if d not in ("real_fraction", "num_samples")]):
        yield f"{name}_against_real_share{at}", metric_against_real_share(part, name)
    return
  if "learning_curve" in results:
    yield from _language_figures(results)
    return
  long = [d for d in grid if results.sizes[d] > 1]
  if results.sizes.get("bandwidth", 1) > 3 and "num_samples" in grid:
    layout: dict[str, Any] = {"rows": "num_samples", "columns": "workflow", "colour": "bandwidth"}
  elif {"dataset", "bandwidth", "num_samples"} <= set(grid):
    layout = {"rows": "dataset", "columns": "num_samples", "colour": "workflow"}
  else:
    layout = {"rows": next((d for d in long if d != "num_samples"), None)}
  shown = [*names, "entropy"] if "entropy" in results else names  # on a log axis of t it falls in a straight line
  for name in shown:
    for at, part in slices(results, [d for d in long if d not in (*layout.values(), "num_samples")]):
      yield f"{name}{at}", trajectories(part, name, **layout)
  is_normal = {"marginal_mean", "marginal_log_variance"} <= set(results) and {"dim", "num_samples"} <= set(grid)
  if is_normal and 1 in results.dim.values:
    yield "fitted_densities", fitted_densities(results.sel(dim=[1]))
  if is_normal and results.sizes["workflow"] > 1 and "real_share" in results:
    yield "real_share", trajectories(results.isel({d: [0] for d in grid}), "real_share", columns=grid[0])
  if "censored" in results and {"num_outcomes", "num_samples"} <= set(grid) and not results.censored.any("seed").all():
    yield "collapse_times", collapse_times(results)


def learning_curves(results, title: str = ""):
  """Held-out loss while each generation trains: a panel a workflow, a curve a generation (mean over seeds)."""
  results = diagnostics.complete(results)
  workflows = results.workflow.values
  figure, axes = panels(1, len(workflows), share_y=True)
  generations = results.generation.values
  rest = {dim: results[dim].values[0] for dim in results.cell_status.dims if dim != "workflow"}
  shades = dict(zip(generations, viridis(len(generations))))
  shown = generations[np.unique(np.linspace(0, len(generations) - 1, 8).round().astype(int))]
  share = np.arange(1, results.sizes["training_progress"] + 1) / results.sizes["training_progress"]
  for axis, workflow in zip(axes[0], workflows):
    one = results.learning_curve.sel({"workflow": workflow, **rest}).transpose(
      "generation", "seed", "training_progress"
    )
    for t in shown:
      axis.plot(share, one.sel(generation=t).mean("seed"), "o-", color=shades[t], markersize=3, label=f"generation {t}")
    axis.set_title(str(workflow), fontsize=9)
    axis.set_xlabel("part of the training budget")
  axes[0][0].set_ylabel(wrapped(results.learning_curve.attrs))
  finish(figure, axes, title, results, 0, 0, False)
  return figure


def loss_histograms(results, title: str = ""):
  """How likely generation 0 finds each generation's text (Shumailov et al. 2305.17493): a panel a workflow, means over seeds."""
  from matplotlib.ticker import LogLocator, NullFormatter

  results = diagnostics.complete(results)
  workflows = results.workflow.values
  figure, axes = panels(1, len(workflows), share_y=True)
  generations = results.generation.values
  shades = dict(zip(generations, viridis(len(generations))))
  rest = {dim: results[dim].values[0] for dim in results.cell_status.dims if dim != "workflow"}
  left = results.loss_bin.values.astype(float)
  perplexity = np.exp(np.append(left, 2 * left[-1] - left[-2]))
  drawn = results.sample_loss_histogram.transpose(..., "loss_bin").values
  used = np.flatnonzero(np.nan_to_num(drawn).reshape(-1, len(left)).any(axis=0))
  for axis, workflow in zip(axes[0], workflows):
    one = results.sample_loss_histogram.sel({"workflow": workflow, **rest}).transpose("generation", "seed", "loss_bin")
    for t in generations:
      axis.stairs(one.sel(generation=t).mean("seed"), perplexity, color=shades[t], label=f"generation {t}")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=6))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    if len(used):
      axis.set_xlim(perplexity[used[0]], perplexity[used[-1] + 1])
    axis.set_title(str(workflow), fontsize=9)
    axis.set_xlabel("perplexity of a sample under generation 0")
  axes[0][0].set_ylabel("share of samples")
  finish(figure, axes, title, results, 0, 0, False)
  return figure


def phase_diagram(results, metric: str, title: str = ""):
  """How much worse a metric is in the last generation than in the first: real share against another axis, a panel for each further.

  A line joins the shares that are enough.

  Args:
    results: a Dataset with the dim real_fraction, a workflow, and `required_real_fraction` over the other dims.
    metric: its name.
    title: above the figure.
  """
  results = diagnostics.complete(results).isel(workflow=0)
  rest = [dim for dim in results.cell_status.dims if dim != "real_fraction"]
  across = max(rest, key=lambda dim: results.sizes[dim])
  parts = list(slices(results.sortby("real_fraction"), [dim for dim in rest if dim != across]))
  figure, axes = panels(1, len(parts), share_y=True)
  shares = np.sort(results.real_fraction.values)
  change = lambda part: (part[metric].isel(generation=-1) - part[metric].isel(generation=0)).mean("seed")
  maps = [change(part).transpose("real_fraction", across, ...).values.reshape(len(shares), -1) for _, part in parts]
  ends = {"vmin": min(map(np.nanmin, maps)), "vmax": max(map(np.nanmax, maps))}
  for axis, (_, part), values in zip(axes[0], parts, maps):
    image = axis.imshow(values, origin="lower", cmap="viridis", aspect="auto", **ends)
    enough = part.required_real_fraction.values.reshape(-1)
    place = np.where(np.isfinite(enough), np.interp(enough, shares, np.arange(len(shares))), np.nan)
    axis.plot(np.arange(len(place)), place, "o-", color="white", markeredgecolor="black", label="share that is enough")
    axis.set_xticks(range(results.sizes[across]), labels(results[across].values))
    axis.set_xlabel(across.replace("_", " "))
    axis.set_title(part.attrs["slice"], fontsize=9)
  axes[0][0].set_yticks(range(len(shares)), labels(shares))
  axes[0][0].set_ylabel("real share of the training rows")
  span = f"from generation 1 to {int(results.generation.values[-1])}"
  figure.colorbar(image, ax=list(axes[0]), label=f"{wrapped(results[metric].attrs)}\nchange {span}")
  figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right", fontsize=9, frameon=False)
  figure.suptitle(title, fontsize=11)
  tolerance = results.required_real_fraction.attrs["tolerance"]
  figure.supxlabel(
    f"means over {results.sizes['seed']} seeds; enough: within {tolerance:g} of the first generation's until the last; no "
    "point: every share is, or none",
    fontsize=8,
    color="0.35",
  )
  return figure


def value_map(results):
  """Test loss over numbers of real and of synthetic rows: means over seeds, lower is better."""
  figure, axes = panels(1, 1)
  axis, loss = axes[0][0], results.test_loss.mean("seed").transpose("num_real", "num_synthetic")
  image = axis.imshow(loss.values, origin="lower", cmap="viridis", aspect="auto")
  dark = loss.values < 0.5 * (loss.values.min() + loss.values.max())
  for (i, j), value in np.ndenumerate(loss.values):
    axis.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=9, color="white" if dark[i, j] else "black")
  axis.set_xticks(range(results.sizes["num_synthetic"]), map(str, results.num_synthetic.values))
  axis.set_yticks(range(results.sizes["num_real"]), map(str, results.num_real.values))
  axis.set_xlabel("synthetic rows")
  axis.set_ylabel("real rows")
  figure.colorbar(image, ax=axis, label="test loss (nats per token)")
  figure.supxlabel(f"means over {results.sizes['seed']} seeds", fontsize=8, color="0.35")
  return figure


def value_curves(results):
  """Test loss against the number of synthetic rows, a curve a number of real rows; and against the share of real rows."""
  figure, axes = panels(1, 2, share_x=False)
  left, right = axes[0]
  real, synthetic = results.num_real.values, results.num_synthetic.values
  for r, shade in zip(real, viridis(len(real))):
    values = results.test_loss.sel(num_real=r).transpose("seed", "num_synthetic").values
    band(left, synthetic, values, shade, f"{r} real rows", False, marker="o")
    some = r + synthetic > 0
    band(right, r / np.maximum(r + synthetic, 1)[some], values[:, some], shade, None, False, marker="o")
  left.set_xscale("symlog", linthresh=max(synthetic[synthetic > 0].min(initial=1e9), 1) if (synthetic > 0).any() else 1)
  left.set_xlabel("synthetic rows")
  right.set_xlabel("share of real rows")
  left.set_ylabel(wrapped(results.test_loss.attrs))
  figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=9, frameon=False)
  figure.supxlabel(f"band: 95% interval of the mean over {results.sizes['seed']} seeds", fontsize=8, color="0.35")
  return figure


def _language_figures(results) -> Iterator[tuple[str, Any]]:
  """Test loss as in the paper, all workflows in one panel; what samples look like; learning curves; how likely samples are."""
  grid = [d for d in results.cell_status.dims if d != "workflow"]
  names = diagnostics.metrics(results)
  if len(names) > _MOST_FIGURES:  # then those alone that definitions of collapse read
    names = [name for name in names if results[name].attrs.get("measures")]
  for name in names:
    for at, part in slices(results, [d for d in grid if d != "num_samples"]):
      yield f"{name}{at}", trajectories(part, name, columns="num_samples", colour="workflow")
  if "learning_curve" in results:
    for at, part in slices(results, grid):
      yield f"learning_curves{at}", learning_curves(part)
  if "sample_loss_histogram" in results:
    for at, part in slices(results, grid):
      yield f"loss_histograms{at}", loss_histograms(part)
