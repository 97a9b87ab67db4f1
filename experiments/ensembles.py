"""Ensembles of generators (van Breugel et al. 2305.09235): classifiers trained on synthetic rows, tested on real ones.

  python -m experiments.ensembles
  python -m experiments.ensembles --datasets=mixed,breast_cancer --generators=copula,tvae,ctgan --num_members=1,8

A minute on 2 cores; networks take ten.

Every member emits as many rows as there are real ones, and has its own classifier; probabilities are
averaged. Expected: one generator loses to real rows, more of them come near (area under the curve) or pass them (calibration:
cross entropy and Brier score), and they last longer over generations.
"""

from absl import flags

from collapse_jax.refused import Refused
from collapse_jax.vocabulary import LABELLED_DATASETS, LABELLED_GENERATORS, RESAMPLING, TABLE_MODELS

from . import common, flag_values

DATASETS = (*LABELLED_DATASETS, "mixed")
GENERATORS = (*LABELLED_GENERATORS, *TABLE_MODELS)


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="200", num_generations=4, num_seeds=10, workflows=None, temperatures=False)
  flag_values.define_compare()
  flags.DEFINE_string("datasets", "moons,circles,breast_cancer", f"Comma list among {', '.join(DATASETS)}.")
  flags.DEFINE_string("generators", "gaussian_mixture,kde", f"Comma list among {', '.join(GENERATORS)}.")
  flags.DEFINE_string("steps", "500", "Of training of networks, each generation.")
  flags.DEFINE_string("num_members", "1,5,20", "Comma list: generators, each with its own sample; 1: no ensemble.")
  flags.DEFINE_string(
    "resample_real", "none", "none, or bootstrap: each member is fitted to rows drawn with replacement."
  )


def simulate(datasets, generators, num_members, num_samples, resample_real="none", steps=500, compare=True, **options):
  """The sweep behind this binary; None after a dry run."""

  def task(dataset, generator, num_members, num_samples):
    from collapse_jax import tasks, transforms

    if generator in TABLE_MODELS:
      one = tasks.table(dataset, num_samples, generator, label="label", amount=steps, num_test=500)
    else:
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
  datasets, generators = flag_values.choices("datasets", DATASETS), flag_values.choices("generators", GENERATORS)
  if "mixed" in datasets and not set(generators) <= set(TABLE_MODELS):
    raise Refused(f"--datasets=mixed goes with --generators among {', '.join(TABLE_MODELS)}.")
  return {
    "datasets": datasets,
    "generators": generators,
    "steps": flag_values.integer("steps"),
    "num_members": flag_values.integers("num_members"),
    "num_samples": flag_values.integers("num_samples", 2),
    "resample_real": flag_values.choice("resample_real", RESAMPLING),
  } | flag_values.related_options()


def main():
  common.simulate_and_write("results/ensembles", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
