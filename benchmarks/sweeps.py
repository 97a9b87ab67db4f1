"""What sweeps cost beside the programs they call, over devices, and in memory.

python -m benchmarks.sweeps overhead     chunks, checkpoints and a mesh against a bare jitted loop on one device
python -m benchmarks.sweeps scaling      two devices against one (two simulated ones where there is no accelerator)
python -m benchmarks.sweeps memory       a sweep that would take ten times this machine's memory at once
"""

import functools
import statistics
import sys
import tempfile
import threading
import time

import jax
import numpy as np
from threadpoolctl import threadpool_limits

import collapse_jax as cj
from collapse_jax import tasks, workflows
from collapse_jax.generation import run
from collapse_jax.sweeps import devices

CASES = {
  "gaussian, dim 31, n 316, accumulate": (tasks.gaussian, "accumulate", {"dim": 31, "num_samples": 316}, 100, 2000),
  "gaussian rows, dim 10, n 1000, accumulate_subsample": (
    functools.partial(tasks.gaussian, draws="rows"),
    "accumulate_subsample",
    {"dim": 10, "num_samples": 1000},
    100,
    200,
  ),
  "kde moons, n 100, accumulate": (
    functools.partial(tasks.kde, "moons", bandwidth=0.5),
    "accumulate",
    {"num_samples": 100},
    100,
    1500,
  ),
}
PAIRS = 5


def sweep(case, mesh=None, directory=None, **options):
  """Results of a case, and seconds without those of compiling."""
  task, workflow, values, num_generations, num_seeds = case
  axes = {name: [value] for name, value in values.items()}
  results = cj.sweep(
    task,
    [workflow],
    axes,
    num_generations=num_generations,
    num_seeds=num_seeds,
    mesh=mesh,
    directory=directory,
    num_workers=1,
    **options,
  )
  return results, results.wall_seconds - results.compile_seconds


def overhead():
  for label, case in CASES.items():
    task, workflow, values, num_generations, num_seeds = case
    size = num_seeds // 10
    one = lambda i, task=task, values=values, workflow=workflow, num_generations=num_generations: run(
      jax.random.fold_in(jax.random.key(0), i), task(**values), workflows.parse(workflow)(), num_generations
    )
    bare = jax.jit(jax.vmap(one)).lower(jax.ShapeDtypeStruct((size,), np.int32)).compile()

    def loop(bare=bare, num_seeds=num_seeds, size=size):
      begun = time.perf_counter()
      found = [
        jax.tree.map(np.asarray, bare(np.arange(i, i + size, dtype=np.int32))) for i in range(0, num_seeds, size)
      ]
      return {name: np.concatenate([part[name] for part in found]) for name in found[0]}, time.perf_counter() - begun

    ratios = []
    for pair in range(PAIRS + 1):
      with tempfile.TemporaryDirectory() as folder, threadpool_limits(1, "blas"):
        expected, plain = loop()
        results, ours = sweep(case, devices.mesh_of(1), folder, chunk_size=size)
      for name, value in expected.items():
        np.testing.assert_allclose(np.squeeze(results[name].values), np.squeeze(value), rtol=1e-5, atol=1e-6)
      if pair:  # the first warms up
        ratios.append(ours / plain)
    print(
      f"{label}: {plain:.2f} s bare, overhead {100 * (statistics.median(ratios) - 1):+.1f}% "
      f"({100 * (min(ratios) - 1):+.1f} to {100 * (max(ratios) - 1):+.1f}, {PAIRS} pairs)",
      flush=True,
    )


def scaling():
  jax.config.update("jax_num_cpu_devices", 2)  # before the first use of a device
  for label, case in CASES.items():
    ratios = []
    for pair in range(PAIRS):
      (one, alone), (both, together) = (sweep(case, devices.mesh_of(num), chunk_size=case[-1] // 10) for num in (1, 2))
      metric = one.primary_metric
      np.testing.assert_array_equal(one[metric], both[metric])
      if pair:
        ratios.append(alone / together / 2)
    print(
      f"{label}: efficiency {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) on "
      f"2 x {devices.name()}",
      flush=True,
    )


def memory():
  times, begun = 10, time.perf_counter()
  num_samples, dim, num_generations = 10_000, 10, 100
  each = num_samples * dim * num_generations * 4  # what accumulates, alone
  num_seeds = int(times * devices.memory_bytes() / each) + 1
  curve, ended = [], threading.Event()

  def watch():
    page = 4096 / 2**30
    while not ended.wait(0.5):
      with open("/proc/self/statm") as file:
        curve.append(int(file.read().split()[1]) * page)

  threading.Thread(target=watch, daemon=True).start()
  results = cj.sweep(
    functools.partial(tasks.gaussian, draws="rows"),
    ["accumulate_subsample"],
    {"dim": [dim], "num_samples": [num_samples]},
    num_generations=num_generations,
    num_seeds=num_seeds,
  )
  ended.set()
  assert results.finite.all()
  parts = [max(part) for part in np.array_split(curve[len(curve) // 10 :], 5)]
  print(
    f"{num_seeds} runs of {each / 2**20:.0f} MiB, {num_seeds * each / 2**30:.0f} GiB in all, on a machine with "
    f"{devices.memory_bytes() / 2**30:.1f}: {time.perf_counter() - begun:.0f} s in chunks of {results.chunk_size}; "
    f"memory in use after each fifth {', '.join(f'{one:.2f}' for one in parts)} GiB"
  )


if __name__ == "__main__":
  {"overhead": overhead, "scaling": scaling, "memory": memory}[sys.argv[1]]()
