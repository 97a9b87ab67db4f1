"""Deep generators beside the packages that people use for them, same networks, batches and steps, in CPU seconds of one thread.

  python -m benchmarks.generative [--cells=flow,flow_ot] [--pairs=5]

Each cell is a pair: seconds of a step of ours, of one seed of a vmapped sweep, and of theirs. Needs the package that it is held
against (`torchcfm`). Both run in turns in one process, with one thread each, so that what else the machine does falls on both.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

import collapse_jax as cj
from benchmarks.language_model import timed
from collapse_jax import tasks, workflows


class Cell(NamedTuple):
  """What is compared.

  Attributes:
    what: a step of it.
    ours, theirs: () -> call, which takes steps, and how many.
    goal: times that ours is to be faster.
  """

  what: str
  ours: Callable[[], tuple[Callable[[], object], int]]
  theirs: Callable[[], tuple[Callable[[], object], int]]
  goal: float


BATCH, SEEDS, ROWS = 256, 16, 2000


def flow(coupling: str):
  """Training of `tasks.flow` from scratch, 16 seeds: what a model of 1,000 steps takes longer than one of 200."""

  def make():
    runs = {}
    for steps in (200, 1000):
      task = tasks.flow(
        "eight_gaussians",
        ROWS,
        score="mlp",
        solver="flow_midpoint",
        num_steps=1,
        num_test=8,
        amount=steps,
        coupling=coupling,
      )
      one = lambda key, task=task: cj.run(key, task, workflows.replace(), 1)["train_loss"]
      runs[steps] = jax.jit(jax.vmap(one))
    keys = jax.random.split(jax.random.key(0), SEEDS)
    for run in runs.values():
      jax.block_until_ready(run(keys))

    def call():
      short, long = (
        timed(lambda run=run: jax.block_until_ready(run(keys)), time.process_time) for run in runs.values()
      )
      return long - short

    return call, 800 * SEEDS

  return make


def torchcfm(optimal_transport: bool):
  """The training step of torchcfm's own example in the plane."""

  def make():
    import torch
    from torchcfm import conditional_flow_matching as matching
    from torchcfm.models.models import MLP

    torch.set_num_threads(1)
    kind = (
      matching.ExactOptimalTransportConditionalFlowMatcher if optimal_transport else matching.ConditionalFlowMatcher
    )
    matcher, model = kind(sigma=0.0), MLP(dim=2, time_varying=True)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    angle = torch.randint(0, 8, (ROWS,)) * np.pi / 4
    rows = 5 * torch.stack([torch.cos(angle), torch.sin(angle)], dim=1) + 0.56 * torch.randn(ROWS, 2)

    def train(steps=100):
      for _ in range(steps):
        optimiser.zero_grad()
        x1 = rows[torch.randint(0, ROWS, (BATCH,))]
        t, x, u = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = torch.mean((model(torch.cat([x, t[:, None]], dim=-1)) - u) ** 2)
        loss.backward()
        optimiser.step()

    train(20)
    return lambda: timed(train, time.process_time), 100

  return make


CELLS = {
  "flow": Cell("flow matching, 3-64-64-64-2, batch 256: a step", flow("independent"), torchcfm(False), 5),
  "flow_ot": Cell("the same with optimal transport of the batch", flow("swaps"), torchcfm(True), 20),
}


def compare(cells: list[Cell], pairs: int) -> None:
  """Prints a table: both sides of each cell in turns."""
  print(
    "| step | ours, ms a model | theirs, ms | times as fast (least of the pairs) | goal |\n| --- | --- | --- | --- | --- |"
  )
  for cell in cells:
    (ours, our_steps), (theirs, their_steps) = cell.ours(), cell.theirs()
    seconds = np.array([(ours() / our_steps, theirs() / their_steps) for _ in range(pairs)])
    middle, ratio = 1e3 * np.median(seconds, axis=0), seconds[:, 1] / seconds[:, 0]
    times = f"{np.median(ratio):.1f} ({ratio.min():.1f})"
    print(f"| {cell.what} | {middle[0]:.3f} | {middle[1]:.2f} | {times} | {cell.goal:g} |", flush=True)


def asked(description: str | None, cells: Iterable[str], pairs: int) -> argparse.Namespace:
  """What the command line asks for, of which `cells` is a list; products are made to take one core each."""
  parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--cells", type=lambda text: text.split(","), default=list(cells), help="Comma list.")
  parser.add_argument("--pairs", type=int, default=pairs, help="Turns of both.")
  os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
  return parser.parse_args()


def main():
  options = asked(__doc__, CELLS, pairs=5)
  compare([CELLS[name] for name in options.cells], options.pairs)


if __name__ == "__main__":
  main()
