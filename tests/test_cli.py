"""The command `collapse`: what it lists, the help and the errors of each command, and what those that read results say."""

import contextlib
import functools
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
from helpers import called, own_flags
from looking import results, runs

from collapse_jax import cli, decisions, load, metrics
from collapse_jax.cli import check
from collapse_jax.metrics import meaning
from experiments import common, flag_values, help_page, output

T = np.arange(1, 21)


def program(name):
  """The module of a command or of an experiment."""
  return importlib.import_module(cli.home(name) if name in cli.COMMANDS else f"experiments.{name}")


@pytest.fixture
def collapse(capsys):
  return functools.partial(called, capsys)


def refused(answer):
  """The one line of a user's error."""
  status, out, said = answer
  assert status == 2 and not out and len(said.splitlines()) == 1 and said.startswith("error: "), answer
  return said


@pytest.mark.parametrize(
  ("arguments", "status", "said"),
  [
    ((), 0, "collapse COMMAND --help"),
    (("--help",), 0, "check "),
    (("lopo",), 2, "Did you mean 'loop'?"),
    (("fly",), 2, "there is no command 'fly'. collapse --help"),
    (("run",), 0, "gaussian  "),
    (("run", "--help"), 0, "gaussian  "),
    (("run", "gausian"), 2, "Did you mean 'gaussian'?"),
    (("run", "common"), 2, "'common'"),
    (("run", "os"), 2, "'os'"),
  ],
)
def test_first_words(monkeypatch, capsys, arguments, status, said):
  monkeypatch.setattr(sys, "argv", ["collapse", *arguments])
  try:
    cli.main()
    code = 0
  except SystemExit as end:
    code = end.code
  out, error = capsys.readouterr()
  assert code == status and said in (error if status else out) and len(error.splitlines()) == (status == 2)
  assert all(name in out for name in cli.COMMANDS) or arguments not in ((), ("--help",))


def test_lists_need_no_jax():
  script = """
import sys
from collapse_jax import cli
for words in ([], ["run"], ["--help"]):
  sys.argv = ["collapse", *words]
  cli.main()
assert not {"jax", "scipy", "xarray"} & set(sys.modules)
"""
  done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
  assert done.returncode == 0 and "language_model" in done.stdout, done.stderr


def test_a_list_that_nobody_reads_to_its_end():
  reading, writing = os.pipe()
  os.close(reading)  # as `head` does
  command = [sys.executable, "-m", "collapse_jax", "--help"]
  done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
  os.close(writing)
  assert (done.returncode, done.stderr) == (0, "")


def test_what_is_listed_can_be_run():
  listed = cli.experiments()
  assert {"gaussian", "kde", "compare", "reproduce"} <= set(listed) and "flag_values" not in listed
  assert all(len(line) > 20 and line.endswith(".") for line in listed.values())


EXPERIMENTS = sorted(cli.experiments())


@pytest.mark.parametrize("name", [*EXPERIMENTS, *(one for one in cli.COMMANDS if one not in ("run", "compare"))])
def test_help_shows_every_flag_and_three_examples(monkeypatch, name):
  """Examples can be parsed, so that a flag that is gone is noticed."""
  module = program(name)
  start = f"collapse {name}" if name in cli.COMMANDS else name
  monkeypatch.setattr(sys, "argv", [start])
  with own_flags():
    before = set(flag_values.FLAGS)
    module.define()
    mine = set(flag_values.FLAGS) - before
    help_page.define(module.__doc__)
    said = io.StringIO()
    with pytest.raises(SystemExit) as end, contextlib.redirect_stdout(said):
      common.parse(["x", "--help"], arguments=True)
    page = said.getvalue()
    assert end.value.code == 0 and page.startswith(module.__doc__.splitlines()[0])
    for flag in mine:
      assert re.search(rf"^  --(\[no\])?{flag}\s", page, re.M), flag
    assert set(re.findall(r"^  --(?:\[no\])?(\w+)", page, re.M)) - before - {"log_dir"} == mine  # of absl, and others
    start = flag_values.program()
    examples = re.findall(rf"^  {re.escape(start)}\b(.*)", page.replace("\\\n", ""), re.M)
    assert len(examples) >= 3
    for example in examples:
      flag_values.FLAGS.unparse_flags()
      words = shlex.split(re.split(r"&&|\|\|", example)[0])
      common.parse(["x", *words], arguments=True)  # or it ends
    assert max(map(len, page.splitlines())) <= 140


