"""Checkpoints as files: what a directory holds is checked before any of it is used. Runs no foreign code, imports no JAX."""

import contextlib
import functools
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.data import files
from collapse_jax.lm.families import FAMILIES
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks

__all__ = [
  "IGNORED",
  "Tensor",
  "check_config",
  "check_quantisation",
  "config_values",
  "configuration",
  "first_line",
  "guarded",
  "probed",
  "save_shards",
  "save_tensors",
  "tensors",
  "tensors_of",
  "tokenizer",
]

_log = logging.getLogger(__name__)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Buffers that old checkpoints carry; they hold no weights.
IGNORED = re.compile(r".*(rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias)$")
MAX_TENSORS, MAX_HEADER = 20_000, 32 * files.MIB
_READ = ("F64", "F32", "F16", "BF16")
_KINDS = {
  "F8": "float8",
  "F6": "float6",
  "F4": "float4",
  "I": "integer",
  "U": "integer",
  "B": "boolean",
  "C": "complex",
}
# What a configuration may say: counts from 1, sizes that no model has yet being refused; numbers above 0.
_COUNTS = {
  "vocab_size": 1 << 24,
  "hidden_size": 1 << 20,
  "intermediate_size": 1 << 22,
  "num_hidden_layers": 4096,
  "num_attention_heads": 1 << 14,
  "num_key_value_heads": 1 << 14,
  "head_dim": 1 << 14,
  "max_position_embeddings": 1 << 30,
  "sliding_window": 1 << 30,
  "n_positions": 1 << 30,
  "n_ctx": 1 << 30,
  "n_embd": 1 << 20,
  "n_layer": 4096,
  "n_head": 1 << 14,
  "n_inner": 1 << 22,
  "ffn_dim": 1 << 22,
  "word_embed_proj_dim": 1 << 20,
  "num_layers": 4096,
  "num_heads": 1 << 14,
  "window_size": 1 << 30,
  "sliding_window_pattern": 1 << 30,
  "no_rope_layer_interval": 1 << 30,
}
_NUMBERS = (
  "rms_norm_eps",
  "layer_norm_epsilon",
  "layer_norm_eps",
  "rope_theta",
  "rope_local_base_freq",
  "rotary_emb_base",
  "rotary_pct",
  "partial_rotary_factor",
  "query_pre_attn_scalar",
  "attn_logit_softcapping",
  "final_logit_softcapping",
  "factor",
  "low_freq_factor",
  "high_freq_factor",
  "original_max_position_embeddings",
  "attention_factor",
  "beta_fast",
  "beta_slow",
  "mscale",
  "mscale_all_dim",
)
_TRUTHS = (
  "attention_bias",
  "mlp_bias",
  "tie_word_embeddings",
  "scale_attn_weights",
  "scale_attn_by_inverse_layer_idx",
  "add_cross_attention",
  "use_sliding_window",
  "use_bidirectional_attention",
  "do_layer_norm_before",
  "enable_bias",
  "layer_norm_elementwise_affine",
  "_remove_final_layer_norm",
  "use_parallel_residual",
  "qk_layernorm",
  "truncate",
)
_TEXTS = ("hidden_act", "hidden_activation", "activation_function", "rope_type", "type", "tokenizer_class")
_TABLES = ("rope_parameters", "rope_scaling", "full_attention", "sliding_attention")
# Of no use here, and what transformers makes of them is not bounded.
_UNUSED = (
  "auto_map",
  "id2label",
  "label2id",
  "num_labels",
  "per_layer_config",
  "quantization_config",
  "task_specific_params",
)


class Tensor(NamedTuple):
  """A tensor in a file, by its name in a Hugging Face checkpoint: its shape, and a function that reads it."""

  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


def config_values(directory: Path) -> dict[str, Any]:
  """What config.json says, checked; a ValueError where it is not of a model that can be read."""
  if not os.path.lexists(directory / "config.json"):
    raise Refused(f"{files.shown(directory)}: has no config.json.")
  values = files.read_json(directory / "config.json")
  if values.get("model_type") == "gemma3" and isinstance(values.get("text_config"), dict):
    _log.warning("%s: its text model alone is read, without what sees images", files.shown(directory))
    values = values["text_config"] | {"model_type": "gemma3_text"}
  check_config(f"{files.shown(directory)}/config.json", values)
  return values


def check_config(source: str, values: Mapping[str, Any]) -> None:
  """Raises ValueError where a configuration is of an unknown family, or a value is of the wrong type or out of bounds."""
  family = values.get("model_type", "")
  if not isinstance(family, str) or family not in FAMILIES:
    if values.get("auto_map"):
      raise Refused(f"{source}: {files.shown(family, 40)!r} needs remote code (auto_map), which is never run.")
    raise Refused(f"{source}: unknown architecture {files.shown(family, 40)!r}; known: {', '.join(FAMILIES)}.")
  _check_values(source, values)


