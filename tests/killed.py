"""Runs a binary, notes every file that it commits, and makes it fail in a chosen write or at a random moment.

  python tests/killed.py LOG [SUFFIX:]NTH HOW experiments.NAME FLAGS

HOW says what happens in the NTH write of a file (whose name ends in SUFFIX): kill, by SIGKILL when half is written; full, an
error as of a full disk; wait, for ever. Or it is within=SECONDS: SIGKILL at a random moment of so many after the first write,
NTH being the seed; the results are not written before.
"""

import errno
import io
import os
import random
import runpy
import signal
import sys
import threading
import time

from collapse_jax.sweeps import chunks

log, when, how, module, *arguments = sys.argv[1:]
suffix, _, nth = when.rpartition(":")
seconds = float(how.removeprefix("within=")) if how.startswith("within=") else None
plain = chunks.write
count, one_at_a_time = 0, threading.Lock()  # a sweep's threads write side by side, and the nth write must be the last


def note(what):
  with open(log, "a") as file:
    file.write(f"{what}\n")


def kill():
  os.kill(os.getpid(), signal.SIGKILL)


def kill_later():
  time.sleep(random.Random(int(nth)).uniform(0, seconds))
  kill()


def write(path, content):
  global count
  with one_at_a_time:
    if seconds is not None:
      if not count:
        threading.Thread(target=kill_later, daemon=True).start()
      if path.name == "results.nc":
        time.sleep(seconds + 60)
    count += path.name.endswith(suffix)
    if seconds is None and count == int(nth) and path.name.endswith(suffix):
      if how == "wait":
        note("waiting")
        threading.Event().wait()
      if callable(content):
        content(buffer := io.BytesIO())
        content = buffer.getvalue()
      path.with_name(path.name + ".part").write_bytes(content[: len(content) // 2])
      if how == "kill":
        kill()
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    plain(path, content)
    note(f"{path.parent.name}/{path.name}")


chunks.write = write
sys.argv = [module, *arguments]
sys.path.insert(0, os.getcwd())
runpy.run_module(module, run_name="__main__", alter_sys=True)
