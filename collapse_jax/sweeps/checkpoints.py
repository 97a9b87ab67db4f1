"""Checkpoints of runs whose loop is on the host: a file for each generation, of which the newest that is whole counts."""

import contextlib
import json
import logging
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import vocabulary
from collapse_jax.random import PRNG
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks
from collapse_jax.types import Metrics, Params, PyTree, Run

__all__ = ["Checkpoints", "folder_name", "plain"]

_log = logging.getLogger(__name__)
_FORMAT = 2  # 1: without a description of themselves


def folder_name(cell: Mapping[str, Any], seeds: range) -> str:
  """Of the checkpoints of runs of a cell, by its names."""
  label = ",".join(f"{name}={value}" for name, value in cell.items())
  return vocabulary.file_name(f"{label},seeds={seeds.start}-{seeds.stop - 1}")


class Checkpoints:
  """Run, params and metrics after each generation, in a file for each: an .npz, whose arrays have names and checksums.

  One of them, `about`, says of which sweep, cell, seeds and generation it is: a file in another's place is as good as damaged.

  Raises:
    ValueError: checkpoints to resume from were made by another sweep.
    OSError: they cannot be written, or read.
  """

  def __init__(self, folder: Path, keep_all: bool, resume: bool, about: dict[str, Any]):
    self._folder, self._keep_all = Path(folder), keep_all
    self._about = json.loads(json.dumps({"checkpoint_format": _FORMAT, **about}, default=str))
    chunks.make_folder(self._folder)
    for part in self._folder.glob("*.part"):
      part.unlink()
    named, found = self._folder / "run.json", False
    if resume:
      found = self._is_named(named)
    elif self._files() or named.exists():
      _log.warning("%d checkpoints of an earlier sweep in %s are deleted", len(self._files()), self._folder)
      for file in (*self._files().values(), named):
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
    about = np.frombuffer(json.dumps(self._about | {"t": t}).encode(), np.uint8)
    leaves = {"about": about} | _named({"run": plain(run), "params": params, "metrics": metrics})

    def into(file: IO[bytes]) -> None:  # one array at a time is copied from the devices
      with zipfile.ZipFile(file, "w") as archive:
        for name, leaf in leaves.items():
          with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.asarray(leaf), allow_pickle=False)

    older = [file for at, file in self._newest_first() if at < t]
    chunks.write(self._folder / f"{t}.npz", into)
    chunks.discard(() if self._keep_all else older[1:], self._folder / f"{t}.npz")

  def restore(self, run: Run, params: Params, metrics: Metrics | None) -> tuple[int, Run, Any, Metrics]:
    """The newest generation that is whole (0: none is), and its run, params and metrics [seeds, generation, ...].

    Args:
      run, params: of the structure, shapes and dtypes that are to be found; params may be None, to leave them out.
      metrics: the same, of one generation; None, of a loop that is Python: whatever is there, and params of any shapes.
    Raises:
      Refused: what is whole holds arrays of other shapes; it stays where it is.
    """
    for t, file in self._newest_first():
      like: dict[str, Any] = {"run": plain(run), "params": params, "metrics": {}}
      for name, x in ({} if metrics is None else metrics).items():
        like["metrics"][name] = jax.ShapeDtypeStruct((x.shape[0], t, *x.shape[1:]), x.dtype)
      try:
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as arrays:  # numpy leaves what is damaged open
          if arrays.zip.testzip() is not None:  # arrays that are not read here are looked at too
            raise Refused("a checksum is wrong")
          if _fixed(_description(arrays)) != _fixed(self._about) | {"t": t}:
            raise Refused("it belongs elsewhere")
          found = _alike(arrays, like, any_shape=("params",) if metrics is None else ())
          if metrics is None:
            prefix = "metrics/"
            found["metrics"] = {
              name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)
            }
      except Exception as error:  # damage has as many names as a zip file has fields
        if isinstance(error, MemoryError) or getattr(error, "filename", None):  # that is the machine's
          raise
        if isinstance(error, _Unlike):
          raise chunks.OtherSweep(f"resume: {file} cannot be gone on from: {error}.") from None
        _log.warning("%s is damaged (%s): what came after the checkpoint before it is computed again", file, error)
        file.unlink()
        continue
      run = jax.tree.map(jnp.asarray, found["run"])
      return t, run._replace(key=jax.random.wrap_key_data(run.key, impl=PRNG)), found["params"], found["metrics"]
    return 0, run, None, {}


def _description(arrays: Any) -> dict[str, Any]:
  return dict(json.loads(arrays["about"].tobytes()))


def _fixed(about: Mapping[str, Any]) -> dict[str, Any]:
  """What must be equal; programs are compared where they can be."""
  return {name: value for name, value in about.items() if name not in ("program", "num_devices")}


def _named(tree: PyTree) -> dict[str, Any]:
  """Its leaves, by names such as run/problem/weights."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


class _Unlike(Exception):
  """A file that is whole holds an array of another shape or dtype than is asked for."""


def _alike(arrays: Any, like: PyTree, any_shape: Sequence[str]) -> PyTree:
  """The arrays of a file as a tree, of which shapes and dtypes do not matter in parts of these names."""
  found = []
  for name, x in _named(like).items():
    value, free = arrays[name], name.split("/")[0] in any_shape
    unnamed = value.dtype == np.dtype(f"V{np.dtype(x.dtype).itemsize}")  # files do not know all dtypes of JAX
    if not free and (value.shape != x.shape or not (unnamed or value.dtype == x.dtype)):
      raise _Unlike(f"{name} is {value.dtype}{value.shape}, not {x.dtype}{x.shape}")
    found.append(value.view(x.dtype) if unnamed or not free else value)
  return jax.tree.unflatten(jax.tree.structure(like), found)


def plain(run: Run) -> Run:
  """With its keys as integers."""
  return run._replace(key=jax.random.key_data(run.key))
