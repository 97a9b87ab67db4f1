"""Weights in and out: Hugging Face directories and hub ids (safetensors only), and GGUF files. Runs no foreign code."""

import copy
import functools
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.data import files
from collapse_jax.lm import decoder, families, weights
from collapse_jax.lm.families import FAMILIES, Architecture, Key
from collapse_jax.lm.quantisation import dense, is_quantised
from collapse_jax.refused import Refused
from collapse_jax.types import Array

__all__ = [
  "LanguageModel",
  "find",
  "flatten",
  "from_tensors",
  "functions_of",
  "fused",
  "join",
  "load",
  "made",
  "merge_adapters",
  "num_params",
  "random",
  "save",
  "split_adapters",
  "to_tensors",
  "unflatten",
  "unfused",
]

_log = logging.getLogger(__name__)
SHARD_BYTES = 4 << 30
_HUB_SECONDS = 10  # in which the hub begins to answer


class LanguageModel(NamedTuple):
  """A causal language model.

  Attributes:
    apply: (params, tokens [B, L] int32, mask=None [B, L] bool) -> logits [B, L, V] float32.
    params: nested dict of arrays, of JAX or NumPy, or of quantised ones; layers are stacked along a leading axis.
    tokenizer: of transformers; None where the checkpoint has none.
    config: of transformers.
  """

  apply: Callable[..., Array]
  params: Any
  tokenizer: Any
  config: Any


def load(path_or_id, dtype=jnp.float32, on_host: bool = False) -> LanguageModel:
  """Reads a model of one of the families in `families.FAMILIES`.

  Args:
    path_or_id: directory with config.json and safetensors, a .gguf file (dequantised), or the id of a hub repository.
    dtype: of the parameters and of matrix products.
    on_host: leave the parameters in NumPy arrays, of a model that no device holds alone (`sharding.place` splits them).
  Raises:
    ValueError: no such model, unknown architecture, or weights that are missing, truncated, unknown or misshapen; all
      that is wrong with the weights is named at once.
  """
  path = Path(files.home(path_or_id))
  source = files.shown(path_or_id)
  if path.suffix == ".gguf" and os.path.exists(path):
    from collapse_jax.lm import gguf_file

    values, tokenizer_of, tensors = gguf_file.read(path)
  else:
    directory = path if os.path.isdir(path) else _download(str(path_or_id))
    values, tensors = weights.config_values(directory), weights.tensors(directory)
    weights.check_quantisation(directory, values)
    tokenizer_of = functools.partial(weights.tokenizer, directory)
  config = weights.configuration(source, values)
  arch = families.architecture(config)
  if arch.tied and not _tied(arch, tensors):
    _log.warning(
      "%s: has an output layer of its own, though its configuration ties it to the embedding; it is kept", source
    )
    config.tie_word_embeddings = False
    arch = arch._replace(tied=False)
  tokenizer = tokenizer_of(config)
  if tokenizer is not None and len(tokenizer) > arch.vocab_size:
    raise Refused(f"{source}: the tokenizer has {len(tokenizer)} tokens and the model only {arch.vocab_size}.")
  params = from_tensors(arch, tensors, dtype, source)
  return made(config, params if on_host else jax.tree.map(jnp.asarray, params), tokenizer)


def _tied(arch: Architecture, tensors: Mapping[str, weights.Tensor]) -> bool:
  """False where a file has an output layer that is not its embedding."""
  named = {find(arch, name)[1].targets: tensor for name, tensor in tensors.items()}
  head, embedding = named.get(("head",)), named.get(("embedding",))
  return head is None or (
    embedding is not None and head.shape == embedding.shape and np.array_equal(head.read(), embedding.read())
  )


def made(config, params, tokenizer=None) -> LanguageModel:
  """A LanguageModel of given parameters, in their dtype.

  Args:
    config: a transformers configuration.
    params: the decoder's.
    tokenizer: a transformers tokenizer, or None.
  """
  return LanguageModel(functions_of(config, params).apply, params, tokenizer, config)


def functions_of(config, params, **options) -> decoder.Functions:
  """The decoder's pure functions for a configuration and the dtype of some parameters.

  Args:
    config: a transformers configuration.
    params: the decoder's.
    options: fields of `Architecture` that are to be others.
  """
  dtype = jnp.dtype(params["embedding"].dtype)
  return decoder.functions(families.architecture(config)._replace(**options), dtype, loop=is_quantised(params))


