"""What the binaries share: flags, validation, and writing results. Parsing and validation import no JAX."""

import contextlib
import functools
import hashlib
import io
import ipaddress
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from collapse_jax import caches, vocabulary
from collapse_jax.data import files
from collapse_jax.sweeps import chunks

from . import directory, streams, watching
from .directory import CHUNKS, CONFIG, FIGURES, REPORT, RESULTS, UNFINISHED

FLAGS = flags.FLAGS
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA complains of every program that it finds in the cache
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is not there
SWEEP = "an unfinished sweep"
_QUOTED = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)')\s*(?=,|$)""")  # an item of a comma list
# Flags that change no number of the results.
FREE = (
  "resume",
  "overwrite",
  "output_dir",
  "dry_run",
  "chunk_size",
  "devices",
  "distributed",
  "coordinator",
  "process_id",
  "num_processes",
  "log_dir",
  "profile",
)
PATHS = ("output_dir", "log_dir", "dataset", "model")  # flags in which a shell leaves "~" as it is
FLAG_FILES, FLAG_BYTES = 100, 1 << 20  # at most, one within another
PARSED: set[str] = set()  # flags there were when they were parsed: libraries that are imported later add theirs
BEGUN = threading.Event()  # the sweep, after all checks
NUMBERS = threading.Event()  # are written
HELD: list[Path] = []  # the directory that is written
PLANS: list[Any] = []  # of a dry run, for a total over experiments
PAPER_WORKFLOWS = "replace,accumulate,accumulate_subsample"


class UsageError(Exception):
  """A bad flag, file or combination: one line that names it and says what is allowed."""


def define_common(
  num_samples: str = "10,32,100,316,1000",
  num_generations: int = 100,
  num_seeds: int = 100,
  workflows: str | None = PAPER_WORKFLOWS,
  record_every: int = 1,
  temperatures: bool = True,
) -> None:
  """Flags that every simulation has, workflows and temperatures where they are asked for."""
  if workflows is not None:
    flags.DEFINE_string("workflows", workflows, "Comma list, e.g. replace,accumulate,mix(0.2).")
  flags.DEFINE_string("num_samples", num_samples, "Comma list: rows per batch, at least 2.")
  if temperatures:
    flags.DEFINE_string("temperatures", "1", "Comma list: factor of the variance that samples are drawn with.")
  flags.DEFINE_string("num_generations", str(num_generations), "Generations T.")
  flags.DEFINE_string("num_seeds", str(num_seeds), "Runs per cell.")
  flags.DEFINE_string("record_every", str(record_every), "Keep metrics of generation 1 and of multiples of this.")
  define_shared()


def define_compare() -> None:
  """The flag of related systems."""
  flags.DEFINE_boolean("compare", True, "Set what is predicted of the system beside simulations, in the report.")


def define_shared() -> None:
  """Flags that every binary has."""
  flags.DEFINE_string("seed", "0", "Seed of all random keys.")
  flags.DEFINE_string("output_dir", None, "Where results go; default results/NAME.")
  flags.DEFINE_boolean("overwrite", False, "Replace results that the output directory holds.")
  flags.DEFINE_boolean("resume", False, "Go on with the unfinished sweep in the output directory.")
  flags.DEFINE_boolean("dry_run", False, "Print what would run, then stop.")
  flags.DEFINE_boolean("enable_x64", False, "Compute in float64.")
  flags.DEFINE_string("chunk_size", "0", "Runs in one program on each device; 0: what memory allows.")
  flags.DEFINE_string("devices", "auto", "Devices that share the runs (CPU: simulated ones); auto: all accelerators.")
  flags.DEFINE_boolean(
    "distributed", False, "One of several processes: of SLURM, of a TPU pod, or as the next three say."
  )
  flags.DEFINE_string("coordinator", None, "host:port of process 0.")
  flags.DEFINE_string("process_id", None, "Which process this is, from 0.")
  flags.DEFINE_string("num_processes", None, "How many there are.")
  flags.DEFINE_string(
    "log_dir", None, "Write TensorBoard events there: curves as they come, figures at the end.", allow_override=True
  )  # absl's own, for log files, is not used
  flags.DEFINE_boolean("profile", False, "Write a trace of JAX's profiler into OUTPUT_DIR/profile.")


