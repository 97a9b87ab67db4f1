"""One decoder for all families, in Flax NNX; pure functions of a pytree of parameters outside this file."""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from collapse_jax.lm.families import Architecture
from collapse_jax.lm.quantisation import dense
from collapse_jax.lm.sharding import agreed, constrain_rows

__all__ = [
  "MLP",
  "Attention",
  "Block",
  "Cache",
  "Decoder",
  "Functions",
  "Linear",
  "Norm",
  "Sight",
  "abstract_params",
  "functions",
]

Array = jax.Array
Params = Any


class Cache(NamedTuple):
  """Keys [batch, kv heads, head_dim, capacity] and values [batch, kv heads, capacity, head_dim] of each layer; `used` positions
  are filled, [] or [batch]. Products with one query are twice as fast on CPU where positions come last in keys."""

  layers: tuple[tuple[Array, Array], ...]
  used: Array


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "silu": jax.nn.silu,
  "gelu_tanh": jax.nn.gelu,
  "gelu": functools.partial(jax.nn.gelu, approximate=False),
  "relu": jax.nn.relu,
}


class Norm(nnx.Module):
  """Layer or root-mean-square norm, computed in float32."""

  def __init__(self, arch: Architecture, size: int, dtype):
    self.arch, self.size = arch, size
    start = jnp.zeros if arch.norm == "rms_offset" else jnp.ones
    self.scale = nnx.Param(start((size,), dtype))
    self.bias = nnx.Param(jnp.zeros((size,), dtype)) if arch.norm == "layer" else None

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
  """x kernel + bias, and with adapters + (x down) up alpha / rank: the kernel, maybe quantised, is shared by all runs."""

  def __init__(self, arch: Architecture, name: str, inputs: int, outputs: int, bias: bool, dtype, rngs: nnx.Rngs):
    self.arch = arch
    normal = lambda *shape: nnx.Param(arch.initial_scale * jax.random.normal(rngs.params(), shape, dtype))
    self.kernel = normal(inputs, outputs)
    self.bias = nnx.Param(jnp.zeros(outputs, dtype)) if bias else None
    adapted = arch.adapter_rank and name in arch.adapter_targets
    self.adapter_down = normal(inputs, arch.adapter_rank) if adapted else None
    self.adapter_up = nnx.Param(jnp.zeros((arch.adapter_rank, outputs), dtype)) if adapted else None

  def __call__(self, x):
    y = _matmul(x, dense(self.kernel.get_value()))
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
    normed = lambda num: Norm(arch, arch.head_dim * (1 if arch.qk_norm == "head" else num), dtype)
    self.query_norm = normed(arch.num_heads) if arch.qk_norm else None
    self.key_norm = normed(arch.num_kv_heads) if arch.qk_norm else None

  def __call__(self, x, rotation, seen, past=None, used=0):
    """x [B, L, dim]. `past`: keys and values with room for x at position `used`; without it the keys are those of x.

    Args:
      seen: with `past` which keys each of x sees, [B or 1, L, keys] bool; without it a `Sight`.
    Returns:
      [B, L, dim], and with `past` the new keys and values.
    """
    arch, (batch, length, _) = self.arch, x.shape
    heads = lambda y: y.reshape(batch, length, -1, arch.head_dim)
    normed = lambda norm, y: y if norm is None else norm(y.reshape(batch, length, -1, norm.size))
    query, key, value = self.query(x), self.key(x), heads(self.value(x))
    query, key = heads(normed(self.query_norm, query)), heads(normed(self.key_norm, key))
    if rotation is not None:
      query, key = _rotate(query, rotation), _rotate(key, rotation)
    if past is None:
      y = _attend_causally(arch, query, key, value, seen)
    else:
      new = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
      alike = [functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=axis) for axis in (-1, -2)]
      puts = map(jax.vmap, alike) if jnp.ndim(used) else alike
      key, value = past = tuple(put(old, new.astype(old.dtype), used) for put, old, new in zip(puts, past, new))
      y = _attend(arch, query, key, value, seen)
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
  """Attention and feed-forward layer, one after the other or beside it, with residual connections and norms."""

  def __init__(self, arch: Architecture, dtype, rngs: nnx.Rngs):
    self.arch = arch
    norm = lambda present: Norm(arch, arch.dim, dtype) if present else None
    self.attention_norm, self.attention = norm(arch.pre_norms), Attention(arch, dtype, rngs)
    self.post_attention_norm = norm(arch.post_norms)
    self.mlp_norm, self.mlp = norm(arch.pre_norms and arch.residual != "shared"), MLP(arch, dtype, rngs)
    self.post_mlp_norm = norm(arch.post_norms)

  def __call__(self, x, rotation, seen, past=None, used=0):
    normed = lambda norm, y: y if norm is None else norm(y)
    inputs = normed(self.attention_norm, x)
    y = self.attention(inputs, rotation, seen, past, used)
    if past is not None:
      y, past = y
    after = x + normed(self.post_attention_norm, y)
    if self.arch.residual != "shared":
      inputs = normed(self.mlp_norm, after if self.arch.residual == "sequential" else x)
    x = after + normed(self.post_mlp_norm, self.mlp(inputs))
    return x if past is None else (x, past)


