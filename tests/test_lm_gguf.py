"""GGUF files: weights, configuration, tokenizers, and what is refused."""

import itertools
import json
import struct

import gguf
import gguf_models
import jax
import numpy as np
import pytest
from lm_configs import CONFIGS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from collapse_jax import lm
from collapse_jax.lm import families, gguf_file

LINES = [
  f"user: describe item {i} of the würzburg set\nassistant: a short text about it, with 3 words  and more"
  for i in range(60)
]


def same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    np.testing.assert_allclose(x, y, atol=2e-7, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama2_linear", "gemma2"])
def test_weights_and_configuration(name, tmp_path):
  """Written and read again. Linear scaling under its present key, and under the one of old files."""
  model = lm.random(CONFIGS[name](), jax.random.key(0))
  keys = {
    "llama2_linear": [
      lambda w: (w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), w.add_rope_scaling_factor(4.0)),
      lambda w: w.add_rope_scaling_factor(4.0),
      lambda w: w.add_float32("llama.rope.scale_linear", 4.0),
    ]
  }
  for i, about in enumerate(keys.get(name, [lambda w: None])):
    gguf_models.write(tmp_path / f"{i}.gguf", model, about)
    again = lm.load(tmp_path / f"{i}.gguf")
    same(model.params, again.params)
    mine, theirs = families.architecture(model.config), families.architecture(again.config)
    assert (
      theirs._replace(query_scale=mine.query_scale, initial_scale=mine.initial_scale, norm_eps=mine.norm_eps) == mine
    )
    assert abs(theirs.norm_eps / mine.norm_eps - 1) < 1e-6 and again.tokenizer is None
  if name == "llama2_linear":
    gguf_models.write(tmp_path / "no.gguf", model)
    assert families.architecture(lm.load(tmp_path / "no.gguf").config).ropes != mine.ropes
    gguf_models.write(tmp_path / "yarn.gguf", model, lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN))
    with pytest.raises(ValueError, match="rotary embeddings of kind yarn"):
      lm.load(tmp_path / "yarn.gguf")


def test_scan_agrees_with_the_reader_of_llama_cpp(tmp_path):
  gguf_models.write(
    tmp_path / "m.gguf", lm.random(CONFIGS["llama"](), jax.random.key(0)), gguf_models.sentencepiece(["a", "b"])[1]
  )
  meta, tensors = gguf_file.scan(tmp_path / "m.gguf")
  reader = gguf.GGUFReader(tmp_path / "m.gguf")
  assert [(one.name, one.data_offset, one.n_bytes) for one in reader.tensors] == [
    (n, t.offset, t.num_bytes) for n, t in tensors.items()
  ]
  for name, field in reader.fields.items():
    if not name.startswith("GGUF."):
      np.testing.assert_array_equal(field.contents(), meta[name])


def joined(text, tokens, prefix):
  """Token ids by SentencePiece's own rule, written out: join the neighbours whose piece is best, the leftmost of equals."""
  rank = {token: i for i, token in enumerate(tokens) if i >= 260}
  symbols = list(("\u2581" if prefix else "") + text.replace(" ", "\u2581"))
  while True:
    pairs = [(rank[a + b], at) for at, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in rank]
    if not pairs:
      break
    _, at = min(pairs)
    symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
  place = {token: i for i, token in enumerate(tokens)}
  ids = [[place[one]] if one in place else [place[f"<0x{byte:02X}>"] for byte in one.encode()] for one in symbols]
  return [i for one in ids for i in one]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix, tmp_path):
  """The vocabularies of Llama 2 (a blank before the text) and Gemma 2, against the rule written out; bytes for other letters."""
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if prefix else "never")
  tokenizer.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=200, show_progress=False))
  trained = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
  pieces = [piece for piece, _ in trained if len(piece) > 1] + [piece for piece, _ in trained if len(piece) == 1]
  pieces += ["\u2581\u2581", "\u2581\u2581\u2581"]
  tokens, about = gguf_models.sentencepiece(pieces, prefix)
  config = CONFIGS["llama" if prefix else "gemma2"]()
  config.vocab_size = len(tokens)
  model = lm.random(config, jax.random.key(0))
  gguf_models.write(tmp_path / "m.gguf", model, about)
  read = lm.load(tmp_path / "m.gguf").tokenizer
  for text in [
    *LINES[:5],
    "describe it",
    " blanks  here   ",
    "\nassistant: \t",
    "ungewöhnlich 漢字 🙂 <s>?",
    "itemitemsets",
    "",
    "a",
  ]:
    ids = read(text.replace("<s>", ""), add_special_tokens=False).input_ids
    assert ids == (joined(text.replace("<s>", ""), tokens, prefix) if text else [])
    assert read.decode(ids, clean_up_tokenization_spaces=False) == text.replace("<s>", "")
  assert read("a<s>", add_special_tokens=False).input_ids[-1] == 1  # a token of its own, where a text names it
  assert (read.bos_token_id, read.eos_token_id) == (1, 2)
  said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
  assert read.apply_chat_template(said, tokenize=False) == "<user>a</s><assistant>b</s>"


