"""Verified synthetic data (Feng et al. 2406.07515; Yi et al. 2510.16657)."""

import jax.numpy as jnp
import numpy as np

from collapse_jax import store, tasks, theory, transforms, workflows
from collapse_jax.random import normal
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, pair
from collapse_jax.transforms import verifiers
from collapse_jax.types import TaskSetting

SOURCE = "2406.07515"
# Accuracy at p* - .15, - .05, + .05, + .15, as simulated by the notes, of verifiers (phi, psi).
ACCURACIES = {
  (1.0, 1.0): (0.812, 0.717, 0.294, 0.193),
  (0.9, 0.3): (0.798, 0.677, 0.310, 0.192),
  (0.6, 0.8): (0.808, 0.662, 0.324, 0.199),
}
ANGLES = 1.2, 0.5, 1.234  # of generator and verifier to the truth, and between the two


def pairs(seed: int = 0) -> list[Pair]:
  return [*_one_round(seed), *_linear(seed), *_near(seed)]


def _one_round(seed):
  rows, dim, n, num_runs = [], 100, 4000, 60
  cases = [
    (phi, psi, float(theory.breakdown_point(phi, psi)) + offset, offset, value)
    for (phi, psi), values in ACCURACIES.items()
    for offset, value in zip((-0.15, -0.05, 0.05, 0.15), values)
  ]
  table = np.array([case[:3] for case in cases], np.float32)

  def task(i):
    phi, psi, error = jnp.asarray(table)[i // num_runs]
    one = tasks.classification(dim, n, 1.0, label_error=error, labels="noisy")
    return transforms.verify(one, verifiers.noisy(phi, psi))

  out = simulate(task, workflows.replace(), len(cases) * num_runs, 2, seed, at_once=num_runs)
  accuracy = out["accuracy"][:, 1].reshape(len(cases), num_runs)
  for (phi, psi, error, offset, value), values in zip(cases, accuracy):
    kept, wrong = n * ((1 - error) * phi + error * psi), theory.kept_error_rate(error, phi, psi)
    law, twin = (theory.verified_accuracy(1.0, dim, num, p) for num, p in ((kept, wrong), (kept, wrong + 0.03)))
    rows.append(
      pair("verification", SOURCE, f"accuracy, phi {phi:g}, psi {psi:g}, p = p* {offset:+g}", values, law, twin, value)
    )
  return rows


def _linear(seed):
  verifier = np.array([np.cos(ANGLES[1]), np.sin(ANGLES[1]), 0.0])
  generator = theory.generator_direction(*ANGLES)
  task = tasks.classification(3, 200_000, inputs="gaussian", generator=generator, reference=verifier)
  out = simulate(transforms.verify(task, verifiers.linear(verifier)), workflows.replace(), 16, 5, seed)
  # The first model is the generator, up to sampling error; its labels are what the probes of generation 1 see.
  rows = [
    pair("linear verifier", SOURCE, name, out[metric][:, 0], law, twin, value)
    for name, metric, law, twin, value in zip(
      ("p", "phi", "psi"),
      ("error_rate", "kept_if_right", "kept_if_wrong"),
      theory.linear_verifier(*ANGLES),
      theory.linear_verifier(ANGLES[0] + 0.05, ANGLES[1] + 0.05, ANGLES[2]),
      (0.382, 0.8625, 0.194),
    )
  ]
  to_verifier, to_truth = theory.linear_verifier_loop(*ANGLES, 6)
  twin = theory.linear_verifier_loop(ANGLES[0], ANGLES[1] + 0.02, ANGLES[2], 6)[1]
  for t, (near, far) in enumerate(zip((0.617, 0.309, 0.154, 0.077), (0.71, 0.55, 0.51, None)), 1):
    rows.append(
      pair(
        "linear verifier",
        "2510.16657",
        f"angle to the verifier after {t} rounds",
        out["angle_to_reference"][:, t],
        to_verifier[t],
        to_verifier[t + 1],
        near,
      )
    )
    rows.append(
      pair(
        "linear verifier",
        "2510.16657",
        f"angle to the truth after {t} rounds",
        out["angle_to_truth"][:, t],
        to_truth[t],
        twin[t],
        far,
      )
    )
  return rows


def normal_mean(num_samples: int, mean: float) -> TaskSetting:
  """The mean of rows of variance 1."""
  draw = lambda key, mean, num: store.batch(mean + normal(key, (num,)))

  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    return jnp.sum(weight * rows) / jnp.sum(weight)

  return TaskSetting(
    lambda key: (None, draw(key, mean, num_samples)),
    fit,
    lambda key, problem, mean, context: (draw(key, mean, context.num), {}),
    lambda key, problem, mean: {"mean": mean},
    num_samples,
  )


def _near(seed):
  task = transforms.verify(normal_mean(100_000, 1.5), verifiers.within(0.3, 1.0))
  out = simulate(task, workflows.replace(), 32, 4, seed)
  law, twin = theory.truncation_loop(1.5, 0.3, 1.0, 4), theory.truncation_loop(1.5, 0.3, 1.05, 4)
  return [
    pair("verifier with a centre", "2510.16657", f"mean after {t} rounds", out["mean"][:, t], law[t], twin[t], value)
    for t, value in zip((1, 2, 3), (0.626, 0.394, 0.327))
  ]
