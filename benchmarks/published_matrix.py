"""The whole published matrix, part by part, and a page that shows it beside the published values (Kazdan et al. 2410.16713).

  python -m benchmarks.published_matrix --parts='discrete/*'
  python -m benchmarks.published_matrix

Runs the parts of `reproduce --scale=paper` whose names match, the cheapest first, and none twice: what a part has found goes into
docs/data/published_matrix.nc, a group each, as means, standard errors and quantiles over seeds at some 24 generations. A part
that was stopped goes on from its chunks in --work_dir. Then docs/reproduction.md and its figures are written from that file alone;
--parts= does only this.
"""

import argparse
import fnmatch
import json
import os
import shutil
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PAGE, DATA, FIGURES = Path("docs/reproduction.md"), Path("docs/data/published_matrix.nc"), Path("docs/figures")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NUM_GENERATIONS = 24  # of those that a sweep records, evenly by their logarithm
# Beside the 116,500 runs, for what the published code got wrong: its two sets of centres, rules of bandwidths, infinities.
MISMATCHED, RULES, TOP_HAT = "kde_as_published/blobs", "kde_rules/moons", "kde_top_hat/moons"
BESIDE = (MISMATCHED, RULES, TOP_HAT)
ORDER = (
  "discrete",
  "kde_rules",
  "kde_top_hat",
  "linear_regression",
  "gaussian",
  "kde",
  "kde_as_published",
  "kde_bandwidth_swept",
)


class Figure(NamedTuple):
  """How a family of parts is drawn: a line for each value of `line`, a row of panels for each (metric, cell) of `rows`."""

  line: str
  rows: tuple[tuple[str, dict[str, Any]], ...]


_BANDWIDTHS = tuple(("test_nll", {"bandwidth": h}) for h in ("0.1", "0.5", "1"))
FAMILIES = {
  "gaussian": Figure(
    "num_samples",
    tuple(
      (metric, {"dim": 10})
      for metric in ("squared_error_of_mean", "covariance_trace_ratio", "covariance_log_det_ratio")
    ),
  ),
  "kde": Figure("num_samples", _BANDWIDTHS),
  "kde_as_published": Figure("num_samples", (_BANDWIDTHS[0], _BANDWIDTHS[2])),
  "kde_rules": Figure("bandwidth", (("test_nll", {}),)),
  "kde_top_hat": Figure("bandwidth", (("covered_nll", {}), ("covered_share", {}))),
  "kde_bandwidth_swept": Figure("num_samples", tuple(("test_nll", {"bandwidth": h}) for h in ("0.1", "1", "10"))),
  "kde_bandwidth_estimated": Figure("num_samples", (("test_nll", {"bandwidth": "scott"}),)),
  "linear_regression": Figure("num_samples", tuple(("test_mse", {"dim": d, "noise_var": 1.0}) for d in (1, 10, 100))),
  "discrete": Figure("num_outcomes", (("entropy_ratio", {}),)),
}


def parts() -> dict[str, tuple[Any, dict[str, Any]]]:
  """name -> (function that simulates, its options), the cheapest first."""
  from experiments import kde, reproduce

  found = reproduce.experiments("paper")
  size = {"workflows": ["replace"], "num_samples": [100], "num_generations": 100, "num_seeds": 100}
  found[MISMATCHED] = kde.simulate, size | {"datasets": ["blobs_mismatched"], "bandwidths": [0.1, 1.0]}
  rules = ["scott", "silverman", "scott_scaled", "silverman_scaled"]
  found[RULES] = kde.simulate, size | {"datasets": ["moons"], "bandwidths": rules}
  found[TOP_HAT] = kde.simulate, size | {"datasets": ["moons"], "bandwidths": [0.5], "kernels": ["tophat"]}
  rank = lambda name: [*ORDER, _family(name)].index(_family(name))
  return {name: found[name] for name in sorted(found, key=rank)}


def _family(part: str) -> str:
  return part.split("/")[0]


def num_runs(options: dict[str, Any]) -> int:
  """Of a part."""
  return options["num_seeds"] * int(np.prod([len(value) for value in options.values() if isinstance(value, list)]))


