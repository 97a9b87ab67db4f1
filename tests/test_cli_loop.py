"""`collapse loop` as a stranger calls it: scripts of one line, numbers known exactly, a directory that nobody else's files are lost in."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
import xarray
from helpers import DRAWN, called

from experiments import output

# Fits the mean of x; writes rows that are all 1 above it; tells the mean of what it wrote.
FIT = """awk 'NR > 1 {s += $1; n++} END {printf "%.17g\\n", s / n}' {data} > {model}"""
SAMPLE = """awk -v n={num} '{print "x"; for (i = 0; i < n; i++) printf "%.17g\\n", $1 + 1}' {model} > {out}"""
JUDGE = """awk 'NR > 1 {s += $1; n++} END {printf "{\\"level\\": %.17g}", s / n}' {data} > {out}"""
RESUMED = ("--num_generations", "4", "--resume")


@pytest.fixture
def place(tmp_path):
  """A folder with real.csv, x = 0 to 9, and test.csv."""
  for name in ("real", "test"):
    pandas.DataFrame({"x": np.arange(10.0)}).to_csv(tmp_path / f"{name}.csv", index=False)
  return tmp_path


@pytest.fixture
def call(monkeypatch, capsys, place):
  """`collapse loop` in that folder, with figures that are not drawn; (exit status, what it prints, its last line of errors)."""
  monkeypatch.setattr(output, "drawings", lambda path, folders: dict(DRAWN))
  monkeypatch.chdir(place)

  def run(*arguments, **changed):
    flags = {"fit": FIT, "sample": SAMPLE, "evaluate": JUDGE, "data": "real.csv", "test": "test.csv"}
    flags |= {"workflows": "replace,accumulate", "num_generations": 3, "num_seeds": 1, "output_dir": "out"} | changed
    given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    status, out, said = called(capsys, "loop", *given, *arguments)
    return status, out, (said.strip().splitlines() or [""])[-1]

  return run


def levels(num_generations):
  """What is told under both workflows: the mean of what a generation is fitted to, and 1."""
  replace, pool, accumulate = 4.5 + np.arange(1.0, num_generations + 1), [4.5], []
  for _ in range(num_generations):
    accumulate.append(np.mean(pool) + 1)
    pool.append(accumulate[-1])
  return np.array([replace, accumulate])


def steps(place):
  return {file.parent.name: file.stat().st_mtime_ns for file in (place / "out" / "loop" / "steps").glob("*/step.json")}


def test_numbers_files_and_going_on(call, place):
  """Both workflows by hand; then more generations of the same loop, in which nothing is done twice."""
  status, out, said = call()
  assert (status, out) == (0, "out/report.html\n"), said
  found = xarray.load_dataset(place / "out" / "results.nc", engine="h5netcdf")
  np.testing.assert_allclose(found.level.squeeze("seed").values, levels(3), rtol=1e-12)
  assert (found.cell_status == "ok").all() and found.attrs["command"].startswith("collapse loop ")
  made = json.loads((place / "out" / "config.json").read_text())["made"]
  assert {"results.nc", "report.html"} <= set(made) and not (place / "out" / "unfinished.json").exists()
  before = steps(place)
  assert len(before) == 3 * (1 + 2 + 2)
  status, _, said = call()
  assert status == 2 and "already holds results; give --overwrite" in said and steps(place) == before
  assert call(*RESUMED)[0] == 0
  after = steps(place)
  assert before.items() <= after.items() and len(after) == len(before) + 3 * 2
  found = xarray.load_dataset(place / "out" / "results.nc", engine="h5netcdf")
  np.testing.assert_allclose(found.level.squeeze("seed").values, levels(4), rtol=1e-12)


HEARD = """import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which programs in the background are born deaf to, and stay so
from collapse_jax import cli
sys.argv[0] = "collapse"
cli.main()
"""


def test_ended_in_the_middle(call, place):
  """SIGKILL, SIGTERM and Ctrl-C of the command with two jobs, each at some step; then the numbers of a loop left alone."""
  slow = f"sleep 0.1; {SAMPLE}"
  flags = {"fit": FIT, "sample": slow, "evaluate": JUDGE, "data": "real.csv", "test": "test.csv", "jobs": 2}
  flags |= {"workflows": "replace,accumulate", "num_generations": 9, "num_seeds": 1, "output_dir": "out"}
  command = [sys.executable, "-c", HEARD, "loop", "--resume", *(f"--{name}={value}" for name, value in flags.items())]
  done, ends = {}, {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
  for number, status in ends.items():
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
      end = time.monotonic() + 100
      while len(steps(place)) < len(done) + 5 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
      process.send_signal(number)  # of this process alone: what it has started must end with it
      said = process.stderr.read()
      assert process.wait(30) == status, said
    if number != signal.SIGKILL:
      assert "; what is finished is kept, --resume goes on with it" in said.splitlines()[-1]
    assert done.items() <= steps(place).items()
    done = steps(place)
  assert len(done) < 3 * (1 + 2 * 8)
  assert call("--resume", sample=slow, jobs=2, num_generations=9)[0] == 0
  assert done.items() <= steps(place).items()
  found = xarray.load_dataset(place / "out" / "results.nc", engine="h5netcdf")
  np.testing.assert_allclose(found.level.squeeze("seed").values, levels(9), rtol=1e-12)


def test_lineage(call, capsys, place):
  """Of the first and the last row, of which only one is in the batch that models are fitted to."""
  assert call(num_samples=5, num_generations=2)[0] == 0
  table = pandas.read_parquet(next((place / "out" / "loop" / "steps").glob("fit-*/data.parquet")))
  used = sorted(set(table[table._generation == 0]._row))
  missing = sorted(set(range(10)) - set(used))
  assert len(used) == 5
  status, out, said = called(capsys, "lineage", "out", f"--row={used[0]}")
  assert (status, said) == (0, "") and out.startswith(f"row {used[0]} is real.\n")
  assert "each seed begins with some of them" not in out
  assert f"3 models and the rows of 3 samples descend from row {used[0]}." in out
  assert [line.split() for line in out.splitlines()[2:]] == [
    ["run", "generations"],
    ["workflow=accumulate,seed=0", "1", "2"],
    ["workflow=replace,seed=0", "1", "2"],
  ]
  assert "each seed begins with some of them" in called(capsys, "lineage", "out", f"--row={missing[0]}")[1]
  again = called(capsys, "lineage", "out", f"--withdraw={used[0]},{missing[0]}", "--dry_run")[1]
  assert again.count("workflow=replace,seed=0") == again.count("workflow=accumulate,seed=0") == 2
  assert all(Path(word).is_dir() for word in again.split() if word.startswith("out/loop/steps/")) and "/fit-" in again
  status, out, _ = called(capsys, "lineage", "out", "--dry_run", "--withdraw", ",".join(map(str, missing)))
  assert (
    status == 0 and out.startswith("no models and the rows of no samples descend from rows ") and "again" not in out
  )
  before = steps(place)
  status, out, _ = called(capsys, "lineage", "out", f"--withdraw={used[0]}")
  assert status == 0 and "are deleted; the same `collapse loop` with --resume" in out and before and not steps(place)
  assert call("--resume", num_samples=5, num_generations=2)[0] == 0
  tables = [pandas.read_parquet(file) for file in (place / "out" / "loop" / "steps").glob("fit-*/data.parquet")]
  real = {row for table in tables for row in table[table._generation == 0]._row}
  assert real == set(used) - {used[0]} and not before.keys() & steps(place).keys()
  for flags, why in (
    (["--row=10"], "--row: there is no row 10"),
    (["--row=a"], "--row: there is no row a"),
    ([], "give either --row or --withdraw"),
    (["--row=1,2"], "--withdraw takes several"),
  ):
    status, _, said = called(capsys, "lineage", "out", *flags)
    assert status == 2 and why in said and len(said.splitlines()) == 1
  status, _, said = called(capsys, "lineage", ".", "--row=1")
  assert status == 2 and "holds no loop" in said


def test_other_sizes_and_measures(call, place):
  status, out, said = call(num_samples="5,10", measures="level=risk", workflows="replace", num_generations=2)
  assert (status, out) == (0, "out/report.html\n"), said
  found = xarray.load_dataset(place / "out" / "results.nc", engine="h5netcdf")
  assert found.level.attrs["worse"] == "higher" and found.attrs["primary_metric"] == "level"
  assert list(found.num_samples.values) == [5, 10] and found.level.sel(num_samples=10).values.ravel().tolist() == [
    5.5,
    6.5,
  ]


def test_a_step_that_fails(call, place):
  """Says which log tells why; what is finished stays, and is gone on with by another command."""
  status, out, said = call(sample="echo no disk left >&2; false {num} {model} {out}", workflows="replace")
  assert status == 1 and not out and "no run came to its end" in said and "no disk left" in said and "log.txt" in said
  assert "what is finished is kept, --resume goes on with it" in said and not (place / "out" / "results.nc").exists()
  status, _, said = call(workflows="replace")
  assert status == 2 and "already holds an unfinished sweep; give --resume" in said
  (before,) = steps(place)
  assert call("--resume", workflows="replace")[0] == 0 and before in steps(place)


@pytest.mark.parametrize(
  ("changed", "said"),
  [
    ({"fit": None}, "--fit is missing; --help has examples"),
    ({"test": None}, "--test is missing"),
    ({"fit": "python fit.py {data} {modle}"}, "--fit must name {model}"),
    ({"sample": "python draw.py {model} {out} {seeds}"}, "--sample may name"),
    ({"data": "none.csv"}, "--data: none.csv: no such file."),
    ({"data": "x.txt"}, "--data: x.txt must end in"),
    ({"test": "other.csv"}, "--test must have the columns of --data, x (number), got y (number)"),
    ({"workflows": "replac"}, "unknown workflow 'replac'"),
    ({"num_samples": "11"}, "--num_samples must be at most 10, the rows that --data has, got 11"),
    ({"num_samples": "x"}, "--num_samples must be an integer"),
    ({"measures": "level"}, "--measures must be a list of METRIC=KIND"),
    ({"measures": "level=loss"}, "KIND one of risk"),
    ({"jobs": "0"}, "--jobs must be an integer of at least 1"),
    ({"timeout": "-1"}, "--timeout must be a number above 0"),
    ({"num_sample": "3"}, "Did you mean: num_samples"),
    ({"resume": "true", "overwrite": "true"}, "--resume goes on and --overwrite begins anew; give one of them."),
    ({"output_dir": "theirs"}, "already holds notes.txt, which this program did not make"),
  ],
)
def test_misused(call, place, changed, said):
  """One line, before anything is computed or written."""
  pandas.DataFrame({"y": np.arange(3.0)}).to_csv("other.csv", index=False)
  (place / "theirs").mkdir()
  (place / "theirs" / "notes.txt").write_text("mine")
  (place / "x.txt").write_text("x")
  status, out, line = call(**changed)
  assert status == 2 and not out and line.startswith("error: ") and said in line
  assert not (place / "out").exists()


def test_what_is_no_flag(call, place):
  status, _, said = call("more")
  assert status == 2 and "unexpected argument 'more'" in said
  status, out, _ = call("--dry_run", num_samples=5)
  assert (status, out) == (0, "2 runs of 3 generations: 5 fits, as many samples of 5 rows and evaluations\n")
  assert not (place / "out").exists()


def test_results_of_another_command_are_not_gone_on_with(call, place):
  (place / "out").mkdir()
  shutil.copy("real.csv", place / "out" / "results.nc")
  (place / "out" / "config.json").write_text('{"flags": {"dims": "1"}, "made": {"results.nc": null}}')
  status, _, said = call("--resume")
  assert status == 2 and "holds results of another command; --overwrite begins anew" in said
