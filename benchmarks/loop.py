"""What `cj.loop` itself costs, beside fit and sample: CPU time of a generation, and memory at a million rows.

  python -m benchmarks.loop [--rows=10000] [--columns=10] [--generations=20] [--kind=table|arrays] [--most_ms=50] [--most_gib=1]
  python -m benchmarks.loop --kills=20

The pipeline does next to nothing; what it takes is measured and left out. The first two generations, in which
programs are compiled, are left out too. Ends with status 1 where a generation takes more CPU time than --most_ms or the process
more memory than --most_gib. With --kills a loop of two jobs is killed (SIGKILL) so often at random moments, resumed, and compared
with one left alone; status 1 where a number differs or a finished step was done again.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import collapse_jax as cj


class Idle:
  """Normal rows, whatever it is fitted to. Notes the CPU time that is its own, and the whole at the end of each generation."""

  def __init__(self, kind: str):
    self.kind, self.own, self.ends = kind, 0.0, list[tuple[float, float]]()

  def identity(self, role: str) -> str:
    return role

  def fit(self, data, *, seed, workdir, previous=None):
    return "a model"

  def sample(self, model, num, *, seed, workdir):
    begun = time.process_time()
    values = np.random.default_rng(seed).normal(size=(num, COLUMNS))
    rows = {"x": values} if self.kind == "arrays" else pd.DataFrame(values, columns=[f"c{i}" for i in range(COLUMNS)])
    self.own += time.process_time() - begun
    return rows

  def evaluate(self, model, sample, real_test, *, seed):
    self.ends.append((time.process_time(), self.own))
    return {"metric": 0.0}


COLUMNS = 10


def measured(kind: str, num: int, num_generations: int) -> tuple[list[float], float]:
  """CPU milliseconds of each generation but the first two, less the pipeline's own; and GiB of the process at its largest.

  Args:
    kind: "table" or "arrays".
    num: rows of a batch.
    num_generations: T, at least 3.
  """
  one = Idle(kind)
  real = one.sample("", num, seed=0, workdir=None)
  test = one.sample("", 100, seed=1, workdir=None)
  with tempfile.TemporaryDirectory() as directory:
    results = cj.loop(one, real, test, ["replace"], num_generations=num_generations, num_seeds=1, directory=directory)
    assert (results.cell_status == "ok").all()
  ends = np.asarray(one.ends)
  each = np.diff(ends[:, 0] - ends[:, 1])[1:] * 1e3
  return list(each), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rows", type=int, default=10_000)
  parser.add_argument("--columns", type=int, default=COLUMNS)
  parser.add_argument("--generations", type=int, default=20)
  parser.add_argument("--kind", choices=("table", "arrays"), default="table")
  parser.add_argument("--most_ms", type=float, default=50)
  parser.add_argument("--most_gib", type=float, default=1)
  parser.add_argument("--kills", type=int, default=0)
  flags = parser.parse_args()
  if flags.kills:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from own_pipelines import killed_and_resumed

    with tempfile.TemporaryDirectory() as folder:
      print(f"{killed_and_resumed(folder, flags.kills)} kills: numbers equal, no finished step done twice")
    return
  globals()["COLUMNS"] = flags.columns
  each, memory = measured(flags.kind, flags.rows, flags.generations)
  print(
    f"{flags.kind}, {flags.rows} rows x {flags.columns} columns: {np.median(each):.1f} ms of CPU time a generation "
    f"(median of {len(each)}; {min(each):.1f} to {max(each):.1f}), {memory:.2f} GiB"
  )
  if np.median(each) > flags.most_ms or memory > flags.most_gib:
    sys.exit(1)


if __name__ == "__main__":
  main()
