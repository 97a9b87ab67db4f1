"""A discrete distribution under self-consuming training (Kazdan et al. 2410.16713, notebook 13).

  python -m experiments.discrete

Expected: under `replace` entropy falls like log(2n / t) until one outcome is left, after about 2 num_samples generations;
under `accumulate` it stays. `collapse_generation` is exact also where not every generation is recorded; runs that have not
ended at --num_generations are marked in `censored`.
"""

from absl import flags

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="10,100,1000", num_generations=12_000, workflows="replace", record_every=10)
  flags.DEFINE_string("num_outcomes", "10,100,1000,10000,100000", "Comma list: outcomes of the uniform truth.")


def simulate(workflows, num_outcomes, num_samples, temperatures=(1.0,), **options):
  """The sweep behind this binary; None after a dry run."""

  def task(num_outcomes, num_samples, temperature):
    from collapse_jax import tasks

    return tasks.discrete(num_outcomes, num_samples, temperature=temperature)

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
  } | flag_values.common_options()
  return options | {"workflows": flag_values.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/discrete", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
