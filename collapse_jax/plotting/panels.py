"""What figures are made of: panels, curves with a band, legends and notes. No pyplot, so no global state."""

import functools
import io
import textwrap
from typing import Any

import numpy as np

from collapse_jax.diagnostics.reading import finite_runs

__all__ = [
  "NULL_LABEL",
  "band",
  "finish",
  "interval",
  "labels",
  "log_axis",
  "panels",
  "png",
  "slices",
  "text_of",
  "viridis",
  "wrapped",
]

NULL_LABEL = "of real rows"  # what a sample of the real law would have


def slices(results, dims):
  """(suffix of a figure's name, results at one point) over the points of some dims; the long ones are named."""
  texts = {d: labels(results[d].values) for d in dims}
  for at in np.ndindex(*(results.sizes[d] for d in dims)):
    named = {d: texts[d][i] for d, i in zip(dims, at) if results.sizes[d] > 1}
    suffix = "".join(f"_{d}_{value}" for d, value in named.items())
    title = ", ".join(f"{d} = {value}" for d, value in named.items())
    yield suffix, results.isel({d: [i] for d, i in zip(dims, at)}).assign_attrs(slice=title)


@functools.cache
def _plain_figure():
  from matplotlib.figure import Figure
  from matplotlib.text import Text

  class PlainFigure(Figure):
    """Its texts mean what they say: a name with dollar signs is no formula. Numbers of axes are set by matplotlib, as ever."""

    def draw(self, renderer):
      ticks = {
        id(label)
        for axes in self.axes
        for axis in (axes.xaxis, axes.yaxis)
        for label in (*axis.get_ticklabels(which="both"), axis.offsetText)
      }
      for text in self.findobj(Text):
        if id(text) not in ticks:
          text.set_parse_math(False)
      super().draw(renderer)

    def _repr_png_(self) -> bytes:
      """What notebooks show."""
      return png(self)

  return PlainFigure


def panels(rows, columns, share_x=True, share_y=False):
  """An empty figure of panels, for files: no window is opened.

  Args:
    rows, columns: how many panels.
    share_x, share_y: as of `Figure.subplots`.
  Returns:
    the figure, and its axes [rows, columns].
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  figure = _plain_figure()(figsize=(max(6.5, 2.2 + 3.2 * columns), 1.2 + 2.5 * rows), layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)
  for axis in axes.flat:
    axis.spines[["top", "right"]].set_visible(False)
  return figure, axes


def png(figure) -> bytes:
  """The figure as bytes of a PNG file, of 256 colours: a third of the size, and no difference that one sees."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from PIL import Image  # which matplotlib needs

  dpi, figure.dpi = figure.dpi, 110
  canvas = FigureCanvasAgg(figure)
  canvas.draw()  # once, where `savefig` draws twice: to lay out, and to keep
  image = Image.fromarray(np.asarray(canvas.buffer_rgba()))
  figure.dpi = dpi
  image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small := io.BytesIO(), "png")
  return small.getvalue()


@functools.cache
def _ticks_of_logs():
  from matplotlib.ticker import LogFormatterSciNotation

  class Ticks(LogFormatterSciNotation):
    """Powers of ten, or plain numbers where an axis spans less than two decades: 0.6, not 6 x 10^-1."""

    def __call__(self, x, pos=None):
      text = super().__call__(x, pos)
      low, high = sorted(self.axis.get_view_interval()) if self.axis else (0.0, 1.0)
      return f"{x:g}" if text and high < 100 * low else text

  return Ticks


def log_axis(axis) -> None:
  """Makes the vertical axis logarithmic."""
  axis.set_yscale("log")
  axis.yaxis.set_major_formatter(_ticks_of_logs()())
  axis.yaxis.set_minor_formatter(_ticks_of_logs()(labelOnlyBase=False))


def viridis(num):
  """[num, 4] colours of that map, without its pale end."""
  from matplotlib import colormaps

  return colormaps["viridis"](np.linspace(0.0, 0.85, num))


