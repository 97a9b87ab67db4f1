"""Networks of flow matching and diffusion: (parameters, x [n, dim], feature of the level, condition) -> [n, dim].

Inside a scan on a CPU only products of matrices are fast, so that "mlp" and "patches" have nothing else; "unet" is for GPUs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import normal
from collapse_jax.refused import Refused
from collapse_jax.tasks._networks import apply_attention, apply_dense, attention, dense, patches_of
from collapse_jax.types import Array

__all__ = ["FieldNetwork", "mlp", "patches", "unet"]


class FieldNetwork(NamedTuple):
  """A network that tells a field.

  Attributes:
    init: (key) -> parameters, a pytree.
    apply: (parameters, x [n, dim], level [] or [n, 1], condition [n, k] or None) -> [n, dim].
  """

  init: Callable[[Array], Any]
  apply: Callable[..., Array]


def mlp(dim: int, conditions: int = 0, *, width: int = 64, depth: int = 3) -> FieldNetwork:
  """Perceptron with SELU, dim + 1 - width - ... - dim: in the plane torchcfm's 3-64-64-64-2.

  Args:
    dim: of the rows.
    conditions: numbers of the condition.
    width, depth: of the hidden layers.
  """
  sizes = [dim + 1 + conditions, *[width] * depth, dim]

  def apply(params, x, level, condition=None):
    parts = [x, jnp.broadcast_to(level, (len(x), 1))] + ([] if condition is None else [condition])
    return apply_dense(params, jnp.concatenate(parts, axis=1), jax.nn.selu)

  return FieldNetwork(lambda key: dense(key, sizes), apply)


def _told(level, condition, num, width):
  """Features [num, width + k] of a level, by waves of different length, and of the condition."""
  rate = jnp.asarray(np.exp(np.linspace(0, np.log(200), width // 2)), float)
  angle = jnp.broadcast_to(level, (num, 1)) * rate[None]
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)] + ([] if condition is None else [condition]), axis=1)


def patches(
  image_shape: tuple[int, int, int], conditions: int = 0, *, patch_size: int = 2, width: int = 64, depth: int = 2
) -> FieldNetwork:
  """Attention over the patches of an image, which are told the level (Peebles and Xie 2212.09748, by addition).

  Args:
    image_shape: height, width and channels; rows are these, flattened.
    conditions: numbers of the condition.
    patch_size: side of a patch, dividing both sides of the image.
    width: of a token, even.
    depth: blocks of attention.
  Raises:
    Refused: an image that patches do not cover.
  """
  cut = patches_of(image_shape, patch_size)
  num_tokens, size = cut.numbers.shape

  def init(key):
    first, place, told, last, *blocks = jax.random.split(key, 4 + depth)
    return {
      "first": dense(first, [size, width]),
      "place": 0.02 * normal(place, (num_tokens, width)),
      "told": dense(told, [width + conditions, width, width]),
      "blocks": [attention(one, width) for one in blocks],
      "last": dense(last, [width, size]),
    }

  each = lambda layers, x: jax.vmap(functools.partial(apply_dense, layers))(x)

  def apply(params, x, level, condition=None):
    told = apply_dense(params["told"], _told(level, condition, len(x), width))
    tokens = each(params["first"], x[:, cut.numbers]) + params["place"][None] + told[:, None]
    for block in params["blocks"]:
      tokens = apply_attention(block, tokens)
    return each(params["last"], tokens).reshape(len(x), -1)[:, cut.back]

  return FieldNetwork(init, apply)


def unet(image_shape: tuple[int, int, int], conditions: int = 0, *, width: int = 32, levels: int = 3) -> FieldNetwork:
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
    told = _told(level, condition, len(x), width)
    return nnx.merge(graph, params)(x.reshape(len(x), *image_shape), told).reshape(len(x), -1)

  return FieldNetwork(lambda key: nnx.to_pure_dict(nnx.split(UNet(nnx.Rngs(key)))[1]), apply)
