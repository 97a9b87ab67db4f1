"""Ensembles of 8 generators of a table in one program beside fits of the package `ctgan`, one after the other.

  python -m benchmarks.tables [--cells=tvae,ctgan] [--pairs=3]

Same table, columns as networks see them, networks, batch and steps, both with one thread, in turns in one process, in CPU seconds a
generator: of a step, which is what 100 steps take longer than 20, and of a generator of 100 steps from a table to as many rows.
Compilation is apart. Needs the package (extra `ctgan`).
"""

import os
import time

import jax
import numpy as np

import collapse_jax as cj
from benchmarks.generative import asked
from benchmarks.language_model import timed
from collapse_jax import tasks, transforms, workflows
from collapse_jax.tasks._table_networks import NUM_MODES

ROWS, BATCH, MEMBERS = 2000, 500, 8
SHORT, LONG = 20, 100  # steps
WHAT = {
  "tvae": "TVAE, two layers of 128, 128 normal coordinates",
  "ctgan": "CTGAN, two layers of 256, packs of 10",
}


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


def ours(model: str):
  """steps -> an ensemble that is trained and emits, compiled; and seconds of compilation."""
  rows = frame()

  def run(key, steps):
    task = tasks.table(rows, ROWS - 2, model, latent_dim=128, amount=steps, batch_size=BATCH, num_test=2)
    emitted = workflows.replace(num_emitted=MEMBERS * (ROWS - 2))
    return cj.run(key, transforms.ensemble(task, MEMBERS), emitted, 1)["finite"]

  begun = time.process_time()
  compiled = jax.jit(run).lower(jax.random.key(0), LONG).compile()
  return lambda steps: jax.block_until_ready(compiled(jax.random.key(0), steps)), time.process_time() - begun


def theirs(model: str):
  """Of one generator of the package: a look at the columns, which is kept; and steps -> one that is trained and emits."""
  import ctgan
  import torch
  from ctgan.data_transformer import DataTransformer
  from ctgan.synthesizers import ctgan as adversary
  from ctgan.synthesizers import tvae as autoencoder

  torch.set_num_threads(1)
  rows, discrete = frame(), ["c0", "c1", "c2"]
  known = DataTransformer(max_clusters=NUM_MODES, weight_threshold=0.0)
  encoded = []

  def look():
    known.fit(rows, discrete)
    encoded[:] = [known.transform(rows)]

  class Known(DataTransformer):
    """One that was fitted."""

    def fit(self, *_):
      self.__dict__.update(known.__dict__)

    def transform(self, _):
      return encoded[0]

  adversary.DataTransformer = autoencoder.DataTransformer = Known  # of this process
  make = {"tvae": ctgan.TVAE, "ctgan": ctgan.CTGAN}[model]

  def run(steps):
    one = make(epochs=steps * BATCH // ROWS, batch_size=BATCH, enable_gpu=False)
    one.fit(rows, discrete)
    one.sample(ROWS)

  return look, run


def pair(run, look, their_run):
  """[2, 2] seconds of a generator: a step and a whole one, ours and theirs."""
  short, long = (timed(lambda steps=steps: run(steps), time.process_time) / MEMBERS for steps in (SHORT, LONG))
  modes = timed(look, time.process_time)
  their_short, their_long = (timed(lambda steps=steps: their_run(steps), time.process_time) for steps in (SHORT, LONG))
  steps = LONG - SHORT
  return [[(long - short) / steps, (their_long - their_short) / steps], [long, modes + their_long]]


def compare(model: str, pairs: int) -> None:
  """Rows of a table: medians, and the ratio with the least and the largest of the pairs."""
  (run, compiling), (look, their_run) = ours(model), theirs(model)
  run(SHORT)
  look()
  their_run(SHORT)
  seconds = np.array([pair(run, look, their_run) for _ in range(pairs)])  # [pairs, step and whole, ours and theirs]
  middle, ratio = 1e3 * np.median(seconds, axis=0), seconds[:, :, 1] / seconds[:, :, 0]
  for i, what in enumerate(("a step", f"a generator of {LONG} steps")):
    times = f"{np.median(ratio[:, i]):.1f} ({ratio[:, i].min():.1f} to {ratio[:, i].max():.1f})"
    print(
      f"| {WHAT[model]}: {what} | {middle[i, 0]:.3g} ms | {middle[i, 1]:.3g} ms | {times} | {compiling:.1f} s |",
      flush=True,
    )


def main():
  options = asked(__doc__, WHAT, pairs=3)
  os.environ.setdefault("OMP_NUM_THREADS", "1")
  print(
    f"| batch {BATCH}, {ROWS} rows | product | ctgan | ratio | compilation of {MEMBERS} |\n| --- | --- | --- | --- | --- |"
  )
  for model in options.cells:
    compare(model, options.pairs)


if __name__ == "__main__":
  main()
