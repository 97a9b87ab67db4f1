"""Figures from result Datasets. Drawing reads results, never runs or changes anything, and uses no pyplot.

Data are curves, the mean over seeds, with a band: the 95% interval of that mean. Theory is a black dashed line. A
workflow has one colour in every figure of a Dataset; values of num_samples go from dark to light. Each figure says
below the panels what was left out of it, and carries a caption for the report as its label.
"""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from collapse_jax import diagnostics

# Okabe and Ito's colours; black is theory.
WORKFLOW_COLOURS = {"replace": "#D55E00", "accumulate": "#0072B2", "accumulate_subsample": "#009E73"}
_OTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#999999")
_TITLE, _LABEL, _TICK, _NOTE = 11.5, 11, 10, 9.5  # font sizes
_THEORY = {"color": "black", "linestyle": "--", "linewidth": 1.1, "zorder": 5}


def workflow_colours(names) -> dict[str, str]:
  """Colour by workflow: fixed for the three published ones, in the order of `names` for others."""
  others = [name for name in names if name not in WORKFLOW_COLOURS]
  return {name: WORKFLOW_COLOURS[name] if name in WORKFLOW_COLOURS
          else _OTHER_COLOURS[others.index(name) % len(_OTHER_COLOURS)] for name in map(str, names)}


# ------------------------------------------------------------------------------------------------ figures

def trajectories(results, metric: str, panel: str = "workflow", colour: str = "num_samples", theory: bool = True,
                 log_x: bool = False, **selection):
  """Metric against generation: columns of panels over one dim, curves over another, rows over a third.

  Args:
    results: Dataset of a sweep, of any task.
    metric: a scalar variable.
    panel: dim with a column of panels per value.
    colour: dim with a curve per value; one without the dim, or of length 1, gives one curve in the workflow's colour.
    theory: draw closed forms where they are known (task "gaussian").
    log_x: log axis of generations.
    **selection: dim=value or dim=[values]; one more dim may keep several values, and becomes the rows.
  Returns:
    matplotlib Figure.
  Raises:
    ValueError: no such metric, dim or value, or more dims with several values than can be shown.
  """
  results = _selected(results, metric, selection)
  long = [d for d in diagnostics.grid_dims(results) if results.sizes[d] > 1 and d not in (panel, colour)]
  _at_most(1, long)
  return _draw(results, metric, rows=long[0] if long else None, columns=panel if panel in results.dims else None,
               colour=colour if results.sizes.get(colour, 1) > 1 else None, theory=theory, log_x=log_x)


def workflow_comparison(results, metric: str, theory: bool = False, log_x: bool = False, **selection):
  """Metric against generation: a curve per workflow, a panel per point of the grid.

  Args:
    results, metric, theory, log_x, **selection: as `trajectories` has them; at most two dims besides workflow may keep
      several values, and become columns (num_samples, or else the last) and rows.
  """
  results = _selected(results, metric, selection)
  long = [d for d in diagnostics.grid_dims(results) if results.sizes[d] > 1 and d != "workflow"]
  _at_most(2, long)
  long = sorted(long, key=lambda d: d == "num_samples")
  return _draw(results, metric, rows=long[0] if len(long) == 2 else None, columns=long[-1] if long else None,
               colour="workflow", theory=theory, log_x=log_x)


