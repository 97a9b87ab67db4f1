"""Run by test_lm_sharding.py: one small model over the devices of two processes, or on one: together.py OUT [PORT ID [RESUME]]

Where OUT/die is there, the second process kills itself once a generation is done.
"""

import os
import signal
import sys
from pathlib import Path

import jax

out, port, process = Path(sys.argv[1]), *(sys.argv[2:4] or (None, None))
if port is not None:
  jax.config.update("jax_num_cpu_devices", 2)
  jax.config.update("jax_enable_preemption_service", False)
  jax.distributed.initialize(f"localhost:{port}", 2, int(process), heartbeat_timeout_seconds=10)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

import numpy as np  # noqa: E402

from collapse_jax.lm import text, tiny, training  # noqa: E402
from collapse_jax.systems import language_model, language_setting  # noqa: E402

model = tiny.untrained(text.load("pydocs", "base"))
train, test = (
  text.to_rows(model.tokenizer, text.load("pydocs", split), 32, tiny.VOCAB_SIZE) for split in ("train", "test")
)
texts = language_setting.Texts(train, test.first(16), {"format": language_setting.PLAIN})
mesh = None if port is None else language_setting.mesh_of(2, 2, every_process=True)
setting = language_setting.Setting(model, texts, training.Recipe(1e-3, batch_size=8), mesh=mesh, measure="few")


def on_metrics(cell, t, seeds, metrics):
  if process == "1" and t == 1 and (out / "die").exists():
    os.kill(os.getpid(), signal.SIGKILL)


results = language_model.simulate(
  setting,
  ["replace"],
  (16,),
  writing=language_model.Writing(on_malformed="keep"),
  num_generations=2,
  num_seeds=1,
  directory=out / "work",
  resume=len(sys.argv) > 4,
  on_metrics=on_metrics,
)
if port is None or jax.process_index() == 0:
  if mesh is not None:
    held = [x.sharding for x in jax.tree.leaves(language_model.sharding.place(model.params, mesh))]
    assert not any(one.is_fully_addressable for one in held)
  np.savez(
    out / "results.npz",
    **{name: np.asarray(value) for name, value in results.data_vars.items() if value.dtype.kind in "bif"},
  )
