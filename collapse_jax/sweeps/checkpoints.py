"""Checkpoints of runs whose loop is on the host: a file for each generation, of which the newest that is whole counts.

Where processes hold the parameters together, each writes the parts that it has into a file of its own, before the first writes that
of the generation. All must see one directory. What is restored may be split in another way, by another number of processes.
"""

import contextlib
import functools
import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import vocabulary
from collapse_jax.random import PRNG
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks, devices
from collapse_jax.types import Metrics, Params, PyTree, Run

__all__ = ["Checkpoints", "folder_name", "plain"]

_log = logging.getLogger(__name__)
_FORMAT = 2  # 1: without a description of themselves
_SHARD = ".shard"  # of a process, in a generation


def folder_name(cell: Mapping[str, Any], seeds: range) -> str:
  """Of the checkpoints of runs of a cell, by its names."""
  label = ",".join(f"{name}={value}" for name, value in cell.items())
  return vocabulary.file_name(f"{label},seeds={seeds.start}-{seeds.stop - 1}")


class Checkpoints:
  """Run, params and metrics after each generation, in a file for each: an .npz, whose arrays have names and checksums.

  One of them, `about`, says of which sweep, cell, seeds and generation it is: a file in another's place is as good as damaged.

  Args:
    folder: of runs of a cell.
    keep_all: keep those of every generation, not only of the last two.
    resume: keep what is there; else it is deleted, which is logged.
    about: what fixes the numbers, JSON values.
    together: all processes make this object, and call its methods, for the same runs. The first alone makes and removes files, but
      for those of parts.
  Raises:
    ValueError: checkpoints to resume from were made by another sweep.
    OSError: they cannot be written, or read.
  """

  def __init__(self, folder: Path, keep_all: bool, resume: bool, about: dict[str, Any], together: bool = False):
    self._folder, self._keep_all, self._together = Path(folder), keep_all, together
    self._about = json.loads(json.dumps({"checkpoint_format": _FORMAT, **about}, default=str))
    if not together:
      self._begin(resume)
      return
    self._by_first(lambda: self._begin(resume))

  @property
  def _is_first(self) -> bool:
    """Whether this process makes and removes files."""
    return not self._together or jax.process_index() == 0

  def _by_first(self, step: Callable[[], Any]) -> Any:
    """What a step of the first process returns, None in the others; where it is refused, it is in all."""
    try:
      return devices.unanimously(lambda: step() if self._is_first else None)
    except Refused as error:
      raise chunks.OtherSweep(str(error)) from None

  def _begin(self, resume: bool) -> None:
    chunks.make_folder(self._folder)
    for part in self._folder.glob("*.part"):
      part.unlink()
    named, found = self._folder / "run.json", False
    if resume:
      found = self._is_named(named)
    elif self._files() or named.exists():
      _log.warning("%d checkpoints of an earlier sweep in %s are deleted", len(self._files()), self._folder)
      for file in (*self._folder.glob(f"*{_SHARD}"), *self._files().values(), named):
        file.unlink(missing_ok=True)
    if not found:
      chunks.write(named, json.dumps(self._about).encode())

  def _is_named(self, named: Path) -> bool:
    """Whether a file says what the checkpoints are. A ValueError where it, or else a checkpoint, says that they are not ours."""
    theirs = None
    try:
      theirs = chunks.read_object(named) if named.exists() else None
    except ValueError as error:
      _log.warning("%s Checkpoints beside it say what they are.", error)
    found = theirs is not None
    for _, file in () if found else self._newest_first():
      with contextlib.suppress(Exception), file.open("rb") as raw, np.load(raw, allow_pickle=False) as arrays:
        theirs = _description(arrays)
        del theirs["t"]
        break
    if theirs is not None:
      chunks.check_same(_fixed(theirs), _fixed(self._about), f"the checkpoints in {self._folder} were made")
      if theirs.get("program") != self._about.get("program"):
        if theirs.get("num_devices") == self._about.get("num_devices"):
          raise chunks.OtherSweep(
            f"resume: the checkpoints in {self._folder} were made by another task or workflow, or from other data."
          )
        _log.warning(
          "%s: whether code is the same cannot be told, for its programs are split over another number of devices",
          self._folder,
        )
    return found

  def _files(self) -> dict[int, Path]:
    return {int(file.stem): file for file in self._folder.glob("*.npz") if re.fullmatch(r"[1-9]\d{0,9}", file.stem)}

  @property
  def any(self) -> bool:
    """Whether there are some to go on from."""
    return bool(self._files())

  def _newest_first(self) -> list[tuple[int, Path]]:
    return sorted(self._files().items(), reverse=True)

  def save(self, t: int, run: Run, params: Params, metrics: Metrics) -> None:
    """Older ones go, but for the last, once this one is durable."""
    named = _named({"run": plain(run), "params": params, "metrics": metrics})
    about: dict[str, Any] = self._about | {"t": t}
    if self._together:
      split = {name for name, leaf in named.items() if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated}
      mine = {
        f"{name}@{_written(shard.index, named[name].shape)}": shard.data
        for name in sorted(split)
        for shard in named[name].addressable_shards
        if shard.replica_id == 0
      }
      chunks.write(self._shard(t, jax.process_index()), functools.partial(_write, about, mine))
      devices.gather({})  # all have written theirs
      if not self._is_first:
        return
      named = {name: leaf for name, leaf in named.items() if name not in split}
      about["num_shards"] = jax.process_count()
    older = [at for at, _ in self._newest_first() if at < t]
    chunks.write(self._folder / f"{t}.npz", functools.partial(_write, about, named))
    gone = () if self._keep_all else older[1:]
    files = [self._folder / f"{at}.npz" for at in gone]
    chunks.discard(files + [one for at in gone for one in self._shards(at)], self._folder / f"{t}.npz")

  def _shard(self, t: int, process: int) -> Path:
    return self._folder / f"{t}.{process}{_SHARD}"

  def _shards(self, t: int) -> list[Path]:
    return sorted(self._folder.glob(f"{t}.*{_SHARD}"))

  def restore(
    self, run: Run, params: Params, metrics: Metrics | None, most: int | None = None
  ) -> tuple[int, Run, Any, Metrics]:
    """The newest generation that is whole (0: none is), and its run, params and metrics [seeds, generation, ...].

    Args:
      run, params: of the structure, shapes and dtypes that are to be found; params may be None, to leave them out.
      metrics: the same, of one generation; None, of a loop that is Python: whatever is there, and params of any shapes.
      most: the newest up to this generation; None: of all.
    Raises:
      Refused: what is whole holds arrays of other shapes; it stays where it is.
    """
    files = [one for one in self._newest_first() if most is None or one[0] <= most]
    if not self._together:
      return self._restore(files, run, params, metrics)
    # The first looks for damage; the others read what it has found whole.
    found = self._by_first(lambda: self._restore(files, run, params, metrics))
    t = int(devices.gather({"t": np.asarray(found[0] if found else 0)})[0]["t"])
    return found or self._restore([(t, self._folder / f"{t}.npz")] if t else [], run, params, metrics)

  def _restore(
    self, files: Sequence[tuple[int, Path]], run: Run, params: Params, metrics: Metrics | None
  ) -> tuple[int, Run, Any, Metrics]:
    for t, file in files:
      like: dict[str, Any] = {"run": plain(run), "params": params, "metrics": {}}
      for name, x in ({} if metrics is None else metrics).items():
        like["metrics"][name] = jax.ShapeDtypeStruct((x.shape[0], t, *x.shape[1:]), x.dtype)
      try:
        with self._checked(file, t) as arrays:
          shards = [self._shard(t, process) for process in range(_description(arrays).get("num_shards", 0))]
          parts = {name: shard for shard in shards for name in self._names(shard, t)}
          found = _alike(arrays, like, any_shape=("params",) if metrics is None else (), parts=parts)
          if metrics is None:
            prefix = "metrics/"
            found["metrics"] = {
              name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)
            }
      except Exception as error:  # damage has as many names as a zip file has fields
        gone = isinstance(error, FileNotFoundError)  # one of the shards
        if isinstance(error, MemoryError) or (getattr(error, "filename", None) and not gone):  # that is the machine's
          raise
        if isinstance(error, _Unlike):
          raise chunks.OtherSweep(f"resume: {file} cannot be gone on from: {error}.") from None
        if not self._is_first:  # it has found the file whole: processes must not part
          raise
        _log.warning("%s is damaged (%s): what came after the checkpoint before it is computed again", file, error)
        file.unlink()
        continue
      run = found["run"]
      if not self._together:
        run, found["params"] = jax.tree.map(jnp.asarray, run), jax.tree.map(np.asarray, found["params"])
      return t, run._replace(key=jax.random.wrap_key_data(run.key, impl=PRNG)), found["params"], found["metrics"]
    return 0, run, None, {}

  @contextlib.contextmanager
  def _checked(self, file: Path, t: int) -> Iterator[Any]:
    """The arrays of a file of a generation, all of whose checksums are right."""
    with file.open("rb") as raw, np.load(raw, allow_pickle=False) as arrays:  # numpy leaves what is damaged open
      if arrays.zip.testzip() is not None:  # arrays that are not read here are looked at too
        raise Refused("a checksum is wrong")
      if _fixed(_description(arrays)) != _fixed(self._about) | {"t": t}:
        raise Refused("it belongs elsewhere")
      yield arrays

  def _names(self, shard: Path, t: int) -> list[str]:
    with self._checked(shard, t) as arrays:
      return [name for name in arrays.files if name != "about"]