def test_help_of_a_binary(capsys):
  """As it is called, with flags that it shares with others; in a process of its own."""
  done = subprocess.run(
    [sys.executable, "-m", "experiments.gaussian", "--help"], capture_output=True, text=True, check=False, timeout=60
  )
  assert (done.returncode, done.stderr) == (0, "")
  for line in ("  python -m experiments.gaussian --dry_run", "  --dims ", "  --num_seeds ", "  --output_dir "):
    assert line in done.stdout


# ----------------------------------------------------------------------------------------------------- reading results
@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """Loss that grows by 2% of its first a generation, or not; its mirror image, where lower is worse; 5 seeds."""
  path = tmp_path_factory.mktemp("results")
  loss = runs(np.stack([5 + 0.1 * (T - 1), 5 + 0 * T]), spread=0.01)
  about = {"score": {"worse": "lower"}, "size": {"worse": ""}}
  made = results({"loss": loss, "score": -loss, "size": loss}, about=about, workflow=["replace", "accumulate"])
  made.to_netcdf(path / "results.nc", engine="h5netcdf")
  return path


@pytest.mark.parametrize(
  ("flags", "status", "said"),
  [
    (
      (),
      1,
      r"loss goes from [45]\.\d+ to 6\.\d+ .*1 and 20 at worst, where workflow=replace: .*beyond .*; 1 of 2 cells are\.",
    ),
    (("--tolerance=50%",), 0, "within the tolerance of 0.5"),
    (("--tolerance", "0.35"), 1, "beyond"),
    (("--tolerance", "0.41"), 0, "within"),
    (("--metric", "score"), 1, "score goes from -"),
    (("--workflows=accumulate", "--tolerance=2%"), 0, "where workflow=accumulate"),
    (("--metric=size",), 1, "where workflow=replace: .* away, relative"),
  ],
)
def test_check(collapse, place, flags, status, said):
  answer = collapse("check", *flags, place)
  assert answer == collapse("check", place, *flags)  # in either order
  assert answer[0] == status and not answer[2] and re.search(said, answer[1]) and len(answer[1].splitlines()) == 1


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (("--metric=los",), "Did you mean 'loss'?"),
    (("--metric=volume",), "is no metric of these results. There are loss, score, size."),
    (("--tolerance=-1",), "--tolerance must be"),
    (("--tolerance=nan",), "--tolerance must be"),
    (("--tolerance=x%",), "--tolerance must be"),
    (("--workflows=mix",), "these results have replace, accumulate"),
    (("--tolerence=1",), "Did you mean: tolerance"),
    (("again",), "give one directory"),
  ],
)
def test_check_misused(collapse, place, flags, said):
  assert said in refused(collapse("check", place, *flags))


def test_check_of_what_is_not_there(collapse, tmp_path):
  assert "give one directory" in refused(collapse("check"))
  assert "is no directory" in refused(collapse("check", tmp_path / "none"))
  assert "holds no results.nc" in refused(collapse("check", tmp_path))
  (tmp_path / "results.nc").write_bytes(b"damaged")
  assert "cannot be read as results" in refused(collapse("check", tmp_path))