class Decoder(nnx.Module):
  """Layers are stacked along a leading axis and scanned over, so that compile time does not depend on their number."""

  def __init__(self, arch: Architecture, rngs: nnx.Rngs, dtype=jnp.float32):
    self.arch = arch
    normal = lambda *shape: nnx.Param(arch.initial_scale * jax.random.normal(rngs.params(), shape, dtype))
    self.embedding = normal(arch.vocab_size, arch.dim)
    self.position = None if arch.ropes else normal(arch.max_length + arch.position_offset, arch.dim)
    self.layers = nnx.vmap(lambda key: Block(arch, dtype, nnx.Rngs(key)))(
      jax.random.split(rngs.params(), arch.num_layers)
    )
    self.final_norm = Norm(arch, arch.dim, dtype)
    self.head = None if arch.tied else normal(arch.dim, arch.vocab_size)
    self.head_bias = nnx.Param(jnp.zeros(arch.vocab_size, dtype)) if arch.head_bias else None

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
    place = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
    if mask is not None:
      mask = mask.astype(bool)
      place = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)  # as transformers counts positions under padding
      # A padded query sees all before it: no softmax over nothing.
      mask = mask[:, None, :] | ~mask[:, :, None]
    graph, layers = nnx.split(self.layers)
    windows = [min(window, length) for window in self.arch.windows]
    narrow = tuple(sorted(set(windows)))
    x, rotations = self.embed(constrain_rows(tokens, mesh), place)
    x = constrain_rows(x, mesh)

    def layer(x, inputs):
      parameters, which, kind = inputs
      seen = Sight(narrow, which, mask)
      return constrain_rows(nnx.merge(graph, parameters)(x, _chosen(rotations, kind), seen), mesh), None

    # Without remat only products are kept for the backward pass: reading the rest costs more than computing it again.
    keep = None if remat else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    which = jnp.asarray([narrow.index(window) for window in windows], jnp.int32)
    x, _ = jax.lax.scan(jax.checkpoint(layer, policy=keep), x, (layers, which, self.about_layers()[1]))
    x = self.final_norm(x)
    return constrain_rows(self.logits(x), mesh, -1) if head else x

  def decode(self, tokens: Array, cache: Cache, layers: list[Params], head: Array) -> tuple[Array, Cache]:
    """Logits [B, L, V] of tokens [B, L] that follow those in the cache, and the cache with them.

    Args:
      layers: parameters a layer. Read from the stack they would be copied at every step, which takes longer than their use.
      head: output layer [dim, V], so that tied embeddings are transposed once and not at every step.
    """
    batch, length = tokens.shape
    capacity = cache.layers[0][1].shape[2]
    place = cache.used.reshape(-1, 1) + jnp.arange(length)[None]
    x, rotations = self.embed(tokens, jnp.broadcast_to(place, (batch, length)))
    graph, _ = nnx.split(self.layers)
    back = place[:, :, None] - jnp.arange(capacity)[None, None]
    kept = []
    for parameters, window, kind, past in zip(layers, self.arch.windows, _kinds(self.arch)[1], cache.layers):
      visible = (back >= 0) & (back < window) if window < capacity else back >= 0
      x, past = nnx.merge(graph, parameters)(x, rotations[kind] if rotations else None, visible, past, cache.used)
      kept.append(past)
    out = jnp.matmul(self.final_norm(x), head, preferred_element_type=jnp.float32)
    return self.finished(out), Cache(tuple(kept), cache.used + length)

  def decode_in_loop(self, tokens: Array, cache: Cache, mesh: Mesh | None) -> tuple[Array, Cache]:
    """`decode` in a loop over layers, without which XLA gathers, or dequantises, the weights of all of them at once.

    Args:
      cache: its one pair holds all layers, which are the first axis.
    """
    batch, length = tokens.shape
    graph, stacked = nnx.split(self.layers)
    place = cache.used.reshape(-1, 1) + jnp.arange(length)[None]
    x, rotations = self.embed(constrain_rows(tokens, mesh), jnp.broadcast_to(place, (batch, length)))
    back = place[:, :, None] - jnp.arange(cache.layers[0][1].shape[3])[None, None]

    def layer(x, inputs):
      parameters, window, kind, past = inputs
      past = jax.tree.map(lambda one: constrain_rows(one, mesh, 1), past)
      visible = (back >= 0) & (back < window)
      x, past = nnx.merge(graph, parameters)(x, _chosen(rotations, kind), visible, past, cache.used)
      return constrain_rows(x, mesh), past

    x, past = jax.lax.scan(layer, constrain_rows(x, mesh), (stacked, *self.about_layers(), cache.layers[0]))
    return constrain_rows(self.logits(self.final_norm(x)), mesh, -1), Cache((past,), cache.used + length)

  def about_layers(self) -> tuple[Array, Array]:
    """[layers] each, to scan over: the window, and the kind of rotary embedding."""
    given = lambda values: jnp.asarray(np.asarray(values, np.int32))
    return given(self.arch.windows), given(_kinds(self.arch)[1])

  def embed(self, tokens: Array, place: Array):
    """Embeddings [B, L, dim] of tokens at positions `place` [B, L], and the rotations of queries and keys, one a kind."""
    arch, dtype = self.arch, self.embedding[...].dtype
    x = self.embedding[...][tokens] * jnp.asarray(arch.embedding_scale, dtype)
    if self.position is not None:
      return x + self.position[...][place + arch.position_offset], ()

    def rotation(rope):
      angle = place[..., None] * jnp.asarray(rope.inverse_frequencies, jnp.float32)[None, None]
      return rope.scale * jnp.cos(angle)[:, :, None], rope.scale * jnp.sin(angle)[:, :, None]

    return x, tuple(rotation(rope) for rope in _kinds(arch)[0])

  def logits(self, x: Array) -> Array:
    """Hidden states [..., dim] -> logits [..., V], float32."""
    values = {"embedding": self.embedding, "head": self.head, "head_bias": self.head_bias}
    return _logits(self.arch, {name: value[...] for name, value in values.items() if value is not None}, x)

  def finished(self, out: Array) -> Array:
    """The output layer's product with its bias, capped."""
    return _finished(self.arch, out, None if self.head_bias is None else self.head_bias[...])


