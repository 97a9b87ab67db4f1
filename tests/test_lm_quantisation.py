"""Bases of four and eight bits below adapters: what is multiplied by, what it takes, and the loop over them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from helpers import needed, own_flags

from collapse_jax import lm
from collapse_jax.lm import checkpoint, decoder, families, quantisation, sampling, text, tiny, training
from collapse_jax.refused import Refused
from collapse_jax.systems import language_model as loop
from collapse_jax.vocabulary import QUANTISATIONS
from experiments import flag_values
from experiments import language_model as binary

qwix = needed("qwix")


@pytest.fixture(scope="module")
def base():
  return tiny.untrained(text.load("pydocs", "base"))


def explicit(params, kind):
  """The same by qwix alone, in numbers. Weights halfway between two integers go to either: compiled as in the product."""

  def of_layer(layer):
    blocks = {0: 64 if len(layer) % 64 == 0 else 32}
    return qwix.quantize(layer, kind, channelwise_axes=(1,), tiled_axes=blocks)

  def one(path, x):
    return jnp.stack([qwix.dequantize(jax.jit(of_layer)(layer)) for layer in x]) if path[-1].key == "kernel" else x

  return jax.tree_util.tree_map_with_path(one, params)


def size(params):
  return sum(x.nbytes for name, x in _arrays(params) if name == "kernel")


def _arrays(params):
  for name, value in checkpoint.flatten(params).items():
    for array in jax.tree.leaves(value):
      yield name.rpartition(".")[2], array


@pytest.mark.parametrize("kind", QUANTISATIONS)
def test_logits_are_those_of_the_numbers(base, kind):
  quantised, dense = lm.quantise(base, kind).params, explicit(base.params, kind)
  assert checkpoint.num_params(quantised) == checkpoint.num_params(base.params)
  tokens = jnp.arange(32).reshape(2, 16)
  apply = jax.jit(base.apply)
  expected = apply(dense, tokens)
  np.testing.assert_allclose(apply(quantised, tokens), expected, atol=1e-5)
  assert np.abs(expected - apply(base.params, tokens)).max() > 1e-3
  share = size(quantised) / size(base.params)  # of float32: with a scale for 64 weights, or for 32
  assert share < (0.29 if kind == "int8" else 0.16)
  kernel = quantised["layers"]["mlp"]["down"]["kernel"]
  wrong = quantisation.Packed(kernel.bits[:, ::-1], kernel.scale, kind)
  assert np.abs(quantisation.dense(kernel) - quantisation.dense(wrong)).max() > 1e-3
  for like in (jax.device_get, lambda params: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)):
    again = lm.quantise(base._replace(params=like(base.params)), kind).params
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(quantised), strict=True):
      assert (one.shape, one.dtype) == (other.shape, other.dtype)
      assert isinstance(one, jax.ShapeDtypeStruct) or (isinstance(one, np.ndarray) and (one == other).all())


def test_loop_of_adapters(base):
  """Over the same numbers the same, but for rounding; over the base as it was, something else."""
  texts = loop.read_texts(base, text.splits("pydocs"), 32, max_test_rows=8)
  adapters = lm.Adapters(2, 4.0, ("query", "up"))
  recipe = training.Recipe(1e-2, "steps", 2, 8)
  found = {}
  cases = {"quantised": lm.quantise(base, "nf4").params, "dense": explicit(base.params, "nf4"), "base": base.params}
  for name, params in cases.items():
    setting = loop.Setting(base._replace(params=params), texts, recipe, adapters=adapters, measure="few")
    options = {"writing": loop.Writing(on_malformed="keep"), "num_generations": 2, "num_seeds": 1}
    found[name] = loop.simulate(setting, ["replace"], [8], **options)
  for metric in ("test_loss", "train_loss", "learning_curve"):
    np.testing.assert_allclose(found["quantised"][metric], found["dense"][metric], rtol=1e-5)
  assert (abs(found["quantised"].test_loss - found["base"].test_loss) > 1e-4).all()
  assert len({one.base_sha256 for one in found.values()}) == 3


def test_kernels_are_never_numbers_all_at_once():
  """Compiled from shapes: writing text over eight layers of four bits takes less than their kernels would in float32."""
  sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 4}
  config = transformers.LlamaConfig(vocab_size=97, max_position_embeddings=32, **sizes)
  shapes = checkpoint.made(config, decoder.abstract_params(families.architecture(config)))
  used = {}
  for kind in ("float32", "nf4"):
    model = shapes if kind == "float32" else lm.quantise(shapes, kind)
    functions = checkpoint.functions_of(config, model.params)
    write = jax.jit(lambda params, keys, functions=functions: sampling.generate(keys, functions, params, 8, 1, -1))
    found = write.lower(model.params, jax.random.split(jax.random.key(0), 2)).compile().memory_analysis()
    used[kind] = found.argument_size_in_bytes + found.temp_size_in_bytes
  kernels = 4 * sum(
    math.prod(x.shape) for name, x in checkpoint.flatten(shapes.params).items() if name.endswith("kernel")
  )
  assert used["nf4"] < kernels / 2 < kernels < used["float32"], used


def test_refused(base):
  quantised = lm.quantise(base, "int4")
  texts = loop.read_texts(base, text.splits("pydocs"), 32, max_test_rows=8)
  with pytest.raises(Refused, match="adapters"):
    loop.Setting(quantised, texts, training.Recipe()).task(quantised.params, 8)
  with pytest.raises(Refused, match="nf4 or int4 or int8"):
    lm.quantise(base, "fp4")
  odd = base._replace(params={"kernel": jnp.ones((1, 3, 2))})
  with pytest.raises(Refused, match="even"):
    lm.quantise(odd, "nf4")
  assert lm.quantise(odd, "int8").params["kernel"].shape == (1, 3, 2)
  for wrong, match in (
    (("--quantize=nf4",), "--quantize needs --lora_rank"),
    (("--quantize=nf4", "--lora_rank=0,4"), "--quantize needs --lora_rank, above 0 in every cell"),
    (("--quantize=nf5", "--lora_rank=4"), "quantize"),
    (("--quantize=nf4", "--lora_rank=4", "--mode=pretrain"), "finetune"),
  ):
    with own_flags(), pytest.raises(Refused, match=match):
      binary.define()
      flag_values.read(["x", *wrong])
      binary.read()
