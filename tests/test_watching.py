"""What `--log_dir` and `--profile` write can be read: curves per cell, figures, a trace."""

import struct

import numpy as np
import pytest
import xarray
from test_resume import run

pytestmark = pytest.mark.slow


def events(file):
  """Events of a file: records of length, checksum, bytes, checksum."""
  from tensorboardX.proto import event_pb2
  data = file.read_bytes()
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    yield event_pb2.Event.FromString(data[12:12 + length])
    data = data[16 + length:]


def test_events_and_trace(tmp_path):
  run("-m", "experiments.gaussian", "--dims=1", "--num_samples=10", "--workflows=replace", "--num_seeds=3", "--num_generations=4",
      f"--log_dir={tmp_path / 'logs'}", "--profile", f"--output_dir={tmp_path / 'out'}")
  results = xarray.load_dataset(tmp_path / "out" / "results.nc", engine="h5netcdf")
  found: dict = {}
  for file in (tmp_path / "logs").rglob("*tfevents*"):
    for event in events(file):
      for value in event.summary.value:
        found.setdefault(value.tag, {})[event.step] = value
  curve = next(points for tag, points in found.items() if "squared_error_of_mean" in tag and points[min(points)].HasField("simple_value"))
  expected = results.squared_error_of_mean.mean("seed").values.ravel()
  np.testing.assert_allclose([curve[t].simple_value for t in sorted(curve)], expected, rtol=1e-5)
  assert sorted(curve) == [1, 2, 3, 4]
  assert any(value.HasField("image") for points in found.values() for value in points.values())
  assert list((tmp_path / "out" / "profile").rglob("*.xplane.pb"))
