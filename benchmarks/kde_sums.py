"""Sums of kernels at the bandwidths of the paper: whole runs of the product, beside runs whose sums are two plain passes.

  taskset -c 0 python -m benchmarks.kde_sums --datasets=blobs,circles,moons,swiss_roll

Both compute the same thing, which is checked: negative log-likelihoods within 1e-5 of each other in each generation. Microseconds
of a core, a run and generation, sampling included; the best of some repetitions, in turn.
"""

import argparse
from unittest import mock

from benchmarks.decoding import in_turns

BANDWIDTHS = (0.01, 0.0316, 0.1, 0.316, 1.0, 3.16, 10.0, 31.6, 100.0)


def two_passes(points, rows, row_weight, bandwidth, kernel="gaussian"):
  """`log_kernel_sum` as one would write it: the nearest row of each point, then kernels relative to that one's."""
  import jax
  import jax.numpy as jnp

  assert row_weight is None and kernel == "gaussian"
  axes = [points[:, k] for k in range(points.shape[1])]
  squared = lambda row: sum((axis - row[k]) ** 2 for k, axis in enumerate(axes))
  slope = -0.5 / bandwidth**2
  nearest = lambda so_far, row: (jnp.minimum(so_far, squared(row)), None)
  offset = jax.lax.scan(nearest, jnp.full_like(axes[0], jnp.inf), rows, unroll=16)[0]
  add = lambda so_far, row: (so_far + jnp.exp(slope * (squared(row) - offset)), None)
  return jnp.log(jax.lax.scan(add, jnp.zeros_like(axes[0]), rows, unroll=16)[0]) + slope * offset


def compiled(dataset: str, num_samples: int, bandwidth: float, num_generations: int):
  """The negative log-likelihoods [seeds, T] of keys [seeds]."""
  import jax

  from collapse_jax import run, tasks, workflows

  task = tasks.kde(dataset, num_samples, bandwidth)
  return jax.jit(jax.vmap(lambda key: run(key, task, workflows.replace(), num_generations)["test_nll"]))


def compare(dataset: str, num_samples: int, bandwidth: float, num_generations: int, num_seeds: int, repeats: int):
  """Microseconds a run and generation: of two passes, and of the product."""
  import jax
  import numpy as np

  from collapse_jax.tasks import _kde

  keys = jax.random.split(jax.random.key(0), num_seeds)
  arguments = (dataset, num_samples, bandwidth, num_generations)
  with mock.patch.object(_kde, "log_kernel_sum", two_passes):
    plain = compiled(*arguments)
    expected = np.asarray(plain(keys))
  product = compiled(*arguments)
  np.testing.assert_allclose(product(keys), expected, rtol=1e-5, atol=1e-5)
  return 1e6 * in_turns(repeats, lambda: plain(keys), lambda: product(keys)) / num_seeds / num_generations


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--datasets", default="blobs,circles,moons,swiss_roll")
  parser.add_argument("--num_samples", type=int, default=1000)
  parser.add_argument("--num_generations", type=int, default=60)
  parser.add_argument("--num_seeds", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=3)
  arguments = parser.parse_args()
  print("| data | " + " | ".join(f"h = {h:g}" for h in BANDWIDTHS) + " | together |")
  print("| --- " * (len(BANDWIDTHS) + 2) + "|")
  for dataset in arguments.datasets.split(","):
    size = arguments.num_generations, arguments.num_seeds, arguments.repeats
    rows = list(zip(*[compare(dataset, arguments.num_samples, h, *size) for h in BANDWIDTHS]))
    for name, row in zip(("two passes", "product"), rows):
      print(f"| {dataset}, {name} | " + " | ".join(f"{x:.0f}" for x in row) + f" | {sum(row):.0f} |")
    print(f"| {dataset}, ratio |" + " |" * len(BANDWIDTHS) + f" {sum(rows[0]) / sum(rows[1]):.1f} |", flush=True)


if __name__ == "__main__":
  main()
