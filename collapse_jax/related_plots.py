"""A figure for each related system: what is simulated, and the law, frontier or bound that it is held against."""

import functools
import itertools
from typing import Any

import numpy as np

from collapse_jax import theory
from collapse_jax.panels import band, finish, panels, slices, text_of, viridis, wrapped

_SHADES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
_GREY = "#777777"
_THEORY: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1, "zorder": 5}


def figures_for(results) -> dict[str, Any] | None:
  """Figures of a complete Dataset by file name; None where it is not of a related system."""
  draw = {"token_editing": _token_editing, "curation": _curation, "verification": _verification, "temperature": _temperature,
          "mixtures": _mixtures, "selection": _selection, "ensembles": _ensembles}.get(str(results.attrs.get("task")))
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
  return band(axis, results.generation.values, one[metric].transpose("seed", "generation").values, shade, label,
              about.get("log_scale"), **options)


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


def _curation(results):
  """Reward and its variance over generations, a column a share of real data; shares of classes below one another."""
  setting = results.attrs["setting"]
  metrics = ["candidate_reward", "variance_of_exp_reward"]
  metrics += ["marginal_mean", "covariance_trace_ratio"] if setting == "gaussian" else []
  metrics += ["test_nll"] if "test_nll" in results else []

  def draw(part):
    figure, axes = panels(len(metrics), part.sizes["real_fraction"], share_y="row")
    left_out, known = 0, False
    cells = list(itertools.product(part.num_candidates.values, part.flip_share.values))
    for (metric, row), (j, fraction) in itertools.product(zip(metrics, axes), enumerate(part.real_fraction.values)):
      row[j].set_title(f"real share {text_of(fraction)}", fontsize=9)
      for (num, flip), shade in zip(cells, viridis(len(cells))):
        label = f"K = {num}" + (f", {100 * flip:.0f} % flipped" if len(part.flip_share) > 1 else "")
        cell = {"real_fraction": fraction, "num_candidates": num, "flip_share": flip}
        left_out += _curves(row[j], part, metric, cell, shade, label)
        law = _curation_law(setting, metric, int(num), float(flip), float(fraction), int(part.generation.values[-1]))
        if law is not None:
          known = True
          row[j].plot(part.generation.values, law[part.generation.values - 1], **_THEORY)
    _name(axes, part, metrics)
    finish(figure, axes, "", part, left_out, 0, known)
    return figure
  figures = _sliced("curation", results, ("real_fraction", "num_candidates", "flip_share"), draw)
  for metric in ("component_share", "class_share"):
    if metric in results:
      figures |= _sliced(metric, results, ("real_fraction", "num_candidates"), functools.partial(_shares, metric))
  return figures


def _curation_law(setting, metric, num_candidates, flip_share, real_fraction, T):
  """The law [T] of a metric, where there is one."""
  if T < 2:
    return None
  if setting == "two_types" and metric == "candidate_reward":
    if real_fraction == 0:
      return np.array([0.1, *theory.curation_two_types(0.1, 1.0, num_candidates, T - 1, flip_share=flip_share)])
    if num_candidates == 2 and flip_share == 0:
      return np.full(T, theory.curation_two_types_limit(0.1, 1.0, (1 - real_fraction) / real_fraction))
  if setting == "gaussian" and flip_share == 0 and real_fraction == 0:
    means, variances = theory.curation_gaussian(2, 2, num_candidates, T - 1)
    return {"marginal_mean": np.array([0, *means]), "covariance_trace_ratio": np.array([1, *variances])}.get(metric)
  return None


def _shares(metric, part):
  """Stacked shares over generations: a row a number of candidates, a column a share of real data."""
  from matplotlib import colormaps
  figure, axes = panels(part.sizes["num_candidates"], part.sizes["real_fraction"], share_y=True)
  dim = next(dim for dim in part[metric].dims if dim in ("component", "class_label"))
  shades = colormaps["tab10"](np.arange(part.sizes[dim]) % 10)
  for (i, num), (j, fraction) in itertools.product(enumerate(part.num_candidates.values), enumerate(part.real_fraction.values)):
    shares = part[metric].sel(num_candidates=num, real_fraction=fraction).mean("seed").transpose(dim, "generation").values
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
      axis.plot(curve, theory.breakdown_point(float(part.attrs["phi"]), np.maximum(curve, 0)), "w--", linewidth=2,
                label="predicted frontier $p = 1 / (1 + \\psi/\\phi)$")
      axis.set(xlim=limits[0], ylim=limits[1])
      axis.set_xlabel("psi, chance that a wrong label is kept")
      axis.set_ylabel("p, share of wrong labels")
      legend = axis.legend(fontsize=8, facecolor=_GREY, labelcolor="white", loc="lower left")
      legend.set_zorder(6)
    else:
      along = "label_error" if len(error) >= len(psi) else "psi"
      values = part.accuracy.isel(generation=-1).squeeze(drop=True)
      _points(axis, part[along].values, np.atleast_2d(values.transpose("seed", along).values) if along in values.dims
              else values.values[:, None], _SHADES[0], None)
      axis.set_xlabel({"label_error": "p, share of wrong labels", "psi": "psi, chance that a wrong label is kept"}[along])
      axis.set_ylabel("accuracy on real data")
    rounds = int(part.generation.values[-1]) - 1
    figure.supxlabel(f"after {rounds} round{'s' * (rounds > 1)}; means over {part.sizes['seed']} seeds", fontsize=8,
                     color="0.35")
    return figure
  return _sliced("accuracy", noisy, ("label_error", "psi"), draw)


