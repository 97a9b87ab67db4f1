"""The directory that a binary writes: what it made there, what may be replaced, and what is missing. Imports no JAX.

Numbers come first: results.nc and config.json. config.json is also the manifest: under "made" it names every file that belongs to
the results, with its size (None: about to be written). Nothing else is ever removed; a stranger's file whose name is needed is
renamed NAME.before. Chunks of an unfinished sweep are told by their names, what `collapse loop` has made by its folder.
"""

import contextlib
import errno
import fcntl
import fnmatch
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from collapse_jax.sweeps import chunks

_log = logging.getLogger(__name__)
RESULTS, CONFIG, REPORT, FIGURES = "results.nc", "config.json", "report.html", "figures"
UNFINISHED, CHUNKS, LOCK = "unfinished.json", "chunks", ".lock"
KEPT = (
  "samples",
  "models",
  "evaluations",
  "checkpoints",
)  # of a language model: made among the chunks, kept beside the results
LOOP = "loop"  # steps of `collapse loop`
COMMITTED = ("*.chunk", "*.npz")  # what a sweep goes on from
_CHUNK_FILES = (
  *COMMITTED,
  "*.shard",  # parts of parameters that several processes hold
  "*.part",
  "sweep.json",
  "run.json",
  "seed_*_generation_*.jsonl",
  "seeds_*_generation_*.sha256",
  "seed_*_generation_*.json",
  LOCK,
  "*.safetensors",  # of models, with what transformers and PEFT write beside them
  "*.safetensors.index.json",
  "*config.json",
  "tokenizer*",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
)
_DEEPEST = 3  # folders of experiments below a directory: related/verification/loop
_LONGEST_NAME, _LONGEST_PATH = 255, 4096 - 300  # bytes, without the names that come below


def too_long(path: Path) -> bool:
  """Whether no file system would take it."""
  parts = [len(os.fsencode(part)) for part in path.absolute().parts]
  return max(parts) > _LONGEST_NAME or sum(parts) + len(parts) > _LONGEST_PATH


# ------------------------------------------------------------------------------------------------------ what is there
def read(path: Path) -> dict[str, Any]:
  """The JSON object in a regular file of ours; a ValueError where there is none."""
  if not path.is_file():
    raise ValueError(f"{path} is no file.")
  return chunks.read_object(path)


def made(path: Path) -> dict[str, int | None]:
  """Relative name -> size of the files that belong to the results of a directory; {} where nothing tells."""
  try:
    found = read(path / CONFIG)["made"]
    return {
      name: size for name, size in found.items() if not os.path.isabs(name) and ".." not in PurePosixPath(name).parts
    }
  except (OSError, ValueError, KeyError, AttributeError):
    return {}


def committed(path: Path) -> bool:
  """Whether an unfinished sweep, or loop, has finished anything."""
  return any(any((path / CHUNKS).rglob(one)) for one in COMMITTED) or any((path / LOOP).glob("steps/*/step.json"))


def is_loop(path: Path) -> bool:
  """Whether `collapse loop` was begun in a directory."""
  return (path / LOOP / "loop.json").is_file()


def is_marked(path: Path) -> bool:
  """Whether a sweep was begun in a directory; a power failure may have left nothing in the marker."""
  marker = path / UNFINISHED
  return _is_config(marker) or (marker.is_file() and not marker.stat().st_size)


def strange(path: Path, beside: Sequence[Path] = ()) -> str:
  """A file that the program did not make, hidden ones left out; "" if there is none.

  Args:
    beside: files and folders below the directory that are for something else, such as the curves of this run.
  """
  mine = set(made(path))
  if os.path.lexists(path / UNFINISHED) and not is_marked(path):
    return UNFINISHED
  if CHUNKS in mine or is_marked(path):
    mine |= {str(file.relative_to(path)) for file in _chunk_files(path / CHUNKS)}
  mine |= {UNFINISHED}
  others = {one.absolute() for one in [*beside, *([path / LOOP] if is_loop(path) else [])]}
  for place in sorted(path.iterdir()) if path.is_dir() else ():
    below = (Path(folder, name) for folder, _, files in os.walk(place) for name in sorted(files))  # also behind a link
    for file in below if place.is_dir() else [place]:
      relative = file.relative_to(path)
      hidden = relative.parts[0].startswith(".") or file.name == LOCK
      if not hidden and str(relative) not in mine and not others & {file.absolute(), *file.absolute().parents}:
        return str(relative)
  return ""


def missing(path: Path) -> list[str]:
  """Files of the manifest, the report in any case, that are not there, or not as large as they were written."""
  known = made(path)
  return [name for name in {REPORT, *known} if name not in known or not _is_whole(path / name, known[name])]


def is_drawn(name: str) -> bool:
  """Whether a file is made from the numbers alone."""
  return name == REPORT or PurePosixPath(name).parent.name == FIGURES


def _is_whole(file: Path, size: int | None) -> bool:
  try:
    return 0 < file.stat().st_size == (size or file.stat().st_size)
  except OSError:
    return False


def writer(path: Path) -> Path | None:
  """A directory above or below in which another process is writing."""
  around = [
    parent for parent in path.absolute().parents if any((parent / name).is_file() for name in (UNFINISHED, CONFIG))
  ]
  for folder, names, _ in os.walk(path):
    below = len(Path(folder).relative_to(path).parts)
    around += [Path(folder)] if below else []
    names[:] = [
      name
      for name in names
      if below < _DEEPEST and name not in (FIGURES, CHUNKS, LOOP, *KEPT) and not name.startswith(".")
    ]
  return next((one for one in around if _is_locked(one / LOCK)), None)


