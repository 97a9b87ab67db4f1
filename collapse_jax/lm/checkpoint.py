"""Weights in and out: Hugging Face directories and hub ids (safetensors only), and GGUF files. Runs no foreign code."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.lm import decoder
from collapse_jax.types import Array

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 4 << 30


class LanguageModel(NamedTuple):
  """A causal language model.

  Attributes:
    apply: (params, tokens [B, L] int32, mask=None [B, L] bool) -> logits [B, L, V] float32.
    params: nested dict of arrays; layers are stacked along a leading axis.
    tokenizer: of transformers; None where the checkpoint has none.
    config: of transformers.
  """
  apply: Callable[..., Array]
  params: Any
  tokenizer: Any
  config: Any


Table = dict[str, tuple[tuple[str, ...], bool]]
# Name in a Hugging Face checkpoint -> ours; {} is the layer. Kernels of `torch.nn.Linear` are [out, in], ours [in, out].
_LINEARS = {"self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key", "self_attn.o_proj": "attention.out",
            "self_attn.v_proj": "attention.value", "mlp.gate_proj": "mlp.gate", "mlp.up_proj": "mlp.up",
            "mlp.down_proj": "mlp.down"}


def _rotary_table(norms: Mapping[str, str]) -> Table:
  table: Table = {"model.embed_tokens.weight": (("embedding",), False), "model.norm.weight": (("final_norm.scale",), False),
           "lm_head.weight": (("head",), True)}
  for theirs, ours in _LINEARS.items():
    table[f"model.layers.{{}}.{theirs}.weight"] = (f"layers.{ours}.kernel",), True
    table[f"model.layers.{{}}.{theirs}.bias"] = (f"layers.{ours}.bias",), False
  for theirs, ours in norms.items():
    table[f"model.layers.{{}}.{theirs}.weight"] = (f"layers.{ours}.scale",), False
  return table


def _gpt2_table() -> Table:
  table: Table = {"transformer.wte.weight": (("embedding",), False), "transformer.wpe.weight": (("position",), False),
           "lm_head.weight": (("head",), True)}
  for theirs, ours in {"weight": "scale", "bias": "bias"}.items():
    table[f"transformer.ln_f.{theirs}"] = (f"final_norm.{ours}",), False
    table[f"transformer.h.{{}}.ln_1.{theirs}"] = (f"layers.attention_norm.{ours}",), False
    table[f"transformer.h.{{}}.ln_2.{theirs}"] = (f"layers.mlp_norm.{ours}",), False
  for theirs, ours in {"weight": "kernel", "bias": "bias"}.items():  # Conv1D kernels are [in, out], as ours
    fused = tuple(f"layers.attention.{name}.{ours}" for name in ("query", "key", "value"))
    table[f"transformer.h.{{}}.attn.c_attn.{theirs}"] = fused, False
    for name, to in {"attn.c_proj": "attention.out", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}.items():
      table[f"transformer.h.{{}}.{name}.{theirs}"] = (f"layers.{to}.{ours}",), False
  return table


TABLES = {
    "gpt2": _gpt2_table(),
    "llama": _rotary_table({"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}),
    "gemma2": _rotary_table({"input_layernorm": "attention_norm", "post_attention_layernorm": "post_attention_norm",
                             "pre_feedforward_layernorm": "mlp_norm", "post_feedforward_layernorm": "post_mlp_norm"}),
}
CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "gemma2": "Gemma2ForCausalLM"}
# Buffers that old checkpoints carry; they hold no weights.
IGNORED = re.compile(r".*(rotary_emb\.inv_freq|attn\.masked_bias|\.attn\.bias)$")


def load(path_or_id, dtype=jnp.float32) -> LanguageModel:
  """Reads a model of one of the families in `TABLES`.

  Args:
    path_or_id: directory with config.json and safetensors, a .gguf file (dequantised), or the id of a hub repository.
    dtype: of the parameters and of matrix products.
  Raises:
    ValueError: no such model, unknown architecture, or weights that are missing, truncated, unknown or misshapen; all
      that is wrong with the weights is named at once.
  """
  path = Path(path_or_id)
  if path.is_file() and path.suffix == ".gguf":
    from collapse_jax.lm import gguf_file
    config, tokenizer, tensors = gguf_file.read(path)
  else:
    directory = path if path.is_dir() else _download(str(path_or_id))
    config, tokenizer, tensors = _config(directory), _tokenizer(directory), _tensors(directory)
  arch = decoder.architecture(config)
  if tokenizer is not None and len(tokenizer) > arch.vocab_size:
    raise ValueError(f"{path_or_id}: the tokenizer has {len(tokenizer)} tokens and the model only {arch.vocab_size}.")
  return made(config, from_tensors(arch, tensors, dtype, str(path_or_id)), tokenizer)


def made(config, params, tokenizer=None) -> LanguageModel:
  """A LanguageModel of given parameters, in their dtype."""
  return LanguageModel(functions_of(config, params).apply, params, tokenizer, config)


def functions_of(config, params, **options) -> decoder.Functions:
  """The decoder's pure functions for a configuration and the dtype of some parameters."""
  dtype = jnp.dtype(params["embedding"].dtype)
  return decoder.functions(decoder.architecture(config)._replace(**options), dtype)