def _logits(arch: Architecture, output: Params, x: Array) -> Array:
  """Hidden states [..., dim] -> logits [..., V] float32, of the output layer's own parameters."""
  if arch.tied:
    out = jnp.einsum("...d,vd->...v", x, output["embedding"], preferred_element_type=jnp.float32)
  else:
    out = jnp.einsum("...d,dv->...v", x, output["head"], preferred_element_type=jnp.float32)
  return _finished(arch, out, output.get("head_bias"))


def _finished(arch: Architecture, out: Array, bias: Array | None) -> Array:
  out = out if bias is None else out + _along(bias.astype(out.dtype), out)
  cap = arch.final_soft_cap
  return cap * jnp.tanh(out / cap) if cap else out


def _kinds(arch: Architecture):
  """(rotary embeddings that there are, which of them each layer has)."""
  kinds = tuple(dict.fromkeys(arch.ropes))
  return kinds, [kinds.index(rope) for rope in arch.ropes] or [0] * arch.num_layers


def _chosen(rotations, kind):
  """That of a layer of a traced kind; None where positions are not rotated."""
  if len(rotations) < 2:
    return rotations[0] if rotations else None
  return jax.tree.map(lambda *ones: jnp.stack(ones)[kind], *rotations)


def _along(vector, x):
  """A vector that broadcasts along the last axis of x."""
  return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _rotate(x, rotation):
  """Rotary embedding of the first numbers of each head, in the half-split layout of transformers."""
  cos, sin = rotation
  size = cos.shape[-1]
  first, second, rest = jnp.split(x.astype(jnp.float32), (size, 2 * size), axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], -1).astype(x.dtype)


