"""One decoder for GPT-2, Llama and Gemma 2, in Flax NNX; pure functions of a pytree of parameters outside this file."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from collapse_jax.lm.sharding import constrain_rows
from collapse_jax.refused import Refused

__all__ = [
  "MLP",
  "Architecture",
  "Attention",
  "Block",
  "Cache",
  "Decoder",
  "Functions",
  "Linear",
  "Norm",
  "abstract_params",
  "architecture",
  "functions",
]

Array = jax.Array
Params = Any
NO_WINDOW = 1 << 30


class Architecture(NamedTuple):
  """What the three families differ in; hashable, so a static argument.

  Attributes:
    norm: "layer" (with bias), "rms", or "rms_offset" (weights stored as their difference from 1).
    positions: "learned" or "rope".
    inverse_frequencies: of the rotary embedding, head_dim / 2 of them, radians per position.
    rope_scale: factor of the rotary embedding's sine and cosine.
    gated: the MLP has a gate beside its up projection.
    windows: how many last positions a layer sees, itself included; one a layer.
    post_norms: norms after attention and MLP as well.
    soft_cap: of attention logits; 0: none.
    final_soft_cap: of output logits; 0: none.
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
  positions: str
  activation: str
  gated: bool
  attention_bias: bool
  output_bias: bool
  mlp_bias: bool
  tied: bool
  query_scale: float
  windows: tuple[int, ...]
  inverse_frequencies: tuple[float, ...] = ()
  rope_scale: float = 1.0
  post_norms: bool = False
  embedding_scale: float = 1.0
  soft_cap: float = 0.0
  final_soft_cap: float = 0.0
  initial_scale: float = 0.02
  adapter_rank: int = 0
  adapter_alpha: float = 0.0
  adapter_targets: tuple[str, ...] = ()


class Cache(NamedTuple):
  """Keys and values of past positions, a pair of [batch, kv heads, capacity, head_dim] a layer; `used` are filled."""

  layers: tuple[tuple[Array, Array], ...]
  used: Array


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "silu": jax.nn.silu,
  "gelu_new": jax.nn.gelu,
  "gelu_pytorch_tanh": jax.nn.gelu,
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "relu": jax.nn.relu,
}


class Norm(nnx.Module):
  """Layer or root-mean-square norm, computed in float32."""

  def __init__(self, arch: Architecture, dtype):
    self.arch = arch
    start = jnp.zeros if arch.norm == "rms_offset" else jnp.ones
    self.scale = nnx.Param(start((arch.dim,), dtype))
    self.bias = nnx.Param(jnp.zeros((arch.dim,), dtype)) if arch.norm == "layer" else None

  def __call__(self, x):
    arch, dtype = self.arch, x.dtype
    x = x.astype(jnp.float32)
    if arch.norm == "layer":
      x = x - jnp.mean(x, -1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + arch.norm_eps)
    scale = _along(self.scale[...].astype(jnp.float32), x)
    x = x * (1 + scale if arch.norm == "rms_offset" else scale)
    return (x if self.bias is None else x + _along(self.bias[...], x)).astype(dtype)


@jax.custom_vjp
def _matmul(x, kernel):
  """x [B, L, I] times kernel [I, O]. The kernel's gradient is a product in the kernel's own layout: left to JAX it comes
  out transposed, for which XLA on CPU first copies transposed activations."""
  return x @ kernel


def _matmul_backward(saved, dy):
  x, kernel = saved
  return (
    jax.lax.dot_general(dy, kernel, (((2,), (1,)), ((), ()))),
    jax.lax.dot_general(x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]), (((0,), (0,)), ((), ()))),
  )


_matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)