class _Parts:
  """An array whose parts lie in several files; gives any part of it, by slices. `np.asarray` gives all."""

  def __init__(self, shape: tuple[int, ...], dtype: Any, places: Mapping[str, Path]):
    self.shape, self.dtype, self._places = shape, np.dtype(dtype), places
    self.ndim = len(shape)

  def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
    bounds = [one.indices(size)[:2] for one, size in zip(index, self.shape)]
    found = np.empty([stop - start for start, stop in bounds], self.dtype)
    left = found.size
    for name, file in self._places.items():
      theirs = [tuple(map(int, one.split("-"))) for one in name.rpartition("@")[2].split(",") if one]
      both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(bounds, theirs)]
      if any(start >= stop for start, stop in both):
        continue
      with file.open("rb") as raw, np.load(raw, allow_pickle=False) as arrays:
        part = arrays[name].view(self.dtype)[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(both, theirs))]
      found[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(both, bounds))] = part
      left -= part.size
    if left:
      raise OSError(f"parts of an array are missing beside {next(iter(self._places.values()))}")
    return found

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    return self[tuple(slice(None) for _ in self.shape)].astype(dtype or self.dtype)


def _written(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
  """Bounds of a part along each axis, such as 0-8,16-32."""
  return ",".join("{}-{}".format(*one.indices(size)[:2]) for one, size in zip(index, shape))


def _write(about: Mapping[str, Any], leaves: Mapping[str, Any], file: IO[bytes]) -> None:
  """An .npz with a description; one array at a time is copied from the devices."""
  told = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
  with zipfile.ZipFile(file, "w") as archive:
    for name, leaf in (told | dict(leaves)).items():
      with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.asarray(leaf), allow_pickle=False)


