"""Devices and processes change no number: 8 simulated devices, and 2 processes of 4, give what one device gives.

Bit for bit, because a device computes chunks of the same size. Only quotients by a constant may differ in the last bits, for XLA
rounds them differently in programs for several devices. At another size of chunk all agree within 1e-5.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray

import collapse_jax as cj
from collapse_jax import devices, tasks

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distribution")]  # one worker, for what they share
ROUNDED = ("entropy_ratio", "support_ratio")  # of discrete: quotients by the truth's
GAUSSIAN = ("-m", "experiments.gaussian", "--dims=2", "--num_samples=10", "--workflows=replace", "--num_generations=5",
            "--num_seeds=20", "--chunk_size=2")


def start(*arguments):
  environment = {**os.environ, "PYTHONPATH": os.getcwd(), "JAX_COMPILATION_CACHE_DIR": os.path.abspath(".cache/tests")}
  return subprocess.Popen([sys.executable, "-W", "ignore", *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)


def finished(*processes):
  for one in processes:
    out, _ = one.communicate(timeout=300)
    assert one.returncode == 0, out


def free_port():
  with socket.socket() as one:
    one.bind(("localhost", 0))
    return one.getsockname()[1]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
  out = tmp_path_factory.mktemp("one")
  finished(start(SCRIPT, out, 1))
  return out


SCRIPT = Path(__file__).parent / "distributed.py"


@pytest.mark.parametrize("processes", [1, 2])
def test_as_on_one_device(processes, expected, tmp_path):
  port = free_port()
  extra = [(port, i) for i in range(2)] if processes == 2 else [()]
  finished(*(start(SCRIPT, tmp_path / "many", 8 // processes, *one) for one in extra))
  for name in ("gaussian", "kde", "linear_regression", "discrete"):
    one, many = (xarray.load_dataset(path / f"{name}.nc", engine="h5netcdf") for path in (expected, tmp_path / "many"))
    assert (many.num_devices, many.num_processes) == (8 // processes, processes) and one.chunk_size == many.chunk_size == 2
    for metric in one.data_vars:
      if metric in ROUNDED:
        np.testing.assert_allclose(many[metric], one[metric], rtol=1e-6)
      else:
        np.testing.assert_array_equal(many[metric], one[metric], err_msg=f"{name} {metric}")


def test_commands(tmp_path):
  """Processes of one sweep write one result, that of a single process."""
  port = free_port()
  finished(*(start(*GAUSSIAN, f"--output_dir={tmp_path / 'both'}", "--devices=2", "--distributed", f"--coordinator=localhost:{port}",
                   "--num_processes=2", f"--process_id={i}") for i in range(2)))
  finished(start(*GAUSSIAN, f"--output_dir={tmp_path / 'one'}"))
  both, one = (cj.load(tmp_path / name) for name in ("both", "one"))
  assert (both.num_devices, both.num_processes) == (2, 2) and one.num_devices == 1
  xarray.testing.assert_identical(both.drop_attrs(deep=False), one.drop_attrs(deep=False))


def test_other_chunks_agree_within_rounding():
  axes = {"dim": [3], "num_samples": [12], "noise_var": [1.0]}
  one, other = (cj.sweep(tasks.gaussian, ["replace", "accumulate"], axes, num_generations=6, num_seeds=20, chunk_size=size)
                for size in (3, 20))
  for metric in ("covariance_trace_ratio", "squared_error_of_mean"):
    np.testing.assert_allclose(one[metric], other[metric], rtol=1e-5, atol=1e-7)


def test_too_many_devices():
  with pytest.raises(ValueError, match="devices must be from 1 to 1, as many as there are, got 2"):
    devices.mesh_of(2)
