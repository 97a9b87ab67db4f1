"""Temperature: heat death (Marchi et al. 2404.02325) and sampling bias (MAD, 2307.01850)."""

import jax.numpy as jnp
import numpy as np

from collapse_jax import store, tasks, theory, workflows
from collapse_jax.plotting.panels import finish, panels, text_of, viridis, wrapped
from collapse_jax.systems.drawing import GREY, THEORY, curves, heat_map, name_axes, points, shares_of, sliced
from collapse_jax.systems.runs import expected_shares, simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "pairs", "urn"]

SOURCE = "2404.02325"


def pairs(seed: int = 0) -> list[Pair]:
  """Predictions beside simulations."""
  return [
    *_replace(seed),
    *_outcomes(seed),
    *_exponents(seed),
    *_urn(seed),
    *_external_data(seed),
    *_sampling_bias(seed),
  ]


def _replace(seed):
  """p_t is proportional to p_0^((1/temperature)^t)."""
  task, rows = tasks.exponential_family("bernoulli", 10_000_000, 0.6, temperature=1.25), []
  out = simulate(task, workflows.replace(), 100, 9, seed)
  law, twin = (theory.heat_death([0.6, 0.4], temperature, 9)[:, 0] for temperature in (1.25, 1.3))
  for t in (2, 8):
    rows.append(
      pair(
        "heat death, replace",
        SOURCE,
        f"share of the likelier of two outcomes after {t} samplings at 1.25",
        out["fitted_mean"][:, t],
        law[t],
        twin[t],
      )
    )
  return rows


def _outcomes(seed):
  """Entropy of three outcomes, under `accumulate` too, at temperatures below and above 1."""
  truth, n, T, rows = [0.5, 0.3, 0.2], 200_000, 6, []
  temperatures = np.array([0.7, 1.5], np.float32)
  task = lambda i: tasks.discrete(3, n, truth, temperature=jnp.asarray(temperatures)[i % 2])
  for name, twin_of in (("replace", "accumulate"), ("accumulate", "replace")):
    workflow, other = (workflows.parse(one)() for one in (name, twin_of))
    out = simulate(task, workflow, 48, T, seed, at_once=8)["entropy"][:, -1]
    for i, temperature in enumerate(temperatures):
      laws = [
        theory.tempered_models(truth, float(temperature), expected_shares(one, T))[-1] for one in (workflow, other)
      ]
      law, twin = (-np.sum(p * np.log(p)) for p in laws)
      rows.append(
        pair(
          f"heat death, {name}",
          SOURCE,
          f"entropy of three outcomes after {T - 1} samplings at {temperature:g}",
          out[i::2],
          law,
          twin,
        )
      )
  return rows


