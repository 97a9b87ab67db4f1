"""Figures of the published systems, of results of known numbers: curves, laws, frontiers and bounds, read back."""

import itertools

import numpy as np
import pytest
from looking import assert_curve, bands, caption, interval, legend, lines, results, runs
from looking import theory as theory_lines

from collapse_jax import plotting, theory

NUM = 6
T = np.arange(1, NUM + 1)


def grid(axes, seed=0):
  """Runs of every cell: no two cells have a mean in common."""
  shape = tuple(map(len, axes.values()))
  mean = 1 + np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape)[..., None] + 0.1 * T
  return runs(mean, spread=0.01, seed=seed)


def figures(system, metrics, axes, about=(), **attributes):
  known = results(metrics, task=system, about=dict(about), **axes).assign_attrs(system=system, **attributes)
  return known, plotting.figures_for(known)


def of_shares(*tables):
  """A table a workflow, as a sweep writes them; what they are called says nothing."""
  return ("workflow", "generation", "batch"), np.stack(tables)


CHAIN = np.eye(NUM)
POOL = np.tril(np.ones((NUM, NUM))) / T[:, None]


def at(known, metric, **cell):
  """Runs [seed, generation] of a cell."""
  one = known[metric].sel(cell).squeeze(drop=True)
  return one.transpose("seed", "generation").values


def panels(figure, columns):
  """Axes by row, colour bars left out."""
  axes = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
  return [axes[i : i + columns] for i in range(0, len(axes), columns)]


def test_token_editing():
  axes = {"workflow": ["replace", "accumulate"], "base": ["none", "anchor", "chain"], "threshold": [0.5, 0.9]}
  metrics = ["test_nll", "entropy", "changed_share"]
  known, drawn = figures("token_editing", {name: grid(axes, i) for i, name in enumerate(metrics)}, axes)
  assert list(drawn) == ["token_editing"]
  cells = [("none", 0.5), ("anchor", 0.5), ("anchor", 0.9), ("chain", 0.5), ("chain", 0.9)]
  for metric, row in zip(metrics, panels(drawn["token_editing"], 2)):
    for axis, workflow in zip(row, axes["workflow"]):
      assert axis.get_title() == workflow
      shown = cells[metric == "changed_share" :]
      assert len(axis.lines) == len(shown)
      for line, (base, threshold), band in zip(axis.lines, shown, bands(axis)):
        values = at(known, metric, workflow=workflow, base=base, threshold=threshold)
        np.testing.assert_allclose(line.get_ydata(), values.mean(axis=0))
        np.testing.assert_allclose(band[1:], interval(values)[1:])
        says = "everything is generated" if base == "none" else f"{base}, threshold {threshold}"
        assert line.get_label() == says and line.get_linestyle() == {0.5: "-", 0.9: ":"}[threshold]
    assert row[0].get_ylabel() == metric.replace("_", " ")


def test_label_editing():
  """Errors over that of the first fit, dim / (n - dim - 1), and its law of the same cell."""
  axes = {
    "workflow": ["replace"],
    "base": ["anchor", "chain"],
    "share": [0.25, 0.5],
    "noise": ["additive", "regenerated"],
    "mask": ["fresh", "disjoint"],
    "num_samples": [23],
    "dim": [2],
  }
  known, drawn = figures("label_editing", {"test_mse": grid(axes)}, axes)
  [figure] = drawn.values()
  for row, noise in zip(panels(figure, 2), axes["noise"]):
    for axis, mask in zip(row, axes["mask"]):
      assert axis.get_title() == f"{noise}, {mask} masks"
      cells = list(itertools.product(axes["base"], axes["share"]))
      laws = [theory.edited_regression(share, NUM, base=base, mask=mask, noise=noise) for base, share in cells]
      assert len(theory_lines(axis)) == 4 and not np.allclose(laws[0], laws[-1])
      for i, (base, share) in enumerate(cells):
        assert_curve(axis, i, T, at(known, "test_mse", base=base, share=share, noise=noise, mask=mask) * 10)
        np.testing.assert_allclose(theory_lines(axis)[i][1], laws[i])
      assert [set(y) for _, y in lines(axis, ":")] == [{2}]
  assert legend(figure)[-1] == "theory"


