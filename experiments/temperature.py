"""Heat death (Marchi et al. 2404.02325): a discrete model sampled at a temperature, held by a share of real data.

  python -m experiments.temperature

A minute on 2 cores. Expected: below the frontier, temperature = synthetic share, the model leaves the uniform truth for few
outcomes however long it is held; above it stays near. Share 0 is `replace`: anything but temperature 1 ends in one outcome or
in none preferred, and temperature 1 in drift.
"""

from absl import flags

from experiments import common, real_share


def define():
  """Flags of this binary."""
  common.define_common(num_samples="400", num_generations=100, num_seeds=10, workflows=None, temperatures=False)
  common.define_compare()
  flags.DEFINE_string("temperatures", "0.2,0.4,0.6,0.7,0.8,0.9,1,1.2,1.5", "Comma list: samples follow p^(1/temperature).")
  flags.DEFINE_string("real_fractions", "0.1,0.2,0.4,0.6,0.8", "Comma list: share of real rows in training; 0: none.")
  flags.DEFINE_string("num_outcomes", "10", "Comma list: outcomes of the uniform truth.")
  flags.DEFINE_boolean("fresh", True, "Draw the real rows anew each generation.")


def simulate(temperatures, real_fractions, num_outcomes, num_samples, fresh=True, compare=True, **options):
  """The sweep behind this binary; None after a dry run."""
  def task(num_outcomes, num_samples, temperature):
    from collapse_jax import tasks
    return tasks.discrete(num_outcomes, num_samples, temperature=temperature)
  axes = {"num_outcomes": list(num_outcomes), "num_samples": list(num_samples), "temperature": list(temperatures),
          "real_fraction": list(real_fractions)}
  name = "mix(fresh=True)" if fresh else "mix"
  results = common.simulate(task, {name: real_share.mixing(fresh)}, axes, static_axes=("real_fraction",),
                            primary_metric="total_variation", **options)
  return common.related(results, "temperature", "temperature", compare)


def read():
  """Options of `simulate`, from validated flags."""
  options = {"temperatures": common.positives("temperatures"), "real_fractions": sorted(common.shares("real_fractions")),
             "num_outcomes": common.integers("num_outcomes", 2), "num_samples": common.integers("num_samples", 2),
             "fresh": common.FLAGS.fresh}
  if options["fresh"] and any(k > 4 * n for k in options["num_outcomes"] for n in options["num_samples"]):
    raise common.UsageError("--fresh needs --num_outcomes of at most 4 * --num_samples; use --nofresh.")
  return options | common.related_options()


def main():
  common.simulate_and_write("results/temperature", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
