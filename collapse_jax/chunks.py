"""Finished chunks of a sweep on disk, each there whole or not at all, whenever a process dies. Imports no JAX."""

import hashlib
import io
import json
import logging
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from collapse_jax import files

_log = logging.getLogger(__name__)
_MANIFEST, _CHUNK, _PART = "sweep.json", ".chunk", ".part"
_DIGEST = hashlib.sha256().digest_size


class Chunks:
  """Metrics of finished runs in a directory: a file for each chunk of seeds of a cell, with a checksum.

  Each process of a sweep writes into a folder of its own, which nobody else may until `close`, and reads those of all
  processes, also of an earlier sweep that had more of them.

  Args:
    directory: made if it is not there; only files of this class are touched in it.
    about: what fixes the numbers; JSON values.
    resume: keep the chunks that are there; else they are deleted.
    process, num_processes: which one this is of how many.
  Raises:
    ValueError: chunks to resume from were made by another sweep (names what differs), or one is writing there.
    OSError: the directory cannot be written.
  """

  def __init__(self, directory, about: Mapping[str, Any], resume: bool, process: int = 0, num_processes: int = 1):
    import filelock
    self._resume, self._closed, self._committing = resume, False, threading.Lock()
    self.directory = Path(directory) / f"process_{process}"
    self.directory.mkdir(parents=True, exist_ok=True)
    self._lock = filelock.FileLock(self.directory / ".lock", blocking=False, thread_local=False)
    try:
      self._lock.acquire()
    except filelock.Timeout:
      raise ValueError(f"directory {directory} is being written by another sweep.") from None
    try:
      self._begin(json.loads(json.dumps(about, default=str)), process, num_processes)
    except BaseException:
      self.close()
      raise

  def _begin(self, about: Mapping[str, Any], process: int, num_processes: int) -> None:
    for file in self.directory.glob(f"*{_PART}"):
      file.unlink()
    for folder in self._folders() if self._resume else ():
      if (folder / _MANIFEST).exists():
        try:
          theirs = read_object(folder / _MANIFEST)
        except ValueError as error:
          raise ValueError(f"resume: {error}") from None
        check_same(theirs, about, f"the chunks in {folder.parent} were made")
    if self._resume and (self.directory / _MANIFEST).exists():
      return
    mine = [self.directory]
    if process == 0 and not self._resume:  # folders of processes that there are no more
      mine += [one for one in self._folders() if int(one.name.removeprefix("process_")) >= num_processes]
    for file in [file for folder in mine for file in folder.glob(f"*{_CHUNK}")]:
      file.unlink()
    write(self.directory / _MANIFEST, (json.dumps(about, indent=2) + "\n").encode())

  def _folders(self) -> list[Path]:
    return sorted(self.directory.parent.glob("process_[0-9]*"))

  def close(self) -> None:
    """From now on others may write here, and this object does not: threads of an ended sweep may still compute."""
    with self._committing:
      self._closed = True
    self._lock.release()

  def save(self, index: tuple[int, ...], first: int, metrics: Mapping[str, np.ndarray]) -> None:
    """Commits the metrics [seeds, ...] of the runs from seed number `first` on of a cell; a RuntimeError once closed."""
    num = len(next(iter(metrics.values())))
    buffer = io.BytesIO()
    np.savez(buffer, **metrics)  # type: ignore[arg-type]
    content = buffer.getvalue()
    content = hashlib.sha256(content).digest() + content
    name = f"cell_{'-'.join(map(str, index))},seeds_{first}-{first + num - 1}{_CHUNK}"
    with self._committing:
      if self._closed:
        raise RuntimeError(f"{name} is finished after its sweep has ended.")
      write(self.directory / name, content)

  def saved(self) -> Iterator[tuple[tuple[int, ...], int, dict[str, np.ndarray]]]:
    """(cell, first seed, metrics) of all that is committed. Damaged chunks are deleted, with a warning."""
    folders = self._folders() if self._resume else [self.directory]
    for file in sorted(file for folder in folders for file in folder.glob(f"*{_CHUNK}")):
      try:
        content = file.read_bytes()
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
          raise ValueError("its checksum is wrong")
        with np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False) as arrays:
          metrics = dict(arrays)
        cell, seeds = file.stem.removeprefix("cell_").split(",seeds_")
        index, first = tuple(map(int, cell.split("-"))), int(seeds.split("-")[0])
      except (ValueError, zipfile.BadZipFile) as error:
        _log.warning("%s is damaged (%s) and is computed again", file, error)
        file.unlink(missing_ok=True)
        continue
      yield index, first, metrics


def read_object(path: Path) -> dict[str, Any]:
  """A JSON object; a ValueError where the file holds none."""
  try:
    found = json.loads(files.read_bytes(path, files.JSON_BYTES))
  except (ValueError, RecursionError):
    found = None
  if not isinstance(found, dict):
    raise ValueError(f"{path} is damaged: it holds no JSON object.")
  return found


def check_same(theirs: Mapping[str, Any], mine: Mapping[str, Any], what: str) -> None:
  """Raises ValueError that names the first value in which a sweep to resume differs from this one."""
  for name in sorted(set(mine) | set(theirs)):
    if mine.get(name) != theirs.get(name):
      raise ValueError(f"resume: {what} with {name}={theirs.get(name)}, not {mine.get(name)}.")


def write(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
  """Replaces a file at once, with bytes or with what a function writes. No fsync: what a power failure tears, a checksum finds."""
  part = path.with_name(path.name + _PART)
  try:
    with open(part, "wb") as file:
      content(file) if callable(content) else file.write(content)
    os.replace(part, path)
  except OSError as error:
    part.unlink(missing_ok=True)
    error.filename = error.filename or str(path)  # that of a full disk has none
    raise
