"""Logits, gradients, decoding and saved checkpoints against transformers on PyTorch (extra `parity`)."""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import needed
from lm_configs import CONFIGS, MORE

from collapse_jax import lm
from collapse_jax.lm import checkpoint, decoder, decoding, families, sampling

torch, transformers = needed("torch"), needed("transformers")

torch.set_num_threads(1)


class Pair(NamedTuple):
  ours: lm.LanguageModel
  theirs: Any
  loss: Callable  # (params, tokens, mask) -> (loss, logits), gradient: compiled once


ALL = CONFIGS | MORE
# The others decode as these do, one position at a time.
BROAD = [name if name in CONFIGS else pytest.param(name, marks=pytest.mark.slow) for name in ALL]


@pytest.fixture(scope="module", params=ALL)
def pair(request, tmp_path_factory):
  """Random weights, all of them away from their starting values, in several files."""
  config = ALL[request.param]()
  config._attn_implementation = "eager"
  torch.manual_seed(0)
  theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.2 * torch.randn_like(parameter))
  directory = tmp_path_factory.mktemp(request.param)
  theirs.save_pretrained(directory, max_shard_size="20KB")
  assert len(list(directory.glob("*.safetensors"))) > 2
  ours = lm.load(directory)

  def loss(params, tokens, mask):
    logits = ours.apply(params, tokens, mask)
    log_probability = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], -1)[..., 0]
    counts = mask[:, 1:] & mask[:, :-1]
    return -jnp.sum(jnp.where(counts, log_probability, 0)) / jnp.sum(counts), logits

  return Pair(ours, theirs, jax.jit(jax.value_and_grad(loss, has_aux=True)))


def batch(vocab, length=17):
  """Tokens and a mask with padding on the left of one row and on the right of another."""
  tokens = np.random.default_rng(0).integers(3, vocab, (3, length))  # torch drops the gradient of padding's token
  mask = np.ones((3, length), bool)
  mask[1, :4] = False
  mask[2, -3:] = False
  return tokens, mask


def logits_of(model, tokens, mask=None):
  mask = np.ones(tokens.shape, bool) if mask is None else mask
  return model(
    torch.tensor(tokens),
    attention_mask=torch.tensor(mask.astype(int)),
    position_ids=torch.tensor(np.maximum(mask.cumsum(1) - 1, 0)),
  ).logits


def test_every_family_has_two_configurations():
  found = collections.Counter(make().model_type for make in ALL.values())
  assert set(found) == set(families.FAMILIES) and min(found.values()) >= 2


def test_logits(pair):
  tokens, mask = batch(pair.ours.config.vocab_size)
  (_, found), _ = pair.loss(pair.ours.params, tokens, np.ones_like(mask))
  assert found.shape == (3, 17, pair.ours.config.vocab_size) and found.dtype == jnp.float32
  with torch.no_grad():
    np.testing.assert_allclose(found, logits_of(pair.theirs, tokens).numpy(), atol=2e-4, rtol=0)
    expected = logits_of(pair.theirs, tokens, mask).numpy()
  (_, padded), _ = pair.loss(pair.ours.params, tokens, mask)
  np.testing.assert_allclose(np.asarray(padded)[mask], expected[mask], atol=2e-4, rtol=0)
  assert np.abs(padded - found)[1, 4:].max() > 1e-3  # the mask matters


def test_gradient(pair):
  tokens, mask = batch(pair.ours.config.vocab_size)
  (value, _), gradient = pair.loss(pair.ours.params, tokens, mask)
  pair.theirs.zero_grad()
  log_probability = torch.log_softmax(logits_of(pair.theirs, tokens, mask)[:, :-1], -1)
  counts = torch.tensor(mask[:, 1:] & mask[:, :-1])
  expected = -log_probability.gather(-1, torch.tensor(tokens[:, 1:, None]))[..., 0][counts].mean()
  expected.backward()
  assert abs(float(value) - expected.item()) < 1e-5
  named = {name: parameter.grad.numpy() for name, parameter in pair.theirs.named_parameters()}
  seen = 0
  for name, found in checkpoint.to_tensors(families.architecture(pair.ours.config), gradient):
    scale = np.abs(named[name]).max()
    np.testing.assert_allclose(found, named[name], atol=2e-4 * max(scale, 1e-2), rtol=0, err_msg=name)
    seen += 1
  assert seen == len(named)


def test_remat_changes_nothing():
  ours = lm.random(CONFIGS["gemma2"](), jax.random.key(0))
  tokens, _ = batch(ours.config.vocab_size)
  arch = families.architecture(ours.config)
  loss = lambda params, apply: jnp.sum(apply(params, tokens) ** 2)
  gradients = [
    jax.jit(jax.grad(functools.partial(loss, apply=decoder.functions(arch, remat=remat).apply)))(ours.params)
    for remat in (False, True)
  ]
  largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradients[0]))
  for a, b in zip(*map(jax.tree.leaves, gradients)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest)


