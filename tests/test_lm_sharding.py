"""Language models over several devices and processes."""

import math
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from helpers import ENVIRONMENT, compile_quickly, finished, free_port, start

import collapse_jax as cj
from collapse_jax.lm import families, presets, sharding, text
from experiments import directory

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distribution")]


def test_table_splits_all_large_arrays():
  """Of Gemma 2 with 27 billion parameters, a sixteenth is on each of 16 devices, up to norms."""
  base = presets.build("gemma2_27b", text.load("pydocs", "test"), "bfloat16", abstract=True)
  assert sum(x.size for x in jax.tree.leaves(base.params)) == 27_227_128_320
  mesh = jax.sharding.AbstractMesh((16,), ("runs",))
  where = sharding.of_params(base.params, mesh)
  held = sum(
    math.prod(one.shard_shape(x.shape)) for x, one in zip(jax.tree.leaves(base.params), jax.tree.leaves(where))
  )
  assert held < 1.001 * 27_227_128_320 / 16
  assert families.architecture(base.config).dim == 4608


def test_what_devices_do_not_divide_is_named(caplog):
  """Once for an array, though its moments are split too."""
  params = {"layers": {"up": {"kernel": np.zeros((2, 21, 3))}}, "head": np.zeros((7, 20)), "scale": np.zeros(5)}
  sharding._warn.cache_clear()
  where = sharding.of_params((params, optax.scale_by_adam().init(params)), jax.sharding.AbstractMesh((7,), ("runs",)))
  assert [one.spec for one in jax.tree.leaves(where[0])] == [(), (None, "runs", None), ()]
  assert caplog.messages == ["head [7, 20] is whole on every device: 7 devices do not divide 20"]


def test_table_splits_activations_too():
  """Over 4 x 2 devices, of which pairs split heads, layers and vocabulary: an eighth each, along the right axes."""
  mesh = jax.sharding.AbstractMesh((4, 2), ("runs", "model"))
  layer = {"attention": {"query": {"kernel": (3, 8, 16)}, "out": {"kernel": (3, 16, 8)}}, "scale": (3, 8)}
  tree = jax.tree.map(np.zeros, {"embedding": (32, 8), "layers": layer}, is_leaf=lambda x: isinstance(x, tuple))
  where = jax.tree.map(lambda one: tuple(one.spec), sharding.of_params(tree, mesh))
  assert where["embedding"] == (("runs", "model"), None)
  assert where["layers"]["attention"]["query"]["kernel"] == (None, "runs", "model")
  assert where["layers"]["attention"]["out"]["kernel"] == (None, "model", "runs")
  assert where["layers"]["scale"] == ()
  assert sharding.num_parts(mesh) == 4


def test_small_model_as_on_one_device():
  """Losses within 1e-5, and the same text, on 8 devices, in less than a third of the memory of each."""
  finished(start(Path(__file__).parent / "sharded.py", environment=ENVIRONMENT))


def test_plan_of_27_billion():
  """Compiled for 16 devices, from shapes: neither fitting nor sampling needs a device of more than 80 GB."""
  plan = start(
    "-m",
    "experiments.language_model",
    "--dry_run",
    "--devices=16",
    "--model=gemma2_27b",
    "--dtype=bfloat16",
    "--remat",
    "--micro_batch_size=16",
    "--num_samples=512",
    "--sample_batch_size=64",
    "--num_generations=2",
    environment=ENVIRONMENT,  # how arrays are split and where they lie is decided before LLVM
  )
  said, _ = plan.communicate(timeout=300)
  assert plan.returncode == 0 and "27,227,128,320" in said, said
  line = next(one for one in said.splitlines() if "memory of each of 16 devices" in one)
  fit, sample = (float(line.split(f"{name} ")[1].split(" GiB")[0]) for name in ("fit", "sample"))
  whole = 27.2 * 4 / 1.07 * 4 / 16  # weights, gradients and two moments in float32
  assert whole < fit < 75 and sample < 40, line


def test_cells_are_dealt_to_processes(tmp_path, monkeypatch):
  """Two processes write the results, samples and checkpoints of one."""
  from experiments import language_model

  compile_quickly(True)  # as in ENVIRONMENT
  port = free_port()
  finished(
    *(
      start(
        "-m",
        "experiments.language_model",
        "--num_samples=16",
        "--num_generations=2",
        "--num_seeds=2",
        "--chunk_size=1",
        "--workflows=replace",
        "--max_test_rows=16",
        "--on_malformed=keep",
        f"--output_dir={tmp_path / 'both'}",
        "--distributed",
        f"--coordinator=localhost:{port}",
        "--num_processes=2",
        f"--process_id={i}",
        environment=ENVIRONMENT,
      )
      for i in range(2)
    )
  )
  both = cj.load(tmp_path / "both")
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
  one = language_model.simulate(
    ["replace"],
    (16,),
    num_generations=2,
    num_seeds=2,
    chunk_size=1,
    max_test_rows=16,
    on_malformed="keep",
    directory=tmp_path / "one",
  )
  assert (both.num_processes, one.num_processes) == (2, 1)
  for name in one.data_vars:
    np.testing.assert_array_equal(both[name], one[name])
  texts = [
    {file.name: file.read_bytes() for file in (tmp_path / name).glob("samples/*/*.jsonl")} for name in ("both", "one")
  ]
  assert texts[0] == texts[1] and len(texts[0]) == 4
  assert len(list((tmp_path / "both" / "checkpoints").iterdir())) == 2


def test_one_model_over_processes(tmp_path):
  """Two processes with two devices each hold it: losses of one device, also where one is killed and all go on."""
  script, paths = Path(__file__).parent / "together.py", [tmp_path / "two", tmp_path / "one"]
  for path in paths:
    path.mkdir()
  (paths[0] / "die").touch()

  def both(*more):
    port = free_port()
    return [start(script, paths[0], port, i, *more, environment=ENVIRONMENT) for i in range(2)]

  pair = both()
  try:
    assert pair[1].wait(300) == -9
    assert pair[0].wait(300) != 0  # does not wait for one that has gone
  finally:
    for one in pair:
      one.kill()
      one.communicate()
  assert {file.name for file in paths[0].glob("work/checkpoints/*/1.*")} == {"1.npz", "1.0.shard", "1.1.shard"}
  (paths[0] / "die").unlink()
  finished(*both("resume"), start(script, paths[1], environment=ENVIRONMENT))
  two, one = (np.load(path / "results.npz") for path in paths)
  assert one["test_loss"].size == 2
  for name in ("test_loss", "learning_curve", "train_loss"):
    np.testing.assert_allclose(two[name], one[name], rtol=1e-5, err_msg=name)
  for name in ("num_tokens", "distinct_2"):
    np.testing.assert_array_equal(two[name], one[name])
  texts = [{file.name: file.read_bytes() for file in path.glob("work/samples/*/*.jsonl")} for path in paths]
  assert texts[0] == texts[1] and len(texts[0]) == 2


def test_parts_of_parameters_in_files(tmp_path):
  """What several devices hold is written in parts, read in any others, and computed again where a part is damaged."""
  finished(start(Path(__file__).parent / "parts.py", tmp_path, environment=ENVIRONMENT))
  (tmp_path / "9.0.shard").touch()
  assert tmp_path / "9.0.shard" in set(
    directory._chunk_files(tmp_path)
  )  # so that it moves, and goes, with its checkpoint
