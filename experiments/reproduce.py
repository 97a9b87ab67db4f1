"""The paper's simulations by one command, with one report (Kazdan et al. 2410.16713).

  python -m experiments.reproduce --scale=laptop

  python -m experiments.reproduce --scale=laptop --only='related/*'

--scale=smoke checks the installation in a minute, laptop shows every workflow and task in minutes, paper is the whole
matrix: 116,500 runs of the Gaussian, KDE, regression and discrete experiments, of which those with T = 1000 take hours on a
laptop. --only=GLOB picks experiments by name, among them related/*, the systems of other papers, and deep/*, loops of
deep models; --dry_run lists what would run.
"""

import contextlib
import fnmatch

from absl import flags

from collapse_jax.refused import Refused

from . import (
  common,
  curation,
  detector_resampling,
  discrete,
  ensembles,
  exponential_family,
  flag_values,
  flow,
  gaussian,
  kde,
  label_editing,
  language_model,
  linear_regression,
  logistic_regression,
  mixtures,
  molecules,
  real_share,
  selection,
  table,
  temperature,
  token_editing,
  traffic,
  vae,
  verification,
)

SCALES = ("smoke", "laptop", "paper")
WORKFLOWS = flag_values.PAPER_WORKFLOWS.split(",")
RELATED, DEEP = "related/", "deep/"
LANGUAGE = "language_model"  # which has a driver of its own, and no estimate of its time
SMALLEST: dict = {
  "workflows": ["replace"],
  "bases": ["anchor"],
  "masks": ["fresh"],
  "noises": ["additive"],
  "num_candidates": [2],
  "real_fractions": [0.2],
  "real_weights": [0.0],
  "keep_fractions": [0.5],
  "selections": ["nearest"],
  "verifiers": ["noisy"],
  "datasets": ["moons"],
  "generators": ["kde"],
  "data": ["moons"],
  "samplers": ["flow_midpoint(2)"],
  "starts": ["cold"],
  "amounts": [5],
  "ends": ["known"],
  "roundings": ["none"],
  "coefficients": [0.5],
  "molecules": ["alkane"],
  "networks": ["linear"],
}


def define():
  """Flags of this binary."""
  flags.DEFINE_string("scale", "laptop", "smoke, laptop or paper.")
  flags.DEFINE_string(
    "only", None, "Glob: run only experiments whose name matches; default all but related/* and deep/*."
  )
  flag_values.define_shared()


