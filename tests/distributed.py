"""Sweeps of every kind of simulation on many devices, perhaps as one of two processes: python distributed.py OUT DEVICES [PORT ID]"""

import json
import sys
from pathlib import Path

import jax

import collapse_jax as cj
from collapse_jax import tasks
from collapse_jax.sweeps import devices
from collapse_jax.sweeps.chunks import Chunks

SWEEPS = {
  "gaussian": (
    tasks.gaussian,
    ["replace", "accumulate_subsample"],
    {"dim": [2], "num_samples": [10], "noise_var": [1.0, 2.0]},
    5,
  ),
  "kde": (
    lambda bandwidth, num_samples: tasks.kde("moons", num_samples, bandwidth, num_test=20),
    ["accumulate"],
    {"bandwidth": [0.5], "num_samples": [10]},
    4,
  ),
  "linear_regression": (tasks.linear_regression, ["replace"], {"dim": [2], "num_samples": [10], "noise_var": [1.0]}, 4),
  "discrete": (tasks.discrete, ["replace"], {"num_outcomes": [6], "num_samples": [6]}, 60),
}


def sweep(name, **options):
  task, workflows, axes, num_generations = SWEEPS[name]
  return cj.sweep(task, workflows, axes, num_generations=num_generations, num_seeds=20, chunk_size=2, **options)


def main(out, num_devices, port="", process=0):
  jax.config.update("jax_num_cpu_devices", int(num_devices))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if port:
    jax.distributed.initialize(f"localhost:{port}", 2, int(process), heartbeat_timeout_seconds=30)
  devices.GATHERED_BYTES = 5001  # many pieces, the last one not full
  out, mesh, seen = Path(out), devices.mesh_of(int(num_devices)), []
  for name in SWEEPS:
    results = sweep(name, mesh=mesh, on_cell=lambda cell, metrics, name=name: seen.append(name))
    if jax.process_index() == 0:
      out.mkdir(exist_ok=True)
      results.to_netcdf(out / f"{name}.nc", engine="h5netcdf")
  (out / f"seen_{process}.json").write_text(json.dumps(seen))
  if port:
    resume(out, mesh)


def resume(out: Path, mesh):
  """A sweep that another process writes is refused in all, and a resumed one computes only what is missing."""
  mine = Chunks(out / "chunks", {}, False, jax.process_index(), 2) if jax.process_index() == 1 else None
  try:
    sweep("linear_regression", mesh=mesh, directory=out / "chunks")
    raise AssertionError("not refused")
  except ValueError as error:
    assert "being written by another sweep" in str(error)
  if mine is not None:
    mine.close()
  devices.gather({})  # the lock is free
  sweep("linear_regression", mesh=mesh, directory=out / "chunks")
  if jax.process_index() == 0:
    (out / "chunks" / "process_1" / "cell_0-0-0-0,seeds_8-15.chunk").unlink()
  devices.gather({})
  sweep("linear_regression", mesh=mesh, directory=out / "chunks", resume=True)
  seen = []
  sweep(
    "linear_regression",
    mesh=mesh,
    directory=out / "chunks",
    resume=True,
    on_cell=lambda cell, metrics: seen.append(cell),
  )
  assert len(seen) == (jax.process_index() == 0)


if __name__ == "__main__":
  main(*sys.argv[1:])
