"""What the first screen of a report says: words and numbers, from curves of which both are known."""

import re

import numpy as np
import pytest
from looking import Page, interval, results, runs

from collapse_jax import diagnostics, report
from collapse_jax.report import answer
from collapse_jax.report.panel import panel
from experiments import output

T = np.arange(1, 41)
LEVEL = 0.0 * T


def made(curves, *, about=(), spread=0.02, seeds=20, **axes):
  """A metric `loss` of given mean curves [workflow, axes..., T], with training rows and real shares of `accumulate`."""
  values = runs(np.array(curves), seeds=seeds, spread=spread)
  shape = values.shape
  about = {
    "loss": {"units": "nats", "measures": "risk"} | dict(about),
    "train_size": {"worse": ""},
    "real_share": {"worse": ""},
  }
  if about["loss"].get("log_scale"):
    values = np.exp(values)
  variables = {
    "loss": values,
    "train_size": np.broadcast_to(10.0 * T, shape),
    "real_share": np.broadcast_to(1 / T, shape),
  }
  return results(variables, about=about, **axes)


def only(found):
  [one] = found
  return one


@pytest.mark.parametrize(
  "about, curve, number, detail",
  [
    (
      {"worse": "lower", "log_scale": 1, "units": "1"},
      -np.log(2) / 7 * T,
      r"halves every (7.\d*) generations",
      "95% interval",
    ),
    ({"log_scale": 1}, np.log(2) / 3 * T, r"doubles every (3.?\d*|2.99) generations", "95% interval"),
    ({"worse": "lower", "log_scale": 1}, -np.log(5) * T, r"× (0.2\d*) a generation", "95% interval"),
    ({}, 5 + 0.25 * T, r"\+(0.25\d*) nats a generation", "95% interval"),
    ({"log_scale": 1}, LEVEL, r"× (1|1.0\d+|0.9\d+)", "since generation 1, median of runs, 95% interval"),
    ({}, 5 + LEVEL, r"(5|5.0\d+|4.9\d+) → (5|5.0\d+|4.9\d+) nats", "since generation 1, 95% interval of the change"),
  ],
)
def test_the_number_that_decides(about, curve, number, detail):
  """A rate where a verdict is diverging, else what changed; in the units, and on the scale, of the metric."""
  one = only(report.answers(made([curve], about=about, workflow=["mine"])))
  told = re.fullmatch(number, one.number)
  assert told, one.number
  assert one.detail.startswith(detail)
  if "generation" in one.number:
    value = {"h": np.log(2) / abs(curve[1] - curve[0]), "d": np.log(2) / abs(curve[1] - curve[0])}
    exact = value.get(one.number[0], np.exp(curve[1] - curve[0]) if "×" in one.number else curve[1] - curve[0])
    low, high = map(float, one.detail.removeprefix("95% interval ").split(" to "))
    assert float(told[1]) == pytest.approx(exact, rel=0.01) and 0.99 * low <= exact <= 1.01 * high


def test_runs_that_are_lost_are_counted():
  curve = made([LEVEL + 1], about={"worse": "lower", "log_scale": 1}, workflow=["mine"])
  curve.loss[0, :15, 20:] = 0.0
  assert only(report.answers(curve)).number == "0 in 15 of 20 runs"
  curve = made([LEVEL + 1], workflow=["mine"])
  curve.loss[0, :12, 20:] = np.inf
  one = only(report.answers(curve))
  assert (one.label, one.number) == ("diverging", "infinite in 12 of 20 runs")


def test_the_median_and_its_interval():
  """Order statistics 40 and 61 of 100 (P(B(100, 1/2) < 40) = 1.8%); none of five."""
  sample = np.random.default_rng(0).permutation(np.arange(1.0, 101))
  assert answer._median(sample) == (50.5, 40, 61)
  assert np.isnan(answer._median(sample[:5])[1:]).all()


@pytest.fixture(scope="module")
def both():
  """Two experiments: `replace` grows in one cell of two and is lost in the other one; `accumulate` holds, and is undecided once."""
  noisy = 3 * np.sin(T) + 0.1 * T
  small = made(
    [[5 + 0.5 * T, 5 + LEVEL], [5 + LEVEL, 5 + LEVEL]], workflow=["replace", "accumulate"], num_samples=[10, 20]
  )
  large = made([5 + 0.5 * T, noisy], about={"measures": ""}, workflow=["replace", "accumulate"])
  return {"one": small, "two": large}


def test_the_results_have_these_verdicts(both):
  found = {name: [row["verdict"].label for row in diagnostics.verdicts(one, ["loss"])] for name, one in both.items()}
  assert found == {"one": ["diverging", "bounded", "bounded", "bounded"], "two": ["diverging", "undecided"]}