def main(define: Callable[[], None], run: Callable[..., None], arguments: bool = False) -> None:
  """Defines and parses flags and runs; a usage error is one line on standard error and exit status 2.

  Args:
    define: makes the flags.
    run: takes nothing, or the list of arguments that are no flags.
    arguments: whether there may be any.
  """
  streams.prepare()
  streams.on_signals(
    {
      signal.SIGTERM: lambda: fail(f"terminated{kept()}", 143, at_once=True),
      signal.SIGINT: lambda: fail(f"interrupted{kept()}", 130, at_once=True),
    }
  )
  define()
  app.run(functools.partial(_guarded, run, arguments), flags_parser=functools.partial(parse, arguments=arguments))


def parse(argv: Sequence[str], arguments: bool = False) -> list[str]:
  """Reads flags; ends with status 2 where they cannot be read."""
  PARSED.update(FLAGS)
  for one in argv:
    if not _is_text(one):
      fail(f"{one!r} is not UTF-8: results name what made them in UTF-8, and cannot name this.")
  try:
    rest = FLAGS(_with_flag_files(list(argv)))
  except flags.Error as error:
    fail(f"{str(error).splitlines()[0].rstrip('.')}; --help lists the flags.")
  except ValueError as error:
    fail(f"--flagfile cannot be read: {str(error).rstrip('.')}.")
  if len(rest) > 1 and not arguments:
    fail(f"unexpected argument {rest[1]!r}; flags are written --name=value.")
  for name in PATHS:
    if flag(name, None):
      FLAGS[name].value = os.path.expanduser(str(FLAGS[name].value))
  return rest


def _is_text(text: str) -> bool:
  try:
    return bool(text.encode()) or not text
  except UnicodeEncodeError:
    return False


def _with_flag_files(argv: list[str]) -> list[str]:
  """The arguments, with those of flag files in their place; a ValueError where one cannot be read.

  A name that is not found is one of this package's own flag files.
  """
  read = 0
  at = 1
  while at < len(argv) and argv[at] != "--":
    given = re.fullmatch(r"--?flagfile(?:=(.*))?", argv[at], re.DOTALL)
    if given is None:
      at += 1
      continue
    name, used = (given[1], 1) if given[1] is not None else ("".join(argv[at + 1 : at + 2]), 2)
    path = Path(os.path.expanduser(name.strip("\"'")))
    own = Path(__file__).parent / "flags" / path.name
    read += 1
    if read > FLAG_FILES:
      raise ValueError(f"{path} is one of more than {FLAG_FILES}, one within another.")
    lines = files.read_text(own if not os.path.lexists(path) and own.is_file() else path, FLAG_BYTES).splitlines()
    argv[at : at + used] = [line.strip() for line in lines if line.strip() and not line.strip().startswith(("#", "//"))]
  return argv


def _guarded(run, arguments: bool, argv: Sequence[str]) -> None:
  if not FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  try:
    run(argv[1:]) if arguments else run()
  except UsageError as error:
    fail(str(error))
  except MemoryError as error:
    fail(str(error) or "memory does not suffice.", 1)
  except OSError as error:
    fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}{kept()}", 1)
  except Exception as error:
    if not BEGUN.is_set():
      raise
    traceback.print_exc()
    fail(f"{type(error).__name__}{kept()}", 1)


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


# ------------------------------------------------------------------------------------------------------ values
def integer(name: str, least: int = 1) -> int:
  return _number(name, getattr(FLAGS, name), int, least, strict=False)


def integers(name: str, least: int = 1) -> list[int]:
  return [_number(name, item, int, least, strict=False) for item in items(name)]


def positives(name: str) -> list[float]:
  return [_number(name, item, float, 0.0, strict=True) for item in items(name)]


def shares(name: str, zero: bool = True) -> list[float]:
  """A comma list of numbers from 0, or above it, to 1."""
  return [_share(name, item, zero) for item in items(name)]


def share(name: str, zero: bool = True) -> float:
  return _share(name, getattr(FLAGS, name), zero)


def positive(name: str) -> float:
  return _number(name, getattr(FLAGS, name), float, 0.0, strict=True)


def _share(name, text, zero):
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value <= 1 or (value == 0 and not zero):
    raise UsageError(f"--{name} must be {'numbers from 0' if zero else 'numbers above 0'} to 1, got {text!r}.")
  return value


def items(name: str) -> list[str]:
  """A comma list; what stands in quotes or brackets is not split."""
  text = getattr(FLAGS, name)
  found = _split(text)
  if not text.strip() or not all(found):
    raise UsageError(f"--{name} must be a comma list without empty items, got {text!r}.")
  if len(set(found)) < len(found):
    raise UsageError(f"--{name} names an item twice: {text!r}.")
  return found


