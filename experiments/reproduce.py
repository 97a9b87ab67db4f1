"""The paper's simulations by one command, with one report (Kazdan et al. 2410.16713).

  python -m experiments.reproduce --scale=laptop

--scale=smoke checks the installation in a minute, laptop shows every workflow and task in minutes, paper is the whole
matrix: 116,500 runs of the Gaussian, KDE, regression and discrete experiments, of which those with T = 1000 or 100,000 rows
take days on a laptop. --only=GLOB picks experiments by name; --dry_run lists what would run.
"""

import fnmatch

from absl import flags

from experiments import (
    common,
    discrete,
    exponential_family,
    gaussian,
    kde,
    language_model,
    linear_regression,
    logistic_regression,
    real_share,
)

SCALES = ("smoke", "laptop", "paper")
WORKFLOWS = common.PAPER_WORKFLOWS.split(",")

def define():
  """Flags of this binary."""
  flags.DEFINE_string("scale", "laptop", "smoke, laptop or paper.")
  flags.DEFINE_string("only", "*", "Glob: run only experiments whose name matches.")
  common.define_shared()


def experiments(scale: str) -> dict:
  """name -> (function that simulates, its options)."""
  paper_n = [10, 32, 100, 316, 1000]
  if scale == "paper":
    size = {"num_generations": 100, "num_seeds": 100}
    long = {"num_generations": 1000, "num_seeds": 100}
    half_decades = [0.01, 0.0316, 0.1, 0.316, 1.0, 3.16, 10.0, 31.6, 100.0]
    named: dict = {"gaussian": (gaussian.simulate, {"workflows": WORKFLOWS, "dims": [1, 3, 10, 31, 100],
                                              "num_samples": paper_n} | size)}
    for name in ("blobs", "circles", "moons", "swiss_roll"):
      common_options = {"workflows": WORKFLOWS, "datasets": [name], "num_samples": paper_n}
      named[f"kde/{name}"] = (kde.simulate, common_options | {"bandwidths": [0.1, 0.5, 1.0]} | size)
      named[f"kde_bandwidth_swept/{name}"] = (kde.simulate, common_options | {"bandwidths": half_decades} | long)
      named[f"kde_bandwidth_estimated/{name}"] = (
          kde.simulate, common_options | {"bandwidths": ["scott", "silverman"]} | long)
    named["linear_regression"] = (linear_regression.simulate, {
        "workflows": WORKFLOWS, "dims": [1, 3, 10, 32, 100], "noise_vars": [0.1, 1.0, 10.0], "num_samples": paper_n} | size)
    for n in (10, 100, 1000, 10_000, 100_000):  # to collapse, which takes about 2 n generations
      named[f"discrete/num_samples_{n}"] = (discrete.simulate, {
          "workflows": ["replace"], "num_outcomes": [10, 100, 1000, 10_000, 100_000], "num_samples": [n], "num_seeds": 100,
          "num_generations": 12 * n, "record_every": max(n // 20, 1)})
    return named
  smoke = scale == "smoke"
  size = {"num_generations": 4 if smoke else 100, "num_seeds": 4 if smoke else 100}
  return {
      "gaussian": (gaussian.simulate, {
          "workflows": WORKFLOWS, "dims": [1, 3] if smoke else [1, 10], "num_samples": [10, 100]} | size),
      "kde/moons": (kde.simulate, {
          "workflows": WORKFLOWS, "datasets": ["moons"], "bandwidths": [0.5] if smoke else [0.1, 0.5],
          "num_samples": [20] if smoke else [100]} | size),
      "kde/wine": (kde.simulate, {
          "workflows": WORKFLOWS, "datasets": ["wine"], "bandwidths": [1.0], "num_samples": [20 if smoke else 100]}
                   | size),
      "linear_regression": (linear_regression.simulate, {
          "workflows": WORKFLOWS, "dims": [3] if smoke else [10], "num_samples": [20] if smoke else [100]} | size),
      "discrete": (discrete.simulate, {
          "workflows": WORKFLOWS, "num_outcomes": [100], "num_samples": [10] if smoke else [100]} | size),
      "exponential_family": (exponential_family.simulate, {
          "workflows": WORKFLOWS[:2], "families": ["poisson"] if smoke else ["bernoulli", "poisson"],
          "num_samples": [10] if smoke else [100]} | size),
      "logistic_regression": (logistic_regression.simulate, {
          "workflows": WORKFLOWS, "num_generations": 4 if smoke else 50, "num_seeds": size["num_seeds"]}),
      "real_share/gaussian": (real_share.simulate, {
          "task": "gaussian", "real_fractions": [0.0, 0.5] if smoke else [0.0, 0.1, 0.5], "num_samples": [32],
          "dims": [3]} | size),
      "language_model": (language_model.simulate, {
          "workflows": WORKFLOWS, "num_samples": [16 if smoke else 256], "num_generations": 2 if smoke else 5,
          "num_seeds": 2 if smoke else 3}),
  }


def read():
  """Options of `simulate`, from validated flags."""
  scale = common.choice("scale", SCALES)
  chosen = {name: what for name, what in experiments(scale).items() if fnmatch.fnmatch(name, common.FLAGS.only)}
  if not chosen:
    raise common.UsageError(f"--only={common.FLAGS.only} matches none of {', '.join(experiments(scale))}.")
  return {"chosen": chosen, "seed": common.integer("seed", 0)}


def simulate(chosen, seed, directory=None):
  """name -> results; None after a dry run."""
  results = {}
  for name, (function, options) in chosen.items():
    print(f"{name}:", flush=True)
    results[name] = function(**options, seed=seed, directory=directory and directory / name)
  if not common.FLAGS.dry_run:
    return results
  from collapse_jax import cost
  total = cost.text(sum(plan.compile_seconds + plan.run_seconds for plan in common.PLANS))
  rest = ", language models not counted" if "language_model" in chosen else ""
  print(f"in all: {sum(plan.runs for plan in common.PLANS)} runs, about {total}{rest}")
  return None


def main():
  common.simulate_and_write("results/reproduce", simulate, read(), save=common.write_all)


if __name__ == "__main__":
  common.main(define, main)
