"""A figure for each related system: what is simulated, and the law, frontier or bound that it is held against."""

import functools
import itertools
from typing import Any

import numpy as np

from collapse_jax import theory
from collapse_jax.plotting.panels import band, finish, panels, slices, text_of, viridis, wrapped

_SHADES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
_GREY = "#777777"
_THEORY: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1, "zorder": 5}


def figures_for(results) -> dict[str, Any] | None:
  """Figures of a complete Dataset by file name; None where it is not of a related system."""
  draw = {
    "token_editing": _token_editing,
    "label_editing": _label_editing,
    "curation": _curation,
    "verification": _verification,
    "temperature": _temperature,
    "mixtures": _mixtures,
    "selection": _selection,
    "ensembles": _ensembles,
  }.get(str(results.attrs.get("task")))
  return None if draw is None else draw(results)


def _sliced(name, results, drawn, draw) -> dict[str, Any]:
  """One figure per point of the grid dims that are not drawn."""
  rest = [dim for dim in results.cell_status.dims if dim not in drawn]
  return {f"{name}{suffix}": draw(part.squeeze(rest, drop=False)) for suffix, part in slices(results, rest)}


def _curves(axis, results, metric, cell, shade, label, **options) -> int:
  """Metric over generations of one cell; returns the number of runs left out."""
  one = results.sel(cell)
  if str(one.cell_status.values) != "ok":
    return 0
  about = results[metric].attrs
  return band(
    axis,
    results.generation.values,
    one[metric].transpose("seed", "generation").values,
    shade,
    label,
    about.get("log_scale"),
    **options,
  )


def _points(axis, x, values, shade, label, log_scale=False) -> int:
  """Metric against a grid value; `values` is [seed, x]."""
  return band(axis, x, values, shade, label, log_scale, "o")


def _name(axes, results, metrics):
  for row, metric in zip(axes, metrics):
    row[0].set_ylabel(wrapped(results[metric].attrs))
  for axis in axes[-1]:
    axis.set_xlabel("generation t")


def _token_editing(results):
  """Loss, entropy and what is changed, over generations: a column a workflow, a curve an edited base."""

  def draw(part):
    metrics = [name for name in ("test_nll", "entropy", "changed_share") if name in part]
    figure, axes = panels(len(metrics), part.sizes["workflow"], share_y="row")
    left_out = 0
    for (metric, row), (j, workflow) in itertools.product(zip(metrics, axes), enumerate(part.workflow.values)):
      row[j].set_title(str(workflow), fontsize=9)
      for base, shade in zip(part.base.values, _SHADES):
        thresholds = part.threshold.values[:1] if base == "none" else part.threshold.values
        for threshold, style in zip(thresholds, itertools.cycle(("-", ":", "-."))):
          if metric == "changed_share" and base == "none":
            continue
          label = "everything is generated" if base == "none" else f"{base}, threshold {text_of(threshold)}"
          cell = {"base": base, "threshold": threshold, "workflow": workflow}
          left_out += _curves(row[j], part, metric, cell, _GREY if base == "none" else shade, label)
          if row[j].lines:
            row[j].lines[-1].set_linestyle(style)
    _name(axes, part, metrics)
    finish(figure, axes, "", part, left_out, 0, False)
    return figure

  return _sliced("token_editing", results, ("base", "threshold", "workflow"), draw)


def _label_editing(results):
  """Error over that of the first fit: a row a form of noise, a column a mask, a curve a base and share; the paper's bound."""

  def draw(part):
    figure, axes = panels(part.sizes["noise"], part.sizes["mask"], share_y="row")
    cells = list(itertools.product(part.base.values, part.share.values))
    n, dim, T = int(part.num_samples.values), int(part.dim.values), int(part.generation.values[-1])
    left_out, known = 0, False
    for (i, noise), (j, mask) in itertools.product(enumerate(part.noise.values), enumerate(part["mask"].values)):
      axis = axes[i][j]
      axis.set_title(f"{noise}, {mask} masks", fontsize=9)
      for (base, share), shade in zip(cells, viridis(len(cells))):
        one = part.sel(noise=noise, mask=mask, base=base, share=share)
        if str(one.cell_status.values) != "ok":
          continue
        error = one.test_mse.transpose("seed", "generation").values * (n - dim - 1) / dim
        left_out += band(axis, part.generation.values, error, shade, f"{base}, share {text_of(share)}", False)
        try:
          law = theory.edited_regression(float(share), T, base=str(base), mask=str(mask), noise=str(noise))
        except ValueError:  # disjoint masks that do not fill the rows
          continue
        known = True
        axis.plot(part.generation.values, law[part.generation.values - 1], **_THEORY)
      axis.axhline(2, color=_GREY, linestyle=":", linewidth=1)
    for row in axes:
      row[0].set_ylabel("test error / expected\nerror of the first fit")
    for axis in axes[-1]:
      axis.set_xlabel("generation t")
    finish(
      figure, axes, "", part, left_out, 0, known, "dotted: the paper's bound, for additive noise and disjoint masks"
    )
    return figure

  return _sliced("label_editing", results, ("noise", "base", "mask", "share"), draw)


