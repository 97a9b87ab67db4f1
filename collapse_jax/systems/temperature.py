"""Temperature: heat death (Marchi et al. 2404.02325) and sampling bias (MAD, 2307.01850)."""

import jax.numpy as jnp
import numpy as np

from collapse_jax import store, tasks, theory, workflows
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, pair

SOURCE = "2404.02325"


def pairs(seed: int = 0) -> list[Pair]:
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
    out = simulate(task, workflows.parse(name)(), 48, T, seed, at_once=8)["entropy"][:, -1]
    for i, temperature in enumerate(temperatures):
      laws = [
        theory.heat_death(truth, float(temperature), T, accumulate=one == "accumulate")[-1] for one in (name, twin_of)
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
  """Shares [num_runs] of the first outcome in Polya's urn, one ball a generation from (8, 2), in model T."""
  first = np.array([0] * 8 + [1] * 2, np.int32)
  task = tasks.discrete(2, 10)
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