def test_curation_of_two_types():
  """The law of the share by hand: of two candidates the better with the odds of its reward, beside real data."""
  share, gap = 0.2, 1.5
  axes = {"workflow": ["replace"], "real_fraction": [0.0, 0.8], "num_candidates": [2], "flip_share": [0.0, 0.5]}
  metrics = ["candidate_reward", "variance_of_exp_reward", "kl_from_truth"]
  known, drawn = figures(
    "curation", {name: grid(axes, i) for i, name in enumerate(metrics)}, axes, setting="two_types", share=share, gap=gap
  )
  p = {}
  for fraction, flip in itertools.product(axes["real_fraction"], axes["flip_share"]):
    law = [share]
    odds = 1 / (1 + np.exp(-gap))
    better = (1 - flip) * odds + flip * (1 - odds)
    for _ in T[1:]:
      law.append(fraction * share + (1 - fraction) * (law[-1] ** 2 + 2 * law[-1] * (1 - law[-1]) * better))
    p[fraction, flip] = np.array(law)
  expected = {
    "candidate_reward": lambda p: gap * p,
    "variance_of_exp_reward": lambda p: p * (1 - p) * (np.exp(gap) - 1) ** 2,
    "kl_from_truth": lambda p: p * np.log(p / share) + (1 - p) * np.log((1 - p) / (1 - share)),
  }
  figure = drawn["curation"]
  for metric, row in zip(metrics, panels(figure, 2)):
    for axis, fraction in zip(row, axes["real_fraction"]):
      assert axis.get_title() == f"real share {fraction:g}"
      for i, flip in enumerate(axes["flip_share"]):
        assert_curve(axis, i, T, at(known, metric, real_fraction=fraction, flip_share=flip))
        np.testing.assert_allclose(theory_lines(axis)[i][1], expected[metric](p[fraction, flip]), rtol=1e-6, atol=1e-9)
  [bound] = lines(panels(figure, 2)[2][1], ":")
  assert bound[1] == pytest.approx([-np.log(1 - 0.25)] * 2)
  assert "dotted: bound on the divergence" in caption(figure)


def test_curation_of_a_gaussian():
  axes = {"workflow": ["replace"], "real_fraction": [0.0], "num_candidates": [4], "flip_share": [0.0]}
  metrics = ["candidate_reward", "variance_of_exp_reward", "marginal_mean", "covariance_trace_ratio"]
  _, drawn = figures(
    "curation", {name: grid(axes) for name in metrics}, axes, setting="gaussian", centre=3.0, width=2.0
  )
  means, variances = theory.curation_gaussian(3.0, 2.0, 4, NUM - 1)
  rows = panels(drawn["curation"], 1)
  assert [len(theory_lines(axis)) for [axis] in rows] == [0, 0, 1, 1]
  np.testing.assert_allclose(theory_lines(rows[2][0])[0][1], [0, *means])
  np.testing.assert_allclose(theory_lines(rows[3][0])[0][1], [1, *variances])


def test_shares_are_stacked():
  axes = {"workflow": ["replace"], "real_fraction": [0.0, 0.5], "num_candidates": [2, 8], "flip_share": [0.0]}
  shares = np.random.default_rng(0).dirichlet([1, 1, 1], size=(1, 2, 2, 1, 5, NUM))
  metric = (*axes, "seed", "generation", "class_label"), shares, {"long_name": "share of each class"}
  plain = {name: grid(axes) for name in ("candidate_reward", "variance_of_exp_reward")}
  _, drawn = figures("curation", plain | {"class_share": metric}, axes, setting="digits")
  figure = drawn["class_share"]
  for i, row in enumerate(panels(figure, 2)):
    for j, axis in enumerate(row):
      assert axis.get_title() == f"K = {axes['num_candidates'][i]}, real share {axes['real_fraction'][j]:g}"
      mean = shares[0, j, i, 0].mean(axis=0)
      heights = np.array([high - low for _, low, high in bands(axis)])
      np.testing.assert_allclose(heights, mean.T, atol=1e-12)
      assert axis.get_ylim() == (0, 1)
  assert legend(figure) == ["class 0", "class 1", "class 2"]