def test_cached_decoding(pair):
  """A prompt at once, then one position at a time: the logits of the whole sequence."""
  tokens, mask = batch(pair.ours.config.vocab_size)
  functions = checkpoint.functions_of(pair.ours.config, pair.ours.params)
  (_, expected), _ = pair.loss(pair.ours.params, tokens, np.ones_like(mask))
  step, cache = functions.decoder(pair.ours.params), functions.cache(3, 20)
  for first, end in ((0, 9), (9, 10), (10, 11), (11, 17)):
    found, cache = step(tokens[:, first:end], cache)
    np.testing.assert_allclose(found, expected[:, first:end], atol=2e-4, rtol=0)
  assert int(cache.used) == 17


@pytest.mark.parametrize("pair", BROAD, indirect=True)
def test_greedy_tokens(pair):
  ours, theirs, prompt, num = pair.ours, pair.theirs, 11, 64
  functions = checkpoint.functions_of(ours.config, ours.params)
  tokens, _ = batch(ours.config.vocab_size, prompt)
  generate = jax.jit(
    lambda params: sampling.generate(
      jax.random.split(jax.random.key(0), 3),
      functions,
      params,
      prompt + num,
      1,
      2,
      decoding.Rules(0.0),
      jnp.asarray(tokens, jnp.int32),
    )
  )
  found, length = generate(ours.params)
  with torch.no_grad():
    for row, mine, end in zip(tokens, np.asarray(found), np.asarray(length)):
      expected = theirs.generate(
        torch.tensor(row[None]), max_new_tokens=num, do_sample=False, eos_token_id=2, pad_token_id=2
      )[0].numpy()
      np.testing.assert_array_equal(mine[:end], expected)


def test_transformers_reads_what_is_saved(pair, tmp_path):
  changed = pair.ours._replace(params=jax.tree.map(lambda x: x * 1.1, pair.ours.params))
  lm.save(changed, tmp_path)
  again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
  assert type(again) is type(pair.theirs)
  tokens, mask = batch(pair.ours.config.vocab_size)
  with torch.no_grad():
    expected = logits_of(again, tokens, mask).numpy()
  (_, found), _ = pair.loss(changed.params, tokens, mask)
  np.testing.assert_allclose(np.asarray(found)[mask], expected[mask], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama3", "gemma2"])
def test_tied_with_a_head_of_its_own(name, tmp_path):
  """transformers keeps a head that differs from the embedding, whatever the configuration says; dropped, the logits are others."""
  from safetensors.torch import load_file, save_file

  torch.manual_seed(0)
  config = CONFIGS[name]()
  config.tie_word_embeddings = True
  transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
  tensors = load_file(tmp_path / "model.safetensors")
  tied = lm.load(tmp_path)
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 0.1 * torch.randn(
    config.vocab_size, config.hidden_size
  )
  save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
  ours, theirs = (
    lm.load(tmp_path),
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval(),
  )
  tokens, _ = batch(config.vocab_size)
  expected = logits_of(theirs, tokens).detach().numpy()
  np.testing.assert_allclose(jax.jit(ours.apply)(ours.params, tokens), expected, atol=2e-4, rtol=0)
  assert np.abs(jax.jit(tied.apply)(tied.params, tokens) - expected).max() > 0.1


def test_shards_and_one_file_together(tmp_path):
  """transformers saves twice into one directory, and then we do: both read what was saved last."""
  torch.manual_seed(0)
  theirs = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
  theirs.save_pretrained(tmp_path, max_shard_size="8KB")
  lm.load(tmp_path)
  theirs.save_pretrained(tmp_path)
  ours, (tokens, _) = lm.load(tmp_path), batch(97)
  np.testing.assert_allclose(
    jax.jit(ours.apply)(ours.params, tokens), logits_of(theirs, tokens).detach().numpy(), atol=2e-4, rtol=0
  )
  lm.save(ours._replace(params=jax.tree.map(lambda x: x + 0.5, ours.params)), tmp_path)
  again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
  found = jax.jit(ours.apply)(lm.load(tmp_path).params, tokens)
  np.testing.assert_allclose(found, logits_of(again, tokens).detach().numpy(), atol=1e-3, rtol=0)
  assert np.abs(found - logits_of(theirs, tokens).detach().numpy()).max() > 0.1


@pytest.mark.parametrize("name, windows", [("llama", [None]), ("mistral", [(4, 0)]), ("gemma3", [(4, 0), None])])
def test_no_mask_is_made(monkeypatch, name, windows):
  """What is seen is said by `is_causal` and a window, never without the former; nothing of length x length is handed on."""
  arch = families.architecture(ALL[name]())
  seen = []
  attention = jax.nn.dot_product_attention

  def recorded(*arrays, **options):
    seen.append(options)
    return attention(*arrays, **options)

  monkeypatch.setattr(jax.nn, "dot_product_attention", recorded)
  tokens = jax.ShapeDtypeStruct((2, 17), jnp.int32)
  jax.eval_shape(decoder.functions(arch).apply, decoder.abstract_params(arch), tokens)
  assert [one["local_window_size"] for one in seen] == windows
  assert all(one["is_causal"] and one["mask"] is None and one["implementation"] == "xla" for one in seen)
