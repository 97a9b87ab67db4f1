"""Standard streams and signals of a binary. Imports no JAX."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping

from absl import logging


def prepare() -> None:
  """What can no longer be written, or not in the stream's encoding, ends no sweep.

  A closed stream becomes the null device: the next file that is opened would get its number, and what is meant for it.
  """
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    try:
      os.fstat(number)
    except OSError:
      _to_null(number)
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
  for name in ("stdout", "stderr"):
    stream = getattr(sys, name)
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")
    setattr(sys, name, Lasting(stream))
  logging.get_absl_handler().python_handler.setStream(sys.stderr)


class Lasting:
  """A text stream that drops everything once it cannot be written: its reader has gone, or its disk is full."""

  def __init__(self, stream):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    return self._try(self._stream.write, text) or len(text)

  def flush(self) -> None:
    self._try(self._stream.flush)

  def _try(self, step: Callable[..., int | None], *arguments) -> int | None:
    try:
      return step(*arguments)
    except (OSError, ValueError):
      _to_null(self._stream.fileno())  # what is buffered must go somewhere, or Python fails with it at its end
      return None


def _to_null(number: int) -> None:
  null = os.open(os.devnull, os.O_RDWR)
  if null != number:
    os.dup2(null, number)
    os.close(null)


def on_signals(actions: Mapping[int, Callable[[], object]]) -> None:
  """Calls an action when its signal comes, at once, also from within a compilation.

  A thread is told of signals, because Python's own handlers wait for the program that runs, and JAX swallows what is raised
  inside its callbacks. A signal that was ignored (nohup) stays so.
  """
  told, tell = os.pipe()
  os.set_blocking(tell, False)
  for number in actions:
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, lambda number, frame: None)
  signal.set_wakeup_fd(tell, warn_on_full_buffer=False)

  def wait():
    while True:
      for number in os.read(told, 1):
        actions.get(number, lambda: None)()

  threading.Thread(target=wait, daemon=True).start()
