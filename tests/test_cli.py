"""The command `collapse`: what it lists, the help and the errors of each command, and what those that read results say."""

import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import xarray
from helpers import own_flags
from looking import results, runs

from collapse_jax import cli
from collapse_jax.cli import check
from experiments import common, flag_values, help_page, output

T = np.arange(1, 21)


def program(name):
  """The module of a command or of an experiment."""
  return importlib.import_module(cli._home(name) if name in cli.COMMANDS else f"experiments.{name}")


@pytest.fixture
def collapse(monkeypatch, capsys):
  """Calls a command in this process; (exit status, what it prints, what it says on standard error)."""

  def call(command, *arguments):
    module = program(command)
    monkeypatch.setattr(sys, "argv", [f"collapse {command}", *map(str, arguments)])
    capsys.readouterr()
    status = 0
    with own_flags():
      module.define()
      help_page.define(module.__doc__)
      try:
        common._guarded(module.main, True, common.parse(sys.argv, arguments=True))
      except SystemExit as end:
        status = end.code
    return (status, *capsys.readouterr())

  yield call
  for flag in (output.BEGUN, output.NUMBERS):
    flag.clear()
  output.HELD.clear()


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
    (("chekc",), 2, "Did you mean 'check'?"),
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
    assert set(re.findall(r"^  --(?:\[no\])?(\w+)", page, re.M)) - {"log_dir"} == mine  # which absl has too
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
    (("--metric=size",), "There are loss, score."),
    (("--metric=shares",), "no metric of these results"),
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
  assert collapse("report", tmp_path)[0] == 0 and drawn == [["."], ["."]]
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