def reduced(results):
  """What is kept of a sweep: statistics over seeds of the metrics that figures show, and its comparison with published values."""
  import xarray

  from collapse_jax.diagnostics import published

  metrics = {name for figure in FAMILIES.values() for name, _ in figure.rows} | {"collapse_generation"}
  last = results.sizes["generation"] - 1
  at = np.unique(np.round(np.geomspace(1, last + 1, NUM_GENERATIONS)).astype(int) - 1)
  kept = {}
  for name in sorted(metrics & set(results.data_vars)):
    value = results[name].astype(np.float64)
    value = value.isel(generation=at) if "generation" in value.dims else value
    value = value.where(np.isfinite(value))
    count = value.count("seed")
    kept[f"{name}_mean"] = value.mean("seed")
    kept[f"{name}_standard_error"] = value.std("seed", ddof=1) / np.sqrt(count)
    kept[f"{name}_quantile"] = value.quantile(QUANTILES, "seed")
    kept[f"{name}_num_finite"] = count
    law = results.get(f"{name}_expected")
    if law is not None:
      kept[f"{name}_expected"] = law.isel(generation=at) if "generation" in law.dims else law
  rows, _ = published.compare({"": results})
  about = (
    "task",
    "jax_version",
    "collapse_jax_version",
    "device",
    "wall_seconds",
    "compile_seconds",
    "num_runs",
    "seed",
  )
  attributes = {name: results.attrs[name] for name in about if name in results.attrs}
  return xarray.Dataset(kept, attrs=attributes | {"published": json.dumps(rows)})


def keep(part: str, found, data: Path) -> None:
  """Adds a part to the file, or leaves the file as it was."""
  data.parent.mkdir(parents=True, exist_ok=True)
  new = data.with_suffix(".new")
  if data.exists():
    shutil.copy(data, new)
  numbers = {name: {"zlib": True, "dtype": "float32"} for name in found.data_vars}
  group = part.replace("/", ".")
  found.to_netcdf(new, mode="a" if data.exists() else "w", group=group, engine="h5netcdf", encoding=numbers)
  os.replace(new, data)


def kept(data: Path) -> dict[str, Any]:
  """part -> what is known of it."""
  import h5py
  import xarray

  if not data.exists():
    return {}
  with h5py.File(data) as file:
    groups = list(file)
  return {name.replace(".", "/", 1): xarray.load_dataset(data, group=name, engine="h5netcdf") for name in groups}


def run(part: str, work_dir: Path):
  """The results of a part, whose finished chunks are kept until it is done."""
  function, options = parts()[part]
  return function(**options, seed=0, directory=work_dir / part)