def experiments(scale: str) -> dict:
  """name -> (function that simulates, its options)."""
  paper_n = [10, 32, 100, 316, 1000]
  if scale == "paper":
    size = {"num_generations": 100, "num_seeds": 100}
    long = {"num_generations": 1000, "num_seeds": 100}
    half_decades = [0.01, 0.0316, 0.1, 0.316, 1.0, 3.16, 10.0, 31.6, 100.0]
    named: dict = {
      "gaussian": (
        gaussian.simulate,
        {"workflows": WORKFLOWS, "dims": [1, 3, 10, 31, 100], "num_samples": paper_n} | size,
      )
    }
    for name in ("blobs", "circles", "moons", "swiss_roll"):
      common_options = {"workflows": WORKFLOWS, "datasets": [name], "num_samples": paper_n}
      named[f"kde/{name}"] = (kde.simulate, common_options | {"bandwidths": [0.1, 0.5, 1.0]} | size)
      named[f"kde_bandwidth_swept/{name}"] = (kde.simulate, common_options | {"bandwidths": half_decades} | long)
      named[f"kde_bandwidth_estimated/{name}"] = (
        kde.simulate,
        common_options | {"bandwidths": ["scott", "silverman"]} | long,
      )
    named["linear_regression"] = (
      linear_regression.simulate,
      {"workflows": WORKFLOWS, "dims": [1, 3, 10, 32, 100], "noise_vars": [0.1, 1.0, 10.0], "num_samples": paper_n}
      | size,
    )
    for n in (10, 100, 1000, 10_000, 100_000):  # to collapse, which takes about 2 n generations
      named[f"discrete/num_samples_{n}"] = (
        discrete.simulate,
        {
          "workflows": ["replace"],
          "num_outcomes": [10, 100, 1000, 10_000, 100_000],
          "num_samples": [n],
          "num_seeds": 100,
          "num_generations": 12 * n,
          "record_every": max(n // 20, 1),
        },
      )
    return named
  smoke = scale == "smoke"
  size = {"num_generations": 4 if smoke else 100, "num_seeds": 4 if smoke else 100}
  return {
    "gaussian": (
      gaussian.simulate,
      {"workflows": WORKFLOWS, "dims": [1, 3] if smoke else [1, 10], "num_samples": [10, 100]} | size,
    ),
    "kde/moons": (
      kde.simulate,
      {
        "workflows": WORKFLOWS,
        "datasets": ["moons"],
        "bandwidths": [0.5] if smoke else [0.1, 0.5],
        "num_samples": [20] if smoke else [100],
      }
      | size,
    ),
    "kde/wine": (
      kde.simulate,
      {"workflows": WORKFLOWS, "datasets": ["wine"], "bandwidths": [1.0], "num_samples": [20 if smoke else 100]} | size,
    ),
    "linear_regression": (
      linear_regression.simulate,
      {"workflows": WORKFLOWS, "dims": [3] if smoke else [10], "num_samples": [20] if smoke else [100]} | size,
    ),
    "discrete": (
      discrete.simulate,
      {"workflows": WORKFLOWS, "num_outcomes": [100], "num_samples": [10] if smoke else [100]} | size,
    ),
    "exponential_family": (
      exponential_family.simulate,
      {
        "workflows": WORKFLOWS[:2],
        "families": ["poisson"] if smoke else ["bernoulli", "poisson"],
        "num_samples": [10] if smoke else [100],
      }
      | size,
    ),
    "logistic_regression": (
      logistic_regression.simulate,
      {"workflows": WORKFLOWS, "num_generations": 4 if smoke else 50, "num_seeds": size["num_seeds"]},
    ),
    "real_share/gaussian": (
      real_share.simulate,
      {"task": "gaussian", "real_fractions": [0.0, 0.5] if smoke else [0.0, 0.1, 0.5], "num_samples": [32], "dims": [3]}
      | size,
    ),
    LANGUAGE: (
      language_model.simulate,
      {
        "workflows": WORKFLOWS,
        "num_samples": [16 if smoke else 64],
        "num_generations": 2 if smoke else 4,
        "num_seeds": 2 if smoke else 3,
      },
    ),
  }


def _sizes(scale: str):
  """Options of (generations, seeds), with predictions beside simulations and without."""
  smoke = scale == "smoke"
  size = lambda T, seeds: {
    "num_generations": 2 if smoke else T,
    "num_seeds": 2 if smoke else 10 * seeds if scale == "paper" else seeds,
    "compare": not smoke,
  }
  return size, lambda T, seeds: size(T, seeds) | {"compare": False}


def _named(prefix: str, found: dict, scale: str) -> dict:
  """Experiments by name, of the smallest grids at smoke scale."""
  few = SMALLEST if scale == "smoke" else {}
  return {
    f"{prefix}{name}": (run, options | {flag: value for flag, value in few.items() if flag in options})
    for name, (run, options) in found.items()
  }


def related(scale: str) -> dict:
  """The same of the systems of other papers; predictions stand beside simulations, once for each, but at smoke scale."""
  size, again = _sizes(scale)
  fractions = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8]
  found = {
    "token_editing": (
      token_editing.simulate,
      {"workflows": WORKFLOWS[:2], "bases": ["none", "anchor", "chain"], "thresholds": [0.5], "num_samples": [200]}
      | size(12, 20),
    ),
    "label_editing": (
      label_editing.simulate,
      {
        "workflows": ["replace"],
        "bases": ["anchor", "chain"],
        "masks": ["fresh", "fixed", "disjoint"],
        "noises": ["regenerated", "additive"],
        "shares": [0.1, 0.25],
        "dims": [2],
        "num_samples": [400],
      }
      | size(12, 200),
    ),
    "curation/ring": (
      curation.simulate,
      {
        "setting": "ring",
        "num_candidates": [2, 8],
        "real_fractions": [0.0, 0.5],
        "flip_shares": [0.0],
        "num_samples": [400],
      }
      | size(12, 10),
    ),
    "curation/digits": (
      curation.simulate,
      {
        "setting": "digits",
        "num_candidates": [4],
        "real_fractions": [0.0, 0.5],
        "flip_shares": [0.0],
        "num_samples": [400],
      }
      | again(12, 10),
    ),
    "curation/flipped": (
      curation.simulate,
      {
        "setting": "two_types",
        "num_candidates": [2],
        "real_fractions": [0.0, 0.5, 0.8],
        "flip_shares": [0.0, 0.3, 0.7],
        "num_samples": [1000],
      }
      | again(12, 40),
    ),
    "verification/frontier": (
      verification.simulate,
      {
        "workflows": ["replace"],
        "errors": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        "psis": [0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0],
        "num_samples": [4000],
      }
      | size(2, 10),
    ),
    "verification/loop": (
      verification.simulate,
      {
        "workflows": WORKFLOWS[:2],
        "errors": [0.3],
        "psis": [0.2],
        "num_samples": [1000],
        "dim": 20,
        "labels": "model",
        "verifiers": ["none", "noisy", "oracle"],
      }
      | again(10, 20),
    ),
    "verification/directions": (
      verification.simulate,
      {
        "workflows": WORKFLOWS[:2],
        "errors": [0.0],
        "psis": [0.0],
        "num_samples": [4000],
        "labels": "model",
        "angles": (1.2, 0.5, 1.234),
        "verifiers": ["none", "linear", "oracle"],
      }
      | again(8, 20),
    ),
    "temperature/frontier": (
      temperature.simulate,
      {
        "temperatures": [0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2],
        "real_fractions": [0.1, 0.2, 0.4, 0.6, 0.8],
        "num_outcomes": [10],
        "num_samples": [400],
      }
      | size(100, 10),
    ),
    "temperature/entropy": (
      temperature.simulate,
      {
        "workflows": WORKFLOWS[:2],
        "temperatures": [0.8, 0.9, 1.0, 1.25, 1.6],
        "probabilities": [0.6, 0.4],
        "num_outcomes": [2],
        "num_samples": [4000],
      }
      | again(100, 10),
    ),
    "mixtures/rise_and_fall": (
      mixtures.simulate,
      {"real_fractions": fractions, "real_weights": [0.0], "num_samples": [100]} | size(10, 2000),
    ),
    "mixtures/discrete": (
      mixtures.simulate,
      {"task": "discrete", "real_fractions": fractions, "real_weights": [0.0], "num_samples": [100]} | again(10, 400),
    ),
    "mixtures/weights": (
      mixtures.simulate,
      {
        "real_fractions": [0.1, 0.2, 0.3, 0.5, 0.7],
        "num_samples": [100],
        "fresh": True,
        "real_weights": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
      }
      | again(10, 2000),
    ),
    "selection/variance": (
      selection.simulate,
      {
        "workflows": ["replace"],
        "setting": "gaussian",
        "keep_fractions": [0.25, 0.5, 0.75, 0.9, 1.0],
        "num_samples": [300],
      }
      | size(8, 40),
    ),
    "selection/unrealistic": (
      selection.simulate,
      {
        "workflows": ["replace"],
        "setting": "unrealistic",
        "keep_fractions": [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0],
        "selections": ["nearest", "random"],
        "num_samples": [300],
      }
      | again(2, 100),
    ),
    "ensembles": (
      ensembles.simulate,
      {
        "datasets": ["moons", "circles", "breast_cancer"],
        "generators": ["gaussian_mixture", "kde"],
        "num_members": [1, 5],
        "num_samples": [200],
      }
      | size(3, 6),
    ),
    "flow": (
      flow.simulate,
      {
        "workflows": ["mix(1)", "mix(0.8)", "mix(0.5)", "mix(0.2)"],
        "data": ["eight_gaussians", "moons"],
        "samplers": ["flow_midpoint(8)", "ddpm_beta(30)"],
        "starts": ["cold", "weights"],
        "amounts": [200],
        "num_samples": [400],
      }
      | size(20, 20),
    ),
    "detector_resampling": (
      detector_resampling.simulate,
      {"workflows": WORKFLOWS[:2], "temperatures": [0.8], "biases": [0.0, 0.5, 1.0], "num_samples": [1000]}
      | size(10, 40),
    ),
  }
  return _named(RELATED, found, scale)


