"""Resampling by a detector of machine-made text (Drayson et al. 2502.15654), on outcomes instead of texts.

  python -m experiments.detector_resampling

Half a minute on 2 cores. Outcomes are sampled at a temperature below 1 and drawn again by the best detector of what the first
generation makes. Expected: without the detector (bias 0) the model leaves the truth for its likeliest outcomes; with it, later, and
where data accumulate hardly at all.
"""

from absl import flags

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="1000", num_generations=10, num_seeds=40, workflows="replace,accumulate", temperatures=False
  )
  flag_values.define_compare()
  flags.DEFINE_string("temperatures", "0.8", "Comma list: samples follow p^(1/temperature).")
  flags.DEFINE_string(
    "biases", "0,0.5,1", "Comma list from 0 to 1: power of 1 - P(machine) that samples are drawn again by."
  )


def simulate(workflows, temperatures, biases, num_samples, compare=True, **options):
  """The sweep behind this binary; None after a dry run."""
  common.prepare_jax()
  from collapse_jax.systems.detector_resampling import TRUTH, detector

  def task(temperature, bias, num_samples):
    import jax.numpy as jnp

    from collapse_jax import tasks, transforms

    score = jnp.asarray(detector(TRUTH, temperature, bias), float)
    one = tasks.discrete(len(TRUTH), num_samples, TRUTH, temperature=temperature)
    return transforms.reweight(one, lambda rows: jnp.take(score, rows))

  axes = {"temperature": list(temperatures), "bias": list(biases), "num_samples": list(num_samples)}
  results = common.simulate(task, workflows, axes, primary_metric="total_variation", **options)
  return common.related(results, "detector_resampling", compare, probabilities=list(TRUTH))


def read():
  """Options of `simulate`, from validated flags."""
  options = {
    "temperatures": flag_values.positives("temperatures"),
    "biases": flag_values.shares("biases"),
    "num_samples": flag_values.integers("num_samples", 2),
  }
  return options | flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/detector_resampling", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
