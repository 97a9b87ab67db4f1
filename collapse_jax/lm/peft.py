"""Low-rank adapters as files of the library PEFT: adapter_config.json and adapter_model.safetensors. Runs no foreign code."""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from collapse_jax.data import files
from collapse_jax.lm import checkpoint, decoder, families, weights
from collapse_jax.lm.families import FAMILIES, Architecture, Key
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks
from collapse_jax.vocabulary import LORA_TARGETS

__all__ = ["Adapters", "adapted", "load_adapters", "save_adapters"]

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
_NAME = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])(?:\.default)?\.weight")


class Adapters(NamedTuple):
  """Low-rank adapters instead of full fine-tuning (LoRA, Hu et al. 2106.09685): kernel + (alpha / rank) down up.

  Attributes:
    rank: columns of `down`, rows of `up`.
    alpha: their product counts alpha / rank times.
    targets: kernels that have adapters, of query, key, value, out, gate, up, down.
    start: weights to begin with, such as those of `lm.load_adapters`; None: fresh ones, whose product is 0.
  """

  rank: int = 8
  alpha: float = 16.0
  targets: tuple[str, ...] = LORA_TARGETS
  start: Any = None


def adapted(arch: Architecture, adapters: Adapters) -> Architecture:
  """An architecture whose kernels have these adapters."""
  return arch._replace(
    adapter_rank=adapters.rank, adapter_alpha=float(adapters.alpha), adapter_targets=tuple(adapters.targets)
  )


def save_adapters(config, adapters: Adapters, directory, base: str = "") -> None:
  """Writes adapters as PEFT reads them. Where kernels are fused there, so are their adapters: block by block, with a rank each.

  Args:
    config: of transformers, of the base.
    adapters: their weights are `start`.
    directory: is made where it is not there.
    base: path or hub id of the base, for PEFT.
  Raises:
    OSError: the files cannot be written.
  """
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  arch = families.architecture(config)
  values, shapes = checkpoint.flatten(adapters.start), checkpoint.flatten(decoder.abstract_params(arch))
  tensors: dict[str, np.ndarray] = {}
  ranks: dict[str, int] = {}
  for template, key in _modules(arch).items():
    stems = [target.removesuffix(".kernel") for target in key.targets]
    if not any(f"{stem}.adapter_down" in values for stem in stems):
      continue
    inputs = shapes[f"{stems[0]}.kernel"].shape[1]
    blank = np.zeros((arch.num_layers, inputs, adapters.rank), np.float32)
    down = np.concatenate([np.asarray(values.get(f"{stem}.adapter_down", blank)) for stem in stems], axis=-1)
    ups = []
    for i, stem in enumerate(stems):
      up = np.zeros((arch.num_layers, down.shape[-1], shapes[f"{stem}.kernel"].shape[-1]), down.dtype)
      up[:, i * adapters.rank : (i + 1) * adapters.rank] = values.get(f"{stem}.adapter_up", 0)
      ups.append(up)
    up = checkpoint.fused(arch, key, ups)
    for layer in range(arch.num_layers):
      name = PREFIX + template.removesuffix(".weight").format(layer)
      tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(down[layer].T)
      tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(up[layer].T)
    ranks[template.removesuffix(".weight").split("{}.")[1]] = down.shape[-1]
  scale = adapters.alpha / adapters.rank
  about = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": base,
    "r": adapters.rank,
    "lora_alpha": adapters.alpha,
    "lora_dropout": 0.0,
    "bias": "none",
    "target_modules": sorted(ranks),
    "rank_pattern": {name: rank for name, rank in ranks.items() if rank != adapters.rank},
    "alpha_pattern": {name: scale * rank for name, rank in ranks.items() if rank != adapters.rank},
    "fan_in_fan_out": not all(key.transposed for key in _modules(arch).values()),
    "inference_mode": True,
  }
  weights.save_tensors(tensors, directory / WEIGHTS)
  chunks.write(directory / CONFIG, json.dumps(about, indent=2).encode())