def _curation(results):
  """Reward and its variance over generations, a column a share of real data; shares of classes below one another."""
  metrics = ["candidate_reward", "variance_of_exp_reward"]
  metrics += ["marginal_mean", "covariance_trace_ratio"] if results.attrs["setting"] == "gaussian" else []
  metrics += [name for name in ("test_nll", "kl_from_truth") if name in results]

  def draw(part):
    figure, axes = panels(len(metrics), part.sizes["real_fraction"], share_y="row")
    left_out, known, bounded, t = 0, False, False, part.generation.values
    cells = list(itertools.product(part.num_candidates.values, part.flip_share.values))
    for (metric, row), (j, fraction) in itertools.product(zip(metrics, axes), enumerate(part.real_fraction.values)):
      row[j].set_title(f"real share {text_of(fraction)}", fontsize=9)
      per_real = (1 - fraction) / fraction if fraction else np.inf
      for (num, flip), shade in zip(cells, viridis(len(cells))):
        label = f"K = {num}" + (f", {100 * flip:.0f} % flipped" if len(part.flip_share) > 1 else "")
        cell = {"real_fraction": fraction, "num_candidates": num, "flip_share": flip}
        left_out += _curves(row[j], part, metric, cell, shade, label)
        law = _curation_law(part.attrs, metric, int(num), float(flip), per_real, int(t[-1]))
        if law is not None:
          known = True
          row[j].plot(t, law[t - 1], **_THEORY)
        bound = theory.curation_divergence_bound(int(num), per_real)
        if metric == "kl_from_truth" and flip == 0 and np.isfinite(bound):
          bounded = True
          row[j].axhline(bound, color=shade, linestyle=":", linewidth=1.2)
      if metric == "test_nll":
        row[j].set_yscale("symlog", linthresh=10)
    _name(axes, part, metrics)
    finish(figure, axes, "", part, left_out, 0, known, "dotted: bound on the divergence" if bounded else "")
    return figure

  figures = _sliced("curation", results, ("real_fraction", "num_candidates", "flip_share"), draw)
  for metric in ("component_share", "class_share"):
    if metric in results:
      figures |= _sliced(metric, results, ("real_fraction", "num_candidates"), functools.partial(_shares, metric))
  return figures


def _curation_law(about, metric, num_candidates, flip_share, synthetic_per_real, T):
  """The law [T] of a metric for many rows, where there is one."""
  if T < 2:
    return None
  if about["setting"] == "two_types":
    share, gap = float(about["share"]), float(about["gap"])
    p = np.array(
      [
        share,
        *theory.curation_two_types(
          share, gap, num_candidates, T - 1, flip_share=flip_share, synthetic_per_real=synthetic_per_real
        ),
      ]
    )
    divergence = p * np.log(p / share) + (1 - p) * np.log(np.maximum(1 - p, 1e-300) / (1 - share))
    return {
      "candidate_reward": gap * p,
      "variance_of_exp_reward": p * (1 - p) * np.expm1(gap) ** 2,
      "kl_from_truth": divergence,
    }.get(metric)
  if about["setting"] == "gaussian" and flip_share == 0 and np.isinf(synthetic_per_real):
    means, variances = theory.curation_gaussian(float(about["centre"]), float(about["width"]), num_candidates, T - 1)
    mean, variance = np.array([0, *means]), np.array([1, *variances])
    return {
      "marginal_mean": mean,
      "covariance_trace_ratio": variance,
      "kl_from_truth": 0.5 * (variance + mean**2 - 1 - np.log(variance)),
    }.get(metric)
  return None


