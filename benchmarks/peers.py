"""The product against what a strong engineer writes by hand in a day, cell by cell: same law, same machine, paired in one run.

  python -m benchmarks.peers --seeds=50 --pairs=3

NumPy and PyTorch batched over seeds, plain jax.vmap of the obvious code, and numba, which is in the extra `parity` as PyTorch is.
All know the algebra (pooled sums, a running density, one pseudo-inverse), all are in double precision but the two of JAX, and each
has a process with one thread, whose seconds of a core are counted, compilation apart. Each must agree in distribution with the
product, or nothing is printed of the cell.
"""

import argparse
import concurrent.futures
import functools
import importlib.util
import math
import multiprocessing
import os
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks.run import check_agreement, seconds

NUM_TEST = 500
NOISE = 0.05  # of moons


class Cell(NamedTuple):
  """A task at one size: `first` is dim, bandwidth or num_outcomes."""

  task: str
  workflow: str
  first: Any
  num_samples: int

  def __str__(self) -> str:
    name = {"gaussian": "dim", "linear_regression": "dim", "kde": "h", "discrete": "outcomes"}[self.task]
    return f"{self.task} {name} {self.first}, n = {self.num_samples}, {self.workflow}"


SIZES = (("gaussian", 10, 316), ("kde", 0.5, 316), ("linear_regression", 10, 316), ("discrete", 1000, 1000))
CELLS = tuple(Cell(task, workflow, first, n) for task, first, n in SIZES for workflow in ("replace", "accumulate"))


# --------------------------------------------------------------------------- NumPy and PyTorch, a leading axis of seeds
class Arrays(NamedTuple):
  """What the two name differently. Arrays are float64, and draws from one stream."""

  normal: Any  # (*shape)
  integers: Any  # (end, *shape)
  cholesky: Any
  log_det: Any
  pinv: Any
  multinomial: Any  # (num, p [seeds, k]) -> counts
  of: Any  # a NumPy array as one of these
  exp: Any
  log: Any


def with_numpy(seed: int) -> Arrays:
  rng = np.random.default_rng(seed)
  log_det = lambda x: np.linalg.slogdet(x)[1]
  multinomial = lambda num, p: rng.multinomial(num, p / p.sum(-1, keepdims=True)).astype(float)
  normal = lambda *shape: rng.standard_normal(shape)
  integers = lambda end, *shape: rng.integers(0, end, shape)
  linear = np.linalg
  return Arrays(normal, integers, linear.cholesky, log_det, linear.pinv, multinomial, np.asarray, np.exp, np.log)


def with_torch(seed: int) -> Arrays:
  import torch

  torch.set_num_threads(1)
  torch.manual_seed(seed)

  def multinomial(num, p):
    rows = torch.multinomial(p, num, replacement=True)
    return torch.zeros_like(p).scatter_add_(1, rows, torch.ones_like(rows, dtype=p.dtype))

  normal = lambda *shape: torch.randn(shape, dtype=torch.float64)
  integers = lambda end, *shape: torch.randint(end, shape)
  linear = torch.linalg
  return Arrays(
    normal, integers, linear.cholesky, torch.logdet, linear.pinv, multinomial, torch.as_tensor, torch.exp, torch.log
  )


def batched(xp: Arrays, cell: Cell, num_generations: int, seeds: int) -> dict[str, np.ndarray]:
  """Metrics [seeds, T]."""
  steps = {"gaussian": _gaussian, "kde": _kde, "linear_regression": _regression, "discrete": _discrete}[cell.task]
  found = list(steps(xp, cell.workflow == "accumulate", cell.first, cell.num_samples, num_generations, seeds))
  return {name: np.stack([np.asarray(one[name]) for one in found], axis=1) for name in found[0]}


