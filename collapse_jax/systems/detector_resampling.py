"""Resampling by a detector of machine-made text (Drayson et al. 2502.15654), on outcomes instead of texts."""

import itertools

import jax.numpy as jnp
import numpy as np

from collapse_jax import tasks, theory, transforms, workflows
from collapse_jax.plotting.panels import finish, panels, text_of, viridis
from collapse_jax.systems.drawing import THEORY, curves, name_axes, shares_of, sliced
from collapse_jax.systems.runs import expected_shares, simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "TRUTH", "detector", "figures", "pairs", "two_types"]

SOURCE = "2502.15654"
SHARE, RATIO, NUM_SAMPLES, NUM_RUNS = 0.1, 2.0, 20, 20_000
TRUTH, TEMPERATURE = (0.4, 0.3, 0.15, 0.1, 0.05), 0.8
LAWS = {  # metrics of models [T, k], given the truth
  "total_variation": lambda models, truth: 0.5 * np.abs(models - truth).sum(axis=1),
  "entropy": lambda models, truth: -np.sum(models * np.log(np.maximum(models, 1e-300)), axis=1),
}


def detector(probabilities, temperature, bias):
  """Scores [k] of outcomes, (1 - P(machine))^bias, by the best detector of the first generation's samples at a temperature.

  Args:
    probabilities: [k] of the truth.
    temperature, bias: may be traced.
  """
  human = np.asarray(probabilities)
  machine = human ** (1 / temperature)
  return (human / (human + machine / machine.sum())) ** bias


def _models(probabilities, temperature: float, bias: float, shares) -> np.ndarray:
  return theory.tempered_models(probabilities, temperature, shares, detector(probabilities, temperature, bias))


def two_types(num_samples: int, share: float, ratio: float, T: int) -> np.ndarray:
  """Law [T, num_samples + 1] of the rows of one of two types under `replace`, whose score is `ratio` times the other's.

  A Markov chain: samples of the model are binomial, and given them so is what is drawn again.

  Args:
    num_samples: n rows per batch.
    share: of the first type in the truth.
    ratio: of its score to the other's, above 0.
    T: generations.
  """
  from scipy import stats

  number = np.arange(num_samples + 1)
  sampled = stats.binom.pmf(number, num_samples, number[:, None] / num_samples)
  again = stats.binom.pmf(number, num_samples, (ratio * number / (ratio * number + num_samples - number))[:, None])
  laws = [stats.binom.pmf(number, num_samples, share)]
  for _ in range(T - 1):
    laws.append(laws[-1] @ sampled @ again)
  return np.array(laws)


def pairs(seed: int = 0) -> list[Pair]:
  """Predictions beside simulations."""
  return [*_small(seed), *_many(seed)]


def _small(seed):
  """Two types in few rows: how many are of the type that is scored higher, and how often it is lost."""
  task = tasks.discrete(2, NUM_SAMPLES, [1 - SHARE, SHARE])._replace(
    evaluate=lambda key, problem, p: {"share": p[1]}, metrics={}
  )
  task = transforms.reweight(task, lambda rows: jnp.where(rows == 1, RATIO, 1.0))
  share, T = simulate(task, workflows.replace(), NUM_RUNS, 8, seed)["share"], 8
  law, once = two_types(NUM_SAMPLES, SHARE, RATIO, T), two_types(NUM_SAMPLES, SHARE, RATIO**0.5, T)
  number, rows = np.arange(NUM_SAMPLES + 1) / NUM_SAMPLES, []
  for t in (2, 4, 8):
    odds = SHARE / (1 - SHARE) * RATIO ** (t - 1)  # the twin knows no sampling error
    what = f"share of the type of twice the score in {NUM_SAMPLES} rows, t = {t}"
    rows.append(pair("detector", SOURCE, what, share[:, t - 1], law[t - 1] @ number, odds / (1 + odds)))
  what = f"chance that it is lost, t = {T}"
  return [*rows, pair("detector", SOURCE, what, share[:, -1] == 0, law[-1, 0], once[-1, 0])]


def _many(seed):
  """Entropy at a temperature below 1, under two workflows; the twin has no detector."""
  rows, T, biases = [], 5, np.array([0.5, 1.0], np.float32)

  def task(i):
    score = jnp.asarray(detector(TRUTH, TEMPERATURE, jnp.asarray(biases)[i % 2]))
    return transforms.reweight(
      tasks.discrete(len(TRUTH), 20_000, TRUTH, temperature=TEMPERATURE), lambda rows: jnp.take(score, rows)
    )

  for name, workflow in (("replace", workflows.replace()), ("accumulate", workflows.accumulate())):
    out = simulate(task, workflow, 32, T, seed, at_once=8)["entropy"][:, -1]
    for i, bias in enumerate(biases):
      law, twin = (_models(TRUTH, TEMPERATURE, float(b), expected_shares(workflow, T))[-1] for b in (bias, 0.0))
      law, twin = (-np.sum(p * np.log(p)) for p in (law, twin))
      what = f"entropy of five outcomes, {name}, temperature {TEMPERATURE}, bias {bias:g}, t = {T}"
      rows.append(pair("detector", SOURCE, what, out[i::2], law, twin))
  return rows


def figures(results):
  """Distance from the truth, entropy and effective share: a column a workflow, a curve a bias, with the law of many rows."""
  metrics = ["total_variation", "entropy", "effective_share"]

  def draw(part):
    figure, axes = panels(len(metrics), part.sizes["workflow"], share_y="row")
    truth, t, left_out = np.asarray(part.attrs["probabilities"], np.float64), part.generation.values, 0
    known = False
    for (metric, row), (j, workflow) in itertools.product(zip(metrics, axes), enumerate(part.workflow.values)):
      row[j].set_title(str(workflow), fontsize=9)
      for bias, shade in zip(part.bias.values, viridis(part.sizes["bias"])):
        label = f"bias {text_of(bias)}" if bias else "no detector"
        left_out += curves(row[j], part, metric, {"workflow": workflow, "bias": bias}, shade, label)
        shares = shares_of(part, {"workflow": workflow, "bias": bias})
        if metric in LAWS and shares is not None:
          known = True
          models = _models(truth, float(part.temperature), float(bias), shares)
          row[j].plot(t, LAWS[metric](models, truth)[t - 1], **THEORY)
    name_axes(axes, part, metrics)
    finish(figure, axes, "", part, left_out, 0, known, "theory: many rows" if known else "")
    return figure

  return sliced("detector_resampling", results, ("workflow", "bias"), draw)


TEXT = """## Resampling by a detector

Drayson et al., [2502.15654](https://arxiv.org/abs/2502.15654): samples are drawn again in proportion to how human-like a detector of
machine-made text finds them, (1 - P(machine))^bias.

```python
score = lambda rows: jnp.array([0.4, 0.5, 0.6])[rows]
task = transforms.reweight(tasks.discrete(3, 100, [0.6, 0.3, 0.1], temperature=0.8), score)
workflow = workflows.replace()
```

`python -m experiments.detector_resampling`. A detector of the first generation's samples undoes what a temperature below 1 does to
them. Under `replace` later generations drift from what it was made for, and it comes too late; where data accumulate it keeps the
model near the truth.

![Distance from the truth with and without a detector](figures/detector_resampling.png)
"""

SYSTEM = System(TEXT, pairs, figures)