def random(config, key: Array, dtype=jnp.float32, tokenizer=None) -> LanguageModel:
  """A model with random weights.

  Args:
    config: a transformers configuration.
    key: used once.
    dtype: of the parameters.
    tokenizer: a transformers tokenizer, or None.
  """
  return made(config, jax.jit(decoder.functions(families.architecture(config), jnp.dtype(dtype)).init)(key), tokenizer)


def save(model: LanguageModel, directory) -> None:
  """Writes config.json, safetensors (sharded above 4 GiB) and the tokenizer, as transformers reads them.

  Files of a model that was there before are removed where they would be read instead: an index, a single file, lists of tokens.
  """
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  arch = families.architecture(model.config)
  shards: list[dict[str, np.ndarray]] = [{}]
  for name, value in to_tensors(arch, model.params):
    if sum(x.nbytes for x in shards[-1].values()) + value.nbytes > SHARD_BYTES and shards[-1]:
      shards.append({})
    shards[-1][name] = np.ascontiguousarray(value)
  weights.save_shards(shards, directory)
  config = copy.deepcopy(model.config)
  config.architectures = [FAMILIES[arch.family].model]
  config.dtype = str(jnp.dtype(model.params["embedding"].dtype))
  config.save_pretrained(directory)
  if model.tokenizer is not None:
    for name in (
      "added_tokens.json",
      "special_tokens_map.json",
    ):  # of an earlier tokenizer, whose tokens would go first
      (directory / name).unlink(missing_ok=True)
    model.tokenizer.save_pretrained(directory)


def from_tensors(arch: Architecture, tensors: Mapping[str, weights.Tensor], dtype, source: str) -> Any:
  """Parameters, in NumPy arrays, from named tensors of a Hugging Face checkpoint, each read once, after all have been found to fit.

  Args:
    arch: what the checkpoint must fit.
    tensors: by their names there.
    dtype: of the parameters.
    source: what messages call the checkpoint.
  Raises:
    ValueError: see `load`.
  """
  shapes = flatten(decoder.abstract_params(arch, dtype))
  filled: dict[str, set[int]] = {name: set() for name in shapes}
  plan, problems = [], []
  ignored = FAMILIES[arch.family].ignored
  for theirs, tensor in tensors.items():
    name, key, layer = find(arch, theirs)
    if weights.IGNORED.match(name) or (key.targets == ("head",) and arch.tied):
      continue
    if not key.targets or key.targets[0] not in shapes:
      if not (ignored and re.match(ignored, theirs)):
        problems.append(f"{files.shown(name)} is unknown")
      continue
    targets = key.targets
    shape = tensor.shape[::-1] if key.transposed else tensor.shape
    fits = [
      (*shapes[target].shape[0 if layer is None else 1 : -1], len(targets) * shapes[target].shape[-1])
      for target in targets
    ]
    if layer is not None and layer >= arch.num_layers:
      problems.append(f"{files.shown(name)} lies beyond layer {arch.num_layers - 1}")
    elif (layer or 0) in filled[targets[0]]:
      problems.append(f"{name} is there twice, under two names")
    elif any(shape != one for one in fits):
      problems.append(f"{name} is {list(shape)}, which does not fit {targets[0]} {list(fits[0])}")
    else:
      plan.append((tensor, key, layer))
      for target in targets:
        filled[target].add(layer or 0)
  for name, done in filled.items():
    missing = sorted(set(range(arch.num_layers if name.startswith("layers.") else 1)) - done)
    if missing:
      some = f"{missing[:8]}" if len(missing) <= 8 else f"{missing[:8]} and {len(missing) - 8} more"
      problems.append(f"{name} is missing" + (f" in layers {some}" if name.startswith("layers.") else ""))
  if problems:
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise Refused(f"{source}: weights do not fit the configuration: {'; '.join(problems[:5])}{more}.")
  values = {name: np.empty(x.shape, x.dtype) for name, x in shapes.items()}
  for tensor, key, layer in plan:
    value = weights.guarded(f"{source}: a tensor", tensor.read)
    value = value.T if key.transposed else value
    for target, part in zip(key.targets, unfused(arch, key, value, [shapes[one].shape[-1] for one in key.targets])):
      kept = values[target][... if layer is None else layer]
      kept[...] = part.reshape(kept.shape).astype(kept.dtype)
  return unflatten(values)


