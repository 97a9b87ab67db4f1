"""Heat death (Marchi et al. 2404.02325): a discrete model sampled at a temperature, held by a share of real data.

  python -m experiments.temperature
  python -m experiments.temperature --workflows=replace,accumulate --probabilities=0.6,0.4 --num_samples=4000

A minute on 2 cores. Expected: below the frontier, temperature = synthetic share, the model leaves the uniform truth for few
outcomes however long it is held; above it stays near. Share 0 is `replace`: anything but temperature 1 ends in one outcome or
in none preferred, and temperature 1 in drift. In the second form entropy goes to 0 below temperature 1 and to log 2 above it:
like powers of the temperature in t under `replace`, like powers of t under `accumulate`.
"""

import functools

from absl import flags

from collapse_jax.refused import Refused

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="400", num_generations=100, num_seeds=10, workflows="mix", temperatures=False)
  flag_values.define_compare()
  flags.DEFINE_string(
    "temperatures", "0.2,0.4,0.6,0.7,0.8,0.9,1,1.2,1.5", "Comma list: samples follow p^(1/temperature)."
  )
  flags.DEFINE_string(
    "real_fractions", "0,0.1,0.2,0.4,0.6,0.8", "mix: comma list, share of real rows in training; 0: none."
  )
  flags.DEFINE_string("num_outcomes", "10", "Comma list: outcomes of the uniform truth.")
  flags.DEFINE_string("probabilities", None, "Comma list: another truth, instead of --num_outcomes.")
  flags.DEFINE_boolean("fresh", True, "mix: draw the real rows anew each generation.")


def simulate(
  temperatures,
  num_samples,
  workflows=("mix",),
  real_fractions=(),
  num_outcomes=(10,),
  probabilities=None,
  fresh=True,
  compare=True,
  **options,
):
  """The sweep behind this binary; None after a dry run."""

  def task(num_outcomes, num_samples, temperature):
    from collapse_jax import tasks

    return tasks.discrete(num_outcomes, num_samples, probabilities, temperature=temperature)

  axes = {"num_outcomes": list(num_outcomes), "num_samples": list(num_samples), "temperature": list(temperatures)}
  if list(workflows) == ["mix"]:
    axes["real_fraction"] = list(real_fractions)
    from collapse_jax.workflows import mix

    workflows = {"mix(fresh=True)": functools.partial(mix, fresh=True)} if fresh else ["mix"]
  results = common.simulate(
    task, workflows, axes, static_axes=("real_fraction",), primary_metric="total_variation", **options
  )
  about = {} if probabilities is None else {"probabilities": list(probabilities)}
  return common.related(results, "temperature", compare, **about)


def read():
  """Options of `simulate`, from validated flags."""
  flag = flag_values.FLAGS
  options = {
    "temperatures": flag_values.positives("temperatures"),
    "real_fractions": sorted(flag_values.shares("real_fractions")),
    "num_outcomes": flag_values.integers("num_outcomes", 2),
    "num_samples": flag_values.integers("num_samples", 2),
    "fresh": flag.fresh,
  }
  if flag.probabilities is not None:
    options["probabilities"] = _probabilities(flag.probabilities)
    options["num_outcomes"] = [len(options["probabilities"])]
  if flag.workflows == "mix":
    options["workflows"] = ["mix"]
  else:
    options["workflows"] = flag_values.check_workflows(law=False)
    if "mix" in options["workflows"]:
      raise Refused("--workflows=mix takes --real_fractions and goes alone; name shares as in mix(0.2) beside others.")
  if options["fresh"] and any(k > 4 * n for k in options["num_outcomes"] for n in options["num_samples"]):
    raise Refused("--fresh needs --num_outcomes of at most 4 * --num_samples; use --nofresh.")
  return options | flag_values.related_options()


def _probabilities(text):
  try:
    given = [float(one) for one in text.split(",")]  # not `flag_values.items`: those of several outcomes may be equal
  except ValueError:
    given = []
  if not all(0 <= one < float("inf") for one in given) or sum(one > 0 for one in given) < 2:
    raise Refused(f"--probabilities must be numbers of at least 0, two of them above it, got {text!r}.")
  return [one / sum(given) for one in given]


def main():
  common.simulate_and_write("results/temperature", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
