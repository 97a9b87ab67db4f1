"""The life of a binary: how it ends, and the directory that it writes. Imports no JAX."""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks

from . import directory, watching
from .directory import CHUNKS, CONFIG, FIGURES, REPORT, RESULTS, UNFINISHED
from .flag_values import FLAGS, FREE, command, config, flag

SWEEP = "an unfinished sweep"
BEGUN = threading.Event()  # the sweep, after all checks
COLOURS = {"diverging": 31, "growing": 33, "undecided": 2, "bounded": 32}  # of verdicts, as terminals number them
NUMBERS = threading.Event()  # are written
HELD: list[Path] = []  # the directory that is written


def kept() -> str:
  """What an error line may promise."""
  if NUMBERS.is_set():
    return "; the numbers are written, --resume makes what is missing."
  there = HELD and (HELD[-1] / UNFINISHED).exists() and directory.committed(HELD[-1])
  return "; what is finished is kept, --resume goes on with it." if there else "."


def warn(message: str) -> None:
  print(f"warning: {_line(message)}", file=sys.stderr, flush=True)


def _line(message: str) -> str:
  """One line, of a bearable length, in which what a terminal would obey is shown."""
  return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", " ".join(message[:4000].split()))[
    :2000
  ]


def fail(message: str, status: int = 2, at_once: bool = False) -> NoReturn:
  """Ends with one line on standard error; at once (as always when a sweep has begun) without waiting for chunks that run."""
  print(f"error: {_line(message)}", file=sys.stderr, flush=True)
  if not (at_once or BEGUN.is_set()):
    sys.exit(status)
  sys.stdout.flush()
  if status == 2 and flag("distributed", False):
    time.sleep(1)  # others are about to say the same, and are aborted when the first process is gone
  os._exit(status)


def harmless(what: str, step: Callable[..., Any], *arguments) -> bool:
  """Whether a step that no number depends on went well; else a warning says why."""
  try:
    step(*arguments)
    return True
  except Exception as error:
    reason = str(error).strip().splitlines() or [""]
    warn(f"{what} failed: {type(error).__name__}: {reason[0][:300]}")
    return False


def output_dir(default: str, compared: Sequence[str] | None = ()) -> Path:
  """The directory to write, checked but not yet made.

  Args:
    compared: flags that a sweep to resume must share, beside those that fix its numbers; None: none at all, for what is finished is
      told apart by itself.
  """
  path = Path(FLAGS.output_dir or default)
  check_writable("output_dir", path)
  _check_held(path, compared)
  return path


def _beside() -> list[Path]:
  """Where the curves of this run are, which may be below its output directory."""
  return [Path(FLAGS.log_dir)] if flag("log_dir", None) else []


def _check_held(path: Path, compared: Sequence[str] | None) -> None:
  """What is there may be gone on with, or replaced, where flags say so."""
  if FLAGS.resume and FLAGS.overwrite:
    raise Refused("--resume goes on and --overwrite begins anew; give one of them.")
  what, flags_of = _held(path)
  strange = "" if FLAGS.overwrite or (what and FLAGS.resume) else directory.strange(path, _beside())
  if what and FLAGS.resume:
    if compared is None and not directory.is_loop(path):
      raise Refused(f"--resume: {path} holds {what} of another command; --overwrite begins anew.")
    if flags_of is not None and compared is not None:
      _check_same(flags_of, f"{path} holds {what} made", compared)
    elif what != SWEEP and flags_of is None:
      raise Refused(
        f"--resume: {path / CONFIG} is missing or damaged, so that nothing says what made the results; "
        "--overwrite begins anew."
      )
  elif what and not FLAGS.overwrite:
    ways = "--resume to go on, --overwrite to begin anew" if what == SWEEP else "--overwrite"
    raise Refused(f"--output_dir={path} already holds {what}; give {ways}, or another directory.")
  elif strange:
    raise Refused(
      f"--output_dir={path} already holds {strange}, which this program did not make; name another directory, or "
      "give --overwrite: it stays there."
    )
  busy = directory.writer(path)
  if busy is not None:
    raise Refused(f"--output_dir={path}: {busy} is being written by another process.")