def test_user_defined_tokens_are_whole(tmp_path):
  """Type 4: in the text, whole; not left out of what is decoded. Type 1 in their place is split."""
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
  tokenizer.train_from_iterator(
    LINES,
    trainers.BpeTrainer(
      vocab_size=330,
      special_tokens=["<|endoftext|>"],
      show_progress=False,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ),
  )
  tokenizer.add_tokens([AddedToken(one, normalized=False) for one in ("<answer>", "user: ", "\nassistant: ")])
  vocabulary = [
    token for token, _ in sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda pair: pair[1])
  ]
  merges = [" ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
  config = CONFIGS["gpt2"]()
  config.vocab_size = len(vocabulary)
  text = "user: describe <answer> item\nassistant: a short text"

  def written(kind):
    def about(writer):
      writer.add_tokenizer_model("gpt2")
      writer.add_tokenizer_pre("gpt-2")
      writer.add_token_list(vocabulary)
      writer.add_token_types([3] + [1] * (len(vocabulary) - 4) + [kind] * 3)
      writer.add_token_merges(merges)
      writer.add_eos_token_id(0)

    gguf_models.write(tmp_path / f"{kind}.gguf", lm.random(config, jax.random.key(0)), about)
    read = lm.load(tmp_path / f"{kind}.gguf").tokenizer
    ids = read(text, add_special_tokens=False).input_ids
    assert read.decode(ids, skip_special_tokens=True) == text
    return ids

  assert written(4) == tokenizer.encode(text).ids != written(1)


def test_what_is_not_read_is_named(tmp_path):
  model = lm.random(CONFIGS["llama"](), jax.random.key(0))
  tokens = lambda w: (w.add_token_list([f"t{i}" for i in range(97)]), w.add_token_types([1] * 97))
  for about, said in (
    (lambda w: (w.add_tokenizer_model("bert"), tokens(w)), "a tokenizer of kind bert/None is not supported"),
    (lambda w: (w.add_tokenizer_model("llama"), tokens(w)), "no merges or scores"),
    (lambda w: w.add_uint16("split.count", 3), "one of several parts"),
    (lambda w: w.add_array("llama.attention.sliding_window", [1, 2]), None),
    (lambda w: w.add_key_length(6), "of a part of a head"),
  ):
    gguf_models.write(tmp_path / "m.gguf", model, about)
    if said is None:
      lm.load(tmp_path / "m.gguf")
      continue
    with pytest.raises(ValueError, match=said) as error:
      lm.load(tmp_path / "m.gguf")
    assert "\n" not in str(error.value)
  whole = (tmp_path / "m.gguf").read_bytes()
  for content, said in (
    (whole[:-100], "ends beyond it|larger than it is"),
    (whole[:4] + struct.pack(">I", 3) + whole[8:], "other byte order"),
    (whole[:4] + struct.pack("<I", 1) + whole[8:], "version 1"),
    (
      b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 0, 1 << 40),
      "bytes are said to follow",
    ),
  ):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=f"truncated or no GGUF file: .*({said})"):
      lm.load(tmp_path / "m.gguf")
