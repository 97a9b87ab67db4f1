"""A process that does steps as it is told: python -m collapse_jax.pipelines._worker CONNECTION ENDING. Imports no JAX."""

import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
from typing import Any

from collapse_jax.pipelines._perform import Failure, Performer, redirect


def main(connection: int, ending: int) -> None:
  """Does steps until there are no more.

  Args:
    connection: descriptor on which pickles come, first the setting, then calls, and go.
    ending: descriptor whose end says that nobody waits any more.
  """
  threading.Thread(target=_end_with, args=(ending,), daemon=True).start()
  link = multiprocessing.connection.Connection(connection)
  try:
    sys.path[:] = pickle.loads(link.recv_bytes())  # before anything is looked for there
    performers: dict[str, Performer] = {}
    while True:
      name, content, call = pickle.loads(link.recv_bytes())
      redirect(call.folder / "log.txt")
      try:
        if content is not None:
          performers[name] = _performer(content)
        link.send_bytes(pickle.dumps(("begun", "")))  # from here on its time counts
        answer: tuple[str, Any] = "done", performers[name].perform(call)
      except Failure as error:
        answer = "failed", str(error)
      link.send_bytes(pickle.dumps(answer))
  except (EOFError, OSError):
    return


def _performer(content: bytes) -> Performer:
  try:
    return Performer(pickle.loads(content))
  except Exception as error:
    raise Failure(f"the pipeline cannot be read in another process: {type(error).__name__}: {error}.") from None


def _end_with(ending: int) -> None:
  """Ends this process and all that it started once the loop is gone."""
  os.read(ending, 1)
  os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
  main(int(sys.argv[1]), int(sys.argv[2]))