def interval(kept) -> tuple[np.ndarray, np.ndarray]:
  """Mean over runs [kept, T], and half of its 95% interval; 0 of a single run."""
  if len(kept) < 2:
    return kept.mean(axis=0), np.zeros(kept.shape[1:])
  half = 1.96 * kept.std(axis=0, ddof=1) / np.sqrt(len(kept))
  return kept.mean(axis=0), half


def band(axis, x, values, shade, label, log_scale, marker=None) -> int:
  """Mean and 95% interval over finite runs, or where none is finite to the end, of all up to where they ended; returns
  the number of runs left out.

  Args:
    axis: where it is drawn.
    x: [T].
    values: [seeds, T].
    shade: a colour.
    label: in the legend.
    log_scale: the axis is logarithmic; an interval that reaches below zero is shown down to a tenth of the mean.
    marker: of the points; None: a line alone.
  """
  kept = finite_runs(values)
  num = kept.shape[1]
  if not num:
    return len(values)
  if num < len(x):
    x, label = x[:num], f"{label}, ended at t = {x[num - 1]}"
  mean, half = interval(kept)
  axis.plot(
    x, mean, color=shade, label=label, linewidth=1.6, marker=marker or ("o" if len(x) == 1 else None), markersize=4
  )
  if len(kept) > 1:
    # On a log axis an interval that reaches below zero would fill the panel: show it down to a tenth of the mean.
    low = np.maximum(mean - half, 0.1 * mean) if log_scale else mean - half
    if len(x) == 1:
      axis.errorbar(x, mean, [mean - low, half], color=shade, linewidth=1.2, capsize=3)
    axis.fill_between(x, low, mean + half, color=shade, alpha=0.25, linewidth=0)
  return len(values) - len(kept)


def finish(figure, axes, title, results, non_finite, missing, theory_drawn, note=""):
  """Legend, title and caption of a figure whose panels are drawn.

  Args:
    figure, axes: as of `panels`.
    title: above the figure.
    results: a Dataset, or one for each panel, for what the caption says of runs.
    non_finite: runs left out, in all panels.
    missing: cells without results.
    theory_drawn: the legend names the line of theory.
    note: more to be said below.
  """
  from matplotlib.ticker import MaxNLocator

  seen: dict[str, Any] = {}
  for axis in axes.flat:
    if axis.get_xlabel() == "generation t" and axis.get_xscale() == "linear":
      axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for handle, label in zip(*axis.get_legend_handles_labels()):
      seen.setdefault(label, handle)
  if NULL_LABEL in seen:  # after the curves that it is held against
    seen[NULL_LABEL] = seen.pop(NULL_LABEL)
  if theory_drawn:
    from matplotlib.lines import Line2D

    seen["theory"] = Line2D([], [], color="black", linestyle="--", linewidth=1)
  if seen:
    figure.legend(seen.values(), seen.keys(), loc="outside right upper", fontsize=9, frameon=False)
  every = results if isinstance(results, list) else [results]
  title = title or every[0].attrs.get("slice", "")
  if title:
    figure.suptitle(title, fontsize=11)
  drawn = "band: 95% interval of the mean" if any(axis.collections for axis in axes.flat) else "means"
  seeds = sorted({one.sizes["seed"] for one in every})
  over = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else seeds[0]
  notes = [f"{drawn} over {over} seeds"] if seeds[-1] > 1 else []
  notes.append(f"{non_finite} non-finite runs left out of the means")
  notes += [f"{missing} cells could not run"] if missing else []
  notes += [note] if note else []
  figure.supxlabel(textwrap.fill("; ".join(notes), int(14 * figure.get_figwidth())), fontsize=8, color="0.35")


def text_of(value) -> str:
  """A grid value as titles and legends show it."""
  return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def labels(values) -> list[str]:
  """A text for each value, with as many digits as tell them apart."""
  for digits in (6, 9, 17):
    found = [f"{value:.{digits}g}" if isinstance(value, int | float | np.number) else str(value) for value in values]
    if len(set(found)) == len(found):
      break
  return found


def wrapped(about) -> str:
  """Label of an axis: the metric's long name and units, in lines of 30 characters."""
  units = about.get("units", "1")
  text = about.get("long_name", "") + ("" if units in ("1", "") else f" ({units})")
  return "\n".join(textwrap.wrap(text, 30))