def deep(scale: str) -> dict:
  """The same of deep models; molecules other than the chain where RDKit is installed."""
  smoke, (size, again) = scale == "smoke", _sizes(scale)
  found = {
    "traffic/flows": (
      traffic.simulate,
      {
        "workflows": WORKFLOWS[:2],
        "ends": ["known", "redraw"],
        "roundings": ["none", "truncate"],
        "num_samples": [3 if smoke else 20],
        "length": 10 if smoke else 100,
        "epochs": 1.0 if smoke else 20.0,
      }
      | size(6, 4),
    ),
    "traffic/memory": (
      traffic.simulate,
      {"setting": "memory", "workflows": WORKFLOWS[:2], "coefficients": [0.5, 0.9], "num_samples": [1]}
      | again(10, 400),
    ),
    "vae": (
      vae.simulate,
      {
        "workflows": WORKFLOWS[:2],
        "networks": ["linear", "mlp"],
        "num_samples": [50 if smoke else 1000],
      }
      | size(10, 10),
    ),
    "molecules": (
      molecules.simulate,
      {
        "workflows": WORKFLOWS[:2],
        "molecules": molecules.available(),
        "models": ["von_mises"],
        "num_samples": [20 if smoke else 100],
        "num_conformers": 50 if smoke else 500,
      }
      | size(10, 10),
    ),
    "table": (
      table.simulate,
      {
        "workflows": WORKFLOWS[:2],
        "dataset": "mixed",
        "models": ["copula"] if smoke else ["copula", "tvae", "ctgan"],
        "num_samples": [20 if smoke else 100],
        "steps": 300,
      }
      | size(6, 4),
    ),
    "ensembles": (
      ensembles.simulate,
      {
        "datasets": ["mixed"],
        "generators": ["copula", "tvae", "ctgan"],
        "num_members": [1, 8],
        "num_samples": [200],
        "steps": 200,
      }
      | again(2, 2),
    ),
  }
  return _named(DEEP, found, scale)


