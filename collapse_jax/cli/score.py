"""Set a synthetic file beside a real one, without training anything: metrics, and what a perfect generator would have.

  collapse score test.csv synthetic.csv
  collapse score test.csv synthetic.parquet --train=train.csv --target=income
  collapse score test.jsonl written.jsonl

Takes tables (.csv, .parquet), text (.jsonl with `text`, or `messages`) and arrays (.npz). The real rows are best ones that the
generator has not seen; --train names those that it has, and adds how many of them it repeats. The null is the mean over samples
of the real law, of the same size: a value beside it is as good as can be.
"""

from pathlib import Path

from absl import flags

from collapse_jax.cli.parts import compare, flag_values
from collapse_jax.refused import Refused

__all__ = ["define", "main"]


def define() -> None:
  """Flags of this command."""
  flags.DEFINE_string("train", None, "Rows that the generator was fitted to.")
  flags.DEFINE_string("target", None, "Column of a table that is predicted from the others; default: the last.")
  flags.DEFINE_string("seed", "0", "Seed of what is chosen at random.")


def main(arguments: list[str]) -> None:
  """Prints a table."""
  if len(arguments) != 2:
    raise Refused(f"give two files, REAL and SYNTHETIC, got {len(arguments)}; --help has examples.")
  seed, flag = flag_values.integer("seed", 0), flag_values.FLAGS
  from collapse_jax import metrics
  from collapse_jax.pipelines import kinds

  real, sample = (kinds.read(Path(name)) for name in arguments)
  train = None
  if flag.train is not None:
    with flag_values.given_as("train"):
      train = kinds.read(Path(flag.train))
  found = metrics.score(real, sample, train=train, seed=seed, target=flag.target)
  print(compare.aligned([("metric", "value", "null"), *((name, *map(_text, pair)) for name, pair in found.items())]))


def _text(number: float) -> str:
  """A number in a table, "" where it is not known."""
  return "" if number != number else f"{number:.4g}"
