"""Drift until one outcome is left, against a loop over the outcomes that survive, as a NumPy user would write it.

  python -m benchmarks.drift --num_samples=10000

The product runs 100 seeds in two threads, NumPy as many as asked for in two processes, in turn. Time is given on the clock and of
the cores, which tells more where other work runs beside it. Both must have the same mean end and entropy, and that of theory.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import resource
import time

import numpy as np

from benchmarks import plain
from benchmarks.run import halves, one_thread, threads


def cpu() -> float:
  """Seconds of the cores, of this process; those of others are told by `_surviving`."""
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime


def _surviving(*arguments):
  begun = time.process_time()
  return plain.surviving(*arguments), time.process_time() - begun


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_outcomes", type=int, default=100_000)
  parser.add_argument("--num_samples", type=int, default=10_000)
  parser.add_argument("--num_seeds", type=int, default=100)
  parser.add_argument("--numpy_seeds", type=int, default=10)
  parser.add_argument("--pairs", type=int, default=2)
  arguments = parser.parse_args()
  import jax

  jax.config.update("jax_enable_compilation_cache", False)
  from collapse_jax import tasks, theory, workflows
  from collapse_jax.sweeps.stopping import Stopping

  n, size = arguments.num_samples, (arguments.num_outcomes, arguments.num_samples)
  every = max(n // 20, 1)
  execute = Stopping(lambda traced: (tasks.discrete(*size), workflows.replace()), 12 * n, 0, every)
  parts = halves(arguments.num_seeds)
  begun, used = time.perf_counter(), cpu()
  execute.compile(len(parts[0]), {})
  print(f"compilation: {time.perf_counter() - begun:.1f} s, {cpu() - used:.1f} s of the cores", flush=True)
  seed, ratios = 0, []
  with concurrent.futures.ProcessPoolExecutor(
    os.cpu_count(), mp_context=multiprocessing.get_context("spawn"), initializer=one_thread
  ) as pool:
    list(pool.map(_surviving, *zip(*[(2, 2, 1, i) for i in range(8)])))
    for _ in range(arguments.pairs):
      begun, used = time.perf_counter(), cpu()
      found = threads(lambda part: execute(part, {}), parts)
      wall, ours = time.perf_counter() - begun, (cpu() - used) / arguments.num_seeds
      print(f"product: {wall:.1f} s for {arguments.num_seeds} runs, {ours:.4f} s of a core a run", flush=True)
      begun = time.perf_counter()
      runs = [(*size, every, seed + i) for i in range(arguments.numpy_seeds)]
      peer = list(pool.map(_surviving, *zip(*runs)))
      wall, seed = time.perf_counter() - begun, seed + arguments.numpy_seeds
      theirs = sum(used for _, used in peer) / len(peer)
      print(f"NumPy: {wall:.1f} s for {len(peer)} runs, {theirs:.4f} s of a core a run", flush=True)
      ratios.append(theirs / ours)
  print(f"ratio, by time of the cores: {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
  joined = {name: np.concatenate([part[name] for part in found]) for name in ("collapse_generation", "entropy")}
  mine = {"collapse_generation": joined["collapse_generation"][:, -1], "entropy": joined["entropy"][:, 1]}
  law = {"collapse_generation": theory.drift_collapse_time(*size), "entropy": float(theory.drift_entropy(every, n))}
  for name, value in mine.items():
    other = np.array([one[name] for one, _ in peer])
    error = value.std() / len(value) ** 0.5
    z = (value.mean() - other.mean()) / np.hypot(error, other.std() / len(other) ** 0.5)
    print(
      f"{name}: {value.mean():.5g}, z {z:.1f} to NumPy, {(value.mean() - law[name]) / error:.1f} to theory {law[name]:.5g}"
    )
    if not abs(z) < 5:
      raise SystemExit("product and loop disagree")


if __name__ == "__main__":
  main()
