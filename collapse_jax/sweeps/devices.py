"""What the machine has: memory, devices and processes, and how runs are split over them."""

import functools
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from collapse_jax import forks
from collapse_jax.refused import Refused
from collapse_jax.types import PyTree

__all__ = [
  "GATHERED_BYTES",
  "RUNS",
  "are_of_all_processes",
  "bytes_used",
  "check",
  "gather",
  "joined",
  "known_options",
  "local",
  "memory_bytes",
  "mesh_of",
  "mesh_of_arrays",
  "name",
  "num_cores",
  "num_workers",
  "on_host",
  "over_runs",
  "place",
  "size",
  "unanimously",
]

RUNS = "runs"
GATHERED_BYTES = 1 << 26  # on a device at once, while processes gather


def check() -> None:
  """To be called before anything is computed.

  Raises:
    RuntimeError: this process was forked from one that had used JAX.
    ValueError: JAX finds no device of the kind that JAX_PLATFORMS asks for.
  """
  forks.check()
  try:
    jax.devices()
  except Exception as error:  # of several kinds, an AssertionError among them
    asked = getattr(jax.config, "jax_platforms", None)
    first = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
    raise Refused(f"JAX finds no device{f' of JAX_PLATFORMS={asked}' if asked else ''}: {first}.") from None


def mesh_of(num_devices: int | None = None) -> Mesh | None:
  """A mesh over the first devices of this process; None where that is a single one.

  Args:
    num_devices: how many; None: all.
  Raises:
    ValueError: there are not so many.
  """
  devices = jax.local_devices()
  if num_devices is not None and not 1 <= num_devices <= len(devices):
    raise Refused(f"devices must be from 1 to {len(devices)}, as many as there are, got {num_devices}.")
  devices = devices[:num_devices]
  return Mesh(np.asarray(devices), (RUNS,)) if len(devices) > 1 or num_devices else None


def local(mesh: Mesh | None) -> Mesh | None:
  """The part of a mesh that belongs to this process."""
  return mesh.local_mesh if mesh is not None and mesh.is_multi_process else mesh


def size(mesh: Mesh | None) -> int:
  """Devices of a mesh; None is one."""
  return 1 if mesh is None else mesh.size


def known_options(options: dict[str, Any]) -> dict[str, Any]:
  """Those options of XLA that this version knows, to be compiled with on CPU; none on another device.

  Args:
    options: by name.
  """
  on_cpu = jax.default_backend() == "cpu"
  return {name: value for name, value in options.items() if on_cpu and _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: Any) -> bool:
  try:
    jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True


def over_runs(
  function: Callable[..., Any], mesh: Mesh | None, *split: bool, options: dict[str, Any] | None = None
) -> Any:
  """A jitted function each of whose arguments is split over the mesh along its leading axis, or is the same everywhere.

  `jax.shard_map` and not automatic partitioning: runs do not talk to each other, and LAPACK's calls cannot be partitioned.
  Each device computes what one device alone would compute for a chunk of its size.

  Args:
    function: of arrays with a leading axis of runs, and of others.
    mesh: devices; None: the default one alone.
    split: one for each argument: it has the leading axis.
    options: of XLA.
  """
  if mesh is None:
    return jax.jit(function, compiler_options=options)
  specs = tuple(PartitionSpec(mesh.axis_names) if one else PartitionSpec() for one in split)
  divided = jax.shard_map(
    function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(mesh.axis_names), check_vma=False
  )
  shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
  return jax.jit(divided, in_shardings=shardings, compiler_options=options)


def place(tree: PyTree, mesh: Mesh | None) -> PyTree:
  """Arrays whose leading axis is split over the mesh."""
  return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))


def bytes_used(compiled: Any) -> float:
  """What a compiled program allocates on a device, results included; 0 where the backend does not tell."""
  memory = compiled.memory_analysis()
  if memory is None:
    return 0.0
  return float(memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes)


def memory_bytes() -> float:
  """Of a device, or of the machine as far as this process may use it."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "bytes_limit" in stats:
    return float(stats["bytes_limit"])
  available = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
  limits = [_numbers(folder, name) for folder in _groups("memory") for name in ("memory.max", "memory.limit_in_bytes")]
  return min([available, *(float(limit[0]) for limit in limits if len(limit) == 1)])


def num_cores() -> int:
  """That this process may use: of those that its affinity allows, as many as the quota of its control groups gives."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  for folder in _groups("cpu"):
    quota = _numbers(folder, "cpu.max") or _numbers(folder, "cpu.cfs_quota_us") + _numbers(folder, "cpu.cfs_period_us")
    if len(quota) == 2 and min(quota) > 0:
      cores = min(cores, max(1, math.ceil(quota[0] / quota[1])))
  return cores


