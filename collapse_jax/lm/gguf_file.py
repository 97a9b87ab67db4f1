"""GGUF files: weights dequantised, configuration and tokenizer from their metadata. Imports no JAX."""

import math
import mmap
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.data import files
from collapse_jax.lm import weights
from collapse_jax.refused import Refused

__all__ = ["Stored", "check", "read", "scan"]

MAX_METADATA, MAX_ENTRIES = 256 * files.MIB, 100_000
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_TEMPLATE = "tokenizer.chat_template"
_PLAIN, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # types of tokens
# Rules that split text before byte-pair merges, by the name that llama.cpp gives them.
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
  r"|\s+(?!\S)|\s+"
)
SPLITS = ("gpt-2", "default", "smollm", "llama-bpe")
_NAMES = {
  "token_embd": "model.embed_tokens",
  "output_norm": "model.norm",
  "output": "lm_head",
  "attn_norm": "input_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
  "ffn_norm": "post_attention_layernorm",
}
_GEMMA2 = _NAMES | {
  "ffn_norm": "pre_feedforward_layernorm",
  "post_attention_norm": "post_attention_layernorm",
  "post_ffw_norm": "post_feedforward_layernorm",
}
_GPT2 = {
  "token_embd": "transformer.wte",
  "position_embd": "transformer.wpe",
  "output_norm": "transformer.ln_f",
  "output": "lm_head",
  "attn_norm": "ln_1",
  "attn_qkv": "attn.c_attn",
  "attn_output": "attn.c_proj",
  "ffn_up": "mlp.c_fc",
  "ffn_down": "mlp.c_proj",
  "ffn_norm": "ln_2",
}
FAMILIES = {"gpt2": _GPT2, "llama": _NAMES, "gemma2": _GEMMA2}


class Stored(NamedTuple):
  """A tensor in a file: its shape, kind of quantisation, place and bytes."""

  shape: tuple[int, ...]
  kind: int
  offset: int
  num_bytes: int