def test_verification_frontier():
  """Accuracy of the noisy verifier at the last generation, coloured at its own error and chance, and p = 1 / (1 + psi / phi)."""
  axes = {"workflow": ["replace"], "label_error": [0.5, 0.1, 0.9], "psi": [0.2, 0.8], "verifier": ["none", "noisy"]}
  known, drawn = figures("verification", {"accuracy": grid(axes)}, axes, phi=0.6)
  figure = drawn["accuracy"]
  [[axis]] = panels(figure, 1)
  [mesh] = [one for one in axis.collections if one.get_array() is not None]
  corners = np.asarray(mesh.get_coordinates())
  centres = (corners[:-1, :-1] + corners[1:, 1:]) / 2
  shown = np.asarray(mesh.get_array()).reshape(3, 2)
  for i, error in enumerate([0.1, 0.5, 0.9]):
    for j, psi in enumerate(axes["psi"]):
      np.testing.assert_allclose(centres[i, j], [psi, error], atol=1e-9)
      assert shown[i, j] == pytest.approx(
        at(known, "accuracy", label_error=error, psi=psi, verifier="noisy")[:, -1].mean()
      )
  [(x, y)] = lines(axis, "--")
  inside = (x >= 0) & (x <= 1)
  np.testing.assert_allclose(y[inside], 1 / (1 + x[inside] / 0.6))
  assert inside.sum() > 50 and caption(figure) == "after 5 rounds; means over 5 seeds"
  assert axis.get_xlabel().startswith("psi") and axis.get_ylabel() == "p, share of wrong labels"


def test_verification_over_generations():
  axes = {
    "workflow": ["replace", "accumulate"],
    "label_error": [0.1, 0.4],
    "psi": [0.2, 0.8],
    "verifier": ["none", "noisy", "oracle"],
  }
  known, drawn = figures("verification", {"accuracy": grid(axes)}, axes, labels="model")
  cells = [("none", 0.2), ("noisy", 0.2), ("noisy", 0.8), ("oracle", 0.2)]
  for row, error in zip(panels(drawn["verification"], 2), axes["label_error"]):
    for axis, workflow in zip(row, axes["workflow"]):
      assert axis.get_title() == f"{workflow}, first labels wrong: {100 * error:.0f} %"
      for i, (verifier, psi) in enumerate(cells):
        cell = {"workflow": workflow, "label_error": error, "verifier": verifier, "psi": psi}
        assert_curve(axis, i, T, at(known, "accuracy", **cell))
      assert len(axis.lines) == 4
  assert legend(drawn["verification"]) == ["no verifier", "noisy, psi = 0.2", "noisy, psi = 0.8", "oracle"]


def test_angles_to_a_linear_verifier():
  axes = {"workflow": ["mine", "replace"], "label_error": [0.0], "psi": [0.5], "verifier": ["none", "linear"]}
  metrics = {"angle_to_reference": grid(axes), "angle_to_truth": grid(axes, 1), "accuracy": grid(axes)}
  beside = {"shares": of_shares(CHAIN, POOL)}
  known, drawn = figures("verification", metrics | beside, axes, labels="model", angles=[1.2, 0.5, 1.234])
  laws = theory.linear_verifier_loop(1.2, 0.5, 1.234, NUM)
  for metric, law, row in zip(metrics, laws, panels(drawn["verification"], 2)):
    for axis, workflow in zip(row, axes["workflow"]):
      for i, verifier in enumerate(axes["verifier"]):
        assert_curve(axis, i, T, at(known, metric, workflow=workflow, verifier=verifier))
      assert len(theory_lines(axis)) == (workflow == "mine")
    np.testing.assert_allclose(theory_lines(row[0])[0][1], law)


