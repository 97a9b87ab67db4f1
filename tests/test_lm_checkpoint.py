"""Checkpoints in and out, without a reference implementation (that is test_lm_parity)."""

import json
import shutil

import jax
import numpy as np
import pytest
from lm_configs import CONFIGS
from safetensors.numpy import load_file, save_file

from collapse_jax import lm
from collapse_jax.lm import checkpoint, decoder


@pytest.fixture(params=CONFIGS)
def model(request):
  return lm.random(CONFIGS[request.param](), jax.random.key(0))


def test_saved_and_loaded_again(model, tmp_path):
  lm.save(model, tmp_path)
  again = lm.load(tmp_path)
  assert jax.tree.structure(again.params) == jax.tree.structure(model.params)
  for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(again.params)):
    np.testing.assert_array_equal(a, b)
  assert decoder.architecture(again.config) == decoder.architecture(model.config) and again.tokenizer is None


def test_every_tensor_has_its_own_name(model):
  names = [name for name, _ in checkpoint.to_tensors(decoder.architecture(model.config), model.params)]
  assert len(set(names)) == len(names)
  total = sum(x.size for _, x in checkpoint.to_tensors(decoder.architecture(model.config), model.params))
  assert total == sum(x.size for x in jax.tree.leaves(model.params))


def test_shards(model, tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoint, "SHARD_BYTES", 20_000)
  lm.save(model, tmp_path)
  assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
  for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(lm.load(tmp_path).params)):
    np.testing.assert_array_equal(a, b)
  shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
  shard.unlink()
  with pytest.raises(ValueError, match=f"{shard.name} is missing"):
    lm.load(tmp_path)


def test_bfloat16(model, tmp_path):
  half = checkpoint.made(model.config, jax.tree.map(lambda x: x.astype("bfloat16"), model.params))
  lm.save(half, tmp_path)
  for a, b in zip(jax.tree.leaves(half.params), jax.tree.leaves(lm.load(tmp_path, "bfloat16").params)):
    np.testing.assert_array_equal(a, b)
  assert lm.load(tmp_path).params["embedding"].dtype == np.float32


def damaged(model, directory, change):
  lm.save(model, directory)
  tensors = dict(load_file(directory / "model.safetensors"))
  change(tensors)
  save_file(tensors, directory / "model.safetensors")


def test_all_that_is_wrong_is_named_at_once(tmp_path):
  model = lm.random(CONFIGS["llama"](), jax.random.key(0))

  def change(tensors):
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = np.ones(3, np.float32)
    tensors["model.norms.weight"] = np.ones(3, np.float32)
    tensors["model.layers.9.mlp.up_proj.weight"] = np.ones((3, 3), np.float32)
  damaged(model, tmp_path, change)
  with pytest.raises(ValueError) as caught:
    lm.load(tmp_path)
  for part in ("layers.mlp.up.kernel is missing in layers [1]", "model.norm.weight is [3]", "model.norms.weight is unknown",
               "beyond layer 1", "final_norm.scale is missing"):
    assert part in str(caught.value)


def test_refused(tmp_path):
  model = lm.random(CONFIGS["llama"](), jax.random.key(0))
  lm.save(model, tmp_path / "a")
  file = tmp_path / "a" / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(ValueError, match="truncated or damaged"):
    lm.load(tmp_path / "a")
  file.rename(tmp_path / "a" / "pytorch_model.bin")
  with pytest.raises(ValueError, match="is a pickle, which is never read"):
    lm.load(tmp_path / "a")
  shutil.rmtree(tmp_path / "a")
  (tmp_path / "a").mkdir()
  with pytest.raises(ValueError, match="has no config"):
    lm.load(tmp_path / "a")
  (tmp_path / "a" / "config.json").write_text("{")
  with pytest.raises(ValueError, match="cannot be read"):
    lm.load(tmp_path / "a")
  (tmp_path / "a" / "config.json").write_text(json.dumps({"model_type": "mamba"}))
  with pytest.raises(ValueError, match="unknown architecture 'mamba'; known: gpt2, llama, gemma2"):
    lm.load(tmp_path / "a")
  with pytest.raises(ValueError, match="no such directory"):
    lm.load(str(tmp_path / "none"))
  (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
  with pytest.raises(ValueError, match="truncated or no GGUF"):
    lm.load(tmp_path / "x.gguf")


def test_adapters_merge():
  """Merged kernels give the logits of the adapted model; fresh adapters change nothing."""
  model = lm.random(CONFIGS["llama"](), jax.random.key(0))
  arch = decoder.architecture(model.config)._replace(adapter_rank=2, adapter_alpha=6.0, adapter_targets=("query", "down"))
  functions = decoder.functions(arch)
  adapters, _ = checkpoint.split_adapters(functions.init(jax.random.key(1)))
  assert len(jax.tree.leaves(adapters)) == 4
  tokens = jax.random.randint(jax.random.key(2), (2, 7), 0, arch.vocab_size)
  apply = jax.jit(functions.apply)
  np.testing.assert_array_equal(apply(checkpoint.join(model.params, adapters), tokens), jax.jit(model.apply)(model.params, tokens))
  moved = jax.tree.map(lambda x: x + 0.1, adapters)
  adapted = checkpoint.join(model.params, moved)
  expected = apply(adapted, tokens)
  merged = jax.jit(model.apply)(checkpoint.merge_adapters(arch, adapted), tokens)
  np.testing.assert_allclose(merged, expected, atol=2e-5)
  assert np.abs(expected - jax.jit(model.apply)(model.params, tokens)).max() > 0.01
