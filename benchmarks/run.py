"""The product against plain loops: same work, same machine, one run, medians of paired ratios.

  python -m benchmarks.run

Plain loops run two seeds at a time in two processes with one BLAS thread each, which uses both cores of a small machine.
The product runs 100 seeds of one cell, T = 100, compilation stated apart. Before anything is timed, both are checked to
agree in distribution. Writes the first part of docs/benchmarks.md, unless --only picks some cases.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

PAGE = Path("docs/benchmarks.md")
KEPT = "## Sweeps"  # written by hand from here on
SLOW = 60.0  # seconds: plain loops slower than this are run in two pairs


def product(task, workflow, num_generations, num_seeds=100):
  """(function that runs all seeds, compile seconds, MiB of a chunk): chunks side by side in threads, as `sweep` does."""
  import jax
  import scipy.linalg  # noqa: F401  so that its threads are limited
  from threadpoolctl import threadpool_limits

  import collapse_jax as cj
  workers = os.cpu_count() or 1
  chunk = -(-num_seeds // workers)
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(0), i), task, workflow, num_generations)
  begun = time.perf_counter()
  compiled = jax.jit(jax.vmap(one)).lower(jax.numpy.arange(chunk)).compile()
  seconds = time.perf_counter() - begun
  memory = compiled.memory_analysis()
  starts = [jax.numpy.arange(first, first + chunk) for first in range(0, num_seeds, chunk)]

  def run_all():
    with threadpool_limits(1, "blas"), concurrent.futures.ThreadPoolExecutor(workers) as pool:
      parts = list(pool.map(lambda start: jax.tree.map(np.asarray, compiled(start)), starts))
    return {name: np.concatenate([part[name] for part in parts])[:num_seeds] for name in parts[0]}

  return run_all, seconds, (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2 ** 20


def timed(function):
  begun = time.perf_counter()
  function()
  return time.perf_counter() - begun


def paired_ratio(slow, fast, pairs):
  """Median over pairs of the time of `slow` over that of `fast`, after a warm-up of both."""
  fast(), slow()
  return statistics.median(timed(slow) / timed(fast) for _ in range(pairs))


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


def two_runs(pool, loop, sizes, seeds):
  for future in [pool.submit(loop, *sizes, seed) for seed in seeds]:
    future.result()


def compare(label, task, loop, first, n, workflow, pairs, pool):
  """One row of the table."""
  small = 50
  theirs = list(pool.map(loop, [3 if first == 100 else first] * 60, [small] * 60, [8] * 60, range(60)))
  theirs = {key: np.stack([one[key] for one in theirs]) for key in theirs[0]}
  worst = check_agreement(product(task(small, 3), workflow, 8, 400)[0](), theirs)
  run_all, compiling, memory = product(task(n, None), workflow, 100)
  run_all()
  ours, plains = [], []
  while len(plains) < (min(pairs, 2) if plains and max(plains) > SLOW else pairs):
    ours.append(timed(run_all) / 100)
    seeds = [2 * len(plains), 2 * len(plains) + 1]
    plains.append(timed(functools.partial(two_runs, pool, loop, (first, n, 100), seeds)) / 2)
  ratios = np.array(plains) / np.array(ours)
  return (f"| {label} | {np.median(ours) * 1e3:.1f} ms | {np.median(plains):.2f} s | {np.median(ratios):.0f} "
          f"({ratios.min():.0f} to {ratios.max():.0f}, {len(plains)} pairs) | {compiling:.1f} s | {memory:.0f} MiB | "
          f"{worst:.1f} |")


def scaling():
  """Costs against num_samples and T, a line each."""
  from collapse_jax import tasks, workflows
  accumulate = workflows.accumulate()
  law = lambda n: product(tasks.gaussian(10, n, draws="law"), accumulate, 100)[0]
  yield (f"- Exact law, dim 10, `accumulate`: num_samples = 1e9 costs {paired_ratio(law(1e9), law(100.0), 9):.2f} times "
         "num_samples = 100.")
  for label, task in (("KDE moons, n = 1000, h = 0.5", tasks.kde("moons", 1000, 0.5)),
                      ("KDE moons, n = 100, h = 0.5", tasks.kde("moons", 100, 0.5)),
                      ("Gaussian dim 10, exact law", tasks.gaussian(10, 100, draws="law"))):
    long = {T: product(task, accumulate, T, 20)[0] for T in (1000, 2000)}
    yield f"- {label}, `accumulate`: T = 2000 costs {paired_ratio(long[2000], long[1000], 3):.2f} times T = 1000."


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--pairs", type=int, default=5)
  parser.add_argument("--only", default="", help="run cases whose label contains this, and write nothing")
  arguments = parser.parse_args()
  one_thread()
  import jax

  from benchmarks import plain
  from collapse_jax import tasks, workflows
  lines = [
      "# Benchmarks", "",
      f"`python -m benchmarks.run --pairs={arguments.pairs}` on {os.cpu_count()} CPU cores; JAX {jax.__version__}, NumPy",
      f"{np.__version__}, scikit-learn {version('scikit-learn')}. T = 100; times are per run: the product in a sweep of 100",
      "seeds, the plain loop (NumPy, scikit-learn) in two processes. Medians over pairs, with the range of the ratio;",
      "memory is that of the compiled program for half of the seeds; agreement is the largest |z| between the two, at",
      "small size.", "",
      "| case | product | plain loop | ratio | compilation | memory | agreement |",
      "| --- | --- | --- | --- | --- | --- | --- |"]
  print(lines[-2], flush=True)
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(2, mp_context=context, initializer=one_thread) as pool:
    for name in ("replace", "accumulate"):
      for label, task, loop, first in (
          ("Gaussian dim 100, n = 1000", lambda n, d: tasks.gaussian(d or 100, n, draws="law"), plain.gaussian, 100),
          ("KDE moons h = 0.5, n = 1000", lambda n, d: tasks.kde("moons", n, 0.5), plain.kde, 0.5)):
        if arguments.only in f"{label}, {name}":
          loop = functools.partial(loop, name)
          workflow = workflows.parse(name)()
          lines.append(compare(f"{label}, {name}", task, loop, first, 1000, workflow, arguments.pairs, pool))
          print(lines[-1], flush=True)
  if arguments.only:
    return
  lines.append("")
  for line in scaling():
    lines.append(line)
    print(line, flush=True)
  _, found, kept = PAGE.read_text().partition(KEPT) if PAGE.exists() else ("", "", "")
  PAGE.write_text("\n".join([*lines, ""]) + (f"\n{found}{kept}" if found else ""))


if __name__ == "__main__":
  main()
