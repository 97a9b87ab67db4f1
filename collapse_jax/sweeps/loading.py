"""Results as a run left them, read back. Imports no JAX: whoever only reads does not wait for it."""

import contextlib
import os
import pathlib
from typing import TYPE_CHECKING

from collapse_jax.data import files
from collapse_jax.refused import Refused
from collapse_jax.sweeps.chunks import read_object

if TYPE_CHECKING:
  import xarray

__all__ = ["load"]


def load(directory: str | os.PathLike[str]) -> "xarray.Dataset":
  """Opens the results that a binary or `to_netcdf` left in a directory (or the file itself).

  Raises:
    FileNotFoundError: there are none.
    ValueError: the file is damaged, or no such file; or the config.json beside it is of another run, which was killed while it
      replaced this one's results.
  """
  import h5py
  import xarray

  path = pathlib.Path(directory)
  path = path / "results.nc" if path.is_dir() else path
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; run an experiment with --output_dir={directory} first.")
  size = files.check_regular(path)
  try:
    with h5py.File(path) as file:
      file.attrs.get(
        "_nc3_strict"
      )  # where that fails, h5netcdf leaves an object behind that complains when it is deleted
      claimed: list[int] = []
      file.visititems(
        lambda name, one: claimed.append(one.size * one.dtype.itemsize) if isinstance(one, h5py.Dataset) else None
      )
    if sum(claimed) > 1100 * size + files.MIB:  # zlib makes nothing smaller than that
      raise Refused("its arrays are larger than such a file can hold")
    results = xarray.load_dataset(path, engine="h5netcdf")
  except Exception as error:  # whatever HDF5 finds
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise Refused(f"{files.shown(path)} cannot be read as results: {files.shown(reason).rstrip('.')}.") from None
  depth = len(pathlib.PurePath(str(results.attrs.get("experiment", ""))).parts)
  above = path.resolve().parents
  config = above[min(depth, len(above) - 1)] / "config.json"
  mine = theirs = results.attrs.get("config_id")
  with contextlib.suppress(OSError, ValueError):  # there is none, or it is somebody else's
    theirs = read_object(config).get("id", mine) if config.is_file() else mine
  if mine is not None and mine != theirs:
    raise Refused(
      f"{path} and {config} are of two runs, one of which was killed while it replaced the other; give --resume."
    )
  return results