def _held(path: Path) -> tuple[str, dict[str, Any] | None]:
  """What a directory holds, "" if nothing, and the flags that made it; None: nothing tells, but chunks do themselves.

  A sweep of which nothing is finished is as none.
  """
  finished = directory.committed(path)
  for name, what in ((UNFINISHED, SWEEP if finished else ""), (CONFIG, "results")):
    if what and os.path.lexists(path / name):
      try:
        return what, dict(directory.read(path / name)["flags"])
      except (OSError, ValueError, KeyError, TypeError):
        return what, None
  if any(os.path.lexists(path / name) for name in (RESULTS, REPORT)):
    return "results", None
  return (SWEEP, None) if finished else ("", None)


def _check_same(theirs: dict[str, Any], what: str, compared: Sequence[str]) -> None:
  fixed = lambda flags: {f"--{name}": value for name, value in flags.items() if name in compared or name not in FREE}
  try:
    chunks.check_same(fixed(theirs), fixed(config()["flags"]), what)
  except Refused as error:
    raise Refused(f"--{str(error).rstrip('.')}; --overwrite begins anew.") from None


def check_writable(name: str, path: Path) -> None:
  if directory.too_long(path):
    raise Refused(f"--{name} is a path that is too long for a file system: {str(path)[:60]}...")
  parent = path
  while not os.path.lexists(parent):
    parent = parent.parent
  if not parent.is_dir():
    what = (
      f"is {_kind(parent)}; name a directory" if parent == path else f"lies below {parent}, which is {_kind(parent)}"
    )
    raise Refused(f"--{name}={path} {what}.")
  try:
    with tempfile.TemporaryFile(dir=parent):
      pass
  except OSError as error:
    raise Refused(f"--{name}={path} cannot be written: {parent} is not writable ({error.strerror}).") from None


def _kind(path: Path) -> str:
  return "a symbolic link to nothing" if path.is_symlink() and not path.exists() else "a file"


@contextlib.contextmanager
def unfinished(path: Path, compared: Sequence[str] | None, folders: Sequence[str]) -> Iterator[bool]:
  """Holds the directory for this process alone, and marks it as unfinished until `write_numbers`.

  Yields whether there is anything to compute. After an error before which nothing was finished, the directory is as it was.
  """
  made = [one for one in (path, *path.parents) if not one.exists()]
  chunks.make_folder(path)
  lock = _lock(path)
  marker, begun = path / UNFINISHED, False
  try:
    _check_held(path, compared)  # again, for another process may have ended since
    what, _ = _held(path)
    if FLAGS.resume and what == "results" and compared is not None:
      directory.tidy(path)
      lost = _lost(path, folders)
      if not lost:
        NUMBERS.set()
        yield False
        return
      warn(f"{lost}; its chunks are gone, so that all is computed again.")
    begun = not (FLAGS.resume and what == SWEEP)
    if begun:
      _clear_chunks(path)
    if os.path.lexists(marker) and not directory.is_marked(path):
      directory.set_aside(path, UNFINISHED)
    if begun or not marker.exists():
      chunks.write(marker, (json.dumps(config(), indent=2) + "\n").encode())
    yield True
  except BaseException:
    if begun and not NUMBERS.is_set() and not directory.committed(path):
      directory.clear(path / CHUNKS)
      directory.release(path, [UNFINISHED])
    if path in made and not marker.exists() and not NUMBERS.is_set():
      chunks.remove(path / "profile")  # of this run
      directory.release(path, [directory.LOCK])
      for one in made:
        with contextlib.suppress(OSError):
          one.rmdir()
    raise
  finally:
    lock.release()


def _lock(path: Path):
  """A directory for this process alone, until it is released."""
  import filelock

  lock = filelock.FileLock(path / directory.LOCK, blocking=False)
  try:
    lock.acquire()
  except filelock.Timeout:
    raise Refused(f"--output_dir={path} is being written by another process.") from None
  return lock


def _clear_chunks(path: Path) -> None:
  """Removes chunks that this program left in a directory; those of somebody else are set aside."""
  mine = directory.is_marked(path) or CHUNKS in directory.made(path)
  if not mine and os.path.lexists(path / CHUNKS) and (not (path / CHUNKS).is_dir() or directory.committed(path)):
    directory.set_aside(path, CHUNKS)
  directory.clear(path / CHUNKS)


def _lost(path: Path, folders: Sequence[str]) -> str:
  """Which numbers cannot be read, or ""."""
  import collapse_jax

  for file in (path / folder / RESULTS for folder in folders):
    try:
      collapse_jax.load(file)
    except (OSError, ValueError, KeyError, RuntimeError):
      return f"{file} is {'damaged' if file.exists() else 'missing'}"
  return ""


