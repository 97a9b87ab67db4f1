"""What a step does, in this process or in another: reads rows, calls the pipeline, writes what comes of it. Imports no JAX."""

import collections
import contextlib
import json
import logging
import math
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import cloudpickle
import numpy as np

from collapse_jax import vocabulary
from collapse_jax.pipelines import _protocol, kinds
from collapse_jax.refused import Refused

__all__ = ["Call", "Failure", "Performer", "Piece", "Segment", "Setting", "redirect"]

_log = logging.getLogger(__name__)
_CACHED_BYTES = 64 << 20  # of rows that were read
_CACHED_MODELS = 2


class Failure(Exception):
  """A step did not do what it should; says why in one line."""


class Setting(NamedTuple):
  """What steps of a pipeline share: its name in this loop, what rows are like, where the test rows are, and whether training rows
  are kept."""

  name: str
  pipeline: Any
  schema: kinds.Schema
  test_schema: kinds.Schema
  test: Path
  keep_data: bool = True


class Segment(NamedTuple):
  """Rows that were written together: the real ones, or a sample.

  Attributes:
    name: of its step; "real" with a digest of what they are.
    path: of its file.
    num: rows.
    generation: that made them; 0: real.
    model: name of the step that fitted their model; "".
    seed: they were drawn with.
  """

  name: str
  path: Path
  num: int
  generation: int = 0
  model: str = ""
  seed: int = 0


class Piece(NamedTuple):
  """Rows of a segment; `rows` [k] int32, None: all of them."""

  segment: Segment
  rows: np.ndarray | None

  @property
  def num(self) -> int:
    return self.segment.num if self.rows is None else len(self.rows)


class Call(NamedTuple):
  """A step as the process that does it is told of it.

  Attributes:
    role: "fit", "sample" or "evaluate".
    folder: of the step.
    seed: 31 bits.
    generation: 1..T.
    pieces: training rows (fit), or those of the sample (evaluate).
    train: training rows of the model (evaluate).
    weight: [n] float32 of the training rows, None: all count alike (fit).
    model: folder of the fit (sample, evaluate), or of the one before where runs are warm-started (fit).
    num: rows (sample).
    name: of the fit that the rows come from (sample).
  """

  role: str
  folder: Path
  seed: int
  generation: int
  pieces: tuple[Piece, ...] = ()
  weight: np.ndarray | None = None
  model: Path | None = None
  num: int = 0
  name: str = ""
  train: tuple[Piece, ...] = ()


