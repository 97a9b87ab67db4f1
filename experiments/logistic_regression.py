"""Logistic regression that relabels its own covariates (Dey and Donoho 2410.22812, on data sets of scikit-learn or a CSV).

  python -m experiments.logistic_regression

About a minute on 2 cores. Expected: under `accumulate` (their "augment") the excess risk stays within pi^2/6 of the first
generation's; under `replace` ("discard") it grows about linearly until the labels become separable: no fit is finite then. All 30
columns of breast_cancer separate the real labels already, so that leading principal components are used.
"""

from absl import flags

from collapse_jax.vocabulary import LABELS_OF_LOGISTIC

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="auto", num_generations=50)
  flags.DEFINE_string(
    "dataset", "breast_cancer", "breast_cancer, wine, digits, or a CSV whose last column is the label."
  )
  flags.DEFINE_string(
    "num_features", "1", "Leading principal components that are used, or all: the columns as they are."
  )
  flags.DEFINE_string(
    "labels", "model", "Of generation 1: model (drawn from the fit to all rows) or data (the real ones)."
  )


def simulate(
  workflows, dataset="breast_cancer", num_samples="auto", num_features=1, labels="model", temperatures=(1.0,), **options
):
  """The sweep behind this binary, with its finding; None after a dry run."""
  from collapse_jax.data import real_data

  with flag_values.given_as("dataset"):
    num_rows = len(real_data.load_labelled(dataset, num_features).labels)
  if num_samples == "auto":
    num_samples = [num_rows - round(0.3 * num_rows)]

  def task(dataset, num_samples, temperature):
    from collapse_jax import tasks

    return tasks.logistic_regression(
      dataset, num_samples, num_features=num_features, labels=labels, temperature=temperature
    )

  axes = {"dataset": [dataset], "num_samples": list(num_samples), "temperature": list(temperatures)}
  results = common.simulate(task, workflows, axes, primary_metric="excess_risk", **options)
  if results is not None:
    from collapse_jax.diagnostics import findings

    lines = findings.of_excess_risk(results)
    print("\n".join(lines))
    results.attrs |= {
      "task": "logistic_regression",
      "labels": labels,
      "num_features": str(num_features or "all"),
      "finding": "; ".join(lines),
    }
  return results


def read():
  """Options of `simulate`, from validated flags."""
  flag = flag_values.FLAGS
  num_features = None if flag.num_features == "all" else flag_values.integer("num_features")
  options = {
    "dataset": flag.dataset,
    "num_features": num_features,
    "labels": flag_values.choice("labels", LABELS_OF_LOGISTIC),
    "num_samples": "auto" if flag.num_samples == "auto" else flag_values.integers("num_samples", 2),
    "temperatures": flag_values.positives("temperatures"),
  } | flag_values.common_options()
  return options | {"workflows": flag_values.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/logistic_regression", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
