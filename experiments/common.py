"""What the binaries share: flags, validation, and writing results. Parsing and validation import no JAX."""

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

FLAGS = flags.FLAGS
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA warns of every program that it finds in the cache
RESULTS = "results.nc"
PLANS: list[Any] = []  # of a dry run, for a total over experiments
PAPER_WORKFLOWS = "replace,accumulate,accumulate_subsample"


class UsageError(Exception):
  """A bad flag, file or combination: one line that names it and says what is allowed."""


def define_common(num_samples: str = "10,32,100,316,1000", num_generations: int = 100, num_seeds: int = 100,
                  workflows: str | None = PAPER_WORKFLOWS, record_every: int = 1) -> None:
  """Flags that every simulation has."""
  if workflows is not None:
    flags.DEFINE_string("workflows", workflows, "Comma list, e.g. replace,accumulate,mix(0.2).")
  flags.DEFINE_string("num_samples", num_samples, "Comma list: rows per batch, at least 2.")
  flags.DEFINE_string("temperatures", "1", "Comma list: factor of the variance that samples are drawn with.")
  flags.DEFINE_string("num_generations", str(num_generations), "Generations T.")
  flags.DEFINE_string("num_seeds", str(num_seeds), "Runs per cell.")
  flags.DEFINE_string("record_every", str(record_every), "Keep metrics of generation 1 and of multiples of this.")
  define_shared()


def define_shared() -> None:
  """Flags that every binary has."""
  flags.DEFINE_string("seed", "0", "Seed of all random keys.")
  flags.DEFINE_string("output_dir", None, "Where results go; default results/NAME.")
  flags.DEFINE_boolean("overwrite", False, "Replace results that the output directory holds.")
  flags.DEFINE_boolean("dry_run", False, "Print what would run, then stop.")
  flags.DEFINE_boolean("enable_x64", False, "Compute in float64.")


def main(run: Callable[..., None], arguments: bool = False) -> None:
  """Parses flags and runs; a usage error is one line on standard error and exit status 2.

  Args:
    run: takes nothing, or the list of arguments that are no flags.
    arguments: whether there may be any.
  """
  def parse(argv):
    try:
      rest = FLAGS(argv)
    except flags.Error as error:
      fail(f"{str(error).splitlines()[0].rstrip('.')}; --help lists the flags.")
    if len(rest) > 1 and not arguments:
      fail(f"unexpected argument {rest[1]!r}; flags are written --name=value.")
    return rest

  def guarded(argv):
    logging.set_verbosity(logging.WARNING)
    try:
      run(argv[1:]) if arguments else run()
    except UsageError as error:
      fail(str(error))

  app.run(guarded, flags_parser=parse)


def fail(message: str) -> None:
  line = " ".join(message.split())
  print(f"error: {line}", file=sys.stderr, flush=True)
  sys.exit(2)


# ------------------------------------------------------------------------------------------------------ values
def integer(name: str, least: int = 1) -> int:
  return _number(name, getattr(FLAGS, name), int, least, strict=False)


def integers(name: str, least: int = 1) -> list[int]:
  return [_number(name, item, int, least, strict=False) for item in items(name)]


def positives(name: str) -> list[float]:
  return [_number(name, item, float, 0.0, strict=True) for item in items(name)]


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
  bound = f"above {least:g}" if strict else f"of at least {least}"
  try:
    value = kind(text)
  except ValueError:
    raise UsageError(f"--{name} must be {what} {bound}, got {text!r}.") from None
  if not least <= value < float("inf") or (strict and value == least):
    raise UsageError(f"--{name} must be {what} {bound}, got {text!r}.")
  return value


def common_options() -> dict[str, Any]:
  """Validated values of the single-valued flags that `sweep` takes."""
  return {"num_generations": integer("num_generations"), "num_seeds": integer("num_seeds"), "seed": integer("seed", 0),
          "record_every": integer("record_every")}


def output_dir(default: str, overwrite: bool | None = None) -> Path:
  """The directory to write, checked but not yet made."""
  path = Path(FLAGS.output_dir or default)
  overwrite = FLAGS.overwrite if overwrite is None else overwrite
  if path.exists() and not path.is_dir():
    raise UsageError(f"--output_dir={path} is a file; name a directory.")
  if path.exists() and any((path / name).exists() for name in (RESULTS, "report.html", "config.json")) and not overwrite:
    raise UsageError(f"--output_dir={path} already holds results; give --overwrite or another directory.")
  parent = path
  while not parent.exists():
    parent = parent.parent
  if not parent.is_dir():
    raise UsageError(f"--output_dir={path} lies below {parent}, which is a file.")
  if not _writable(parent):
    raise UsageError(f"--output_dir={path} cannot be written: {parent} is not writable.")
  return path