class Linear(nnx.Module):
  """x kernel + bias, and with adapters + (x down) up alpha / rank: the kernel stays as it is, shared by all runs."""

  def __init__(self, arch: Architecture, name: str, inputs: int, outputs: int, bias: bool, dtype, rngs: nnx.Rngs):
    self.arch = arch
    normal = lambda *shape: nnx.Param(arch.initial_scale * jax.random.normal(rngs.params(), shape, dtype))
    self.kernel = normal(inputs, outputs)
    self.bias = nnx.Param(jnp.zeros(outputs, dtype)) if bias else None
    adapted = arch.adapter_rank and name in arch.adapter_targets
    self.adapter_down = normal(inputs, arch.adapter_rank) if adapted else None
    self.adapter_up = nnx.Param(jnp.zeros((arch.adapter_rank, outputs), dtype)) if adapted else None

  def __call__(self, x):
    y = _matmul(x, self.kernel[...])
    if self.bias is not None:
      y = y + _along(self.bias[...], y)
    if self.adapter_down is None:
      return y
    assert self.adapter_up is not None
    change = (x @ self.adapter_down[...].astype(x.dtype)) @ self.adapter_up[...].astype(x.dtype)
    return y + change * (self.arch.adapter_alpha / self.arch.adapter_rank)


class Attention(nnx.Module):
  """Grouped-query attention over given keys."""

  def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
    self.arch = arch
    linear = functools.partial(Linear, arch, dtype=dtype, rngs=rngs)
    self.query = linear("query", arch.dim, arch.num_heads * arch.head_dim, arch.attention_bias)
    self.key = linear("key", arch.dim, arch.num_kv_heads * arch.head_dim, arch.attention_bias)
    self.value = linear("value", arch.dim, arch.num_kv_heads * arch.head_dim, arch.attention_bias)
    self.out = linear("out", arch.num_heads * arch.head_dim, arch.dim, arch.output_bias)

  def __call__(self, x, rotation, mask, past=None, used=0):
    """x [B, L, dim], mask [B or 1, L, keys]. `past`: keys and values with room for x at position `used`.

    Returns:
      [B, L, dim], and with `past` the new keys and values.
    """
    arch, (batch, length, _) = self.arch, x.shape
    heads = lambda y: y.reshape(batch, length, -1, arch.head_dim)
    query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
    if rotation is not None:
      query, key = _rotate(query, rotation), _rotate(key, rotation)
    if past is None and not arch.soft_cap:
      y = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None], scale=arch.query_scale)
    else:
      key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
      if past is not None:
        key, value = past = tuple(
          jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), used, axis=2)
          for old, new in zip(past, (key, value))
        )
      y = _attend(arch, query, key, value, mask)
    y = self.out(y.reshape(batch, length, -1))
    return y if past is None else (y, past)


class MLP(nnx.Module):
  """Feed-forward layer [..., dim] -> [..., dim], gated or not."""

  def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
    self.arch = arch
    linear = functools.partial(Linear, arch, bias=arch.mlp_bias, dtype=dtype, rngs=rngs)
    self.gate = linear("gate", arch.dim, arch.mlp_dim) if arch.gated else None
    self.up = linear("up", arch.dim, arch.mlp_dim)
    self.down = linear("down", arch.mlp_dim, arch.dim)

  def __call__(self, x):
    act = ACTIVATIONS[self.arch.activation]
    return self.down(act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x))


class Block(nnx.Module):
  """Attention and feed-forward layer, each with its residual connection and norms."""

  def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
    self.attention_norm, self.attention = Norm(arch, dtype), Attention(arch, dtype, rngs)
    self.post_attention_norm = Norm(arch, dtype) if arch.post_norms else None
    self.mlp_norm, self.mlp = Norm(arch, dtype), MLP(arch, dtype, rngs)
    self.post_mlp_norm = Norm(arch, dtype) if arch.post_norms else None

  def __call__(self, x, rotation, mask, past=None, used=0):
    after = lambda norm, y: y if norm is None else norm(y)
    y = self.attention(self.attention_norm(x), rotation, mask, past, used)
    if past is not None:
      y, past = y
    x = x + after(self.post_attention_norm, y)
    x = x + after(self.post_mlp_norm, self.mlp(self.mlp_norm(x)))
    return x if past is None else (x, past)