def fitted_densities(results, num_samples: int | None = None, seed: int = 0, **selection):
  """Fitted densities of the first coordinate in one Gaussian run, dark (early) to light (late); truth dashed.

  Args:
    results: has marginal_mean and marginal_log_variance; truth N(0, noise_var).
    num_samples: a value of the dim; default the first.
    seed: index of the run.
    **selection: as in `trajectories`; of the other dims the first value is shown.
  """
  from matplotlib import colormaps
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import ListedColormap, LogNorm
  selection |= {} if num_samples is None else {"num_samples": num_samples}
  results = _selected(results, "marginal_log_variance", selection)
  results = results.isel({d: [0] for d in diagnostics.grid_dims(results) if d != "workflow"})
  about = _point(results, [d for d in diagnostics.grid_dims(results) if d != "workflow"])
  figure, axes = _panels(1, results.sizes["workflow"], side=1.0)
  generations = results.generation.values
  shown = np.unique(np.searchsorted(generations, np.geomspace(generations[0], generations[-1], 8).round()))
  norm = LogNorm(generations[0], max(generations[-1], generations[0] + 1))
  early_to_late = ListedColormap(colormaps["viridis"](np.linspace(0, 0.92, 256)))
  noise_var = float(results.noise_var.values[0]) if "noise_var" in results.dims else 1.0
  x = np.linspace(-3.5, 3.5, 701) * np.sqrt(noise_var)
  gaussian = lambda mean, variance: np.exp(-(x - mean) ** 2 / (2 * variance)) / np.sqrt(2 * np.pi * variance)
  lost = 0
  for axis, workflow in zip(axes[0], results.workflow.values):
    run = results.sel(workflow=workflow).isel({d: 0 for d in about} | {"seed": seed})
    mean, log_variance = (run[name].values.astype(float) for name in ("marginal_mean", "marginal_log_variance"))
    for k in shown:
      if np.isfinite(mean[k]) and np.isfinite(log_variance[k]):
        variance = max(np.exp(log_variance[k]), 1e-12 * noise_var)
        axis.plot(x, gaussian(mean[k], variance), color=early_to_late(norm(generations[k])), linewidth=1.6)
    ok = str(run.cell_status.values) == "ok"
    if not axis.lines:
      _write(axis, "no finite run" if ok else str(run.cell_status.values))
    lost += bool(ok and not np.isfinite(mean + log_variance).all())
    axis.plot(x, gaussian(0.0, noise_var), **_THEORY)
    axis.set_ylim(0, 4 / np.sqrt(2 * np.pi * noise_var))
    axis.set_title(str(workflow), fontsize=_TITLE)
    axis.set_xlabel("first coordinate (data units)", fontsize=_LABEL)
  axes[0][0].set_ylabel("fitted density", fontsize=_LABEL)
  bar = figure.colorbar(ScalarMappable(norm, early_to_late), ax=list(axes[0]), pad=0.01)
  bar.set_label("generation t", fontsize=_LABEL)
  where = ", ".join(f"{d} = {_text(v)}" for d, v in about.items() if d in ("dim", "num_samples") or _telling(d, v))
  _finish(figure, results, f"one run, {where}",
          ["dashed: the truth", "higher peaks are cut off", f"{lost} of {results.sizes['workflow']} runs non-finite"],
          f"Fitted densities of the first coordinate over the generations of run {seed}, {where}.", {})
  return figure


def metric_against_real_share(results, metric: str, **selection):
  """Metric at the last generation against the real share: a curve per num_samples, a panel per workflow.

  A ring marks the smallest share from which on the metric is never called growing (`smallest_bounded_share`).

  Args:
    results: has the dim real_fraction.
    metric, **selection: as in `trajectories`; one dim besides real_fraction and num_samples may become rows.
  """
  results = _selected(results, metric, selection)
  if "real_fraction" not in results.dims:
    raise ValueError(f"results must have the dim real_fraction, got {diagnostics.grid_dims(results)}.")
  grid = diagnostics.grid_dims(results)
  long = [d for d in grid if results.sizes[d] > 1 and d not in ("workflow", "real_fraction", "num_samples")]
  _at_most(1, long)
  marked = {tuple(str(row[d]) for d in grid if d != "real_fraction"): row["share"]
            for row in diagnostics.smallest_bounded_share(results, metric)}
  return _draw(results, metric, rows=long[0] if long else None, columns="workflow",
               colour="num_samples" if results.sizes.get("num_samples", 1) > 1 else None, theory=True, log_x=False,
               over="real_fraction", marked=marked)


def figures_for(results) -> dict[str, Any]:
  """The default figures of a Dataset by file name: one per scalar metric with a worse direction, and per slice.

  Slices are the values of the dims that one figure cannot show; for the task "kde" that is one per bandwidth.
  """
  figures: dict[str, Any] = {}
  results = diagnostics.complete(results)
  grid = diagnostics.grid_dims(results)
  draw = metric_against_real_share if "real_fraction" in grid else trajectories
  long = [d for d in grid if results.sizes[d] > 1 and d not in ("workflow", "num_samples", "real_fraction")]
  rows = "dataset" if "dataset" in grid and results.attrs.get("task") == "kde" else next(iter(long), None)
  sliced = [d for d in long if d != rows]
  for name in diagnostics.metrics(results):
    for at in np.ndindex(*(results.sizes[d] for d in sliced)):
      point = {d: results[d].values[i] for d, i in zip(sliced, at)}
      title = name + ("_against_real_share" if draw is metric_against_real_share else "")
      figures[_file_name(title, point)] = draw(results, name, **point)
  has_densities = draw is trajectories and "marginal_mean" in results and "dim" in grid and 1 in results.dim.values
  if results.attrs.get("task") == "gaussian" and has_densities:
    figures["fitted_densities"] = fitted_densities(results, dim=1)
  return figures