def _writable(path: Path) -> bool:
  try:
    with tempfile.TemporaryFile(dir=path):
      return True
  except OSError:
    return False


def check_workflows(law: bool) -> list[str]:
  """The workflow list; names and arguments are checked by the library itself, in `simulate`."""
  names = items("workflows")
  if law and any(name.startswith("accumulate_subsample") for name in names):
    raise UsageError("--draws=law keeps statistics only, and --workflows=accumulate_subsample needs rows: "
                     "use --draws=auto or --draws=rows.")
  return names


# ------------------------------------------------------------------------------------------------------- running
def simulate_and_write(default_dir: str, simulate: Callable[..., Any], workflows: list[str], **options) -> None:
  """Checks the output directory, simulates, and writes unless it was a dry run."""
  path = output_dir(default_dir)
  results = simulate(workflows, **options)
  if results is not None:
    write(results, path)


def prepare_jax() -> None:
  """Precision, and a compilation cache on disk that makes the second start fast."""
  import jax
  jax.config.update("jax_enable_x64", FLAGS.enable_x64 if "enable_x64" in FLAGS else False)
  base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(base / "collapse_jax"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def simulate(task, workflows, axes: dict[str, list], **options):
  """`collapse_jax.sweep` with usage errors for what it refuses; None after a dry run."""
  prepare_jax()
  from collapse_jax.sweep import plan, sweep
  from collapse_jax.workflows import parse
  for name in workflows if isinstance(workflows, list) else ():
    try:
      parse(name)
    except ValueError as error:
      raise UsageError(f"--workflows: {error}") from None
  try:
    if FLAGS.dry_run:
      options = {name: value for name, value in options.items()
                 if name in ("num_generations", "num_seeds", "record_every", "static_axes")}
      PLANS.append(plan(task, workflows, axes, **options))
      print(PLANS[-1])
      return None
    return sweep(task, workflows, axes, progress=True, **options)
  except ValueError as error:
    raise UsageError(name_flag(str(error))) from None


def name_flag(message: str) -> str:
  """Library messages begin with the argument's name; on the command line that is a flag."""
  first = message.split(" ", 1)[0]
  plural = {"dim": "dims", "noise_var": "noise_vars", "bandwidth": "bandwidths", "kernel": "kernels",
            "temperature": "temperatures", "real_fraction": "real_fractions", "dataset": "datasets",
            "size": "workflows", "weights": "workflows"}.get(first, first)
  return f"--{message.replace(first, plural, 1)}" if plural in FLAGS else message


def write(results, path: Path) -> None:
  """results.nc, config.json, figures/ and report.html; earlier results are replaced only once these are complete."""
  write_all({"": results}, path)


def write_all(experiments: dict[str, Any], path: Path) -> None:
  """As `write` for several experiments: results.nc and figures/ in a folder per name, one report over all."""
  from collapse_jax import plotting, report
  path.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=path, prefix=".writing-") as temporary:
    part = Path(temporary)
    (part / "config.json").write_text(json.dumps(config(), indent=2) + "\n")
    figures: dict[str, dict[str, bytes]] = {}
    for name, results in experiments.items():
      results.attrs["command"] = command()
      folder = part / name
      (folder / "figures").mkdir(parents=True)
      numbers = [name for name, value in results.data_vars.items() if value.dtype.kind in "bfi"]
      packed = {name: {"zlib": True, "complevel": 1} for name in numbers}
      results.to_netcdf(folder / RESULTS, engine="h5netcdf", encoding=packed)
      images = figures.setdefault(name or str(results.attrs["task"]), {})
      for title, figure in plotting.figures_for(results).items():
        images[title] = plotting.png(figure)
        (folder / "figures" / f"{title}.png").write_bytes(images[title])
        figure.set_layout_engine("none")  # what the first rendering found holds for the second
        figure.savefig(folder / "figures" / f"{title}.pdf")
    report.write_report(dict(zip(figures, experiments.values())), part / "report.html", figures)
    for new in sorted(part.iterdir()):
      old = path / new.name
      if old.is_dir():
        shutil.rmtree(old)
      os.replace(new, old)
  print(path / "report.html")


def command() -> str:
  """The command that was given, runnable from the repository root."""
  return shlex.join(["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def dry_run() -> bool:
  return "dry_run" in FLAGS and FLAGS.dry_run


def config() -> dict[str, Any]:
  """All flags of this project and their values."""
  mine = [flag for module, group in FLAGS.flags_by_module_dict().items() if "absl" not in module for flag in group]
  return {"command": command(), "flags": {flag.name: flag.value for flag in sorted(mine, key=lambda f: f.name)}}
