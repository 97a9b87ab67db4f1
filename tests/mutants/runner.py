"""Runs tests on copies of the tree, in processes that begin with what is imported of others."""

import multiprocessing
import os
import pathlib
import queue
import shlex
import shutil
import sys
import threading

from tests.mutants.faults import Fault

ROOT = pathlib.Path(__file__).parent.parent.parent
PARTS = ("collapse_jax", "experiments")
# What tests import of others takes longer than most of these tests: it is imported once, and every process begins with it.
PRELOADED = ["jax", "matplotlib.figure", "optax", "pandas", "pytest", "scipy.stats", "sklearn", "xarray"]
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-n", "0"]
LEFT_OUT = shutil.ignore_patterns(".venv*", ".git", ".cache", "results", "build", "__pycache__")


def place_of(fault: Fault, root: pathlib.Path) -> pathlib.Path:
  """The file that holds a fault's text, exactly once.

  Raises:
    LookupError: none does, or it occurs elsewhere too.
  """
  found = [
    (path, text.count(fault.right))
    for part in PARTS
    for path in sorted((root / part).rglob("*.*"))
    if path.suffix in (".py", ".j2") and fault.right in (text := path.read_text(encoding="utf-8"))
  ]
  if [times for _, times in found] != [1]:
    where = ", ".join(f"{path.relative_to(root)} ({times})" for path, times in found) or "nowhere"
    raise LookupError(f"its text must occur once, and is found {where}")
  return found[0][0]


class Runner:
  """Copies of the tree, one a job, and what their tests said."""

  def __init__(self, folder: str, jobs: int, seconds: float, trusted: bool):
    self._seconds, self._trusted = seconds, trusted
    self._copies: queue.Queue[pathlib.Path] = queue.Queue()
    self._plain: dict[str, str] = {}
    self._processes = multiprocessing.get_context("forkserver")
    self._processes.set_forkserver_preload(PRELOADED)
    self._lock = threading.Lock()
    for job in range(jobs):
      copy = pathlib.Path(folder) / f"copy_{job}"
      shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
      self._copies.put(copy)

  def judge(self, fault: Fault) -> tuple[str, str]:
    """(verdict, what failed or is wrong)."""
    copy = self._copies.get()
    try:
      path = place_of(fault, copy)
      if not self._trusted and (why := self._plain_fails(fault.tests, copy)):
        return "not tried", f"without the fault: {why}"
      right = path.read_text(encoding="utf-8")
      path.write_text(right.replace(fault.right, fault.wrong), encoding="utf-8")
      try:
        status, said = self._run(fault.tests, copy)
      finally:
        path.write_text(right, encoding="utf-8")
      verdict = {0: "SURVIVED", 1: "killed"}.get(status, f"status {status}")
      if fault.equivalent:
        verdict = {"SURVIVED": "equivalent", "killed": "NOT EQUIVALENT"}.get(verdict, verdict)
      return verdict, fault.equivalent or said
    except LookupError as error:
      return "no such text", str(error)
    finally:
      self._copies.put(copy)

  def _plain_fails(self, tests: str, copy: pathlib.Path) -> str:
    with self._lock:
      if tests not in self._plain:
        status, said = self._run(tests, copy)
        self._plain[tests] = "" if status == 0 else f"status {status} {said}"
      return self._plain[tests]

  def _run(self, tests: str, copy: pathlib.Path) -> tuple[int | str, str]:
    """Exit status of pytest, and the first test that failed."""
    log = copy.parent / f"{copy.name}.log"
    process = self._processes.Process(target=_test, args=(tests, str(copy), str(log)))
    process.start()
    process.join(self._seconds)
    if process.exitcode is None:
      process.kill()
      process.join()
      return f"none after {self._seconds:.0f} s", ""
    said = log.read_text(errors="replace").splitlines() if log.exists() else []
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    if process.exitcode == 1 and not failed:
      return "of a crash", " ".join(said[-3:])
    return process.exitcode, failed[0] if failed else ""


def _test(tests: str, copy: str, log: str) -> None:
  """Runs tests in a process of their own, on the code of a copy."""
  out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(out, 1)
  os.dup2(out, 2)
  os.chdir(copy)
  sys.dont_write_bytecode = True
  sys.path[:] = [copy, *(entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != ROOT)]
  os.environ |= {"PYTHONPATH": copy, "PYTHONDONTWRITEBYTECODE": "1"}
  import pytest

  status = int(pytest.main([*OPTIONS, *shlex.split(tests)]))
  sys.stdout.flush()
  os._exit(status)  # threads that a fault has left behind hold up nobody
