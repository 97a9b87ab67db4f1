"""Gaussian estimation under self-consuming training (Kazdan et al. 2410.16713, figures of notebooks 00 and 05).

  python -m experiments.gaussian

The defaults are the paper's: 3 workflows x 5 dims x 5 num_samples x 100 seeds, 100 generations. About 4 minutes on 2
cores. Expected: `replace` loses its covariance at the rate (1 - 1/n)^t, both accumulate forms level off.
"""

from absl import flags

from collapse_jax.vocabulary import DRAWS

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common()
  flags.DEFINE_string("dims", "1,3,10,31,100", "Comma list: dimensions.")
  flags.DEFINE_string("noise_vars", "1", "Comma list: variance of the truth per coordinate.")
  flags.DEFINE_string("draws", "auto", "law, rows, or auto: the exact law where a workflow does not need rows.")
  flags.DEFINE_boolean("unbiased", False, "Fitted covariance divides by n - 1.")
  flags.DEFINE_boolean("wasserstein2", False, "Also the 2-Wasserstein distance to the truth (costly).")


def simulate(
  workflows,
  dims,
  num_samples,
  noise_vars=(1.0,),
  temperatures=(1.0,),
  draws="auto",
  unbiased=False,
  wasserstein2=False,
  **options,
):
  """The sweep behind this binary; None after a dry run."""

  def task(dim, num_samples, noise_var, temperature, max_samples=None):
    from collapse_jax import tasks

    return tasks.gaussian(
      dim,
      num_samples,
      noise_var,
      temperature=temperature,
      draws=draws,
      max_samples=max_samples,
      unbiased=unbiased,
      wasserstein2=wasserstein2,
    )

  axes = {
    "dim": list(dims),
    "num_samples": list(num_samples),
    "noise_var": list(noise_vars),
    "temperature": list(temperatures),
  }
  results = common.simulate(task, workflows, axes, primary_metric="covariance_trace_ratio", **options)
  if results is not None:
    results.attrs |= {"task": "gaussian", "unbiased": int(unbiased)}
  return results


def read():
  """Options of `simulate`, from validated flags."""
  flag = flag_values.FLAGS
  draws = flag_values.choice("draws", DRAWS)
  options = {
    "dims": flag_values.integers("dims"),
    "num_samples": flag_values.integers("num_samples", 2),
    "noise_vars": flag_values.positives("noise_vars"),
    "temperatures": flag_values.positives("temperatures"),
    "draws": draws,
    "unbiased": flag.unbiased,
    "wasserstein2": flag.wasserstein2,
  } | flag_values.common_options()
  return options | {"workflows": flag_values.check_workflows(draws == "law")}


def main():
  common.simulate_and_write("results/gaussian", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
