"""Finished chunks of a sweep on disk, each there whole or not at all, whenever a process dies. Imports no JAX."""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from collapse_jax.data import files
from collapse_jax.refused import Refused

__all__ = [
  "Chunks",
  "OtherSweep",
  "Saved",
  "check_same",
  "discard",
  "durable",
  "make_folder",
  "read_object",
  "remove",
  "rename",
  "sync",
  "write",
]

_log = logging.getLogger(__name__)
_MANIFEST, _CHUNK, _PART = "sweep.json", ".chunk", ".part"
_NAME = re.compile(rf"cell_\d+(-\d+)*,seeds_\d+-\d+\{_CHUNK}")
_FORMAT = 2  # 1: without a description of itself
_DIGEST, _LENGTH = hashlib.sha256().digest_size, 8


class Saved(NamedTuple):
  """A committed chunk: metrics [num, ...] of runs of a cell, from seed number `first` on, and the program that computed them."""

  cell: tuple[int, ...]
  first: int
  num: int
  program: str
  metrics: dict[str, np.ndarray]


# (cell, first seed, seeds) -> the program that computes them, and (shape, dtype) of each metric; None: not of this sweep.
Expected = Callable[[tuple[int, ...], int, int], tuple[str | None, dict[str, tuple[tuple[int, ...], Any]]] | None]


class OtherSweep(Refused):
  """What is to be gone on from was made by another sweep: ends this one, for it is no fact about a cell."""