def test_temperature_over_generations():
  """Of many rows, where each model is fitted to the last one's, frequencies go to p^(1 / temperature) in every generation; where
  all are pooled they are heat_death's. Of unknown shares there is no law."""
  truth = np.array([0.5, 0.3, 0.2])
  axes = {"workflow": ["mine", "replace", "unknown"], "temperature": [0.8, 1.0, 1.3]}
  metrics = {"entropy": grid(axes), "shares": of_shares(CHAIN, POOL, np.nan * POOL)}
  known, drawn = figures("temperature", metrics, axes, probabilities=truth)
  for axis, workflow in zip(panels(drawn["entropy"], 3)[0], axes["workflow"]):
    assert axis.get_xscale() == "log" and axis.get_title() == workflow
    for i, temperature in enumerate(axes["temperature"]):
      assert_curve(axis, i, T, at(known, "entropy", workflow=workflow, temperature=temperature))
      p = truth[None] ** (temperature ** -(T[:, None] - 1.0))
      p = p / p.sum(axis=1, keepdims=True)
      if workflow == "replace":
        p = theory.heat_death(truth, temperature, NUM, accumulate=True)
      if workflow != "unknown":
        np.testing.assert_allclose(theory_lines(axis)[i][1], -(p * np.log(p)).sum(axis=1), rtol=1e-6)
  assert not theory_lines(panels(drawn["entropy"], 3)[0][2])
  some = known.isel(generation=[0, 2, 4])  # of which generations between are not known
  assert not theory_lines(panels(plotting.figures_for(some)["entropy"], 3)[0][0])


def test_temperature_frontier():
  axes = {"workflow": ["mix"], "temperature": [1.0, 0.2, 0.6], "real_fraction": [0.9, 0.3]}
  known, drawn = figures("temperature", {"total_variation": grid(axes)}, axes)
  axis = drawn["phase_diagram"].axes[0]
  [mesh] = [one for one in axis.collections if one.get_array() is not None]
  corners = np.asarray(mesh.get_coordinates())
  centres = (corners[:-1, :-1] + corners[1:, 1:]) / 2
  shown = np.asarray(mesh.get_array()).reshape(3, 2)
  for (i, temperature), (j, share) in itertools.product(enumerate([0.2, 0.6, 1.0]), enumerate([0.1, 0.7])):
    np.testing.assert_allclose(centres[i, j], [share, temperature], atol=1e-9)
    cell = {"temperature": temperature, "real_fraction": {0.1: 0.9, 0.7: 0.3}[share]}
    assert shown[i, j] == pytest.approx(at(known, "total_variation", **cell)[:, -1].mean())
  [(x, y)] = lines(axis, "--")
  np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("fresh", [0, 1])
def test_mixtures_by_ratio(fresh):
  """n times the squared error against synthetic rows per real row, and the exact law of the same share."""
  n = 40
  axes = {"workflow": ["mix"], "real_fraction": [0.5, 0.2, 0.8], "real_weight": [0.0], "num_samples": [n]}
  metrics = {"squared_error_of_mean": grid(axes), "total_variation": grid(axes, 1)}
  known, drawn = figures("mixtures", metrics, axes, model="gaussian", fresh=fresh)
  [[left, right]] = panels(drawn["mixtures"], 2)
  shares = np.array([0.2, 0.5, 0.8])
  for axis, metric, factor in ((left, "squared_error_of_mean", n), (right, "total_variation", 1)):
    last = np.stack([at(known, metric, real_fraction=share)[:, -1] for share in shares], axis=1)
    assert_curve(axis, 0, (1 - shares) / shares, factor * last)
    assert axis.get_xscale() == "log" and axis.get_xlabel() == "synthetic rows per real row"
  law = [n * theory.gaussian_mix(n, share, NUM, fresh=bool(fresh)).mean_error[-1] for share in shares]
  np.testing.assert_allclose(theory_lines(left)[0], ((1 - shares) / shares, law))
  dotted = lines(left, ":")
  assert [x[0] for x, _ in dotted] == ([] if fresh else [float(theory.mix_first_order_peak(NUM))])
  assert len(lines(right, "-.")) == 1