def save(figure, path) -> None:
  """Writes path.png (150 dots per inch) and path.pdf; `path` has no suffix."""
  figure.savefig(f"{path}.png", dpi=150)
  figure.savefig(f"{path}.pdf", metadata={"CreationDate": None})


# --------------------------------------------------------------------------------------------- one figure

def _draw(results, metric, *, rows, columns, colour, theory, log_x, over="generation", marked=None):
  """Panels of curves of `metric` over `over`, the generation or (at the last generation) a dim of the grid."""
  grid = diagnostics.grid_dims(results)
  values_of = lambda dim: results[dim].values if dim else [None]
  figure, axes = _panels(len(values_of(rows)), len(values_of(columns)))
  about = results[metric].attrs
  x = results[over].values
  shades = _shades(results, colour)
  legend: dict[str, Any] = {}
  reasons: list[str] = []
  num_runs = lost = 0
  heavy = False
  for i, row in enumerate(values_of(rows)):
    for j, column in enumerate(values_of(columns)):
      axis, here = axes[i][j], []
      for k, value in enumerate(values_of(colour)):
        at = {d: results[d].values[0] for d in grid if d != over}
        at |= {d: v for d, v in ((rows, row), (columns, column), (colour, value)) if d}
        one = results.sel(at)
        order = ("seed", "generation") if over == "generation" else ("seed", over)
        status = np.atleast_1d(one.cell_status.values)
        here += [str(s) for s in status if s != "ok"]
        if not (status == "ok").any():
          continue
        data = one[metric] if over == "generation" else one[metric].isel(generation=-1)
        data = data.transpose(*order).values.astype(np.float64)
        if over == "generation":
          lost_here = ~np.isfinite(data).all(axis=1)
          data, num_runs, lost = data[~lost_here], num_runs + len(data), lost + int(lost_here.sum())
        else:
          num_runs, lost = num_runs + data[:, status == "ok"].size, lost + int((~np.isfinite(data[:, status == "ok"])).sum())
        shade, style = shades[k] if colour else (workflow_colours(results.workflow.values)[str(at["workflow"])], "-")
        line = _curve(axis, x, data, shade, style, bool(about.get("log_scale")), dots=over != "generation")
        if line is not None and colour:
          legend.setdefault(_text(value) if colour == "workflow" else f"{colour} = {_text(value)}", line)
        if theory:
          expected = _expected(results, at, metric, over)
          if expected is not None:
            legend["theory"] = axis.plot(x, expected, **_THEORY)[0]
            heavy |= metric == "covariance_trace_ratio" and (at["workflow"] == "replace" or over != "generation")
        share = (marked or {}).get(tuple(str(at[d]) for d in grid if d != over))
        if share is not None and line is not None:
          height = line.get_ydata()[np.flatnonzero(x == share)[0]]
          legend["smallest bounded\nshare"] = axis.plot(share, height, "o", markersize=13, markerfacecolor="none",
                                                        markeredgecolor="black", markeredgewidth=1.3, zorder=6,
                                                        linestyle="none")[0]
      if not any(len(line.get_xdata()) for line in axis.lines):
        _write(axis, here[0] if here else "no finite run")
      reasons += here
      if columns and i == 0:
        axis.set_title(_value_title(results, columns, column), fontsize=_TITLE)
      if rows and j == len(values_of(columns)) - 1:
        title = "\n".join(textwrap.wrap(_value_title(results, rows, row), 34))
        axis.annotate(title, (1.02, 0.5), xycoords="axes fraction", rotation=270, va="center", ha="left", fontsize=_TITLE)
  if about.get("log_scale"):
    _log_y(axes)
  for axis in axes.flat:
    if over == "real_fraction":
      _share_axis(axis, x)
    elif log_x:
      axis.set_xscale("log")
  for axis in axes[-1]:
    axis.set_xlabel("real share of the training rows" if over == "real_fraction" else "generation t", fontsize=_LABEL)
  last = "" if over == "generation" else f" at t = {int(results.generation.values[-1])}"
  for axis in axes[:, 0]:
    axis.set_ylabel(_axis_text(metric, about) + last, fontsize=_LABEL)
  fixed = {d: results[d].values[0] for d in grid
           if d not in (rows, columns, over) and results.sizes[d] == 1 and _telling(d, results[d].values[0])}
  title = ", ".join(_value_title(results, d, v) for d, v in fixed.items())
  seeds = results.sizes["seed"]
  notes = [f"band: 95% interval of the mean over {seeds} seeds" if seeds > 1 else "one seed, no band"]
  notes.append(f"{lost} of {num_runs} runs non-finite" + (", left out of the means" if lost else ""))
  if heavy:
    notes.append("under replace the expected trace is carried by rare runs, which the mean of few seeds misses")
  if reasons:
    notes.append(f"{len(reasons)} cells could not run: {'; '.join(sorted(set(reasons)))}")
  shown = [f"a panel per {' and '.join(d for d in (rows, columns) if d)}" if rows or columns else "",
           f"a curve per {colour}" if colour else ""]
  name = str(about.get("long_name") or metric)
  caption = f"{name[:1].upper()}{name[1:]} ({metric}){last} against {'real share' if over != 'generation' else over}"
  _finish(figure, results, title, notes, "; ".join(filter(None, [caption, *shown, title])) + ".", legend)
  return figure


