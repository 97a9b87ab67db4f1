"""Verified synthetic data (Feng et al. 2406.07515; Yi et al. 2510.16657)."""

import itertools

import jax.numpy as jnp
import numpy as np

from collapse_jax import store, tasks, theory, transforms, workflows
from collapse_jax.plotting.panels import finish, panels, text_of, viridis
from collapse_jax.random import normal
from collapse_jax.systems.drawing import GREY, SHADES, THEORY, curves, heat_map, is_chain, name_axes, points, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair
from collapse_jax.transforms import verifiers
from collapse_jax.types import TaskSetting

__all__ = ["SYSTEM", "figures", "normal_mean", "pairs"]

SOURCE = "2406.07515"
# Accuracy at p* - .15, - .05, + .05, + .15, as simulated by the notes, of verifiers (phi, psi).
ACCURACIES = {
  (1.0, 1.0): (0.812, 0.717, 0.294, 0.193),
  (0.9, 0.3): (0.798, 0.677, 0.310, 0.192),
  (0.6, 0.8): (0.808, 0.662, 0.324, 0.199),
}
ANGLES = 1.2, 0.5, 1.234  # of generator and verifier to the truth, and between the two


def pairs(seed: int = 0) -> list[Pair]:
  """Predictions beside simulations."""
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


def figures(results):
  """Accuracy over errors and what a noisy verifier lets pass, with the predicted frontier; or over generations."""
  if results.attrs.get("labels") == "model":
    return sliced("verification", results, ("label_error", "psi", "verifier", "workflow"), _verified_loops)
  noisy = results.sel(verifier=["noisy"]) if "noisy" in results.verifier.values else results.isel(verifier=[0])

  def draw(part):
    figure, axes = panels(1, 1)
    axis, psi, error = axes[0][0], part.psi.values, part.label_error.values
    last = part.accuracy.isel(generation=-1).mean("seed").transpose("label_error", "psi").sortby(["label_error", "psi"])
    if min(last.shape) > 1:
      heat_map(figure, axis, np.sort(psi), np.sort(error), last.values, "accuracy on real data")
      limits = axis.get_xlim(), axis.get_ylim()
      curve = np.linspace(limits[0][0], limits[0][1], 200)
      axis.plot(
        curve,
        theory.breakdown_point(float(part.attrs["phi"]), np.clip(curve, 0, 1)),
        "w--",
        linewidth=2,
        label="predicted frontier p = 1 / (1 + ψ/φ)",
      )
      axis.set(xlim=limits[0], ylim=limits[1])
      axis.set_xlabel("psi, chance that a wrong label is kept")
      axis.set_ylabel("p, share of wrong labels")
      legend = axis.legend(fontsize=8, facecolor=GREY, labelcolor="white", loc="lower left")
      legend.set_zorder(6)
    else:
      along = "label_error" if len(error) >= len(psi) else "psi"
      values = part.accuracy.isel(generation=-1).squeeze(drop=True)
      points(
        axis,
        part[along].values,
        np.atleast_2d(values.transpose("seed", along).values) if along in values.dims else values.values[:, None],
        SHADES[0],
        None,
      )
      axis.set_xlabel(
        {"label_error": "p, share of wrong labels", "psi": "psi, chance that a wrong label is kept"}[along]
      )
      axis.set_ylabel("accuracy on real data")
    rounds = int(part.generation.values[-1]) - 1
    figure.supxlabel(
      f"after {rounds} round{'s' * (rounds > 1)}; means over {part.sizes['seed']} seeds", fontsize=8, color="0.35"
    )
    return figure

  return sliced("accuracy", noisy, ("label_error", "psi"), draw)


