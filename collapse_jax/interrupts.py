"""Ctrl-C that is not lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["check", "kept"]

_interrupted = threading.Event()


@contextlib.contextmanager
def kept() -> Iterator[None]:
  """While this lasts, `check` raises a KeyboardInterrupt again that was raised and lost.

  Python drops what is raised in a callback of its garbage collector, and JAX has one. Nothing changes outside the main thread, and
  where the program handles SIGINT itself.
  """
  if (
    threading.current_thread() is not threading.main_thread()
    or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
  ):
    yield
    return

  def handle(number, frame):
    _interrupted.set()
    raise KeyboardInterrupt

  signal.signal(signal.SIGINT, handle)
  try:
    yield
    check()
  finally:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _interrupted.clear()


def check() -> None:
  """Raises KeyboardInterrupt in the main thread if there was an interrupt."""
  if _interrupted.is_set() and threading.current_thread() is threading.main_thread():
    raise KeyboardInterrupt
