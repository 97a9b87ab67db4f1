"""Mixtures: rise and fall and total variation (2402.11778), best weights (2502.18049), fresh data (2310.00429)."""

import jax.numpy as jnp
import numpy as np

from collapse_jax import tasks, theory, workflows
from collapse_jax.plotting.panels import finish, panels, text_of, viridis
from collapse_jax.systems.drawing import GREY, SHADES, THEORY, points, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "pairs"]


def pairs(seed: int = 0) -> list[Pair]:
  """Predictions beside simulations."""
  return [*_rise_and_fall(seed), *_total_variation(seed), *_weights(seed), *_fresh(seed)]


def _rise_and_fall(seed):
  """n * error of the mean at t = 10 against synthetic items per real item: it peaks at 4.6."""
  rows, n, T, num_runs = [], 1000, 10, 20_000
  ratios = 1.0, theory.mix_first_order_peak(T), 50.0
  workflow = lambda i: workflows.mix(jnp.asarray([1 / (1 + ratio) for ratio in ratios])[i // num_runs])
  out = simulate(tasks.gaussian(1, n), workflow, len(ratios) * num_runs, T, seed)
  errors = out["squared_error_of_mean"][:, -1].reshape(len(ratios), num_runs)
  for ratio, values in zip(ratios, errors):
    law, twin = (theory.gaussian_mix(n, 1 / (1 + ratio), T, fresh=fresh).mean_error[-1] * n for fresh in (False, True))
    rows.append(
      pair(
        "mixture with real data",
        "2402.11778",
        f"n * error of the mean, t = 10, {ratio:.3g} synthetic per real item",
        n * values,
        law,
        twin,
        float(theory.mix_first_order(T, ratio)),
      )
    )
  return rows


def _total_variation(seed):
  n = 10_000
  out = simulate(tasks.gaussian(1, n, distances=True), workflows.replace(), 4000, 1, seed)
  law, twin = (
    theory.mean_total_variation_of_fit(n),
    1 / (np.pi * np.sqrt(n)),
  )  # the twin knows the error of the mean only
  rows = [
    pair("total variation", "2402.11778", f"of a Gaussian fitted to {n} rows", out["total_variation"][:, 0], law, twin)
  ]
  out = simulate(tasks.discrete(2, 400), workflows.replace(), 20_000, 1, seed)
  law, twin = (theory.total_variation_of_coin(num, 0.5) for num in (400, 440))
  return [
    *rows,
    pair(
      "total variation", "2402.11778", "of a coin estimated from 400 throws", out["total_variation"][:, 0], law, twin
    ),
  ]


def _weights(seed):
  rows, n, num_runs = [], 20, 20_000
  cases = [
    (ratio, name, weight, value)
    for ratio, best, pooled in ((1.0, 0.618, 0.667), (0.25, 0.390, None))  # real per synthetic
    for name, weight, value in (
      ("best weight", float(theory.golden_weight(ratio)), best),
      ("pooled", ratio / (1 + ratio), pooled),
    )
  ]
  table = np.array([(ratio / (1 + ratio), weight) for ratio, _, weight, _ in cases], np.float32)

  def workflow(i):
    share, weight = jnp.asarray(table)[i // num_runs]
    return workflows.mix(share, fresh=True, real_weight=weight)

  out = simulate(tasks.exponential_family("gaussian", n), workflow, len(cases) * num_runs, 40, seed)
  for (ratio, name, weight, value), errors in zip(
    cases, out["squared_error_of_mean"][:, -1].reshape(len(cases), num_runs)
  ):
    law, twin = (float(theory.weighted_mixing_error(weight, by * ratio)) for by in (1, 1.3))
    rows.append(
      pair(
        "weighted mixing",
        "2502.18049",
        f"n * error of the mean, {ratio:g} real per synthetic item, {name}",
        n * errors,
        law,
        twin,
        value,
      )
    )
  return rows


def _fresh(seed):
  n, rows = 100, []
  for fresh in (False, True):
    out = simulate(tasks.gaussian(1, n), workflows.mix(0.25, fresh=fresh), 20_000, 40, seed)
    law = theory.gaussian_mix(n, 0.25, 40, fresh=fresh).mean_error[-1] * n
    rows.append(
      pair(
        "fresh data" if fresh else "iterative retraining",
        "2310.00429",
        "n * error of the mean, 3 synthetic per real item, t = 40",
        n * out["squared_error_of_mean"][:, -1],
        law,
        theory.gaussian_mix(n, 0.25, 40, fresh=not fresh).mean_error[-1] * n,
        np.round((4 if fresh else 10) / 7, 3),
      )
    )
  return rows


def figures(results):
  """Error against synthetic items per real item, or against the weight of fresh real rows; laws and bound."""
  fresh = bool(results.attrs.get("fresh"))
  by_weight = results.sizes["real_weight"] > 1
  return sliced(
    "mixtures",
    results,
    ("real_fraction", "real_weight"),
    lambda part: _by_weight(part, fresh) if by_weight else _by_ratio(part, fresh),
  )


def _at_end(part, metric, **at):
  return part[metric].isel(generation=-1).sel(at)


def _by_ratio(part, fresh):
  """Squared error of a Gaussian's mean beside total variation; of other models the latter alone."""
  gaussian = part.attrs.get("model", "gaussian") == "gaussian"
  figure, axes = panels(1, 1 + gaussian)
  n, T = int(part.num_samples.values), int(part.generation.values[-1])
  fraction = np.sort(part.real_fraction.values)
  fraction = fraction[(fraction > 0) & (fraction < 1)]
  ratio = (1 - fraction) / fraction
  at = {"real_weight": part.real_weight.values[0]}
  weight = float(at["real_weight"])
  left, right = axes[0][0], axes[0][-1]
  known, left_out = gaussian and weight == 0, 0
  if gaussian:
    errors = (
      n
      * _at_end(part, "squared_error_of_mean", **at)
      .sel(real_fraction=fraction)
      .transpose("seed", "real_fraction")
      .values
    )
    left_out = points(left, ratio, errors, SHADES[0], "simulated")
    left.set_ylabel(f"n * squared error of the mean at t = {T}")
  if known:
    law = [theory.gaussian_mix(n, f, T, fresh=fresh).mean_error[-1] * n for f in fraction]
    left.plot(ratio, law, **THEORY)
    if not fresh and T > 2:
      left.axvline(float(theory.mix_first_order_peak(T)), color=GREY, linestyle=":", linewidth=1)
  distance = (
    _at_end(part, "total_variation", **at).sel(real_fraction=fraction).transpose("seed", "real_fraction").values
  )
  points(right, ratio, distance, SHADES[0], None if gaussian else "simulated")
  if "total_variation_error" in part and not gaussian:  # of each run's estimate
    error = float(_at_end(part, "total_variation_error", **at).mean())
    right.plot([], [], " ", label=f"error of each estimate: {error:.2g}")
  if known:
    bounds = []
    for f in fraction:
      shares = np.zeros((T, T))
      shares[0, 0], shares[1:, 0] = 1, f
      shares[np.arange(1, T), np.arange(1, T)] = 1 - f
      first = [theory.mean_total_variation_of_fit(n), *[theory.mean_total_variation_of_fit(n / f)] * (T - 1)]
      bounds.append(theory.mixture_bound(first, shares)[-1])
    right.plot(ratio, bounds, color=SHADES[1], linestyle="-.", linewidth=1.2, label="bound (first order)")
  right.set_ylabel(f"total variation from the truth at t = {T}")
  for axis in axes[0]:
    axis.set_xscale("log")
    axis.set_xlabel("synthetic rows per real row")
  note = "dotted: where the first order has its maximum" if known and not fresh and T > 2 else ""
  finish(figure, axes, "", part, left_out, 0, known, note)
  return figure


def _by_weight(part, fresh):
  """Metric against the weight, a curve a share of real rows; and, for a Gaussian, the best weight against that share."""
  gaussian = part.attrs.get("model", "gaussian") == "gaussian"
  metric, scale = ("squared_error_of_mean", float(part.num_samples.values)) if gaussian else ("total_variation", 1.0)
  T, known = int(part.generation.values[-1]), fresh and gaussian
  figure, axes = panels(1, 2, share_x=False)
  left, right = axes[0]
  weights, fractions, left_out = np.sort(part.real_weight.values), np.sort(part.real_fraction.values), 0
  inner = fractions[(fractions > 0) & (fractions < 1)]
  for fraction, shade in zip(inner, viridis(len(inner))):
    values = (
      scale * _at_end(part, metric, real_fraction=fraction, real_weight=weights).transpose("seed", "real_weight").values
    )
    left_out += points(left, weights, values, shade, f"real share {text_of(fraction)}")
    best, error = _lowest(weights, values)
    right.errorbar(fraction, best, 1.96 * error, color=shade, marker="o", markersize=4, capsize=3)
    if known:
      fine = np.linspace(weights[0], weights[-1], 200)
      left.plot(fine, theory.weighted_mixing_error(fine, fraction / (1 - fraction), T)[-1], **THEORY)
  if known:
    fine = np.linspace(0.02, 0.98, 200)
    right.plot(fine, theory.golden_weight(fine / (1 - fine)), **THEORY)
  left.set_ylabel(
    f"n * squared error of the mean at t = {T}" if gaussian else f"total variation from the truth at t = {T}"
  )
  left.set_xlabel("weight of the real rows")
  right.set(xlabel="real share of the rows", ylabel="best weight of the real rows", xlim=(0, 1), ylim=(0, 1.02))
  finish(
    figure,
    axes,
    "",
    part,
    left_out,
    0,
    known,
    "best weights: least of a parabola in log weight, 95% interval by jackknife",
  )
  return figure


def _lowest(x, values, num_blocks: int = 20) -> tuple[float, float]:
  """Where the mean over runs of `values` [runs, x] is least, and its standard error by the jackknife over blocks of runs."""
  values = values[np.isfinite(values).all(axis=1)]

  def least(mean):
    i = int(np.clip(np.argmin(mean), 1, len(x) - 2)) if len(x) > 2 else int(np.argmin(mean))
    if len(x) < 3:
      return x[i]
    a, b, _ = np.polyfit(np.log(x[i - 1 : i + 2]), mean[i - 1 : i + 2], 2)
    return float(np.exp(np.clip(-b / (2 * a), *np.log(x[[i - 1, i + 1]])))) if a > 0 else float(x[np.argmin(mean)])

  whole, blocks = least(values.mean(axis=0)), np.array_split(np.arange(len(values)), min(num_blocks, len(values)))
  if len(blocks) < 2:
    return whole, 0.0
  left = [least(np.delete(values, block, axis=0).mean(axis=0)) for block in blocks]
  return whole, float(np.sqrt((len(blocks) - 1) * np.var(left)))


TEXT = """## General mixtures

Fu et al., [2402.11778](https://arxiv.org/abs/2402.11778): any table of shares over the real batch and earlier models. With one real batch
the error first rises and then falls with the number of synthetic rows.

```python
task = tasks.gaussian(1, 100, distances=True)
workflow = workflows.weights([[1, 0, 0], [0.2, 0.8, 0], [0.2, 0.3, 0.5]])
```

`python -m experiments.mixtures` (`--task=kde` or `discrete` for other models; the distance is exact for discrete models, by
quadrature for the Gaussian, and an estimate with its error for a KDE).

![Rise and fall, and the bound on total variation](figures/mixtures.png)

## Weighted mixing

The golden-ratio weight, [2502.18049](https://arxiv.org/abs/2502.18049): fresh real rows are best given the weight
(sqrt(k^2 + 4 k) - k) / 2, k real rows per synthetic one.

```python
task = tasks.exponential_family("gaussian", 20)
workflow = workflows.mix(0.5, fresh=True, real_weight=0.618)
```

`python -m experiments.mixtures --fresh --real_fractions=0.1,0.2,0.3,0.5,0.7
--real_weights=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1`, 100,000 runs by one program in ten seconds.

![Error against weight, and the best weight against the real share](figures/mixtures_weights.png)

## Fresh data and iterative retraining

Bertrand et al., [2310.00429](https://arxiv.org/abs/2310.00429), and MAD: real rows drawn anew each generation, or the same ones again.

```python
task = tasks.gaussian(1, 100)
workflow = workflows.mix(0.25, fresh=True)
```

`python -m experiments.mixtures --fresh`.

![Error with fresh data](figures/mixtures_fresh.png)
"""

SYSTEM = System(TEXT, pairs, figures)
