"""Iterative retraining of flow matching and diffusion in the plane (Bertrand et al. 2310.00429): where it is stable, and why.

  python -m experiments.flow
  python -m experiments.flow --samplers='flow_midpoint(8),flow_midpoint(16)' --amounts=200,400 --num_samples=400,1600
  python -m experiments.flow --score=empirical --num_samples=4000 --num_generations=1 --workflows='mix(1)' --starts=cold

The first is lambda from 0 to 4 rows of the last model to a real one, cold and warm, flow matching and DDPM, on two densities; the
second tells what of it is the sampler's, the training budget's and the finite number of rows; the third has the exact score of
many real rows, so that only the sampler errs. Dots: as many real rows as the model emits, in its place. What is
expected of variances: black dashes, exact linear scores with the same sampler and infinite data.
"""

from absl import flags

from collapse_jax.vocabulary import COUPLINGS, STARTS

from . import common, flag_values
from .samplers import read_samplers, steps_of

SCORES = ("mlp", "empirical")
DATA = ("eight_gaussians", "moons", "pinwheel", "checkerboard", "swiss_roll", "gaussian")


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="400",
    num_generations=20,
    num_seeds=20,
    workflows="mix(1),mix(0.8),mix(0.5),mix(0.2)",
    temperatures=False,
  )
  flag_values.define_compare()
  flags.DEFINE_string("data", "eight_gaussians,moons", f"Comma list among {', '.join(DATA)}.")
  flags.DEFINE_string("samplers", "flow_midpoint(8),ddpm_beta(30)", "Comma list of samplers and their steps.")
  flags.DEFINE_string(
    "starts", "cold,weights", f"Comma list among {', '.join(STARTS)}: what a generation goes on from."
  )
  flags.DEFINE_string("amounts", "200", "Comma list: steps of training a generation.")
  flags.DEFINE_string(
    "score", "mlp", f"One of {', '.join(SCORES)}: a network, or the exact score of the training rows."
  )
  flags.DEFINE_string("learning_rate", "0.01", "Of Adam, at first; it falls to 0 in each generation.")
  flags.DEFINE_string("batch_size", "128", "Rows of a step.")
  flags.DEFINE_string("width", "32", "Of the three hidden layers.")
  flags.DEFINE_string("num_test", "300", "Test rows, and rows of a model that are held against them.")
  flags.DEFINE_string("coupling", "independent", f"Of rows and noise in flow matching: one of {', '.join(COUPLINGS)}.")


def simulate(
  workflows,
  data,
  samplers,
  starts,
  amounts,
  num_samples,
  score="mlp",
  learning_rate=0.01,
  batch_size=128,
  width=32,
  num_test=300,
  coupling="independent",
  compare=True,
  **options,
):
  """The sweep behind this binary; None after a dry run."""

  def task(data, sampler, start, amount, num_samples):
    from collapse_jax import tasks
    from collapse_jax.systems.flow import looked_at

    solver, num_steps = steps_of(sampler)
    one = tasks.flow(
      data,
      num_samples,
      score=score,
      solver=solver,
      num_steps=num_steps,
      coupling=coupling if solver.startswith("flow") else "independent",
      amount=amount,
      batch_size=batch_size,
      learning_rate=learning_rate,
      decay="cosine",
      start=start,
      width=width,
      num_test=num_test,
    )
    return looked_at(one)

  axes = {
    "data": list(data),
    "sampler": list(samplers),
    "start": list(starts),
    "amount": [float(amount) for amount in amounts],
    "num_samples": list(num_samples),
  }
  results = common.simulate(task, workflows, axes, primary_metric="sliced_wasserstein", warm_start=True, **options)
  return common.related(results, "flow", compare)


def read():
  """Options of `simulate`, from validated flags."""
  options = {
    "data": flag_values.choices("data", DATA),
    "samplers": read_samplers(),
    "starts": flag_values.choices("starts", STARTS),
    "amounts": flag_values.integers("amounts", 1),
    "num_samples": flag_values.integers("num_samples", 2),
    "score": flag_values.choice("score", SCORES),
    "learning_rate": flag_values.positive("learning_rate"),
    "batch_size": flag_values.integer("batch_size"),
    "width": flag_values.integer("width", 8),
    "num_test": flag_values.integer("num_test", 6),
    "coupling": flag_values.choice("coupling", COUPLINGS),
  }
  return options | flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/flow", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
