"""Say how much real data must be kept: the smallest real share with which a metric stays within a tolerance.

  collapse share results/real_share
  collapse share results/real_share --tolerance=50% --metric=squared_error_of_mean
  collapse share runs/mine --tolerance=0.1 --horizon=5

The results need shares to compare: `collapse run real_share`, or `collapse loop --workflows='replace,mix(0.1),mix(0.3),mix(0.6)'`;
or name a CSV file with the columns workflow, seed, generation, metric, value.
"""

from absl import flags

from collapse_jax.cli import reading
from collapse_jax.cli.parts import flag_values

__all__ = ["define", "main"]


def define() -> None:
  """Flags of this command."""
  flags.DEFINE_string("metric", None, "Which metric; default: the first one of the results.")
  flags.DEFINE_string("tolerance", "0.2", "How much worse than in the first generation it may become: 0.05, or 5%.")
  flags.DEFINE_string("horizon", None, "Last generation that counts; default: all.")


def main(arguments: list[str]) -> None:
  """Prints a sentence for each cell."""
  tolerance, flag = reading.tolerance(), flag_values.FLAGS
  horizon = None if flag.horizon is None else flag_values.integer("horizon", 2)
  found = reading.measured(reading.only(arguments, "one directory with results, or a CSV file"))
  from collapse_jax import decisions

  answers = decisions.required_shares(found, tolerance, reading.metric(found), horizon=horizon)
  several = [name for name in answers[0][0] if len({str(cell[name]) for cell, _ in answers}) > 1]
  for cell, answer in answers:
    where = ", ".join(f"{name}={cell[name]}" for name in several)
    print(f"{where}: {answer}" if where else answer)
