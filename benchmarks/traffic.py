"""A window model of rows in time against STAN's own package: CPU time of a training step and of a row that is written.

  pip install --no-deps stannetflow==0.0.1   # and PyTorch
  python -m benchmarks.traffic [--rounds=5] [--least_training=20] [--least_sampling=100]

Both in one process, one thread each, in turns. Same columns, window, batch of 512 rows and
components; as many hidden units a column as the package's two networks have together. "toy" is the package's architecture A on its
simulated set, two columns; "flows" its architecture B on 16 columns, whose convolutions the package computes and does not use. Ours
is timed as a sweep runs it, --seeds models side by side. Compilation is left out and printed. Ends with status 1 where the median
over rounds of a ratio is below what is asked for.
"""

import argparse
import functools
import importlib
import os
import sys
import time

from benchmarks.language_model import timed

BATCH, WINDOW, HOSTS, LENGTH = 512, 5, 64, 50
SETTINGS = {"toy": (2, 2, "A"), "flows": (16, 10, "B")}  # columns, components, architecture


def cpu(function, *arguments) -> float:
  return timed(functools.partial(function, *arguments), time.process_time)


def of_package(num_columns: int, arch: str):
  """(steps) -> trains, (rows) -> writes, of the package."""
  import torch

  synthesizers = importlib.import_module("stannetflow.synthesizers.stan")  # not declared: it is for this alone
  torch.set_num_threads(1)
  stan = synthesizers.STANSynthesizer(dim_in=num_columns, dim_window=WINDOW, arch_mode=arch)
  seen = torch.rand(BATCH, WINDOW + 1, num_columns)

  def train(steps):  # the body of its batch_fit
    for _ in range(steps):
      for column in stan.execute_order:
        stan.optimizers[column].zero_grad()
        loss = stan.models[column].loss(seen, seen[:, -1, column : column + 1], bin_type=True).mean()
        loss.backward()
        stan.optimizers[column].step()
        stan.models[column].batch_reset()

  def write(rows):
    for model in stan.models.values():
      model.eval()
    with torch.no_grad():
      stan.sample(rows)
    for model in stan.models.values():
      model.train()

  return train, write


def of_ours(num_columns: int, num_components: int, num_seeds: int):
  """(steps) -> trains, () -> writes HOSTS * LENGTH rows for each seed; what they return is waited for."""
  import jax
  import numpy as np

  from collapse_jax import data, store, tasks
  from collapse_jax.types import Context

  columns = tuple(data.traffic.Column(f"c{i}", bounded=True) for i in range(num_columns))
  draw = lambda key, num: jax.random.uniform(key, (num, LENGTH, num_columns))
  source = data.traffic.Series("uniform", columns, LENGTH, draw)
  hidden = 2 * num_columns * (WINDOW + 1)  # of the package's networks for shares and for densities
  make = lambda steps: tasks.ar_window(
    source,
    HOSTS,
    window=WINDOW,
    num_components=num_components,
    hidden=hidden,
    budget="steps",
    amount=steps,
    batch_size=BATCH,
  )
  keys = jax.random.split(jax.random.key(0), num_seeds)

  def fitted(key, steps):
    task = make(steps)
    problem, real = task.init(key)
    return task.fit(key, problem, Context(1, HOSTS, real, real))

  train = jax.jit(jax.vmap(fitted, in_axes=(0, None)))
  models = train(keys, 1)

  def written(key, model):
    task = make(1)
    problem, real = task.init(key)
    return store.flat(task.sample(key, problem, model, Context(1, HOSTS, real, real))[0])[0]

  write = jax.jit(jax.vmap(written))
  write(keys, models)
  return (lambda steps: jax.block_until_ready(train(keys, np.float32(steps)))), (
    lambda: jax.block_until_ready(write(keys, models))
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--settings", default="toy,flows")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--seeds", type=int, default=4)
  parser.add_argument("--least_training", type=float, default=5, help="the toy is bound by a step's own cost")
  parser.add_argument("--least_sampling", type=float, default=100)
  flags = parser.parse_args()
  os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
  import numpy as np

  missed = False
  for setting in flags.settings.split(","):
    num_columns, num_components, arch = SETTINGS[setting]
    begun = time.process_time()
    our_train, our_write = of_ours(num_columns, num_components, flags.seeds)
    our_train(2)
    compiled = time.process_time() - begun
    their_train, their_write = of_package(num_columns, arch)
    their_train(1)
    their_write(2)
    their_steps, our_steps, their_rows = (20, 100, 50) if setting == "toy" else (1, 8, 10)
    found = []
    for _ in range(flags.rounds):
      # a longer fit less a shorter one: what is left is steps alone
      step = (cpu(our_train, our_steps + 2) - cpu(our_train, 2)) / our_steps / flags.seeds
      row = cpu(our_write) / (flags.seeds * HOSTS * LENGTH)
      found.append(
        (
          cpu(their_train, their_steps) / their_steps,
          step,
          cpu(their_write, their_rows) / their_rows,
          row,
        )
      )
    theirs, ours, their_row, our_row = np.median(found, axis=0)
    ratios = np.median([(a / b, c / d) for a, b, c, d in found], axis=0)
    print(
      f"{setting}: a step of {BATCH} rows, {num_columns} columns: package {1e3 * theirs:.2f} ms, ours {1e3 * ours:.3f} ms "
      f"({ratios[0]:.0f} times); a row: {1e3 * their_row:.2f} ms, {1e6 * our_row:.2f} us ({ratios[1]:.0f} times); "
      f"compilation {compiled:.0f} s of CPU time",
      flush=True,
    )
    missed |= ratios[0] < flags.least_training or ratios[1] < flags.least_sampling
  sys.exit(int(missed))


if __name__ == "__main__":
  main()
