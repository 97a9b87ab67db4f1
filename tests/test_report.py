"""Every table of the report, read back and compared cell by cell with what the diagnostics say of the same results."""

import base64
import json
from collections import Counter

import numpy as np
import pytest
import xarray
from looking import Page, results, runs
from scipy import stats

from collapse_jax import diagnostics, report
from collapse_jax.diagnostics import definitions
from collapse_jax.plotting import figures

T = np.arange(1, 41)
LABELS = ("diverging", "growing", "bounded", "undecided")


@pytest.fixture(scope="module")
def known():
  """Two workflows, four sizes, 20 runs: a loss whose cells have every verdict, a variance that falls, two refused cells.

  Theory of the loss is right under `replace` and one generation late under `mine`.
  """
  level = 0 * T
  loss = 5 + np.array([[0.5 * T, level, np.log(T), level], [level, level, level, 0.3 * T]])
  values = runs(loss, seeds=20, spread=0.02)
  values[0, 1, 3:, 5:] = np.nan  # too few are left
  values[1, 2, :2, 7:] = np.nan
  fall = -0.1 * np.array([[1.0, 2, 3, 0], [0, 0, 0, 0]])[..., None] * T
  variance = np.exp(runs(fall, seeds=20, spread=0.01))
  expected = np.stack([loss[0], np.roll(loss[1] + 0.001 * T, 1, axis=-1)])
  status = np.full((2, 4), "ok", object)
  status[1, 0], status[1, 1] = "num_samples must be at least 3 <b>", "num_samples must be at least 3 <b>"
  values[1, :2], variance[1, :2] = np.nan, np.nan
  axes = {"workflow": ["replace", "mine"], "num_samples": [10, 20, 40, 80]}
  grid = (*axes, "seed", "generation")
  made = results(
    {
      "loss": values,
      "spread": variance,
      "loss_expected": expected,
      "loss_expected_variance": np.full(expected.shape, 0.02**2) * np.linspace(1, 2, len(T)) ** 2,
      "loss_expected_up_to": np.array([[40.0, np.nan, 3, 1], [np.nan, np.nan, np.nan, 10]]),
      "loss_limit": np.array([[np.inf, np.nan, 7.25, 5], [3, 3, np.nan, -np.inf]]),
      "finite": (grid, np.isfinite(values), {}),
      "cell_status": (tuple(axes), status, {}),
    },
    about={
      "loss": {"units": "nats", "measures": "risk"},
      "spread": {"worse": "lower", "log_scale": 1, "measures": "variance"},
    },
    **axes,
  )
  made.attrs |= {
    "num_runs": 120,
    "wall_seconds": 12.4,
    "num_compilations": 3,
    "compile_seconds": 7.6,
    "command": "python -m experiments.mine --x='<script>alert(1)</script>'",
    "package_version": "0.1.0",
    "jax_version": "0.9.2",
    "device": "cpu",
    "seed": 7,
    "finding": "the finding & more",
    "comparisons": json.dumps(COMPARED),
    "samples": json.dumps({"replace, 10": {str(t): [f"text {t} <i>", f"other {t}"] for t in range(1, 8)}}),
  }
  return made


COMPARED = [
  {
    "system": "curation",
    "source": "2407.09499",
    "quantity": "reward",
    "predicted": 1.25,
    "simulated": 1.3125,
    "standard_error": 0.05,
    "z": 1.25,
    "twin_z": 17.0,
    "reference": 1.28,
  },
  {
    "system": "curation",
    "source": "2407.09499",
    "quantity": "variance",
    "predicted": 8.0,
    "simulated": 7.0,
    "standard_error": 0.4,
    "z": -2.5,
    "twin_z": None,
    "reference": None,
  },
]


@pytest.fixture(scope="module")
def page(known):
  images = {"mine": {"first": b"one picture", "second": b"another"}}
  return Page(report.page({"mine": known}, images))


def cell_of(row) -> str:
  return f"{row['workflow']}, num_samples {row['num_samples']}"


