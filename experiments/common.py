"""What the binaries share: flags, validation, and writing results. Parsing and validation import no JAX."""

import contextlib
import functools
import importlib
import io
import json
import os
import re
import shlex
import shutil
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

from collapse_jax import chunks, names
from experiments import watching

FLAGS = flags.FLAGS
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA complains of every program that it finds in the cache
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is not there
RESULTS, UNFINISHED, CHUNKS, WRITING = "results.nc", "unfinished.json", "chunks", ".writing-"
SWEEP = "an unfinished sweep"
KEPT = ("samples", "checkpoints")  # of a language model, beside its results
COMMITTED = ("*.chunk", "*.npz")  # what a sweep goes on from
GOES_ON = "; what is finished is kept, --resume goes on with it."
# Flags that change no number of the results.
FREE = ("resume", "overwrite", "output_dir", "dry_run", "chunk_size", "devices", "distributed", "coordinator", "process_id",
        "num_processes", "log_dir", "profile")
PARSED: set[str] = set()  # flags there were when they were parsed: libraries that are imported later add theirs
BEGUN = threading.Event()  # the sweep, after all checks
PLANS: list[Any] = []  # of a dry run, for a total over experiments
PAPER_WORKFLOWS = "replace,accumulate,accumulate_subsample"


class UsageError(Exception):
  """A bad flag, file or combination: one line that names it and says what is allowed."""


def define_common(num_samples: str = "10,32,100,316,1000", num_generations: int = 100, num_seeds: int = 100,
                  workflows: str | None = PAPER_WORKFLOWS, record_every: int = 1, temperatures: bool = True) -> None:
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
  flags.DEFINE_boolean("distributed", False, "One of several processes: of SLURM, of a TPU pod, or as the next three say.")
  flags.DEFINE_string("coordinator", None, "host:port of process 0.")
  flags.DEFINE_string("process_id", None, "Which process this is, from 0.")
  flags.DEFINE_string("num_processes", None, "How many there are.")
  flags.DEFINE_string("log_dir", None, "Write TensorBoard events there: curves as they come, figures at the end.",
                      allow_override=True)  # absl's own, for log files, is not used
  flags.DEFINE_boolean("profile", False, "Write a trace of JAX's profiler into OUTPUT_DIR/profile.")


def main(define: Callable[[], None], run: Callable[..., None], arguments: bool = False) -> None:
  """Defines and parses flags and runs; a usage error is one line on standard error and exit status 2.

  Args:
    define: makes the flags.
    run: takes nothing, or the list of arguments that are no flags.
    arguments: whether there may be any.
  """
  _exit_on_sigterm()
  define()
  app.run(functools.partial(_guarded, run, arguments), flags_parser=functools.partial(parse, arguments=arguments))


def parse(argv: Sequence[str], arguments: bool = False) -> list[str]:
  """Reads flags; ends with status 2 where they cannot be read."""
  PARSED.update(FLAGS)
  try:
    rest = FLAGS(argv)
  except flags.Error as error:
    fail(f"{str(error).splitlines()[0].rstrip('.')}; --help lists the flags.")
  except (OSError, UnicodeDecodeError) as error:
    fail(f"--flagfile cannot be read: {error}.")
  if len(rest) > 1 and not arguments:
    fail(f"unexpected argument {rest[1]!r}; flags are written --name=value.")
  return rest


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
    fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}{GOES_ON}", 1)
  except KeyboardInterrupt:
    fail(f"interrupted{GOES_ON}", 130, at_once=True)
  except Exception as error:
    if not BEGUN.is_set():
      raise
    traceback.print_exc()
    fail(f"{type(error).__name__}{GOES_ON}", 1)


def _exit_on_sigterm() -> None:
  """Status 143 at once, also from within a compilation: files are written in one step, so that nothing needs time to end.

  A thread is told of the signal, because Python's own handlers wait for the program that runs.
  """
  told, tell = os.pipe()
  os.set_blocking(tell, False)
  signal.signal(signal.SIGTERM, lambda number, frame: None)
  signal.set_wakeup_fd(tell, warn_on_full_buffer=False)

  def wait():
    while signal.SIGTERM not in os.read(told, 1):
      pass
    fail(f"terminated{GOES_ON}", 143, at_once=True)
  threading.Thread(target=wait, daemon=True).start()