def _split(text: str) -> list[str]:
  closing, opened = {}, []
  for at, character in enumerate(text):
    if character in "([{":
      opened.append(at)
    elif character in ")]}" and opened:
      closing[opened.pop()] = at
  found, at, begun = [], 0, 0
  while at <= len(text):
    quoted = _QUOTED.match(text, at) if at == begun else None
    if quoted is not None:
      found.append(quoted[1] if quoted[1] is not None else quoted[2])
      at = begun = quoted.end() + 1
    elif at == len(text) or text[at] == ",":
      found.append(os.path.expanduser(text[begun:at].strip()))
      at = begun = at + 1
    else:
      at = closing.get(at, at) + 1
  return found


def choices(name: str, allowed: Sequence[str]) -> list[str]:
  for item in items(name):
    if item not in allowed:
      raise UsageError(f"--{name} must be among {', '.join(allowed)}, got {item!r}.")
  return items(name)


def choice(name: str, allowed: Sequence[str]) -> str:
  if getattr(FLAGS, name) not in allowed:
    raise UsageError(f"--{name} must be one of {', '.join(allowed)}, got {getattr(FLAGS, name)!r}.")
  return getattr(FLAGS, name)


def _number(name, text, kind, least, strict):
  what = {int: "an integer", float: "a number"}[kind]
  most = vocabulary.LARGEST if kind is int else sys.float_info.max
  bound = f"above {least:g}" if strict else f"of at least {least}"
  try:
    value = kind(text)
  except ValueError:
    raise UsageError(f"--{name} must be {what} {bound}, got {text!r}.") from None
  if value > most and value < float("inf"):
    raise UsageError(f"--{name} must be {what} of at most {most}, got {text!r}.")
  if not least <= value <= most or (strict and value == least):
    raise UsageError(f"--{name} must be {what} {bound}, got {text!r}.")
  return value


def common_options() -> dict[str, Any]:
  """Validated values of the single-valued flags that `sweep` takes."""
  return {
    "num_generations": integer("num_generations"),
    "num_seeds": integer("num_seeds"),
    "seed": integer("seed", 0),
    "record_every": integer("record_every"),
  }


def related_options() -> dict[str, Any]:
  """The same of a related system."""
  return common_options() | {"compare": FLAGS.compare}


def output_dir(default: str, compared: Sequence[str] = ()) -> Path:
  """The directory to write, checked but not yet made.

  Args:
    compared: flags that a sweep to resume must share, beside those that fix its numbers.
  """
  path = Path(FLAGS.output_dir or default)
  _check_writable("output_dir", path)
  _check_held(path, compared)
  return path


def _beside() -> list[Path]:
  """Where the curves of this run are, which may be below its output directory."""
  return [Path(FLAGS.log_dir)] if flag("log_dir", None) else []


def _check_held(path: Path, compared: Sequence[str]) -> None:
  """What is there may be gone on with, or replaced, where flags say so."""
  what, flags_of = _held(path)
  strange = "" if FLAGS.overwrite or (what and FLAGS.resume) else directory.strange(path, _beside())
  if what and FLAGS.resume:
    if flags_of is not None:
      _check_same(flags_of, f"{path} holds {what} made", compared)
    elif what != SWEEP:
      raise UsageError(
        f"--resume: {path / CONFIG} is missing or damaged, so that nothing says what made the results; "
        "--overwrite begins anew."
      )
  elif what and not FLAGS.overwrite:
    ways = "--resume to go on, --overwrite to begin anew" if what == SWEEP else "--overwrite"
    raise UsageError(f"--output_dir={path} already holds {what}; give {ways}, or another directory.")
  elif strange:
    raise UsageError(
      f"--output_dir={path} already holds {strange}, which this program did not make; name another directory, or "
      "give --overwrite: it stays there."
    )
  busy = directory.writer(path)
  if busy is not None:
    raise UsageError(f"--output_dir={path}: {busy} is being written by another process.")


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
  except ValueError as error:
    raise UsageError(f"--{str(error).rstrip('.')}; --overwrite begins anew.") from None