class Decoder(nnx.Module):
  """Layers are stacked along a leading axis and scanned over, so that compile time does not depend on their number."""

  def __init__(self, arch: Architecture, rngs: nnx.Rngs, dtype=jnp.float32):
    self.arch = arch
    normal = lambda *shape: nnx.Param(arch.initial_scale * jax.random.normal(rngs.params(), shape, dtype))
    self.embedding = normal(arch.vocab_size, arch.dim)
    self.position = normal(arch.max_length, arch.dim) if arch.positions == "learned" else None
    self.layers = nnx.vmap(lambda key: Block(arch, dtype, nnx.Rngs(key)))(
      jax.random.split(rngs.params(), arch.num_layers)
    )
    self.final_norm = Norm(arch, dtype)
    self.head = None if arch.tied else normal(arch.dim, arch.vocab_size)

  def __call__(
    self, tokens: Array, mask: Array | None = None, remat: bool = False, head: bool = True, mesh: Mesh | None = None
  ) -> Array:
    """Logits [B, L, V] float32 of whole sequences.

    Args:
      tokens: [B, L] int32.
      mask: [B, L] bool, False at padding, which may lie on either side; None: no padding.
      remat: compute a layer's activations again in the backward pass.
      head: False: the final hidden states [B, L, dim] instead.
      mesh: devices over which sequences are split.
    """
    batch, length = tokens.shape
    at = jnp.arange(length)
    visible = (at[None] <= at[:, None])[None]  # [1, L, L]
    place = jnp.broadcast_to(at[None], (batch, length))
    if mask is not None:
      mask = mask.astype(bool)
      # A padded query sees all before it: no softmax over nothing.
      visible = visible & (mask[:, None, :] | ~mask[:, :, None])
      place = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)  # as transformers counts positions under padding
    graph, layers = nnx.split(self.layers)
    narrow = min(self.arch.windows) < NO_WINDOW
    x, rotation = self.embed(constrain_rows(tokens, mesh), place)
    x = constrain_rows(x, mesh)

    def layer(x, inputs):
      parameters, window = inputs
      allowed = visible & (at[:, None] - at[None] < window)[None] if narrow else visible
      return constrain_rows(nnx.merge(graph, parameters)(x, rotation, allowed), mesh), None

    windows = jnp.asarray(np.asarray(self.arch.windows, np.int32))
    # Without remat only products are kept for the backward pass: reading the rest costs more than computing it again.
    keep = None if remat else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    x, _ = jax.lax.scan(jax.checkpoint(layer, policy=keep), x, (layers, windows))
    x = self.final_norm(x)
    return constrain_rows(self.logits(x), mesh) if head else x

  def decode(self, tokens: Array, cache: Cache, layers: list[Params], head: Array) -> tuple[Array, Cache]:
    """Logits [B, L, V] of tokens [B, L] that follow those in the cache, and the cache with them.

    Args:
      layers: parameters a layer. Read from the stack they would be copied at every step, which takes longer than their use.
      head: output layer [dim, V], so that tied embeddings are transposed once and not at every step.
    """
    batch, length = tokens.shape
    capacity = cache.layers[0][0].shape[2]
    place = cache.used + jnp.arange(length)
    x, rotation = self.embed(tokens, jnp.broadcast_to(place[None], (batch, length)))
    graph, _ = nnx.split(self.layers)
    back = place[:, None] - jnp.arange(capacity)[None]
    kept = []
    for parameters, window, past in zip(layers, self.arch.windows, cache.layers):
      visible = (back >= 0) & (back < window) if window < capacity else back >= 0
      x, past = nnx.merge(graph, parameters)(x, rotation, visible[None], past, cache.used)
      kept.append(past)
    return self.capped(jnp.matmul(self.final_norm(x), head, preferred_element_type=jnp.float32)), Cache(
      tuple(kept), cache.used + length
    )

  def decode_split(self, tokens: Array, cache: Cache, mesh: Mesh) -> tuple[Array, Cache]:
    """`decode` over devices: in a loop over layers, without which XLA gathers the weights of all of them at once.

    Args:
      cache: its one pair holds all layers, [layers, batch, kv heads, capacity, head_dim].
    """
    batch, length = tokens.shape
    graph, stacked = nnx.split(self.layers)
    place = cache.used + jnp.arange(length)
    x, rotation = self.embed(constrain_rows(tokens, mesh), jnp.broadcast_to(place[None], (batch, length)))
    back = place[:, None] - jnp.arange(cache.layers[0][0].shape[3])[None]

    def layer(x, inputs):
      parameters, window, past = inputs
      past = jax.tree.map(lambda one: constrain_rows(one, mesh), past)
      x, past = nnx.merge(graph, parameters)(x, rotation, ((back >= 0) & (back < window))[None], past, cache.used)
      return constrain_rows(x, mesh), past

    windows = jnp.asarray(np.asarray(self.arch.windows, np.int32))
    x, past = jax.lax.scan(layer, constrain_rows(x, mesh), (stacked, windows, cache.layers[0]))
    return constrain_rows(self.logits(self.final_norm(x)), mesh), Cache((past,), cache.used + length)

  def embed(self, tokens: Array, place: Array):
    """Embeddings [B, L, dim] of tokens at positions `place` [B, L], and the rotation of queries and keys."""
    arch, dtype = self.arch, self.embedding[...].dtype
    x = self.embedding[...][tokens] * jnp.asarray(arch.embedding_scale, dtype)
    if self.position is not None:
      return x + self.position[...][place], None
    angle = place[..., None] * jnp.asarray(arch.inverse_frequencies, jnp.float32)[None, None]
    return x, (arch.rope_scale * jnp.cos(angle)[:, :, None], arch.rope_scale * jnp.sin(angle)[:, :, None])

  def logits(self, x: Array) -> Array:
    """Hidden states [..., dim] -> logits [..., V], float32."""
    if self.head is None:
      out = jnp.einsum("...d,vd->...v", x, self.embedding[...], preferred_element_type=jnp.float32)
    else:
      out = jnp.einsum("...d,dv->...v", x, self.head[...], preferred_element_type=jnp.float32)
    return self.capped(out)

  def capped(self, out: Array) -> Array:
    cap = self.arch.final_soft_cap
    return cap * jnp.tanh(out / cap) if cap else out


