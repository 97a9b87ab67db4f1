"""What models of each family are: a table of configuration readers and of names of weights. Imports no JAX.

A family is one line of `FAMILIES`; what it differs in from the others are fields of `Architecture`, and the decoder knows of
these only.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.refused import Refused

__all__ = ["FAMILIES", "NO_WINDOW", "Architecture", "Family", "Key", "Rope", "architecture"]

NO_WINDOW = 1 << 30
# Names of transformers -> those of the decoder's functions.
ACTIVATIONS = {
  "silu": "silu",
  "gelu": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_fast": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "relu": "relu",
}
ROPES = ("default", "linear", "llama3", "yarn")


class Rope(NamedTuple):
  """A rotary embedding (Su et al. 2104.09864) of the first 2 * len(inverse_frequencies) numbers of a head.

  Attributes:
    inverse_frequencies: radians per position of each pair; all of them 0: nothing is rotated.
    scale: factor of sine and cosine.
  """

  inverse_frequencies: tuple[float, ...]
  scale: float = 1.0


class Architecture(NamedTuple):
  """What decoders differ in; hashable, so a static argument.

  Attributes:
    max_length: positions at most, and those that a learned table has.
    norm: "layer" (with bias), "rms", or "rms_offset" (weights stored as their difference from 1).
    activation: a value of `ACTIVATIONS`.
    gated: the MLP has a gate beside its up projection.
    tied: the output layer is the embedding.
    query_scale: factor of attention logits.
    windows: how many last positions a layer sees, itself included; one a layer.
    ropes: one a layer; empty: positions have a learned table.
    position_offset: rows of that table before the one of position 0.
    pre_norms, post_norms: whether inputs, and outputs, of attention and MLP are normalised.
    qk_norm: queries and keys are normalised "head" by head, or over their whole "width"; "": they are not.
    residual: "sequential": attention, then MLP; "parallel": both of the same input; "shared": as normalised by one norm.
    head_bias: the output layer has a bias.
    embedding_scale: factor of embeddings.
    soft_cap: of attention logits; 0: none.
    final_soft_cap: of output logits; 0: none.
    initial_scale: standard deviation of fresh weights.
    adapter_rank: rank of low-rank adapters (Hu et al. 2106.09685) beside the kernels in `adapter_targets`; 0: none.
    adapter_alpha: an adapter's product counts with adapter_alpha / adapter_rank.
    adapter_targets: of query, key, value, out, gate, up, down.
  """

  family: str
  vocab_size: int
  dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  max_length: int
  norm: str
  norm_eps: float
  activation: str
  gated: bool
  attention_bias: bool
  output_bias: bool
  mlp_bias: bool
  tied: bool
  query_scale: float
  windows: tuple[int, ...]
  ropes: tuple[Rope, ...] = ()
  position_offset: int = 0
  pre_norms: bool = True
  post_norms: bool = False
  qk_norm: str = ""
  residual: str = "sequential"
  head_bias: bool = False
  embedding_scale: float = 1.0
  soft_cap: float = 0.0
  final_soft_cap: float = 0.0
  initial_scale: float = 0.02
  adapter_rank: int = 0
  adapter_alpha: float = 0.0
  adapter_targets: tuple[str, ...] = ()


class Key(NamedTuple):
  """Where a tensor of a Hugging Face checkpoint goes.

  Attributes:
    targets: names of ours, which lie beside each other in it along the last axis.
    transposed: kernels of `torch.nn.Linear` are [out, in], ours [in, out].
    by_head: the targets lie beside each other head by head.
  """

  targets: tuple[str, ...]
  transposed: bool = False
  by_head: bool = False


class Family(NamedTuple):
  """A line of the table.

  Attributes:
    read: a transformers configuration -> Architecture.
    keys: name in a Hugging Face checkpoint, {} being the layer, -> Key.
    model: class of transformers, for config.json.
    prefix: of all names but those of the output layer; base models are saved without it.
    renames: (pattern, replacement) of names in other releases.
    ignored: pattern of names that hold nothing of the text model.
  """

  read: Callable[[Any], Architecture]
  keys: Mapping[str, Key]
  model: str
  prefix: str
  renames: tuple[tuple[str, str], ...] = ()
  ignored: str = ""


def architecture(config) -> Architecture:
  """Of a transformers configuration.

  Raises:
    ValueError: another family, or an option of it that is not supported.
  """
  if config.model_type not in FAMILIES:
    raise Refused(f"unknown architecture {config.model_type!r}; known: {', '.join(FAMILIES)}.")
  arch = FAMILIES[config.model_type].read(config)
  if arch.num_heads % arch.num_kv_heads:
    raise Refused(f"{arch.num_heads} attention heads cannot share {arch.num_kv_heads} of keys and values.")
  if len({len(rope.inverse_frequencies) for rope in arch.ropes}) > 1:
    raise Refused("rotary embeddings of different parts of a head in different layers are not supported.")
  return arch


def _refuse(config, options: Mapping[str, Any], what: str) -> None:
  """Raises ValueError where an option is not as it must be."""
  for name, must in options.items():
    if (found := getattr(config, name, must) or False) != must:
      raise Refused(f"{what} with {name} {found} is not supported.")


def _activation(name: str) -> str:
  if name not in ACTIVATIONS:
    raise Refused(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}.")
  return ACTIVATIONS[name]


def _head_dim(dim: int, num_heads: int) -> int:
  if dim % num_heads:
    raise Refused(f"{num_heads} attention heads cannot share a width of {dim}.")
  return dim // num_heads


def _windows(kinds, window: int | None) -> tuple[int, ...]:
  """One a layer, by the kinds of layers that transformers has."""
  sizes: dict[str, Any] = {
    "full_attention": NO_WINDOW,
    "global": NO_WINDOW,
    "sliding_attention": window,
    "local": window,
  }
  for kind in kinds:
    if sizes.get(kind) is None:
      raise Refused(f"layers of kind {kind!r}{' without a window' if kind in sizes else ''} are not supported.")
  return tuple(sizes[kind] for kind in kinds)


def _rope(rope: Mapping[str, Any], head_dim: int, truncate: bool = True) -> Rope:
  """As transformers computes it."""
  kind, theta = rope.get("rope_type", rope.get("type", "default")), rope.get("rope_theta") or 10_000.0
  if kind not in ROPES:
    raise Refused(f"rope scaling {kind!r} is not supported; known: {', '.join(ROPES)}.")
  size = int(head_dim * (rope.get("partial_rotary_factor") or 1.0))
  if size % 2 or not 0 < size <= head_dim:
    raise Refused(f"the rotary embedding needs an even part of head_dim {head_dim}, got {size}.")
  needed = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
  }
  for name in needed.get(kind, ()):
    if rope.get(name) is None:
      raise Refused(f"rope scaling {kind!r} needs {name}.")
  inverse = 1.0 / theta ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
  scale = 1.0
  if kind == "linear":
    inverse = inverse / rope["factor"]
  elif kind == "llama3":  # long wavelengths are stretched, short ones kept, with a ramp between
    low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    if not low < high:
      raise Refused(f"rope scaling 'llama3' needs low_freq_factor below high_freq_factor, got {low} and {high}.")
    length = 2 * math.pi / inverse
    smooth = np.clip((original / length - low) / (high - low), 0.0, 1.0)
    inverse = (1 - smooth) * inverse / rope["factor"] + smooth * inverse
  elif kind == "yarn":  # the same by number of rotations (Peng et al. 2309.00071), and attention is sharper
    ends = [
      size * math.log(rope["original_max_position_embeddings"] / (turns * 2 * math.pi)) / (2 * math.log(theta))
      for turns in (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1)
    ]
    low, high = (math.floor(ends[0]), math.ceil(ends[1])) if truncate else ends
    low, high = max(low, 0), min(high, size - 1)
    high += 0.001 if low == high else 0
    ramp = np.clip((np.arange(size // 2, dtype=np.float32) - low) / (high - low), 0.0, 1.0)
    inverse = ramp * inverse / rope["factor"] + (1 - ramp) * inverse
    sharpness = lambda weight: 0.1 * weight * math.log(rope["factor"]) + 1.0 if rope["factor"] > 1 else 1.0
    both = rope.get("mscale") and rope.get("mscale_all_dim")
    scale = sharpness(rope["mscale"]) / sharpness(rope["mscale_all_dim"]) if both else sharpness(1.0)
    scale = scale if rope.get("attention_factor") is None else rope["attention_factor"]
  return Rope(tuple(float(x) for x in inverse), float(scale))


def _ropes(config, head_dim: int, kinds) -> tuple[Rope, ...]:
  """One a layer: the same for all, or one for each kind of layers."""
  given = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
  if not any(isinstance(given.get(kind), Mapping) for kind in kinds):
    given.setdefault("rope_theta", getattr(config, "rope_theta", None))
    return (_rope(given, head_dim, given.get("truncate", True)),) * len(kinds)
  for kind in kinds:
    if not isinstance(given.get(kind), Mapping):
      raise Refused(f"layers of kind {kind!r} have no rotary embedding.")
  return tuple(_rope(given[kind], head_dim) for kind in kinds)


def _rotary(config, **differences) -> Architecture:
  """Llama, and what differs from it in some fields."""
  head_dim = getattr(config, "head_dim", None) or _head_dim(config.hidden_size, config.num_attention_heads)
  kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
  bias = getattr(config, "attention_bias", False)
  fields: dict[str, Any] = {
    "norm": "rms",
    "norm_eps": getattr(config, "rms_norm_eps", None),
    "activation": _activation(getattr(config, "hidden_act", "silu")),
    "gated": True,
    "attention_bias": bias,
    "output_bias": bias,
    "mlp_bias": getattr(config, "mlp_bias", False),
    "query_scale": head_dim**-0.5,
  }
  return Architecture(
    family=config.model_type,
    vocab_size=config.vocab_size,
    dim=config.hidden_size,
    num_layers=config.num_hidden_layers,
    num_heads=config.num_attention_heads,
    num_kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
    head_dim=head_dim,
    mlp_dim=config.intermediate_size,
    max_length=config.max_position_embeddings,
    tied=config.tie_word_embeddings,
    windows=_windows(kinds, getattr(config, "sliding_window", None)),
    ropes=_ropes(config, head_dim, kinds),
    initial_scale=config.initializer_range,
    **fields | differences,
  )


def _learned(config, **differences) -> Architecture:
  """GPT-2, and others of its time: learned positions, layer norms, as many keys as queries."""
  dim, num_heads, num_layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
  head_dim = _head_dim(dim, num_heads)
  fields: dict[str, Any] = {
    "attention_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "query_scale": head_dim**-0.5,
    "windows": (NO_WINDOW,) * num_layers,
  }
  return Architecture(
    family=config.model_type,
    vocab_size=config.vocab_size,
    dim=dim,
    num_layers=num_layers,
    num_heads=num_heads,
    num_kv_heads=num_heads,
    head_dim=head_dim,
    max_length=config.max_position_embeddings,
    norm="layer",
    activation=_activation(config.activation_function),
    gated=False,
    tied=config.tie_word_embeddings,
    **fields | differences,
  )


def _gpt2(config):
  _refuse(config, {"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}, "GPT-2")
  return _learned(
    config,
    mlp_dim=config.n_inner or 4 * config.n_embd,
    norm_eps=config.layer_norm_epsilon,
    initial_scale=config.initializer_range,
    **{} if config.scale_attn_weights else {"query_scale": 1.0},
  )


def _gpt_neo(config):
  return _learned(
    config,
    mlp_dim=config.intermediate_size or 4 * config.hidden_size,
    norm_eps=config.layer_norm_epsilon,
    attention_bias=False,
    query_scale=1.0,
    windows=_windows(config.attention_layers, config.window_size),
    initial_scale=config.initializer_range,
  )


def _opt(config):
  _refuse(
    config,
    {
      "do_layer_norm_before": True,  # OPT of 350 million parameters
      "word_embed_proj_dim": config.hidden_size,
      "_remove_final_layer_norm": False,
      "layer_norm_elementwise_affine": True,
    },
    "OPT",
  )
  return _learned(
    config,
    mlp_dim=config.ffn_dim,
    norm_eps=1e-5,
    attention_bias=config.enable_bias,
    output_bias=config.enable_bias,
    mlp_bias=config.enable_bias,
    position_offset=2,
    initial_scale=config.init_std,
  )


def _gemma(config, **differences):
  _refuse(config, {"use_bidirectional_attention": False}, "Gemma")
  return _rotary(
    config,
    norm="rms_offset",
    activation=_activation(config.hidden_activation),
    query_scale=config.query_pre_attn_scalar**-0.5,
    post_norms=True,
    embedding_scale=config.hidden_size**0.5,
    soft_cap=config.attn_logit_softcapping or 0.0,
    final_soft_cap=config.final_logit_softcapping or 0.0,
    **differences,
  )


def _gemma3(config):
  # transformers has this option, and computes without it.
  return _gemma(config, qk_norm="head")._replace(soft_cap=0.0)


def _mistral(config):
  kind = "full_attention" if config.sliding_window is None else "sliding_attention"
  arch = _rotary(config, attention_bias=False, output_bias=False, mlp_bias=False)
  return arch._replace(windows=_windows([kind] * arch.num_layers, config.sliding_window))


def _smollm3(config):
  arch = _rotary(config)
  turned = config.no_rope_layers
  if len(turned) < arch.num_layers:
    raise Refused(f"no_rope_layers names {len(turned)} of {arch.num_layers} layers.")
  still = lambda rope: rope._replace(inverse_frequencies=(0.0,) * len(rope.inverse_frequencies), scale=1.0)
  return arch._replace(ropes=tuple(rope if one else still(rope) for rope, one in zip(arch.ropes, turned)))


def _gpt_neox(config):
  return _rotary(
    config,
    norm="layer",
    norm_eps=config.layer_norm_eps,
    gated=False,
    mlp_bias=True,
    residual="parallel" if config.use_parallel_residual else "sequential",
  )


def _phi(config):
  return _rotary(
    config,
    norm="layer",
    norm_eps=config.layer_norm_eps,
    gated=False,
    attention_bias=True,
    output_bias=True,
    mlp_bias=True,
    head_bias=True,
    residual="shared",
    qk_norm="head" if config.qk_layernorm else "",
  )


def _keys(
  outside: Mapping[str, str], layers: str, inside: Mapping[str, str], transposed: bool = True, by_head: bool = False
) -> dict[str, Key]:
  """A table of names from those of modules.

  Args:
    outside: module there -> ours, outside of layers.
    layers: where layers lie.
    inside: module there -> ours, in a layer; several of ours, with blanks between, where they are fused.
    transposed: kernels lie as in `torch.nn.Linear`.
    by_head: so lie those that are fused.
  """
  modules: list[tuple[str, tuple[str, ...]]] = [(theirs, (ours,)) for theirs, ours in outside.items()]
  for theirs, several in inside.items():
    modules.append((f"{layers}.{{}}.{theirs}", tuple(f"layers.{ours}" for ours in several.split())))
  keys = {}
  for theirs, parts in modules:
    if parts[0] in ("embedding", "position"):
      keys[f"{theirs}.weight"] = Key(parts)
    elif parts[0] == "head":
      keys[f"{theirs}.weight"], keys[f"{theirs}.bias"] = Key(parts, transposed=True), Key(("head_bias",))
    elif parts[0].endswith("norm"):
      keys[f"{theirs}.weight"], keys[f"{theirs}.bias"] = Key((f"{parts[0]}.scale",)), Key((f"{parts[0]}.bias",))
    else:
      leaves = lambda name: tuple(f"{part}.{name}" for part in parts)  # noqa: B023
      keys[f"{theirs}.weight"] = Key(leaves("kernel"), transposed, by_head and len(parts) > 1)
      keys[f"{theirs}.bias"] = Key(leaves("bias"), by_head=by_head and len(parts) > 1)
  return keys


_QUERY_KEY_VALUE = "attention.query attention.key attention.value"
_INPUTS = {
  "self_attn.q_proj": "attention.query",
  "self_attn.k_proj": "attention.key",
  "self_attn.v_proj": "attention.value",
}
_LLAMA = {
  **_INPUTS,
  "self_attn.o_proj": "attention.out",
  "mlp.gate_proj": "mlp.gate",
  "mlp.up_proj": "mlp.up",
  "mlp.down_proj": "mlp.down",
  "input_layernorm": "attention_norm",
  "post_attention_layernorm": "mlp_norm",
}
_QK_NORM = {"self_attn.q_norm": "attention.query_norm", "self_attn.k_norm": "attention.key_norm"}
_GEMMA = _LLAMA | {
  "post_attention_layernorm": "post_attention_norm",
  "pre_feedforward_layernorm": "mlp_norm",
  "post_feedforward_layernorm": "post_mlp_norm",
}
_GPT = {
  "transformer.wte": "embedding",
  "transformer.wpe": "position",
  "transformer.ln_f": "final_norm",
  "lm_head": "head",
}
_rotary_keys = functools.partial(
  _keys, {"model.embed_tokens": "embedding", "model.norm": "final_norm", "lm_head": "head"}, "model.layers"
)

FAMILIES = {
  "gpt2": Family(
    _gpt2,
    _keys(
      _GPT,
      "transformer.h",
      {
        "ln_1": "attention_norm",
        "attn.c_attn": _QUERY_KEY_VALUE,
        "attn.c_proj": "attention.out",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
      },
      transposed=False,
    ),
    "GPT2LMHeadModel",
    "transformer.",
  ),
  "llama": Family(_rotary, _rotary_keys(_LLAMA), "LlamaForCausalLM", "model."),
  "gemma2": Family(_gemma, _rotary_keys(_GEMMA), "Gemma2ForCausalLM", "model."),
  "qwen2": Family(
    functools.partial(_rotary, attention_bias=True, output_bias=False, mlp_bias=False),
    _rotary_keys(_LLAMA),
    "Qwen2ForCausalLM",
    "model.",
  ),
  "mistral": Family(_mistral, _rotary_keys(_LLAMA), "MistralForCausalLM", "model."),
  "opt": Family(
    _opt,
    _keys(
      {
        "model.decoder.embed_tokens": "embedding",
        "model.decoder.embed_positions": "position",
        "model.decoder.final_layer_norm": "final_norm",
        "lm_head": "head",
      },
      "model.decoder.layers",
      {
        **_INPUTS,
        "self_attn.out_proj": "attention.out",
        "self_attn_layer_norm": "attention_norm",
        "fc1": "mlp.up",
        "fc2": "mlp.down",
        "final_layer_norm": "mlp_norm",
      },
    ),
    "OPTForCausalLM",
    "model.",
  ),
  "gemma3_text": Family(
    _gemma3,
    _rotary_keys(_GEMMA | _QK_NORM),
    "Gemma3ForCausalLM",
    "model.",
    renames=(
      (r"^(model\.)?language_model\.lm_head\.", "lm_head."),
      (r"^(model\.)?language_model\.(model\.)?", "model."),
    ),
    ignored=r"(model\.)?(vision_tower|multi_modal_projector)\.",
  ),
  "qwen3": Family(
    functools.partial(_rotary, qk_norm="head"), _rotary_keys(_LLAMA | _QK_NORM), "Qwen3ForCausalLM", "model."
  ),
  "olmo2": Family(
    functools.partial(_rotary, pre_norms=False, post_norms=True, qk_norm="width"),
    _rotary_keys(_GEMMA | _QK_NORM),
    "Olmo2ForCausalLM",
    "model.",
  ),
  "olmo3": Family(
    functools.partial(_rotary, pre_norms=False, post_norms=True, qk_norm="width"),
    _rotary_keys(_GEMMA | _QK_NORM),
    "Olmo3ForCausalLM",
    "model.",
  ),
  "smollm3": Family(_smollm3, _rotary_keys(_LLAMA), "SmolLM3ForCausalLM", "model."),
  "gpt_neox": Family(
    _gpt_neox,
    _keys(
      {"gpt_neox.embed_in": "embedding", "gpt_neox.final_layer_norm": "final_norm", "lm_head": "head"},
      "gpt_neox.layers",
      {
        "input_layernorm": "attention_norm",
        "attention.query_key_value": _QUERY_KEY_VALUE,
        "attention.dense": "attention.out",
        "post_attention_layernorm": "mlp_norm",
        "mlp.dense_h_to_4h": "mlp.up",
        "mlp.dense_4h_to_h": "mlp.down",
      },
      by_head=True,
    ),
    "GPTNeoXForCausalLM",
    "gpt_neox.",
    renames=((r"^embed_out\.", "lm_head."),),
  ),
  "phi": Family(
    _phi,
    _keys(
      {"model.embed_tokens": "embedding", "model.final_layernorm": "final_norm", "lm_head": "head"},
      "model.layers",
      {
        **_INPUTS,
        "self_attn.dense": "attention.out",
        "self_attn.q_layernorm": "attention.query_norm",
        "self_attn.k_layernorm": "attention.key_norm",
        "mlp.fc1": "mlp.up",
        "mlp.fc2": "mlp.down",
        "input_layernorm": "attention_norm",
      },
    ),
    "PhiForCausalLM",
    "model.",
  ),
  "gpt_neo": Family(
    _gpt_neo,
    _keys(
      _GPT,
      "transformer.h",
      {
        "ln_1": "attention_norm",
        "attn.attention.q_proj": "attention.query",
        "attn.attention.k_proj": "attention.key",
        "attn.attention.v_proj": "attention.value",
        "attn.attention.out_proj": "attention.out",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
      },
    ),
    "GPTNeoForCausalLM",
    "transformer.",
  ),
}