def _gaussian(xp, pooled, dim, n, num_generations, seeds):
  rows, count, first, second = xp.normal(seeds, n, dim), 0, 0.0, 0.0
  for _ in range(num_generations):
    keep = 1.0 if pooled else 0.0
    count, first = n + keep * count, rows.sum(1) + keep * first
    second = rows.swapaxes(1, 2) @ rows + keep * second
    mean = first / count
    covariance = second / count - mean[:, :, None] * mean[:, None, :]
    yield {
      "squared_error_of_mean": (mean**2).sum(-1),
      "covariance_trace_ratio": covariance.diagonal(0, 1, 2).sum(-1) / dim,
      "covariance_log_det_ratio": xp.log_det(covariance),
    }
    rows = mean[:, None, :] + xp.normal(seeds, n, dim) @ xp.cholesky(covariance).swapaxes(1, 2)


def _moons(xp, num, seeds):
  return xp.of(moons(num))[None] + NOISE * xp.normal(seeds, num, 2)


def moons(num: int) -> np.ndarray:
  """Two interleaving half circles without noise."""
  angle, inner = np.linspace(0, np.pi, num // 2), np.linspace(0, np.pi, num - num // 2)
  return np.stack([np.append(np.cos(angle), 1 - np.cos(inner)), np.append(np.sin(angle), 0.5 - np.sin(inner))], axis=1)


def _kde(xp, pooled, bandwidth, n, num_generations, seeds):
  rows, test = _moons(xp, n, seeds), _moons(xp, NUM_TEST, seeds)
  of_test = (test**2).sum(-1)[:, :, None]
  stored = xp.normal(seeds, n * (num_generations + 1 if pooled else 1), 2)
  run, total = xp.of(np.arange(seeds)[:, None]), 0.0
  for t in range(num_generations):
    first = n * t if pooled else 0
    stored[:, first : first + n] = rows
    squared = of_test + (rows**2).sum(-1)[:, None, :] - 2 * test @ rows.swapaxes(1, 2)
    here = xp.exp(squared * (-0.5 / bandwidth**2)).sum(-1)
    total = here + total if pooled else here
    yield {"test_nll": -(xp.log(total / ((first + n) * 2 * math.pi * bandwidth**2))).mean(-1)}
    rows = stored[run, xp.integers(first + n, seeds, n)] + bandwidth * xp.normal(seeds, n, 2)


def _regression(xp, pooled, dim, n, num_generations, seeds):
  design, truth = xp.normal(seeds, n, dim), xp.normal(seeds, dim, 1)
  inverse, coefficients, labels = xp.pinv(design), truth, 0.0
  test = xp.normal(seeds, 1000, dim)
  for t in range(num_generations):
    new = design @ coefficients + xp.normal(seeds, n, 1)
    labels = new + labels if pooled else new
    coefficients = inverse @ labels / (t + 1 if pooled else 1)
    yield {"test_mse": ((test @ (coefficients - truth)) ** 2).mean((1, 2))}


def _discrete(xp, pooled, num_outcomes, n, num_generations, seeds):
  p = xp.of(np.full((seeds, num_outcomes), 1 / num_outcomes))
  total = 0.0
  for _ in range(num_generations):
    new = xp.multinomial(n, p)
    total = new + total if pooled else new
    p = total / total.sum(-1)[:, None]
    yield {
      "entropy": -(p * xp.log(p + (p == 0))).sum(-1),
      "heterozygosity": 1 - (p**2).sum(-1),
    }


# ------------------------------------------------------------------------------------------------------------ jax.vmap
def vmapped(cell: Cell, num_generations: int, seeds: int):
  """A compiled function of a seed: the obvious code for one run, scanned and vmapped."""
  import jax
  import jax.numpy as jnp

  pooled, n, first = cell.workflow == "accumulate", cell.num_samples, cell.first

  def gaussian(key):
    def step(state, key):
      rows, count, total, second = state
      keep = 1.0 if pooled else 0.0
      count, total, second = n + keep * count, rows.sum(0) + keep * total, rows.T @ rows + keep * second
      mean = total / count
      covariance = second / count - jnp.outer(mean, mean)
      metrics = mean @ mean, jnp.trace(covariance) / first, jnp.linalg.slogdet(covariance)[1]
      rows = mean + jax.random.normal(key, (n, first)) @ jnp.linalg.cholesky(covariance).T
      return (rows, count, total, second), metrics

    begin = jax.random.normal(key, (n, first)), 0.0, jnp.zeros(first), jnp.zeros((first, first))
    found = jax.lax.scan(step, begin, jax.random.split(jax.random.fold_in(key, 1), num_generations))[1]
    return dict(zip(("squared_error_of_mean", "covariance_trace_ratio", "covariance_log_det_ratio"), found))

  def kde(key):
    draw = lambda i, num: moons(num) + NOISE * jax.random.normal(jax.random.fold_in(key, i), (num, 2))
    test = draw(0, NUM_TEST)
    pool = jnp.zeros((num_generations + 1 if pooled else 1, n, 2)).at[0].set(draw(1, n))

    def step(state, at):
      t, key = at
      pool, total = state
      newest = pool[t if pooled else 0]
      here = jnp.exp(-0.5 / first**2 * ((test[:, None] - newest[None]) ** 2).sum(-1)).sum(-1)
      total = here + total if pooled else here
      size = n * (t + 1) if pooled else n
      row = jax.random.randint(key, (n,), 0, size)
      new = pool.reshape(-1, 2)[row] + first * jax.random.normal(jax.random.fold_in(key, 1), (n, 2))
      nll = -jnp.log(total / (size * 2 * math.pi * first**2)).mean()
      return (pool.at[t + 1 if pooled else 0].set(new), total), nll

    keys = jax.random.split(jax.random.fold_in(key, 2), num_generations)
    return {"test_nll": jax.lax.scan(step, (pool, jnp.zeros(NUM_TEST)), (jnp.arange(num_generations), keys))[1]}

  def linear_regression(key):
    draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape)
    design, truth, test = draw(0, n, first), draw(1, first), draw(2, 1000, first)
    inverse = jnp.linalg.pinv(design)

    def step(state, at):
      t, key = at
      coefficients, labels = state
      new = design @ coefficients + jax.random.normal(key, (n,))
      labels = new + labels if pooled else new
      coefficients = inverse @ labels / (t + 1 if pooled else 1)
      return (coefficients, labels), ((test @ (coefficients - truth)) ** 2).mean()

    keys = jax.random.split(jax.random.fold_in(key, 3), num_generations)
    return {"test_mse": jax.lax.scan(step, (truth, jnp.zeros(n)), (jnp.arange(num_generations), keys))[1]}

  def discrete(key):
    def step(state, key):
      p, total = state
      rows = jnp.searchsorted(jnp.cumsum(p), jax.random.uniform(key, (n,)))
      new = jnp.zeros(first).at[rows].add(1.0)
      total = new + total if pooled else new
      p = total / total.sum()
      return (p, total), (-jnp.sum(jax.scipy.special.xlogy(p, p)), 1 - p @ p)

    begin = jnp.full(first, 1 / first), jnp.zeros(first)
    return dict(
      zip(("entropy", "heterozygosity"), jax.lax.scan(step, begin, jax.random.split(key, num_generations))[1])
    )

  one = {"gaussian": gaussian, "kde": kde, "linear_regression": linear_regression, "discrete": discrete}[cell.task]
  run = jax.jit(lambda seed: jax.vmap(one)(jax.random.split(jax.random.key(seed), seeds)))
  return lambda seed: jax.tree.map(np.asarray, run(seed))


