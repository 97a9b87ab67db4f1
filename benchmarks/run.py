"""The product against plain loops: same work, same machine, one run, medians of paired ratios.

  python -m benchmarks.run

Plain loops run two seeds at a time in two processes with one BLAS thread each, which uses both cores of a small machine.
The product runs 100 seeds of one cell, T = 100, compilation stated apart. Before anything is timed, both are checked to
agree in distribution. Writes the first part of docs/benchmarks.md, unless --only picks some cases. About half an hour.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import plain

PAGE = Path("docs/benchmarks.md")
KEPT = "## Sweeps"  # written by hand from here on
SLOW = 30.0  # seconds: plain loops slower than this are run in two pairs
WORKFLOWS = ("replace", "accumulate", "accumulate_subsample")


class Case(NamedTuple):
  """A task at several sizes: (first, num_samples), where first is dim, bandwidth or num_outcomes."""

  name: str
  task: Callable[[Any, Any], Any]
  loop: Callable[..., dict[str, np.ndarray]]
  label: str
  small: tuple[Any, int]
  sizes: tuple[tuple[Any, int], ...]


def cases() -> list[Case]:
  from collapse_jax import tasks

  return [
    Case(
      "gaussian",
      lambda dim, n: tasks.gaussian(dim, n),
      plain.gaussian,
      "dim {}, n = {}",
      (3, 50),
      ((3, 32), (10, 316), (100, 1000)),
    ),
    Case(
      "kde",
      lambda h, n: tasks.kde("moons", n, h),
      plain.kde,
      "moons, h = {}, n = {}",
      (0.5, 50),
      ((0.5, 32), (0.5, 316), (0.5, 1000)),
    ),
    Case(
      "linear_regression",
      lambda dim, n: tasks.linear_regression(dim, n),
      plain.linear_regression,
      "dim {}, n = {}",
      (3, 50),
      ((3, 32), (10, 316), (100, 1000)),
    ),
    Case(
      "discrete",
      lambda k, n: tasks.discrete(k, n),
      plain.discrete,
      "{} outcomes, n = {}",
      (12, 50),
      ((10, 10), (1000, 100), (100_000, 1000)),
    ),
  ]


def threads(function, parts):
  """Parts side by side, as `sweep` runs chunks."""
  import scipy.linalg  # noqa: F401  so that its threads are limited
  from threadpoolctl import threadpool_limits

  with threadpool_limits(1, "blas"), concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
    return list(pool.map(function, parts))


def accelerator():
  """The first device that is no CPU, or None."""
  import jax

  return None if jax.devices()[0].platform == "cpu" else jax.devices()[0]


def halves(num_seeds, device=None):
  """Seed indices, one array per core, or one on the device."""
  import jax

  chunk = num_seeds if device else -(-num_seeds // (os.cpu_count() or 1))
  parts = [np.arange(first, first + chunk) for first in range(0, num_seeds, chunk)]
  return jax.device_put(parts, device or jax.devices("cpu")[0])


def product(task, workflow, num_generations, num_seeds=100, device=None):
  """(function that runs all seeds, compile seconds, MiB of a chunk), on the CPU unless a device is given."""
  import jax

  import collapse_jax as cj

  parts = halves(num_seeds, device)
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(0), i), task, workflow, num_generations)
  begun = time.perf_counter()
  with jax.default_device(device or jax.devices("cpu")[0]):
    compiled = jax.jit(jax.vmap(one)).lower(parts[0]).compile()
  seconds = time.perf_counter() - begun
  memory = compiled.memory_analysis()

  def run_all():
    found = threads(lambda part: jax.tree.map(np.asarray, compiled(part)), parts)
    return {name: np.concatenate([part[name] for part in found])[:num_seeds] for name in found[0]}

  return run_all, seconds, (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20


def timed(function):
  begun = time.perf_counter()
  function()
  return time.perf_counter() - begun


def paired_ratio(slow, fast, pairs):
  """Median over pairs of the time of `slow` over that of `fast`, after a warm-up of both."""
  fast(), slow()
  return statistics.median(timed(slow) / timed(fast) for _ in range(pairs))


def check_agreement(ours, theirs):
  """Largest |z| between means over seeds of the metrics that both have, at a few generations."""
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


def both_cores(pool, loop, sizes, seeds):
  for future in [pool.submit(loop, *sizes, seed) for seed in seeds]:
    future.result()


def paired(run_all, num_seeds, loop, sizes, pairs, pool):
  """Seconds per run of the product and of the plain loop, over pairs; the last plain one may be the second."""
  run_all()
  repeats = max(1, int(0.2 / max(timed(run_all), 1e-3)))
  warm_up = timed(lambda: both_cores(pool, loop, sizes, (0, 1)))
  seeds = 2 * max(1, min(50, int(0.2 / max(warm_up, 1e-3))))
  ours, plains = [], []
  while len(plains) < (min(pairs, 2) if 2 * warm_up > SLOW else pairs):
    ours.append(timed(lambda: [run_all() for _ in range(repeats)]) / num_seeds / repeats)
    own = range(seeds * len(plains), seeds * (len(plains) + 1))
    plains.append(timed(lambda own=own: both_cores(pool, loop, sizes, own)) / seeds)
  return np.array(ours), np.array(plains)


def row(label, ours, plains, compiling, memory, worst, on_device=None):
  """A line of the table; `on_device` is the time of a run on the accelerator, where there is one."""
  memory = "-" if memory is None else f"{memory:.1f} MiB"
  ratios = plains / ours
  return (
    f"| {label} | {seconds(np.median(ours))} | {seconds(np.median(plains))} | {np.median(ratios):,.0f} "
    f"({ratios.min():,.0f} to {ratios.max():,.0f}) | {compiling:.1f} s | {memory} | {worst:.1f} |"
    + (f" {'-' if on_device is None else seconds(on_device)} |" if accelerator() else "")
  )


def seconds(value):
  return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.0f} us"


def compare(case, name, pairs, pool, only):
  """Rows of the table, one per size."""
  from collapse_jax import workflows

  wanted = [size for size in case.sizes if only in f"{case.name} {case.label.format(*size)}, {name}"]
  if not wanted:
    return
  workflow = workflows.parse(name)()
  loop = functools.partial(case.loop, name)
  first, n = case.small
  theirs = list(pool.map(loop, [first] * 100, [n] * 100, [8] * 100, range(100)))
  theirs = {key: np.stack([one[key] for one in theirs]) for key in theirs[0]}
  worst = check_agreement(product(case.task(first, n), workflow, 8, 400)[0](), theirs)
  for size in wanted:
    run_all, compiling, memory = product(case.task(*size), workflow, 100)
    ours, plains = paired(run_all, 100, loop, (*size, 100), pairs, pool)
    on_device = None
    if accelerator():
      on = product(case.task(*size), workflow, 100, device=accelerator())[0]
      on()
      on_device = min(timed(on) for _ in range(pairs)) / 100
    yield row(f"{case.name} {case.label.format(*size)}, {name}", ours, plains, compiling, memory, worst, on_device)


def to_collapse(pairs, pool):
  """A row: discrete drift until one outcome is left, in which the sweep stops absorbed runs."""
  from collapse_jax import tasks, workflows
  from collapse_jax.sweeps.stopping import Stopping

  size = (100_000, 1000)
  task = tasks.discrete(*size)
  execute = Stopping(lambda traced: (task, workflows.replace()), 12_000, 0, 1)
  parts = halves(100)
  begun = time.perf_counter()
  execute.compile(len(parts[0]), {})
  compiling = time.perf_counter() - begun
  ours = np.concatenate([part["collapse_generation"][:, -1] for part in threads(lambda part: execute(part, {}), parts)])
  loop = functools.partial(plain.discrete, "replace")
  theirs = np.array([len(one["entropy"]) for one in pool.map(loop, *zip(*[(*size, None, seed) for seed in range(20)]))])
  worst = abs(ours.mean() - theirs.mean()) / np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))
  if not worst <= 5:
    raise SystemExit(f"product and plain loop disagree on the collapse time: |z| = {worst:.1f}")
  times, plains = [], []
  for pair in range(pairs):
    times.append(timed(lambda: threads(lambda part: execute(part, {}), parts)) / 100)
    plains.append(timed(lambda pair=pair: both_cores(pool, loop, (*size, None), range(20 * pair, 20 * pair + 20))) / 20)
  return row(
    "discrete 100000 outcomes, n = 1000, replace, to collapse",
    np.array(times),
    np.array(plains),
    compiling,
    None,
    worst,
  )


def exponent(make, values, pairs=3):
  """Least-squares slope of log time on log value; `make(value)` returns a function to time."""
  runs = [make(value) for value in values]
  for run in runs:
    run()
  # Interleaved, so that a change of the machine's speed does not bend the line.
  times = np.median([[timed(run) for run in runs] for _ in range(pairs)], axis=0)
  return np.polyfit(np.log(values), np.log(times), 1)[0]


def scaling(case: Case, name: str) -> str:
  """Table row of fitted exponents of the product's run time, compilation excluded."""
  from collapse_jax import tasks, workflows

  workflow = workflows.parse(name)()
  first, n = {"kde": (0.5, 316), "discrete": (1000, 1000)}.get(case.name, (10, 316))
  with_rows = {
    "gaussian": lambda dim, n: tasks.gaussian(dim, n, draws="rows"),
    "linear_regression": lambda dim, n: tasks.linear_regression(dim, n, draws="rows"),
  }.get(case.name, case.task)
  # Where a generation costs microseconds, starting it does too, unless there are many of them and of seeds.
  exact = name != "accumulate_subsample" and case.name in ("gaussian", "linear_regression")
  generations = (2000, 4000, 8000) if exact else (500, 1000, 2000)
  seeds = 100 if exact or (case.name, name) == ("discrete", "replace") else 20
  sizes = (1000, 3162, 10_000) if case.name == "discrete" else (316, 1000, 3162)
  run = lambda make, first, n, T, seeds: product(make(first, n), workflow, T, seeds)[0]
  powers = [
    exponent(lambda T: run(case.task, first, n, T, seeds), generations),
    exponent(lambda n: run(with_rows, first, n, 200, 20), sizes),
    exponent(lambda dim: run(case.task, dim, 1000, generations[0] // 4, 20), (25, 50, 100)) if first == 10 else np.nan,
    exponent(lambda seeds: run(case.task, first, n, 200, seeds), (50, 200, 800)),
  ]
  return f"| {case.name}, {name} | " + " | ".join("-" if np.isnan(power) else f"{power:.2f}" for power in powers) + " |"


def roofline(device):
  """Table rows: what a cell achieves against the measured peak of its device for exp, matrix product and random bits."""
  import jax
  import jax.numpy as jnp

  from collapse_jax import tasks, workflows

  on_cpu = device.platform == "cpu"
  workers = (os.cpu_count() or 1) if on_cpu else 1
  side, size, passes = (1024, 1 << 16, 100) if on_cpu else (8192, 1 << 24, 20)  # small enough for the cache of a core
  over = lambda step: lambda x: jax.lax.fori_loop(0, passes, lambda i, total: total + step(x, i), jnp.zeros_like(x))
  bits = lambda key: jax.lax.fori_loop(
    0,
    passes,
    lambda i, total: total ^ jax.random.bits(jax.random.fold_in(key, i), (size,)),
    jnp.zeros(size, jnp.uint32),
  )

  def peak(function, argument, amount):
    """Amount a second with all cores, or the device, at work."""
    with jax.default_device(device):
      compiled = jax.jit(function)
      call = lambda _: jax.block_until_ready(compiled(argument))
      call(0)
      rate = lambda calls: len(calls) * amount / timed(lambda: threads(call, calls))
      return max(
        rate(calls) for calls in (range(1), range(workers)) for _ in range(7)
      )  # one call may use several cores

  with jax.default_device(device):
    x, square, key = jnp.linspace(-9.0, 0.0, size), jnp.ones((side, side)), jax.random.key(0)
  peak_exp = peak(over(lambda x, i: sum(jnp.exp(x - (16 * i + j) * 1e-3) for j in range(16))), x, 16 * size * passes)
  peak_flop = peak(lambda square: square @ square, square, 2 * side**3)
  peak_bits = peak(bits, key, size * passes)
  on = None if on_cpu else device
  seeds, T = 100, 100
  time_of = lambda task: min(
    timed(run) for run in [product(task, workflows.replace(), T, seeds, on)[0]] for _ in range(4)
  )
  kde, gaussian = time_of(tasks.kde("moons", 1000, 0.5)), time_of(tasks.gaussian(100, 1000))
  kernels, normals, flop = 500 * 1000, 100 * 101 / 2 + 100, 2 * 100**3
  name = device.device_kind
  for label, amount, limit, unit in (
    ("KDE n = 1000: kernel values at 500 test points", seeds * T * kernels / kde, peak_exp, "exp"),
    ("Gaussian dim 100: products of 100 x 100 matrices", seeds * T * flop / gaussian, peak_flop, "flop"),
    ("Gaussian dim 100: random numbers", seeds * T * normals / gaussian, peak_bits, "32-bit words"),
  ):
    yield f"| {name} | {label} | {amount / 1e9:.3g} | {limit / 1e9:.3g} G{unit}/s | {amount / limit:.0%} |"


def single_lines():
  """Costs that are promised: one billion samples, and T = 1000 of a KDE."""
  from collapse_jax import tasks, workflows

  accumulate = workflows.accumulate()
  law = lambda n: product(tasks.gaussian(10, n, draws="law"), accumulate, 100)[0]
  yield (
    f"- Exact law, dim 10, `accumulate`: num_samples = 1e9 costs {paired_ratio(law(1e9), law(100.0), 9):.2f} times "
    "num_samples = 100."
  )
  kde = {T: product(tasks.kde("moons", 1000, 0.5), accumulate, T, 20)[0] for T in (100, 1000)}
  ratio = paired_ratio(kde[1000], kde[100], 5)
  yield f"- KDE moons, n = 1000, h = 0.5, `accumulate`: T = 1000 costs {ratio:.2f} times T = 100."


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--pairs", type=int, default=5)
  parser.add_argument("--only", default="", help="run cases whose label contains this, and write nothing")
  parser.add_argument(
    "--tail", action="store_true", help="only exponents, promised lines and the roofline; write nothing"
  )
  arguments = parser.parse_args()
  only = arguments.only
  one_thread()
  import jax

  lines = [
    "# Benchmarks",
    "",
    f"`python -m benchmarks.run --pairs={arguments.pairs}` on {os.cpu_count()} CPU cores; "
    f"JAX {jax.__version__}, NumPy {np.__version__},",
    f"scikit-learn {version('scikit-learn')}. T = 100; times are per run: the product in a sweep of 100 seeds, the plain",
    "loop (NumPy, scikit-learn) in two processes. Medians over pairs, with the range of the ratio; memory is that of the",
    "compiled program for the seeds of one core; agreement is the largest |z| between the two, at small size.",
    "",
    "| case | product | plain loop | ratio | compilation | memory | agreement |"
    + (f" product on {accelerator().device_kind} |" if accelerator() else ""),
    "| --- | --- | --- | --- | --- | --- | --- |" + (" --- |" if accelerator() else ""),
  ]

  def add(line):
    lines.append(line)
    print(line, flush=True)

  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(2, mp_context=context, initializer=one_thread) as pool:
    for case in cases() if not arguments.tail else ():
      for name in WORKFLOWS:
        for line in compare(case, name, arguments.pairs, pool, only):
          add(line)
    if not arguments.tail and only in "discrete 100000 outcomes, n = 1000, replace, to collapse":
      add(to_collapse(min(arguments.pairs, 3), pool))
  add(
    "\nRun time without compilation grows with these powers (least squares, three sizes; for num_samples with rows):\n"
  )
  add("| case | T | num_samples | dim | seeds |\n| --- | --- | --- | --- | --- |")
  for case in cases():
    for name in WORKFLOWS:
      if only in f"{case.name} scaling, {name}":
        add(scaling(case, name))
  lines.append("")
  if only:
    return
  for line in single_lines():
    add(line)
  add("\nAchieved, `replace`, in 10^9 a second, against the measured peak of the same device:\n")
  add("| device | cell | achieved | peak | share |\n| --- | --- | --- | --- | --- |")
  for device in filter(None, (jax.devices("cpu")[0], accelerator())):
    for line in roofline(device):
      add(line)
  _, found, kept = PAGE.read_text().partition(KEPT) if PAGE.exists() else ("", "", "")
  if arguments.tail:
    return
  PAGE.write_text("\n".join([*lines, ""]) + (f"\n{found}{kept}" if found else ""))


if __name__ == "__main__":
  main()
