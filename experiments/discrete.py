"""A discrete distribution under self-consuming training (Kazdan et al. 2410.16713, notebook 13).

  python -m experiments.discrete

Expected: under `replace` entropy falls like log(2n / t) until one outcome is left, after about 2 num_samples generations;
under `accumulate` it stays. `collapse_generation` is exact also where not every generation is recorded; runs that have not
ended at --num_generations are marked in `censored`. Under `replace` counts of the outcomes that survive are drawn: with
--num_samples=100000 --num_generations=1200000 --record_every=5000 a run to its end takes about a second.
"""

from absl import flags

from collapse_jax.vocabulary import DRAWS

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="10,100,1000", num_generations=12_000, workflows="replace", record_every=10)
  flags.DEFINE_string("num_outcomes", "10,100,1000,10000,100000", "Comma list: outcomes of the uniform truth.")
  flags.DEFINE_string("draws", "auto", "law, rows, or auto: counts of outcomes where only the last batch is fitted to.")


def simulate(workflows, num_outcomes, num_samples, temperatures=(1.0,), draws="auto", **options):
  """The sweep behind this binary; None after a dry run."""

  def task(num_outcomes, num_samples, temperature):
    from collapse_jax import tasks

    return tasks.discrete(num_outcomes, num_samples, temperature=temperature, draws=draws)

  axes = {"num_outcomes": list(num_outcomes), "num_samples": list(num_samples), "temperature": list(temperatures)}
  results = common.simulate(
    task, workflows, axes, primary_metric="entropy_ratio", static_axes=("temperature",), **options
  )
  if results is not None:
    results.attrs["task"] = "discrete"
  return results


def read():
  """Options of `simulate`, from validated flags."""
  options = {
    "num_outcomes": flag_values.integers("num_outcomes", 2),
    "num_samples": flag_values.integers("num_samples", 2),
    "temperatures": flag_values.positives("temperatures"),
    "draws": flag_values.choice("draws", DRAWS),
  } | flag_values.common_options()
  return options | {"workflows": flag_values.check_workflows(options["draws"] == "law")}


def main():
  common.simulate_and_write("results/discrete", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
