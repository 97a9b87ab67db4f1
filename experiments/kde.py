"""Kernel density estimation under self-consuming training (Kazdan et al. 2410.16713, notebooks 02, 06, 11 and 12).

  python -m experiments.kde

The defaults are the paper's: 3 workflows x 4 data sets x 3 bandwidths x 5 num_samples x 100 seeds, 100 generations
(18,000 runs). Expected: the test negative log-likelihood grows under `replace` and hardly under the accumulate forms.
--datasets also takes a path to a CSV file of numeric columns, or `<(command)`, and blobs_mismatched for the published blobs figure.
"""

import functools

from absl import flags

from . import common

RULES = ("scott", "silverman", "scott_scaled", "silverman_scaled")


def define():
  """Flags of this binary."""
  common.define_common()
  flags.DEFINE_string("datasets", "blobs,circles,moons,swiss_roll", "Comma list: names, or paths to CSV files.")
  flags.DEFINE_string("bandwidths", "0.1,0.5,1", f"Comma list: numbers, or {', '.join(RULES)}.")
  flags.DEFINE_string("kernels", "gaussian", "Comma list: gaussian, tophat.")
  flags.DEFINE_string("num_test", "500", "Test rows, from the same truth as the training rows.")
  flags.DEFINE_string("draws", "auto", "auto or rows; this task has no exact law.")


def factory(num_test: int = 500):
  """A task factory for `sweep` that reads each data set once, and the function that gives them."""
  from collapse_jax import tasks
  from collapse_jax.data import generators

  dataset_of = functools.cache(lambda name: generators.get(name, num_test))

  def task(dataset, bandwidth, kernel, num_samples, temperature=1.0):
    return tasks.kde(dataset_of(dataset), num_samples, bandwidth, kernel, num_test=num_test, temperature=temperature)

  return task, dataset_of


def simulate(
  workflows, datasets, num_samples, bandwidths, kernels=("gaussian",), temperatures=(1.0,), num_test=500, **options
):
  """The sweep behind this binary; None after a dry run."""
  task, dataset_of = factory(num_test)
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


def bandwidths(name="bandwidths"):
  values = []
  for item in common.items(name):
    try:
      values.append(item if item in RULES else float(item))
    except ValueError:
      values.append(-1.0)
    if not isinstance(values[-1], str) and not 0 < values[-1] < float("inf"):
      raise common.UsageError(f"--{name} must be numbers above 0 or among {', '.join(RULES)}, got {item!r}.")
  return values


def check_datasets(names):
  """Loads real data before JAX starts, so that a bad file ends at once."""
  from collapse_jax.data import real_data

  for name in names:
    try:
      real_data.check(name)
    except ValueError as error:
      raise common.UsageError(f"--datasets: {error}") from None
  return names


def read():
  """Options of `simulate`, from validated flags."""
  if common.choice("draws", ("auto", "rows", "law")) == "law":
    raise common.UsageError(
      "--draws=law is not possible: a kernel density estimate has no exact law of its batches; use auto or rows."
    )
  options = {
    "datasets": common.items("datasets"),
    "num_samples": common.integers("num_samples", 2),
    "bandwidths": bandwidths(),
    "kernels": common.choices("kernels", ("gaussian", "tophat")),
    "temperatures": common.positives("temperatures"),
    "num_test": common.integer("num_test"),
  } | common.common_options()
  check_datasets(options["datasets"])
  return options | {"workflows": common.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/kde", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