def _curve(axis, x, values, shade, style, log_scale, dots):
  """Mean over finite values [seeds, points], with its 95% interval; returns the line, or None without data."""
  values = np.where(np.isfinite(values), values, np.nan)
  num = np.isfinite(values).sum(axis=0)
  if not num.any():
    return None
  mean = np.where(num, np.nansum(values, axis=0) / np.maximum(num, 1), np.nan)
  marker = "o" if dots or len(x) == 1 else None
  line = axis.plot(x, mean, color=shade, linestyle=style, linewidth=1.8, marker=marker, markersize=5)[0]
  if (num > 1).any():
    spread = np.nansum((values - mean) ** 2, axis=0) / np.maximum(num - 1, 1)
    half = np.where(num > 1, stats.t.ppf(0.975, np.maximum(num - 1, 1)) * np.sqrt(spread / np.maximum(num, 1)), np.nan)
    if log_scale:  # the same interval to first order, and never below 0
      factor = np.exp(np.minimum(half / np.where(mean > 0, mean, np.nan), 50))
      low, high = mean / factor, mean * factor
    else:
      low, high = mean - half, mean + half
    if len(x) == 1:
      axis.vlines(x, low, high, color=shade, linewidth=1.5)
    else:
      axis.fill_between(x, low, high, color=shade, alpha=0.25, linewidth=0)
  return line


def _expected(results, at, metric, over):
  """Closed form along `over`, or None where no two points of it (one, of one generation) are known."""
  if over == "generation":
    found = diagnostics.predicted(results, at, metric)
    expected = np.full(1, np.nan) if found is None else found[0]
  else:
    ends = [diagnostics.predicted(results, at | {over: value}, metric) for value in results[over].values]
    expected = np.array([np.nan if end is None else end[0][-1] for end in ends])
  return expected if np.isfinite(expected).sum() > 1 else None