def fail(message: str, status: int = 2, at_once: bool = False) -> NoReturn:
  """Ends with one line on standard error; at once (as always when a sweep has begun) without waiting for chunks that run."""
  print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
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
  """A comma list; commas inside brackets do not split."""
  text = getattr(FLAGS, name)
  found = [item.strip() for item in re.split(r",(?![^(]*\))", text)]
  if not text.strip() or not all(found):
    raise UsageError(f"--{name} must be a comma list without empty items, got {text!r}.")
  if len(set(found)) < len(found):
    raise UsageError(f"--{name} names an item twice: {text!r}.")
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
  most = names.LARGEST if kind is int else sys.float_info.max
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
  return {"num_generations": integer("num_generations"), "num_seeds": integer("num_seeds"), "seed": integer("seed", 0),
          "record_every": integer("record_every")}


def related_options() -> dict[str, Any]:
  """The same of a related system."""
  return common_options() | {"compare": FLAGS.compare}


def output_dir(default: str, compared: Sequence[str] = ()) -> Path:
  """The directory to write, checked but not yet made.

  Args:
    compared: flags that a sweep to resume must share, beside those that fix its numbers.
  """
  path = Path(FLAGS.output_dir or default)
  if path.exists() and not path.is_dir():
    raise UsageError(f"--output_dir={path} is a file; name a directory.")
  _check_held(path, compared)
  _check_writable("output_dir", path)
  return path


def _check_held(path: Path, compared: Sequence[str]) -> None:
  """What is there may be gone on with, or replaced, where flags say so."""
  what, flags_of = _held(path)
  if what and FLAGS.resume:
    _check_same(flags_of, f"{path} holds {what} made", compared)
  elif what and not FLAGS.overwrite:
    ways = "--resume to go on, --overwrite to begin anew" if what == SWEEP else "--overwrite"
    raise UsageError(f"--output_dir={path} already holds {what}; give {ways}, or another directory.")


def _held(path: Path) -> tuple[str, dict[str, Any]]:
  """What a directory holds, "" if nothing, and the flags that made it."""
  for name, what in ((UNFINISHED, SWEEP), ("config.json", "results")):
    if (path / name).exists():
      try:
        return what, dict(chunks.read_object(path / name)["flags"])
      except (OSError, ValueError, KeyError, TypeError):
        return what, {}
  return ("results" if any((path / name).exists() for name in (RESULTS, "report.html")) else ""), {}


def _check_same(theirs: dict[str, Any], what: str, compared: Sequence[str]) -> None:
  fixed = lambda flags: {f"--{name}": value for name, value in flags.items() if name in compared or name not in FREE}
  try:
    chunks.check_same(fixed(theirs), fixed(config()["flags"]), what)
  except ValueError as error:
    raise UsageError(f"--{str(error).rstrip('.')}; --overwrite begins anew.") from None


def _check_writable(flag: str, path: Path) -> None:
  parent = path
  while not parent.exists():
    parent = parent.parent
  if not parent.is_dir():
    raise UsageError(f"--{flag}={path} lies below {parent}, which is a file.")
  if not _writable(parent):
    raise UsageError(f"--{flag}={path} cannot be written: {parent} is not writable.")


def _writable(path: Path) -> bool:
  try:
    with tempfile.TemporaryFile(dir=path):
      return True
  except OSError:
    return False


def check_workflows(law: bool) -> list[str]:
  """The workflow list, checked."""
  for name in items("workflows"):
    try:
      names.check_workflow(name)
    except ValueError as error:
      raise UsageError(f"--workflows: {error}") from None
  if law and any(name.startswith("accumulate_subsample") for name in items("workflows")):
    raise UsageError("--draws=law keeps statistics only, and --workflows=accumulate_subsample needs rows: "
                     "use --draws=auto or --draws=rows.")
  return items("workflows")


# ------------------------------------------------------------------------------------------------------- running
def simulate_and_write(default_dir: str, simulate: Callable[..., Any], options: dict[str, Any], *,
                       save: Callable[[Any, Path], None] | None = None, compared: Sequence[str] = ()) -> None:
  """Simulates and writes the results, or goes on with a sweep, or says what would run.

  Args:
    simulate: called with the options and with `directory`, for what it finishes on the way; results, or None.
    options: validated; nothing has been imported or written yet.
    save: see `write`, the default.
    compared: see `output_dir`.
  """
  check_machine()
  path = output_dir(default_dir, compared)
  if FLAGS.dry_run:
    simulate(**options)
    return
  with contextlib.ExitStack() as stack:
    needed = _agreed(lambda: stack.enter_context(_unfinished(path, compared)))
    if not needed:
      print(path / "report.html")
      return
    BEGUN.set()
    with _profiled(path):
      results = simulate(**options, directory=path / CHUNKS)
    if is_first_process():
      (save or write)(results, path)
      if FLAGS.log_dir:
        watching.figures(Path(FLAGS.log_dir), path)
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

    from collapse_jax import devices
    said = devices.gather({"said": np.frombuffer(json.dumps([go, why, kind]).encode(), np.uint8)})[0]
    go, why, kind = json.loads(said["said"].tobytes())
  if why:
    raise (UsageError if kind == UsageError.__name__ else OSError)(why)
  return go