def scan(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
  """Metadata and tensors of a file. Every count is held against the bytes that are left, before anything is made of it.

  Raises:
    ValueError: not a whole GGUF file (version 2 or 3, little-endian), or one of several.
  """
  shown = files.shown(path)
  size = files.check_regular(path)
  try:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
      return _scan(content, size)
  except (ValueError, OSError, struct.error) as error:
    raise Refused(f"{shown} is truncated or no GGUF file: {weights.first_line(error)}.") from None


def _scan(content, size: int):
  import gguf

  at = 0

  def take(count: int) -> bytes:
    nonlocal at
    if count > min(size, MAX_METADATA) - at:
      raise Refused(f"{count:,} bytes are said to follow at byte {at:,}")
    at += count
    return content[at - count : at]

  number = lambda form: struct.unpack(f"<{form}", take(struct.calcsize(f"<{form}")))[0]
  text = lambda: take(number("Q")).decode()

  def value(kind: int):
    if kind == _TEXT:
      return text()
    if kind in _NUMBERS:
      return number(_NUMBERS[kind])
    if kind != _ARRAY:
      raise Refused(f"a value of kind {kind}")
    kind, count = number("I"), number("Q")
    if kind == _TEXT:
      if count > (min(size, MAX_METADATA) - at) // 8:  # each has its length before it
        raise Refused(f"an array of {count:,} texts")
      return [text() for _ in range(count)]
    if kind not in _NUMBERS:
      raise Refused(f"an array of kind {kind}")
    form = np.dtype(_NUMBERS[kind]).newbyteorder("<")
    return np.frombuffer(take(count * form.itemsize), form)

  if take(4) != b"GGUF":
    raise Refused("it does not begin with GGUF")
  version, num_tensors, num_values = number("I"), number("Q"), number("Q")
  if version not in (2, 3):
    raise Refused(f"version {version}, or a machine of the other byte order")
  if max(num_tensors, num_values) > MAX_ENTRIES:
    raise Refused(f"{num_tensors:,} tensors and {num_values:,} values")
  meta: dict[str, Any] = {}
  for _ in range(num_values):
    name = text()
    meta[name] = value(number("I"))
  found: dict[str, Stored] = {}
  for _ in range(num_tensors):
    name, rank = text(), number("I")
    if not 1 <= rank <= 4 or name in found:
      raise Refused(f"tensor {files.shown(name)} is there twice, or has {rank} dimensions")
    shape = tuple(number("Q") for _ in range(rank))[::-1]
    kind, offset = number("I"), number("Q")
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    if shape[-1] % block or not all(shape):
      raise Refused(f"tensor {files.shown(name)} has the shape {shape}")
    found[name] = Stored(shape, kind, offset, math.prod(shape) // block * block_bytes)
  alignment = meta.get("general.alignment", 32)
  if type(alignment) is not int or not 1 <= alignment <= 1 << 20:
    raise Refused(f"an alignment of {files.shown(alignment, 40)}")
  start = -(-at // alignment) * alignment
  if sum(one.num_bytes for one in found.values()) > size:
    raise Refused("its tensors are larger than it is")
  for name, one in found.items():
    if start + one.offset + one.num_bytes > size:
      raise Refused(f"tensor {files.shown(name)} ends beyond it")
  return meta, {name: one._replace(offset=start + one.offset) for name, one in found.items()}


def check(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Stored]]:
  """(metadata, values of a configuration, tensors) of a file that can be read; see `read`."""
  shown = files.shown(path)
  meta, tensors = scan(path)
  family = meta.get("general.architecture")
  if family not in FAMILIES:
    raise Refused(
      f"{shown}: GGUF files of architecture {files.shown(family, 40)!r} are not read; known: {', '.join(FAMILIES)}."
    )
  if meta.get("split.count", 0) not in (0, 1):
    raise Refused(f"{shown} is one of several parts; merge them into one file (gguf-split --merge).")
  values = _config(shown, family, meta, tensors)
  weights.check_config(shown, values)
  _check_tokenizer(shown, meta)
  return meta, values, tensors


def read(path: Path):
  """(values of a configuration, function of the configuration that makes the tokenizer or None, name in a Hugging Face
  checkpoint -> tensor).

  Raises:
    ValueError: not a whole GGUF file, an unknown architecture, or a kind of tokenizer that is not supported.
  """
  import gguf

  meta, values, tensors = check(path)
  family = values["model_type"]
  names = FAMILIES[family]
  stem = "transformer.h" if family == "gpt2" else "model.layers"

  def renamed(name: str) -> str:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not match or match.group(2) not in names:
      return name
    layer, kind, leaf = match.groups()
    return f"{stem}.{layer}.{names[kind]}.{leaf}" if layer else f"{names[kind]}.{leaf}"

  def tensor_of(name: str, stored: Stored) -> weights.Tensor:
    transposed = family == "gpt2" and re.search(r"(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$", name) is not None

    def dequantised() -> np.ndarray:
      kind = gguf.GGMLQuantizationType(stored.kind)
      data = np.memmap(path, np.uint8, "r", stored.offset, (stored.num_bytes,)).reshape(*stored.shape[:-1], -1)
      try:
        value = np.asarray(gguf.dequantize(data, kind), np.float32)
      except NotImplementedError:
        raise Refused(f"{files.shown(name)} is of kind {kind.name}, which is not read") from None
      if family == "llama" and re.search(r"attn_[qk]\.weight$", name):
        return _half_split(value, values["num_attention_heads" if "attn_q" in name else "num_key_value_heads"])
      if family == "gemma2" and "norm" in name:
        return value - 1
      return value.T if transposed else value

    return weights.Tensor(stored.shape[::-1] if transposed else stored.shape, dequantised)

  tokenizer = lambda config: weights.probed(files.shown(path), lambda: _tokenizer(meta))
  return values, tokenizer, {renamed(name): tensor_of(name, one) for name, one in tensors.items()}


def _half_split(value, heads):
  """Rotary pairs side by side, as llama.cpp wants them, to pairs half a head apart, as in transformers."""
  rows, columns = value.shape
  return value.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(shown: str, family: str, meta: dict[str, Any], tensors: dict[str, Stored]) -> dict[str, Any]:
  """A configuration as in a config.json, not yet checked."""

  def get(name, default=None):
    found = meta.get(f"{family}.{name}", default)
    if found is None:
      raise Refused(f"{shown}: says nothing of {family}.{name}.")
    if isinstance(found, list | np.ndarray):
      raise Refused(f"{shown}: {family}.{name} is a list, where one value is read.")
    return found

  if "token_embd.weight" not in tensors:
    raise Refused(f"{shown}: has no tensor token_embd.weight.")
  values: dict[str, Any] = {
    "model_type": family,
    "vocab_size": tensors["token_embd.weight"].shape[0],
    "tie_word_embeddings": "output.weight" not in tensors,
  }
  for ours, theirs in {"bos": "bos", "eos": "eos", "pad": "padding"}.items():
    values[f"{ours}_token_id"] = meta.get(f"tokenizer.ggml.{theirs}_token_id")
  if family == "gpt2":
    return values | {
      "n_positions": get("context_length"),
      "n_embd": get("embedding_length"),
      "n_layer": get("block_count"),
      "n_head": get("attention.head_count"),
      "n_inner": get("feed_forward_length"),
      "layer_norm_epsilon": get("attention.layer_norm_epsilon"),
    }
  heads, size = get("attention.head_count"), get("embedding_length")
  values |= {
    "hidden_size": size,
    "intermediate_size": get("feed_forward_length"),
    "num_hidden_layers": get("block_count"),
    "num_attention_heads": heads,
    "num_key_value_heads": get("attention.head_count_kv", heads),
    "max_position_embeddings": get("context_length"),
    "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
  }
  weights.check_config(shown, values)
  turned = get("rope.dimension_count", 0)
  values["head_dim"] = get("attention.key_length", turned or size // heads)
  kind = get("rope.scaling.type", "linear")
  factor = get("rope.scaling.factor", get("rope.scale_linear", 0.0)) if kind == "linear" else 1.0
  if "rope_freqs.weight" in tensors or kind not in ("none", "linear") or turned not in (0, values["head_dim"]):
    raise Refused(
      f"{shown}: rotary embeddings of kind {files.shown(kind, 40)}, or of a part of a head, are not read from "
      "GGUF files; load the model's safetensors instead."
    )
  values["rope_parameters"] = {"rope_type": "default", "rope_theta": get("rope.freq_base", 10_000.0)}
  if factor not in (0, 1):
    values["rope_parameters"] |= {"rope_type": "linear", "factor": factor}
  if family == "llama":
    return values
  return values | {
    "sliding_window": get("attention.sliding_window", 4096),
    "attn_logit_softcapping": get("attn_logit_softcapping", 50.0),
    "final_logit_softcapping": get("final_logit_softcapping", 30.0),
    "query_pre_attn_scalar": 144 if values["num_hidden_layers"] == 46 else values["head_dim"],
  }


def _check_tokenizer(shown: str, meta: dict[str, Any]) -> None:
  """Raises ValueError for kinds of tokenizers that are not read, and where parts of one are missing or do not fit."""
  get = lambda name: meta.get(f"tokenizer.ggml.{name}")
  tokens, kind, split = get("tokens"), get("model"), get("pre")
  if tokens is None:
    return
  known = kind == "llama" or (kind == "gpt2" and (split is None or split in SPLITS))
  if not known:
    raise Refused(
      f"{shown}: a tokenizer of kind {files.shown(kind, 40)}/{files.shown(split, 40)} is not supported; known: "
      f"llama, and gpt2 with {', '.join(SPLITS)}."
    )
  is_texts = lambda value: isinstance(value, list)
  is_numbers = lambda value: isinstance(value, np.ndarray) and len(value) == len(tokens)
  if not is_texts(tokens) or not is_numbers(get("token_type")) or len(set(tokens)) < len(tokens):
    raise Refused(f"{shown}: the tokenizer cannot be read: its tokens and their types do not fit.")
  if (kind == "gpt2" and not is_texts(get("merges"))) or (kind == "llama" and not is_numbers(get("scores"))):
    raise Refused(f"{shown}: the tokenizer cannot be read: it has no merges or scores.")
  if any(" " not in merge for merge in get("merges") or () if kind == "gpt2"):
    raise Refused(f"{shown}: the tokenizer cannot be read: a merge is no pair.")
  for name in ("bos", "eos", "padding", "unknown"):
    if (at := get(f"{name}_token_id")) is not None and not (type(at) is int and 0 <= at < len(tokens)):
      raise Refused(f"{shown}: the tokenizer cannot be read: {name}_token_id is {files.shown(at, 40)}.")
  if not isinstance(meta.get(_TEMPLATE, ""), str):
    raise Refused(f"{shown}: the tokenizer cannot be read: its chat template is no text.")


def _tokenizer(meta: dict[str, Any]):
  from tokenizers import AddedToken
  from transformers import PreTrainedTokenizerFast

  def get(name, default=None):
    return meta.get(f"tokenizer.ggml.{name}", default)

  if get("tokens") is None:
    return None
  types = get("token_type").tolist()
  # Blanks in tokens that are whole words of their own are blanks of the text, which some writers have marked.
  known = set(get("tokens"))
  blank = lambda token: token if (plain := token.replace("\u2581", " ")) in known else plain
  tokens = [blank(token) if kind == _USER_DEFINED else token for token, kind in zip(get("tokens"), types)]
  tokenizer = (_sentencepiece if get("model") == "llama" else _byte_level)(get, tokens, types)
  tokenizer.add_special_tokens(
    [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == _CONTROL]
  )
  tokenizer.add_tokens(
    [AddedToken(token, normalized=False) for token, kind in zip(tokens, types) if kind == _USER_DEFINED]
  )
  named = {
    f"{ours}_token": tokens[get(f"{theirs}_token_id")]
    for ours, theirs in {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}.items()
    if get(f"{theirs}_token_id") is not None
  }
  template = {"chat_template": meta[_TEMPLATE]} if meta.get(_TEMPLATE) else {}
  return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named, **template)


def _byte_level(get, tokens, types):
  from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

  split = get("pre", "default")
  merges = [tuple(merge.split(" ", 1)) for merge in get("merges")]
  tokenizer = Tokenizer(
    models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=split == "llama-bpe")
  )
  level = pre_tokenizers.ByteLevel(
    add_prefix_space=bool(get("add_space_prefix", False)), use_regex=split != "llama-bpe"
  )
  first: list = []
  if split == "smollm":
    first = [pre_tokenizers.Digits(individual_digits=True)]
  elif split == "llama-bpe":
    first = [pre_tokenizers.Split(Regex(_LLAMA3), "isolated")]
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, level])
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _sentencepiece(get, tokens, types):
  """SentencePiece's byte-pair model: of all neighbours that make up a piece, those with the best piece are joined first."""
  from tokenizers import Tokenizer, decoders, models, normalizers

  ids = {token: i for i, token in enumerate(tokens)}
  plain = {token for token, kind in zip(tokens, types) if kind == _PLAIN}
  merges = []
  for i in sorted((ids[token] for token in plain), key=lambda i: (-get("scores")[i], i)):
    piece = tokens[i]
    pairs = [(piece[:at], piece[at:]) for at in range(1, len(piece)) if piece[:at] in plain and piece[at:] in plain]
    merges += sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
  unknown = tokens[types.index(_UNKNOWN)] if _UNKNOWN in types else None
  tokenizer = Tokenizer(models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
  prefix = bool(get("add_space_prefix", True))
  mark = normalizers.Replace(" ", "\u2581")
  tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), mark] if prefix else [mark])
  back: list = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
  tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
  return tokenizer