def number(text: str, digits: int):
  """A number of a page, good to so many digits."""
  return pytest.approx(float(text), rel=0.6 * 10 ** (1 - digits), abs=1e-300)


def test_a_summary_draws_one_figure(known, monkeypatch):
  drawn, plain = [], figures.trajectories
  monkeypatch.setattr(
    figures, "trajectories", lambda some, name, **layout: drawn.append(name) or plain(some, name, **layout)
  )
  assert report.summary(known).title == "loss" and drawn == ["loss"]
  assert set(figures.figures_for(known)) == {"loss", "spread"} and drawn == ["loss", "loss", "spread"]


def test_the_results_show_every_verdict(known):
  """What is compared below can differ: all labels occur, definitions fire and do not, theory is right and wrong."""
  assert {row["verdict"].label for row in diagnostics.verdicts(known)} == set(LABELS)
  found = [row for row in definitions.diagnose(known) if row["applies"]]
  assert {row["fires"] for row in found} == {True, False}


def test_verdict_per_workflow(known, page):
  counted = {}
  for row in diagnostics.verdicts(known):
    counted.setdefault((row["workflow"], row["metric"]), Counter())[row["verdict"].label] += 1
  table = page.table("cells diverging", part="mine")
  assert table.heading == "Verdict per workflow"
  assert table.columns == ["workflow", "metric", "cells diverging", "cells growing", "cells bounded", "undecided"]
  assert table.rows == [
    [workflow, metric, *(str(count[label]) for label in LABELS)] for (workflow, metric), count in counted.items()
  ]
  assert ["replace", "loss", "1", "1", "1", "1"] in table.rows  # a cell of each
  assert ["replace", "log spread", "3", "0", "1", "0"] in table.rows


def test_every_cell(known, page):
  rows = diagnostics.verdicts(known)
  table = page.table("verdict")
  assert len(table.rows) == len(rows) == 2 * (4 + 2)
  assert f"every cell ({len(rows)} rows)" in [text for tag, text in page.texts if tag == "summary"]
  for shown, row in zip(table.records(), rows):
    v = row["verdict"]
    assert (shown["cell"], shown["metric"]) == (cell_of(row), row["metric"])
    mean, error = shown["final mean ± s.e."].split(" ± ")
    assert v.final_mean == number(mean, 4)
    slope, rest = shown["slope per generation over the last half [95% interval]"].rstrip("]").split(" [")
    low, high = rest.split(", ")
    for text, value, digits in (
      (error, v.final_sem, 2),
      (slope, v.slope, 3),
      (low, v.slope_low, 3),
      (high, v.slope_high, 3),
    ):
      assert value == number(text, digits) or (np.isnan(value) and text == "nan"), (text, value)
    assert shown["finite runs"] == f"{v.num_finite}/{v.num_runs}"
    several = f": {' or '.join(v.possible)}" if len(v.possible) == 2 else ""
    assert shown["verdict"] == v.label + several
  assert {row["finite runs"] for row in table.records()} == {"20/20", "3/20", "18/20"}


def test_definitions(known, page):
  """Of every definition: where it fires, of the cells that it applies to, and why it applies nowhere."""
  fires, applies, why = Counter(), Counter(), {}
  for row in definitions.diagnose(known):
    at = row["definition"], row["metric"]
    why.setdefault(at, row["statement"])
    applies[(*at, row["workflow"])] += row["applies"]
    fires[(*at, row["workflow"])] += row["fires"]
  [table] = [one for one in page.tables if one.heading == "Definitions of collapse" and one.columns[-1] == "mine"]
  assert table.columns == ["definition", "metric", "replace", "mine"]
  expected = []
  for (definition, metric), reason in why.items():
    counts = [(fires[definition, metric, name], applies[definition, metric, name]) for name in ("replace", "mine")]
    texts = [f"{some} of {every}" if every else "" for some, every in counts]
    expected.append([definition, metric, *texts] if any(texts) else [definition, reason])
  assert table.rows == expected
  assert ["collapsing variance", "spread", "3 of 4", "0 of 2"] in table.rows
  [modes] = [row for row in table.rows if row[0] == "entanglement of real modes"]
  assert len(modes) == 2 and modes[1].startswith("undefined: no metric")
  assert len({row[0] for row in table.rows}) == len(definitions.DEFINITIONS) == 8


