"""Processes that do steps: one for each thread of a loop, killed with all that it started where a step takes too long. No JAX."""

import contextlib
import math
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cloudpickle

from collapse_jax.pipelines._perform import Call, Failure, Setting
from collapse_jax.refused import Refused

__all__ = ["Workers"]


class Workers:
  """A process for each thread that calls, begun on first use.

  Args:
    timeout: seconds that a step may take; None: any.
    lock: descriptor that the processes hold, see `written_by_one`.
  """

  def __init__(self, timeout: float | None, lock: int):
    self._timeout, self._lock = timeout, lock
    self._mine, self._all, self._closed = threading.local(), list[_Worker](), False
    self._guard, self._contents = threading.Lock(), dict[str, bytes]()

  def perform(self, setting: Setting, call: Call) -> dict[str, Any]:
    """Has a step done; as `Performer.perform`.

    Raises:
      Refused: the pipeline cannot be pickled.
    """
    worker: _Worker | None = getattr(self._mine, "worker", None)
    content = self._pickled(setting)
    if worker is None or not worker.alive:
      with self._guard:
        if self._closed:
          raise Failure("the loop has ended.")
        worker = self._mine.worker = _Worker(self._lock)
        self._all.append(worker)
    return worker.perform(setting.name, content, call, self._timeout)

  def _pickled(self, setting: Setting) -> bytes:
    with self._guard:
      if setting.name not in self._contents:
        try:  # by value where it is not from an importable module
          self._contents[setting.name] = cloudpickle.dumps(setting)
        except Exception as error:  # whatever such an object raises
          raise Refused(
            f"pipeline cannot be handed to other processes, as jobs above 1 and timeout need: {error}.",
            argument="pipeline",
            value=type(setting.pipeline),
            allowed="an object that cloudpickle can pickle",
          ) from None
      return self._contents[setting.name]

  def has_model(self, folder: Path) -> bool:
    """Whether the process of this thread has the model of a fit in its memory."""
    worker = getattr(self._mine, "worker", None)
    return worker is not None and worker.alive and folder in worker.fitted

  def close(self) -> None:
    """Ends all processes, what they do too."""
    with self._guard:
      self._closed = True
    for worker in self._all:
      worker.close()


class _Worker:
  def __init__(self, lock: int):
    self.alive, self.fitted, self._busy = True, set[Path](), threading.Lock()
    self._told = set[str]()  # names of the settings that it has
    ours, theirs = multiprocessing.connection.Pipe()
    self._life: int | None
    ending, self._life = os.pipe()  # they read the end of it when this process is gone, however it went
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
      self._process = subprocess.Popen(
        [sys.executable, "-m", "collapse_jax.pipelines._worker", str(theirs.fileno()), str(ending)],
        stdin=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(), ending, lock),
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
      )
    finally:
      theirs.close()
      os.close(ending)
    self._link = ours
    self._send(pickle.dumps(sys.path))

  def perform(self, name: str, content: bytes, call: Call, timeout: float | None) -> dict[str, Any]:
    with self._busy:
      self._send(pickle.dumps((name, None if name in self._told else content, call)))
      self._told.add(name)
      try:
        kind, found = self._answer(None)
        if kind == "begun":
          kind, found = self._answer(timeout)
      except TimeoutError:
        self._kill()
        raise Failure(f"{call.role} took longer than {timeout:g} seconds (timeout).") from None
      except (EOFError, OSError):
        self._kill()
        code = self._process.returncode
        how = f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit status {code}"
        raise Failure(f"{call.role}: its process died ({how}).") from None
    if kind == "failed":
      raise Failure(found)
    if call.role == "fit":
      self.fitted.add(call.folder)
    return found

  def _answer(self, timeout: float | None) -> tuple[str, Any]:
    """What it says next; a TimeoutError where that takes longer."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    while not self._link.poll(max(0.0, min(1.0, end - time.monotonic()))):
      if time.monotonic() >= end:
        raise TimeoutError
    answer: tuple[str, Any] = pickle.loads(self._link.recv_bytes())
    return answer

  def close(self) -> None:
    """Ends it, in the middle of a step too."""
    self._kill()
    with self._busy:  # whoever waits for an answer is told that there is none
      self._link.close()
      if self._life is not None:
        os.close(self._life)
        self._life = None

  def _send(self, content: bytes) -> None:
    with contextlib.suppress(OSError):  # it died: seen where an answer is waited for
      self._link.send_bytes(content)

  def _kill(self) -> None:
    """With all that it started."""
    self.alive = False
    if self._process.returncode is None:
      with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(self._process.pid, signal.SIGKILL)
      self._process.wait()
