"""Finished chunks of a sweep on disk, each there whole or not at all, whenever a process dies. Imports no JAX."""

import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_log = logging.getLogger(__name__)
_MANIFEST, _CHUNK, _PART = "sweep.json", ".chunk", ".part"
_DIGEST = hashlib.sha256().digest_size


class Chunks:
  """Metrics of finished runs in a directory: a file for each chunk of seeds of a cell, with a checksum.

  Args:
    directory: made if it is not there; only files of this class are touched in it.
    about: what fixes the numbers; JSON values.
    resume: keep the chunks that are there; else they are deleted.
  Raises:
    ValueError: chunks to resume from were made by another sweep; names what differs.
    OSError: the directory cannot be written.
  """

  def __init__(self, directory, about: Mapping[str, Any], resume: bool):
    self.directory = Path(directory)
    self.directory.mkdir(parents=True, exist_ok=True)
    about = json.loads(json.dumps(about, default=str))
    manifest = self.directory / _MANIFEST
    for file in self.directory.glob(f"*{_PART}"):
      file.unlink()
    if resume and manifest.exists():
      try:
        theirs = read_object(manifest)
      except ValueError as error:
        raise ValueError(f"resume: {error}") from None
      check_same(theirs, about, f"the chunks in {directory} were made")
      return
    for file in self.directory.glob(f"*{_CHUNK}"):
      file.unlink()
    write(manifest, (json.dumps(about, indent=2) + "\n").encode())

  def save(self, index: tuple[int, ...], first: int, metrics: Mapping[str, np.ndarray]) -> None:
    """Commits the metrics [seeds, ...] of the runs from seed number `first` on of a cell."""
    num = len(next(iter(metrics.values())))
    buffer = io.BytesIO()
    np.savez(buffer, **metrics)  # type: ignore[arg-type]
    content = buffer.getvalue()
    name = f"cell_{'-'.join(map(str, index))},seeds_{first}-{first + num - 1}{_CHUNK}"
    write(self.directory / name, hashlib.sha256(content).digest() + content)

  def saved(self) -> Iterator[tuple[tuple[int, ...], int, dict[str, np.ndarray]]]:
    """(cell, first seed, metrics) of all that is committed. Damaged chunks are deleted, with a warning."""
    for file in sorted(self.directory.glob(f"*{_CHUNK}")):
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
        file.unlink()
        continue
      yield index, first, metrics


def read_object(path: Path) -> dict[str, Any]:
  """A JSON object; a ValueError where the file holds none."""
  try:
    found = json.loads(path.read_bytes())
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
  except OSError:
    part.unlink(missing_ok=True)
    raise