def random(config, key: Array, dtype=jnp.float32, tokenizer=None) -> LanguageModel:
  """A model with random weights."""
  return made(config, jax.jit(decoder.functions(decoder.architecture(config), jnp.dtype(dtype)).init)(key), tokenizer)


def save(model: LanguageModel, directory) -> None:
  """Writes config.json, safetensors (sharded above 4 GiB) and the tokenizer, as transformers reads them."""
  import copy

  from safetensors.numpy import save_file
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  arch = decoder.architecture(model.config)
  shards: list[dict[str, np.ndarray]] = [{}]
  for name, value in to_tensors(arch, model.params):
    if sum(x.nbytes for x in shards[-1].values()) + value.nbytes > SHARD_BYTES and shards[-1]:
      shards.append({})
    shards[-1][name] = np.ascontiguousarray(value)
  place: dict[str, str] = {}
  for i, shard in enumerate(shards):
    name = WEIGHTS if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
    save_file(shard, str(directory / name), metadata={"format": "pt"})
    place |= dict.fromkeys(shard, name)
  if len(shards) > 1:
    size = sum(x.nbytes for shard in shards for x in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": place}
    (directory / INDEX).write_text(json.dumps(index, indent=2))
  config = copy.deepcopy(model.config)
  config.architectures = [CLASSES[arch.family]]
  config.dtype = str(jnp.dtype(model.params["embedding"].dtype))
  config.save_pretrained(directory)
  if model.tokenizer is not None:
    model.tokenizer.save_pretrained(directory)


def from_tensors(arch: decoder.Architecture, tensors: Mapping[str, Callable[[], np.ndarray]], dtype, source: str) -> Any:
  """Parameters from named tensors of a Hugging Face checkpoint, each read once.

  Raises:
    ValueError: see `load`.
  """
  shapes = _flatten(decoder.abstract_params(arch, dtype))
  filled: dict[str, set[int]] = {name: set() for name in shapes}
  values = {name: np.empty(x.shape, x.dtype) for name, x in shapes.items()}
  problems = []
  for name, read in tensors.items():
    if arch.family == "gpt2" and not name.startswith(("transformer.", "lm_head.")):  # as the original release names them
      name = f"transformer.{name}"
    if IGNORED.match(name) or (name == "lm_head.weight" and arch.tied):
      continue
    found = _find(TABLES[arch.family], name)
    if found is None or found[0][0] not in shapes:
      problems.append(f"{name} is unknown")
      continue
    targets, transposed, layer = found
    value = read()
    value = value.T if transposed else value
    for target, part in zip(targets, np.split(value, len(targets), axis=-1) if len(targets) > 1 else [value]):
      place = values[target] if layer is None else values[target][layer] if layer < arch.num_layers else None
      if place is None:
        problems.append(f"{name} lies beyond layer {arch.num_layers - 1}")
      elif place.shape != part.shape:
        problems.append(f"{name} is {list(value.shape)}, which does not fit {target} {list(place.shape)}")
      else:
        place[...] = part.astype(place.dtype)
        filled[target].add(layer or 0)
  for name, done in filled.items():
    missing = sorted(set(range(arch.num_layers if name.startswith("layers.") else 1)) - done)
    if missing:
      problems.append(f"{name} is missing" + (f" in layers {missing}" if name.startswith("layers.") else ""))
  if problems:
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise ValueError(f"{source}: weights do not fit the configuration: {'; '.join(problems[:5])}{more}.")
  return _unflatten({name: jnp.asarray(value) for name, value in values.items()})


def to_tensors(arch: decoder.Architecture, params) -> Iterator[tuple[str, np.ndarray]]:
  """The inverse of `from_tensors`."""
  values = _flatten(params)
  for template, (sources, transposed) in TABLES[arch.family].items():
    if sources[0] not in values:
      continue
    parts = [np.asarray(values[source]) for source in sources]
    for layer in range(arch.num_layers) if "{}" in template else [None]:
      one = np.concatenate(parts if layer is None else [part[layer] for part in parts], axis=-1)
      yield template.format(layer), one.T if transposed else one


def num_params(params) -> int:
  return sum(x.size for x in jax.tree.leaves(params))


def merge_adapters(arch: decoder.Architecture, params) -> Any:
  """Parameters of the same model without adapters: their products added to the kernels."""
  values = _flatten(params)
  scale = arch.adapter_alpha / max(arch.adapter_rank, 1)
  for name in [name for name in values if name.endswith(".adapter_down")]:
    stem = name.removesuffix(".adapter_down")
    change = values.pop(name).astype(jnp.float32) @ values.pop(f"{stem}.adapter_up").astype(jnp.float32)
    kernel = values[f"{stem}.kernel"]
    values[f"{stem}.kernel"] = (kernel.astype(jnp.float32) + scale * change).astype(kernel.dtype)
  return _unflatten(values)


def split_adapters(params) -> tuple[Any, Any]:
  """(adapters, the rest) of one tree; `join` is the inverse."""
  values = _flatten(params)
  mine = {name: x for name, x in values.items() if ".adapter_" in name}
  return _unflatten(mine), _unflatten({name: x for name, x in values.items() if name not in mine})


def join(a, b) -> Any:
  """One tree of two nested dicts without common leaves."""
  return _unflatten(_flatten(a) | _flatten(b))


def _find(table, name):
  """(targets, transposed, layer) of the one template that a name matches."""
  matches = []
  for template, (targets, transposed) in table.items():
    match = re.fullmatch(re.escape(template).replace(r"\{\}", r"(\d+)"), name)
    if match:
      matches.append((targets, transposed, int(match.group(1)) if match.groups() else None))
  assert len(matches) <= 1, f"{name} matches several templates"
  return matches[0] if matches else None


def _flatten(tree, prefix="") -> dict[str, Any]:
  out: dict[str, Any] = {}
  for name, value in tree.items():
    out |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
  return out


def _unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for name, value in values.items():
    *path, last = name.split(".")
    node = tree
    for part in path:
      node = node.setdefault(part, {})
    node[last] = value
  return tree


def _download(repository: str) -> Path:
  if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository) or repository.endswith((".gguf", ".safetensors", ".bin")):
    raise ValueError(f"{repository}: no such directory or .gguf file, and not a hub id.")
  from huggingface_hub import snapshot_download
  try:
    return Path(snapshot_download(repository, allow_patterns=["*.safetensors", "*.json", "tokenizer*", "merges.txt"]))
  except Exception as error:
    raise ValueError(f"{repository}: no such directory, and the hub does not give it ({_first_line(error)}).") from None


