"""Ensembles of generators (van Breugel et al. 2305.09235): classifiers trained on synthetic rows, tested on real ones.

  python -m experiments.ensembles

A minute on 2 cores. Every member emits as many rows as there are real ones, and has its own classifier; probabilities are
averaged. Expected: one generator loses to real rows, more of them come near (area under the curve) or pass them (calibration:
cross entropy and Brier score), and they last longer over generations.
"""

from absl import flags

from . import common

DATASETS, GENERATORS = ("moons", "circles", "breast_cancer"), ("gaussian_mixture", "kde")


def define():
  """Flags of this binary."""
  common.define_common(num_samples="200", num_generations=4, num_seeds=10, workflows=None, temperatures=False)
  common.define_compare()
  flags.DEFINE_string("datasets", "moons,circles,breast_cancer", f"Comma list among {', '.join(DATASETS)}.")
  flags.DEFINE_string("generators", "gaussian_mixture,kde", f"Comma list among {', '.join(GENERATORS)}.")
  flags.DEFINE_string("num_members", "1,5,20", "Comma list: generators, each with its own sample; 1: no ensemble.")
  flags.DEFINE_string(
    "resample_real", "none", "none, or bootstrap: each member is fitted to rows drawn with replacement."
  )


def simulate(datasets, generators, num_members, num_samples, resample_real="none", compare=True, **options):
  """The sweep behind this binary; None after a dry run."""

  def task(dataset, generator, num_members, num_samples):
    from collapse_jax import tasks, transforms

    one = tasks.labelled(dataset, num_samples, generator)
    if num_members > 1:
      one = transforms.ensemble(one, num_members, resample_real)
    return transforms.train_on_synthetic(one, num_members)

  def workflow(num_members, num_samples):
    from collapse_jax import workflows

    return workflows.replace(num_emitted=num_members * num_samples)

  axes = {
    "dataset": list(datasets),
    "generator": list(generators),
    "num_members": list(num_members),
    "num_samples": list(num_samples),
  }
  results = common.simulate(task, {"replace": workflow}, axes, primary_metric="downstream_auc", **options)
  return common.related(results, "ensembles", compare)


def read():
  """Options of `simulate`, from validated flags."""
  return {
    "datasets": common.choices("datasets", DATASETS),
    "generators": common.choices("generators", GENERATORS),
    "num_members": common.integers("num_members"),
    "num_samples": common.integers("num_samples", 2),
    "resample_real": common.choice("resample_real", ("none", "bootstrap")),
  } | common.related_options()


def main():
  common.simulate_and_write("results/ensembles", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
