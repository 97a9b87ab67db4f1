"""Checkpoints in and out, without a reference implementation (that is test_lm_parity)."""

import json
import shutil
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lm_configs import CONFIGS, MORE
from safetensors.numpy import load_file, save_file

from collapse_jax import lm
from collapse_jax.lm import checkpoint, decoder, families, sharding
from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices


@pytest.fixture(params=CONFIGS)
def model(request):
  return lm.random(CONFIGS[request.param](), jax.random.key(0))


def test_saved_and_loaded_again(model, tmp_path):
  lm.save(model, tmp_path)
  again = lm.load(tmp_path)
  assert jax.tree.structure(again.params) == jax.tree.structure(model.params)
  for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(again.params)):
    np.testing.assert_array_equal(a, b)
  assert families.architecture(again.config) == families.architecture(model.config) and again.tokenizer is None


def test_every_tensor_has_its_own_name(model):
  names = [name for name, _ in checkpoint.to_tensors(families.architecture(model.config), model.params)]
  assert len(set(names)) == len(names)
  total = sum(x.size for _, x in checkpoint.to_tensors(families.architecture(model.config), model.params))
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


def test_loaded_on_the_host(tmp_path):
  """No device holds it before it is split."""
  model = lm.random(CONFIGS["llama"](), jax.random.key(0))
  lm.save(model, tmp_path)
  params = lm.load(tmp_path, on_host=True).params
  assert {type(x) for x in jax.tree.leaves(params)} == {np.ndarray}
  jax.tree.map(np.testing.assert_array_equal, sharding.place(params, devices.mesh_of(1)), model.params)