def test_mixtures_by_weight():
  axes = {"workflow": ["mix"], "real_fraction": [0.2, 0.6], "real_weight": [0.8, 0.2, 0.5], "num_samples": [40]}
  values = grid(axes)
  known, drawn = figures("mixtures", {"squared_error_of_mean": values}, axes, model="gaussian", fresh=1)
  [[left, right]] = panels(drawn["mixtures"], 2)
  weights = np.array([0.2, 0.5, 0.8])
  for i, share in enumerate(axes["real_fraction"]):
    last = [at(known, "squared_error_of_mean", real_fraction=share, real_weight=w)[:, -1] for w in weights]
    assert_curve(left, i, weights, 40 * np.stack(last, axis=1))
    fine, law = theory_lines(left)[i]
    np.testing.assert_allclose(law, theory.weighted_mixing_error(fine, share / (1 - share), NUM)[-1])
  [(x, golden)] = theory_lines(right)
  np.testing.assert_allclose(golden, theory.golden_weight(x / (1 - x)))


def test_selection_of_a_gaussian():
  """The law: of the nearest share, and of (1 - 1/n) for each fit."""
  n = 50
  axes = {
    "workflow": ["mine", "replace", "grown"],
    "keep_fraction": [0.3, 1.0],
    "selection": ["nearest"],
    "num_samples": [n],
  }
  size = np.full((3, 2, 1, 1, 5, NUM), float(n))
  size[2] *= T
  metrics = {"covariance_trace_ratio": grid(axes), "train_size": size, "shares": of_shares(CHAIN, POOL, CHAIN)}
  known, drawn = figures("selection", metrics, axes, setting="gaussian", num_neighbors=1)
  [[left, right, grown]] = panels(drawn["selection"], 3)
  for axis, workflow in zip((left, right, grown), axes["workflow"]):
    assert axis.get_title() == workflow and axis.get_yscale() == "log"
    for i, keep in enumerate(axes["keep_fraction"]):
      values = at(known, "covariance_trace_ratio", workflow=workflow, keep_fraction=keep)
      np.testing.assert_allclose(lines(axis, "-")[i][1], values.mean(axis=0))
  some, everything = (y for _, y in theory_lines(left))
  np.testing.assert_allclose(everything, (1 - 1 / n) ** T)
  np.testing.assert_allclose(some, theory.nearest_loop(0.3, NUM, 1, n) * (1 - 1 / n) ** T)
  assert not theory_lines(right) and not theory_lines(grown)


def test_selection_of_unrealistic_samples():
  axes = {"workflow": ["replace"], "keep_fraction": [0.5, 0.1, 1.0], "selection": ["nearest", "random"]}
  known, drawn = figures("selection", {"accuracy": grid(axes), "purity": grid(axes, 1)}, axes, setting="unrealistic")
  for axis, metric in zip(panels(drawn["selection"], 2)[0], ("accuracy", "purity")):
    for i, selection in enumerate(axes["selection"]):
      last = [at(known, metric, keep_fraction=keep, selection=selection)[:, -1] for keep in (0.1, 0.5, 1.0)]
      assert_curve(axis, i, np.array([0.1, 0.5, 1.0]), np.stack(last, axis=1))
      assert axis.lines[i].get_label() == ("nearest to real rows", "at random")[i]
    assert axis.get_ylabel() == metric