@contextlib.contextmanager
def _unfinished(path: Path, compared: Sequence[str]) -> Iterator[bool]:
  """Holds the directory for this process alone, and marks it as unfinished until the block ends well.

  Yields whether there is anything to do. After a usage error that nothing was finished before, the directory is as it was.
  """
  import filelock
  made = [one for one in (path, *path.parents) if not one.exists()]
  path.mkdir(parents=True, exist_ok=True)
  lock = filelock.FileLock(path / ".lock", blocking=False)
  try:
    lock.acquire()
  except filelock.Timeout:
    raise UsageError(f"--output_dir={path} is being written by another process.") from None
  marker = path / UNFINISHED
  fresh = not (FLAGS.resume and marker.exists())
  try:
    _check_held(path, compared)  # again, for another process may have ended since
    if FLAGS.resume and _held(path)[0] == "results":
      _tidy(path)
      yield False
      return
    for left in path.glob(f"{WRITING}*"):
      _remove(left)
    if fresh:
      _remove(path / CHUNKS)
      chunks.write(marker, (json.dumps(config(), indent=2) + "\n").encode())
    yield True
    _remove(marker)  # from here on, these are results
    _tidy(path)
  except UsageError:
    if fresh and not any(any((path / CHUNKS).rglob(one)) for one in COMMITTED):
      for name in (CHUNKS, UNFINISHED):
        _remove(path / name)
      for one in made:
        if one == path:
          _remove(one)
        elif not any(one.iterdir()):
          one.rmdir()
    raise
  finally:
    lock.release()


def _tidy(path: Path) -> None:
  """Keeps what belongs beside complete results, and removes what was needed to go on."""
  for name in KEPT:
    for kept in sorted((path / CHUNKS).rglob(name)):
      _replace(kept, path / kept.relative_to(path / CHUNKS))
  _remove(path / CHUNKS)


@contextlib.contextmanager
def _profiled(path: Path) -> Iterator[None]:
  if not FLAGS.profile:
    yield
    return
  prepare_jax()
  import jax
  with jax.profiler.trace(str(path / "profile")):
    yield


def check_machine() -> None:
  """Flags that say where to run; no JAX."""
  integer("chunk_size", 0)
  if FLAGS.devices != "auto":
    integer("devices")
  given = [name for name in ("coordinator", "process_id", "num_processes") if getattr(FLAGS, name) is not None]
  if given and not FLAGS.distributed:
    raise UsageError(f"--{given[0]} needs --distributed.")
  if given and len(given) < 3:
    raise UsageError("--coordinator, --process_id and --num_processes go together: give all three, or none where SLURM "
                     "or a TPU pod tells them.")
  if given:
    if not re.fullmatch(r"[^\s:]+:\d{1,5}", FLAGS.coordinator):
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