class Sight(NamedTuple):
  """What positions of a whole sequence see: themselves and what comes before, within a window.

  Attributes:
    windows: how many last positions, of each kind of layers, ascending. Static.
    which: [] of which kind this one is.
    mask: [B, L, L] bool, what is seen besides; None: all.
  """

  windows: tuple[int, ...]
  which: Array
  mask: Array | None


def _attend_causally(arch, query, key, value, sight: Sight):
  """Attention of query [B, L, heads, H] to key and value [B, L, kv heads, H] of the same positions."""
  length = query.shape[1]
  if arch.soft_cap:
    at = jnp.arange(length)
    back = at[:, None] - at[None]
    seen = ((back >= 0) & (back < jnp.asarray(sight.windows)[sight.which]))[None]
    seen = seen if sight.mask is None else seen & sight.mask
    return _attend(arch, query, key.transpose(0, 2, 3, 1), value.swapaxes(1, 2), seen)
  mask = None if sight.mask is None else sight.mask[:, None]

  def attend(window, query, key, value):  # a window is never without is_causal: cuDNN would let it see the future
    back = None if window >= length else (window - 1, 0)
    call = functools.partial(
      jax.nn.dot_product_attention, scale=arch.query_scale, is_causal=True, local_window_size=back
    )
    return call(query, key, value, mask=mask, implementation=_implementation(call, query, key, mask))

  return jax.lax.switch(sight.which, [functools.partial(attend, window) for window in sight.windows], query, key, value)


def _implementation(call, query, key, mask) -> str:
  """cuDNN's fused attention on a GPU, where it takes such arrays; never with a mask, which it would read as a bias."""
  if jax.default_backend() != "gpu" or mask is not None or query.dtype == jnp.float32:
    return "xla"
  one = lambda *arrays: jnp.sum(call(*arrays, implementation="cudnn").astype(jnp.float32))
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (query, key, key)]
  try:
    jax.eval_shape(jax.grad(one, (0, 1, 2)), *shapes)
  except (RuntimeError, ValueError, NotImplementedError):  # of its versions, head sizes and cards
    return "xla"
  return "cudnn"


def _attend(arch, query, key, value, mask):
  """Attention of query [B, L, heads, H] to key [B, kv heads, H, S] and value [B, kv heads, S, H]; with soft caps (Gemma 2), which
  `jax.nn.dot_product_attention` does not have, and without transposing a cache."""
  batch, length, _, size = query.shape
  kv_heads = key.shape[1]
  query = query.reshape(batch, length, kv_heads, -1, size).transpose(0, 2, 3, 1, 4)

  def product(a, b, dtype=None):
    """Heads that share keys are rows of one product, in this order: XLA on CPU copies the operands of what einsum makes of it."""
    rows = a.reshape(batch, kv_heads, -1, a.shape[-1])
    y = jax.lax.dot_general(rows, b, (((3,), (2,)), ((0, 1), (0, 1))), preferred_element_type=dtype)
    return y.reshape(*a.shape[:-1], -1)

  logits = product(query, key, jnp.float32) * arch.query_scale
  if arch.soft_cap:
    logits = arch.soft_cap * jnp.tanh(logits / arch.soft_cap)
  logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
  share = jax.nn.softmax(logits, -1).astype(value.dtype)
  return product(share, value).transpose(0, 3, 1, 2, 4)


