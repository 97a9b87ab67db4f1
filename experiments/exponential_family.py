"""Means of one-parameter families under self-consuming training (Dey and Donoho 2410.22812; Marsili et al. 2506.20623).

  python -m experiments.exponential_family

About two minutes on 2 cores. Expected: under `replace` less and less of the spread of a model's rows about the true mean is
the model's own variance, and none is left in the end; under `accumulate` nearly all of it stays. The squared error of the
mean follows its exact law, t / n under `replace` where the variance does not change, and stays within pi^2/6 of the first
generation's under `accumulate`; Bernoulli and Poisson runs end at 0 or 1 under `replace` (`collapse_generation`). "median"
is a Gaussian whose centre is the sample median.
"""

from absl import flags

from collapse_jax.vocabulary import DRAWS

from . import common, flag_values

FAMILIES = ("bernoulli", "poisson", "exponential", "gaussian", "median")


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="10,100,1000")
  flags.DEFINE_string("families", "bernoulli,poisson,exponential,gaussian", f"Comma list among {', '.join(FAMILIES)}.")
  flags.DEFINE_string("draws", "auto", "law, rows, or auto: the exact law where a workflow does not need rows.")


def simulate(workflows, families, num_samples, temperatures=(1.0,), draws="auto", **options):
  """The sweep behind this binary; None after a dry run."""

  def task(family, num_samples, temperature):
    from collapse_jax import tasks

    if family == "median":
      return tasks.sample_median(num_samples, temperature=temperature)
    return tasks.exponential_family(family, num_samples, temperature=temperature, draws=draws)

  axes = {"family": list(families), "num_samples": list(num_samples), "temperature": list(temperatures)}
  results = common.simulate(task, workflows, axes, primary_metric="variance_share", **options)
  if results is not None:
    results.attrs["task"] = "exponential_family"
  return results


def read():
  """Options of `simulate`, from validated flags."""
  draws = flag_values.choice("draws", DRAWS)
  options = {
    "families": flag_values.choices("families", FAMILIES),
    "num_samples": flag_values.integers("num_samples", 2),
    "temperatures": flag_values.positives("temperatures"),
    "draws": draws,
  } | flag_values.common_options()
  return options | {"workflows": flag_values.check_workflows(draws == "law")}


def main():
  common.simulate_and_write("results/exponential_family", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
