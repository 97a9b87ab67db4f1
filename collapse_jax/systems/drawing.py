"""What the figures of systems are made of, beside `plotting.panels`."""

from typing import Any

import numpy as np

from collapse_jax.plotting.panels import band, slices, wrapped

__all__ = ["GREY", "SHADES", "THEORY", "curves", "heat_map", "is_chain", "name_axes", "points", "shares_of", "sliced"]

SHADES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
GREY = "#777777"
THEORY: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1, "zorder": 5}


def sliced(name, results, drawn, draw) -> dict[str, Any]:
  """One figure per point of the grid dims that are not drawn.

  Args:
    name: what file names begin with.
    results: a Dataset.
    drawn: dims that one figure shows.
    draw: (part of results) -> figure.
  Returns:
    name -> figure.
  """
  rest = [dim for dim in results.cell_status.dims if dim not in drawn]
  return {f"{name}{suffix}": draw(part.squeeze(rest, drop=False)) for suffix, part in slices(results, rest)}


def curves(axis, results, metric, cell, shade, label, **options) -> int:
  """Metric over generations of one cell; returns the number of runs left out.

  Args:
    axis: where it is drawn.
    results: a Dataset.
    metric: its name.
    cell: coordinate -> value.
    shade: a colour.
    label: in the legend.
    options: of `panels.band`.
  """
  one = results.sel(cell)
  if str(one.cell_status.values) != "ok":
    return 0
  about = results[metric].attrs
  return band(
    axis,
    results.generation.values,
    one[metric].transpose("seed", "generation").values,
    shade,
    label,
    about.get("log_scale"),
    **options,
  )


def shares_of(results, cell) -> np.ndarray | None:
  """Share [T, T] of batch j in the data of generation t of one cell; None where it is unknown, or not every generation is recorded."""
  if "shares" not in results:
    return None
  shares = results.shares.sel({dim: value for dim, value in cell.items() if dim in results.shares.dims}).values
  return None if shares.shape[0] != shares.shape[1] or np.isnan(shares).any() else shares


def is_chain(results, cell) -> bool:
  """Whether each model of a cell is fitted to what the last one emitted, and to nothing else."""
  shares = shares_of(results, cell)
  return shares is not None and np.array_equal(shares, np.eye(len(shares)))


def points(axis, x, values, shade, label, log_scale=False) -> int:
  """Metric against a grid value; `values` is [seed, x].

  Args:
    axis: where it is drawn.
    x: grid values [X].
    values: [seeds, X].
    shade: a colour.
    label: in the legend.
    log_scale: as of `panels.band`.
  """
  return band(axis, x, values, shade, label, log_scale, "o")


def name_axes(axes, results, metrics):
  """Metrics beside rows of panels, generations below the last.

  Args:
    axes: [rows, columns], as of `panels`.
    results: a Dataset, for the metrics' long names.
    metrics: one a row.
  """
  for row, metric in zip(axes, metrics):
    row[0].set_ylabel(wrapped(results[metric].attrs))
  for axis in axes[-1]:
    axis.set_xlabel("generation t")


def heat_map(figure, axis, x, y, values, label):
  """Values [y, x] as coloured cells around their points, which need not be evenly spaced.

  Args:
    figure, axis: where it is drawn.
    x, y: [X] and [Y].
    values: [Y, X].
    label: of the colour bar.
  """
  image = axis.pcolormesh(x, y, values, shading="nearest", cmap="viridis")
  figure.colorbar(image, ax=axis, label=label)