def _verified_loops(part):
  """Accuracy over generations in which each model labels for the next."""
  figure, axes = panels(part.sizes["label_error"], part.sizes["workflow"], share_y=True)
  left_out = 0
  for (i, error), (j, workflow) in itertools.product(enumerate(part.label_error.values), enumerate(part.workflow.values)):
    axis = axes[i][j]
    axis.set_title(f"{workflow}, first labels wrong: {100 * error:.0f} %", fontsize=9)
    curves = [(name, psi) for name in part.verifier.values
              for psi in (part.psi.values if name == "noisy" else part.psi.values[:1])]
    for (name, psi), shade in zip(curves, viridis(len(curves))):
      label = {"none": "no verifier", "noisy": f"noisy, psi = {text_of(psi)}"}.get(str(name), str(name))
      cell = {"label_error": error, "workflow": workflow, "verifier": name, "psi": psi}
      left_out += _curves(axis, part, "accuracy", cell, shade, label)
  _name(axes, part, ["accuracy"] * len(axes))
  finish(figure, axes, "", part, left_out, 0, False)
  return figure


def _temperature(results):
  """Distance from the truth over temperature and synthetic share, with the predicted frontier."""
  def draw(part):
    figure, axes = panels(1, 1)
    axis, share = axes[0][0], 1 - part.real_fraction.values
    one = part.total_variation.isel(generation=-1).mean("seed").transpose("temperature", "real_fraction")
    rows, columns = np.argsort(part.temperature.values), np.argsort(share)
    if min(one.shape) > 1:
      heat_map(figure, axis, share[columns], part.temperature.values[rows], one.values[np.ix_(rows, columns)],
               f"total variation at t = {int(part.generation.values[-1])}")
      limits = axis.get_xlim(), axis.get_ylim()
      axis.plot(limits[0], limits[0], "w--", linewidth=2, label="predicted frontier: temperature = synthetic share")
      axis.set(xlim=limits[0], ylim=limits[1])
      axis.legend(fontsize=8, facecolor=_GREY, labelcolor="white", loc="upper left")
    else:
      for value, shade in zip(part.real_fraction.values, viridis(len(share))):
        values = part.total_variation.isel(generation=-1).sel(real_fraction=value).transpose("seed", "temperature").values
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
  return _sliced("mixtures", results, ("real_fraction", "real_weight"),
                 lambda part: _by_weight(part, fresh) if by_weight else _by_ratio(part, fresh))


def _at_end(part, metric, **at):
  return part[metric].isel(generation=-1).sel(at)


def _by_ratio(part, fresh):
  figure, axes = panels(1, 2)
  n, T = int(part.num_samples.values), int(part.generation.values[-1])
  fraction = np.sort(part.real_fraction.values)
  fraction = fraction[(fraction > 0) & (fraction < 1)]
  ratio = (1 - fraction) / fraction
  at = {"real_weight": part.real_weight.values[0]}
  weight = float(at["real_weight"])
  left, right = axes[0]
  errors = n * _at_end(part, "squared_error_of_mean", **at).sel(real_fraction=fraction).transpose("seed", "real_fraction").values
  left_out = _points(left, ratio, errors, _SHADES[0], "simulated")
  if weight == 0:
    law = [theory.gaussian_mix(n, f, T, fresh=fresh).mean_error[-1] * n for f in fraction]
    left.plot(ratio, law, **_THEORY)
    if not fresh and T > 2:
      left.axvline(float(theory.mix_first_order_peak(T)), color=_GREY, linestyle=":", linewidth=1)
  left.set_ylabel(f"n * squared error of the mean at t = {T}")
  distance = _at_end(part, "total_variation", **at).sel(real_fraction=fraction).transpose("seed", "real_fraction").values
  _points(right, ratio, distance, _SHADES[0], None)
  if weight == 0:
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
  note = "dotted: where the first order has its maximum" if weight == 0 and not fresh and T > 2 else ""
  finish(figure, axes, "", part, left_out, 0, weight == 0, note)
  return figure