def write(results, path: Path) -> None:
  """results.nc, config.json, figures/ and report.html, in this order."""
  write_numbers({"": results}, path)
  draw(path, ("",))


def write_numbers(experiments: dict[str, Any], path: Path) -> None:
  """results.nc of each folder, and config.json; from here on these are results, and what was needed to go on goes."""
  about = config()
  contents = {}
  for name, results in experiments.items():
    results.attrs |= {"command": command(), "config_id": about["id"]} | ({"experiment": name} if name else {})
    numbers = [name for name, value in results.data_vars.items() if value.dtype.kind in "bfi"]
    buffer = io.BytesIO()  # the library crashes where the disk is full
    results.to_netcdf(buffer, engine="h5netcdf", encoding={name: {"zlib": True, "complevel": 1} for name in numbers})
    contents[str(Path(name, RESULTS))] = buffer.getvalue()
  directory.write_numbers(path, about, contents)
  NUMBERS.set()
  directory.release(path, [UNFINISHED])
  directory.tidy(path)


def draw(path: Path, folders: Sequence[str]) -> None:
  """Figures and the report from results.nc, if one is missing; what fails is a warning."""
  missing = directory.missing(path)
  for name in missing:
    if not directory.is_drawn(name):
      warn(f"{path / name} is missing or damaged; only --overwrite makes it again.")
  if all(map(directory.is_drawn, missing)):
    harmless("the table of verdicts", tell, path, folders)  # before figures, which take longer
  drawn = not any(map(directory.is_drawn, missing)) or harmless(
    f"the numbers are in {path}, --resume tries again: drawing",
    lambda: directory.write_drawn(path, drawings(path, folders)),
  )
  if log_dir := flag("log_dir", None):
    harmless(f"--log_dir={log_dir}", watching.figures, Path(log_dir), path)
  print(path / (REPORT if drawn else RESULTS), flush=True)


def tell(path: Path, folders: Sequence[str]) -> None:
  """The answer on standard error, beside the progress: what is on standard output is for programs. Coloured for a terminal."""
  from collapse_jax import report

  from . import compare

  rows: list[tuple[str, ...]] = [("verdict", "cells", "experiment", "workflow", "what decided")]
  for folder in folders:
    name, results = _experiment(path, folder)
    for one in report.answers(results) if "generation" in results.sizes else []:
      cells = f"{one.counts[one.label]} of {sum(one.counts.values())}"
      possible = f" ({one.possible})" if one.possible else ""
      told = one.label, cells, name, one.workflow, f"{one.about}: {one.number}{possible}"
      rows.append(tuple(map(_line, told)))
  lines = compare.aligned(rows).splitlines()
  if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
    lines[1:] = [
      line.replace(label, f"\033[{COLOURS[label]}m{label}\033[0m", 1) for line, (label, *_) in zip(lines[1:], rows[1:])
    ]
  if len(rows) > 1:
    print("\n".join(lines), file=sys.stderr, flush=True)


def redraw(path: Path, folders: Sequence[str]) -> None:
  """Figures and the report from results.nc, whether or not there are any."""
  lock = _lock(path)
  try:
    directory.write_drawn(path, drawings(path, folders))
  finally:
    lock.release()


def drawings(path: Path, folders: Sequence[str]) -> dict[str, bytes]:
  """Figures of each folder, and one report over all, by relative name."""
  from collapse_jax import plotting, report

  made: dict[str, bytes] = {}
  experiments, images = {}, {}
  for folder in folders:
    name, results = _experiment(path, folder)
    experiments[name] = results
    drawn = plotting.render(results)
    images[name] = {title: png for title, (png, _) in drawn.items()}
    for title, (png, pdf) in drawn.items():
      made |= {str(Path(folder, FIGURES, f"{title}.png")): png, str(Path(folder, FIGURES, f"{title}.pdf")): pdf}
  return made | {REPORT: report.page(experiments, images).encode()}


def _experiment(path: Path, folder: str) -> tuple[str, Any]:
  """What the report calls an experiment, and its Dataset."""
  import collapse_jax

  results = collapse_jax.load(path / folder / RESULTS)
  return folder or str(results.attrs.get("task", "results")), results