def test_sentences_say_what_the_verdicts_say(both):
  page = Page(report.page(both, {"one": {}, "two": {}}))
  contents, (replace, accumulate, *meaning) = np.split([text for tag, text in page.texts if tag == "li"], [4])
  assert list(contents) == ["The answer", "one", "two", "How to reproduce"]
  slope = diagnostics.verdicts(both["one"], ["loss"])[0]["verdict"].slope
  assert replace.startswith(
    "replace holds in 1 of 3 cells: the error keeps growing and the loss keeps getting worse; 2 diverging; "
    f"in one, loss: {slope:+.3g} nats a generation (95% interval "
  ) and replace.endswith(", num_samples 10).")
  assert accumulate.startswith("accumulate holds in 2 of 3 cells: 1 undecided; in two, loss: ")
  assert meaning[0] == "Where replace did not hold in every cell (2 experiments), accumulate held in 1."
  assert meaning[1] == "The runs leave 1 of 3 cells of accumulate undecided; more generations or more seeds may decide."
  assert meaning[2] == (
    "Training rows of the last generation, beside the first: replace 40 times as many, 2.5% of them real; "
    "accumulate 40 times as many, 2.5% of them real."
  )


def test_matrix(both):
  """The worst verdict of a workflow's cells in each experiment, how many have it, and its number."""
  table = Page(report.page(both, {"one": {}, "two": {}})).table("experiment", "replace", "accumulate")
  assert table.columns == ["experiment", "replace", "accumulate"] and [row[0] for row in table.rows] == ["one", "two"]
  for (name, *shown), found in zip(table.rows, map(report.answers, both.values())):
    for text, one in zip(shown, found):
      several = f" {one.counts[one.label]} of {sum(one.counts.values())}" if name == "one" else ""
      assert text == f"{one.label}{several} {one.number}" + (f" ({one.possible})" if one.possible else "")
  assert table.rows[0][1].startswith("diverging 1 of 2 +0.5") and table.rows[0][2].startswith("bounded 2 of 2 ")


def test_small_curves(both):
  """Medians over runs, of one scale per row: from the lowest of the workflows at the bottom to the highest at the top."""
  page = Page(report.page(both, {"one": {}, "two": {}}))
  shown = [np.array([point.split(",") for point in line.split()], float) for line in page.lines]
  cells = [both["one"].loss[0, 0], both["one"].loss[1, 0], both["two"].loss[0], both["two"].loss[1]]
  medians = [np.median(cell.values, axis=0) for cell in cells]
  medians[1] = min(
    (np.median(one.values, axis=0) for one in both["one"].loss[1]),
    key=lambda y: np.abs(height(y, medians[0]) - shown[1][:, 1]).max(),
  )
  for points, median, beside in zip(shown, medians, (medians[1], medians[0], medians[3], medians[2])):
    np.testing.assert_allclose(points[:, 0], np.linspace(0, 100, 40), atol=0.5)
    np.testing.assert_allclose(points[:, 1], height(median, beside), atol=0.06)


def height(curve, beside):
  low, high = min(curve.min(), beside.min()), max(curve.max(), beside.max())
  return 40 - 40 * (curve - low) / (high - low)


@pytest.mark.parametrize(
  "counts, words",
  [
    ({"bounded": 3}, "holds"),
    ({"undecided": 3}, "is undecided"),
    ({"undecided": 1, "bounded": 2}, "holds in 2 of 3 cells"),
    ({"growing": 1, "bounded": 2}, "holds in 2 of 3 cells"),
    ({"growing": 1, "undecided": 2}, "does not hold"),
    ({"diverging": 3}, "does not hold"),
  ],
)
def test_no_more_than_the_verdicts(counts, words):
  one = answer.Answer("mine", next(iter(counts)), counts, "loss", "LOST", "7", "", "", "", LEVEL, [], [])
  label, said, text = answer.sentence({"here": one})
  assert (label, said) == (next(iter(counts)), words)
  assert ("LOST" in text) == bool(counts.keys() & {"growing", "diverging"})
  found = answer.meaning({"here": [one]}, {"here": made([LEVEL], workflow=["mine"])})
  assert ("Nothing collapsed: every verdict is bounded." in found) == (words == "holds")
  assert any("undecided" in text for text in found) == ("undecided" in counts)