def _exponents(seed):
  """Slopes of log |p - 1/2| in log t, from t = 20 to 400, where the deviation is small; references are their limits."""
  rows, temperatures, num_runs = [], (1.25, 1.6, 3.0), 64
  task = lambda i: tasks.exponential_family(
    "bernoulli", 100_000_000, 0.6, temperature=jnp.asarray(temperatures)[i // num_runs]
  )
  out = simulate(task, workflows.accumulate(), len(temperatures) * num_runs, 400, seed)
  for temperature, means in zip(temperatures, out["fitted_mean"].reshape(len(temperatures), num_runs, -1)):
    deviation = means - 0.5
    values = np.log(deviation[:, 399] / deviation[:, 19]) / np.log(20)
    law = theory.heat_death([0.6, 0.4], temperature, 400, accumulate=True)[:, 0] - 0.5
    rows.append(
      pair(
        "heat death, accumulate",
        SOURCE,
        f"slope of log |p - 1/2| in log t, temperature {temperature:g}",
        values,
        np.log(law[399] / law[19]) / np.log(20),
        -1 / temperature,
        theory.heat_death_exponent(temperature),
      )
    )
  return rows


def urn(T: int, num_runs: int, seed: int = 0) -> np.ndarray:
  """Shares [num_runs] of the first outcome in Polya's urn, one ball a generation from (8, 2), in model T.

  Args:
    T: generations.
    num_runs: urns.
    seed: of the runs' keys.
  """
  first = np.array([0] * 8 + [1] * 2, np.int32)
  task = tasks.discrete(2, 10, draws="rows")
  made = task._replace(
    init=lambda key: (task.init(key)[0], store.batch(jnp.asarray(first))),
    evaluate=lambda key, problem, p: {"share": p[0]},
    metrics={},
  )
  return simulate(made, workflows.accumulate(num_emitted=1), num_runs, T, seed)["share"][:, -1]


def _urn(seed):
  T = 400
  share = urn(T, 4000, seed)
  return [
    pair(
      "Polya's urn",
      SOURCE,
      f"variance of the share of 8 in 10 balls, t = {T}",
      (share - 0.8) ** 2,
      theory.polya_variance((8, 2), T),
      theory.polya_variance((8, 2), 40),
      0.01455,
    ),
    pair("Polya's urn", SOURCE, f"mean share, t = {T}", share, 0.8),
  ]


def _external_data(seed):
  """Fresh real data, uniform over two outcomes: |p - 1/2| at a synthetic share of 0.8."""
  beta, T, num, num_runs, rows = 0.8, 1500, 4_000_000, 500, []
  cases = (0.6, 0.3657), (0.7, 0.3118), (0.78, 0.1712), (0.82, None), (0.9, None)
  temperatures = np.array([temperature for temperature, _ in cases], np.float32)
  task = lambda i: tasks.exponential_family("bernoulli", num, 0.5, temperature=jnp.asarray(temperatures)[i // num_runs])
  out = simulate(task, workflows.mix(1 - beta, fresh=True), len(cases) * num_runs, T, seed)
  deviations = np.abs(out["fitted_mean"][:, -1] - 0.5).reshape(len(cases), num_runs)
  for (temperature, value), values in zip(cases, deviations):
    if temperature > beta:
      law, twin = (theory.heat_death_noise(num / share, temperature, beta) for share in (1 - beta, 1.0))
      what = f"E|p - 1/2|, temperature {temperature:g} above the frontier, N = {num / (1 - beta):g}"
    else:
      law, twin = (
        abs(theory.heat_death([0.51, 0.49], temperature, T, synthetic_share=share, real=[0.5, 0.5])[-1, 0] - 0.5)
        for share in (beta, beta + 0.005)
      )
      what = f"|p - 1/2|, temperature {temperature:g} below the frontier"
    rows.append(pair("heat death, external data", SOURCE, what, values, law, twin, value))
  return rows


def _sampling_bias(seed):
  rows = []
  out = simulate(tasks.gaussian(1, 1000, temperature=0.8), workflows.replace(), 2000, 11, seed)
  law, twin = (theory.gaussian_temperature(1000, 0.8, 12).trace_ratio[t] for t in (10, 11))
  rows.append(
    pair(
      "sampling bias, replace",
      "2307.01850",
      "variance after ten samplings at 0.8",
      out["covariance_trace_ratio"][:, 10],
      law,
      twin,
      0.1074,
    )
  )
  for fraction, value in ((0.1, 0.357), (0.5, 0.833)):
    out = simulate(tasks.gaussian(1, 1000, temperature=0.8), workflows.mix(fraction, fresh=True), 2000, 80, seed)
    law, twin = (
      theory.gaussian_temperature(1000, 0.8, 80, real_fraction=f).trace_ratio[-1] for f in (fraction, fraction + 0.02)
    )
    rows.append(
      pair(
        "sampling bias, fresh data",
        "2307.01850",
        f"limit variance at 0.8, real share {fraction:g}",
        out["covariance_trace_ratio"][:, -1],
        law,
        twin,
        value,
      )
    )
  return rows


def figures(results):
  """Distance from the truth over temperature and synthetic share, with the predicted frontier."""
  if "real_fraction" not in results.dims:
    return _entropies(results)

  def draw(part):
    figure, axes = panels(1, 1)
    axis, share = axes[0][0], 1 - part.real_fraction.values
    one = part.total_variation.isel(generation=-1).mean("seed").transpose("temperature", "real_fraction")
    rows, columns = np.argsort(part.temperature.values), np.argsort(share)
    if min(one.shape) > 1:
      heat_map(
        figure,
        axis,
        share[columns],
        part.temperature.values[rows],
        one.values[np.ix_(rows, columns)],
        f"total variation at t = {int(part.generation.values[-1])}",
      )
      limits = axis.get_xlim(), axis.get_ylim()
      axis.plot(limits[0], limits[0], "w--", linewidth=2, label="predicted frontier: temperature = synthetic share")
      axis.set(xlim=limits[0], ylim=limits[1])
      axis.legend(fontsize=8, facecolor=GREY, labelcolor="white", loc="upper left")
    else:
      for value, shade in zip(part.real_fraction.values, viridis(len(share))):
        values = (
          part.total_variation.isel(generation=-1).sel(real_fraction=value).transpose("seed", "temperature").values
        )
        points(axis, part.temperature.values, values, shade, f"real share {text_of(value)}")
      axis.legend(fontsize=8, frameon=False)
    axis.set_xlabel("synthetic share of the training rows" if min(one.shape) > 1 else "temperature")
    axis.set_ylabel("temperature" if min(one.shape) > 1 else wrapped(part.total_variation.attrs))
    figure.supxlabel(f"means over {part.sizes['seed']} seeds", fontsize=8, color="0.35")
    return figure

  return sliced("phase_diagram", results, ("temperature", "real_fraction"), draw)


def _entropies(results):
  """Entropy over generations, a column a workflow, a curve a temperature, with the law for many rows."""

  def draw(part):
    figure, axes = panels(1, part.sizes["workflow"], share_y=True)
    left_out, known = 0, False
    for axis, workflow in zip(axes[0], part.workflow.values):
      axis.set_title(str(workflow), fontsize=9)
      for temperature, shade in zip(part.temperature.values, viridis(part.sizes["temperature"])):
        cell = {"workflow": workflow, "temperature": temperature}
        left_out += curves(axis, part, "entropy", cell, shade, f"temperature {text_of(temperature)}")
        shares = shares_of(part, cell)
        if "probabilities" in part.attrs and shares is not None:
          law = theory.tempered_models(part.attrs["probabilities"], float(temperature), shares)
          entropy = -np.sum(law * np.log(np.maximum(law, 1e-300)), axis=1)
          axis.plot(part.generation.values, entropy[part.generation.values - 1], **THEORY)
          known = True
      axis.set_xscale("log")
    name_axes(axes, part, ["entropy"])
    finish(figure, axes, "", part, left_out, 0, known, "theory: many rows" if known else "")
    return figure

  return sliced("entropy", results, ("workflow", "temperature"), draw)


TEXT = """## Heat death

Marchi et al., [2404.02325](https://arxiv.org/abs/2404.02325): a discrete model is sampled at a temperature. Uniform truth is stable
where the temperature is above the synthetic share.

```python
task = tasks.discrete(10, 100, temperature=0.7)
workflow = workflows.mix(0.2, fresh=True)
```

`python -m experiments.temperature`. At temperature 1 with one row a generation it is Polya's urn. Slopes
under `accumulate` are those between t = 20 and 400, .02 % to 1 % from their limits.

![Phase diagram](figures/temperature.png)

Without real data entropy falls to nothing below temperature 1 and rises to its most above: `python -m experiments.temperature
--workflows=replace,accumulate --probabilities=0.6,0.4 --temperatures=0.8,0.9,1,1.25,1.6 --num_samples=4000`.

![Entropy at other temperatures than 1](figures/temperature_entropy.png)

## Sampling bias

Alemohammad et al. (MAD), [2307.01850](https://arxiv.org/abs/2307.01850): the same knob on a Gaussian multiplies its variance.

```python
task = tasks.gaussian(1, 100, temperature=0.8)
workflow = workflows.mix(0.1, fresh=True)
```

`python -m experiments.gaussian --dims=1 --num_samples=1000 --temperatures=0.8 --num_generations=30
--workflows='replace,mix(0.1,fresh=True),mix(0.5,fresh=True)'`.

![Variance under sampling bias](figures/sampling_bias.png)
"""

SYSTEM = System(TEXT, pairs, figures)