def load_adapters(directory, config) -> Adapters:
  """Reads adapters that `save_adapters`, or PEFT, has written.

  Args:
    directory: with adapter_config.json and adapter_model.safetensors.
    config: of transformers, of the base that they are for.
  Returns:
    rank, alpha and targets as the files say, the weights in float32 as `start`.
  Raises:
    Refused: files that are missing or damaged, of another model, or of adapters of another kind.
  """
  directory = Path(files.home(directory))
  shown = files.shown(directory)
  for name in (CONFIG, WEIGHTS):
    if not (directory / name).is_file():
      raise Refused(f"{shown}: has no {name}.")
  about, tensors = files.read_json(directory / CONFIG), weights.tensors_of(directory / WEIGHTS)
  _check_kind(shown, about)
  arch = families.architecture(config)
  shapes = checkpoint.flatten(decoder.abstract_params(arch))
  found: dict[str, list[Any]] = {}
  scales = set()
  for name, tensor in tensors.items():
    match = _NAME.fullmatch(name)
    _, key, layer = checkpoint.find(arch, f"{match[1]}.weight") if match else ("", Key(()), None)
    if match is None or layer is None or not key.targets or not key.targets[0].endswith(".kernel"):
      raise Refused(f"{shown}: {files.shown(name)} is no adapter of a kernel of such a model.")
    widths = [shapes[target].shape[-1] for target in key.targets]
    size = shapes[key.targets[0]].shape[1] if match[2] == "A" else sum(widths)
    if layer >= arch.num_layers or len(tensor.shape) != 2 or tensor.shape[match[2] == "A"] != size:
      raise Refused(f"{shown}: {files.shown(name)} {list(tensor.shape)} does not fit the model.")
    value = weights.guarded(f"{shown}: a tensor", tensor.read).astype(np.float32)
    rank = value.shape[match[2] == "B"]
    alpha = _of_module(about, "alpha_pattern", match[1], about["lora_alpha"])
    scales.add(alpha / (math.sqrt(rank) if about.get("use_rslora") else rank))
    parts = [value.T] * len(widths) if match[2] == "A" else checkpoint.unfused(arch, key, value.T, widths)
    own = len(widths) > 1 and rank == len(widths) * about["r"]  # fused by `save_adapters`: a block each
    for i, (target, part) in enumerate(zip(key.targets, parts)):
      part = np.split(part, len(widths), axis=match[2] == "A")[i] if own else part
      leaf = "adapter_down" if match[2] == "A" else "adapter_up"
      found.setdefault(target.replace("kernel", leaf), [None] * arch.num_layers)[layer] = part
  ranks = {
    one.shape[-1 if name.endswith("down") else 0] for name, each in found.items() for one in each if one is not None
  }
  stems = {name.rpartition(".")[0] for name in found}
  for stem in [one for one in stems if not any(np.any(x) for x in found.get(f"{one}.adapter_down", []))]:
    for leaf in ("adapter_down", "adapter_up"):  # a block that `save_adapters` left blank
      found.pop(f"{stem}.{leaf}", None)
    stems.remove(stem)
  whole = all(f"{stem}.{leaf}" in found for stem in stems for leaf in ("adapter_down", "adapter_up"))
  if not whole or any(one is None for each in found.values() for one in each):
    raise Refused(f"{shown}: adapters are missing in some layers.")
  if len(ranks) != 1 or max(scales) - min(scales) > 1e-6 * max(scales):
    raise Refused(f"{shown}: adapters of several ranks, or scales, are not read.")
  (rank,) = ranks
  targets = {stem.rpartition(".")[2] for stem in stems}
  start = checkpoint.unflatten({name: jnp.asarray(np.stack(each)) for name, each in found.items()})
  return Adapters(rank, max(scales) * rank, tuple(one for one in LORA_TARGETS if one in targets), start)


def _modules(arch: Architecture) -> dict[str, Key]:
  """Those kernels of layers that may have adapters, by their names in a checkpoint."""
  keys = FAMILIES[arch.family].keys.items()
  ours = lambda key: key.targets[0].removesuffix(".kernel").rpartition(".")[2]
  return {name: key for name, key in keys if "{}" in name and name.endswith(".weight") and ours(key) in LORA_TARGETS}


def _check_kind(shown: str, about: dict[str, Any]) -> None:
  """Raises Refused for what is no plain LoRA."""
  kind = about.get("peft_type")
  if kind != "LORA":
    raise Refused(f"{shown}: adapters of type {files.shown(kind, 40)} are not read, only LORA.")
  for name in (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "use_qalora",
    "trainable_token_indices",
    "target_parameters",
  ):
    if about.get(name):
      raise Refused(f"{shown}: adapters with {name} are not read.")
  if about.get("bias", "none") != "none":
    raise Refused(f"{shown}: adapters with biases are not read.")
  numbers = about.get("r"), about.get("lora_alpha")
  if not all(isinstance(one, int | float) and 0 < one < 1 << 24 for one in numbers):
    raise Refused(f"{shown}: r and lora_alpha must be numbers above 0.")


def _of_module(about: dict[str, Any], pattern: str, module: str, usual: float) -> float:
  """What a table of patterns says of a module, as PEFT looks it up: by the end of its name."""
  table = about.get(pattern) or {}
  return next((value for name, value in table.items() if module.endswith(f".{name}") or module == name), usual)