def _config(directory: Path):
  from transformers import AutoConfig
  if not (directory / "config.json").is_file():
    raise ValueError(f"{directory}: has no config.json.")
  try:
    kind = json.loads((directory / "config.json").read_text()).get("model_type", "")
  except (json.JSONDecodeError, AttributeError) as error:
    raise ValueError(f"{directory}/config.json cannot be read: {_first_line(error)}.") from None
  if kind not in TABLES:
    raise ValueError(f"{directory}: unknown architecture {kind!r}; known: {', '.join(TABLES)}.")
  return AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)


def _tokenizer(directory: Path):
  if not any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
    return None
  from transformers import AutoTokenizer
  try:
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
  except Exception as error:
    raise ValueError(f"{directory}: the tokenizer cannot be read: {_first_line(error)}.") from None


def _tensors(directory: Path) -> dict[str, Callable[[], np.ndarray]]:
  """name -> function that reads it."""
  from safetensors import SafetensorError, safe_open
  if (directory / INDEX).is_file():
    files = sorted(set(json.loads((directory / INDEX).read_text())["weight_map"].values()))
  else:
    files = [WEIGHTS]
  found: dict[str, Callable[[], np.ndarray]] = {}
  for name in files:
    if not (directory / name).is_file():
      pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
      hint = f" ({pickled[0]} is a pickle, which is never read: convert it to safetensors)" if pickled else ""
      raise ValueError(f"{directory}: {name} is missing{hint}.")
    try:
      file = safe_open(directory / name, framework="np")
      found |= {key: lambda file=file, key=key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
      raise ValueError(f"{directory}/{name} is truncated or damaged: {_first_line(error)}.") from None
  return found


def _first_line(error) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