class Functions(NamedTuple):
  """The decoder as pure functions of nested dicts of arrays.

  Attributes:
    apply: (params, tokens, mask=None) -> logits [B, L, V].
    hidden: the same before the output layer, [B, L, dim].
    output: (params) -> those of the output layer.
    head: (these, hidden) -> logits.
    decoder: (params) -> step, with step(tokens [B, L], cache) -> logits [B, L, V], cache.
    cache: (batch, capacity) -> an empty Cache.
    init: (key) -> params.
    agreed: (values that every device computes) -> those of the first one, on all of them.
  """

  apply: Callable[..., Array]
  hidden: Callable[..., Array]
  output: Callable[[Params], Params]
  head: Callable[[Params, Array], Array]
  decoder: Callable[[Params], Callable[[Array, Cache], tuple[Array, Cache]]]
  cache: Callable[[int, int], Cache]
  init: Callable[[Array], Params]
  agreed: Callable[[Any], Any] = lambda values: values


@functools.cache
def functions(
  arch: Architecture, dtype=jnp.float32, remat: bool = False, mesh: Mesh | None = None, loop: bool = False
) -> Functions:
  """Pure functions of a decoder; the same object for the same arguments, so that what calls them compiles once.

  Sequences are split over the devices of `mesh`, inside a jit.

  Args:
    arch: sizes and switches of the decoder.
    dtype: of the parameters.
    remat: compute activations again in the backward pass, for less memory.
    mesh: devices that sequences are split over; None: they are not split.
    loop: decode in a loop over layers, slower and in less memory, also without a mesh: for quantised parameters.
  """
  loop = loop or mesh is not None
  abstract = nnx.eval_shape(lambda: Decoder(arch, nnx.Rngs(0), dtype))
  graph, _ = nnx.split(abstract)
  output = ["embedding" if arch.tied else "head", *(["head_bias"] if arch.head_bias else [])]

  def call(params, *arguments, **options):
    return nnx.merge(graph, params)(*arguments, **options)

  def cache(batch, capacity):
    used = jnp.zeros((), jnp.int32)
    layers = (arch.num_layers,) if loop else ()
    zeros = lambda *size: jnp.zeros((*layers, batch, arch.num_kv_heads, *size), dtype)
    empty = zeros(arch.head_dim, capacity), zeros(capacity, arch.head_dim)
    return Cache((empty,) * (1 if loop else arch.num_layers), used)

  def decoder(params):
    if loop:
      return lambda tokens, cache: nnx.merge(graph, params).decode_in_loop(tokens, cache, mesh)
    layers = [jax.tree.map(operator.itemgetter(i), params["layers"]) for i in range(arch.num_layers)]
    head = params["embedding"].T if arch.tied else params["head"]
    return lambda tokens, cache: nnx.merge(graph, params).decode(tokens, cache, layers, head)

  return Functions(
    apply=lambda params, tokens, mask=None: call(params, tokens, mask, remat=remat, mesh=mesh),
    hidden=lambda params, tokens, mask=None: call(params, tokens, mask, remat=remat, head=False, mesh=mesh),
    output=lambda params: {name: params[name] for name in output},
    head=lambda output, hidden: constrain_rows(_logits(arch, output, hidden), mesh, -1),
    decoder=decoder,
    cache=cache,
    init=lambda key: nnx.to_pure_dict(nnx.split(Decoder(arch, nnx.Rngs(key), dtype))[1]),
    agreed=functools.partial(agreed, mesh=mesh),
  )


def abstract_params(arch: Architecture, dtype=jnp.float32) -> Params:
  """Shapes and dtypes of the parameters; nothing is allocated."""
  return nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: Decoder(arch, nnx.Rngs(0), dtype)))[1])