# ------------------------------------------------------------------------------------------------------------ the page
def draw(family: str, found: dict[str, Any], path: Path) -> None:
  """One figure of the parts of a family: means over seeds with two standard errors, laws dashed, published values as crosses."""
  from collapse_jax.plotting.panels import log_axis, panels, png, viridis, wrapped

  figure_of = FAMILIES[family]
  columns = [(part, workflow) for part, results in found.items() for workflow in results.workflow.values]
  shown = [(*row, *column) for row in figure_of.rows for column in columns]
  across = len(columns) if len(figure_of.rows) > 1 else min(len(columns), 3)  # more cannot be read in a page
  figure, axes = panels(-(-len(shown) // across), across, share_x=False)
  for axis in axes.flat[len(shown) :]:
    axis.set_axis_off()
  legend: dict[str, Any] = {}
  for i, (axis, (metric, cell, part, workflow)) in enumerate(zip(axes.flat, shown)):
    results = found[part]
    about, name = results[f"{metric}_mean"].attrs, f"{metric}_mean"
    at = {dim: results[dim].values[0] for dim in results[name].dims[:-1]} | cell
    at = {dim: value for dim, value in at.items() if dim in results.dims} | {"workflow": workflow}
    drawn = results[name].sel({dim: one for dim, one in at.items() if dim != figure_of.line})
    if logged := bool(drawn.min() > 0 and drawn.max() > 10 * drawn.min()):
      log_axis(axis)
    lines = results[figure_of.line].values
    for color, value in zip(viridis(len(lines)), lines):
      one = results.sel(at | {figure_of.line: value})
      t, mean, error = one.generation.values, one[name].values, one[f"{metric}_standard_error"].values
      [line] = axis.plot(t, mean, color=color)
      legend.setdefault(f"{figure_of.line} = {value if isinstance(value, str) else f'{value:g}'}", line)
      low = np.maximum(mean - 2 * error, 0.1 * mean) if logged else mean - 2 * error  # below 0 it would fill the panel
      axis.fill_between(t, low, mean + 2 * error, color=color, alpha=0.3, linewidth=0)
      if f"{metric}_expected" in one:
        legend["law"] = axis.plot(t, one[f"{metric}_expected"].values, "--", color="0.3", linewidth=0.8)[0]
      for row in json.loads(results.attrs["published"]):
        if row["metric"] == metric and _is_of(row["select"], at | {figure_of.line: value}) and row["generation"]:
          legend["published"] = axis.plot(row["generation"], row["value"] / row["factor"], "x", color="k")[0]
    axis.set_xscale("log")
    named = ", ".join(f"{dim} = {value}" for dim, value in cell.items())
    axis.set_title("\n".join(filter(None, (part, workflow, named))), fontsize=9)
    axis.set(xlabel="generation t", ylabel=wrapped(about) if i % across == 0 else "")
  last = {name: legend.pop(name) for name in ("law", "published") if name in legend}
  legend |= last
  figure.legend(legend.values(), legend.keys(), loc="outside right upper", fontsize=9, frameon=False)
  figure.supxlabel(
    "mean over seeds; band: two standard errors, on log axes down to a tenth of the mean", fontsize=8, color="0.35"
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(png(figure))


def _is_of(select: dict[str, str], cell: dict[str, Any]) -> bool:
  same = lambda a, b: str(a) == b or (str(a).replace(".", "", 1).isdigit() and b[0].isdigit() and float(a) == float(b))
  return all(same(cell.get(name, ""), wanted) for name, wanted in select.items())


def page(found: dict[str, Any], figures: dict[str, Path]) -> str:
  """The text of docs/reproduction.md."""
  every = parts()
  published = {name: num_runs(options) for name, (_, options) in every.items() if name not in BESIDE}
  done = sum(runs for name, runs in published.items() if name in found)
  lines = [
    "# The published simulations, run again",
    "",
    "The simulations of Kazdan et al. (2410.16713): Gaussians, kernel density estimates, linear regression and drift of discrete",
    "outcomes, with the published sizes and 100 seeds each, beside the values that the published figures show.",
    "",
    f"Finished: {done:,} of {sum(published.values()):,} runs ({done / sum(published.values()):.0%}).",
    "",
    "`python -m benchmarks.published_matrix` wrote this page from `docs/data/published_matrix.nc`, which has means, standard",
    "errors and quantiles over seeds, a group for each part. `--parts=GLOB` first runs those parts that are missing, and goes on",
    "with one that was stopped. Seconds are those on the clock of two CPU cores that had other work as well, since a part was",
    "last gone on with.",
    "",
    "| part | runs | seconds |",
    "| --- | --- | --- |",
  ]
  for name, (_, options) in every.items():
    wall = f"{found[name].attrs['wall_seconds']:,.0f}" if name in found else "not run yet"
    beside = " (beside the published runs)" if name in BESIDE else ""
    lines.append(f"| {name}{beside} | {num_runs(options):,} | {wall} |")
  rows = [row | {"part": part} for part, results in found.items() for row in json.loads(results.attrs["published"])]
  agreeing = sum(row["agrees"] for row in rows)
  lines += [
    "",
    "## Beside the published values",
    "",
    f"{agreeing} of the {len(rows)} values that belong to a finished part agree: the difference is within what the published",
    "number is good for (it is read off a figure, or rounded), or within 4 of its standard errors. `t` is the generation.",
    "",
    "| where | cell | metric | t | published | measured | agrees |",
    "| --- | --- | --- | --- | --- | --- | --- |",
  ]
  for row in rows:
    cell = ", ".join(f"{name} {value}" for name, value in row["select"].items())
    lines.append(
      f"| {row['place']} | {cell} | {row['metric']} | {row['generation'] or '-'} | {row['value']:.4g} | "
      f"{row['measured']:.4g} ± {row['standard_error']:.2g} | {'yes' if row['agrees'] else '**no**'} |"
    )
  lines += ["", "## What the published code got wrong", "", *_defects(found), "", "## Figures", ""]
  lines.append(
    "Means over seeds with two standard errors; dashed: the law, where one is known; crosses: published values."
  )
  for name, path in figures.items():
    lines += ["", f"![{name}](figures/{path.name})"]
  return "\n".join(lines) + "\n"


def _line(text: str) -> str:
  """More of an item of a list, in lines as wide as the page."""
  return textwrap.fill(text, 130, initial_indent="  ", subsequent_indent="  ")


def _over_lines(results, metric: str, t: int, line: str) -> dict[str, float]:
  """Means of a metric at generation t, for each value of an axis of a part that has no other."""
  means = results[f"{metric}_mean"].sel(generation=t).squeeze()
  return dict(zip(map(str, results[line].values), np.atleast_1d(means.values)))


def _defects(found: dict[str, Any]) -> list[str]:
  """In words, with the corrected numbers where they have been measured."""
  lines = [
    "- Blobs: training and test rows come from two calls of `make_blobs`, each with random centres of its own, so that the",
    "  published likelihood measures their mismatch. `blobs_mismatched` is that data set, `blobs` has the same centres for both.",
  ]
  if MISMATCHED in found and "kde/blobs" in found:
    for h in ("0.1", "1"):
      at = {"workflow": "replace", "bandwidth": h, "num_samples": 100, "generation": 1}
      wrong, right = (float(found[name].test_nll_mean.sel(at).values.ravel()[0]) for name in (MISMATCHED, "kde/blobs"))
      lines.append(f"  At h = {h}, n = 100, t = 1: {wrong:.4g} nats as published, {right:.3g} with shared centres.")
  lines += [
    "- Estimated bandwidths: `scott` and `silverman` are one rule in two dimensions, and neither looks at the spread of the data:",
    "  of the 12,000 runs, 4,500 are duplicates by construction. `scott_scaled` and `silverman_scaled` are the textbook rules.",
  ]
  if RULES in found:
    said = lambda t: ", ".join(
      f"{value:.3g} ({rule})" for rule, value in _over_lines(found[RULES], "test_nll", t, "bandwidth").items()
    )
    lines.append(_line(f"Nats on moons under `replace`, n = 100: at t = 1 {said(1)}; at t = 100 {said(100)}."))
  lines += [
    "- Top-hat kernels: infinite likelihoods were dropped, so that published curves average over the test rows that survive. Here",
    "  `test_nll` stays infinite, and `covered_share` and `covered_nll` say how much is covered, and how well.",
  ]
  if TOP_HAT in found:
    nats, share = (
      [next(iter(_over_lines(found[TOP_HAT], metric, t, "bandwidth").values())) for t in (1, 100)]
      for metric in ("covered_nll", "covered_share")
    )
    lines.append(
      _line(
        f"Moons under `replace`, h = 0.5, n = 100: {nats[0]:.3g} nats at t = 1 and {nats[1]:.3g} at t = 100 where there is "
        f"density, which is at {share[0]:.1%} and {share[1]:.1%} of the test rows."
      )
    )
  lines += [
    "- Drift: the published curves come from a service that returns at most 10,000 rows a run, hence their noise bands.",
  ]
  return lines


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
  parser.add_argument("--parts", default="*", help="Glob of parts that are run where they are missing.")
  parser.add_argument("--work_dir", type=Path, default=Path("results/published_matrix"), help="For finished chunks.")
  parser.add_argument("--data", type=Path, default=DATA)
  parser.add_argument("--page", type=Path, default=PAGE)
  asked = parser.parse_args(arguments)
  from experiments import common, reproduce

  reproduce.define()
  common.parse(["published_matrix", "--resume"])
  there, every = kept(asked.data), parts()
  for part in every:
    if fnmatch.fnmatch(part, asked.parts) and part not in there:
      print(part, flush=True)
      keep(part, reduced(run(part, asked.work_dir)), asked.data)
      shutil.rmtree(asked.work_dir / part, ignore_errors=True)
  found = kept(asked.data)
  found = {name: found[name] for name in every if name in found}
  figures = {}
  for part in found:
    family = _family(part)
    alike = {name: results for name, results in found.items() if _family(name) == family}
    each = {family: alike} if family == "discrete" else {part: {part: found[part]}}
    for name, drawn in each.items():
      figures[name] = asked.page.parent / FIGURES.name / f"reproduction_{name.replace('/', '_')}.png"
      draw(family, drawn, figures[name])
  asked.page.parent.mkdir(parents=True, exist_ok=True)
  asked.page.write_text(page(found, figures), encoding="utf-8")
  print(f"{asked.page}: {len(found)} of {len(every)} parts")


if __name__ == "__main__":
  main()