def _check_writable(name: str, path: Path) -> None:
  if directory.too_long(path):
    raise UsageError(f"--{name} is a path that is too long for a file system: {str(path)[:60]}...")
  parent = path
  while not os.path.lexists(parent):
    parent = parent.parent
  if not parent.is_dir():
    what = (
      f"is {_kind(parent)}; name a directory" if parent == path else f"lies below {parent}, which is {_kind(parent)}"
    )
    raise UsageError(f"--{name}={path} {what}.")
  try:
    with tempfile.TemporaryFile(dir=parent):
      pass
  except OSError as error:
    raise UsageError(f"--{name}={path} cannot be written: {parent} is not writable ({error.strerror}).") from None


def _kind(path: Path) -> str:
  return "a symbolic link to nothing" if path.is_symlink() and not path.exists() else "a file"


def check_workflows(law: bool) -> list[str]:
  """The workflow list, checked."""
  for name in items("workflows"):
    try:
      vocabulary.check_workflow(name)
    except ValueError as error:
      raise UsageError(f"--workflows: {error}") from None
  if law and any(name.startswith("accumulate_subsample") for name in items("workflows")):
    raise UsageError(
      "--draws=law keeps statistics only, and --workflows=accumulate_subsample needs rows: "
      "use --draws=auto or --draws=rows."
    )
  return items("workflows")


# ------------------------------------------------------------------------------------------------------- running
def simulate_and_write(
  default_dir: str,
  simulate: Callable[..., Any],
  options: dict[str, Any],
  *,
  folders: Sequence[str] = ("",),
  compared: Sequence[str] = (),
) -> None:
  """Simulates and writes the results, or goes on with a sweep, or says what would run.

  Numbers are on disk before anything is drawn; a figure or report that fails is a warning, and --resume makes it.

  Args:
    simulate: called with the options and with `directory`, for what it finishes on the way; results, a dict of them by
      folder, or None.
    options: validated; nothing has been imported or written yet.
    folders: of the experiments in a directory that holds several.
    compared: see `output_dir`.
  """
  check_machine()
  path = output_dir(default_dir, compared)
  if FLAGS.dry_run:
    simulate(**options)
    return
  with contextlib.ExitStack() as stack:
    needed = _agreed(lambda: stack.enter_context(_unfinished(path, compared, folders)))
    if needed:
      BEGUN.set()
      HELD.append(path)
      with _profiled(path):
        results = simulate(**options, directory=path / CHUNKS)
      if is_first_process():
        write_numbers(results if isinstance(results, dict) else {"": results}, path)
      del results  # memory, for what is drawn is read again
    if is_first_process():
      draw(path, folders)
  _agreed(lambda: True)  # that all have ended well


def _agreed(decide: Callable[[], bool]) -> bool:
  """What process 0 decides, for all processes; also the error that it ends with."""
  go, why, kind = False, "", ""
  try:
    go = is_first_process() and decide()
  except (UsageError, OSError) as error:
    if not flag("distributed", False):
      raise
    why, kind = str(error), type(error).__name__
  if flag("distributed", False):
    import numpy as np

    from collapse_jax.sweeps import devices

    said = devices.gather({"said": np.frombuffer(json.dumps([go, why, kind]).encode(), np.uint8)})[0]
    go, why, kind = json.loads(said["said"].tobytes())
  if why:
    raise (UsageError if kind == UsageError.__name__ else OSError)(why)
  return go


@contextlib.contextmanager
def _unfinished(path: Path, compared: Sequence[str], folders: Sequence[str]) -> Iterator[bool]:
  """Holds the directory for this process alone, and marks it as unfinished until `write_numbers`.

  Yields whether there is anything to compute. After an error before which nothing was finished, the directory is as it was.
  """
  import filelock

  made = [one for one in (path, *path.parents) if not one.exists()]
  chunks.make_folder(path)
  lock = filelock.FileLock(path / directory.LOCK, blocking=False)
  try:
    lock.acquire()
  except filelock.Timeout:
    raise UsageError(f"--output_dir={path} is being written by another process.") from None
  marker, begun = path / UNFINISHED, False
  try:
    _check_held(path, compared)  # again, for another process may have ended since
    what, _ = _held(path)
    if FLAGS.resume and what == "results":
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


@contextlib.contextmanager
def _profiled(path: Path) -> Iterator[None]:
  if not FLAGS.profile:
    yield
    return
  prepare_jax()
  import jax

  begun = harmless("--profile", jax.profiler.start_trace, str(path / "profile"))
  try:
    yield
  finally:
    if begun:
      harmless("--profile", jax.profiler.stop_trace)