def to_tensors(arch: Architecture, params) -> Iterator[tuple[str, np.ndarray]]:
  """The inverse of `from_tensors`."""
  values = flatten(params)
  for template, key in FAMILIES[arch.family].keys.items():
    if key.targets[0] not in values:
      continue
    parts = [np.asarray(dense(values[target])) for target in key.targets]
    for layer in range(arch.num_layers) if "{}" in template else [None]:
      one = fused(arch, key, [part if layer is None else part[layer] for part in parts])
      yield template.format(layer), one.T if key.transposed else one


def fused(arch: Architecture, key: Key, parts: list[np.ndarray]) -> np.ndarray:
  """Arrays beside each other along the last axis, as a checkpoint has them.

  Args:
    arch: its heads are read.
    key: whether the parts lie beside each other head by head.
    parts: [..., outputs] each.
  """
  grouped = [part.reshape(*part.shape[:-1], arch.num_heads if key.by_head else 1, -1) for part in parts]
  return np.concatenate(grouped, axis=-1).reshape(*parts[0].shape[:-1], -1)


def unfused(arch: Architecture, key: Key, value: np.ndarray, widths: list[int]) -> list[np.ndarray]:
  """The inverse of `fused`.

  Args:
    arch, key: as there.
    value: [..., sum of widths].
    widths: outputs of each part.
  """
  groups = arch.num_heads if key.by_head else 1
  grouped = value.reshape(*value.shape[:-1], groups, -1)
  parts = np.split(grouped, np.cumsum([width // groups for width in widths])[:-1], axis=-1)
  return [part.reshape(*value.shape[:-1], -1) for part in parts]


def num_params(params) -> int:
  """Numbers in all arrays; of one that is quantised those that it stands for."""
  return sum(math.prod(x.shape) for x in flatten(params).values())


def merge_adapters(arch: Architecture, params) -> Any:
  """Parameters of the same model without adapters: their products added to the kernels."""
  values = flatten(params)
  scale = arch.adapter_alpha / max(arch.adapter_rank, 1)
  for name in [name for name in values if name.endswith(".adapter_down")]:
    stem = name.removesuffix(".adapter_down")
    change = values.pop(name).astype(jnp.float32) @ values.pop(f"{stem}.adapter_up").astype(jnp.float32)
    kernel = dense(values[f"{stem}.kernel"])
    values[f"{stem}.kernel"] = (kernel.astype(jnp.float32) + scale * change).astype(kernel.dtype)
  return unflatten(values)


def split_adapters(params) -> tuple[Any, Any]:
  """(adapters, the rest) of one tree; `join` is the inverse."""
  values = flatten(params)
  mine = {name: x for name, x in values.items() if ".adapter_" in name}
  return unflatten(mine), unflatten({name: x for name, x in values.items() if name not in mine})


def join(a, b) -> Any:
  """One tree of two nested dicts without common leaves."""
  return unflatten(flatten(a) | flatten(b))


def find(arch: Architecture, name: str) -> tuple[str, Key, int | None]:
  """(name as in the table, key, layer) of the one template that a name of any release matches; no targets where none does."""
  family = FAMILIES[arch.family]
  for pattern, replacement in family.renames:
    name = re.sub(pattern, replacement, name)
  if not name.startswith((family.prefix, "lm_head.")):
    name = family.prefix + name
  match = re.fullmatch(r"(.*?\.)(\d{1,9})(\..*)", name, re.ASCII)
  template, layer = (f"{match[1]}{{}}{match[3]}", int(match[2])) if match else (name, None)
  return name, family.keys.get(template, Key(())), layer


def flatten(tree, prefix="") -> dict[str, Any]:
  """Leaves of nested dicts, by their names with dots; `unflatten` is the inverse."""
  out: dict[str, Any] = {}
  for name, value in tree.items():
    out |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
  return out


def unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dicts of leaves by their names with dots."""
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
    raise Refused(f"{files.shown(repository)}: no such directory or .gguf file, and not a hub id.")
  from huggingface_hub import HfApi, snapshot_download

  files_of = functools.partial(
    snapshot_download, repository, allow_patterns=["*.safetensors", "*.json", "tokenizer*", "merges.txt"]
  )
  _log.warning("%s: no such directory, asking the hub for a model of that name", repository)
  try:
    HfApi().model_info(repository, timeout=_HUB_SECONDS)  # a download waits for minutes where nobody answers
  except Exception as error:
    try:
      return Path(files_of(local_files_only=True))  # of an earlier download
    except Exception:
      raise Refused(
        f"{repository}: no such directory, and the hub does not give it ({weights.first_line(error)})."
      ) from None
  try:
    return Path(files_of())
  except Exception as error:
    raise Refused(f"{repository}: the hub does not give all of it ({weights.first_line(error)}).") from None