def _shares(metric, part):
  """Stacked shares over generations: a row a number of candidates, a column a share of real data."""
  from matplotlib import colormaps

  figure, axes = panels(part.sizes["num_candidates"], part.sizes["real_fraction"], share_y=True)
  dim = next(dim for dim in part[metric].dims if dim in ("component", "class_label"))
  shades = colormaps["tab10"](np.arange(part.sizes[dim]) % 10)
  for (i, num), (j, fraction) in itertools.product(
    enumerate(part.num_candidates.values), enumerate(part.real_fraction.values)
  ):
    shares = (
      part[metric].sel(num_candidates=num, real_fraction=fraction).mean("seed").transpose(dim, "generation").values
    )
    names = [f"{'mode' if metric == 'component_share' else 'class'} {k}" for k in range(len(shares))]
    axes[i][j].stackplot(part.generation.values, shares, colors=shades, labels=names)
    axes[i][j].set_title(f"K = {num}, real share {text_of(fraction)}", fontsize=9)
    axes[i][j].set_ylim(0, 1)
  for axis in axes[-1]:
    axis.set_xlabel("generation t")
  axes[0][0].set_ylabel(wrapped(part[metric].attrs))
  finish(figure, axes, "", part, 0, 0, False, "means over seeds")
  return figure


def heat_map(figure, axis, x, y, values, label):
  """Values [y, x] as coloured cells around their points, which need not be evenly spaced."""
  image = axis.pcolormesh(x, y, values, shading="nearest", cmap="viridis")
  figure.colorbar(image, ax=axis, label=label)