def _along(vector, x):
  """A vector that broadcasts along the last axis of x."""
  return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _rotate(x, rotation):
  """Rotary embedding in the half-split layout of transformers."""
  cos, sin = rotation
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def _attend(arch, query, key, value, mask):
  """Attention of query [B, L, heads, H] to key and value [B, kv heads, S, H]; with soft caps (Gemma 2), which
  `jax.nn.dot_product_attention` does not have, and without transposing a cache."""
  batch, length, _, size = query.shape
  query = query.reshape(batch, length, arch.num_kv_heads, -1, size).transpose(0, 2, 3, 1, 4)
  logits = jnp.einsum("bkgqh,bksh->bkgqs", query, key, preferred_element_type=jnp.float32) * arch.query_scale
  if arch.soft_cap:
    logits = arch.soft_cap * jnp.tanh(logits / arch.soft_cap)
  logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
  share = jax.nn.softmax(logits, -1).astype(value.dtype)
  return jnp.einsum("bkgqs,bksh->bqkgh", share, value)


class Functions(NamedTuple):
  """The decoder as pure functions of nested dicts of arrays.

  Attributes:
    apply: (params, tokens, mask=None) -> logits [B, L, V].
    hidden: the same before the output layer, [B, L, dim].
    head: (params, hidden) -> logits.
    decoder: (params) -> step, with step(tokens [B, L], cache) -> logits [B, L, V], cache.
    cache: (batch, capacity) -> an empty Cache.
    init: (key) -> params.
  """

  apply: Callable[..., Array]
  hidden: Callable[..., Array]
  head: Callable[[Params, Array], Array]
  decoder: Callable[[Params], Callable[[Array, Cache], tuple[Array, Cache]]]
  cache: Callable[[int, int], Cache]
  init: Callable[[Array], Params]


