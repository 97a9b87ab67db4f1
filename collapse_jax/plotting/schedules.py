"""A table of shares, and what it is worth beside others."""

import numpy as np

from collapse_jax.plotting.panels import band, panels, text_of, viridis

__all__ = ["learned_schedule"]


def learned_schedule(table, errors, label: str = "error"):
  """The shares of all batches in each generation, and the errors of several schedules against the generation.

  Args:
    table: [T, T] share of batch j = 0..T-1 (0 = real) in generation t, in row t - 1.
    errors: name of a schedule -> its error [runs, T]; bands are 95% intervals of the means.
    label: of the errors.
  Returns:
    a figure of two panels.
  """
  figure, ((left, right),) = panels(1, 2, share_x=False)
  table = np.asarray(table, float)
  num = len(table)
  shown = np.where(np.tri(num) > 0, table, np.nan)
  image = left.imshow(shown, origin="lower", extent=(-0.5, num - 0.5, 0.5, num + 0.5), vmin=0, vmax=1, aspect="auto")
  figure.colorbar(image, ax=left, label="share")
  left.set_xlabel("batch of model (0: real)")
  left.set_ylabel("generation")
  for shade, (name, values) in zip(viridis(len(errors)), errors.items()):
    band(right, np.arange(1, num + 1), np.asarray(values), shade, text_of(name), False)
  right.set_xlabel("generation")
  right.set_ylabel(label)
  right.legend(fontsize=7, frameon=False)
  runs = sorted({len(values) for values in errors.values()})
  figure.supxlabel(f"band: 95% interval of the mean over {', '.join(map(str, runs))} runs", fontsize=8, color="0.35")
  return figure
