"""Ensembles of 8 generators of a table in one program beside 8 fits of the package `ctgan` one after the other.

  python -m benchmarks.tables [--cells=tvae,ctgan] [--threads=1|all] [--pairs=3]

Same table, columns as networks see them, networks, batch and steps; seconds of a step of one generator, without what is done once
(modes of columns, compilation). With --threads=1 they are CPU seconds, with --threads=all of the clock on the wall.
"""

import argparse
import os
import time

import jax
import numpy as np

import collapse_jax as cj
from benchmarks.generative import Cell, compare
from benchmarks.language_model import timed
from collapse_jax import tasks, transforms, workflows

ROWS, BATCH, MEMBERS, MODES = 2000, 500, 8, 5
SHORT, LONG = 20, 100  # steps; a step is what the second takes longer


def frame():
  """Seven numbers and three categories that depend on them."""
  import pandas

  random = np.random.default_rng(0)
  mixed = random.normal(size=(ROWS, 7)) @ random.normal(size=(7, 7)) + 3 * random.integers(0, 2, (ROWS, 1))
  columns = {f"x{i}": mixed[:, i] for i in range(7)}
  for i, num in enumerate((3, 5, 8)):
    ranks = np.argsort(np.argsort(mixed[:, i] + random.normal(size=ROWS)))
    columns[f"c{i}"] = [f"c{int(one)}" for one in (ranks / ROWS) ** 2 * num]
  return pandas.DataFrame(columns)


def ours(model: str, clock):
  """Training of `MEMBERS` generators side by side."""

  def make():
    runs = {}
    for steps in (SHORT, LONG):
      task = tasks.table(frame(), ROWS - 2, model, latent_dim=128, amount=steps, batch_size=BATCH, num_test=2)
      members = transforms.ensemble(task, MEMBERS)
      workflow = workflows.replace(num_emitted=MEMBERS)
      runs[steps] = jax.jit(lambda key, task=members, workflow=workflow: cj.run(key, task, workflow, 1)["finite"])
    for run in runs.values():
      jax.block_until_ready(run(jax.random.key(0)))

    def call():
      short, long = (
        timed(lambda run=run: jax.block_until_ready(run(jax.random.key(0))), clock) for run in runs.values()
      )
      return long - short

    return call, (LONG - SHORT) * MEMBERS

  return make


def theirs(model: str, clock):
  """A fit of the package, whose columns were looked at before."""

  def make():
    import ctgan
    import torch
    from ctgan.data_transformer import DataTransformer
    from ctgan.synthesizers import ctgan as adversary
    from ctgan.synthesizers import tvae as autoencoder

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    rows, discrete = frame(), ["c0", "c1", "c2"]
    known = DataTransformer(max_clusters=MODES, weight_threshold=0.0)
    known.fit(rows, discrete)
    encoded = known.transform(rows)

    class Known(DataTransformer):
      """One that was fitted."""

      def fit(self, *_):
        self.__dict__.update(known.__dict__)

      def transform(self, _):
        return encoded

    adversary.DataTransformer = autoencoder.DataTransformer = Known  # of this process
    make = ctgan.TVAE if model == "tvae" else ctgan.CTGAN
    epochs = {steps: steps * BATCH // ROWS for steps in (SHORT, LONG)}
    fit = lambda steps: make(epochs=epochs[steps], batch_size=BATCH, enable_gpu=False).fit(rows, discrete)
    fit(SHORT)
    return lambda: timed(lambda: fit(LONG), clock) - timed(lambda: fit(SHORT), clock), LONG - SHORT

  return make


WHAT = {
  "tvae": "TVAE, two layers of 128, batch 500: a step of a generator of 8",
  "ctgan": "CTGAN, two layers of 256, packs of 10, batch 500: the same",
}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--cells", default=",".join(WHAT), help="Comma list.")
  parser.add_argument("--threads", choices=("1", "all"), default="1", help="Of both.")
  parser.add_argument("--pairs", type=int, default=3, help="Turns of both.")
  options = parser.parse_args()
  if options.threads == "1":
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    os.environ["OMP_NUM_THREADS"] = "1"
  clock = time.process_time if options.threads == "1" else time.perf_counter
  cells = [Cell(WHAT[name], ours(name, clock), theirs(name, clock), 10) for name in options.cells.split(",")]
  compare(cells, options.pairs)


if __name__ == "__main__":
  main()