def test_what_can_only_be_collapse():
  """Whether it grows or diverges is undecided; that it does not hold is not."""
  one = answer.Answer(
    "mine", "undecided", {"undecided": 1}, "loss", "LOST", "7", "", "", "growing or diverging", LEVEL, [], []
  )
  assert answer.sentence({"here": one}) == ("growing", "does not hold", "LOST; loss: 7 (growing or diverging).")
  other = one._replace(workflow="other", label="bounded", counts={"bounded": 1}, possible="")
  assert "Where mine did not hold in every cell (here), other held." in answer.meaning({"here": [one, other]}, {})
  unsure = one._replace(possible="bounded or growing")
  assert answer.sentence({"here": unsure})[:2] == ("undecided", "is undecided")
  left = {one["verdict"].possible for one in diagnostics.verdicts(made([T**0.7], spread=1.0, workflow=["mine"]))}
  assert left == {("growing", "diverging")}


def test_who_levels_off_far_away_has_not_held():
  """A bounded metric that is 14 times as bad as at first; in the cell that is worst."""
  rise = np.minimum(T, 14) + LEVEL
  risen, flat = report.answers(made([rise, 5 + LEVEL], spread=0.001, workflow=["mix", "accumulate"]))
  assert (flat.label, risen.label) == ("bounded", "bounded")
  assert risen.factor == pytest.approx(14, rel=0.01) and flat.factor == pytest.approx(1, rel=0.01)
  assert answer.sentence({"one": flat})[1] == "holds"
  _, words, text = answer.sentence({"one": flat, "two": risen})
  assert words == "levels off" and text.startswith("in two, loss: ") and "\N{RIGHTWARDS ARROW} 14 nats" in text


def test_who_levels_off_far_away_has_not_held_beside_others_either():
  rise = np.minimum(T, 14) + LEVEL
  risen, flat, lost = report.answers(
    made([rise, 5 + LEVEL, 5 * T + LEVEL], spread=0.001, workflow=["mix", "accumulate", "replace"])
  )
  one, two = {"one": lost._replace(workflow="mix")}, risen
  assert answer.sentence(one | {"two": two})[1] == "levels off in 1 of 2 cells"
  assert answer.sentence(one | {"two": flat})[1] == "holds in 1 of 2 cells"
  said = answer.meaning({"one": [risen, flat, lost]}, {})
  assert said[0] == "Where replace did not hold in every cell (one), mix levelled off and accumulate held."


def test_a_summary_shows_itself():
  """In a terminal a line a workflow, in a notebook a table and a figure; names of a user's are escaped."""
  shown = report.summary(made([5 + 0.5 * T, 5 + LEVEL], workflow=["replace", "<b>kept</b>"]))
  second, first = repr(shown).splitlines()
  assert first.startswith("<b>kept</b> holds: loss: 4.997") and second.startswith(
    "replace does not hold: the error keeps"
  )
  page = shown._repr_html_()
  assert "&lt;b&gt;kept&lt;/b&gt;" in page and "<b>kept" not in page and "does not hold" in page
  assert page.count('src="data:image/png;base64,iVBOR') == 1
  silent = report.summary(made([5 + LEVEL], about={"worse": ""}, workflow=["replace"]))
  assert repr(silent) == "No metric has a direction that is worse."


@pytest.mark.parametrize(
  "curves, text",
  [
    ([5 + 0.5 * T, 5 + LEVEL, 5 + LEVEL], "In mine: with a real share of 0.0824 ("),
    ([5 + LEVEL, 5 + LEVEL, 5 + 0.5 * T], "not reachable with shares up to 0.5."),
  ],
)
def test_the_real_share_that_is_enough(curves, text):
  some = made([curves], workflow=["mix"], real_fraction=[0.0, 0.1, 0.5])
  said = lambda some: answer.meaning({"mine": report.answers(some)}, {"mine": some})[-1]
  assert text in said(some) and "within 0.2 of" in said(some)
  assert "within 0.3 of" in said(some.assign_attrs(tolerance=0.3))  # what was asked of the sweep


def test_a_single_share_that_could_run_is_compared_with_none(tmp_path):
  """Nothing is said of it, and the page and its figures are drawn all the same."""
  some = made([[[5 + 0.5 * T], [5 + LEVEL]]], workflow=["mix"], real_fraction=[0.0, 0.1], num_samples=[10])
  some = diagnostics.complete(some)
  some["cell_status"] = some.cell_status.dims, np.array([[["ok"], ["too large"]]], object)
  assert not any("real share" in text for text in answer.meaning({"mine": report.answers(some)}, {"mine": some}))
  report.write_report(some, tmp_path / "report.html")
  assert "loss_against_real_share" in (tmp_path / "report.html").read_text()