def _by_weight(part, fresh):
  figure, axes = panels(1, part.sizes["real_fraction"])
  n, T = float(part.num_samples.values), int(part.generation.values[-1])
  weights = np.sort(part.real_weight.values[part.real_weight.values > 0])
  left_out = 0
  for axis, fraction in zip(axes[0], part.real_fraction.values):
    values = _at_end(part, "squared_error_of_mean", real_fraction=fraction, real_weight=weights)
    left_out += _points(axis, weights, n * values.transpose("seed", "real_weight").values, _SHADES[0], "simulated")
    axis.set_title(f"real share {text_of(fraction)}", fontsize=9)
    axis.set_xlabel("weight of the real rows")
    if fresh and 0 < fraction < 1:
      ratio = fraction / (1 - fraction)
      fine = np.linspace(weights[0], weights[-1], 200)
      axis.plot(fine, theory.weighted_mixing_error(fine, ratio, T)[-1], **_THEORY)
      axis.axvline(float(theory.golden_weight(ratio)), color=_GREY, linestyle=":", linewidth=1)
  axes[0][0].set_ylabel(f"n * squared error of the mean at t = {T}")
  finish(figure, axes, "", part, left_out, 0, fresh, "dotted: the best weight as predicted" if fresh else "")
  return figure


def _selection(results):
  """Gaussian: variance over generations by kept share; unrealistic samples: accuracy and purity against it."""
  return _sliced("selection", results, ("keep_fraction", "workflow"),
                 _kept_variance if results.attrs["setting"] == "gaussian" else _kept_accuracy)


def _kept_variance(part):
  figure, axes = panels(1, part.sizes["workflow"], share_y=True)
  n, T, num_neighbors = int(part.num_samples.values), int(part.generation.values[-1]), int(part.attrs["num_neighbors"])
  left_out = known = 0
  for axis, workflow in zip(axes[0], part.workflow.values):
    axis.set_title(str(workflow), fontsize=9)
    for keep, shade in zip(part.keep_fraction.values, viridis(part.sizes["keep_fraction"])):
      cell = {"keep_fraction": keep, "workflow": workflow}
      left_out += _curves(axis, part, "covariance_trace_ratio", cell, shade, f"{text_of(keep)} kept")
      if str(workflow) == "replace":
        rows = np.concatenate([[n], np.full(T - 1, max(round(keep * n), 2))])
        law = theory.nearest_loop(float(keep), T, num_neighbors, n) if keep < 1 else np.ones(T)
        known = 1
        axis.plot(part.generation.values, (law * np.cumprod(1 - 1 / rows))[part.generation.values - 1], **_THEORY)
    axis.set_yscale("log")
  _name(axes, part, ["covariance_trace_ratio"])
  finish(figure, axes, "", part, left_out, 0, bool(known))
  return figure


def _kept_accuracy(part):
  metrics = [name for name in ("accuracy", "purity") if name in part]
  figure, axes = panels(1, len(metrics))
  keep = np.sort(part.keep_fraction.values)
  one = part.isel(workflow=0).sel(keep_fraction=keep)
  shown = part.generation.values[np.unique(np.linspace(min(1, len(part.generation) - 1), len(part.generation) - 1, 3).astype(int))]
  left_out = 0
  for axis, metric in zip(axes[0], metrics):
    for t, shade in zip(shown, viridis(len(shown))):
      values = one[metric].sel(generation=t).transpose("seed", "keep_fraction").values
      left_out += _points(axis, keep, values, shade, f"generation {t}")
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
        left_out += _points(row[j], members, values.transpose("seed", "num_members").values, shade, f"{name}, generation {t}")
      oracle = metric.replace("downstream", "oracle")
      if oracle in part:
        row[j].axhline(float(part[oracle].sel(dataset=dataset).isel(generation=0).mean()), color=_GREY, linewidth=1.2,
                       label="trained on real rows")
      row[j].set_xticks(part.num_members.values)
    for row, metric in zip(axes, metrics):
      row[0].set_ylabel(wrapped(part[metric].attrs))
    for axis in axes[-1]:
      axis.set_xlabel("generators")
    finish(figure, axes, "", part, left_out, 0, False)
    return figure
  return _sliced("ensembles", results, ("dataset", "generator", "num_members"), draw)