def test_ensembles():
  """Curves of the first and the last generation by members, their pooled twin, and what real rows give."""
  axes = {
    "workflow": ["replace"],
    "dataset": ["moons", "wine"],
    "generator": ["kde", "tvae", "ctgan"],
    "num_members": [1, 2, 5],
  }
  names = ["downstream_auc", "pooled_auc", "oracle_auc", "downstream_coverage", "minority_share"]
  known, drawn = figures("ensembles", {name: grid(axes, i) for i, name in enumerate(names)}, axes)
  rarest, auc, coverage = panels(drawn["ensembles"], 2)
  for j, dataset in enumerate(axes["dataset"]):
    assert auc[j].get_title() == dataset
    assert len({one.get_color() for one in auc[j].lines if ", generation" in str(one.get_label())}) == 6
    for i, (generator, t) in enumerate(itertools.product(axes["generator"], (0, -1))):
      last = lambda name, members, dataset=dataset, generator=generator, t=t: np.stack(
        [at(known, name, dataset=dataset, generator=generator, num_members=m)[:, t] for m in members], axis=1
      )
      label = f"{generator}, generation {T[t]}"
      [line] = [one for one in auc[j].lines if one.get_label() == label]
      np.testing.assert_allclose(line.get_ydata(), last("downstream_auc", [1, 2, 5]).mean(axis=0))
      np.testing.assert_allclose(bands(auc[j])[i][1:], interval(last("downstream_auc", [1, 2, 5]))[1:])
      [line] = [one for one in coverage[j].lines if one.get_label() == label]
      np.testing.assert_array_equal(line.get_xdata(), [2, 5])
      np.testing.assert_allclose(line.get_ydata(), last("downstream_coverage", [2, 5]).mean(axis=0))
      pooled = [y for x, y in lines(auc[j], ":") if len(x) == 2]
      np.testing.assert_allclose(pooled[i], last("pooled_auc", [2, 5]).mean(axis=0))
    [real] = [one for one in auc[j].lines if one.get_label() == "trained on real rows"]
    oracle = known.oracle_auc.sel(dataset=dataset).isel(generation=0).values.mean()
    assert real.get_ydata() == pytest.approx([oracle] * 2)
    assert not any(len(x) for x, _ in lines(rarest[j], ":")) and "trained on real rows" not in [
      one.get_label() for one in rarest[j].lines
    ]


def test_flow():
  """Curves by workflow and start, and the law of linear scores, by hand: of rows of the last model, and of no real ones."""
  axes = {
    "workflow": ["real", "half", "replace"],
    "data": ["moons"],
    "sampler": ["flow_euler(20)"],
    "start": ["cold", "weights"],
  }
  half = 0.5 * CHAIN
  half[1:, 0] += 0.5
  half[0, 0] = 1
  real = np.zeros_like(CHAIN)
  real[:, 0] = 1
  names = ("precision", "recall", "sliced_wasserstein", "covariance_trace_ratio")
  metrics = {name: grid(axes, i) for i, name in enumerate(names)} | {"shares": of_shares(real, half, CHAIN)}
  metrics["recall_null"] = grid(axes, 9)
  known, drawn = figures("flow", metrics, axes)
  assert list(drawn) == ["flow"] and legend(drawn["flow"]) == [*axes["workflow"], "of real rows", "theory"]
  assert drawn["flow"].get_suptitle() == "data = moons, sampler = flow_euler(20)"
  g = lambda v: v * theory.variance_factor("flow_euler", num_steps=20, variance=v)
  mixed, alone = [g(1.0)], [g(1.0)]
  for _ in range(NUM - 1):
    mixed.append(g(0.5 + 0.5 * mixed[-1]))
    alone.append(g(alone[-1]))
  for metric, row in zip(names, panels(drawn["flow"], 2)):
    for axis, start in zip(row, axes["start"]):
      for i, workflow in enumerate(axes["workflow"]):
        values = at(known, metric, workflow=workflow, start=start)
        np.testing.assert_allclose(lines(axis, "-")[i][1], values.mean(axis=0))
      laws = [y for _, y in theory_lines(axis)]
      assert len(laws) == 3 * (metric == "covariance_trace_ratio")
      for law, expected in zip(laws, ([g(1.0)] * NUM, mixed, alone)):
        np.testing.assert_allclose(law, expected)


