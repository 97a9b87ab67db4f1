"""A sweep that is killed at any moment goes on where it was, and ends with the numbers of one that was not."""

import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray
from helpers import KILLED, dataset, run, waiting

import collapse_jax as cj
from collapse_jax import tasks
from collapse_jax.sweeps import programs
from collapse_jax.sweeps.chunks import Chunks

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("resume")]  # one worker, for what they share
GAUSSIAN = (
  "experiments.gaussian",
  "--dims=1",
  "--num_samples=10,20",
  "--noise_vars=1,2",
  "--workflows=replace,accumulate",
  "--num_seeds=9",
  "--num_generations=4",
  "--chunk_size=3",
)  # 24 chunks
KDE = (
  "experiments.kde",
  "--datasets=moons",
  "--num_samples=10",
  "--bandwidths=0.5,1",
  "--workflows=replace,accumulate",
  "--num_seeds=9",
  "--num_generations=4",
  "--chunk_size=3",
)  # 12 chunks


def committed(path):
  return {file.name for file in (path / "chunks" / "process_0").glob("*.chunk")}


def noted(log):
  return [Path(name).name for name in log.read_text().split() if name.endswith(".chunk")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
  base = tmp_path_factory.mktemp("uninterrupted")
  for command in (GAUSSIAN, KDE):
    run("-m", *command, f"--output_dir={base / command[0]}")
  return {command[0]: dataset(base / command[0]) for command in (GAUSSIAN, KDE)}


@pytest.mark.parametrize(("command", "nth"), [(GAUSSIAN, 8), (KDE, 6)])
def test_killed(command, nth, expected, tmp_path):
  """Dead in the middle of a chunk, then at a random moment: no chunk that was committed is computed twice."""
  out, log = tmp_path / "out", tmp_path / "log"
  arguments = (*command, f"--output_dir={out}")
  run(KILLED, log, nth, "kill", *arguments, expect=-signal.SIGKILL)
  before = committed(out)
  assert before == set(noted(log)) and len(before) == nth - 3 and not (out / "results.nc").exists()
  refused = run("-m", *arguments, expect=2)
  assert "--resume" in refused.stderr and committed(out) == before
  other = run("-m", *arguments, "--seed=3", "--resume", expect=2)
  assert "--seed=0, not 3" in other.stderr and committed(out) == before
  run(KILLED, log, nth, "within=2", *arguments, "--resume", expect=-signal.SIGKILL)
  before |= committed(out)
  run(KILLED, log, 0, "kill", *arguments, "--resume")
  xarray.testing.assert_identical(dataset(out), expected[command[0]])
  names = noted(log)
  assert len(names) == len(set(names)) and len(before | set(names)) == {GAUSSIAN: 24, KDE: 12}[command]
  assert {file.name for file in out.iterdir()} == {".lock", "config.json", "figures", "report.html", "results.nc"}
  assert run("-m", *arguments, "--resume").stdout.strip().endswith("report.html")  # nothing left to do


def test_full_disk_then_damaged_chunks(expected, tmp_path):
  """One line and status 1; a chunk that is truncated, changed or empty is computed again."""
  out = tmp_path / "out"
  arguments = (*GAUSSIAN, f"--output_dir={out}")
  done = run(KILLED, tmp_path / "log", 14, "full", *arguments, expect=1)
  assert "error: No space left on device: " in done.stderr and "--resume" in done.stderr
  files = sorted((out / "chunks" / "process_0").glob("*.chunk"))
  files[0].write_bytes(files[0].read_bytes()[:100])
  content = bytearray(files[1].read_bytes())
  content[-200] ^= 1
  files[1].write_bytes(content)
  files[2].write_bytes(b"")
  done = run("-m", *arguments, "--resume")
  assert done.stderr.count("is damaged") == 3
  xarray.testing.assert_identical(dataset(out), expected[GAUSSIAN[0]])


def test_one_writer_a_directory_and_sigterm(expected, tmp_path):
  """A second process is refused whatever its flags; SIGTERM ends the first with status 143, and it can be gone on with."""
  out, log = tmp_path / "out", tmp_path / "log"
  arguments = (*GAUSSIAN, f"--output_dir={out}")
  with waiting(log, ".chunk:4", *arguments) as first:
    for flag in ("--resume", "--overwrite"):
      assert "another process" in run("-m", *arguments, flag, expect=2).stderr
    assert first.poll() is None and len(committed(out)) == 3
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 143
    line = first.stderr.read().splitlines()[-1]
    assert "error: terminated" in line and "--resume goes on" in line
  run("-m", *arguments, "--resume")
  xarray.testing.assert_identical(dataset(out), expected[GAUSSIAN[0]])


def test_where_nothing_can_be_written():
  done = run("-m", *GAUSSIAN, "--output_dir=/proc/results", expect=2)
  assert "not writable" in done.stderr


def sweep(**options):
  return cj.sweep(
    tasks.gaussian,
    ["replace"],
    {"dim": [2], "num_samples": [10], "noise_var": [1.0]},
    **{"num_generations": 4, "num_seeds": 12} | options,
  )


def test_library(tmp_path):
  """Resumed chunks are read, those of another sweep are refused by name, and what is damaged does not count."""
  expected = sweep(chunk_size=4)
  found = sweep(chunk_size=4, directory=tmp_path)
  xarray.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())
  files = sorted(tmp_path.glob("process_0/*.chunk"))
  assert len(files) == 3
  files[1].unlink()
  seen = []
  again = sweep(
    chunk_size=4, directory=tmp_path, resume=True, on_cell=lambda cell, metrics: seen.append((cell, metrics))
  )
  xarray.testing.assert_identical(again.drop_attrs(), expected.drop_attrs())
  assert seen[0][0] == {"workflow": "replace", "dim": 2, "num_samples": 10, "noise_var": 1.0} and len(seen) == 1
  np.testing.assert_array_equal(
    seen[0][1]["covariance_trace_ratio"], expected.covariance_trace_ratio.values[0, 0, 0, 0]
  )
  with pytest.raises(ValueError, match="num_generations=4, not 5"):
    sweep(num_generations=5, directory=tmp_path, resume=True)
  sweep(num_generations=5, directory=tmp_path)  # without resume they are deleted
  chunks = Chunks(tmp_path / "process_0", {}, False)
  chunks.save((0, 0), 3, {"finite": np.ones((2, 4), bool)})
  (one,) = chunks.saved()
  assert (one.cell, one.first, one.num) == ((0, 0), 3, 2) and one.metrics["finite"].dtype == bool


def test_memory(monkeypatch, caplog):
  """Chunks shrink to what the compiled program reports, and once more where memory runs out all the same."""
  whole = sweep(num_workers=1)
  assert whole.chunk_size == 12
  small = sweep(num_workers=1, memory_bytes=100_000.0)
  assert 1 <= int(small.chunk_size) < 12
  np.testing.assert_allclose(small.covariance_trace_ratio, whole.covariance_trace_ratio, rtol=1e-5)
  plain = programs.Program.compile

  def limited(program, size, traced):
    used = plain(program, size, traced)
    execute = program._compiled[size]

    def run(index, traced):
      if size > 3:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
      return execute(index, traced)

    program._compiled[size] = run
    return used

  monkeypatch.setattr(programs.Program, "compile", limited)
  halved = sweep(num_workers=1)
  assert halved.chunk_size == 3 and "memory ran out for chunks of 12 runs" in caplog.text
  xarray.testing.assert_identical(halved.drop_attrs(), sweep(chunk_size=3).drop_attrs())
