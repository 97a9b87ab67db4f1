"""What samplers of flow and diffusion models do by themselves: loops with exact scores, in which only the sampler and the rows err.

  python -m experiments.samplers

Expected: the dashed line of each cell, `theory.variance_factor` generation by generation. Euler's flow matching and
DDIM lose variance, EDM's 18 Heun steps gain it, under `replace` without end; a share of real data bounds both.
"""

from absl import flags

from collapse_jax import vocabulary
from collapse_jax.refused import Refused

from . import common, flag_values

PUBLISHED = "flow_euler(20),flow_midpoint(20),ddim(100),ddpm_posterior(50),edm_heun(18)"


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="10000", num_generations=10, num_seeds=20, workflows="replace,accumulate,mix(0.5)", temperatures=False
  )
  flags.DEFINE_string("samplers", PUBLISHED, "Comma list of samplers and their steps, e.g. ddim(100).")
  flags.DEFINE_string("variances", "0.25", "Comma list: of the data, in units of the noise that samplers start from.")


def steps_of(text):
  """ "ddim(100)" -> ("ddim", 100)."""
  name, arguments, keywords = vocabulary.parse_call(text)
  if len(arguments) != 1 or keywords:
    raise Refused.must_be("samplers", "names with a number of steps, e.g. ddim(100)", text)
  return name, arguments[0]


def simulate(workflows, samplers, variances, num_samples, **options):
  """The sweep behind this binary; None after a dry run."""

  def task(sampler, variance, num_samples):
    from collapse_jax import tasks

    solver, num_steps = steps_of(sampler)
    return tasks.flow([variance], num_samples, solver=solver, num_steps=num_steps)

  axes = {"sampler": list(samplers), "variance": list(variances), "num_samples": list(num_samples)}
  return common.simulate(
    task, workflows, axes, primary_metric="covariance_trace_ratio", static_axes=("variance",), **options
  )


def read_samplers():
  """The flag --samplers, checked."""
  from collapse_jax.theory import samplers

  for text in flag_values.items("samplers"):
    with flag_values.given_as("samplers", text):
      name, num_steps = steps_of(text)
      samplers.sampler_times(name, num_steps)
  return flag_values.items("samplers")


def read():
  """Options of `simulate`, from validated flags."""
  options = {
    "samplers": read_samplers(),
    "variances": flag_values.positives("variances"),
    "num_samples": flag_values.integers("num_samples", 2),
  }
  return options | flag_values.common_options() | {"workflows": flag_values.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/samplers", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