def _check_values(source: str, values: Mapping[str, Any]) -> None:
  is_number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
  for name, value in values.items():
    must = None
    if value is None:
      continue
    if name in _COUNTS and not (type(value) is int and 1 <= value <= _COUNTS[name]):
      must = f"an integer from 1 to {_COUNTS[name]}"
    elif name in _NUMBERS and not (is_number(value) and 0 < value < 1e30):
      must = "a number above 0"
    elif name in ("initializer_range", "init_std") and not (is_number(value) and 0 <= value <= 1):
      must = "a number from 0 to 1"
    elif name in _TRUTHS and not isinstance(value, bool):
      must = "true or false"
    elif name in _TEXTS and not isinstance(value, str):
      must = "a text"
    elif name.endswith("_token_id") and not all(
      type(one) is int for one in (value if isinstance(value, list) else [value])
    ):
      must = "an integer"
    elif name in ("layer_types", "attention_layers") and not (
      isinstance(value, list)
      and all(isinstance(one, str) for one in value)
      and len(value) == values.get("num_hidden_layers", values.get("num_layers", len(value)))
    ):
      must = "a list of texts, one for each layer"
    elif name == "max_window_layers" and not (type(value) is int and value >= 0):
      must = "an integer from 0"
    elif name == "no_rope_layers" and not (
      isinstance(value, list)
      and all(one in (0, 1) for one in value)
      and len(value) >= values.get("num_hidden_layers", 0)
    ):
      must = "a list of 0 and 1, one for each layer"
    elif name == "attention_types" and not _is_attention_types(value):
      must = "a list of pairs: kinds of layers, and how often they follow each other"
    elif name in _TABLES:
      if isinstance(value, dict):
        _check_values(f"{source}: {name}", value)
      else:
        must = "a table"
    if must:
      raise Refused(f"{source}: {name} must be {must}, got {files.shown(value, 40)}.")


def _is_attention_types(value: Any) -> bool:
  pair = lambda one: isinstance(one, list) and len(one) == 2 and isinstance(one[0], list) and type(one[1]) is int
  most = _COUNTS["num_layers"]
  return (
    isinstance(value, list)
    and all(pair(one) and all(isinstance(kind, str) for kind in one[0]) and 0 <= one[1] <= most for one in value)
    and sum(len(one[0]) * one[1] for one in value) <= most
  )


def configuration(source: str, values: Mapping[str, Any]):
  """The transformers configuration of checked values."""
  from transformers import CONFIG_MAPPING

  logging.getLogger("transformers.modeling_rope_utils").setLevel(
    logging.ERROR
  )  # `families` says what is not known, once
  try:
    return CONFIG_MAPPING[values["model_type"]].from_dict(
      {name: value for name, value in values.items() if name not in _UNUSED}
    )
  except Exception as error:
    raise Refused(f"{source} cannot be read: {first_line(error)}.") from None


def tensors(directory: Path) -> dict[str, Tensor]:
  """Tensors of one file, which goes first, or of those that an index names, as transformers chooses them.

  Raises:
    ValueError: a file is missing, damaged or lies elsewhere, or holds weights of a kind that is not read.
  """
  shown = files.shown(directory)
  index = directory / INDEX
  names = [WEIGHTS]
  if not os.path.lexists(directory / WEIGHTS) and os.path.lexists(index):
    table = files.read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(one, str) for one in table.values()):
      raise Refused(f"{files.shown(index)} cannot be read: its weight_map must name a file for each tensor.")
    names = sorted(set(table.values()))
    for name in names:
      if not re.fullmatch(r"[^/\\\0]+\.safetensors", name):
        raise Refused(f"{files.shown(index)} names {files.shown(name)!r}, which is no safetensors file beside it.")
  found: dict[str, Tensor] = {}
  for name in names:
    if not os.path.lexists(directory / name):
      pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
      hint = (
        f" ({files.shown(pickled[0])} is a pickle, which is never read: convert it to safetensors)" if pickled else ""
      )
      raise Refused(f"{shown}: {files.shown(name)} is missing{hint}.")
    found |= tensors_of(directory / name)
    if len(found) > MAX_TENSORS:
      raise Refused(f"{shown} holds more than {MAX_TENSORS:,} tensors.")
  return found


def tensors_of(path: Path) -> dict[str, Tensor]:
  """Those of one safetensors file, none of which is read yet; a Refused where it is damaged."""
  from safetensors import safe_open

  shown = files.shown(path)
  size = files.check_regular(path)
  found = {}
  try:
    with open(path, "rb") as start:
      if int.from_bytes(start.read(8), "little") > min(size, MAX_HEADER):
        raise Refused("its header is longer than it can be")
    file = safe_open(path, framework="np")
    for name in file.keys():  # noqa: SIM118
      about = file.get_slice(name)
      shape, kind = tuple(about.get_shape()), about.get_dtype()
      if kind in _READ:
        found[name] = Tensor(shape, functools.partial(file.get_tensor, name))
      elif not IGNORED.match(name):
        called = next((word for prefix, word in _KINDS.items() if kind.startswith(prefix)), "such")
        raise Refused(
          f"{called} weights are not read, and {files.shown(name)} is {kind}; convert them to bfloat16 first"
        )
  except Exception as error:
    fault = "" if isinstance(error, Refused) else "truncated or damaged: "
    raise Refused(f"{shown}: {fault}{first_line(error)}.") from None
  return found


