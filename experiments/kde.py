"""Kernel density estimation under self-consuming training (Kazdan et al. 2410.16713, notebooks 02, 06, 11 and 12).

  python -m experiments.kde

The defaults are the paper's: 3 workflows x 4 data sets x 3 bandwidths x 5 num_samples x 100 seeds, 100 generations
(18,000 runs). Expected: the test negative log-likelihood grows under `replace` and hardly under the accumulate forms.
--datasets also takes a path to a CSV file of numeric columns, or `<(command)`, and blobs_mismatched for the published blobs figure.
"""

from absl import flags

from collapse_jax.refused import Refused
from collapse_jax.vocabulary import BANDWIDTH_RULES, DRAWS, KERNELS

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common()
  flags.DEFINE_string("datasets", "blobs,circles,moons,swiss_roll", "Comma list: names, or paths to CSV files.")
  flags.DEFINE_string("bandwidths", "0.1,0.5,1", f"Comma list: numbers, or {', '.join(BANDWIDTH_RULES)}.")
  flags.DEFINE_string("kernels", "gaussian", "Comma list: gaussian, tophat.")
  flags.DEFINE_string("num_test", "500", "Test rows, from the same truth as the training rows.")
  flags.DEFINE_string("draws", "auto", "auto or rows; this task has no exact law.")


def simulate(
  workflows, datasets, num_samples, bandwidths, kernels=("gaussian",), temperatures=(1.0,), num_test=500, **options
):
  """The sweep behind this binary; None after a dry run."""
  dataset_of = common.read_once(num_test)

  def task(dataset, bandwidth, kernel, num_samples, temperature):
    from collapse_jax import tasks

    return tasks.kde(dataset_of(dataset), num_samples, bandwidth, kernel, num_test=num_test, temperature=temperature)

  axes = {
    "dataset": list(datasets),
    "bandwidth": list(bandwidths),
    "kernel": list(kernels),
    "num_samples": list(num_samples),
    "temperature": list(temperatures),
  }
  results = common.simulate(task, workflows, axes, primary_metric="test_nll", text_axes=("bandwidth",), **options)
  if results is None:
    return None
  results.attrs["task"] = "kde"
  return results.assign_coords(dataset_note=("dataset", [dataset_of(name).note for name in datasets]))


def read():
  """Options of `simulate`, from validated flags."""
  if flag_values.choice("draws", DRAWS) == "law":
    raise Refused(
      "--draws=law is not possible: a kernel density estimate has no exact law of its batches; use auto or rows."
    )
  options = {
    "datasets": flag_values.datasets(),
    "num_samples": flag_values.integers("num_samples", 2),
    "bandwidths": flag_values.bandwidths(),
    "kernels": flag_values.choices("kernels", KERNELS),
    "temperatures": flag_values.positives("temperatures"),
    "num_test": flag_values.integer("num_test"),
  } | flag_values.common_options()
  return options | {"workflows": flag_values.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/kde", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