def _is_locked(file: Path) -> bool:
  try:
    opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
  except OSError:
    return False
  try:
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return False
  except OSError as error:
    return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
  finally:
    os.close(opened)


# ---------------------------------------------------------------------------------------------------------- writing
def write_numbers(path: Path, config: dict[str, Any], results: Mapping[str, bytes]) -> None:
  """Results by relative name, then config.json; only when both outlive a power failure does what they replace go."""
  earlier = made(path)
  for folder in {PurePosixPath(name).parent for name in results} - {
    PurePosixPath()
  }:  # results of another run, in its place
    nested = made(path / folder)
    earlier |= {str(folder / name): size for name, size in (nested | ({CONFIG: None} if nested else {})).items()}
  _put(path, results, earlier)
  new = {name: len(content) for name, content in results.items()} | {CHUNKS: None}
  _record(path, config, earlier | new)
  release(path, set(earlier) - set(new))
  _record(path, config, new)


def write_drawn(path: Path, files: Mapping[str, bytes]) -> None:
  """Figures and the report, in the place of those that there were."""
  config = read(path / CONFIG) if _is_config(path / CONFIG) else {"command": "", "flags": {}}
  earlier = made(path)
  older = set(filter(is_drawn, earlier))
  _put(path, files, earlier)
  release(path, older - set(files))
  _record(
    path,
    config,
    {name: size for name, size in earlier.items() if name not in older}
    | {name: len(content) for name, content in files.items()},
  )


def tidy(path: Path) -> None:
  """Keeps what belongs beside complete results, and removes what was needed to go on."""
  base = path / CHUNKS
  moved = [
    file.relative_to(base)
    for name in KEPT
    for folder in base.rglob(name)
    for file in _chunk_files(folder)
    if file.suffix != ".part" and file.name != LOCK
  ]
  config, known = read(path / CONFIG), made(path)
  names = {str(one): (base / one).stat().st_size for one in moved}
  _make_room(path, names, known)
  _record(path, config, known | names)
  for one in moved:
    chunks.make_folder((path / one).parent)
    _move(base / one, path / one)
  clear(base)
  _prune({(base / one).parent for one in moved}, path)
  _record(path, config, {name: size for name, size in (known | names).items() if name != CHUNKS})


def home(folder: Path) -> Path:
  """Where a folder among the chunks, of what is `KEPT`, lies once the results are complete."""
  parts = list(folder.parts)
  if CHUNKS in parts:
    del parts[len(parts) - 1 - parts[::-1].index(CHUNKS)]
  return Path(*parts)


def clear(folder: Path) -> None:
  """Removes the files of a sweep, and folders that are empty then; what is not its own, and a link to another disk, stays."""
  files = list(_chunk_files(folder))
  for file in files:
    file.unlink(missing_ok=True)
  _prune({file.parent for file in files} | {folder}, folder.parent)


def release(path: Path, names: Iterable[str]) -> None:
  """Removes files, and folders that are empty then. Folders are never removed with anything in them."""
  names = [name for name in names if (path / name).is_symlink() or not (path / name).is_dir()]
  for name in names:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      (path / name).unlink()
  _prune({(path / name).parent for name in names}, path)


def set_aside(path: Path, name: str) -> None:
  """Renames what the program did not make and whose name it needs."""
  aside = next(
    one for i in range(1, 1 << 30) if not os.path.lexists(one := path / f"{name}.before{i if i > 1 else ''}")
  )
  _log.warning("%s was not made by this program: it is now %s", path / name, aside)
  chunks.rename(path / name, aside)


def _make_room(path: Path, names: Iterable[str], mine: Mapping[str, Any]) -> None:
  for name in names:
    for parent in [str(one) for one in PurePosixPath(name).parents if str(one) != "."][::-1]:
      if os.path.lexists(path / parent) and not (path / parent).is_dir():
        set_aside(path, parent)
    if os.path.lexists(path / name) and (name not in mine or (path / name).is_dir()):
      set_aside(path, name)


def _put(path: Path, files: Mapping[str, bytes], mine: Mapping[str, Any]) -> None:
  _make_room(path, files, mine)
  if _is_config(path / CONFIG):
    _record(path, read(path / CONFIG), dict(mine) | dict.fromkeys(set(files) - set(mine)))
  for name, content in files.items():
    chunks.make_folder((path / name).parent)
    chunks.write(path / name, content)


def _record(path: Path, config: dict[str, Any], names: Mapping[str, int | None]) -> None:
  if os.path.lexists(path / CONFIG) and not _is_config(path / CONFIG):
    set_aside(path, CONFIG)
  chunks.write(path / CONFIG, (json.dumps(config | {"made": dict(sorted(names.items()))}, indent=2) + "\n").encode())


def _is_config(file: Path) -> bool:
  try:
    return isinstance(read(file)["flags"], dict)
  except (OSError, ValueError, KeyError):
    return False


def _chunk_files(folder: Path):
  for where, _, files in os.walk(folder):
    yield from (Path(where, name) for name in files if any(fnmatch.fnmatchcase(name, one) for one in _CHUNK_FILES))


def _prune(folders: Iterable[Path], top: Path) -> None:
  """Removes folders below `top`, and those above them, that are empty."""
  below = {one for folder in folders for one in (folder, *folder.parents) if top in one.parents}
  for one in sorted(below, key=lambda one: len(one.parts), reverse=True):
    with contextlib.suppress(OSError):
      if not one.is_symlink():
        one.rmdir()


def _move(old: Path, new: Path) -> None:
  try:
    chunks.rename(old, new)
  except OSError as error:
    if error.errno != errno.EXDEV:  # another disk
      raise
    with open(old, "rb") as file:
      chunks.write(new, lambda into: shutil.copyfileobj(file, into))
    old.unlink()