class Chunks:
  """Metrics of finished runs in a directory: a file for each chunk of seeds of a cell.

  A file says under its checksum what it is: of which sweep, cell, seeds and program. One that lies in another's place is as good as
  damaged. Each process of a sweep writes into a folder of its own, which nobody else may until `close`, and reads those of all
  processes, also of an earlier sweep that had more of them.

  Args:
    directory: made if it is not there; only files of this class are touched in it.
    about: what fixes the numbers; JSON values.
    resume: keep the chunks that are there; else they are deleted, which is logged.
    process, num_processes: which one this is of how many.
  Raises:
    ValueError: chunks to resume from were made by another sweep (names what differs), or one is writing there.
    OSError: the directory cannot be written.
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    about: Mapping[str, Any],
    resume: bool,
    process: int = 0,
    num_processes: int = 1,
  ):
    import filelock

    self._resume, self._closed, self._committing = resume, False, threading.Lock()
    self._about = json.loads(json.dumps({"chunk_format": _FORMAT, **about}, default=str))
    self.directory = Path(directory) / f"process_{process}"
    make_folder(self.directory)
    self._lock = filelock.FileLock(self.directory / ".lock", blocking=False, thread_local=False)
    try:
      self._lock.acquire()
    except filelock.Timeout:
      raise OtherSweep(f"directory {directory} is being written by another sweep.") from None
    try:
      self._begin(process, num_processes)
    except BaseException:
      self.close()
      raise

  def _begin(self, process: int, num_processes: int) -> None:
    for file in self.directory.glob(f"*{_PART}"):
      file.unlink()
    if self._resume:
      named = [folder for folder in self._folders() if self._is_named(folder)]
      if self.directory in named:
        return
    else:
      mine = [self.directory]
      if process == 0:  # folders of processes that there are no more
        mine += [one for one in self._folders() if int(one.name.removeprefix("process_")) >= num_processes]
      chunks = [file for folder in mine for file in _chunks(folder)]
      if chunks:
        _log.warning("%d chunks of an earlier sweep in %s are deleted", len(chunks), self.directory.parent)
      for file in (*chunks, *(folder / _MANIFEST for folder in mine)):
        file.unlink(missing_ok=True)
    write(self.directory / _MANIFEST, (json.dumps(self._about, indent=2) + "\n").encode())

  def _is_named(self, folder: Path) -> bool:
    """Whether a manifest is there. A ValueError where it, or else a chunk, says that what lies there is not of this sweep."""
    theirs, file = None, folder / _MANIFEST
    try:
      theirs = read_object(file) if file.exists() else None
    except ValueError as error:
      _log.warning("%s Chunks beside it say what they are.", error)
    found = theirs is not None
    for chunk in () if found else _chunks(folder):
      with contextlib.suppress(ValueError):
        theirs = _unpacked(chunk.read_bytes())[0].get("sweep")
        break
    if theirs is not None:
      check_same(theirs, self._about, f"the chunks in {folder.parent} were made")
    return found

  def _folders(self) -> list[Path]:
    return sorted(one for one in self.directory.parent.glob("process_*") if re.fullmatch(r"process_\d+", one.name))

  def close(self) -> None:
    """From now on others may write here, and this object does not: threads of an ended sweep may still compute."""
    with self._committing:
      self._closed = True
    self._lock.release()

  def save(self, index: tuple[int, ...], first: int, metrics: Mapping[str, np.ndarray], program: str = "") -> None:
    """Commits the metrics [seeds, ...] of the runs from seed number `first` on of a cell; a RuntimeError once closed."""
    num = len(next(iter(metrics.values())))
    about = {"sweep": self._about, "cell": list(index), "first": first, "num": num, "program": program}
    content, name = _packed(about, metrics), _name(index, first, num)
    with self._committing:
      if self._closed:
        raise RuntimeError(f"{name} is finished after its sweep has ended.")
      write(self.directory / name, content)

  def saved(self, expected: Expected | None = None) -> Iterator[Saved]:
    """All that is committed. What is damaged, or lies in another's place, is deleted, with a warning.

    Raises:
      ValueError: another program than the expected one computed it.
    """
    for file in [
      file for folder in (self._folders() if self._resume else [self.directory]) for file in _chunks(folder)
    ]:
      try:
        about, metrics = _unpacked(file.read_bytes())
        cell, seeds = file.stem.removeprefix("cell_").split(",seeds_")
        index, (first, last) = tuple(map(int, cell.split("-"))), map(int, seeds.split("-"))
        num = last + 1 - first
        place = {"sweep": self._about, "cell": list(index), "first": first, "num": num}
        if {name: about.get(name) for name in place} != place:
          raise Refused("it belongs elsewhere")
        found = about.get("program"), {name: (value.shape, value.dtype) for name, value in metrics.items()}
        mine = found if expected is None else expected(index, first, num)
        same_program = mine is None or mine[0] == found[0]
        if same_program and mine != found:
          raise Refused("it does not hold the metrics of these runs")
      except ValueError as error:
        _log.warning("%s is damaged (%s) and is computed again", file, error)
        file.unlink(missing_ok=True)
        continue
      if not same_program:
        raise Refused(
          f"resume: the chunks in {file.parent.parent} were made by another task or workflow, or from other data."
        )
      yield Saved(index, first, num, str(about.get("program")), metrics)


def _chunks(folder: Path) -> list[Path]:
  return sorted(file for file in folder.glob(f"*{_CHUNK}") if _NAME.fullmatch(file.name) and file.is_file())


def _name(index: tuple[int, ...], first: int, num: int) -> str:
  return f"cell_{'-'.join(map(str, index))},seeds_{first}-{first + num - 1}{_CHUNK}"


def _packed(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
  """A checksum, and under it a description in JSON, its length before it, and the arrays that it lists."""
  arrays = {name: np.asarray(array) for name, array in arrays.items()}
  listed = [[name, array.dtype.name, array.shape] for name, array in arrays.items()]
  text = json.dumps({**about, "arrays": listed}).encode()
  content = len(text).to_bytes(_LENGTH, "little") + text + b"".join(array.tobytes() for array in arrays.values())
  return hashlib.sha256(content).digest() + content


def _unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """A ValueError where it is not what `_packed` gave."""
  if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
    raise Refused("its checksum is wrong")
  at = _DIGEST + _LENGTH
  end = at + int.from_bytes(content[_DIGEST:at], "little")
  arrays = {}
  try:
    about = dict(json.loads(content[at:end]))
    for name, kind, shape in about["arrays"]:
      array = np.frombuffer(content, np.dtype(kind), math.prod(shape), end).reshape(shape)
      arrays[str(name)] = array
      end += array.nbytes
  except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError, AttributeError):
    raise Refused("its description is wrong") from None
  return about, arrays


def read_object(path: Path) -> dict[str, Any]:
  """A JSON object; a ValueError where the file holds none."""
  try:
    found = json.loads(files.read_bytes(path, files.JSON_BYTES))
  except (ValueError, RecursionError):
    found = None
  if not isinstance(found, dict):
    raise Refused(f"{path} is damaged: it holds no JSON object.")
  return found


def check_same(theirs: Mapping[str, Any], mine: Mapping[str, Any], what: str) -> None:
  """Raises ValueError that names the first value in which a sweep to resume differs from this one.

  Args:
    theirs, mine: what fixes the numbers, by name.
    what: the beginning of the message.
  """
  for name in sorted(set(mine) | set(theirs)):
    if mine.get(name) != theirs.get(name):
      raise OtherSweep(f"resume: {what} with {name}={theirs.get(name)}, not {mine.get(name)}.")


def write(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
  """Replaces a file at once, with bytes or with what a function writes; on return the new one outlives a power failure."""
  part = path.with_name(path.name + _PART)
  try:
    part.unlink(missing_ok=True)  # a symbolic link would be written through
    with open(part, "xb") as file:
      content(file) if callable(content) else file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
    sync(path.parent)
  except OSError as error:
    part.unlink(missing_ok=True)
    error.filename = error.filename or str(path)  # that of a full disk has none
    raise


def make_folder(path: Path) -> None:
  """Makes a directory and those above it, if they are not there; on return they outlive a power failure."""
  made = [one for one in (path, *path.parents) if not one.exists()]
  path.mkdir(parents=True, exist_ok=True)
  for one in made:
    sync(one.parent)


def durable(path: Path) -> None:
  """Returns once a file, or all that lies in a directory, outlives a power failure, its name included."""
  if not path.is_dir():
    sync(path)
  for folder, _, held in os.walk(path):
    for one in (Path(folder) / name for name in held):
      if one.is_file() and not one.is_symlink():
        sync(one)
    sync(Path(folder))
  sync(path.parent)


def rename(old: Path, new: Path) -> None:
  """Moves a file or directory, in place of a file or an empty directory; on return the names outlive a power failure."""
  os.replace(old, new)
  sync(new.parent)
  if old.parent != new.parent:
    sync(old.parent)


def discard(older: Iterable[Path], newer: Path) -> None:
  """Removes files and directories once what replaces them is `durable`: the only way in which something older goes."""
  durable(newer)
  for path in older:
    remove(path)


def remove(path: Path) -> None:
  """A file, or a directory with all that lies in it; a symbolic link goes, and what it points to stays."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def sync(path: Path) -> None:
  """Waits until a file or directory is on the device (fsync); a directory that its file system cannot sync is left to it."""
  opened = os.open(path, os.O_RDONLY)
  try:
    os.fsync(opened)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      error.filename = error.filename or str(path)
      raise
  finally:
    os.close(opened)
