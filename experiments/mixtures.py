"""Mixtures of real and synthetic data: total variation (Fu et al. 2402.11778) and best weights (2502.18049), for a Gaussian.

  python -m experiments.mixtures
  python -m experiments.mixtures --fresh --real_fractions=0.5 --real_weights=0.2,0.4,0.5,0.618,0.7,0.8,0.9,1

Half a minute on 2 cores. Expected: with a fixed real batch the error rises with the number of synthetic rows, peaks (at 4.6 a
real row in generation 10), and falls; with fresh real rows it falls throughout, and for a given ratio k of real to synthetic
rows it is least at the weight (sqrt(k^2 + 4k) - k) / 2 of the real ones: the golden ratio at k = 1.
"""

from absl import flags

from experiments import common


def define():
  """Flags of this binary."""
  common.define_common(num_samples="100", num_generations=10, num_seeds=2000, workflows=None, temperatures=False)
  common.define_compare()
  flags.DEFINE_string("real_fractions", "0.01,0.02,0.05,0.1,0.15,0.2,0.3,0.5,0.7,1", "Comma list: share of real rows.")
  flags.DEFINE_string("real_weights", "0", "Comma list: weight of all real rows together; 0: every row counts alike.")
  flags.DEFINE_boolean("fresh", False, "Draw the real rows anew each generation.")


def simulate(real_fractions, real_weights, num_samples, fresh=False, compare=True, **options):
  """The sweep behind this binary; None after a dry run."""
  def task(num_samples):
    from collapse_jax import tasks
    return tasks.gaussian(1, num_samples, distances=True)

  def workflow(real_fraction, real_weight):
    from collapse_jax import workflows
    return workflows.mix(real_fraction, fresh=fresh, real_weight=real_weight or None)
  axes = {"num_samples": list(num_samples), "real_weight": list(real_weights), "real_fraction": list(real_fractions)}
  results = common.simulate(task, {"mix(fresh=True)" if fresh else "mix": workflow}, axes, static_axes=("real_weight",),
                            primary_metric="total_variation", **options)
  return common.related(results, "mixtures", "mixing", compare, fresh=int(fresh))


def read():
  """Options of `simulate`, from validated flags."""
  return {"real_fractions": sorted(common.shares("real_fractions", zero=False)), "real_weights": common.shares("real_weights"),
          "num_samples": common.integers("num_samples", 2), "fresh": common.FLAGS.fresh} | common.related_options()


def main():
  common.simulate_and_write("results/mixtures", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
