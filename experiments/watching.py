"""TensorBoard events of a sweep: curves of each cell as they come, figures at the end. Imports no JAX."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def available() -> bool:
  return importlib.util.find_spec("tensorboardX") is not None


def on_cell(log_dir: str, num_generations: int, record_every: int = 1) -> Callable[[dict[str, Any], Mapping], None]:
  """For `sweep`: writes the mean over seeds of each metric against generation, a TensorBoard run for each cell."""
  from collapse_jax.generation import recorded
  generations = recorded(range(1, num_generations + 1), record_every)

  def write(cell, metrics):
    points(log_dir, cell, generations, metrics)
  return write


def points(log_dir: str, cell: Mapping[str, Any], generations, metrics: Mapping[str, np.ndarray]) -> None:
  """Adds means over the finite seeds of scalar metrics [seeds, generations]; the curve `finite` tells their share."""
  from tensorboardX import SummaryWriter
  name = ",".join(f"{axis}={value}" for axis, value in cell.items()).replace("/", "_")
  with SummaryWriter(str(Path(log_dir) / name)) as writer:
    for metric, values in metrics.items():
      if values.ndim != 2:
        continue
      values = np.where(np.isfinite(values), values, np.nan).astype(float)
      for t, column in zip(generations, values.T):
        if not np.isnan(column).all():
          writer.add_scalar(metric, np.nanmean(column), t)


def figures(log_dir: Path, results: Path) -> None:
  """Adds the figures that lie below a directory of results."""
  import matplotlib.image
  from tensorboardX import SummaryWriter
  with SummaryWriter(str(log_dir / "figures")) as writer:
    for file in sorted(results.glob("**/figures/*.png")):
      image = matplotlib.image.imread(file)[..., :3]
      writer.add_image(str(file.relative_to(results).with_suffix("")), image, dataformats="HWC")
    writer.add_text("flags", "```\n" + json.dumps(json.loads((results / "config.json").read_text()), indent=2) + "\n```")
