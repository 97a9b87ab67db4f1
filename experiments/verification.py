"""Verified synthetic labels (Feng et al. 2406.07515): accuracy over the generator's errors and what a verifier lets pass.

  python -m experiments.verification
  python -m experiments.verification --labels=model --errors=0.3 --num_generations=10 --verifiers=none,noisy,oracle
  python -m experiments.verification --setting=directions --num_generations=8 --verifiers=none,linear

Half a minute on 2 cores. Expected: after one round accuracy jumps from near 1 to near 0 where the generator's error rate p
passes the breakdown point 1 / (1 + psi/phi). In the second form each model labels for the next: inputs in two clusters mend the
errors of the first labels by themselves, a verifier does so within one round. In the third a linear verifier that is wrong itself
judges a linear generator (Yi et al. 2510.16657): each round halves the angle to the verifier, and the truth stays as far as it is.
"""

from typing import Any

from absl import flags

from collapse_jax.refused import Refused

from . import common, flag_values

SETTINGS, VERIFIERS = ("clusters", "directions"), ("none", "noisy", "oracle", "linear")


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="4000", num_generations=2, num_seeds=20, workflows="replace", temperatures=False
  )
  flag_values.define_compare()
  flags.DEFINE_string(
    "setting", "clusters", "clusters: two classes, labels with errors; directions: N(0, I), a linear generator."
  )
  flags.DEFINE_string("errors", "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9", "Comma list: p, share of wrong labels.")
  flags.DEFINE_string(
    "psis", "0,0.1,0.2,0.4,0.6,0.8,1", "Comma list: chance that a noisy verifier keeps a wrong label."
  )
  flags.DEFINE_string("phi", "1", "Chance that it keeps a right one.")
  flags.DEFINE_string(
    "verifiers", "noisy", f"Comma list among {', '.join(VERIFIERS)}; linear in the setting directions only."
  )
  flags.DEFINE_string(
    "labels", "noisy", "noisy: labels are wrong with probability p whatever the model; model: its own labels."
  )
  flags.DEFINE_string("dim", "100", "clusters: dimensions of the inputs.")
  flags.DEFINE_string("separation", "1", "clusters: distance of a class from 0, in standard deviations.")
  flags.DEFINE_string("generator_angle", "1.2", "directions: of the generator to the truth, radians.")
  flags.DEFINE_string("verifier_angle", "0.5", "directions: of the linear verifier to the truth, radians.")
  flags.DEFINE_string("angle_between", "1.234", "directions: generator to verifier, radians.")


def simulate(
  workflows,
  errors,
  psis,
  num_samples,
  phi=1.0,
  verifiers=("noisy",),
  labels="noisy",
  dim=100,
  separation=1.0,
  angles=None,
  compare=True,
  **options,
):
  """The sweep behind this binary; None after a dry run.

  Args:
    angles: (generator to truth, verifier to truth, generator to verifier) in the setting directions, else None.
  """

  def task(label_error, psi, verifier, num_samples):
    import numpy as np

    from collapse_jax import tasks, theory, transforms
    from collapse_jax.transforms import verifiers as known

    if angles is None:
      direction = None
      one = tasks.classification(dim, num_samples, separation, label_error=label_error, labels=labels)
    else:
      direction = np.array([np.cos(angles[1]), np.sin(angles[1]), 0.0])
      one = tasks.classification(
        3, num_samples, inputs="gaussian", generator=theory.generator_direction(*angles), reference=direction
      )
    keep = {
      "none": known.noisy(1.0, 1.0),
      "noisy": known.noisy(phi, psi),
      "oracle": known.oracle(),
      "linear": known.linear(direction),
    }[verifier]
    return transforms.verify(one, keep)

  axes = {"label_error": list(errors), "psi": list(psis), "verifier": list(verifiers), "num_samples": list(num_samples)}
  results = common.simulate(task, workflows, axes, primary_metric="accuracy", **options)
  about = {"dim": dim, "separation": separation} if angles is None else {"angles": list(angles)}
  return common.related(results, "verification", compare, phi=phi, labels=labels, **about)


def read():
  """Options of `simulate`, from validated flags."""
  setting = flag_values.choice("setting", SETTINGS)
  options: dict[str, Any] = {
    "errors": flag_values.shares("errors"),
    "psis": flag_values.shares("psis"),
    "phi": flag_values.share("phi", zero=False),
    "verifiers": flag_values.choices("verifiers", VERIFIERS),
    "labels": flag_values.choice("labels", ("noisy", "model")),
    "num_samples": flag_values.integers("num_samples", 2),
    "dim": flag_values.integer("dim", 2),
    "separation": flag_values.positive("separation"),
  }
  angles = tuple(flag_values.positive(name) for name in ("generator_angle", "verifier_angle", "angle_between"))
  if (
    setting == "directions"
  ):  # the generator's labels are wrong by its angle, and the noisy verifier's psi is one number
    given = [name for name in ("errors", "psis") if flag_values.FLAGS[name].present and len(options[name]) > 1]
    if given:
      raise Refused(f"--{given[0]} must be a single number in --setting=directions.")
    _check_angles(angles)
    options |= {"errors": [0.0], "psis": options["psis"][:1], "labels": "model", "angles": angles}
  elif "linear" in options["verifiers"]:
    raise Refused("--verifiers=linear needs --setting=directions.")
  return options | flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}


def _check_angles(angles):
  """Three directions have angles of which none exceeds the sum of the others."""
  if max(angles) > min(sum(angles) - max(angles), 3.14159):
    raise Refused(
      "--generator_angle, --verifier_angle and --angle_between must be angles of three directions: none "
      f"above pi or above the sum of the others, got {', '.join(f'{one:g}' for one in angles)}."
    )


def main():
  common.simulate_and_write("results/verification", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
