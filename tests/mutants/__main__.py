"""Puts one fault at a time into a copy of the tree and runs the fast tests of its subject there: they must fail.

  python -m tests.mutants [part of a name] [--jobs=2] [--minutes=3]

A fault is found by its text, wherever the line lies. Where code has changed so that the text is gone, or occurs twice, this
fails: write the same fault anew in faults.py. With --minutes the list is begun at a place that moves on from day to day, and no
fault is begun later than that. Unless --trusted, tests must first pass on the plain copy, so that a red suite kills nothing.
"""

import argparse
import concurrent.futures
import datetime
import os
import pathlib
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time

from tests.mutants.faults import FAULTS, Fault

ROOT = pathlib.Path(__file__).parent.parent.parent
PARTS = ("collapse_jax", "experiments")
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
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow", "-n", "0"]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "tests"))
    try:
      done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *shlex.split(tests)],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=self._seconds,
      )
    except subprocess.TimeoutExpired:
      return f"none after {self._seconds:.0f} s", ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, failed[0] if failed else ""


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
  parser.add_argument("part", nargs="?", default="", help="only faults with this in their name")
  parser.add_argument("--jobs", type=int, default=1, help="tests that run side by side, each in a copy of the tree")
  parser.add_argument("--seconds", type=float, default=300, help="for the tests of one fault")
  parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no fault is begun")
  parser.add_argument("--trusted", action="store_true", help="tests are known to pass without a fault")
  asked = parser.parse_args()
  faults = [fault for fault in FAULTS if asked.part in fault.name]
  if not faults:
    sys.exit(f"no fault has {asked.part!r} in its name.")
  if asked.minutes < float("inf"):
    first = datetime.date.today().toordinal() * 7 % len(faults)
    faults = faults[first:] + faults[:first]
  begun, bad = time.monotonic(), []
  with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
    runner = Runner(folder, asked.jobs, asked.seconds, asked.trusted)

    def one(fault: Fault):
      start = time.monotonic()
      if start - begun > 60 * asked.minutes:
        return
      verdict, said = runner.judge(fault)
      if verdict not in ("killed", "equivalent"):
        bad.append(fault.name)
      print(f"{verdict:10} | {fault.name} | {said[:150]} | {time.monotonic() - start:.0f} s", flush=True)

    with concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool:
      list(pool.map(one, faults))
  if bad:
    sys.exit(f"{len(bad)} faults were not noticed: {'; '.join(bad)}")


if __name__ == "__main__":
  main()
