"""Networks of flow matching and diffusion: (parameters, x [n, dim], feature of the level, condition) -> [n, dim].

Inside a scan on a CPU only products of matrices are fast, so that "mlp" and "patches" have nothing else; "unet" is for GPUs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.types import Array

__all__ = ["Network", "mlp", "patches", "unet"]


class Network(NamedTuple):
  """A network that tells a field.

  Attributes:
    init: (key) -> parameters, a pytree.
    apply: (parameters, x [n, dim], level [] or [n, 1], condition [n, k] or None) -> [n, dim].
  """

  init: Callable[[Array], Any]
  apply: Callable[..., Array]


def _dense(key, inputs, outputs, scale=1.0):
  """Weights and bias as torch has them: uniform within 1 / sqrt(inputs)."""
  weight_key, bias_key = jax.random.split(key)
  bound = scale / np.sqrt(inputs)
  weight = jax.random.uniform(weight_key, (inputs, outputs), minval=-bound, maxval=bound)
  return {"weight": weight, "bias": jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound)}


def _affine(layer, x):
  return x @ layer["weight"] + jnp.expand_dims(layer["bias"], range(x.ndim - 1))


def mlp(dim: int, conditions: int = 0, width: int = 64, depth: int = 3) -> Network:
  """Perceptron with SELU, dim + 1 - width - ... - dim: in the plane torchcfm's 3-64-64-64-2.

  Args:
    dim: of the rows.
    conditions: numbers of the condition.
    width, depth: of the hidden layers.
  """
  sizes = [dim + 1 + conditions, *[width] * depth, dim]

  def init(key):
    keys = jax.random.split(key, len(sizes) - 1)
    return [_dense(*one) for one in zip(keys, sizes[:-1], sizes[1:])]

  def apply(params, x, level, condition=None):
    parts = [x, jnp.broadcast_to(level, (len(x), 1))] + ([] if condition is None else [condition])
    x = jnp.concatenate(parts, axis=1)
    for layer in params[:-1]:
      x = jax.nn.selu(_affine(layer, x))
    return _affine(params[-1], x)

  return Network(init, apply)


def _waves(level, num, width):
  """Features [num, width] of a level, by waves of different length."""
  rate = jnp.asarray(np.exp(np.linspace(0, np.log(200), width // 2)), float)
  angle = jnp.broadcast_to(level, (num, 1)) * rate[None]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def _normed(x):
  x = x - jnp.mean(x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)


def patches(
  image_shape: tuple[int, int, int],
  conditions: int = 0,
  *,
  patch: int = 2,
  width: int = 64,
  depth: int = 2,
  heads: int = 4,
) -> Network:
  """Transformer over the patches of an image (Peebles and Xie 2212.09748), scaled and shifted by the level.

  Args:
    image_shape: height, width and channels; rows are these, flattened.
    conditions: numbers of the condition.
    patch: side of a patch, dividing both sides of the image.
    width, depth, heads: of the transformer.
  Raises:
    Refused: an image that patches do not cover.
  """
  high, wide, channels = image_shape
  if high % patch or wide % patch:
    raise Refused.must_be("image_shape", f"of sides that are multiples of {patch}", image_shape)
  grid, size = (high // patch, wide // patch), patch * patch * channels

  def init(key):
    first, place, level, last, *blocks = jax.random.split(key, 4 + depth)

    def block(key):
      k = jax.random.split(key, 5)
      return {
        "qkv": _dense(k[0], width, 3 * width),
        "mixed": _dense(k[1], width, width),
        "wider": _dense(k[2], width, 4 * width),
        "back": _dense(k[3], 4 * width, width),
        "scales": _dense(k[4], width, 6 * width, 0.1),
      }

    return {
      "first": _dense(first, size, width),
      "place": 0.02 * jax.random.normal(place, (grid[0] * grid[1], width)),
      "level": _dense(level, width + conditions, width),
      "last": _dense(last, width, size, 0.1),
      "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(block, blocks)),
    }

  def attend(layer, x):
    num, tokens, _ = x.shape
    q, k, v = (
      part.reshape(num, tokens, heads, -1).transpose(0, 2, 1, 3)
      for part in jnp.split(_affine(layer["qkv"], x), 3, axis=-1)
    )
    share = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(width // heads), axis=-1)
    return _affine(layer["mixed"], (share @ v).transpose(0, 2, 1, 3).reshape(num, tokens, width))

  def apply(params, x, level, condition=None):
    num = len(x)
    x = x.reshape(num, grid[0], patch, grid[1], patch, channels).transpose(0, 1, 3, 2, 4, 5).reshape(num, -1, size)
    x = _affine(params["first"], x) + params["place"][None]
    told = _waves(level, num, width)
    told = told if condition is None else jnp.concatenate([told, condition], axis=1)
    told = jax.nn.silu(_affine(params["level"], told))

    def step(x, layer):
      a, b, c, d, e, f = jnp.split(_affine(layer["scales"], told)[:, None], 6, axis=-1)
      x = x + (1 + c) * attend(layer, (1 + a) * _normed(x) + b)
      inner = jax.nn.silu(_affine(layer["wider"], (1 + d) * _normed(x) + e))
      return x + (1 + f) * _affine(layer["back"], inner), None

    x = jax.lax.scan(step, x, params["blocks"])[0]
    x = _affine(params["last"], _normed(x))
    x = x.reshape(num, *grid, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(num, -1)

  return Network(init, apply)


def unet(image_shape: tuple[int, int, int], conditions: int = 0, *, width: int = 32, levels: int = 3) -> Network:
  """Convolutional U-Net (Ho et al. 2006.11239) of Flax NNX; slow on CPUs, above all within a scan.

  Args:
    image_shape: height, width and channels; rows are these, flattened.
    conditions: numbers of the condition.
    width: channels at full resolution, a multiple of 8; twice as many from the second resolution on.
    levels: resolutions, each half of the one before.
  Raises:
    Refused: an image whose sides cannot be halved so often.
  """
  from flax import nnx

  high, wide, channels = image_shape
  if high % 2 ** (levels - 1) or wide % 2 ** (levels - 1):
    raise Refused.must_be("image_shape", f"of sides that are multiples of {2 ** (levels - 1)}", image_shape)
  widths = [width if i == 0 else 2 * width for i in range(levels)]
  convolution = functools.partial(nnx.Conv, kernel_size=(3, 3))

  class Block(nnx.Module):
    """Two convolutions about a shift by the level, and a way past them."""

    def __init__(self, inputs, outputs, rngs):
      self.norms = nnx.List(nnx.GroupNorm(size, num_groups=8, rngs=rngs) for size in (inputs, outputs))
      self.convolutions = nnx.List(convolution(size, outputs, rngs=rngs) for size in (inputs, outputs))
      self.level = nnx.Linear(4 * width, outputs, rngs=rngs)
      self.past = nnx.Conv(inputs, outputs, kernel_size=(1, 1), rngs=rngs)

    def __call__(self, x, told):
      found = self.convolutions[0](jax.nn.silu(self.norms[0](x))) + self.level(told)[:, None, None]
      return self.past(x) + self.convolutions[1](jax.nn.silu(self.norms[1](found)))

  class UNet(nnx.Module):
    """Down, and up again beside what was there on the way down."""

    def __init__(self, rngs):
      self.told = nnx.Linear(width + conditions, 4 * width, rngs=rngs)
      self.first = convolution(channels, width, rngs=rngs)
      before = [width, *widths[:-1]]
      self.down = nnx.List(Block(a, b, rngs) for a, b in zip(before, widths))
      self.middle = Block(widths[-1], widths[-1], rngs)
      self.up = nnx.List(Block(2 * b, a, rngs) for a, b in zip(before, widths))
      self.last = convolution(width, channels, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x, told):
      x, told, kept = self.first(x), jax.nn.silu(self.told(told)), []
      for i, block in enumerate(self.down):
        x = block(x if i == 0 else nnx.avg_pool(x, (2, 2), strides=(2, 2)), told)
        kept.append(x)
      x = self.middle(x, told)
      for i in reversed(range(levels)):
        x = self.up[i](jnp.concatenate([x, kept[i]], axis=-1), told)
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2) if i else x
      return self.last(jax.nn.silu(x))

  graph, _ = nnx.split(nnx.eval_shape(lambda: UNet(nnx.Rngs(0))))

  def apply(params, x, level, condition=None):
    told = _waves(level, len(x), width)
    told = told if condition is None else jnp.concatenate([told, condition], axis=1)
    return nnx.merge(graph, params)(x.reshape(len(x), *image_shape), told).reshape(len(x), -1)

  return Network(lambda key: nnx.to_pure_dict(nnx.split(UNet(nnx.Rngs(key)))[1]), apply)