def _angles(part):
  """Angles to the verifier and to the truth over generations, with the law of a linear verifier."""
  metrics = ["angle_to_reference", "angle_to_truth"]
  figure, axes = panels(len(metrics), part.sizes["workflow"], share_y="row")
  part, left_out, known = part.isel(label_error=0, psi=0), 0, False
  for (i, metric), (j, workflow) in itertools.product(enumerate(metrics), enumerate(part.workflow.values)):
    axes[i][j].set_title(str(workflow), fontsize=9)
    for name, shade in zip(part.verifier.values, SHADES):
      label = {"none": "no verifier", "noisy": "noisy verifier", "linear": "linear verifier"}.get(str(name), str(name))
      left_out += curves(axes[i][j], part, metric, {"workflow": workflow, "verifier": name}, shade, label)
    if "linear" in part.verifier.values and is_chain(part, {"workflow": workflow, "verifier": "linear"}):
      known = True
      generator, verifier, between = map(float, part.attrs["angles"])
      law = theory.linear_verifier_loop(generator, verifier, between, int(part.generation.values[-1]))[i]
      axes[i][j].plot(part.generation.values, law[part.generation.values - 1], **THEORY)
  for row, text in zip(axes, ("angle to the linear verifier\n(radians)", "angle to the truth\n(radians)")):
    row[0].set_ylabel(text)
  for axis in axes[-1]:
    axis.set_xlabel("generation t")
  finish(figure, axes, "", part, left_out, 0, known)
  return figure


def _verified_loops(part):
  """Accuracy over generations in which each model labels for the next."""
  if "angles" in part.attrs:
    return _angles(part)
  figure, axes = panels(part.sizes["label_error"], part.sizes["workflow"], share_y=True)
  left_out = 0
  for (i, error), (j, workflow) in itertools.product(
    enumerate(part.label_error.values), enumerate(part.workflow.values)
  ):
    axis = axes[i][j]
    axis.set_title(f"{workflow}, first labels wrong: {100 * error:.0f} %", fontsize=9)
    kinds = [
      (name, psi)
      for name in part.verifier.values
      for psi in (part.psi.values if name == "noisy" else part.psi.values[:1])
    ]
    for (name, psi), shade in zip(kinds, viridis(len(kinds))):
      label = {"none": "no verifier", "noisy": f"noisy, psi = {text_of(psi)}"}.get(str(name), str(name))
      cell = {"label_error": error, "workflow": workflow, "verifier": name, "psi": psi}
      left_out += curves(axis, part, "accuracy", cell, shade, label)
  name_axes(axes, part, ["accuracy"] * len(axes))
  finish(figure, axes, "", part, left_out, 0, False)
  return figure


TEXT = """## Verification

Feng et al., [2406.07515](https://arxiv.org/abs/2406.07515): only samples that a verifier lets pass are trained on. Probes report the
error rate p, what is kept of right (phi) and wrong labels (psi), and the breakdown point 1 / (1 + psi / phi).

```python
task = transforms.verify(tasks.classification(10, 100, label_error=0.3), verifiers.noisy(phi=0.9, psi=0.3))
workflow = workflows.accumulate()
```

`python -m experiments.verification`. Accuracy near the breakdown point is predicted by an integral over the law of the mean; values to
first order differ by up to .005.

![Accuracy over p and psi](figures/verification.png)

`python -m experiments.verification --labels=model --errors=0.3 --psis=0.2 --dim=20 --num_samples=1000 --num_generations=10
--verifiers=none,noisy,oracle --workflows=replace,accumulate` goes on for generations in which each model labels for the next:

![Verified loops](figures/verification_loop.png)

## Verifiers that are wrong themselves

Yi et al., [2510.16657](https://arxiv.org/abs/2510.16657): the loop goes to the verifier's own centre, not to the truth. A linear
verifier halves the model's angle to itself in each round.

```python
task = transforms.verify(
  tasks.classification(3, 200, inputs="gaussian", generator=[0.4, 0.9, 0.2]), verifiers.linear([0.9, 0.4, 0.0])
)
workflow = workflows.replace()
```

`python -m experiments.verification --setting=directions --num_generations=8 --verifiers=none,linear,oracle
--workflows=replace,accumulate`. Angles to the truth are .707, .537, .497 by the law of bisectors, where simulations elsewhere gave
.71, .55, .51.

![Angles to a wrong verifier and to the truth](figures/verification_directions.png)
"""

SYSTEM = System(TEXT, pairs, figures)
