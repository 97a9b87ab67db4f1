"""Tables of numbers, categories and missing cells, fed on what a model of them wrote (models of Xu et al. 1907.00503).

  python -m experiments.table
  python -m experiments.table --dataset=patients.csv --models=copula --num_samples=500

Ten minutes on 2 cores, seconds with --models=copula. Expected: under `replace` the diversity of categories is on the dashed line,
(1 - 1/n) a generation, and the rarest die out; under `accumulate` both hold. Networks add errors of their own: CTGAN overstates
the rare, more each generation.
"""

from absl import flags

from collapse_jax.vocabulary import TABLE_MODELS

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="100", num_generations=8, num_seeds=5, workflows="replace,accumulate", temperatures=False
  )
  flag_values.define_compare()
  flags.DEFINE_string(
    "dataset", "mixed", "breast_cancer, circles, mixed, moons, or the path of a .csv or .parquet file with a header."
  )
  flags.DEFINE_string("models", "copula,tvae,ctgan", f"Comma list among {', '.join(TABLE_MODELS)}.")
  flags.DEFINE_string("steps", "500", "Of training of networks, each generation.")


def simulate(workflows, dataset, models, num_samples, steps=500, compare=True, **options):
  """The sweep behind this binary; None after a dry run.

  Args:
    dataset: what `data.tables.get` takes.
    steps: of training of networks, each generation.
  """
  from collapse_jax.data import tables

  source = tables.get(dataset)
  layout = source.layout

  def task(dataset, model, num_samples):
    from collapse_jax import tasks

    return tasks.table(source, num_samples, model, amount=steps, num_test=500)

  axes = {"dataset": [source.name], "model": list(models), "num_samples": list(num_samples)}
  results = common.simulate(task, workflows, axes, primary_metric="category_diversity", **options)
  if results is not None:
    pairs = [(block, one) for block, found in zip(layout.blocks, layout.categories) for one in found]
    results = results.assign_coords(
      category=[f"{block}: {one}" for block, one in pairs], category_column=("category", [block for block, _ in pairs])
    )
    results = results.assign_coords(number=list(layout.continuous)) if layout.continuous else results
  return common.related(results, "table", compare)


def read():
  """Options of `simulate`, from validated flags."""
  options = {
    "models": flag_values.choices("models", TABLE_MODELS),
    "steps": flag_values.integer("steps"),
    "num_samples": flag_values.integers("num_samples", 2),
  }
  options |= flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}
  from collapse_jax.data import tables

  with flag_values.given_as("dataset"):  # a file may be large: last
    options["dataset"] = tables.get(flag_values.FLAGS.dataset)
  return options


def main():
  common.simulate_and_write("results/table", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