def test_traffic():
  """Flows: a curve for each way of writing values; memory: coefficients beside their law."""
  axes = {"workflow": ["replace", "accumulate"], "ends": ["known", "redraw"], "rounding": ["none", "truncate"]}
  metrics = ["excess_nll", "rules_passed", "atom_share"]
  known, drawn = figures("traffic", {name: grid(axes, i) for i, name in enumerate(metrics)}, axes, setting="flows")
  cells = list(itertools.product(axes["ends"], axes["rounding"]))
  for metric, row in zip(metrics, panels(drawn["traffic"], 2)):
    for axis, workflow in zip(row, axes["workflow"]):
      assert axis.get_title() == workflow
      for i, (ends, rounding) in enumerate(cells):
        assert_curve(axis, i, T, at(known, metric, workflow=workflow, ends=ends, rounding=rounding))
        assert axis.lines[i].get_label() == f"ends {ends}, sizes {rounding}"
  axes = {"workflow": ["replace", "accumulate"], "coefficient": [0.5, 0.9]}
  law = np.arange(2 * 2 * NUM).reshape(2, 2, NUM) / 7
  variances = (("workflow", "coefficient", "seed", "generation", "column"), grid(axes, 1)[..., None], {})
  found = {"lag1_coefficient": grid(axes), "residual_variances": variances, "lag1_coefficient_expected": law}
  known, drawn = figures("traffic", found, axes, setting="memory")
  for j, axis in enumerate(panels(drawn["traffic"], 2)[0]):
    for i, coefficient in enumerate(axes["coefficient"]):
      workflow = axes["workflow"][j]
      assert_curve(axis, i, T, at(known, "lag1_coefficient", workflow=workflow, coefficient=coefficient))
      np.testing.assert_allclose(theory_lines(axis)[i][1], law[j, i])


def test_molecules():
  axes = {"workflow": ["replace"], "molecule": ["butane", "CCO"], "model": ["von_mises", "diffusion"]}
  law = np.arange(1 * 2 * 2 * NUM).reshape(1, 2, 2, NUM) / 9
  metrics = {"recall_coverage": grid(axes), "stiff_variance_ratio": grid(axes, 1), "stiff_variance_ratio_expected": law}
  known, drawn = figures("molecules", metrics, axes)
  assert list(drawn) == ["molecules_molecule_butane", "molecules_molecule_CCO"]
  for k, (molecule, figure) in enumerate(zip(axes["molecule"], drawn.values())):
    [first], [second] = panels(figure, 1)
    for i, model in enumerate(axes["model"]):
      assert_curve(first, i, T, at(known, "recall_coverage", molecule=molecule, model=model))
      np.testing.assert_allclose(theory_lines(second)[i][1], law[0, k, i])