# --------------------------------------------------------------------------------------------------------------- numba
def with_numba(cell: Cell, num_generations: int, seeds: int):
  """A compiled function of a seed: loops over seeds and rows."""
  import numba

  jit = functools.partial(numba.njit, fastmath=True)
  pooled, n, size = cell.workflow == "accumulate", cell.num_samples, cell.first

  @jit
  def gaussian(rng):
    found = np.empty((3, seeds, num_generations))
    for s in range(seeds):
      rows, count = rng.standard_normal((n, size)), 0.0
      first, second = np.zeros(size), np.zeros((size, size))
      for t in range(num_generations):
        keep = 1.0 if pooled else 0.0
        count, first = n + keep * count, rows.sum(0) + keep * first
        second = np.dot(rows.T, rows) + keep * second
        mean = first / count
        covariance = second / count - np.outer(mean, mean)
        root = np.linalg.cholesky(covariance)
        found[0, s, t] = (mean**2).sum()
        found[1, s, t] = np.trace(covariance) / size
        found[2, s, t] = 2 * np.log(np.diag(root)).sum()
        rows = mean + np.dot(rng.standard_normal((n, size)), root.T)
    return found

  grid, test_grid = moons(n), moons(NUM_TEST)

  @jit
  def kde(rng):
    found = np.empty((1, seeds, num_generations))
    pool = np.empty((num_generations + 1, n, 2))
    for s in range(seeds):
      pool[0] = grid + NOISE * rng.standard_normal((n, 2))
      test = test_grid + NOISE * rng.standard_normal((NUM_TEST, 2))
      total = np.zeros(NUM_TEST)
      for t in range(num_generations):
        nll, slots = 0.0, t + 1 if pooled else 1
        newest = pool[slots - 1]
        for i in range(NUM_TEST):
          here = 0.0
          for j in range(n):
            here += np.exp(-0.5 / size**2 * ((test[i, 0] - newest[j, 0]) ** 2 + (test[i, 1] - newest[j, 1]) ** 2))
          total[i] = here + total[i] if pooled else here
          nll -= np.log(total[i] / (slots * n * 2 * np.pi * size**2))
        found[0, s, t] = nll / NUM_TEST
        new = np.empty((n, 2))
        for j in range(n):
          row = int(rng.random() * slots * n)
          for k in range(2):
            new[j, k] = pool[row // n, row % n, k] + size * rng.standard_normal()
        pool[slots if pooled else 0] = new
    return found

  @jit
  def linear_regression(rng):
    found = np.empty((1, seeds, num_generations))
    for s in range(seeds):
      design, test = rng.standard_normal((n, size)), rng.standard_normal((1000, size))
      truth, inverse, labels = rng.standard_normal(size), np.linalg.pinv(design), np.zeros(n)
      coefficients = truth
      for t in range(num_generations):
        new = np.dot(design, coefficients) + rng.standard_normal(n)
        labels = new + labels if pooled else new
        coefficients = np.dot(inverse, labels) / (t + 1 if pooled else 1)
        found[0, s, t] = (np.dot(test, coefficients - truth) ** 2).mean()
    return found

  @jit
  def discrete(rng):
    found = np.empty((2, seeds, num_generations))
    for s in range(seeds):
      p, total = np.full(size, 1 / size), np.zeros(size)
      for t in range(num_generations):
        below = np.cumsum(p)
        new = np.zeros(size)
        for _ in range(n):
          new[min(np.searchsorted(below, rng.random()), size - 1)] += 1
        total = new + total if pooled else new
        p = total / total.sum()
        entropy = 0.0
        for one in p:
          entropy -= one * np.log(one) if one > 0 else 0.0
        found[0, s, t], found[1, s, t] = entropy, 1 - (p**2).sum()
    return found

  one = {"gaussian": gaussian, "kde": kde, "linear_regression": linear_regression, "discrete": discrete}[cell.task]
  names = {
    "gaussian": ("squared_error_of_mean", "covariance_trace_ratio", "covariance_log_det_ratio"),
    "kde": ("test_nll",),
    "linear_regression": ("test_mse",),
    "discrete": ("entropy", "heterozygosity"),
  }[cell.task]
  return lambda seed: dict(zip(names, one(np.random.default_rng(seed))))


# -------------------------------------------------------------------------------------------------------------- timing
def product(cell: Cell, num_generations: int, seeds: int):
  """A compiled function of a seed."""
  import jax

  import collapse_jax as cj

  make = {
    "gaussian": lambda: cj.tasks.gaussian(cell.first, cell.num_samples),
    "kde": lambda: cj.tasks.kde("moons", cell.num_samples, cell.first),
    "linear_regression": lambda: cj.tasks.linear_regression(cell.first, cell.num_samples),
    "discrete": lambda: cj.tasks.discrete(cell.first, cell.num_samples),
  }[cell.task]
  task, workflow = make(), cj.workflows.parse(cell.workflow)()
  one = lambda key: cj.run(key, task, workflow, num_generations)
  run = jax.jit(lambda seed: jax.vmap(one)(jax.random.split(jax.random.key(seed), seeds)))
  return lambda seed: jax.tree.map(np.asarray, run(seed))


def _batched_by(arrays, cell: Cell, num_generations: int, seeds: int):
  some = 10  # seeds at a time: what fits the caches

  def run(seed):
    parts = [
      batched(arrays(1000 * seed + i), cell, num_generations, min(some, seeds - i)) for i in range(0, seeds, some)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

  return run


PEERS = {
  "product": product,
  "NumPy, batched": functools.partial(_batched_by, with_numpy),
  "PyTorch, batched": functools.partial(_batched_by, with_torch),
  "jax.vmap": vmapped,
  "numba": with_numba,
}
NEEDS = {"PyTorch, batched": "torch", "numba": "numba"}


def one_thread() -> None:
  for name in ("OPENBLAS", "OMP", "MKL"):
    os.environ[f"{name}_NUM_THREADS"] = "1"
  os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"


@functools.cache
def _prepared(peer: str, cell: Cell, num_generations: int, seeds: int):
  """(function of a seed, seconds of a core of its first call beyond those of another)."""
  run = PEERS[peer](cell, num_generations, seeds)
  begun = time.process_time()
  run(0)
  between = time.process_time()
  run(1)
  return run, max(0.0, (between - begun) - (time.process_time() - between))


def timed(peer: str, seed: int, cell: Cell, num_generations: int, seeds: int):
  """(metrics, seconds of a core a run, seconds of compiling), in a process of the peer's own."""
  run, compiling = _prepared(peer, cell, num_generations, seeds)
  begun = time.process_time()
  found = run(seed)
  return found, (time.process_time() - begun) / seeds, compiling


def compare(cell: Cell, num_generations: int, seeds: int, pairs: int, pools: dict[str, Any]) -> list[str]:
  """Lines of the table, one a peer. Ends the program where a peer computes something else."""
  size = cell, num_generations, seeds
  found = [
    {peer: pool.submit(timed, peer, seed, *size).result() for peer, pool in pools.items()}
    for seed in range(2, 2 + pairs)
  ]
  metrics = {
    peer: {name: np.concatenate([one[peer][0][name] for one in found]) for name in found[0][peer][0]} for peer in pools
  }
  lines = []
  for peer in pools:
    each = np.array([one[peer][1] for one in found])
    ratio = each / np.array([one["product"][1] for one in found])
    worst = 0.0 if peer == "product" else check_agreement(metrics["product"], metrics[peer])
    beside = "" if peer == "product" else f"{np.median(ratio):.3g} ({ratio.min():.3g} to {ratio.max():.3g})"
    compiling = f"{found[0][peer][2]:.1f} s"
    lines.append(f"| {cell} | {peer} | {seconds(np.median(each))} | {beside} | {compiling} | {worst:.1f} |")
  return lines


def main() -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--only", default="", help="Cells whose name holds this.")
  parser.add_argument("--seeds", type=int, default=50)
  parser.add_argument("--num_generations", type=int, default=100)
  parser.add_argument("--pairs", type=int, default=3)
  arguments = parser.parse_args()
  there = [peer for peer in PEERS if peer not in NEEDS or importlib.util.find_spec(NEEDS[peer])]
  one_thread()  # those that are spawned take over the environment
  pool = lambda: concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
  pools = {peer: pool() for peer in there}
  print("| cell | by | a run | times the product | compiling | agreement |\n| --- | --- | --- | --- | --- | --- |")
  try:
    for cell in CELLS:
      if arguments.only in str(cell):
        lines = compare(cell, arguments.num_generations, arguments.seeds, arguments.pairs, pools)
        print("\n".join(lines), flush=True)
  finally:
    for one in pools.values():
      one.shutdown()


if __name__ == "__main__":
  main()