def test_saving_replaces_what_would_be_read_instead(tmp_path, monkeypatch):
  """Over shards, over one file, over as many shards: what is loaded is what was saved, and nothing else is touched."""
  models = [lm.random(CONFIGS["llama"](), jax.random.key(i)) for i in range(4)]
  (tmp_path / "model-notes.txt").write_text("mine")
  (tmp_path / "model-00001-of-00099.safetensors").write_bytes(b"mine")
  for model, size in zip(models, (20_000, 1 << 30, 20_000, 20_000)):
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", size)
    lm.save(model, tmp_path)
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(lm.load(tmp_path).params)):
      np.testing.assert_array_equal(a, b)
  assert (tmp_path / "model-notes.txt").read_text() == "mine" and (
    tmp_path / "model-00001-of-00099.safetensors"
  ).read_bytes() == b"mine"
  assert not list(tmp_path.glob("*.part")) and not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_save_that_fails_leaves_what_was_there(num_shards, tmp_path, monkeypatch):
  """A full disk at the last file: the model of before is whole, nothing of the new one is left, and it is an OSError."""
  import safetensors.numpy

  old, new = (lm.random(CONFIGS["llama"](), jax.random.key(i)) for i in range(2))
  lm.save(old, tmp_path)
  before = sorted(path.name for path in tmp_path.iterdir())
  monkeypatch.setattr(checkpoint, "SHARD_BYTES", (1 << 30, 30_000)[num_shards > 1])
  written = []

  def full(tensors, path, **options):
    written.append(path)
    if len(written) == num_shards:
      raise safetensors.SafetensorError("Error while serializing: No space left on device")
    save_file(tensors, path, **options)

  monkeypatch.setattr(safetensors.numpy, "save_file", full)
  with pytest.raises(OSError, match="No space left"):
    lm.save(new, tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == before
  np.testing.assert_array_equal(lm.load(tmp_path).params["embedding"], old.params["embedding"])


def test_an_earlier_tokenizer_decides_nothing(tmp_path):
  """Lists of tokens that older versions of transformers wrote beside tokenizer.json would still be read."""
  from collapse_jax.lm import text

  tokenizer = text.train_tokenizer([f"user: word {i}\nassistant: answer {i}" for i in range(50)], 280)
  config = CONFIGS["llama"]()
  config.vocab_size = 300
  for name, content in (("added_tokens.json", {"word": 290}), ("special_tokens_map.json", {"eos_token": "word"})):
    (tmp_path / name).write_text(json.dumps(content))
  lm.save(lm.random(config, jax.random.key(0), tokenizer=tokenizer), tmp_path)
  again = lm.load(tmp_path).tokenizer
  assert again.eos_token == tokenizer.eos_token and again("a word").input_ids == tokenizer("a word").input_ids


def test_weights_under_two_names_are_refused(tmp_path):
  """GPT-2's original release has no prefix, and one file has one of both."""
  model = lm.random(CONFIGS["gpt2"](), jax.random.key(0))
  damaged(model, tmp_path, lambda tensors: tensors.update({"wpe.weight": tensors["transformer.wpe.weight"] + 1}))
  with pytest.raises(ValueError, match=r"transformer.wpe.weight is there twice"):
    lm.load(tmp_path)


def test_a_single_file_goes_before_an_index(tmp_path, monkeypatch):
  """As in transformers, which leaves the index of an earlier save where it was."""
  model = lm.random(CONFIGS["llama"](), jax.random.key(0))
  lm.save(model, tmp_path)
  (tmp_path / "model.safetensors.index.json").write_text(
    json.dumps({"weight_map": {"a": "model-00001-of-00007.safetensors"}})
  )
  np.testing.assert_array_equal(lm.load(tmp_path).params["embedding"], model.params["embedding"])


@pytest.mark.parametrize("name", ["llama3", "gemma2", "gpt2"])
def test_a_tied_model_with_a_head_of_its_own_keeps_it(name, tmp_path, caplog):
  config = CONFIGS[name]()
  config.tie_word_embeddings = True
  model = lm.random(config, jax.random.key(0))
  embedding = np.asarray(model.params["embedding"])
  damaged(model, tmp_path, lambda tensors: tensors.update({"lm_head.weight": embedding}))
  assert "head" not in lm.load(tmp_path).params and not caplog.text
  head = embedding + np.float32(0.1) * np.random.default_rng(0).normal(size=embedding.shape).astype(np.float32)
  damaged(model, tmp_path, lambda tensors: tensors.update({"lm_head.weight": head}))
  again = lm.load(tmp_path)
  np.testing.assert_array_equal(again.params["head"], head.T)
  assert not again.config.tie_word_embeddings and "an output layer of its own" in caplog.text
  lm.save(again, tmp_path / "again")
  np.testing.assert_array_equal(lm.load(tmp_path / "again").params["head"], head.T)


def test_kinds_of_weights_that_are_not_read_are_named(tmp_path):
  """float8 kernels, integers, and quantisation that only the configuration tells of; buffers of any kind are left alone."""
  model = lm.random(CONFIGS["llama"](), jax.random.key(0))
  for kind, said in (
    (jnp.float8_e4m3fn, "float8 weights are not read, and model.layers.0.mlp.up_proj.weight is F8_E4M3"),
    (jnp.float8_e5m2, "float8 weights are not read"),
    (np.int8, "integer weights are not read"),
    (np.uint8, "integer weights"),
  ):
    damaged(
      model,
      tmp_path,
      lambda tensors: tensors.update({"model.layers.0.mlp.up_proj.weight": np.ones((48, 32)).astype(kind)}),  # noqa: B023
    )
    with pytest.raises(ValueError, match=said):
      lm.load(tmp_path)
  damaged(
    model,
    tmp_path,
    lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.uint8)}),
  )
  lm.load(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
  with pytest.raises(ValueError, match=r"quantised weights \(gptq\) are not read"):
    lm.load(tmp_path)


def test_an_index_names_files_beside_it_only(tmp_path):
  model = lm.random(CONFIGS["llama"](), jax.random.key(0))
  lm.save(model, tmp_path / "elsewhere")
  lm.save(model, tmp_path / "a")
  (tmp_path / "a" / "model.safetensors").unlink()
  for place in (
    "../elsewhere/model.safetensors",
    str(tmp_path / "elsewhere" / "model.safetensors"),
    "..",
    "",
    "a/b.safetensors",
    "pytorch_model.bin",
    "a\\b.safetensors",
  ):
    (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": place}}))
    with pytest.raises(ValueError, match="which is no safetensors file beside it"):
      lm.load(tmp_path / "a")
  (tmp_path / "a" / "model.safetensors").symlink_to(
    tmp_path / "elsewhere" / "model.safetensors"
  )  # as the hub's cache has them
  lm.load(tmp_path / "a")


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
  for part in (
    "layers.mlp.up.kernel is missing in layers [1]",
    "model.norm.weight is [3]",
    "model.norms.weight is unknown",
    "beyond layer 1",
    "final_norm.scale is missing",
  ):
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


def test_a_hub_that_does_not_answer(tmp_path, monkeypatch):
  """One line soon, not minutes of silence; what an earlier download left is read all the same."""
  from huggingface_hub import constants

  monkeypatch.setattr(checkpoint, "_HUB_SECONDS", 0.3)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  with socket.create_server(("127.0.0.1", 0)) as silent:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
    with pytest.raises(
      Refused, match=r"^someone/model: no such directory, and the hub does not give it \(.*timed out\)\.$"
    ):
      lm.load("someone/model")
    folder = tmp_path / "models--someone--model"
    lm.save(lm.random(CONFIGS["llama"](), jax.random.key(0)), folder / "snapshots" / ("0" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    assert lm.load("someone/model").params


def test_adapters_merge():
  """Merged kernels give the logits of the adapted model; fresh adapters change nothing."""
  model = lm.random(CONFIGS["llama"](), jax.random.key(0))
  arch = families.architecture(model.config)._replace(
    adapter_rank=2, adapter_alpha=6.0, adapter_targets=("query", "down")
  )
  functions = decoder.functions(arch)
  adapters, _ = checkpoint.split_adapters(functions.init(jax.random.key(1)))
  assert len(jax.tree.leaves(adapters)) == 4
  tokens = jax.random.randint(jax.random.key(2), (2, 7), 0, arch.vocab_size)
  apply = jax.jit(functions.apply)
  np.testing.assert_array_equal(
    apply(checkpoint.join(model.params, adapters), tokens), jax.jit(model.apply)(model.params, tokens)
  )
  moved = jax.tree.map(lambda x: x + 0.1, adapters)
  adapted = checkpoint.join(model.params, moved)
  expected = apply(adapted, tokens)
  merged = jax.jit(model.apply)(checkpoint.merge_adapters(arch, adapted), tokens)
  np.testing.assert_allclose(merged, expected, atol=2e-5)
  assert np.abs(expected - jax.jit(model.apply)(model.params, tokens)).max() > 0.01


def filled(config, directory, seed=0):
  """A model saved with random weights, nothing being compiled."""
  rng = np.random.default_rng(seed)
  shapes = decoder.abstract_params(families.architecture(config))
  model = checkpoint.made(config, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes))
  lm.save(model, directory)
  return model


def reconfigured(directory, **changes):
  path = directory / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 48}


KINDS = ("full_attention", "sliding_attention")  # of layers


@pytest.mark.parametrize(
  ("name", "changes", "said"),
  [
    ("opt", {"do_layer_norm_before": False}, "OPT with do_layer_norm_before False is not supported"),
    ("opt", {"word_embed_proj_dim": 16}, "OPT with word_embed_proj_dim 16 is not supported"),
    (
      "qwen2",
      {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
      "rope scaling 'dynamic' is not supported",
    ),
    ("qwen2", {"rope_parameters": YARN | {"factor": -2.0}}, "factor must be a number above 0"),
    ("qwen2", {"layer_types": ["chunked_attention", "full_attention"]}, "layers of kind 'chunked_attention'"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "'sliding_attention' without a window"),
    ("qwen2", {"model_type": "remote", "auto_map": {"AutoModel": "a.B"}}, "'remote' needs remote code"),
    ("olmo3", {"rope_parameters": {key: {"rope_type": "no"} for key in KINDS}}, "rope scaling 'no' is not supported"),
    ("gpt_neo", {"attention_types": [[["global"], 10**9]]}, "attention_types must be a list of pairs"),
    ("gpt_neo", {"attention_layers": ["wide", "local"]}, "layers of kind 'wide'"),
    ("phi", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.4}}, "an even part of head_dim 8"),
    ("gemma3", {"use_bidirectional_attention": True}, "Gemma with use_bidirectional_attention True"),
    ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must be a list of 0 and 1"),
    ("qwen3", {"hidden_act": "mish"}, "unknown activation 'mish'"),
  ],
)
def test_options_that_are_not_supported_are_named(name, changes, said, tmp_path, capfd):
  filled(MORE[name](), tmp_path)
  lm.load(tmp_path)
  reconfigured(tmp_path, **changes)
  with pytest.raises(ValueError, match=said) as caught:
    lm.load(tmp_path)
  assert "\n" not in str(caught.value) and "[transformers]" not in capfd.readouterr().err


def test_the_text_model_of_one_that_sees(tmp_path, caplog):
  """Gemma 3 of 4 billion parameters and more: a configuration within another, names in both layouts of transformers."""
  model = filled(MORE["gemma3"](), tmp_path)
  text_config = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text_config}))
  tensors = load_file(tmp_path / "model.safetensors")
  for prefix in ("language_model.model.", "model.language_model."):
    sees = {prefix.replace("language_model.", "vision_tower.") + "weight": np.ones(3, np.float32)}
    renamed = {name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items()}
    save_file(renamed | sees, tmp_path / "model.safetensors")
    again = lm.load(tmp_path)
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(again.params)):
      np.testing.assert_array_equal(a, b)
    assert families.architecture(again.config) == families.architecture(model.config)
  assert "its text model alone is read" in caplog.text


def test_names_of_other_releases(tmp_path):
  """A base model without its prefix, and the output layer of GPT-NeoX as it was called."""
  model = filled(MORE["gpt_neox"](), tmp_path)
  tensors = load_file(tmp_path / "model.safetensors")
  old = lambda name: name.replace("lm_head.", "embed_out.").removeprefix("gpt_neox.")
  buffers = {
    "layers.0.attention.masked_bias": np.ones(3, np.float32),
    "layers.0.attention.bias": np.ones(3, np.float32),
  }
  save_file({old(name): tensor for name, tensor in tensors.items()} | buffers, tmp_path / "model.safetensors")
  for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(lm.load(tmp_path).params)):
    np.testing.assert_array_equal(a, b)