def check_quantisation(directory: Path, values: Mapping[str, Any]) -> None:
  """Raises Refused where a configuration says that weights are quantised."""
  quantised = values.get("quantization_config")
  if quantised is not None:
    method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
    raise Refused(f"{files.shown(directory)}: quantised weights ({files.shown(method, 40)}) are not read.")


def tokenizer(directory: Path, config):
  """The tokenizer of a directory, None where it has none."""
  names = ("tokenizer.json", "tokenizer.model", "vocab.json")
  if not any(os.path.lexists(directory / name) for name in names):
    return None
  for path in [*directory.glob("*.json"), *directory.glob("*.jinja")]:
    if path.name != INDEX and not path.name.endswith(".safetensors.index.json"):
      files.check_regular(path, files.JSON_BYTES)
  for name in (*names[1:], "merges.txt"):
    if os.path.lexists(directory / name):
      files.check_regular(directory / name, files.JSON_BYTES)
  for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
    if os.path.lexists(directory / name):
      files.read_json(directory / name)
  from transformers import AutoTokenizer

  return probed(
    files.shown(directory),
    lambda: AutoTokenizer.from_pretrained(directory, config=config, trust_remote_code=False, local_files_only=True),
  )


def probed(source: str, make: Callable[[], Any]) -> Any:
  """A tokenizer (None where there is none) that has read long runs of letters, digits, blanks and signs: bad patterns end here."""

  def made():
    found = make()
    if found is not None:
      found(
        ["".join(one * 999 + end for one in ("a", "0", " ", ".", "\n", "ab", "\u00e9", "_") for end in ("!", "\u2603"))]
      )
    return found

  with _silent():
    return guarded(f"{source}: the tokenizer", made)


@contextlib.contextmanager
def _silent():
  """Nothing is written to standard error: a panic of Rust would print a backtrace there, beside the error that it becomes."""
  try:
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  except OSError:  # it is closed
    yield
    return
  try:
    os.dup2(nothing, 2)
    yield
  finally:
    os.dup2(before, 2)
    os.close(before)
    os.close(nothing)


def guarded(what: str, make: Callable[[], Any]) -> Any:
  """The value of a function that calls a library, whose errors (a panic of Rust is no Exception) become a ValueError."""
  try:
    return make()
  except BaseException as error:
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
      raise
    raise Refused(f"{what} cannot be read: {first_line(error)}.") from None


def first_line(error: BaseException) -> str:
  """Of an error's message, fit to be shown."""
  lines = str(error).strip().splitlines()
  return files.shown(lines[0]).rstrip(".") if lines else type(error).__name__


def save_tensors(named: Mapping[str, np.ndarray], path: Path) -> None:
  """Writes a safetensors file, whole and durable or not at all; an OSError where it cannot be written."""
  chunks.rename(_part(named, path), path)


def _part(named: Mapping[str, np.ndarray], path: Path) -> Path:
  """The file beside its place, under another name; nothing is left where it cannot be written."""
  from safetensors import SafetensorError
  from safetensors.numpy import save_file

  part = path.with_name(f"{path.name}.part")
  try:
    save_file(dict(named), str(part), metadata={"format": "pt"})
    chunks.sync(part)
  except BaseException as error:
    part.unlink(missing_ok=True)
    if isinstance(error, SafetensorError):
      raise OSError(f"{files.shown(path)} cannot be written: {first_line(error)}.") from None
    raise
  return part


def save_shards(shards: list[dict[str, np.ndarray]], directory: Path) -> None:
  """Writes model.safetensors, or numbered files and their index, each whole and durable or not at all.

  What would else be read instead of it, an earlier index or an earlier single file, is removed then.

  Raises:
    OSError: they cannot be written; what was there before is as it was.
  """
  names = (
    [WEIGHTS]
    if len(shards) == 1
    else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
  )
  try:
    for name, shard in zip(names, shards):
      _part(shard, directory / name)
  except BaseException:
    for name in names:
      (directory / f"{name}.part").unlink(missing_ok=True)
    raise
  if len(shards) > 1:  # without an index nobody reads a mixture of old and new files
    (directory / INDEX).unlink(missing_ok=True)
  for name in names:
    chunks.rename(directory / f"{name}.part", directory / name)
  if len(shards) == 1:
    (directory / INDEX).unlink(missing_ok=True)
    return
  size = sum(x.nbytes for shard in shards for x in shard.values())
  index = {
    "metadata": {"total_size": size},
    "weight_map": {tensor: name for name, shard in zip(names, shards) for tensor in shard},
  }
  chunks.write(directory / INDEX, json.dumps(index, indent=2).encode())
  (directory / WEIGHTS).unlink(missing_ok=True)
