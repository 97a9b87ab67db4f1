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
import sys
import tempfile
import time

from tests.mutants.faults import FAULTS, Fault
from tests.mutants.runner import ROOT, Runner


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
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "tests"))
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
