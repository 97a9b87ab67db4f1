"""One language model held by four processes of two simulated devices each: its plan, its losses, and what a kill costs.

  python -m benchmarks.several_hosts [--processes=4] [--device_gib=0.03]

All on this machine, through `experiments.language_model`: a plan that a single device is too small for, and that of eight; a run in
which one process is killed (SIGKILL) after a generation, and that all go on from; and the same run on one device.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FLAGS = (
  "--num_samples=16",
  "--num_generations=3",
  "--num_seeds=1",
  "--workflows=replace",
  "--max_test_rows=16",
  "--batch_size=8",
  "--on_malformed=keep",
  "--measure=few",
)


def begun(log: Path, *flags: str) -> subprocess.Popen:
  """A process of the experiment; what it says goes into a file."""
  with log.open("w") as said:
    command = [sys.executable, "-m", "experiments.language_model", *FLAGS, *flags]
    return subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)


def ended(log: Path, *processes: subprocess.Popen) -> None:
  """Waits until all have ended well."""
  if any([one.wait() for one in processes]):
    raise SystemExit(log.read_text())


def together(num: int, out: Path, *flags: str) -> list[subprocess.Popen]:
  """Processes that hold one model; what the first says is in OUT.log."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  shared = ["--distributed", "--span_processes", "--devices=2", "--tensor_parallel=2", f"--num_processes={num}", *flags]
  shared += [f"--coordinator=localhost:{port}", f"--output_dir={out}"]
  logs = [out.with_suffix(".log"), *(out.with_suffix(f".log{i}") for i in range(1, num))]
  return [begun(log, *shared, f"--process_id={i}") for i, log in enumerate(logs)]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--processes", type=int, default=4)
  parser.add_argument("--device_gib", type=float, default=0.03, help="memory of a device")
  options = parser.parse_args()
  limit = f"--device_gib={options.device_gib}"
  with tempfile.TemporaryDirectory() as folder:
    out, alone, log = (Path(folder) / name for name in ("together", "alone", "log"))
    last = lambda: log.read_text().strip().splitlines()[-1]
    if begun(log, "--dry_run", limit).wait() != 2:
      raise SystemExit(f"a plan for one device was to be refused: {last()}")
    print("one device:", last())
    ended(
      log, begun(log, "--dry_run", limit, "--devices=2", f"--num_processes={options.processes}", "--tensor_parallel=2")
    )
    print(last(), flush=True)
    first = together(options.processes, out)
    while not list(out.glob("**/checkpoints/*/1.npz")):
      if any(one.poll() is not None for one in first):
        raise SystemExit(out.with_suffix(".log").read_text())
      time.sleep(0.1)
    os.kill(first[-1].pid, signal.SIGKILL)
    clock = time.perf_counter()
    status = [one.wait() for one in first]
    print(
      f"one of {len(first)} killed: the others ended in {time.perf_counter() - clock:.0f} s, with {status}", flush=True
    )
    ended(out.with_suffix(".log"), *together(options.processes, out, "--resume"))
    ended(log, begun(log, f"--output_dir={alone}"))
    import collapse_jax as cj

    two, one = (cj.load(path).test_loss.values.ravel() for path in (out, alone))
  print(f"losses {two} together, {one} on one device: relative difference at most {np.max(np.abs(two / one - 1)):.1e}")


if __name__ == "__main__":
  main()