def test_every_finding(known, page):
  rows = [row for row in definitions.diagnose(known) if row["applies"]]
  table = page.table("what happened")
  assert len(table.rows) == len(rows) > 10
  for shown, row in zip(table.records(), rows):
    cell = cell_of(row) if "num_samples" in row else row["workflow"]
    assert (shown["cell"], shown["definition"], shown["metric"]) == (cell, row["definition"], row["metric"])
    assert shown["fires"] == ("fires" if row["fires"] else "") and shown["what happened"] == row["statement"]
    assert row["p_value"] == number(shown["p"], 2)


def test_what_was_run(page):
  texts = [text for _, text in page.texts]
  what = page.text("120 runs")
  assert "(2 workflow x 4 num_samples x 20 seeds), 40 generations, in 12 s; 3 programs took 8 thread-seconds" in what
  assert "the finding & more" in texts
  assert "19 runs became non-finite and are left out of the means." in texts
  assert "num_samples must be at least 3 <b> (2 cells)" in texts
  assert ("code", "python -m experiments.mine --x='<script>alert(1)</script>'") in page.texts
  assert "collapse_jax 0.1.0, JAX 0.9.2, cpu; seed 7" in texts


def test_figures_are_those_given(page):
  assert [image["alt"] for image in page.images] == ["first", "second"]
  data = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in page.images]
  assert data == [b"one picture", b"another"]
  assert [text for tag, text in page.texts if tag == "figcaption"] == ["first", "second"]


def test_samples(page):
  """Texts of at most five generations, the first and the last among them."""
  [table] = [one for one in page.tables if one.heading == "replace, 10"]
  assert table.columns == [f"generation {t}" for t in (1, 3, 4, 5, 7)]
  assert table.rows == [[f"text {t} <i>other {t}" for t in (1, 3, 4, 5, 7)]]


def test_predicted_and_simulated(page):
  table = page.table("quantity", part="mine")
  assert table.heading == "Predicted and simulated"
  first, second = table.records()
  assert first == {
    "system": "curation",
    "source": "2407.09499",
    "quantity": "reward",
    "predicted": "1.25",
    "simulated ± s.e.": "1.312 ± 0.05",
    "z": "1.25",
    "z of a wrong theory": "17",
    "reference": "1.28",
  }
  assert list(second.values())[2:] == ["variance", "8", "7 ± 0.4", "-2.50", "", ""]
  assert "largest |z| = 2.5." in page.text("2 quantities")


def test_a_page_of_several_and_of_results_without_generations(known):
  """Each under its own name; what has no trajectory has no verdicts, but its finding and its figures."""
  flat = xarray.Dataset(
    {"test_loss": ("num_real", [1.0])}, attrs={"num_runs": 5, "wall_seconds": 3.0, "finding": "worth it"}
  )
  bare = known.isel(num_samples=[3], workflow=[0]).drop_vars(
    [name for name in known if "_expected" in name or "_limit" in name]
  )
  bare.attrs = {}
  both = Page(report.page({"a": bare, "b": flat}, {"a": {}, "b": {"map": b"x"}}))
  assert [text for tag, text in both.texts if tag == "h2"] == ["Does it collapse?", "a", "b", "How to reproduce"]
  assert [one.part for one in both.tables] == ["Does it collapse?"] + ["a"] * 4
  assert both.table("cells bounded").rows == [
    ["replace", "loss", "0", "0", "1", "0"],
    ["replace", "log spread", "0", "0", "1", "0"],
  ]
  assert "Every run stayed finite." in [text for _, text in both.texts]
  assert ("p", "worth it") in both.texts and ("p", "5 runs, one generation each, in 3 s.") in both.texts


