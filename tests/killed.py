"""Runs a binary, notes every file that it commits, and fails in the middle of a chosen write.

  python tests/killed.py LOG NTH kill|full experiments.NAME FLAGS
"""

import errno
import os
import runpy
import signal
import sys
import threading

from collapse_jax import chunks

log, nth, how, module, *arguments = sys.argv[1:]
plain = chunks.write
count, one_at_a_time = 0, threading.Lock()  # a sweep's threads write side by side, and the nth write must be the last


def write(path, content):
  global count
  with one_at_a_time:
    count += 1
    if count == int(nth):
      path.with_name(path.name + ".part").write_bytes(content[:len(content) // 2])
      if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    plain(path, content)
    with open(log, "a") as file:
      file.write(f"{path.name}\n")


chunks.write = write
sys.argv = [module, *arguments]
sys.path.insert(0, os.getcwd())
runpy.run_module(module, run_name="__main__", alter_sys=True)
