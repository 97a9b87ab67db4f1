"""The product against plain loops: same work, same machine, one run, medians of paired ratios.

  python -m benchmarks.run

Plain loops run two seeds at a time in two processes with one BLAS thread each, which uses both cores of a small machine.
The product runs 100 seeds of one cell, T generations, compilation stated apart. Before anything is timed, both are checked
to agree in distribution. Writes docs/benchmarks.md.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np


def product(task, workflow, num_generations, num_seeds=100):
  """(function that runs all seeds, compile seconds): chunks of seeds side by side in threads, as `sweep` does."""
  import jax
  from threadpoolctl import threadpool_limits

  import collapse_jax as cj
  workers = os.cpu_count() or 1
  chunk = -(-num_seeds // workers)
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(0), i), task, workflow, num_generations)
  begun = time.perf_counter()
  compiled = jax.jit(jax.vmap(one)).lower(jax.numpy.arange(chunk)).compile()
  seconds = time.perf_counter() - begun
  starts = [jax.numpy.arange(first, first + chunk) for first in range(0, num_seeds, chunk)]

  def run_all():
    with threadpool_limits(1, "blas"), concurrent.futures.ThreadPoolExecutor(workers) as pool:
      parts = list(pool.map(lambda start: jax.tree.map(np.asarray, compiled(start)), starts))
    return {name: np.concatenate([part[name] for part in parts])[:num_seeds] for name in parts[0]}

  return run_all, seconds


def timed(function):
  begun = time.perf_counter()
  function()
  return time.perf_counter() - begun


def check_agreement(ours, theirs):
  """Largest |z| between means over seeds of log or plain metrics at a few generations."""
  worst = 0.0
  for name, value in theirs.items():
    for t in (0, 1, value.shape[1] - 1):
      a, b = ours[name][:, t].astype(np.float64), value[:, t]
      worst = np.maximum(worst, abs(a.mean() - b.mean()) / np.sqrt(a.var() / len(a) + b.var() / len(b)))
  if not worst <= 5:  # NaN included
    raise SystemExit(f"product and plain loop disagree: |z| = {worst:.1f}; nothing is timed")
  return worst


def one_thread():
  os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--pairs", type=int, default=5)
  parser.add_argument("--output", default="docs/benchmarks.md")
  parser.add_argument("--only", default="")
  arguments = parser.parse_args()
  one_thread()
  import jax

  from benchmarks import plain
  from collapse_jax import tasks, workflows
  cases = {}
  for name in ("replace", "accumulate"):
    cases[f"Gaussian dim 100, n = 1000, {name}"] = (
        lambda n, d: tasks.gaussian(d or 100, n, draws="law"), functools.partial(plain.gaussian, name), (100, 1000), name)
    cases[f"KDE moons h = 0.5, n = 1000, {name}"] = (
        lambda n, d: tasks.kde("moons", n, 0.5), functools.partial(plain.kde, name), (0.5, 1000), name)
  lines = [
      "# Benchmarks", "",
      f"`python -m benchmarks.run --pairs={arguments.pairs}` on {os.cpu_count()} CPU cores, JAX {jax.__version__}, NumPy",
      f"{np.__version__}. T = 100; times are per run: the product in a sweep of 100 seeds, the plain loop (NumPy,",
      "scikit-learn) in two processes. Medians over pairs, with the range of the ratio.", "",
      "| case | product | plain loop | ratio (min, max) | compilation | agreement, largest z |",
      "| --- | --- | --- | --- | --- | --- |"]
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(2, mp_context=context, initializer=one_thread) as pool:
    for label, (task, loop, (first, n), name) in cases.items():
      if arguments.only not in label:
        continue
      workflow = workflows.parse(name)()
      small = 50
      theirs = list(pool.map(loop, [3 if first == 100 else first] * 60, [small] * 60, [8] * 60, range(60)))
      theirs = {key: np.stack([one[key] for one in theirs]) for key in theirs[0]}
      worst = check_agreement(product(task(small, 3), workflow, 8, 400)[0](), theirs)
      run_all, compiling = product(task(n, None), workflow, 100)
      run_all()
      ours, plains = [], []
      for pair in range(arguments.pairs):
        ours.append(timed(run_all) / 100)
        seeds = [2 * pair, 2 * pair + 1]
        plains.append(timed(lambda s=seeds, f=loop, a=first, m=n: list(pool.map(f, [a] * 2, [m] * 2, [100] * 2, s))) / 2)
      ratios = np.array(plains) / np.array(ours)
      lines.append(f"| {label} | {np.median(ours) * 1e3:.1f} ms | {np.median(plains):.2f} s | {np.median(ratios):.0f} "
                   f"({ratios.min():.0f}, {ratios.max():.0f}) | {compiling:.1f} s | {worst:.1f} |")
      print(lines[-1], flush=True)
  lines += ["", "## Scaling", ""]
  law = lambda n: product(tasks.gaussian(10, n, draws="law"), workflows.accumulate(), 100)[0]
  few, many = law(100.0), law(1e9)
  few(), many()
  ratio = np.median([timed(many) / timed(few) for _ in range(9)])
  lines.append(f"- Exact law, dim 10, `accumulate`: num_samples = 1e9 costs {ratio:.2f} times num_samples = 100.")
  print(lines[-1], flush=True)
  long = {T: product(tasks.kde("moons", 100, 0.5), workflows.accumulate(), T, 20)[0] for T in (1000, 2000)}
  for run_all in long.values():
    run_all()
  ratio = np.median([timed(long[2000]) / timed(long[1000]) for _ in range(5)])
  lines.append(f"- KDE moons, n = 100, h = 0.5, `accumulate`: T = 2000 costs {ratio:.2f} times T = 1000.")
  print(lines[-1], flush=True)
  Path(arguments.output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
  main()
