"""Steps of a loop on disk: each in a folder that is named by what it computes, finished once it says so. Imports no JAX.

  real.parquet, test.parquet     what the loop was given
  steps/fit-DIGEST/              data.parquet, model/, log.txt, step.json
  steps/sample-DIGEST/           sample.parquet, log.txt, step.json
  steps/evaluate-DIGEST/         metrics.json, log.txt, step.json

`step.json` is written last, by the one process that may write here; a folder without it is made again from the beginning.
"""

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from collapse_jax.pipelines._perform import Failure
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks

__all__ = ["DONE", "FOLDER", "RESULTS", "WITHDRAWN", "Steps", "digest_of", "written_by_one"]

_log = logging.getLogger(__name__)
DONE, FOLDER, RESULTS, WITHDRAWN = "step.json", "steps", "results.nc", "withdrawn.json"
_FORMAT = 1
_OWN = (FOLDER, "runs", RESULTS, WITHDRAWN)  # what an earlier loop leaves
_PATIENCE = 10.0  # seconds that processes of a loop that was killed have to end


def digest_of(*parts: Any) -> str:
  """Sixteen hexadecimal digits of texts, numbers and bytes."""
  found = hashlib.sha256(f"format {_FORMAT}".encode())
  for part in parts:
    found.update(b"\0")
    found.update(part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass"))
  return found.hexdigest()[:16]


@contextlib.contextmanager
def written_by_one(directory: Path) -> Iterator[int]:
  """Makes a directory and holds its lock; processes that write here get its descriptor too, and all must end before another loop.

  Raises:
    Refused: another loop, or a step of it, is writing there.
  """
  import fcntl

  chunks.make_folder(directory)
  number = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
  try:
    end = time.monotonic() + _PATIENCE
    while True:
      try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        owner = os.pread(number, 20, 0).decode(errors="replace").strip()
        alive = owner.isdigit() and _lives(int(owner))
        if alive or time.monotonic() > end:
          raise Refused(
            f"directory {directory} is being written by another loop{f', process {owner}' if owner else ''}.",
            argument="directory",
            value=str(directory),
          ) from None
        time.sleep(0.05)
    os.ftruncate(number, 0)
    os.pwrite(number, f"{os.getpid()}\n".encode(), 0)
    yield number
  finally:
    os.close(number)


def _lives(process: int) -> bool:
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True


class Steps:
  """The steps of a directory.

  Args:
    directory: which this process may write.
    resume: keep what is finished; else it is deleted, which is logged.
  """

  def __init__(self, directory: Path, resume: bool):
    self.folder = directory / FOLDER
    if not resume:
      found = list(self.folder.glob(f"*/{DONE}"))
      if found:
        _log.warning("%d finished steps of an earlier loop in %s are deleted", len(found), directory)
      for name in _OWN:
        if (directory / name).exists():
          chunks.remove(directory / name)
    chunks.make_folder(self.folder)
    self._locks: dict[str, threading.Lock] = {}
    self._known: dict[str, dict[str, Any]] = {}
    self._failed: dict[str, str] = {}
    self._guard = threading.Lock()

  def place(self, name: str) -> Path:
    """Folder of a step."""
    return self.folder / name

  def done(self, name: str) -> dict[str, Any] | None:
    """What is noted of a finished step; None: it is not finished."""
    if name not in self._known:
      try:
        found = json.loads((self.place(name) / DONE).read_bytes())
      except FileNotFoundError:
        return None
      except ValueError:
        _log.warning("%s is damaged: the step is done again", self.place(name) / DONE)
        return None
      if not isinstance(found, dict) or found.get("step") != name:
        return None
      self._known[name] = found
    return self._known[name]

  def forget(self, name: str) -> None:
    """The step counts as not done."""
    with self._lock(name):
      self._known.pop(name, None)
      (self.place(name) / DONE).unlink(missing_ok=True)

  def run(self, name: str, about: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """What is noted of a step, which is done now unless it is finished; by one thread, while others wait.

    Args:
      name: with the digest of all that it depends on.
      about: to be noted, JSON values.
      work: (its folder) -> more to be noted.
    Raises:
      Failure: it could not be done; what it left stays until it is tried again, by another loop.
    """
    with self._lock(name):
      found = self.done(name)
      if found is not None:
        return found
      if name in self._failed:
        raise Failure(self._failed[name])
      folder, begun = self.place(name), time.perf_counter()
      try:
        if folder.exists():
          chunks.remove(folder)
        folder.mkdir()
        noted = {"step": name, **about, **work(folder), "seconds": round(time.perf_counter() - begun, 6)}
        chunks.durable(folder)  # what the pipeline has written too
        chunks.write(folder / DONE, (json.dumps(noted, indent=2) + "\n").encode())
      except (Failure, OSError) as error:
        text = str(error) if isinstance(error, Failure) else f"{error.strerror or error} ({error.filename or folder})."
        self._failed[name] = f"{text.rstrip('.')}. Log: {folder / 'log.txt'}"
        raise Failure(self._failed[name]) from None
      self._known[name] = noted
      return noted

  def _lock(self, name: str) -> threading.Lock:
    with self._guard:
      return self._locks.setdefault(name, threading.Lock())
