"""Curves of each cell as they come, to TensorBoard, W&B, trackio or MLflow; figures at the end to TensorBoard. Imports no JAX."""

import contextlib
import importlib
import importlib.util
import json
import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.vocabulary import file_name

_log = logging.getLogger(__name__)
FILE = "events.out.tfevents.0.collapse_jax"  # one name, so that a sweep which comes to a cell again replaces its points


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


class Tracker(Protocol):
  """Where curves go: a run for each cell, one after another."""

  def start(self, name: str, config: Mapping[str, Any]) -> None:
    """A run, by its name and the coordinates of its cell; the run before it has ended."""

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """What is known of a generation."""

  def finish(self) -> None:
    """The run is complete."""


class TensorBoard:
  """A folder with one file of events for each run; only that of the latest is open."""

  def __init__(self, log_dir: str):
    self._log_dir = Path(log_dir)

  def start(self, name: str, config: Mapping[str, Any]) -> None:
    self._events = Events(self._log_dir / name)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    from tensorboardX import summary

    for metric, value in values.items():
      self._events.add(summary.scalar(metric, value), step)
    self._events.flush()

  def finish(self) -> None:
    pass


class Wandb:
  """Runs of a project of Weights & Biases, or of trackio, which has the same functions."""

  def __init__(self, project: str, module: str = "wandb"):
    self._project, self._module = project, importlib.import_module(module)

  def start(self, name: str, config: Mapping[str, Any]) -> None:
    self._module.init(project=self._project, name=name, config=dict(config))

  def log(self, step: int, values: Mapping[str, float]) -> None:
    self._module.log(dict(values), step=step)

  def finish(self) -> None:
    self._module.finish()


class MLflow:
  """Runs of an experiment of MLflow, wherever MLFLOW_TRACKING_URI says."""

  def __init__(self, experiment: str):
    self._experiment, self._mlflow = experiment, importlib.import_module("mlflow")

  def start(self, name: str, config: Mapping[str, Any]) -> None:
    self._mlflow.set_experiment(self._experiment)
    self._mlflow.start_run(run_name=name)
    self._mlflow.log_params(dict(config))

  def log(self, step: int, values: Mapping[str, float]) -> None:
    self._mlflow.log_metrics(dict(values), step=step)

  def finish(self) -> None:
    self._mlflow.end_run()


# Kind -> (module that it needs, of a name).
TRACKERS: dict[str, tuple[str, Callable[[str], Tracker]]] = {
  "tensorboard": ("tensorboardX", TensorBoard),
  "wandb": ("wandb", Wandb),
  "trackio": ("trackio", lambda project: Wandb(project, "trackio")),
  "mlflow": ("mlflow", MLflow),
}


def check(text: str) -> tuple[str, str]:
  """Kind and name of KIND:NAME.

  Raises:
    Refused: another form, an unknown kind, or one whose package is not there.
  """
  kind, _, name = text.partition(":")
  if kind not in TRACKERS or not name:
    allowed = ", ".join(f"{one}:NAME" for one in TRACKERS)
    raise Refused(f"--track must be of {allowed}, got {text!r}.", argument="track", value=text, allowed=allowed)
  module = TRACKERS[kind][0]
  if importlib.util.find_spec(module) is None:
    extra = "watch" if kind == "tensorboard" else kind
    raise Refused(f"--track={text} needs {module}: pip install 'collapse-jax[{extra}]'.", argument="track", value=text)
  return kind, name


class Curves:
  """Means over the finite seeds of scalar metrics against generation, a run for each cell; `finite` is the share of seeds.

  A tracker that fails is told of in a warning, and left; the sweep goes on.
  """

  def __init__(self, trackers: Sequence[Tracker]):
    self._trackers, self._name = list(trackers), ""

  def __enter__(self) -> "Curves":
    return self

  def __exit__(self, *_) -> None:
    self._all(lambda tracker: tracker.finish() if self._name else None)

  def add(self, cell: Mapping[str, Any], generations, metrics: Mapping[str, np.ndarray]) -> None:
    """Points of metrics [seeds, generations]."""
    name = file_name(",".join(f"{axis}={value}" for axis, value in cell.items()))
    if name != self._name:
      self.__exit__()
      self._name = name
      self._all(lambda tracker: tracker.start(name, cell))
    scalars = {metric: values for metric, values in metrics.items() if values.ndim == 2}
    for i, t in enumerate(generations):
      columns = {metric: values[:, i].astype(float) for metric, values in scalars.items()}
      finite = {metric: column[np.isfinite(column)] for metric, column in columns.items()}
      values = {metric: float(np.mean(column)) for metric, column in finite.items() if len(column)}
      self._all(lambda tracker: tracker.log(t, values))  # noqa: B023

  def _all(self, step: Callable[[Tracker], Any]) -> None:
    for tracker in list(self._trackers):
      try:
        step(tracker)
      except Exception as error:  # a full disk, a server that is gone
        self._trackers.remove(tracker)
        reason = getattr(error, "strerror", None) or error
        _log.warning("No more curves go to %s (%s); the sweep goes on.", type(tracker).__name__, reason)


def curves(log_dir: str | None, track: Sequence[str] = ()) -> Curves | None:
  """To where flags say; None: nowhere.

  Args:
    log_dir: of TensorBoard.
    track: each KIND:NAME, see `TRACKERS`.
  """
  named = [f"tensorboard:{log_dir}"] * bool(log_dir) + list(track)
  return Curves([TRACKERS[kind][1](name) for kind, name in map(check, named)]) if named else None


def on_cell(curves: Curves, num_generations: int, record_every: int = 1) -> Callable[[dict[str, Any], Mapping], None]:
  """For `sweep`: writes the curves of a cell."""
  from collapse_jax.generation import recorded

  generations = recorded(range(1, num_generations + 1), record_every)
  return lambda cell, metrics: curves.add(cell, generations, metrics)


def on_metrics(curves: Curves, num_seeds: int) -> Callable[[dict[str, Any], int, range, Mapping], None]:
  """For `sweep` with a driver that goes by generations: writes points as they come, apart for each part of the seeds."""

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