# ------------------------------------------------------------------------------------------------------- theory
def test_theory_rows(known, page):
  """All columns of the z-scores, by hand: the mean of finite runs, the known error, and what was expected."""
  rows = diagnostics.compare_with_theory(known)
  table = page.table("generation", "predicted", part="mine")
  assert table.heading == "Theory against simulation" and len(table.rows) == len(rows) > 10
  for shown, row in zip(table.records(), rows):
    assert shown["cell"] == cell_of(row) and shown["metric"] == row["metric"] == "loss"
    assert shown["generation"] == str(row["generation"]) and shown["runs"] == str(row["num_finite"])
    at = {"workflow": row["workflow"], "num_samples": row["num_samples"], "generation": row["generation"]}
    sample = known.loss.sel(at).values
    sample, expected = sample[np.isfinite(sample)], float(known.loss_expected.sel(at))
    error = np.sqrt(float(known.loss_expected_variance.sel(at)) / len(sample))
    mean, standard_error = shown["simulated ± s.e."].split(" ± ")
    assert sample.mean() == number(mean, 5) and error == number(standard_error, 2)
    assert expected == number(shown["predicted"], 5)
    assert float(shown["z"]) == pytest.approx((sample.mean() - expected) / error, abs=0.006)
  right, wrong = ([abs(row["z"]) for row in rows if row["workflow"] == name] for name in ("replace", "mine"))
  assert max(right) < 5 < max(wrong)
  assert f"{len(rows)} comparisons" in page.text(f"{len(rows)} comparisons of means")
  assert f"largest |z| = {max(wrong):.1f}." in page.text(f"{len(rows)} comparisons of means")


def test_theory_holds_up_to_a_generation(known):
  """Later it is drawn, and no ground for a z-score; with a bound that is not known it holds to the end."""
  seen = {}
  for row in diagnostics.compare_with_theory(known, range(1, 41)):
    seen.setdefault((row["workflow"], row["num_samples"]), []).append(row["generation"])
  every = list(range(1, 41))
  assert (
    seen
    == {
      ("replace", 10): every,
      ("replace", 20): every[:5],  # later too few are finite
      ("replace", 40): [1, 2, 3],
      ("replace", 80): [1],
      ("mine", 40): every,
      ("mine", 80): every[:10],
    }
  )


def test_limits(known, page):
  """The mean of finite runs at the last generation beside the limit, in the rows of the metric that has one."""
  for shown, row in zip(page.table("verdict").records(), diagnostics.verdicts(known)):
    text = shown["mean at the end \N{RIGHTWARDS ARROW} limit by theory"]
    limit = float(known.loss_limit.sel(workflow=row["workflow"], num_samples=row["num_samples"]))
    if row["metric"] != "loss" or np.isnan(limit):
      assert text == ""
      continue
    last = known.loss.sel(workflow=row["workflow"], num_samples=row["num_samples"]).values[:, -1]
    mean, said = text.split(" \N{RIGHTWARDS ARROW} ")
    assert np.mean(last[np.isfinite(last)]) == number(mean, 4) and float(said) == limit


def test_agreement(known, page):
  """All comparisons of the page, those of the systems among them, in groups."""
  groups = {}
  for row in diagnostics.compare_with_theory(known):
    groups.setdefault(("mine", row["metric"], row["workflow"]), []).append(row["z"])
  for row in COMPARED:
    groups.setdefault(("mine", row["system"], row["source"]), []).append(row["z"])
  table = page.table("root mean square of z")
  assert len(groups) == 3
  assert table.rows == [
    [*names, str(len(z)), f"{np.sqrt(np.mean(np.square(z))):.2f}", f"{np.abs(z).max():.1f}"]
    for names, z in groups.items()
  ]
  every = np.concatenate(list(groups.values()))
  said = page.text(f"{len(every)} comparisons of simulated means")
  usual = stats.norm.isf(0.25 / len(every))
  assert f"the largest |z| is {np.abs(every).max():.1f}, where {usual:.1f} would be usual" in said