def test_table():
  """Curves with laws where there are some; categories as stacks of mean shares, numbers by quantiles."""
  axes = {"workflow": ["replace", "accumulate"], "dataset": ["mixed"], "model": ["copula", "tvae"]}
  law = np.where(np.array(axes["model"]) == "copula", 1.0, np.nan)[None, None, :, None] * np.arange(2 * NUM).reshape(
    2, 1, 1, NUM
  )
  random = np.random.default_rng(3)
  shares = random.dirichlet([1.0, 2.0, 3.0], (2, 1, 2, 4, NUM))
  quantiles = np.sort(random.normal(size=(2, 1, 2, 4, NUM, 1, 3)))
  dims = ("workflow", "dataset", "model", "seed", "generation")
  metrics = {
    "category_diversity": runs(1 + 0.1 * T + np.arange(4).reshape(2, 1, 2, 1), spread=0.01, seeds=4),
    "category_diversity_expected": law,
    "category_shares": ((*dims, "category"), shares, {}),
    "number_quantiles": ((*dims, "number", "level"), quantiles, {}),
  }
  known = results(metrics, task="table", **axes).assign_attrs(system="table")
  known = known.assign_coords(category=["kind: a", "kind: b: c", "kind: d"], number=["size"])
  drawn = plotting.figures_for(known.assign_coords(category_column=("category", ["kind"] * 3)))
  assert list(drawn) == ["table", "table_columns"]
  [row] = panels(drawn["table"], 2)
  for j, workflow in enumerate(axes["workflow"]):
    assert_curve(row[j], 1, T, at(known, "category_diversity", workflow=workflow, model="tvae"))
    [(_, dashed)] = theory_lines(row[j])
    np.testing.assert_allclose(dashed, law[j, 0, 0])
  kinds, numbers = panels(drawn["table_columns"], 4)
  for j, (i, k) in enumerate(itertools.product(range(2), range(2))):
    assert kinds[j].get_title() == f"{axes['workflow'][i]}, {axes['model'][k]}"
    tops = shares[i, 0, k].mean(axis=0).cumsum(axis=1)
    for one, top in zip(kinds[j].collections, tops.T, strict=True):
      corners = one.get_paths()[0].vertices
      np.testing.assert_allclose([corners[corners[:, 0] == t, 1].max() for t in T], top)
    [(_, middle)] = lines(numbers[j], "-")
    np.testing.assert_allclose(middle, quantiles[i, 0, k].mean(axis=0)[:, 0, 1])
  assert kinds[0].get_ylabel() == "kind\n(shares)" and numbers[0].get_ylabel() == "size\n(standard deviations)"


def test_vae():
  """Shares of attributes beside true ones, the law of linear models alone, and pictures of the first run."""
  axes = {"workflow": ["replace", "accumulate"], "network": ["linear", "mlp"]}
  law = np.arange(2 * 2 * NUM).reshape(2, 2, NUM) / 7
  law[:, 1] = np.nan
  rates = (
    ("workflow", "network", "seed", "generation", "attribute"),
    np.stack([grid(axes, i) for i in range(2)], -1),
    {},
  )
  pixels = np.random.default_rng(0).uniform(size=(*grid(axes).shape, 16 * 6))
  metrics = {
    "attribute_rates": rates,
    "covariance_trace_ratio": grid(axes, 3),
    "covariance_trace_ratio_expected": law,
    "shown_rows": (("workflow", "network", "seed", "generation", "number"), pixels, {}),
  }
  about = {"attributes": "bold,italic", "rates": [0.3, 0.1], "height": 2, "width": 3}
  known, drawn = figures("vae", metrics, axes, **about)
  for network in axes["network"]:
    shares, variances = panels(drawn[f"vae_network_{network}"], 2)
    assert "true rates" in legend(drawn[f"vae_network_{network}"])
    for j, workflow in enumerate(axes["workflow"]):
      values = known.attribute_rates.sel(network=network, workflow=workflow).mean("seed").transpose("attribute", ...)
      shown = [line.get_ydata() for line in shares[j].lines if len(line.get_ydata())]
      np.testing.assert_allclose(shown[::2], values)
      assert [line[0] for line in shown[1::2]] == about["rates"]
      drawn_law = [y for _, y in theory_lines(variances[j])]
      assert len(drawn_law) == (network == "linear")
      if drawn_law:
        np.testing.assert_allclose(drawn_law[0], law[j, 0])
    images = panels(drawn[f"vae_samples_network_{network}"], 5)
    shown = images[1][0].images[0].get_array()
    first = known.shown_rows.sel(network=network, workflow="accumulate", generation=1).isel(seed=0).values
    np.testing.assert_allclose(shown[:2, 3:6], first.reshape(16, 2, 3)[1])
