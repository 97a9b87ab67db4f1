"""How much real data must a self-consuming pipeline keep? Metric against real share, for any cheap task or a CSV file.

  python -m experiments.real_share --task=gaussian --real_fractions=0,0.01,0.1,0.5
  python -m experiments.real_share --task=kde --datasets=data.csv --num_samples=100 --bandwidths=0.5

Each generation is fitted to all num_samples real rows and to as many rows of the last model as make the real share
(2310.00429); share 0 is `replace`. Prints, and puts into the report, the smallest share with which each metric stays within
--tolerance of the first generation's.
"""

import functools
from collections.abc import Callable

from absl import flags

from collapse_jax.vocabulary import KERNELS

from . import common, flag_values, output

TASKS = ("gaussian", "kde")


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="100", workflows=None)
  flags.DEFINE_string("task", "gaussian", "gaussian or kde.")
  flags.DEFINE_string(
    "real_fractions", "0,0.01,0.03,0.1,0.3,0.5", "Comma list: real share of the training rows, 0 to 1."
  )
  flags.DEFINE_string("dims", "1", "gaussian: comma list of dimensions.")
  flags.DEFINE_string("noise_vars", "1", "gaussian: comma list of variances of the truth per coordinate.")
  flags.DEFINE_string("datasets", "moons", "kde: comma list of names, or paths to CSV files.")
  flags.DEFINE_string("bandwidths", "0.5", "kde: comma list of numbers or rules.")
  flags.DEFINE_string("kernels", "gaussian", "kde: comma list of gaussian, tophat.")
  flags.DEFINE_string("tolerance", "0.2", "Relative change that is allowed until the last generation, above 0.")
  flags.DEFINE_boolean("fresh", False, "Draw the real rows anew each generation.")


def _gaussian(dim, num_samples, noise_var):
  from collapse_jax import tasks

  return tasks.gaussian(dim, num_samples, noise_var)


def _kde():
  dataset_of = common.read_once()

  def task(dataset, bandwidth, kernel, num_samples):
    from collapse_jax import tasks

    return tasks.kde(dataset_of(dataset), num_samples, bandwidth, kernel)

  return task


def simulate(
  task,
  real_fractions,
  num_samples,
  dims=(1,),
  noise_vars=(1.0,),
  datasets=("moons",),
  bandwidths=(0.5,),
  kernels=("gaussian",),
  fresh=False,
  tolerance=0.2,
  **options,
):
  """The sweep behind this binary; None after a dry run."""
  from collapse_jax import workflows

  make: Callable = _gaussian if task == "gaussian" else _kde()
  if task == "gaussian":
    axes: dict[str, list] = {"dim": list(dims), "num_samples": list(num_samples), "noise_var": list(noise_vars)}
    metric = "squared_error_of_mean"
  else:
    axes = {
      "dataset": list(datasets),
      "bandwidth": list(bandwidths),
      "kernel": list(kernels),
      "num_samples": list(num_samples),
    }
    metric = "test_nll"
  name = "mix(fresh=True)" if fresh else "mix"
  results = common.simulate(
    make,
    {name: functools.partial(workflows.mix, fresh=fresh)},
    axes | {"real_fraction": list(real_fractions)},
    primary_metric=metric,
    text_axes=("bandwidth",),
    static_axes=("real_fraction",),
    **options,
  )
  if results is not None:
    results.attrs |= {"task": task, "experiment": "real_share", "tolerance": tolerance}
  return results


def read():
  """Options of `simulate`, from validated flags."""
  task = flag_values.choice("task", TASKS)
  options = {
    "task": task,
    "num_samples": flag_values.integers("num_samples", 2),
    "real_fractions": sorted(flag_values.shares("real_fractions")),
    "fresh": flag_values.FLAGS.fresh,
    "tolerance": flag_values.positive("tolerance"),
  }
  if task == "gaussian":
    options |= {"dims": flag_values.integers("dims"), "noise_vars": flag_values.positives("noise_vars")}
  else:
    options |= {
      "datasets": flag_values.datasets(),
      "bandwidths": flag_values.bandwidths(),
      "kernels": flag_values.choices("kernels", KERNELS),
    }
  return options | flag_values.common_options()


def simulate_and_judge(**options):
  """`simulate`, with the findings; that they fail costs no numbers."""
  results = simulate(**options)
  if results is not None and common.is_first_process():
    output.harmless("the smallest share that is enough", judge, results)
  return results


def judge(results):
  from collapse_jax import decisions, diagnostics

  lines = []
  for metric in diagnostics.metrics(results):
    for cell, found in decisions.required_shares(results, results.attrs["tolerance"], metric):
      where = ", ".join(f"{name}={value}" for name, value in cell.items() if name != "workflow")
      lines.append(f"{where}: {found}")
  print("\n".join(lines))
  results.attrs["finding"] = "; ".join(lines)


def main():
  common.simulate_and_write("results/real_share", simulate_and_judge, read())


if __name__ == "__main__":
  common.main(define, main)