class Performer:
  """Does steps, and keeps what the next ones are likely to read."""

  def __init__(self, setting: Setting):
    self._setting = setting
    self._rows: collections.OrderedDict[Path, tuple[Any, int]] = collections.OrderedDict()
    self._models: collections.OrderedDict[Path, Any] = collections.OrderedDict()
    self._test: Any = None

  def perform(self, call: Call) -> dict[str, Any]:
    """What is to be noted of a step; its log is in its folder.

    Raises:
      Failure: the pipeline raised, returned what it should not, or could not be written.
    """
    try:
      with _logged(call.folder / "log.txt"):
        return getattr(self, f"_{call.role}")(call)
    except Refused as error:
      raise Failure(str(error)) from None
    except MemoryError:
      raise Failure(f"{call.role} ran out of memory.") from None
    except OSError as error:
      where = f" ({error.filename})" if error.filename else ""
      raise Failure(f"{call.role}: {error.strerror or error}{where}.") from None
    except Exception as error:
      text = (str(error).strip().splitlines() or [""])[0]
      raise Failure(f"{call.role} raised {type(error).__name__}{': ' if text else ''}{text[:300]}") from None

  def _fit(self, call: Call) -> dict[str, Any]:
    pipeline = self._setting.pipeline
    data = self.rows(call.pieces)
    name = f"data{kinds.suffix(self._setting.schema.kind)}" if self._setting.keep_data else ""
    if name:
      _put(call.folder / name, kinds.writer(data, Path(name).suffix, _provenance(call)))
    workdir = call.folder / "model"
    workdir.mkdir()
    options = _protocol.options(pipeline.fit, weight=call.weight, generation=call.generation)
    previous = None if call.model is None else self._model(call.model)
    model = pipeline.fit(data, seed=call.seed, workdir=workdir, previous=previous, **options)
    if model is None:
      raise Refused("fit returned None: it must return the model.")
    saved = True
    if callable(getattr(pipeline, "save", None)):
      pipeline.save(model, workdir)
    else:
      try:
        content = cloudpickle.dumps(model)
        _put(workdir / "model.pkl", lambda file: file.write(content))
      except OSError:
        raise
      except Exception as error:  # whatever such an object raises
        print(f"the model cannot be pickled ({error}): where it is needed again it is fitted again", file=sys.stderr)
        saved = False
    self._keep_model(call.folder, model)
    return {"num": kinds.num_rows(data), "saved": saved, "file": name}

  def _sample(self, call: Call) -> dict[str, Any]:
    assert call.model is not None
    workdir = call.folder / "work"
    workdir.mkdir()
    model = self._model(call.model)
    draw = self._setting.pipeline.sample
    options = _protocol.options(draw, generation=call.generation)
    found = draw(model, call.num, seed=call.seed, workdir=workdir, **options)
    data = kinds.conformed(found, self._setting.schema, call.num)
    path = call.folder / f"sample{kinds.suffix(self._setting.schema.kind)}"
    beside = dict(
      zip(kinds.PROVENANCE, (np.arange(call.num, dtype=np.int32), call.generation, call.name, call.seed, 1.0))
    )
    _put(path, kinds.writer(data, path.suffix, beside))
    shutil.rmtree(workdir)
    return {"num": call.num, "file": path.name}

  def _evaluate(self, call: Call) -> dict[str, Any]:
    assert call.model is not None
    pipeline, sample = self._setting.pipeline, self._piece(call.pieces[0])
    if self._test is None:
      self._test = kinds.read(self._setting.test, self._setting.test_schema)
    if callable(getattr(pipeline, "evaluate", None)):
      found = pipeline.evaluate(self._model(call.model), sample, kinds.copied(self._test), seed=call.seed)
    else:
      from collapse_jax import metrics

      found = metrics.score(self._test, sample, train=self.rows(call.train), seed=call.seed)
    if not isinstance(found, dict) or not found:
      raise Refused(f"evaluate must return name -> number, got {found!r:.100}.")
    values = {}
    for name, value in found.items():
      try:
        if isinstance(value, tuple):  # a `metrics.Score`
          value, null = value
          values[f"{name}_{vocabulary.NULL}"] = float(null)
        values[str(name)] = float(value)
      except (TypeError, ValueError):
        raise Refused(f"evaluate must return a number for {name}, got {value!r:.100}.") from None
    plain = {name: value if math.isfinite(value) else repr(value) for name, value in values.items()}
    text = json.dumps(plain, indent=2) + "\n"
    _put(call.folder / "metrics.json", lambda file: file.write(text.encode()))
    return {"metrics": plain}

  def rows(self, pieces: Sequence[Piece]) -> Any:
    """Those of all pieces, one after another."""
    return kinds.concatenate([self._piece(piece) for piece in pieces])

  def _piece(self, piece: Piece) -> Any:
    path = piece.segment.path
    rows, size = self._rows.pop(path, (None, 0))
    if rows is None:
      rows = kinds.read(path, self._setting.schema)
      size = kinds.nbytes(rows)
    if size <= _CACHED_BYTES:
      self._rows[path] = rows, size  # the latest
      while sum(each for _, each in self._rows.values()) > _CACHED_BYTES:
        self._rows.popitem(last=False)
    if piece.rows is not None:
      return kinds.take(rows, piece.rows)
    return kinds.copied(rows) if path in self._rows else rows

  def _model(self, folder: Path) -> Any:
    if folder not in self._models:
      load = getattr(self._setting.pipeline, "load", None)
      place = folder / "model"
      model = load(place) if callable(load) else cloudpickle.loads((place / "model.pkl").read_bytes())
      self._keep_model(folder, model)
    return self._models[folder]

  def _keep_model(self, folder: Path, model: Any) -> None:
    self._models[folder] = model
    while len(self._models) > _CACHED_MODELS:
      self._models.popitem(last=False)

  def has_model(self, folder: Path) -> bool:
    """Whether the model of a fit is in memory."""
    return folder in self._models


def _put(path: Path, into: Callable[[IO[bytes]], Any]) -> None:
  """Writes a file of a step, which is nothing until the step is finished."""
  try:
    with path.open("xb") as file:
      into(file)
  except OSError as error:
    error.filename = error.filename or str(path)  # that of a full disk has none
    raise


def _provenance(call: Call) -> dict[str, Any]:
  """What is told of each training row."""
  columns: dict[str, list[Any]] = {name: [] for name in kinds.PROVENANCE}
  for piece in call.pieces:
    one = piece.segment
    index = np.arange(one.num, dtype=np.int32) if piece.rows is None else piece.rows
    for name, value in zip(kinds.PROVENANCE, (index, one.generation, one.model, one.seed, 1.0)):
      columns[name].append((value, len(index)))
  beside = {name: _told(parts) for name, parts in columns.items()}
  if call.weight is not None:
    beside["_weight"] = call.weight
  return beside


def _told(parts: list[tuple[Any, int]]) -> Any:
  """A value for all rows, or for each."""
  if np.ndim(parts[0][0]):
    return np.concatenate([value for value, _ in parts])
  if len({value for value, _ in parts}) == 1:
    return parts[0][0]
  return np.repeat(np.asarray([value for value, _ in parts]), [num for _, num in parts])


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
  """What is printed goes into a file, and so does the traceback of what is raised."""
  with path.open(
    "a", 1, encoding="utf-8", errors="backslashreplace"
  ) as file:  # line by line: the process may be killed
    handler = logging.StreamHandler(file)
    root = logging.getLogger()
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
      root.addHandler(handler)
      try:
        yield
      except BaseException:
        traceback.print_exc(file=file)
        raise
      finally:
        root.removeHandler(handler)


def redirect(path: Path) -> None:
  """All that this process and what it starts print from now on goes to the end of a file."""
  number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
  os.dup2(number, 1)
  os.dup2(number, 2)
  os.close(number)
