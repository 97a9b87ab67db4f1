"""One language model held by several processes, each with two simulated devices: its plan, its losses, and what a kill costs.

  python -m benchmarks.several_hosts [--processes=4] [--device_gib=0.005]

All on this machine, through `python -m experiments.language_model`: a plan that refuses a single device and takes those of all
processes; a run in which one process is killed (SIGKILL) after a generation, and that all then go on with; and the same run on one
device. Processes are compiled without most optimisations.
"""

import argparse
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import collapse_jax as cj

FLAGS = (
  "--num_samples=16",
  "--num_generations=2",
  "--num_seeds=1",
  "--workflows=replace",
  "--max_test_rows=16",
  "--batch_size=8",
  "--on_malformed=keep",
  "--measure=few",
)
SPLIT = ("--devices=2", "--tensor_parallel=2")
LOSSES = ("test_loss", "learning_curve", "train_loss")
ENVIRONMENT = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def begun(log: Path, *flags: str) -> subprocess.Popen:
  """A process of the experiment; what it says goes into a file."""
  command = [sys.executable, "-m", "experiments.language_model", *FLAGS, *flags]
  with log.open("w") as said:
    return subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=ENVIRONMENT)


def ended(*running: tuple[subprocess.Popen, Path], status: int = 0) -> str:
  """Waits until all have ended with a status; the last line that the first has said."""
  for process, log in running:
    if process.wait() != status:
      raise SystemExit(f"{log}: ended with {process.returncode}\n{log.read_text()}")
  return running[0][1].read_text().strip().splitlines()[-1]


def together(num: int, out: Path, *flags: str) -> list[tuple[subprocess.Popen, Path]]:
  """Processes that hold one model."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  shared = ("--distributed", "--span_processes", *SPLIT, f"--num_processes={num}", f"--output_dir={out}", *flags)
  logs = [out.with_suffix(f".log{i}") for i in range(num)]
  return [
    (begun(log, *shared, f"--coordinator=localhost:{port}", f"--process_id={i}"), log) for i, log in enumerate(logs)
  ]


def killed(running: list[tuple[subprocess.Popen, Path]], out: Path) -> None:
  """Kills the last process once a generation is on disk, and waits for the others."""
  while not list(out.parent.glob(f"*{out.name}*/checkpoints/*/1.npz")):
    if any(process.poll() is not None for process, _ in running):
      ended(*running)
    time.sleep(0.1)
  os.kill(running[-1][0].pid, signal.SIGKILL)
  clock = time.perf_counter()
  status = [process.wait() for process, _ in running]
  print(f"one of {len(running)} killed: all had ended {time.perf_counter() - clock:.0f} s later, with {status}")
  if 0 in status or status[-1] != -signal.SIGKILL:
    raise SystemExit("no process was to end well")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--processes", type=int, default=4)
  parser.add_argument("--device_gib", type=float, default=0.005, help="memory of a device")
  options = parser.parse_args()
  num, plan = options.processes, ("--dry_run", f"--device_gib={options.device_gib}")
  with tempfile.TemporaryDirectory() as folder:
    out, alone, log = (Path(folder) / name for name in ("together", "alone", "log"))
    print("one device:", ended((begun(log, *plan), log), status=2), flush=True)
    print(f"{num} processes:", ended((begun(log, *plan, *SPLIT, f"--num_processes={num}"), log)), flush=True)
    running = together(num, out)
    try:
      killed(running, out)
    finally:
      for process, _ in running:
        process.kill()
    ended(*together(num, out, "--resume"))
    ended((begun(log, f"--output_dir={alone}"), log))
    many, one = cj.load(out), cj.load(alone)
  apart = {name: float(np.nanmax(abs(many[name] / one[name] - 1))) for name in LOSSES}
  print(f"test loss {many.test_loss.values.ravel()}; relative differences from one device, at most:")
  print(", ".join(f"{name} {value:.1e}" for name, value in apart.items()))
  print(f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime:.0f} CPU seconds")
  if not max(apart.values()) < 1e-5:
    raise SystemExit("losses were to be equal within 1e-5")


if __name__ == "__main__":
  main()
