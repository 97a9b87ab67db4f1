"""Mixtures of real and synthetic data: total variation (Fu et al. 2402.11778) and best weights (2502.18049).

  python -m experiments.mixtures
  python -m experiments.mixtures --task=kde --num_samples=100 --num_seeds=100
  python -m experiments.mixtures --fresh --real_fractions=0.1,0.2,0.3,0.5,0.7 --real_weights=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1

Half a minute on 2 cores. Expected: with a fixed real batch the error rises with the number of synthetic rows, peaks (at 4.6 a
real row in generation 10), and falls; with fresh real rows it falls throughout, and for a given ratio k of real to synthetic
rows it is least at the weight (sqrt(k^2 + 4k) - k) / 2 of the real ones: the golden ratio at k = 1.
"""

from absl import flags

from collapse_jax.refused import Refused

from . import common, flag_values

TASKS = ("gaussian", "kde", "discrete")


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="100", num_generations=10, num_seeds=2000, workflows=None, temperatures=False)
  flag_values.define_compare()
  flags.DEFINE_string(
    "task", "gaussian", "gaussian: N(0, 1); kde: N(0, I) in two dimensions; discrete: uniform outcomes."
  )
  flags.DEFINE_string("real_fractions", "0.01,0.02,0.05,0.1,0.15,0.2,0.3,0.5,0.7,1", "Comma list: share of real rows.")
  flags.DEFINE_string("real_weights", "0", "Comma list: weight of all real rows together; 0: every row counts alike.")
  flags.DEFINE_boolean("fresh", False, "Draw the real rows anew each generation.")
  flags.DEFINE_string("bandwidth", "0.4", "kde: of the kernels.")
  flags.DEFINE_string("num_outcomes", "10", "discrete: of the truth.")


def simulate(
  real_fractions,
  real_weights,
  num_samples,
  task="gaussian",
  fresh=False,
  bandwidth=0.4,
  num_outcomes=10,
  compare=True,
  **options,
):
  """The sweep behind this binary; None after a dry run."""

  def make(num_samples):
    from collapse_jax import tasks

    if task == "kde":
      return tasks.kde("normal", num_samples, bandwidth, distances=True)
    return (
      tasks.gaussian(1, num_samples, distances=True)
      if task == "gaussian"
      else tasks.discrete(num_outcomes, num_samples)
    )

  def workflow(real_fraction, real_weight):
    from collapse_jax import workflows

    return workflows.mix(real_fraction, fresh=fresh, real_weight=real_weight if weighted else None)

  weighted = 0.0 not in real_weights
  axes = {"num_samples": list(num_samples), "real_weight": list(real_weights), "real_fraction": list(real_fractions)}
  results = common.simulate(
    make, {"mix(fresh=True)" if fresh else "mix": workflow}, axes, primary_metric="total_variation", **options
  )
  return common.related(results, "mixtures", compare, fresh=int(fresh), model=task)


def read():
  """Options of `simulate`, from validated flags."""
  options = {
    "task": flag_values.choice("task", TASKS),
    "real_fractions": sorted(flag_values.shares("real_fractions", zero=False)),
    "real_weights": flag_values.shares("real_weights"),
    "num_samples": flag_values.integers("num_samples", 2),
    "fresh": flag_values.FLAGS.fresh,
    "bandwidth": flag_values.positive("bandwidth"),
    "num_outcomes": flag_values.integer("num_outcomes", 2),
  }
  if 0.0 in options["real_weights"] and len(options["real_weights"]) > 1:
    raise Refused("--real_weights=0, every row counts alike, goes alone.")
  if options["fresh"] and options["task"] == "discrete" and options["num_outcomes"] > 4 * min(options["num_samples"]):
    raise Refused("--fresh needs --num_outcomes of at most 4 * --num_samples; use --nofresh.")
  return options | flag_values.related_options()


def main():
  common.simulate_and_write("results/mixtures", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