def _groups(
  controller: str, mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[Path]:
  """The control groups, of both versions, that this process is in: its own, and all above it, which limit it too.

  In a container their paths may be those of the host; then the root is what is seen of them.
  """
  try:
    lines = own.read_text().splitlines()
  except OSError:
    lines = []
  for line in [*lines, "0::/", f"0:{controller}:/"]:
    _, controllers, path = line.split(":", 2)
    if not controllers:
      roots = [mounted]
    elif controller in controllers.split(","):
      roots = [mounted / one for one in {controllers, controller}]
    else:
      continue
    inside = Path(path.lstrip("/"))
    yield from (root / one for root in roots for one in (inside, *inside.parents))


def _numbers(folder: Path, name: str) -> list[int]:
  """What a file of a control group says; none where it says "max", or is not there."""
  try:
    return [int(word) for word in (folder / name).read_text().split()]
  except (OSError, ValueError):
    return []


def num_workers(mesh: Mesh | None = None) -> int:
  """Threads that compile and run programs: the cores, as far as devices do not use them; on an accelerator 1."""
  return max(1, min(8, num_cores()) // size(mesh)) if jax.default_backend() == "cpu" else 1


def name() -> str:
  """Of the local device, as results tell it."""
  device = jax.local_devices()[0]
  cores = f", {num_cores()} cores" if device.platform == "cpu" else ""
  return f"{device.device_kind} ({device.platform}{cores})"


def gather(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
  """What every process of a distributed program handed in, bit for bit; all must call this.

  JAX gathers by copying what all hand in to every device, so that large arrays go in pieces.
  """
  if jax.process_count() == 1:
    return [dict(arrays)]
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)  # type: ignore[arg-type]
  mine = np.frombuffer(buffer.getbuffer(), np.uint8)  # bytes: JAX would turn float64 into float32
  length = np.frombuffer(len(mine).to_bytes(8, "little"), np.uint8)
  sizes = [int.from_bytes(one.tobytes(), "little") for one in _allgather(length)]
  each = min(max(sizes), max(1, GATHERED_BYTES // jax.process_count()))
  found = [io.BytesIO() for _ in sizes]
  for first in range(0, max(sizes), each):
    piece = mine[first : first + each]
    everyone = _allgather(np.pad(piece, (0, each - len(piece))))
    for whole, one, num in zip(found, everyone, sizes):
      whole.write(one[: max(0, num - first)])
  return [dict(np.load(io.BytesIO(one.getbuffer()), allow_pickle=False)) for one in found]


def mesh_of_arrays(tree: PyTree) -> Mesh | None:
  """The mesh over which arrays, or their shapes, are split; None where they lie on a single device."""
  shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
  return next((one.mesh for one in shardings if isinstance(one, NamedSharding) and isinstance(one.mesh, Mesh)), None)


def are_of_all_processes(tree: PyTree) -> bool:
  """Whether arrays are split over several processes, so that all of them compute the same and one is to tell of it."""
  mesh = mesh_of_arrays(tree)
  return mesh is not None and mesh.is_multi_process


def on_host(x: Any) -> np.ndarray:
  """An array as NumPy, also where other processes have parts of it: then all must call this, in the same order."""
  mesh = mesh_of_arrays(x)
  if mesh is not None and not (x.is_fully_addressable or x.is_fully_replicated):
    x = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(x)
  return np.asarray(x)


def joined(texts: Sequence[str]) -> str:
  """Texts of all processes as one, "; " between them; all must call this.

  Args:
    texts: of this process.
  """
  everyone = gather({"text": np.frombuffer("; ".join(texts).encode(), np.uint8)})
  return "; ".join(one["text"].tobytes().decode() for one in everyone if one["text"].size)


def _allgather(array: np.ndarray) -> np.ndarray:
  """What all processes handed in, stacked; a ConnectionError where one of them has gone."""
  from jax.experimental import multihost_utils

  try:
    everyone: np.ndarray = multihost_utils.process_allgather(array)
    return everyone
  except (ValueError, jax.errors.JaxRuntimeError) as error:
    raise ConnectionError("another process of this sweep has ended") from error


def unanimously(step: Callable[[], Any]) -> Any:
  """What a step returns. Where it is refused in one process all raise, so that none waits for one that has gone."""
  found, refusal = None, ""
  try:
    found = step()
  except (OSError, ValueError) as error:
    if jax.process_count() == 1:
      raise
    refusal = str(error)
  everyone = [one["refusal"].item() for one in gather({"refusal": np.asarray(refusal)})]
  if any(everyone):
    raise Refused(next(filter(None, everyone)))
  return found