@functools.cache
def functions(arch: Architecture, dtype=jnp.float32, remat: bool = False, mesh: Mesh | None = None) -> Functions:
  """Pure functions of a decoder; the same object for the same arguments, so that what calls them compiles once.

  Sequences are split over the devices of `mesh`, inside a jit.

  Args:
    arch: sizes and switches of the decoder.
    dtype: of the parameters.
    remat: compute activations again in the backward pass, for less memory.
    mesh: devices that sequences are split over; None: they are not split.
  """
  abstract = nnx.eval_shape(lambda: Decoder(arch, nnx.Rngs(0), dtype))
  graph, _ = nnx.split(abstract)

  def call(params, *arguments, **options):
    return nnx.merge(graph, params)(*arguments, **options)

  def cache(batch, capacity):
    used = jnp.zeros((), jnp.int32)
    if mesh is None:
      empty = jnp.zeros((batch, arch.num_kv_heads, capacity, arch.head_dim), dtype)
      return Cache(((empty, empty),) * arch.num_layers, used)
    empty = jnp.zeros((arch.num_layers, batch, arch.num_kv_heads, capacity, arch.head_dim), dtype)
    return Cache(((empty, empty),), used)

  def decoder(params):
    if mesh is not None:
      return lambda tokens, cache: nnx.merge(graph, params).decode_split(tokens, cache, mesh)
    layers = [jax.tree.map(operator.itemgetter(i), params["layers"]) for i in range(arch.num_layers)]
    head = params["embedding"].T if arch.tied else params["head"]
    return lambda tokens, cache: nnx.merge(graph, params).decode(tokens, cache, layers, head)

  return Functions(
    apply=lambda params, tokens, mask=None: call(params, tokens, mask, remat=remat, mesh=mesh),
    hidden=lambda params, tokens, mask=None: call(params, tokens, mask, remat=remat, head=False, mesh=mesh),
    head=lambda params, hidden: nnx.merge(graph, params).logits(hidden),
    decoder=decoder,
    cache=cache,
    init=lambda key: nnx.to_pure_dict(nnx.split(Decoder(arch, nnx.Rngs(key), dtype))[1]),
  )


def abstract_params(arch: Architecture, dtype=jnp.float32) -> Params:
  """Shapes and dtypes of the parameters; nothing is allocated."""
  return nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: Decoder(arch, nnx.Rngs(0), dtype)))[1])


def architecture(config) -> Architecture:
  """Of a transformers configuration: GPT-2, Llama or Gemma 2.

  Raises:
    ValueError: another architecture, or an option of it that is not supported.
  """
  readers = {"gpt2": _gpt2, "llama": _llama, "gemma2": _gemma2}
  if config.model_type not in readers:
    raise Refused(f"unknown architecture {config.model_type!r}; known: {', '.join(readers)}.")
  arch = readers[config.model_type](config)
  if arch.activation not in ACTIVATIONS:
    raise Refused(f"unknown activation {arch.activation!r}; known: {', '.join(ACTIVATIONS)}.")
  if arch.num_heads % arch.num_kv_heads:
    raise Refused(f"{arch.num_heads} attention heads cannot share {arch.num_kv_heads} of keys and values.")
  if arch.positions == "rope" and arch.head_dim % 2:
    raise Refused(f"the rotary embedding needs an even head_dim, got {arch.head_dim}.")
  return arch