def test_check_of_cells_and_runs_that_were_lost():
  loss = runs(np.stack([5 + 0 * T] * 3))
  loss[0, 2, 7:] = np.inf
  status = np.array(["ok", "ok", "too <large>"], object)
  made = results({"loss": loss, "cell_status": (("workflow",), status, {})}, workflow=["a", "b", "c"])
  rows = check.changes(made, "loss")
  assert [(row.cell, np.isinf(row.worse)) for row in rows] == [
    ("workflow=a", True),
    ("workflow=b", False),
    ("workflow=c", True),
  ]
  assert "1 of 5 runs did not stay finite; 2 of 3 cells fail." in check.sentence(rows, "loss", 0.2, [1, 20])
  assert "it did not run (too <large>)" in check.sentence(rows[1:], "loss", 0.2, [1, 20])
  (row,) = check.changes(made.isel(workflow=[1]), "loss")
  assert abs(row.worse) < 5 * row.error and 0.001 < row.error < 0.1


def test_the_error_of_a_change():
  """Against the spread of the ratio over many repetitions; last is 1.5 of first, with noise in both."""
  rng = np.random.default_rng(0)
  begun = 10 + rng.standard_normal((4000, 30))
  values = np.stack([begun, 1.5 * begun + rng.standard_normal((4000, 30))], axis=-1)
  found = [check._change("", one, 1.0) for one in values]
  spread = np.std([one.worse for one in found])
  assert abs(np.mean([one.error for one in found]) / spread - 1) < 0.05
  assert abs(np.mean([one.worse for one in found]) - 0.5) < 5 * spread / np.sqrt(4000)
  assert abs(check._change("", values[0], -1.0).worse + found[0].worse) < 1e-12


def test_report_draws_again(collapse, tmp_path, place, monkeypatch):
  made = xarray.load_dataset(place / "results.nc", engine="h5netcdf")
  made.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
  (tmp_path / "report.html").write_text("a stranger's")
  drawn = []
  monkeypatch.setattr(output, "drawings", lambda path, folders: drawn.append(folders) or {"report.html": b"new"})
  assert collapse("report", tmp_path) == (0, f"{tmp_path / 'report.html'}\n", "")
  assert (tmp_path / "report.html.before").read_text() == "a stranger's"
  (tmp_path / "report.html").write_text("spoilt")
  shown = []
  monkeypatch.setattr("webbrowser.open", shown.append)
  assert collapse("report", tmp_path, "--open")[0] == 0 and drawn == [["."], ["."]]
  assert shown == [(tmp_path / "report.html").as_uri()]
  assert (tmp_path / "report.html").read_text() == "new" and not (tmp_path / "report.html.before2").exists()
  assert xarray.load_dataset(tmp_path / "results.nc", engine="h5netcdf").identical(made)


def test_report_refuses(collapse, tmp_path, place):
  assert "holds no results.nc" in refused(collapse("report", tmp_path))
  lock = output._lock(place)
  try:
    assert "is being written by another process" in refused(collapse("report", place))
  finally:
    lock.release()


def test_results_below(collapse, tmp_path, place):
  """Several are named; a single one is found."""
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "results.nc").write_bytes((place / "results.nc").read_bytes())
    answer = collapse("check", tmp_path, "--tolerance=0.5")
    if name == "a":
      assert answer[0] == 0
  assert f"holds 2 results; name one of them: {tmp_path}/a, {tmp_path}/b" in refused(answer)


# ---------------------------------------------------------------------------------------------------------- decisions
@pytest.fixture(scope="module")
def shares(tmp_path_factory):
  """Loss that grows by (0.4 - share) of its first until generation 20, in 10 runs: 0.2 is enough for a tolerance of 0.2; also as CSV."""
  path = tmp_path_factory.mktemp("shares")
  tried = [0.0, 0.1, 0.3, 0.6]
  loss = runs(np.stack([[5 * (1 + (0.4 - share) * (T - 1) / 19) for share in tried]]), seeds=10, spread=0.01)
  made = results({"loss": loss}, workflow=["mix"], real_fraction=tried)
  made.to_netcdf(path / "results.nc", engine="h5netcdf")
  table = made.loss.isel(workflow=0).to_series().rename("value").reset_index()
  table["workflow"] = [f"mix({share})" for share in table.real_fraction]
  table.assign(metric="loss").drop(columns="real_fraction").to_csv(path / "measured.csv", index=False)
  return path


