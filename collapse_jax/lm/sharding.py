"""Fully sharded data parallelism (Rajbhandari et al. 1910.02054, stage 3): one table says along which axis arrays are split.

Weights, gradients and the optimiser's moments are split over the devices of a mesh; a layer's weights are gathered when it
is computed. Rows of a batch, and sequences that are sampled with their caches, are split along their first axis.

A model is split over the devices of one process, which together must hold it; further processes compute other cells. The table
would do for a mesh over the devices of several processes. What such a mesh lacks is in the driver "steps", which deals cells to
processes and reads metrics, batches and checkpoints as arrays that each of them has whole; and loops that end by what was
sampled must end alike in all processes, whose sums may differ in the last bits.
"""

import functools
import logging

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = ["abstract", "constrain", "constrain_rows", "of_params", "place"]

_log = logging.getLogger(__name__)

# Last part of a parameter's name -> the axis that is split, from the end: layers and runs may be stacked before it. All
# other arrays (norms, biases, adapters, counts) are small and whole on every device.
RULES = {"embedding": -2, "position": -1, "head": -1, "kernel": -2}


def of_params(tree, mesh: Mesh):
  """The sharding of each leaf of a tree of parameters, or of an optimiser state over such."""
  return jax.tree_util.tree_map_with_path(lambda path, leaf: _of(path, leaf.shape, mesh), tree)


def constrain(tree, mesh: Mesh | None):
  """Parameters, inside a jit, split as the table says."""
  if mesh is None:
    return tree
  return jax.tree.map(jax.lax.with_sharding_constraint, tree, of_params(tree, mesh))


def constrain_rows(x, mesh: Mesh | None):
  """An array, inside a jit, split along its first axis, or whole where the devices do not divide that."""
  if mesh is None:
    return x
  spec = PartitionSpec(mesh.axis_names) if x.shape[0] % mesh.size == 0 else PartitionSpec()
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def place(tree, mesh: Mesh | None):
  """Parameters on the devices, split as the table says."""
  return tree if mesh is None else jax.tree.map(jax.device_put, tree, of_params(tree, mesh))


def abstract(tree, mesh: Mesh | None):
  """Shapes, dtypes and shardings of parameters, for compiling ahead of time; nothing is allocated."""
  if mesh is None:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
  where = of_params(tree, mesh)
  return jax.tree.map(lambda x, one: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), tree, where)


def _of(path, shape, mesh: Mesh) -> NamedSharding:
  keys = [str(part.key) for part in path if hasattr(part, "key")]
  axis = RULES.get(keys[-1]) if keys else None
  if axis is None or len(shape) < -axis:
    return NamedSharding(mesh, PartitionSpec())
  if shape[axis] % mesh.size:
    _warn(".".join(keys), shape, shape[axis], mesh.size)
    return NamedSharding(mesh, PartitionSpec())
  return NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) + axis), mesh.axis_names, *[None] * (-axis - 1)))


@functools.cache  # once an array, though its gradient and its moments follow
def _warn(name: str, shape: tuple[int, ...], length: int, num_devices: int) -> None:
  _log.warning("%s %s is whole on every device: %d devices do not divide %d", name, list(shape), num_devices, length)
