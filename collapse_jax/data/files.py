"""Files that people bring, read within bounds: one kind of error, in one line, whatever lies at a path. Imports no JAX.

What is no regular file is never opened for long: a device is refused, a pipe is read once, up to a size, and never waited for
without end.
"""

import errno
import json
import os
import select
import stat
from typing import Any

from collapse_jax.refused import Refused

__all__ = [
  "JSON_BYTES",
  "MIB",
  "PIPE_SECONDS",
  "check_regular",
  "exact_numbers",
  "home",
  "read_bytes",
  "read_json",
  "read_text",
  "shown",
]

MIB = 1 << 20
JSON_BYTES = 64 * MIB  # more than any tokenizer.json there is
PIPE_SECONDS = 60.0  # in which nothing came
_piped: dict[tuple[int, int], bytes] = {}  # what has been read from a pipe, which gives it only once


def read_bytes(path, most: int, pipe: bool = False) -> bytes:
  """The content of a regular file.

  Args:
    path: of the file.
    most: bytes it may have.
    pipe: read a pipe as well (`<(command)`, `/dev/stdin`, a FIFO); each gives the same bytes however often it is read here.
  Raises:
    ValueError: it is not there, is no such file, is larger or cannot be read; the message names file and fault.
  """
  try:
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # without which opening a FIFO may never return
  except FileNotFoundError:
    raise Refused(f"{shown(path)}: no such file.") from None
  except (OSError, ValueError) as error:
    raise Refused(f"{shown(path)} cannot be read: {_reason(error)}.") from None
  try:
    about = os.fstat(number)
    if stat.S_ISDIR(about.st_mode):
      raise Refused(f"{shown(path)} is a directory, not a file.")
    if stat.S_ISFIFO(about.st_mode) and pipe:
      place = about.st_dev, about.st_ino
      if place not in _piped:
        _piped[place] = _read(number, path, most)
      return _piped[place]
    if not stat.S_ISREG(about.st_mode):
      raise Refused(f"{shown(path)} is no regular file.")
    if about.st_size > most:
      raise Refused(_too_large(path, most))
    return _read(number, path, most)
  except OSError as error:
    raise Refused(f"{shown(path)} cannot be read: {_reason(error)}.") from None
  except MemoryError:
    raise Refused(f"{shown(path)} is too large for this machine's memory.") from None
  finally:
    os.close(number)


def read_text(path, most: int, pipe: bool = False) -> str:
  """UTF-8 text of a file, without a byte order mark; see `read_bytes`.

  Args:
    path: of the file.
    most: bytes that may be read.
    pipe: read a pipe as well.
  """
  try:
    return read_bytes(path, most, pipe).decode("utf-8-sig")
  except UnicodeDecodeError:
    raise Refused(f"{shown(path)} cannot be read: it is not UTF-8 text.") from None


def read_json(path, most: int = JSON_BYTES) -> dict[str, Any]:
  """A JSON object from a file; see `read_bytes`. A ValueError where it holds none."""
  content = read_bytes(path, most)
  try:
    found = json.loads(content.decode("utf-8-sig"))
  except (ValueError, RecursionError) as error:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else "no text, or nested too deep"
    raise Refused(f"{shown(path)} cannot be read: it is no JSON ({reason}).") from None
  if not isinstance(found, dict):
    raise Refused(f"{shown(path)} cannot be read: it holds no JSON object.")
  return found


def check_regular(path, most: int | None = None) -> int:
  """Bytes of a regular file that a library is going to read by itself; a ValueError as of `read_bytes`."""
  try:
    about = os.stat(path)
  except FileNotFoundError:
    raise Refused(f"{shown(path)}: no such file.") from None
  except (OSError, ValueError) as error:
    raise Refused(f"{shown(path)} cannot be read: {_reason(error)}.") from None
  if not stat.S_ISREG(about.st_mode):
    raise Refused(f"{shown(path)} is no regular file.")
  if most is not None and about.st_size > most:
    raise Refused(_too_large(path, most))
  return about.st_size


def exact_numbers() -> dict[str, Any]:
  """What makes `pandas.read_csv` read numbers as they were written: later versions always do."""
  import pandas

  return {"float_precision": "round_trip"} if tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1) else {}


def home(path):
  """A path with a leading ~ or ~user replaced, where no file has that name."""
  return path if not str(path).startswith("~") or os.path.lexists(path) else os.path.expanduser(path)


def shown(name, most: int = 200) -> str:
  """A name that comes from a file, or a path, for a message: printable, and not longer than `most` characters."""
  text = os.fspath(name) if isinstance(name, os.PathLike) else str(name)
  text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text[: most + 1])
  return text if len(text) <= most else text[:most] + "..."


def _read(number: int, path, most: int) -> bytes:
  parts: list[bytes] = []
  size = 0
  poll = select.poll()
  poll.register(number, select.POLLIN)
  while True:
    try:
      part = os.read(number, MIB) if poll.poll(1000 * PIPE_SECONDS) else None
    except BlockingIOError:
      continue
    if part is None:
      raise Refused(f"{shown(path)}: nothing came from this pipe for {PIPE_SECONDS:.0f} seconds.")
    if not part:
      return b"".join(parts)
    size += len(part)
    if size > most:
      raise Refused(_too_large(path, most))
    parts.append(part)


def _too_large(path, most: int) -> str:
  return f"{shown(path)} is larger than {most / MIB:,.4g} MiB, the most that is read of such a file."


def _reason(error: OSError | ValueError) -> str:
  if isinstance(error, OSError) and error.errno == errno.ENXIO:
    return "it is no regular file"
  return getattr(error, "strerror", None) or str(error)