@pytest.mark.parametrize("file", ["", "results.nc", "measured.csv"])
def test_share(collapse, shares, file):
  status, out, said = collapse("share", shares / file)
  found = re.fullmatch(
    r"With a real share of (0\.\d+) \((0\.\d+) to (0\.\d+)\) loss stays within 0\.2 .* generation 20\.\n", out
  )
  assert (status, said) == (0, "") and found, out
  share, low, high = map(float, found.groups())
  assert low < share < high and abs(share - 0.2) < 0.02


def test_share_misused(collapse, shares, place):
  assert "--tolerance" in refused(collapse("share", shares, "--tolerance=0"))
  assert "--horizon" in refused(collapse("share", shares, "--horizon=30"))
  assert "real_fraction" in refused(collapse("share", place))


@pytest.mark.parametrize("file", ["results.nc", "measured.csv"])
def test_forecast(collapse, shares, file):
  """A row for up to five generations of a cell, the horizon among them; where nothing can be told, one that says so."""
  status, out, said = collapse("forecast", shares / file, "--horizon", 30)
  assert (status, said) == (0, ""), said
  title, head, *rows = out.splitlines()
  assert title == "loss, mean over runs, 90% interval, from generations 1 to 20"
  assert head.split()[-7:] == ["generation", "mean", "low", "high", "family", "rival", "status"]
  found = decisions.forecast(shares / file if file.endswith("csv") else load(shares), horizon=30)
  ends = [re.sub(r" +", " ", row) for row in rows if re.search(r" 30 ", row)]
  values = [found[name].values.reshape(4, -1)[:, -1] for name in ("mean", "low", "high")]
  statuses = found.status.values.ravel()
  assert len(ends) == 4 and "ok" in statuses
  for row, *numbers, status in zip(ends, *values, statuses):
    shown = " ".join("-" if np.isnan(number) else f"{number:.4g}" for number in numbers)
    assert f" 30 {shown} " in row and row.endswith(status)


def test_forecast_misused(collapse, shares, tmp_path):
  assert "--horizon" in refused(collapse("forecast", shares, "--horizon=20"))
  (tmp_path / "a.csv").write_text("workflow,generation\nreplace,1\n")
  assert "must have the columns" in refused(collapse("forecast", tmp_path / "a.csv"))


def test_score(collapse, tmp_path):
  """Text, whose metrics need no JAX; numbers are those of the library."""
  real, sample = tmp_path / "real.jsonl", tmp_path / "sample.jsonl"
  rows = [{"text": f"the {word} is here {i}"} for i, word in enumerate(("cat", "dog", "cow", "hen"))]
  real.write_text("".join(json.dumps(row) + "\n" for row in rows))
  sample.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:1], *rows[:3]]))
  status, out, said = collapse("score", real, sample)
  assert (status, said) == (0, ""), said
  head, *lines = (line.split() for line in out.splitlines())
  told = {line[0]: line[1:] for line in lines}
  assert head == ["metric", "value", "null"] and told["duplicate_documents"] == ["0.5", "0"]
  found = metrics.score(rows, [*rows[:1], *rows[:3]])
  assert set(told) == set(found) and all(told[name][0] == f"{one.value:.4g}" for name, one in found.items())
  copied = collapse("score", real, sample, f"--train={real}")[1]
  assert "copied_documents" in copied and "copied_documents" not in out
  assert "give two files" in refused(collapse("score", real))
  assert "none.csv: no such file" in refused(collapse("score", real, "none.csv"))
  assert "--train: " in refused(collapse("score", real, sample, "--train=none.csv"))


def test_what_is_known_of_metrics_is_of_those_there_are():
  """A name that is changed where it is computed has no direction."""
  text = "".join(file.read_text() for file in Path(metrics.__path__[0]).glob("*.py") if file.name != "meaning.py")
  fixed = [name for name in meaning.MEANING if not name.startswith("distinct_")]
  assert [name for name in fixed if not re.search(rf"\b{name}\b", text)] == []
  assert {worse for worse, _ in meaning.MEANING.values()} == {"higher", "lower"}