def _panels(rows, columns, side=1.9):
  """Figure and axes [rows, columns]; rows share the vertical axis, `side` inches are for the legend."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure
  figure = Figure(figsize=(1.1 + 3.1 * max(columns, 1.3) + side, 1.3 + 2.6 * rows), layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
  for axis in axes.flat:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=_TICK)
    axis.grid(alpha=0.25, linewidth=0.6)
  return figure, axes


def _finish(figure, results, title, notes, caption, legend):
  if legend:
    legend = {name: legend[name] for name in sorted(legend, key=lambda n: n == "theory")}
    figure.legend(legend.values(), legend.keys(), loc="outside right upper", fontsize=_TICK, frameon=False)
  width = int(figure.get_figwidth() * 14)
  if title:
    figure.suptitle("\n".join(textwrap.wrap(title, int(width * 0.75))), fontsize=_TITLE)
  figure.supxlabel("\n".join(textwrap.wrap("; ".join(notes), width)), fontsize=_NOTE, color="0.3")
  figure.set_label(caption)


def _log_y(axes):
  """Log axis on rows of panels that show anything positive."""
  for row in axes:
    heights = np.concatenate([np.ravel(line.get_ydata()) for axis in row for line in axis.lines] or [np.zeros(1)])
    if (heights[np.isfinite(heights)] > 0).any():
      for axis in row:
        axis.set_yscale("log")


def _share_axis(axis, shares):
  """Shares from 0 to 1: log above the smallest positive one, so that 0.01 and 0.5 can both be read."""
  positive = shares[shares > 0]
  if len(positive) > 1 and positive.max() / positive.min() > 8:
    axis.set_xscale("symlog", linthresh=float(positive.min()), linscale=0.6)
    axis.minorticks_off()
  axis.set_xticks(shares, [_text(s) for s in shares])
  axis.tick_params(axis="x", rotation=45 if len(shares) > 6 else 0)


def _write(axis, text):
  axis.text(0.5, 0.5, "\n".join(textwrap.wrap(str(text), 32)), ha="center", va="center", transform=axis.transAxes,
            fontsize=_TICK, color="0.3")


# ------------------------------------------------------------------------------------------------- choices

def _selected(results, metric, selection):
  """Complete results at the selected values, every dim kept; raises ValueError where there is nothing to select."""
  results = diagnostics.complete(results)
  grid = diagnostics.grid_dims(results)
  if metric not in results or {*grid, "seed", "generation"} != set(results[metric].dims):
    scalar = [n for n, v in results.data_vars.items() if set(v.dims) == {*grid, "seed", "generation"}]
    raise ValueError(f"metric must be one of {', '.join(map(str, scalar))}, got {metric!r}.")
  for dim, wanted in selection.items():
    if dim not in grid:
      raise ValueError(f"{dim} is no dim of the results; there are {', '.join(grid)}.")
    have = results[dim].values
    values = list(np.atleast_1d(wanted))
    text = [_text(v) for v in have]
    missing = [v for v in values if _text(v) not in text]
    if missing:
      raise ValueError(f"{dim} must be among {', '.join(text)}, got {_text(missing[0])}.")
    results = results.isel({dim: [text.index(_text(v)) for v in values]})
  return results


def _at_most(num, dims):
  if len(dims) > num:
    raise ValueError(f"select one value of {' or '.join(dims)}: at most {num} of these dims can have a panel per value.")


def _shades(results, dim):
  """(colour, line style) per value of a dim."""
  from matplotlib import colormaps
  if dim is None:
    return []
  if dim == "workflow":
    names = [str(name) for name in results.workflow.values]
    others = [name for name in names if name not in WORKFLOW_COLOURS]
    again = lambda name: name in others and others.index(name) >= len(_OTHER_COLOURS)
    return [(colour, "-." if again(name) else "-") for name, colour in workflow_colours(names).items()]
  return [(shade, "-") for shade in colormaps["viridis"](np.linspace(0.0, 0.88, results.sizes[dim]))]


def _point(results, dims):
  return {d: results[d].values[0] for d in dims}


def _telling(dim, value) -> bool:
  """Whether the only value of a dim is worth a place in the title."""
  return not (dim == "workflow" or (dim in ("temperature", "noise_var") and float(value) == 1))


def _value_title(results, dim, value) -> str:
  """What a panel says of a value: its name and, for a data set, the note that its plots must show."""
  title = str(value) if dim == "workflow" else f"{dim} = {_text(value)}"
  if dim == "dataset" and "dataset_note" in results.variables:
    notes = results.dataset_note
    note = str((notes.sel(dataset=value) if "dataset" in notes.dims else notes).values)
  else:
    note = str(results.attrs.get("dataset_note", "")) if dim == "dataset" else ""
  return f"{title} ({note})" if note else title


def _text(value) -> str:
  return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def _axis_text(metric, about) -> str:
  units = about.get("units", "1")
  text = str(about.get("long_name") or metric.replace("_", " ")) + ("" if units in ("1", "") else f" ({units})")
  return "\n".join(textwrap.wrap(text, 30))


def _file_name(title, point) -> str:
  """Letters, digits and _ - . only: a data set may be called by its path."""
  name = "".join([title, *(f"_{d}_{Path(_text(v)).name}" for d, v in point.items())])
  return "".join(c if c.isalnum() or c in "_-." else "_" for c in name)
