"""Devices and processes change no number: 8 simulated devices, and 2 processes of 4, give what one device gives.

Bit for bit, because a device computes chunks of the same size. Only quotients by a constant may differ in the last bits, for XLA
rounds them differently in programs for several devices.
"""

import json
import time
from pathlib import Path

import distributed
import numpy as np
import pytest
import xarray
from helpers import GAUSSIAN_FLAGS, finished, free_port, start

import collapse_jax as cj
from collapse_jax import tasks
from collapse_jax.sweeps import devices, programs

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distribution")]  # one worker, for what they share
ROUNDED = ("entropy_ratio", "support_ratio")  # of discrete: quotients by the truth's
SCRIPT = Path(__file__).parent / "distributed.py"


@pytest.fixture(scope="module")
def expected():
  return {name: distributed.sweep(name) for name in distributed.SWEEPS}


@pytest.mark.parametrize("processes", [1, 2])
def test_as_on_one_device(processes, expected, tmp_path, monkeypatch):
  port = free_port()
  extra = [(port, i) for i in range(2)] if processes == 2 else [()]
  finished(*(start(SCRIPT, tmp_path / "many", 8 // processes, *one) for one in extra))
  for name, one in expected.items():
    many = xarray.load_dataset(tmp_path / "many" / f"{name}.nc", engine="h5netcdf")
    assert (many.num_devices, many.num_processes) == (
      8 // processes,
      processes,
    ) and one.chunk_size == many.chunk_size == 2
    for metric in one.data_vars:
      if metric in ROUNDED:
        np.testing.assert_allclose(many[metric], one[metric], rtol=1e-6)
      else:
        np.testing.assert_array_equal(many[metric], one[metric], err_msg=f"{name} {metric}")
  seen = [json.loads((tmp_path / "many" / f"seen_{i}.json").read_text()) for i in range(processes)]
  assert sorted(seen[0]) == sorted(["gaussian"] * 4 + ["kde", "linear_regression", "discrete"]) and not any(seen[1:])
  if processes == 2:
    monkeypatch.setattr(programs.Program, "compile", None)  # nothing is left to compute
    one = distributed.sweep("linear_regression", directory=tmp_path / "many" / "chunks", resume=True)
    xarray.testing.assert_identical(one.drop_attrs(), expected["linear_regression"].drop_attrs())


def test_commands(tmp_path):
  """Processes of one sweep write one result, that of a single process."""
  port = free_port()
  finished(
    *(
      start(
        "-m",
        "experiments.gaussian",
        *GAUSSIAN_FLAGS,
        f"--output_dir={tmp_path}",
        "--devices=2",
        "--distributed",
        f"--coordinator=localhost:{port}",
        "--num_processes=2",
        f"--process_id={i}",
      )
      for i in range(2)
    )
  )
  both = cj.load(tmp_path)
  one = cj.sweep(
    tasks.gaussian,
    ["replace"],
    {"dim": [2], "num_samples": [10], "noise_var": [1.0], "temperature": [1.0]},
    num_generations=5,
    num_seeds=20,
    chunk_size=2,
  )
  assert (both.num_devices, both.num_processes) == (2, 2) and one.num_devices == 1
  xarray.testing.assert_identical(both.drop_attrs(), one.drop_attrs())


def test_a_process_that_fails_leaves_none_behind():
  fails = start("-c", "raise SystemExit(3)")
  stays = start("-c", "import time; time.sleep(600)")
  clock = time.monotonic()
  with pytest.raises(AssertionError):
    finished(fails, stays)
  assert stays.poll() is not None and time.monotonic() - clock < 300


def test_too_many_devices():
  with pytest.raises(ValueError, match="devices must be from 1 to 1, as many as there are, got 2"):
    devices.mesh_of(2)
