"""Linear regression under self-consuming training (Kazdan et al. 2410.16713, notebook 07; Gerstgrasser et al. 2404.01413).

  python -m experiments.linear_regression

The defaults are the paper's: 3 workflows x 5 dims x 3 noise variances x 5 num_samples x 100 seeds, 100 generations (22,500
runs). Expected: the test error grows like t under `replace` and stays within pi^2/6 under `accumulate`.
"""

from absl import flags

from collapse_jax.refused import Refused
from collapse_jax.vocabulary import DRAWS

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common()
  flags.DEFINE_string("dims", "1,3,10,32,100", "Comma list: dimensions.")
  flags.DEFINE_string("noise_vars", "0.1,1,10", "Comma list: variances of the labels.")
  flags.DEFINE_string(
    "covariates", "same", "same: every generation relabels the first one's rows; fresh: draws new ones."
  )
  flags.DEFINE_string("draws", "auto", "law, rows, or auto: the exact law where a workflow does not need rows.")


def simulate(
  workflows, dims, num_samples, noise_vars=(1.0,), temperatures=(1.0,), covariates="same", draws="auto", **options
):
  """The sweep behind this binary; None after a dry run."""

  def task(dim, num_samples, noise_var, temperature):
    from collapse_jax import tasks

    return tasks.linear_regression(
      dim, num_samples, noise_var, covariates=covariates, temperature=temperature, draws=draws
    )

  axes = {
    "dim": list(dims),
    "num_samples": list(num_samples),
    "noise_var": list(noise_vars),
    "temperature": list(temperatures),
  }
  results = common.simulate(task, workflows, axes, primary_metric="test_mse", **options)
  if results is not None:
    results.attrs |= {"task": "linear_regression", "covariates": covariates}
  return results


def read():
  """Options of `simulate`, from validated flags."""
  draws = flag_values.choice("draws", DRAWS)
  covariates = flag_values.choice("covariates", ("same", "fresh"))
  if draws == "law" and covariates == "fresh":
    raise Refused("--draws=law needs --covariates=same: with fresh covariates the pooled estimate is no average.")
  options = {
    "dims": flag_values.integers("dims"),
    "num_samples": flag_values.integers("num_samples", 2),
    "draws": draws,
    "noise_vars": flag_values.positives("noise_vars"),
    "temperatures": flag_values.positives("temperatures"),
    "covariates": covariates,
  } | flag_values.common_options()
  return options | {"workflows": flag_values.check_workflows(draws == "law")}


def main():
  common.simulate_and_write("results/linear_regression", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