def harmless(what: str, step: Callable[..., Any], *arguments) -> bool:
  """Whether a step that no number depends on went well; else a warning says why."""
  try:
    step(*arguments)
    return True
  except Exception as error:
    reason = str(error).strip().splitlines() or [""]
    warn(f"{what} failed: {type(error).__name__}: {reason[0][:300]}")
    return False


def check_machine() -> None:
  """Flags that say where to run; no JAX."""
  integer("chunk_size", 0)
  if FLAGS.devices != "auto":
    integer("devices")
  given = [name for name in ("coordinator", "process_id", "num_processes") if getattr(FLAGS, name) is not None]
  if given and not FLAGS.distributed:
    raise UsageError(f"--{given[0]} needs --distributed.")
  if given and len(given) < 3:
    raise UsageError(
      "--coordinator, --process_id and --num_processes go together: give all three, or none where SLURM "
      "or a TPU pod tells them."
    )
  if given:
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:]+):\d{1,5}", FLAGS.coordinator):
      raise UsageError(f"--coordinator must be host:port, got {FLAGS.coordinator!r}.")
    if integer("process_id", 0) >= integer("num_processes"):
      raise UsageError(f"--process_id must be below --num_processes={FLAGS.num_processes}, got {FLAGS.process_id!r}.")
  if FLAGS.log_dir is not None:
    _check_writable("log_dir", Path(FLAGS.log_dir))
    if not watching.available():
      raise UsageError("--log_dir needs tensorboardX: pip install 'collapse-jax[watch]'.")


def is_first_process() -> bool:
  """Whether this process writes results."""
  if not flag("distributed", False):
    return True
  prepare_jax()
  import jax

  return jax.process_index() == 0


def _has_home() -> bool:
  try:
    return bool(Path.home())
  except RuntimeError:
    return False


@functools.cache
def prepare_jax() -> None:
  """Precision, devices, other processes, and a compilation cache on disk that makes the second start fast."""
  import jax

  jax.config.update("jax_enable_x64", FLAGS.enable_x64 if "enable_x64" in FLAGS else False)
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    harmless(
      "a cache of compiled programs", lambda: jax.config.update("jax_compilation_cache_dir", str(caches.directory()))
    )
  if not _has_home():  # older versions of Matplotlib ask for one
    with contextlib.suppress(OSError):
      os.environ.setdefault("MPLCONFIGDIR", str(caches.directory("matplotlib")))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  if "devices" in FLAGS and FLAGS.devices != "auto" and integer("devices") > 1:
    jax.config.update("jax_num_cpu_devices", integer("devices"))
  if "distributed" in FLAGS and FLAGS.distributed:
    given = (
      {}
      if FLAGS.coordinator is None
      else {
        "coordinator_address": FLAGS.coordinator,
        "num_processes": integer("num_processes"),
        "process_id": integer("process_id", 0),
        "coordinator_bind_address": bind_address(FLAGS.coordinator),
      }
    )
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
      jax.distributed.initialize(**given, heartbeat_timeout_seconds=30)
    except (RuntimeError, ValueError) as error:
      raise UsageError(f"--distributed: {error}") from None
  from collapse_jax.sweeps import devices

  try:
    devices.check()
  except ValueError as error:
    raise UsageError(str(error)) from None


def bind_address(coordinator: str) -> str | None:
  """Where process 0 listens: at the address that was named. None: everywhere, for to a host its own name may be another address."""
  host = coordinator.rpartition(":")[0]
  with contextlib.suppress(ValueError):
    return coordinator if host == "localhost" or ipaddress.ip_address(host.strip("[]")) else None
  if integer("process_id", 0) == 0:
    warn(f"process 0 listens on all interfaces, for anybody: name an address instead of {host} to listen there alone.")
  return None


def mesh():
  """The devices that --devices asks for; None for a single one."""
  import jax

  from collapse_jax.sweeps import devices

  if flag("devices", "auto") != "auto":
    try:
      return devices.mesh_of(integer("devices")) if integer("devices") > 1 else None
    except ValueError as error:
      raise UsageError(f"--{error}") from None
  return None if jax.default_backend() == "cpu" else devices.mesh_of()


