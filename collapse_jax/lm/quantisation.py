"""Bases of four or eight bits below adapters (QLoRA, Dettmers et al. 2305.14314), by the library qwix.

Kernels of layers are quantised, each output in blocks of inputs that share a scale; embeddings, output layer, norms and biases stay
as they are. The decoder turns a kernel into numbers where it uses it, a layer at a time.
"""

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.types import Array
from collapse_jax.vocabulary import QUANTISATIONS

if TYPE_CHECKING:
  from collapse_jax.lm.checkpoint import LanguageModel

__all__ = ["Packed", "dense", "is_quantised", "quantise"]

BLOCK = 64  # inputs that share a scale, as in QLoRA; where they do not divide a kernel's, the largest number that divides both


@functools.partial(jax.tree_util.register_dataclass, data_fields=("bits", "scale"), meta_fields=("kind",))
@dataclasses.dataclass(frozen=True)
class Packed:
  """A kernel, or one a layer, in a byte for each weight or for two: what XLA on CPU keeps of arrays of four bits has eight.

  Attributes:
    bits: [..., inputs, outputs] int8; of four bits [..., inputs / 2, outputs] uint8, the first of two inputs in the lower ones.
    scale: [..., blocks, outputs], in the dtype of the numbers.
    kind: one of `QUANTISATIONS`.
  """

  bits: Any
  scale: Any
  kind: str

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the numbers."""
    *batch, inputs, outputs = self.bits.shape
    return (*batch, inputs if self.kind == "int8" else 2 * inputs, outputs)


def quantise(model: "LanguageModel", kind: str) -> "LanguageModel":
  """A model whose kernels are `Packed`, of NumPy arrays where they were such, quantised a layer at a time, or of shapes.

  Args:
    model: of `lm.load`, and the like.
    kind: one of `QUANTISATIONS`: integers, or the quantiles of a normal law, as in QLoRA ("nf4").
  Raises:
    Refused: another kind, the library is not installed, or four bits and a kernel of an odd number of inputs.
  """
  if kind not in QUANTISATIONS:
    raise Refused.must_be("quantize", " or ".join(QUANTISATIONS), kind)
  try:
    import qwix
  except ImportError:
    raise Refused("quantize needs qwix: pip install 'collapse-jax[qlora]'.", argument="quantize", value=kind) from None

  @jax.jit
  def of_layer(kernel):
    blocks = {0: math.gcd(BLOCK, len(kernel))}
    found = qwix.quantize(kernel.astype(jnp.float32), kind, channelwise_axes=(1,), tiled_axes=blocks)
    bits = found.qvalue.astype(jnp.int8)
    if kind != "int8":
      bits = jax.lax.bitcast_convert_type(bits, jnp.uint8) & 15
      bits = bits[::2] | bits[1::2] << 4
    return Packed(bits, found.scale.astype(kernel.dtype), kind)

  def of_kernel(path, kernel):
    if path[-1].key != "kernel":
      return kernel
    if kernel.shape[1] % 2 and kind != "int8":
      raise Refused(f"quantize={kind} needs kernels of an even number of inputs.", argument="quantize", value=kind)
    if isinstance(kernel, jax.ShapeDtypeStruct):
      return jax.eval_shape(jax.vmap(of_layer), kernel)
    if isinstance(kernel, np.ndarray):
      return jax.tree.map(lambda *layers: np.stack(layers), *(jax.device_get(of_layer(one)) for one in kernel))
    return jax.lax.map(of_layer, kernel)

  return model._replace(params=jax.tree_util.tree_map_with_path(of_kernel, model.params))


def is_quantised(params: Any) -> bool:
  """Whether some kernel is."""
  packed = lambda x: isinstance(x, Packed)
  return any(map(packed, jax.tree.leaves(params, is_leaf=packed)))


def dense(kernel: Any) -> Array:
  """A kernel in numbers [..., inputs, outputs]; one that is not quantised as it is."""
  if not isinstance(kernel, Packed):
    return kernel
  import qwix

  bits, scale = kernel.bits, kernel.scale
  if kernel.kind != "int8":
    bits = jnp.stack([bits & 15, bits >> 4], axis=-2).reshape(kernel.shape)
  if kernel.kind == "int4":
    bits = jax.lax.bitcast_convert_type(bits ^ 8, jnp.int8) - 8
  return qwix.dequantize(qwix.QArray(bits, scale, None, kernel.kind))
