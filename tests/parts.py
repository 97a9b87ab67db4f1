"""Run by test_lm_sharding.py, with 4 simulated devices: checkpoints of arrays that these hold in parts: parts.py FOLDER"""

import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 4)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from collapse_jax.lm import sharding  # noqa: E402
from collapse_jax.random import new_key  # noqa: E402
from collapse_jax.sweeps.checkpoints import Checkpoints  # noqa: E402
from collapse_jax.types import Run  # noqa: E402

folder = Path(sys.argv[1])
mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2), ("runs", "model"))
params = {"head": np.arange(48, dtype=np.float32).reshape(6, 8), "scale": np.ones(3, np.float32)}
params["kernel"] = np.arange(32).reshape(4, 8).astype(jnp.bfloat16)
run, metrics = Run(new_key(0), jnp.zeros(2), None, None, None), {"loss": np.zeros((1, 2))}
like = {"loss": jax.ShapeDtypeStruct((1,), np.float64)}


def opened(together=True, **about):
  return Checkpoints(folder, False, True, about, together)


def restored(checkpoints, mesh):
  t, _, found, _ = checkpoints.restore(run, params, like)
  return t, sharding.place(found, mesh) if t else None


placed = sharding.place(params, mesh)
assert placed["head"].addressable_shards[0].data.size == 12
first = opened()
for t in (1, 2, 3):
  first.save(t, run, placed, {"loss": np.zeros((1, t))})
assert sorted(file.name for file in folder.iterdir()) == ["2.0.shard", "2.npz", "3.0.shard", "3.npz", "run.json"]
one_axis = Mesh(np.asarray(jax.devices()), ("runs",))
for checkpoints, other in ((opened(), mesh), (opened(), one_axis), (opened(False), None)):
  t, found = restored(checkpoints, other)
  assert t == 3
  jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, found), params)
content = (folder / "3.0.shard").read_bytes()
place = content.index(np.float32(47).tobytes())
(folder / "3.0.shard").write_bytes(content[:place] + b"\1" + content[place + 1 :])
assert restored(opened(), mesh)[0] == 2 and not (folder / "3.npz").exists()
(folder / "2.0.shard").unlink()
assert restored(opened(), mesh)[0] == 0
where = NamedSharding(mesh, PartitionSpec("runs"))
assert np.asarray(jax.jit(lambda x: sharding.agreed(x, mesh))(jax.device_put(np.arange(4), where))).tolist() == [
  0,
  1,
  2,
  3,
]