@functools.cache
def prepare_jax() -> None:
  """Precision, devices, other processes, and a compilation cache on disk that makes the second start fast."""
  import jax
  jax.config.update("jax_enable_x64", FLAGS.enable_x64 if "enable_x64" in FLAGS else False)
  base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(base / "collapse_jax"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  if "devices" in FLAGS and FLAGS.devices != "auto" and integer("devices") > 1:
    jax.config.update("jax_num_cpu_devices", integer("devices"))
  if "distributed" in FLAGS and FLAGS.distributed:
    given = {} if FLAGS.coordinator is None else {
        "coordinator_address": FLAGS.coordinator, "num_processes": integer("num_processes"),
        "process_id": integer("process_id", 0)}
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
      jax.distributed.initialize(**given, heartbeat_timeout_seconds=30)
    except (RuntimeError, ValueError) as error:
      raise UsageError(f"--distributed: {error}") from None


def mesh():
  """The devices that --devices asks for; None for a single one."""
  import jax

  from collapse_jax import devices
  if flag("devices", "auto") != "auto":
    try:
      return devices.mesh_of(integer("devices")) if integer("devices") > 1 else None
    except ValueError as error:
      raise UsageError(f"--{error}") from None
  return None if jax.default_backend() == "cpu" else devices.mesh_of()


def simulate(task, workflows, axes: dict[str, list], **options):
  """`collapse_jax.sweep` as the flags ask, with usage errors for what it refuses; None after a dry run."""
  prepare_jax()
  from collapse_jax.sweeps import plan, sweep
  try:
    if FLAGS.dry_run:
      options = {name: value for name, value in options.items()
                 if name in ("num_generations", "num_seeds", "record_every", "static_axes")}
      PLANS.append(plan(task, workflows, axes, **options))
      print(PLANS[-1])
      return None
    if FLAGS.log_dir and is_first_process():
      options["on_cell"] = watching.on_cell(FLAGS.log_dir, options["num_generations"], options.get("record_every", 1))
    return sweep(task, workflows, axes, progress=is_first_process(), mesh=mesh(), resume=FLAGS.resume,
                 chunk_size=integer("chunk_size", 0) or None, **options)
  except ValueError as error:
    raise UsageError(name_flag(str(error))) from None


def related(results, experiment: str, pairs: str, compare: bool, **about):
  """Names a sweep of a related system for its figure, and if asked to sets predictions of `pairs` beside simulations."""
  if results is None:
    return None
  results.attrs |= {"task": experiment, **about}
  if compare and is_first_process():
    rows = [row._asdict() | {"z": row.z, "twin_z": row.twin_z}
            for row in importlib.import_module(f"collapse_jax.pairs.{pairs}").pairs()]
    results.attrs["comparisons"] = json.dumps(rows)
    worst = max(rows, key=lambda row: abs(row["z"]))
    print(f"{len(rows)} predictions beside simulations: largest |z| {abs(worst['z']):.1f} ({worst['quantity']})", flush=True)
  return results


def name_flag(message: str) -> str:
  """Library messages begin with the argument's name; on the command line that is a flag."""
  first = message.split(" ", 1)[0]
  plural = {"dim": "dims", "noise_var": "noise_vars", "bandwidth": "bandwidths", "kernel": "kernels",
            "temperature": "temperatures", "real_fraction": "real_fractions", "dataset": "datasets",
            "size": "workflows", "weights": "workflows"}.get(first, f"{first}s" if f"{first}s" in FLAGS else first)
  return f"--{message.replace(first, plural, 1)}" if plural in FLAGS else message


def write(results, path: Path) -> None:
  """results.nc, config.json, figures/ and report.html; earlier results are replaced only once these are complete."""
  write_all({"": results}, path)


def write_all(experiments: dict[str, Any], path: Path) -> None:
  """As `write` for several experiments: results.nc and figures/ in a folder per name, one report over all."""
  from collapse_jax import plotting, report
  path.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=path, prefix=WRITING) as temporary:
    part = Path(temporary)
    (part / "config.json").write_text(json.dumps(config(), indent=2) + "\n")
    figures: dict[str, dict[str, bytes]] = {}
    for name, results in experiments.items():
      results.attrs["command"] = command()
      folder = part / name
      (folder / "figures").mkdir(parents=True)
      numbers = [name for name, value in results.data_vars.items() if value.dtype.kind in "bfi"]
      packed = {name: {"zlib": True, "complevel": 1} for name in numbers}
      buffer = io.BytesIO()  # the library crashes where the disk is full
      results.to_netcdf(buffer, engine="h5netcdf", encoding=packed)
      chunks.write(folder / RESULTS, buffer.getvalue())
      images = figures.setdefault(name or str(results.attrs["task"]), {})
      for title, figure in plotting.figures_for(results).items():
        images[title] = plotting.png(figure)
        (folder / "figures" / f"{title}.png").write_bytes(images[title])
        figure.set_layout_engine("none")  # what the first rendering found holds for the second
        figure.savefig(buffer := io.BytesIO(), format="pdf")
        (folder / "figures" / f"{title}.pdf").write_bytes(buffer.getvalue())
    report.write_report(dict(zip(figures, experiments.values())), part / "report.html", figures)
    for new in sorted(part.iterdir()):
      _replace(new, path / new.name)
  print(path / "report.html")


def _replace(new: Path, old: Path) -> None:
  _remove(old)
  os.replace(new, old)


def _remove(path: Path) -> None:
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def command() -> str:
  """The command that was given, runnable from the repository root."""
  return shlex.join(["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def dry_run() -> bool:
  return flag("dry_run", False)


def flag(name: str, otherwise):
  """A flag's value, also where `simulate` is called without flags."""
  return FLAGS[name].value if name in FLAGS else otherwise


def config() -> dict[str, Any]:
  """All flags of this project and their values."""
  mine = [flag for module, group in FLAGS.flags_by_module_dict().items() if "absl" not in module for flag in group
          if flag.name in PARSED]
  return {"command": command(), "flags": {flag.name: flag.value for flag in sorted(mine, key=lambda f: f.name)}}