def read():
  """Options of `simulate`, from validated flags."""
  scale = flag_values.choice("scale", SCALES)
  known, only = experiments(scale) | related(scale) | deep(scale), flag_values.FLAGS.only
  chosen = {
    name: what
    for name, what in known.items()
    if (fnmatch.fnmatch(name, only) if only is not None else not name.startswith((RELATED, DEEP)))
  }
  if not chosen:
    raise Refused(f"--only={only} matches none of {', '.join(known)}.")
  return {"chosen": chosen, "seed": flag_values.integer("seed", 0)}


class Progress:
  """One bar over experiments, by the seconds that their runs are estimated to take; only experiments of one sweep are in it.

  Args:
    chosen: name -> (function that simulates, its options).
    seed: of all.
  """

  def __init__(self, chosen, seed):
    from tqdm import tqdm

    self._each = {}  # name -> seconds a run
    self._traced = {}  # name -> programs of its sweeps
    total = 0.0
    for name, (function, options) in chosen.items():
      known = len(common.PLANS)
      if name != LANGUAGE:
        with common.planned() as self._traced[name]:
          function(**options, seed=seed)
      seconds = sum(plan.compile_seconds + plan.run_seconds for plan in common.PLANS[known:])
      self._each[name] = seconds / max(sum(plan.runs for plan in common.PLANS[known:]), 1)
      total += seconds
    layout = "{desc}{percentage:.0f}% |{bar:30}| {elapsed} gone, about {remaining} left"
    self._bar = tqdm(
      total=total, bar_format=layout, smoothing=0, mininterval=0.5, disable=not common.is_first_process()
    )
    self._seconds, self._begins = 0.0, True

  def experiment(self, name):
    """The next one; a context in which its programs are not traced again."""
    self._bar.set_description(name)
    self._seconds, self._begins = self._each[name], True
    return common.as_planned(self._traced.pop(name)) if name in self._traced else contextlib.nullcontext()

  def update(self, runs):
    """Of the experiment that is at work; what it has at first was done before, and says nothing of the pace."""
    done = min(runs * self._seconds, self._bar.total - self._bar.n)
    self._bar.initial += done * self._begins
    self._begins = False
    self._bar.update(done)

  def close(self):
    self._bar.close()


def simulate(chosen, seed, directory=None):
  """name -> results; None after a dry run."""
  if flag_values.FLAGS.dry_run:
    return dry_run(chosen, seed)
  results, progress = {}, Progress(chosen, seed)
  common.SHARED.append(progress)
  try:
    for name, (function, options) in chosen.items():
      with progress.experiment(name):
        results[name] = function(**options, seed=seed, directory=directory and directory / name)
  finally:
    common.SHARED.remove(progress)
    progress.close()
  return results


def dry_run(chosen, seed):
  """Says what would run, and in the last line how many hours it takes in all."""
  for name, (function, options) in chosen.items():
    print(f"{name}:", flush=True)
    function(**options, seed=seed)
  from collapse_jax.sweeps import cost

  seconds = sum(plan.compile_seconds + plan.run_seconds for plan in common.PLANS)
  rest = ", language models not counted" if LANGUAGE in chosen else ""
  runs = sum(plan.runs for plan in common.PLANS)
  print(f"in all: {runs} runs, {seconds / 3600:.2g} hours on this machine (about {cost.text(seconds)}){rest}")


def main():
  options = read()
  common.simulate_and_write("results/reproduce", simulate, options, folders=list(options["chosen"]))


if __name__ == "__main__":
  common.main(define, main)
