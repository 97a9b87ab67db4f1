"""Sweeps of every kind of simulation on many devices, perhaps as one of two processes: python distributed.py OUT DEVICES [PORT ID]"""

import os
import sys
from pathlib import Path

import jax

out, num_devices, *process = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", int(num_devices))
jax.config.update("jax_compilation_cache_dir", os.path.abspath(".cache/tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
if process:
  jax.distributed.initialize(f"localhost:{process[0]}", 2, int(process[1]))

import collapse_jax as cj  # noqa: E402
from collapse_jax import devices, tasks  # noqa: E402

SWEEPS = {
    "gaussian": (tasks.gaussian, ["replace", "accumulate_subsample"], {"dim": [2], "num_samples": [10], "noise_var": [1.0, 2.0]}, 5),
    "kde": (lambda bandwidth, num_samples: tasks.kde("moons", num_samples, bandwidth, num_test=50), ["replace", "accumulate"],
            {"bandwidth": [0.5], "num_samples": [10]}, 4),
    "linear_regression": (tasks.linear_regression, ["replace", "accumulate"], {"dim": [2], "num_samples": [10], "noise_var": [1.0]}, 4),
    "discrete": (tasks.discrete, ["replace", "accumulate"], {"num_outcomes": [6], "num_samples": [6]}, 60),
}
for name, (task, workflows, axes, num_generations) in SWEEPS.items():
  results = cj.sweep(task, workflows, axes, num_generations=num_generations, num_seeds=20, chunk_size=2,
                     mesh=devices.mesh_of(int(num_devices)))
  if jax.process_index() == 0:
    Path(out).mkdir(exist_ok=True)
    results.to_netcdf(Path(out) / f"{name}.nc", engine="h5netcdf")
