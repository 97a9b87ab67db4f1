"""Run by test_lm_sharding.py, in its ENVIRONMENT, with 8 simulated devices: a small model split over them, and on one."""

import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

import numpy as np  # noqa: E402

from collapse_jax import sweeps, tasks  # noqa: E402
from collapse_jax.lm import sharding, text, tiny, training  # noqa: E402
from collapse_jax.sweeps import devices  # noqa: E402

model = tiny.untrained(text.load("pydocs", "base"))
train, test = (
  text.to_rows(model.tokenizer, text.load("pydocs", split), 32, tiny.VOCAB_SIZE) for split in ("train", "test")
)
test = test._replace(tokens=test.tokens[:16], length=test.length[:16])


def make(mesh):
  base = model._replace(params=sharding.place(model.params, mesh))
  return base.params, lambda shared, num_samples: tasks.language_model(
    base._replace(params=shared),
    train,
    test,
    num_samples,
    recipe=training.Recipe(1e-3, batch_size=8, micro_batch_size=8),
    on_malformed="keep",
    curve_rows=8,
    curve_points=2,
    mesh=mesh,
  )


found, used = [], []
for mesh in (None, devices.mesh_of(8)):
  shared, task = make(mesh)
  rows: list = []
  results = sweeps.sweep(
    task,
    ["replace"],
    {"num_samples": [16]},
    num_generations=2,
    num_seeds=2,
    shared=shared,
    on_batch=lambda cell, t, seeds, batch, rows=rows: rows.append(batch.rows["tokens"]),
  )
  found.append({"loss": results.test_loss.values, "curve": results.learning_curve.values, "rows": np.stack(rows)})
  used.append(
    sweeps.memory_per_device(
      task, ["replace"], {"num_samples": 16}, num_generations=2, num_seeds=2, shared=sharding.abstract(shared, mesh)
    )
  )
one, split = found
# [.., seed, generation]. A draw at the edge of two tokens may fall to either where the last bits of logits differ, which they may
# do on another CPU: of 32 rows one is allowed. A run is compared as long as the text that it is trained on is the same.
other = (split["rows"] != one["rows"]).reshape(2, 2, 16, -1).any(axis=3)  # generation, seed, row
assert other[0].sum() <= 1, other
same = np.stack([np.ones(2, bool), ~other[0].any(axis=1)], axis=1)
assert not other[1][same[:, 1]].sum() > 1
for name in ("loss", "curve"):
  numbers = [np.squeeze(each[name]).reshape(2, 2, -1)[same] for each in (split, one)]
  np.testing.assert_allclose(*numbers, rtol=1e-5, err_msg=name)
assert used[1]["fit"] < used[0]["fit"] / 3, used
shared, task = make(devices.mesh_of(8))
assert shared["embedding"].addressable_shards[0].data.size == shared["embedding"].size // 8
print(
  "\n".join(f"{name} {one} {split}" for name, one, split in zip(used[0], used[0].values(), used[1].values())),
  file=sys.stderr,
)
