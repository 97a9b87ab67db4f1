"""Where to keep what can be made again: compiled programs, the pretrained `tiny`. Imports no JAX."""

import functools
import logging
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["directory"]

_log = logging.getLogger(__name__)


def directory(name: str = "") -> Path:
  """A directory that exists and can be written: `collapse_jax/NAME` below XDG_CACHE_HOME, else below ~/.cache.

  Where neither can be had (no home directory, a read-only one), a private temporary directory, with a warning. It is then
  this user's own: others could otherwise put programs there, which would be run.

  Raises:
    OSError: nothing can be written anywhere.
  """
  tried = {}
  for base in _bases():
    path = base / "collapse_jax" / name
    try:
      path.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryFile(dir=path):
        return path
    except OSError as error:
      tried[path] = error.strerror or str(error)
  path = _temporary("; ".join(f"{path}: {why}" for path, why in tried.items()) or "there is no home directory") / name
  path.mkdir(parents=True, exist_ok=True)
  return path


def _bases():
  """As the XDG base directory specification has it: a path that is not absolute is passed over."""
  if os.path.isabs(named := os.environ.get("XDG_CACHE_HOME", "")):
    yield Path(named)
    return
  try:
    home = Path.home()
  except RuntimeError:  # a user without an entry in the list of users
    return
  if home.is_absolute():
    yield home / ".cache"


@functools.cache
def _temporary(why: str) -> Path:
  path = Path(tempfile.gettempdir()) / f"collapse_jax-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
  try:
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    mine = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
    if not (stat.S_ISDIR(found.st_mode) and mine):
      raise OSError
  except OSError:
    path = Path(tempfile.mkdtemp(prefix="collapse_jax-"))
  _log.warning("No directory for caches can be written (%s): using %s; XDG_CACHE_HOME names another.", why, path)
  return path