def _description(arrays: Any) -> dict[str, Any]:
  return dict(json.loads(arrays["about"].tobytes()))


def _fixed(about: Mapping[str, Any]) -> dict[str, Any]:
  """What must be equal; programs are compared where they can be."""
  return {name: value for name, value in about.items() if name not in ("program", "num_devices", "num_shards")}


def _named(tree: PyTree) -> dict[str, Any]:
  """Its leaves, by names such as run/problem/weights."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


class _Unlike(Exception):
  """A file that is whole holds an array of another shape or dtype than is asked for."""


def _alike(arrays: Any, like: PyTree, any_shape: Sequence[str], parts: Mapping[str, Path]) -> Any:
  """The arrays of a file as a tree, of which shapes and dtypes do not matter in parts of these names.

  Those that are in no file whole, but in `parts` by name and bounds, become what gives any part of them.
  """
  found: list[Any] = []
  for name, x in _named(like).items():
    if name not in arrays.files and (
      places := {one: file for one, file in parts.items() if one.rpartition("@")[0] == name}
    ):
      found.append(_Parts(x.shape, x.dtype, places))
      continue
    value, free = arrays[name], name.split("/")[0] in any_shape
    unnamed = value.dtype == np.dtype(f"V{np.dtype(x.dtype).itemsize}")  # files do not know all dtypes of JAX
    if not free and (value.shape != x.shape or not (unnamed or value.dtype == x.dtype)):
      raise _Unlike(f"{name} is {value.dtype}{value.shape}, not {x.dtype}{x.shape}")
    found.append(value.view(x.dtype) if unnamed or not free else value)
  return jax.tree.unflatten(jax.tree.structure(like), found)


def plain(run: Run) -> Run:
  """With its keys as integers."""
  return run._replace(key=jax.random.key_data(run.key))