def _gpt2(config):
  for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
    if getattr(config, name, False):
      raise Refused(f"GPT-2 with {name} is not supported.")
  head_dim = config.n_embd // config.n_head
  return Architecture(
    family="gpt2",
    vocab_size=config.vocab_size,
    dim=config.n_embd,
    num_layers=config.n_layer,
    num_heads=config.n_head,
    num_kv_heads=config.n_head,
    head_dim=head_dim,
    mlp_dim=config.n_inner or 4 * config.n_embd,
    max_length=config.n_positions,
    norm="layer",
    norm_eps=config.layer_norm_epsilon,
    positions="learned",
    activation=config.activation_function,
    gated=False,
    attention_bias=True,
    output_bias=True,
    mlp_bias=True,
    tied=config.tie_word_embeddings,
    query_scale=head_dim**-0.5 if config.scale_attn_weights else 1.0,
    windows=(NO_WINDOW,) * config.n_layer,
    initial_scale=config.initializer_range,
  )


def _rotary(config, head_dim):
  """(inverse frequencies, scale of sine and cosine), as transformers computes them."""
  rope = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
  kind = rope.get("rope_type", rope.get("type", "default"))
  theta = rope.get("rope_theta", getattr(config, "rope_theta", 10_000.0))
  inverse = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
  needed = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
  }
  for name in needed.get(str(kind), ()):
    if rope.get(name) is None:
      raise Refused(f"rope scaling {kind!r} needs {name}.")
  if kind == "linear":
    inverse = inverse / rope["factor"]
  elif kind == "llama3":  # long wavelengths are stretched, short ones kept, with a ramp between
    low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    if not low < high:
      raise Refused(f"rope scaling 'llama3' needs low_freq_factor below high_freq_factor, got {low} and {high}.")
    length = 2 * math.pi / inverse
    smooth = np.clip((original / length - low) / (high - low), 0.0, 1.0)
    inverse = (1 - smooth) * inverse / rope["factor"] + smooth * inverse
  elif kind != "default":
    raise Refused(f"rope scaling {kind!r} is not supported; known: default, linear, llama3.")
  return tuple(float(x) for x in inverse), 1.0


def _llama(config):
  head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
  inverse, scale = _rotary(config, head_dim)
  return Architecture(
    family="llama",
    vocab_size=config.vocab_size,
    dim=config.hidden_size,
    num_layers=config.num_hidden_layers,
    num_heads=config.num_attention_heads,
    num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
    head_dim=head_dim,
    mlp_dim=config.intermediate_size,
    max_length=config.max_position_embeddings,
    norm="rms",
    norm_eps=config.rms_norm_eps,
    positions="rope",
    activation=config.hidden_act,
    gated=True,
    attention_bias=config.attention_bias,
    output_bias=config.attention_bias,
    mlp_bias=config.mlp_bias,
    tied=config.tie_word_embeddings,
    query_scale=head_dim**-0.5,
    windows=(NO_WINDOW,) * config.num_hidden_layers,
    inverse_frequencies=inverse,
    rope_scale=scale,
    initial_scale=config.initializer_range,
  )


def _gemma2(config):
  inverse, scale = _rotary(config, config.head_dim)
  windows = tuple(config.sliding_window if kind == "sliding_attention" else NO_WINDOW for kind in config.layer_types)
  return Architecture(
    family="gemma2",
    vocab_size=config.vocab_size,
    dim=config.hidden_size,
    num_layers=config.num_hidden_layers,
    num_heads=config.num_attention_heads,
    num_kv_heads=config.num_key_value_heads,
    head_dim=config.head_dim,
    mlp_dim=config.intermediate_size,
    max_length=config.max_position_embeddings,
    norm="rms_offset",
    norm_eps=config.rms_norm_eps,
    positions="rope",
    activation=config.hidden_activation,
    gated=True,
    attention_bias=config.attention_bias,
    output_bias=config.attention_bias,
    mlp_bias=False,
    tied=config.tie_word_embeddings,
    query_scale=config.query_pre_attn_scalar**-0.5,
    windows=windows,
    inverse_frequencies=inverse,
    rope_scale=scale,
    post_norms=True,
    embedding_scale=config.hidden_size**0.5,
    soft_cap=config.attn_logit_softcapping or 0.0,
    final_soft_cap=config.final_logit_softcapping or 0.0,
    initial_scale=config.initializer_range,
  )
