"""How a language model is split over devices: one table says along which axis arrays are, for both ways of splitting.

Fully sharded data parallelism (Rajbhandari et al. 1910.02054, stage 3): weights, gradients and the optimiser's moments are split
over the devices of a mesh; a layer's weights are gathered when it is computed. Rows of a batch, and sequences that are sampled with
their caches, are split along their first axis. Along the mesh's axis `model`, if it has one, weights stay where they are and
activations are split instead (tensor parallelism, Shoeybi et al. 1909.08053): heads, the hidden layers of MLPs, the vocabulary.

A mesh may span processes: then all of them hold one model together and go through the same programs. What decides how a loop
goes on is what the first device has (`agreed`), for sums may differ in the last bits from machine to machine.
"""

import functools
import logging
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = ["MODEL", "abstract", "agreed", "constrain", "constrain_rows", "num_parts", "of_params", "place"]

_log = logging.getLogger(__name__)
MODEL = "model"  # the axis of a mesh along which activations are split

# Last part of a parameter's name -> the axes that are split, from the end, over rows' devices and over those of `model`: layers and
# runs may be stacked before them. All other arrays (norms, biases, adapters, counts) are small and whole on every device.
RULES = {"embedding": (-2, -2), "position": (-1, None), "head": (-1, -1), "kernel": (-2, -1)}
INWARD = {"kernel": (-1, -2)}  # of the layers that bring what is split together again
_BACK = ("out", "down")


def num_parts(mesh: Mesh | None) -> int:
  """Into how many parts rows are split."""
  return 1 if mesh is None else mesh.size // dict(mesh.shape).get(MODEL, 1)


def of_params(tree, mesh: Mesh):
  """The sharding of each leaf of a tree of parameters, or of an optimiser state over such."""
  return jax.tree_util.tree_map_with_path(lambda path, leaf: _of(path, leaf.shape, mesh), tree)


def constrain(tree, mesh: Mesh | None):
  """Parameters, inside a jit, split as the table says."""
  if mesh is None:
    return tree
  return jax.tree.map(jax.lax.with_sharding_constraint, tree, of_params(tree, mesh))


def constrain_rows(x, mesh: Mesh | None, model: int | None = None):
  """An array, inside a jit, split along its first axis, or whole where the devices do not divide that.

  Args:
    x: [rows, ...].
    mesh: devices; None: it stays as it is.
    model: the axis that is split over the mesh's axis `model`, if it has one and that divides it.
  """
  if mesh is None:
    return x
  spec: list[Any] = [None] * x.ndim
  if x.shape[0] % num_parts(mesh) == 0:
    spec[0] = _of_rows(mesh)
  if model is not None and MODEL in mesh.axis_names and x.shape[model] % mesh.shape[MODEL] == 0:
    spec[model] = MODEL
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))


def agreed(tree, mesh: Mesh | None):
  """Of values that every device computes, inside a jit, those of the first one, on all of them."""
  if mesh is None:
    return tree
  first = lambda: sum(jax.lax.axis_index(name) for name in mesh.axis_names) == 0
  told = lambda tree: jax.tree.map(
    lambda x: jax.lax.psum(jnp.where(first(), x, jnp.zeros_like(x)), mesh.axis_names), tree
  )
  whole = PartitionSpec()
  return jax.shard_map(told, mesh=mesh, in_specs=(whole,), out_specs=whole, check_vma=False)(tree)


def place(tree, mesh: Mesh | None):
  """Parameters on the devices, split as the table says.

  Args:
    tree: of arrays, or of what has shape and dtype and gives its parts by slices; the same in every process.
    mesh: devices; None: they stay where they are.
  """

  def one(x: Any, where: NamedSharding):
    host = np.asarray(x) if isinstance(x, jax.Array) else x
    return jax.make_array_from_callback(host.shape, where, lambda index: host[index])

  return tree if mesh is None else jax.tree.map(one, tree, of_params(tree, mesh))


def abstract(tree, mesh: Mesh | None):
  """Shapes, dtypes and shardings of parameters, for compiling ahead of time; nothing is allocated."""
  if mesh is None:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
  where = of_params(tree, mesh)
  return jax.tree.map(lambda x, one: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), tree, where)


def _of_rows(mesh: Mesh) -> tuple[str, ...]:
  return tuple(name for name in mesh.axis_names if name != MODEL)


def _of(path, shape, mesh: Mesh) -> NamedSharding:
  keys = [str(part.key) for part in path if hasattr(part, "key")]
  rules = INWARD if len(keys) > 1 and keys[-2] in _BACK else RULES
  along = rules.get(keys[-1]) if keys else None
  if along is None or len(shape) < max(-axis for axis in along if axis is not None):
    return NamedSharding(mesh, PartitionSpec())
  names: dict[int, tuple[str, ...]] = {}  # axis, from the end -> those of the mesh
  for axis, own in zip(along, (_of_rows(mesh), (MODEL,) if MODEL in mesh.axis_names else ())):
    if axis is None or not own:
      continue
    both = (*names.get(axis, ()), *own)
    num = math.prod(mesh.shape[name] for name in both)
    if shape[axis] % num:
      _warn(".".join(keys), shape, shape[axis], num)
    else:
      names[axis] = both
  return NamedSharding(
    mesh, PartitionSpec(*(names.get(axis - len(shape)) for axis in range(len(shape))) if names else ())
  )


@functools.cache  # once an array, though its gradient and its moments follow
def _warn(name: str, shape: tuple[int, ...], length: int, num_devices: int) -> None:
  _log.warning("%s %s is whole on every device: %d devices do not divide %d", name, list(shape), num_devices, length)
