"""The faults: each changes what somebody reads, and a fast test of its subject must fail. Keep those tests cheap."""

from typing import NamedTuple


class Fault(NamedTuple):
  """A line that is wrong.

  Attributes:
    name: of the fault, with its subject first.
    right: text of the code, which occurs there once.
    wrong: what stands in its place.
    tests: what pytest runs, relative to the root.
    equivalent: why nobody can tell, where nobody can; such a fault must survive.
  """

  name: str
  right: str
  wrong: str
  tests: str
  equivalent: str = ""


FAULTS = [
  # ------------------------------------------------------------------------------------------------ cells side by side
  Fault(
    "side by side: a cell is told another one's metrics",
    "one.seen.append(_checked(on_host(measured, place)",
    "one.seen.append(_checked(on_host(measured, len(going) - 1 - place)",
    "tests/test_side_by_side.py -k beside_others",
  ),
  Fault(
    "side by side: what a run draws depends on its place",
    'keys = jax.vmap(lambda key: role_keys(key, t)["fit"])(runs.key)  # noqa: B023',
    'keys = jax.vmap(lambda key, i: role_keys(fold_in(key, i), t)["fit"])(runs.key, jnp.arange(len(runs.key)))',
    "tests/test_side_by_side.py -k beside_others",
  ),
  Fault(
    "side by side: cells that a kill parted go on apart",
    "if one.done == done + 1:",
    "if one.done == done + 2:",
    "tests/test_side_by_side.py -k killed",
  ),
  # ----------------------------------------------------------------------------------------------------- figures
  Fault(
    "figures: a band of one standard error, not of 1.96",
    "half = 1.96 * kept.std",
    "half = 1.0 * kept.std",
    "tests/test_figures.py -k curves_and_bands",
  ),
  Fault(
    "figures: the spread of a band is that of a population",
    "kept.std(axis=0, ddof=1) / np.sqrt(len(kept))",
    "kept.std(axis=0) / np.sqrt(len(kept))",
    "tests/test_figures.py -k curves_and_bands",
  ),
  Fault(
    "figures: theory is drawn one generation late",
    "axis.plot(t, expected.mean,",
    "axis.plot(t + 1, expected.mean,",
    "tests/test_figures.py -k 'theory_is_drawn'",
  ),
  Fault(
    "figures: the law of collapse times in reverse order",
    '"num_samples": n} for n in sizes[ended]]',
    '"num_samples": n} for n in sizes[ended][::-1]]',
    "tests/test_discrete.py -k collapse_times_are_drawn",
  ),
  Fault(
    "figures: collapse times of censored runs count",
    'ended = ~some.censored.any("seed").values & np.isfinite(times).all(axis=0)',
    "ended = np.isfinite(times).all(axis=0)",
    "tests/test_figures.py -k collapse_times",
  ),
  Fault(
    "figures: theory against the real share is of the first generation",
    "one.mean[-1] for one in known",
    "one.mean[0] for one in known",
    "tests/test_figures.py -k theory_against_real_share",
  ),
  Fault(
    "figures: the metric against the real share is of the first generation",
    "values = some[metric].isel(generation=-1)",
    "values = some[metric].isel(generation=0)",
    "tests/test_figures.py -k real_share",
  ),
  Fault(
    "figures: finite runs are counted as lost",
    "return len(values) - len(kept)",
    "return len(kept)",
    "tests/test_figures.py -k 'lost or curves_and_bands'",
  ),
  Fault(
    "figures: lost runs are in the mean",
    "kept = finite_runs(values)\n  num",
    "kept = np.nan_to_num(values, posinf=0.0).astype(np.float64)\n  num",
    "tests/test_figures.py -k lost",
  ),
  Fault(
    "figures: a ratio has no log axis",
    'elif about.get("log_scale"):',
    'elif not about.get("log_scale"):',
    "tests/test_figures.py -k log_axes",
  ),
  Fault(
    "figures: a panel bears the name of its row only",
    "for dim in (rows, columns) if dim]",
    "for dim in (rows,) if dim]",
    "tests/test_figures.py -k every_panel",
  ),
  Fault(
    "figures: units are not named",
    'text = about.get("long_name", "") + ("" if units in ("1", "") else f" ({units})")',
    'text = about.get("long_name", "")',
    "tests/test_figures.py -k curves_and_bands",
  ),
  Fault(
    "figures: learning curves of one seed instead of the mean",
    'axis.plot(share, one.sel(generation=t).mean("seed")',
    "axis.plot(share, one.sel(generation=t).isel(seed=0)",
    "tests/test_figures.py -k learning_curves",
  ),
  Fault(
    "figures: the map of the value of real data is transposed",
    'results.test_loss.mean("seed").transpose("num_real", "num_synthetic")',
    'results.test_loss.mean("seed").transpose("num_synthetic", "num_real")',
    "tests/test_figures.py -k value_of_real_data",
  ),
  Fault(
    "figures: densities of twice the log width",
    "np.exp(0.5 * float(one.marginal_log_variance.values[k]))",
    "np.exp(1.0 * float(one.marginal_log_variance.values[k]))",
    "tests/test_figures.py -k fitted_densities",
  ),
  Fault(
    "systems: edited labels beside the law of another mask",
    "mask=str(mask), noise=str(noise)",
    'mask="fresh", noise=str(noise)',
    "tests/test_system_figures.py -k label_editing",
  ),
  Fault(
    "systems: entropies beside a law that is one generation early",
    "entropy[part.generation.values - 1]",
    "entropy[part.generation.values - 2]",
    "tests/test_system_figures.py -k temperature_over",
  ),
  Fault(
    "systems: the law of a mixture is of its first generation",
    "fresh=fresh).mean_error[-1] * n for f in fraction",
    "fresh=fresh).mean_error[0] * n for f in fraction",
    "tests/test_system_figures.py -k mixtures_by_ratio",
  ),
  Fault(
    "systems: accuracies are in the order of the sweep, their axis is sorted",
    '.transpose("label_error", "psi").sortby(["label_error", "psi"])',
    '.transpose("label_error", "psi")',
    "tests/test_system_figures.py -k verification_frontier",
  ),
  Fault(
    "systems: the law of a kept variance forgets that a fit divides by n",
    "(law * (1 - 1 / n) ** np.arange(1, T + 1))",
    "(law * np.ones(T))",
    "tests/test_system_figures.py -k selection_of_a_gaussian",
  ),
  # ----------------------------------------------------------------------------------------------------- report
  Fault(
    "report: every cell is counted as bounded",
    'entry[row["verdict"].label] += 1',
    'entry["bounded"] += 1',
    "tests/test_report.py -k verdict_per_workflow",
  ),
  Fault(
    "report: definitions fire wherever they apply",
    'f"{fires} of {applies}" if applies',
    'f"{applies} of {applies}" if applies',
    "tests/test_report.py -k definitions",
  ),
  Fault(
    "report: the z column shows the prediction",
    '"runs": str(row["num_finite"]),\n    "z": f"{row[\'z\']:.2f}",',
    '"runs": str(row["num_finite"]),\n    "z": f"{row[\'predicted\']:.2f}",',
    "tests/test_report.py -k theory_rows",
  ),
  Fault(
    "report: all runs are called finite",
    '"finite": f"{v.num_finite}/{v.num_runs}"',
    '"finite": f"{v.num_runs}/{v.num_runs}"',
    "tests/test_report.py -k every_cell",
  ),
  Fault(
    "report: the interval of a slope is upside down",
    "[{v.slope_low:.3g}, {v.slope_high:.3g}]",
    "[{v.slope_high:.3g}, {v.slope_low:.3g}]",
    "tests/test_report.py -k every_cell",
  ),
  Fault(
    "report: columns of the table by workflow are exchanged",
    '<td class="n diverging">{{ r.diverging }}</td><td class="n growing">{{ r.growing }}</td>',
    '<td class="n diverging">{{ r.growing }}</td><td class="n growing">{{ r.diverging }}</td>',
    "tests/test_report.py -k verdict_per_workflow",
  ),
  Fault(
    "report: a mean of z where a root mean square is named",
    "np.sqrt(np.mean(np.square(z)))",
    "np.mean(np.abs(z))",
    "tests/test_report.py -k agreement",
  ),
  Fault(
    "report: the usual largest z is that of a one-sided law",
    "stats.norm.isf(0.5 / len(every) / 2)",
    "stats.norm.isf(0.5 / len(every))",
    "tests/test_report.py -k agreement",
  ),
  Fault(
    "report: p-values of what does not fire",
    '"p": f"{row[\'p_value\']:.2g}"',
    '"p": f"{1 - row[\'p_value\']:.2g}"',
    "tests/test_report.py -k every_finding",
  ),
  Fault(
    "report: non-finite runs are counted where they are finite",
    'int((~results.finite.where(results.cell_status == "ok", True).all("generation")).sum())',
    'int((results.finite.where(results.cell_status == "ok", True).all("generation")).sum())',
    "tests/test_report.py -k what_was_run",
  ),
  Fault(
    "report: a workflow is shown by the best of its cells",
    "label = next(iter(counts))\n  with_label",
    "label = list(counts)[-1]\n  with_label",
    "tests/test_answer.py -k matrix",
  ),
  Fault(
    "report: halving times are those of a tenfold change",
    "{_told(np.log(2) / abs(slope))} generations",
    "{_told(np.log(10) / abs(slope))} generations",
    "tests/test_answer.py -k number_that_decides",
  ),
  Fault(
    "compare: the table shows the published value as the measured one",
    "f\"{row['measured']:.4g} +- {row['standard_error']:.2g}\"",
    "f\"{row['value']:.4g} +- {row['standard_error']:.2g}\"",
    "tests/test_compare.py -k table_says",
  ),
  # ----------------------------------------------------------------------------------------------------- verdicts
  Fault(
    "definitions: what applies is counted as what fires",
    '(fires + row["fires"], applies + row["applies"])',
    '(fires + row["applies"], applies + row["applies"])',
    "tests/test_report.py -k definitions",
  ),
  Fault(
    "published: a hundredfold tolerance",
    'max(one["tolerance"] * abs(one["value"]),',
    'max(100 * one["tolerance"] * abs(one["value"]),',
    "tests/test_compare.py -k 'right_values'",
  ),
  Fault(
    "required share: of the first generation",
    "return 1 + int(np.argmax(ratio)) if ratio.max() > CLEARLY else excess.shape[1] - 1",
    "return 0",
    "tests/test_decisions.py -k share_covers",
  ),
  Fault(
    "forecast: runs are taken for independent of themselves",
    "error = np.sqrt((apart**2).sum(axis=0) / (runs * (runs - 1)))",
    "error = np.sqrt((apart**2).sum(axis=0) / (runs * (runs - 1))) / 3",
    "tests/test_decisions.py -k forecasts_cover",
  ),
  Fault(
    "theory: means are compared where tails are heavy",
    "if law is not None and len(at) and t <= law.up_to:",
    "if law is not None and len(at):",
    "tests/test_report.py -k holds_up_to",
  ),
  Fault(
    "theory: the variance that is known is not used",
    "spread = sample.var(ddof=1) if np.isnan(told) else told",
    "spread = sample.var(ddof=1)",
    "tests/test_report.py -k theory_rows",
  ),
  # ----------------------------------------------------------------------------------------------------- plans
  Fault(
    "plan: compile time of no program",
    "sum(cost.effort(work * math.ceil(num_seeds / workers)).compile_seconds for _, work, _ in costs)",
    "0.0",
    "tests/test_cost.py -k plan_counts",
  ),
  Fault(
    "plan: a tenth of the memory",
    "memory = max(size for _, _, size in costs)",
    "memory = max(size for _, _, size in costs) / 10",
    "tests/test_cost.py -k plan_of_memory",
  ),
  Fault(
    "plan: memory of the smallest program",
    "memory = max(size for _, _, size in costs)",
    "memory = min(size for _, _, size in costs)",
    "tests/test_cost.py -k plan_of_memory",
  ),
  Fault(
    "plan: one seed runs",
    "sum(num * num_seeds * work for",
    "sum(num * work for",
    "tests/test_cost.py -k plan_of_time",
  ),
  Fault(
    "plan: the time that is printed leaves out compiling",
    "total = cost.text(self.compile_seconds + self.run_seconds)",
    "total = cost.text(self.run_seconds)",
    "tests/test_cost.py -k plan_as_text",
  ),
  Fault(
    "cost: a QR costs nothing",
    "_LAPACK_FLOP * flops + 500",
    "_LAPACK_FLOP * 0 + 500",
    "tests/test_cost.py -k known_operations",
  ),
  Fault(
    "cost: a product does not depend on what it sums over",
    "math.prod(_shape(equation.invars[0])[i] for i in contracted)",
    "math.prod(1 for i in contracted)",
    "tests/test_cost.py -k known_operations",
  ),
  Fault(
    "cost: running takes as long with many workers",
    "1e-9 * work_ns * slowness() / workers)",
    "1e-9 * work_ns * slowness())",
    "tests/test_cost.py -k plan_of_time",
  ),
  Fault(
    "dry run: the sum over experiments leaves out compiling",
    "sum(plan.compile_seconds + plan.run_seconds for plan in common.PLANS)",
    "sum(plan.run_seconds for plan in common.PLANS)",
    "tests/test_cost.py -k dry_run_of_many",
  ),
  # ----------------------------------------------------------------------------------------------------- the loop
  Fault(
    "store.draw_rows: the last row is never drawn",
    "fori_loop(0, size.bit_length(), lambda _, bounds: rough(bounds), (none, none + size))",
    "fori_loop(0, size.bit_length(), lambda _, bounds: rough(bounds), (none, none + size - 1))",
    "tests/test_store.py -k rows_are_drawn",
    equivalent="beyond the last outcome there is none: the search ends at that one either way",
  ),
  Fault(
    "classification: the ridge is not added",
    "second + ridge * jnp.eye(dim)",
    "second",
    "tests/test_generators.py -k ridge_classifier",
  ),
  Fault(
    "ensemble: the spread of members is that of a population",
    "jnp.std(metrics[name], ddof=1)}",
    "jnp.std(metrics[name])}",
    "tests/test_generators.py -k members_differ",
  ),
  Fault(
    "curation: the variance of exp(reward) without its offset",
    "log_variance = 2 * largest +",
    "log_variance = largest +",
    "tests/test_generators.py -k large_rewards",
  ),
  Fault(
    "workflows: model 1 of a fresh mix differs",
    "jnp.where(t > 1, new, old)",
    "jnp.where(t > 0, new, old)",
    "tests/test_loop.py -k paired",
  ),
  Fault(
    "stopping: runs that ended are filled with zeros",
    "value[lane, end + 1 :] = value[lane, end]",
    "value[lane, end + 1 :] = 0",
    "tests/test_discrete.py -k 'stopping and 1'",
  ),
  Fault(
    "store.latest: the oldest batch",
    "slot = jnp.argmax(data.origin)",
    "slot = jnp.argmin(data.origin)",
    "tests/test_systems.py -k edits_chain",
  ),
  # ----------------------------------------------------------------------------------------------------- pipelines
  Fault(
    "pipelines: weights of rows do not reach fit",
    "weight = None if np.ptp(counted) == 0 else counted",
    "weight = None",
    "tests/test_pipelines.py -k weights_are_taken",
  ),
  Fault(
    "pipelines: seeds of 32 bits",
    "int(np.asarray(jax.random.key_data(key)).ravel()[-1]) >> 1",
    "int(np.asarray(jax.random.key_data(key)).ravel()[-1])",
    "tests/test_pipelines.py -k every_workflow",
  ),
  Fault(
    "pipelines: a step is known without its code",
    "_steps.digest_of('fit', self._one.codes['fit'], seed,",
    "_steps.digest_of('fit', seed,",
    "tests/test_pipelines.py -k known_by_what",
  ),
  Fault(
    "pipelines: withdrawn rows count on",
    "weight = ~np.isin(numbers, out.get(self._shared.real.name, ()))",
    "weight = ~np.isin(numbers, ())",
    "tests/test_pipelines.py -k withdrawn",
  ),
  Fault(
    "pipelines: withdrawn rows of a sample count on",
    "None if out is None else jnp.ones(num).at[out].set(0.0)",
    "None if out is None else jnp.ones(num)",
    "tests/test_pipelines.py -k withdrawn",
  ),
  Fault(
    "pipelines: what descends from a descendant is not told",
    "samples[sample] = touched[sample] = None",
    "samples[sample] = None",
    "tests/test_pipelines.py -k lineage",
  ),
  Fault(
    "pipelines: metrics are not held against the training rows",
    "train=self.rows(call.train), seed=call.seed)",
    "seed=call.seed)",
    "tests/test_pipelines.py -k metrics_by_kind",
  ),
  Fault(
    "metrics: the null of distances is that of the sample",
    'found["nearest_distance"] = near[0], near[1]',
    'found["nearest_distance"] = near[0], near[0]',
    "tests/test_pipelines.py -k metrics_by_kind",
  ),
  # ----------------------------------------------------------------------------------------------------- decisions
  Fault(
    "decisions: the skew of runs has the other sign",
    "apart = (1 - runs) * (told[1:] - told[1:].mean(axis=0))",
    "apart = (runs - 1) * (told[1:] - told[1:].mean(axis=0))",
    "tests/test_decisions.py -k few_runs_carry",
  ),
  Fault(
    "decisions: no family is rejected",
    "if miss.p_value >= REJECTED",
    "if miss.p_value >= 0",
    "tests/test_decisions.py -k last_third_rejects",
  ),
  Fault(
    "decisions: likelihoods follow theory's families only",
    'or (measures == "risk" and bool(about.get("log_scale")))',
    'or measures == "risk"',
    "tests/test_decisions.py -k likelihoods_are_told",
  ),
  Fault(
    "decisions: rivals below are held against the upper end",
    "np.where(rival > mean, high, low)",
    "high",
    "tests/test_decisions.py -k rivals_below",
  ),
  Fault(
    "decisions: the share that is enough ignores the tolerance",
    "tolerance * np.sign(first.mean()) * first[:, :, None]",
    "0 * np.sign(first.mean()) * first[:, :, None]",
    "tests/test_decisions.py -k share_in_words",
  ),
  # ------------------------------------------------------------------------------------------------------ tables
  Fault(
    "table: an adversary's training asks for categories by how often they are there",
    "often = jnp.log1p(count)",
    "often = count",
    "tests/test_table.py -k what_training_asks_for",
  ),
  Fault(
    "table: a generator need not write what it is asked for",
    "return -jnp.mean(found) - jnp.sum(condition * log_odds, axis=1)",
    "return -jnp.mean(found) - 0 * jnp.sum(condition * log_odds, axis=1)",
    "tests/test_table.py -k adversary",
  ),
  Fault(
    "table: a generator wants to be told apart",
    "return -jnp.mean(found) - jnp.sum(condition * log_odds, axis=1)",
    "return jnp.mean(found) - jnp.sum(condition * log_odds, axis=1)",
    "tests/test_table.py -k adversary",
  ),
  # ----------------------------------------------------------------------------------------------------- the command
  Fault(
    "cli: a change beyond the tolerance ends well",
    "if not all(row.worse <= tolerance for row in rows):",
    "if False:",
    "tests/test_cli.py -k 'test_check'",
  ),
  Fault(
    "cli: a dry run withdraws rows",
    'acts = name == "withdraw" and not flag.dry_run',
    'acts = name == "withdraw"',
    "tests/test_cli_loop.py -k lineage",
  ),
  Fault(
    "cli: lower is worse, where higher is",
    '{"higher": 1.0, "lower": -1.0}.get(results',
    '{"higher": -1.0, "lower": 1.0}.get(results',
    "tests/test_cli.py -k 'test_check'",
  ),
]
