"""Kills sweeps at random moments and in the middle of writes, resumes them to the end, and compares with a run in peace.

  python -m benchmarks.kills

20 kills (SIGKILL) over a Gaussian, a KDE and a language-model sweep. Ends with status 1 if a number differs, or if something
was computed again after it had been committed.
"""

import collections
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import collapse_jax as cj

ROOT = Path(__file__).parent.parent
SWEEPS = {
  "gaussian": ("--dims=2,3", "--num_samples=10,20", "--num_generations=20", "--num_seeds=40", "--chunk_size=4"),
  "kde": (
    "--datasets=moons",
    "--bandwidths=0.1,0.5",
    "--num_samples=20",
    "--num_generations=20",
    "--num_seeds=40",
    "--chunk_size=4",
    "--num_test=100",
  ),
  "language_model": (
    "--num_samples=16",
    "--num_generations=4",
    "--num_seeds=2",
    "--chunk_size=1",
    "--workflows=replace,accumulate",
    "--max_test_rows=16",
    "--on_malformed=keep",
  ),
}
COMMITTED = {"gaussian": ".chunk", "kde": ".chunk", "language_model": ".npz"}
KILLS = {"gaussian": (4, 3), "kde": (4, 3), "language_model": (3, 3)}  # at random moments, in a write


def start(name: str, out: Path, log: Path, when: str = "0", how: str = "kill", *flags: str):
  """A binary that notes what it commits, and dies as tests/killed.py says."""
  arguments = [
    sys.executable,
    ROOT / "tests" / "killed.py",
    log,
    when,
    how,
    f"experiments.{name}",
    *SWEEPS[name],
    f"--output_dir={out}",
    *flags,
  ]
  with open(f"{log}.out", "a") as said:
    return subprocess.Popen(list(map(str, arguments)), cwd=ROOT, stdout=said, stderr=said)


def kill(name: str, out: Path, log: Path, in_write: bool, seconds: float) -> bool:
  """Whether the process was killed before it had ended."""
  write = f"{COMMITTED[name]}:{random.randint(1, 4)}", "kill"
  moment = str(random.randrange(100)), f"within={seconds}"
  return start(name, out, log, *(write if in_write else moment), "--resume").wait() == -signal.SIGKILL


def commits(name: str, log: Path) -> list[str]:
  return [line for line in log.read_text().splitlines() if line.endswith(COMMITTED[name])]


def main():
  random.seed(0)
  wrong = False
  with tempfile.TemporaryDirectory() as folder:
    for name, (at_random, in_writes) in KILLS.items():
      place = Path(folder) / name
      place.mkdir()
      assert start(name, place / "whole", place / "whole.log").wait() == 0, Path(f"{place}/whole.log.out").read_text()
      whole = cj.load(place / "whole")
      left, killed, sweeps, same, num_commits, twice = [True] * in_writes + [False] * at_random, 0, 0, True, 0, []
      while left:  # a sweep that ends before it is hit is compared, and another one begun
        sweeps += 1
        out, log = place / f"out_{sweeps}", place / f"log_{sweeps}"
        log.touch()
        while left and kill(name, out, log, left[0], float(whole.wall_seconds)):
          killed += 1
          del left[0]
        if not (out / "results.nc").exists():
          assert start(name, out, log, "0", "kill", "--resume").wait() == 0, Path(f"{log}.out").read_text()[-2000:]
        resumed = cj.load(out)
        same &= all(resumed[metric].equals(whole[metric]) for metric in whole.data_vars)
        num_commits += len(set(commits(name, log)))
        twice += [one for one, num in collections.Counter(commits(name, log)).items() if num > 1]
      print(
        f"{name}: {killed} kills, {in_writes} of them in a write, in {sweeps} sweeps; numbers "
        f"{'equal' if same else 'DIFFER'}; {num_commits} commits, {len(twice)} computed twice {twice[:3]}",
        flush=True,
      )
      wrong |= not same or bool(twice)
  return int(wrong)


if __name__ == "__main__":
  sys.exit(main())