def _verification(results):
  """Accuracy over errors and what a noisy verifier lets pass, with the predicted frontier; or over generations."""
  if results.attrs.get("labels") == "model":
    return _sliced("verification", results, ("label_error", "psi", "verifier", "workflow"), _verified_loops)
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
      legend = axis.legend(fontsize=8, facecolor=_GREY, labelcolor="white", loc="lower left")
      legend.set_zorder(6)
    else:
      along = "label_error" if len(error) >= len(psi) else "psi"
      values = part.accuracy.isel(generation=-1).squeeze(drop=True)
      _points(
        axis,
        part[along].values,
        np.atleast_2d(values.transpose("seed", along).values) if along in values.dims else values.values[:, None],
        _SHADES[0],
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

  return _sliced("accuracy", noisy, ("label_error", "psi"), draw)


def _angles(part):
  """Angles to the verifier and to the truth over generations, with the law of a linear verifier."""
  metrics = ["angle_to_reference", "angle_to_truth"]
  figure, axes = panels(len(metrics), part.sizes["workflow"], share_y="row")
  part, left_out, known = part.isel(label_error=0, psi=0), 0, False
  for (i, metric), (j, workflow) in itertools.product(enumerate(metrics), enumerate(part.workflow.values)):
    axes[i][j].set_title(str(workflow), fontsize=9)
    for name, shade in zip(part.verifier.values, _SHADES):
      label = {"none": "no verifier", "noisy": "noisy verifier", "linear": "linear verifier"}.get(str(name), str(name))
      left_out += _curves(axes[i][j], part, metric, {"workflow": workflow, "verifier": name}, shade, label)
    if "linear" in part.verifier.values and workflow == "replace":
      known = True
      generator, verifier, between = map(float, part.attrs["angles"])
      law = theory.linear_verifier_loop(generator, verifier, between, int(part.generation.values[-1]))[i]
      axes[i][j].plot(part.generation.values, law[part.generation.values - 1], **_THEORY)
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
    curves = [
      (name, psi)
      for name in part.verifier.values
      for psi in (part.psi.values if name == "noisy" else part.psi.values[:1])
    ]
    for (name, psi), shade in zip(curves, viridis(len(curves))):
      label = {"none": "no verifier", "noisy": f"noisy, psi = {text_of(psi)}"}.get(str(name), str(name))
      cell = {"label_error": error, "workflow": workflow, "verifier": name, "psi": psi}
      left_out += _curves(axis, part, "accuracy", cell, shade, label)
  _name(axes, part, ["accuracy"] * len(axes))
  finish(figure, axes, "", part, left_out, 0, False)
  return figure


def _entropies(results):
  """Entropy over generations, a column a workflow, a curve a temperature, with the law for many rows."""

  def draw(part):
    figure, axes = panels(1, part.sizes["workflow"], share_y=True)
    T, left_out, known = int(part.generation.values[-1]), 0, False
    for axis, workflow in zip(axes[0], part.workflow.values):
      axis.set_title(str(workflow), fontsize=9)
      for temperature, shade in zip(part.temperature.values, viridis(part.sizes["temperature"])):
        cell = {"workflow": workflow, "temperature": temperature}
        left_out += _curves(axis, part, "entropy", cell, shade, f"temperature {text_of(temperature)}")
        if "probabilities" in part.attrs and workflow in ("replace", "accumulate"):
          law = theory.heat_death(
            part.attrs["probabilities"], float(temperature), T, accumulate=workflow == "accumulate"
          )
          entropy = -np.sum(law * np.log(np.maximum(law, 1e-300)), axis=1)
          axis.plot(part.generation.values, entropy[part.generation.values - 1], **_THEORY)
          known = True
      axis.set_xscale("log")
    _name(axes, part, ["entropy"])
    finish(figure, axes, "", part, left_out, 0, known, "theory: many rows" if known else "")
    return figure

  return _sliced("entropy", results, ("workflow", "temperature"), draw)


def _temperature(results):
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
      axis.legend(fontsize=8, facecolor=_GREY, labelcolor="white", loc="upper left")
    else:
      for value, shade in zip(part.real_fraction.values, viridis(len(share))):
        values = (
          part.total_variation.isel(generation=-1).sel(real_fraction=value).transpose("seed", "temperature").values
        )
        _points(axis, part.temperature.values, values, shade, f"real share {text_of(value)}")
      axis.legend(fontsize=8, frameon=False)
    axis.set_xlabel("synthetic share of the training rows" if min(one.shape) > 1 else "temperature")
    axis.set_ylabel("temperature" if min(one.shape) > 1 else wrapped(part.total_variation.attrs))
    figure.supxlabel(f"means over {part.sizes['seed']} seeds", fontsize=8, color="0.35")
    return figure

  return _sliced("phase_diagram", results, ("temperature", "real_fraction"), draw)


def _mixtures(results):
  """Error against synthetic items per real item, or against the weight of fresh real rows; laws and bound."""
  fresh = bool(results.attrs.get("fresh"))
  by_weight = results.sizes["real_weight"] > 1
  return _sliced(
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
    left_out = _points(left, ratio, errors, _SHADES[0], "simulated")
    left.set_ylabel(f"n * squared error of the mean at t = {T}")
  if known:
    law = [theory.gaussian_mix(n, f, T, fresh=fresh).mean_error[-1] * n for f in fraction]
    left.plot(ratio, law, **_THEORY)
    if not fresh and T > 2:
      left.axvline(float(theory.mix_first_order_peak(T)), color=_GREY, linestyle=":", linewidth=1)
  distance = (
    _at_end(part, "total_variation", **at).sel(real_fraction=fraction).transpose("seed", "real_fraction").values
  )
  _points(right, ratio, distance, _SHADES[0], None if gaussian else "simulated")
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
    right.plot(ratio, bounds, color=_SHADES[1], linestyle="-.", linewidth=1.2, label="bound (first order)")
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
    left_out += _points(left, weights, values, shade, f"real share {text_of(fraction)}")
    best, error = _lowest(weights, values)
    right.errorbar(fraction, best, 1.96 * error, color=shade, marker="o", markersize=4, capsize=3)
    if known:
      fine = np.linspace(weights[0], weights[-1], 200)
      left.plot(fine, theory.weighted_mixing_error(fine, fraction / (1 - fraction), T)[-1], **_THEORY)
  if known:
    fine = np.linspace(0.02, 0.98, 200)
    right.plot(fine, theory.golden_weight(fine / (1 - fine)), **_THEORY)
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


def _selection(results):
  """Gaussian: variance over generations by kept share; unrealistic samples: accuracy and purity against it."""
  gaussian = results.attrs["setting"] == "gaussian"
  return _sliced(
    "selection",
    results,
    ("keep_fraction", "workflow") if gaussian else ("keep_fraction", "selection"),
    _kept_variance if gaussian else _kept_accuracy,
  )


def _kept_variance(part):
  figure, axes = panels(1, part.sizes["workflow"], share_y=True)
  n, T, num_neighbors = int(part.num_samples.values), int(part.generation.values[-1]), int(part.attrs["num_neighbors"])
  left_out = known = 0
  for axis, workflow in zip(axes[0], part.workflow.values):
    axis.set_title(str(workflow), fontsize=9)
    for keep, shade in zip(part.keep_fraction.values, viridis(part.sizes["keep_fraction"])):
      cell = {"keep_fraction": keep, "workflow": workflow}
      left_out += _curves(axis, part, "covariance_trace_ratio", cell, shade, f"{text_of(keep)} kept")
      if str(workflow) == "replace" and str(part.selection.values) == "nearest":
        law = theory.nearest_loop(float(keep), T, num_neighbors, n) if keep < 1 else np.ones(T)
        known = 1
        axis.plot(
          part.generation.values, (law * (1 - 1 / n) ** np.arange(1, T + 1))[part.generation.values - 1], **_THEORY
        )
    axis.set_yscale("log")
  _name(axes, part, ["covariance_trace_ratio"])
  finish(figure, axes, "", part, left_out, 0, bool(known))
  return figure


def _kept_accuracy(part):
  """Of models of the last generation; what is kept is chosen by nearness, or at random."""
  metrics = [name for name in ("accuracy", "purity") if name in part]
  figure, axes = panels(1, len(metrics))
  keep = np.sort(part.keep_fraction.values)
  left_out = 0
  for axis, metric in zip(axes[0], metrics):
    for selection, shade in zip(part.selection.values, (_SHADES[0], _GREY)):
      values = (
        part[metric].isel(generation=-1).sel(selection=selection, keep_fraction=keep).transpose("seed", "keep_fraction")
      )
      left_out += _points(
        axis, keep, values.values, shade, {"nearest": "nearest to real rows"}.get(str(selection), "at random")
      )
    axis.set_xscale("log")
    axis.set_xlabel("kept share of the samples")
    axis.set_ylabel(wrapped(part[metric].attrs))
  finish(figure, axes, "", part, left_out, 0, False)
  return figure


def _ensembles(results):
  """Classifiers by their training rows: a row a score, a column a data set, real rows as a grey line."""

  def draw(part):
    metrics = [f"downstream_{name}" for name in ("auc", "nll", "brier", "coverage") if f"downstream_{name}" in part]
    figure, axes = panels(len(metrics), part.sizes["dataset"])
    generations = part.generation.values[[0, -1]] if len(part.generation) > 1 else part.generation.values
    left_out = 0
    for (metric, row), (j, dataset) in itertools.product(zip(metrics, axes), enumerate(part.dataset.values)):
      row[j].set_title(str(dataset), fontsize=9)
      cells = itertools.product(part.generator.values, generations)
      for (generator, t), shade in zip(cells, ("#0072B2", "#56B4E9", "#D55E00", "#E69F00")):
        members = np.sort(part.num_members.values)
        members = members[members > 1] if metric.endswith("coverage") else members
        if not len(members):
          continue
        values = part[metric].sel(dataset=dataset, generator=generator, generation=t, num_members=members)
        name = str(generator).replace("_", " ")
        left_out += _points(
          row[j], members, values.transpose("seed", "num_members").values, shade, f"{name}, generation {t}"
        )
        pooled, several = metric.replace("downstream", "pooled"), members[members > 1]
        if pooled in part and len(several):
          values = (
            part[pooled].sel(dataset=dataset, generator=generator, generation=t, num_members=several).mean("seed")
          )
          row[j].plot(several, values, "x:", color=shade, linewidth=1, markersize=5)
      oracle = metric.replace("downstream", "oracle")
      if oracle in part:
        row[j].axhline(
          float(part[oracle].sel(dataset=dataset).isel(generation=0).mean()),
          color=_GREY,
          linewidth=1.2,
          label="trained on real rows",
        )
      row[j].set_xticks(part.num_members.values)
    for row, metric in zip(axes, metrics):
      row[0].set_ylabel(wrapped(part[metric].attrs))
    for axis in axes[-1]:
      axis.set_xlabel("generators")
    axes[0][0].plot([], [], "x:", color="black", linewidth=1, markersize=5, label="one classifier for all rows")
    finish(figure, axes, "", part, left_out, 0, False)
    return figure

  return _sliced("ensembles", results, ("dataset", "generator", "num_members"), draw)