def test_panel(both):
  """Means over runs that stayed finite, their intervals and numbers, and theory, as the figures have them; and nothing breaks out."""
  some = both["one"].assign_coords(workflow=["replace", "</script><b>mine</b>"])
  some["loss_expected"] = (("workflow", "num_samples", "generation"), np.broadcast_to(5 + 0.5 * T, (2, 2, 40)))
  some.loss[1, 1, 3, 7:] = np.inf
  text = report.page(some, {"mine": {}})
  assert "<b>mine</b>" not in text
  [told] = [one for one in Page(text).data if "rows" in one]
  assert told["workflows"] == list(some.workflow.values) and told["cells"] == ["num_samples 10", "num_samples 20"]
  assert [one["title"] for one in told["metrics"]] == ["loss (nats)", "train size", "real share"] and told[
    "seeds"
  ] == 20
  assert {(one["log"], one["positive"]) for one in told["metrics"]} == {(False, True)}
  head, *lines = [line.split(",") for line in told["rows"].split("\n")]
  rows = [dict(zip(head, line)) for line in lines if line[1] == "0"]
  assert len(rows) == 2 * 2 * 40
  for w, n in np.ndindex(2, 2):
    values = some.loss.values[w, n]
    kept = values[np.isfinite(values).all(axis=1)]
    found = [row for row in rows if (row["workflow"], row["cell"]) == (str(w), str(n))]
    assert [row["t"] for row in found] == list(map(str, T)) and {row["runs"] for row in found} == {str(len(kept))}
    read = lambda name, found=found: np.array([float(row[name]) for row in found])
    for name, curve in zip(("mean", "low", "high"), interval(kept)):
      np.testing.assert_allclose(read(name), curve, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(read("theory"), 5 + 0.5 * T, rtol=1e-4)
  assert {len(one) for one in (rows[0], head)} == {9}


@pytest.mark.parametrize("is_terminal, plain", [(True, None), (True, "1"), (False, None)])
def test_table_at_the_end_of_a_run(both, tmp_path, capsys, monkeypatch, is_terminal, plain):
  """A line an answer, on standard error; coloured on a terminal, unless NO_COLOR is set."""
  both = {**both, "unsure": made([T**0.7], spread=1.0, workflow=["mine"])}
  for name, one in both.items():
    (tmp_path / name).mkdir()
    one.to_netcdf(tmp_path / name / "results.nc", engine="h5netcdf")
  monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
  monkeypatch.delenv("NO_COLOR", raising=False)
  if plain:
    monkeypatch.setenv("NO_COLOR", plain)
  output.tell(tmp_path, list(both))
  said = capsys.readouterr()
  head, *lines = said.err.splitlines()
  assert said.out == "" and head.split() == ["verdict", "cells", "experiment", "workflow", "what", "decided"]
  known = [(name, one) for name, results in both.items() for one in report.answers(results)]
  assert any(one.possible for _, one in known) and not all(one.possible for _, one in known)
  for line, (name, one) in zip(lines, known, strict=True):
    coloured = f"\033[{output.COLOURS[one.label]}m{one.label}\033[0m"
    assert line.startswith(coloured if is_terminal and not plain else one.label)
    cells = f"{one.counts[one.label]} of {sum(one.counts.values())}"
    possible = f" ({one.possible})" if one.possible else ""
    assert f"  {cells} " in line and line.endswith(f"{one.about}: {one.number}{possible}")
    assert f" {name} " in line and f" {one.workflow} " in line


def test_a_panel_has_so_many_points():
  """Of many cells fewer points and metrics, of too many none."""
  many = made(np.broadcast_to(5 + LEVEL, (1, 300, 40)), workflow=["mine"], num_samples=list(range(1, 301)), seeds=2)
  told = [one for one in Page(report.page(many, {"mine": {}})).data if "rows" in one]
  assert len(only(told)["metrics"]) == 3 and len(only(told)["rows"].split("\n")) <= 12_001
  more = many.isel(num_samples=[0] * 1600).assign_coords(num_samples=range(1, 1601))
  assert panel(diagnostics.complete(more)) is None


def test_nothing_comes_from_outside_and_every_link_has_a_target(both):
  text = report.page(both, {"one": {"figure": b"png"}, "two": {}})
  page = Page(text)
  assert page.sources == ["data:image/png;base64,cG5n"]
  assert [link[1:] for link in page.links if link[1:] not in page.ids] == [] and len(set(page.ids)) == len(page.ids)
  assert {"#answer", "#part-1", "#part-2", "#reproduce"} <= set(page.links)
  assert not re.search(r"<link|@import|url\(|<iframe", text.split("<script>")[0])


def test_without_generations_no_library_is_in_the_page():
  import xarray

  flat = xarray.Dataset({"test_loss": ("num_real", [1.0])})
  assert len(report.page({"a": flat}, {"a": {}})) < 20_000 and "vegaEmbed" not in report.page({"a": flat}, {"a": {}})
