"""TensorBoard events of a sweep: curves of each cell as they come, figures at the end. Imports no JAX."""

import contextlib
import importlib.util
import json
import logging
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.vocabulary import file_name

_log = logging.getLogger(__name__)
FILE = "events.out.tfevents.0.collapse_jax"  # one name, so that a sweep which comes to a cell again replaces its points


def available() -> bool:
  return importlib.util.find_spec("tensorboardX") is not None


def _close(records) -> None:
  with contextlib.suppress(OSError):  # a full disk, which `flush` has told of
    records.close()


class Events:
  """An events file that begins anew. Written here and now: tensorboardX's own writer hangs when its thread finds the disk full."""

  def __init__(self, folder: Path):
    from tensorboardX.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    self._records = RecordWriter(str(folder / FILE))
    weakref.finalize(self, _close, self._records)
    self._write(file_version="brain.Event:2")

  def add(self, summary, step: int = 0) -> None:
    self._write(summary=summary, step=step)

  def flush(self) -> None:
    """An OSError where the disk is full."""
    self._records.flush()

  def _write(self, **what) -> None:
    from tensorboardX.proto.event_pb2 import Event

    self._records.write(Event(wall_time=time.time(), **what).SerializeToString())


class Curves:
  """Means over the finite seeds of scalar metrics against generation; a TensorBoard run, of one file, for each cell.

  Cells come one after another: only the file of the latest is open.
  """

  def __init__(self, log_dir: str):
    self._log_dir, self._name, self._failed = Path(log_dir), "", False

  def add(self, cell: Mapping[str, Any], generations, metrics: Mapping[str, np.ndarray]) -> None:
    """Points of metrics [seeds, generations]; the curve `finite` tells the share of seeds. What fails is a warning."""
    name = file_name(",".join(f"{axis}={value}" for axis, value in cell.items()))
    if self._failed:
      return
    try:
      self._add(name, generations, metrics)
    except OSError as error:  # a full disk
      self._failed = True
      _log.warning("No more curves are written to %s (%s); the sweep goes on.", self._log_dir, error.strerror or error)

  def _add(self, name: str, generations, metrics: Mapping[str, np.ndarray]) -> None:
    from tensorboardX import summary

    if name != self._name:
      self._name, self._events = name, Events(self._log_dir / name)
    for metric, values in metrics.items():
      if values.ndim != 2:
        continue
      values = np.where(np.isfinite(values), values, np.nan).astype(float)
      for t, column in zip(generations, values.T):
        if not np.isnan(column).all():
          self._events.add(summary.scalar(metric, np.nanmean(column)), t)
    self._events.flush()


def on_cell(log_dir: str, num_generations: int, record_every: int = 1) -> Callable[[dict[str, Any], Mapping], None]:
  """For `sweep`: writes the curves of a cell."""
  from collapse_jax.generation import recorded

  generations = recorded(range(1, num_generations + 1), record_every)
  curves = Curves(log_dir)
  return lambda cell, metrics: curves.add(cell, generations, metrics)


def on_metrics(log_dir: str, num_seeds: int) -> Callable[[dict[str, Any], int, range, Mapping], None]:
  """For `sweep` with a driver that goes by generations: writes points as they come, apart for each part of the seeds."""
  curves = Curves(log_dir)

  def add(cell, t, seeds, metrics):
    name = {} if len(seeds) == num_seeds else {"seeds": f"{seeds.start}-{seeds.stop - 1}"}
    curves.add(cell | name, [t], {key: value[:, None] for key, value in metrics.items()})

  return add


def figures(log_dir: Path, results: Path) -> None:
  """Adds the figures that lie below a directory of results."""
  import matplotlib.image
  from tensorboardX import summary

  events = Events(log_dir / "figures")
  for file in sorted(results.glob("**/figures/*.png")):
    image = matplotlib.image.imread(file)[..., :3]
    events.add(summary.image(str(file.relative_to(results).with_suffix("")), image, dataformats="HWC"))
  events.add(
    summary.text("flags", "```\n" + json.dumps(json.loads((results / "config.json").read_text()), indent=2) + "\n```")
  )
  events.flush()