def simulate(task, workflows, axes: dict[str, list], **options):
  """`collapse_jax.sweep` as the flags ask, with usage errors for what it refuses; None after a dry run."""
  prepare_jax()
  from collapse_jax.sweeps.scheduler import plan, sweep

  try:
    if FLAGS.dry_run:
      options = {
        name: value
        for name, value in options.items()
        if name in ("num_generations", "num_seeds", "record_every", "static_axes")
      }
      PLANS.append(plan(task, workflows, axes, **options))
      print(PLANS[-1])
      return None
    if FLAGS.log_dir and is_first_process():
      options["on_cell"] = watching.on_cell(FLAGS.log_dir, options["num_generations"], options.get("record_every", 1))
    return sweep(
      task,
      workflows,
      axes,
      progress=is_first_process(),
      mesh=mesh(),
      resume=FLAGS.resume,
      chunk_size=integer("chunk_size", 0) or None,
      **options,
    )
  except ValueError as error:
    raise UsageError(name_flag(str(error))) from None


def related(results, system: str, compare: bool, **about):
  """Says of which published system a sweep is, and if asked to sets predictions of the system beside simulations."""
  if results is None:
    return None
  results.attrs |= {"task": system, "system": system, **about}
  if compare and is_first_process():
    from collapse_jax.systems.table import SYSTEMS

    rows = [row._asdict() | {"z": row.z, "twin_z": row.twin_z} for row in SYSTEMS[system].pairs()]
    results.attrs["comparisons"] = json.dumps(rows)
    worst = max(rows, key=lambda row: abs(row["z"]))
    print(
      f"{len(rows)} predictions beside simulations: largest |z| {abs(worst['z']):.1f} ({worst['quantity']})", flush=True
    )
  return results


def name_flag(message: str) -> str:
  """Library messages begin with the argument's name; on the command line that is a flag."""
  first = message.split(" ", 1)[0]
  plural = {
    "dim": "dims",
    "noise_var": "noise_vars",
    "bandwidth": "bandwidths",
    "kernel": "kernels",
    "temperature": "temperatures",
    "real_fraction": "real_fractions",
    "dataset": "datasets",
    "size": "workflows",
    "weights": "workflows",
  }.get(first, f"{first}s" if f"{first}s" in FLAGS else first)
  return f"--{message.replace(first, plural, 1)}" if plural in FLAGS else message


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
  drawn = not any(map(directory.is_drawn, missing)) or harmless(
    f"the numbers are in {path}, --resume tries again: drawing",
    lambda: directory.write_drawn(path, drawings(path, folders)),
  )
  if log_dir := flag("log_dir", None):
    harmless(f"--log_dir={log_dir}", watching.figures, Path(log_dir), path)
  print(path / (REPORT if drawn else RESULTS), flush=True)


def drawings(path: Path, folders: Sequence[str]) -> dict[str, bytes]:
  """Figures of each folder, and one report over all, by relative name."""
  import collapse_jax
  from collapse_jax import plotting, report

  made: dict[str, bytes] = {}
  experiments, images = {}, {}
  for folder in folders:
    results = collapse_jax.load(path / folder / RESULTS)
    name = folder or str(results.attrs.get("task", "results"))
    experiments[name] = results
    drawn = plotting.render(results)
    images[name] = {title: png for title, (png, _) in drawn.items()}
    for title, (png, pdf) in drawn.items():
      made |= {str(Path(folder, FIGURES, f"{title}.png")): png, str(Path(folder, FIGURES, f"{title}.pdf")): pdf}
  return made | {REPORT: report.page(experiments, images).encode()}


def command() -> str:
  """The command that was given, in a checkout runnable from its root."""
  name = Path(sys.argv[0]).stem
  start = ["python", "-m", f"experiments.{name}"] if __package__ == "experiments" else ["collapse", "run", name]
  return shlex.join([*start, *sys.argv[1:]])


def dry_run() -> bool:
  return flag("dry_run", False)


def flag(name: str, otherwise):
  """A flag's value, also where `simulate` is called without flags."""
  return FLAGS[name].value if name in FLAGS else otherwise


def config() -> dict[str, Any]:
  """All flags of this project and their values, and a name for those that fix numbers."""
  mine = [
    flag
    for module, group in FLAGS.flags_by_module_dict().items()
    if not module.startswith("absl.")
    for flag in group
    if flag.name in PARSED
  ]
  values = {flag.name: flag.value for flag in sorted(mine, key=lambda f: f.name)}
  fixed = {name: value for name, value in values.items() if name not in FREE}
  identity = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]
  return {"command": command(), "id": identity, "flags": values}
