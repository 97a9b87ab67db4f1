"""Devices and processes change no number: 8 simulated devices, and 2 processes of 4, give the results.nc of one device.

Bit for bit, because a device computes chunks of the same size; at another size, within 1e-5.
"""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import xarray

import collapse_jax as cj
from collapse_jax import devices, tasks

COMMANDS = {
    "gaussian": ("--dims=2", "--num_samples=10", "--workflows=replace,accumulate_subsample", "--num_generations=5"),
    "kde": ("--datasets=moons", "--num_samples=10", "--bandwidths=0.5", "--workflows=replace,accumulate", "--num_generations=4"),
    "linear_regression": ("--dims=2", "--num_samples=10", "--noise_vars=1", "--workflows=replace,accumulate", "--num_generations=4"),
    "discrete": ("--num_outcomes=6", "--num_samples=6", "--workflows=replace,accumulate", "--num_generations=60"),
}


def start(name, path, *flags):
  environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.getcwd(),
                 "JAX_COMPILATION_CACHE_DIR": os.path.abspath(".cache/tests")}
  return subprocess.Popen([sys.executable, "-m", f"experiments.{name}", *COMMANDS[name], "--num_seeds=20", "--chunk_size=2",
                           f"--output_dir={path}", *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process):
  out, _ = process.communicate(timeout=300)
  assert process.returncode == 0, out


def free_port():
  with socket.socket() as one:
    one.bind(("localhost", 0))
    return one.getsockname()[1]


def dataset(path):
  return xarray.load_dataset(path / "results.nc", engine="h5netcdf")


@pytest.mark.parametrize("name", COMMANDS)
def test_as_on_one_device(name, tmp_path):
  port = free_port()
  finished(start(name, tmp_path / "one"))
  eight = start(name, tmp_path / "eight", "--devices=8")
  finished(eight)
  both = [start(name, tmp_path / "processes", "--devices=4", "--distributed", f"--coordinator=localhost:{port}",
                "--num_processes=2", f"--process_id={i}") for i in range(2)]
  for one in both:
    finished(one)
  expected = dataset(tmp_path / "one")
  assert expected.num_devices == 1
  for folder, sizes in (("eight", (8, 1)), ("processes", (4, 2))):
    found = dataset(tmp_path / folder)
    assert (found.num_devices, found.num_processes) == sizes
    xarray.testing.assert_identical(found.drop_attrs(deep=False), expected.drop_attrs(deep=False))


def test_other_chunks_agree_within_rounding():
  axes = {"dim": [3], "num_samples": [12], "noise_var": [1.0]}
  one, other = (cj.sweep(tasks.gaussian, ["replace", "accumulate"], axes, num_generations=6, num_seeds=20, chunk_size=size)
                for size in (3, 20))
  for metric in ("covariance_trace_ratio", "squared_error_of_mean"):
    np.testing.assert_allclose(one[metric], other[metric], rtol=1e-5, atol=1e-7)


def test_too_many_devices():
  with pytest.raises(ValueError, match="devices must be from 1 to 1, as many as there are, got 2"):
    devices.mesh_of(2)
