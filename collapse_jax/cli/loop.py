"""Your own generator in the loop: command lines that fit it and sample it, in any language, for many generations and seeds.

  collapse loop --fit='python fit.py {data} {model}' --sample='python draw.py {model} {out} {num} {seed}' \\
    --data=real.csv --test=test.csv --num_generations=5 --num_seeds=3 --output_dir=runs/mine
  collapse loop --fit='awk -f fit.awk {data} > {model}' --sample='awk -v n={num} -v seed={seed} -f draw.awk {model} > {out}' \\
    --data=real.csv --test=test.csv --workflows='replace,accumulate,mix(0.2)' --num_samples=500 --output_dir=runs/awk
  collapse loop --fit='python train.py {data} {model}' --sample='python write.py {model} {out} {num} --seed={seed}' \\
    --evaluate='python judge.py {model} {test} > {out}' --measures=loss=risk --data=rows.jsonl --test=test.jsonl \\
    --jobs=2 --timeout=3600 --output_dir=runs/text --resume

Generation 1 is fitted to real rows, each later one to what its workflow takes of real rows and of those that models wrote.
Names in braces are replaced: --fit reads rows from {data} and writes a file or folder {model}; --sample reads {model} and
writes {num} rows with the columns of {data} to {out}; --evaluate writes a JSON object of numbers to {out}, and may read {model},
{data} (rows that the model wrote) and {test}. All may name {seed}; --fit also {previous} and {weights}. Files of rows are CSV for
tables and JSONL for text. The same {seed} must give the same rows.

Writes results.nc, figures/, report.html, and loop/ with the data, model, sample and log of every step. A step that fails ends its
run only. With --resume nothing that is finished is done again, also where flags have changed: a step is known by its command, the
files that this names, its rows and its seed.
"""

from pathlib import Path
from typing import Any

from absl import flags

from collapse_jax.cli.parts import common, directory, flag_values, output
from collapse_jax.refused import Refused

__all__ = ["define", "main"]

_KINDS = ("risk", "variance", "modes", "tail", "hallucination")


def define() -> None:
  """Flags of this command."""
  flags.DEFINE_string("fit", None, "Command that fits a model: reads {data}, writes {model}.")
  flags.DEFINE_string("sample", None, "Command that samples it: reads {model}, writes {num} rows to {out}.")
  flags.DEFINE_string("evaluate", None, "Command that judges it: writes {out}; default: metrics by kind of data.")
  flags.DEFINE_string("data", None, "Real rows: a .csv, .parquet, .jsonl or .npz file.")
  flags.DEFINE_string("test", None, "Real rows that no model is fitted to.")
  flags.DEFINE_string(
    "measures",
    "",
    "Comma list of METRIC=KIND, the first is the one that is judged; KIND: risk, variance, modes, tail, hallucination.",
  )
  flags.DEFINE_string("workflows", flag_values.PAPER_WORKFLOWS, "Comma list, e.g. replace,accumulate,mix(0.2).")
  flags.DEFINE_string("num_samples", "auto", "Comma list: rows that a model writes. auto: as many as --data has.")
  flags.DEFINE_string("num_generations", "5", "Generations T.")
  flags.DEFINE_string("num_seeds", "3", "Runs per cell.")
  flags.DEFINE_string("jobs", "1", "Steps that are done side by side.")
  flags.DEFINE_boolean("keep_data", True, "Keep the training rows of each fit, beside the samples that they are of.")
  flags.DEFINE_string("timeout", None, "Seconds after which a step is ended; default: none.")
  flag_values.define_output()


def main(arguments: list[str]) -> None:
  """Runs the loop and writes its directory."""
  if arguments:
    raise Refused(f"unexpected argument {arguments[0]!r}; flags are written --name=value, commands in quotes.")
  common.simulate_and_write("results/loop", _simulate, _read(), compared=None, place=directory.LOOP)


def _read() -> dict[str, Any]:
  """Options of `_simulate`, from validated flags."""
  flag = flag_values.FLAGS
  for name in ("fit", "sample", "data", "test"):
    if not getattr(flag, name):
      raise Refused(f"--{name} is missing; --help has examples.")
  from collapse_jax import pipelines

  pipeline = pipelines.command(fit=flag.fit, sample=flag.sample, evaluate=flag.evaluate)
  real, test = _rows("data"), _rows("test")
  options = {
    "pipeline": pipeline if "{weights}" in flag.fit else pipelines.resampled(pipeline),
    "real": real,
    "test": test,
    "workflows": flag_values.check_workflows(law=False),
    "num_generations": flag_values.integer("num_generations"),
    "num_seeds": flag_values.integer("num_seeds"),
    "seed": flag_values.integer("seed", 0),
    "jobs": flag_values.integer("jobs"),
    "timeout": None if flag.timeout is None else flag_values.positive("timeout"),
    "measures": _measures(),
    "keep_data": flag_values.FLAGS.keep_data,
  }
  most = _check_rows(real, test)
  num = [] if flag.num_samples == "auto" else flag_values.integers("num_samples", 2)
  if too_many := [one for one in num if one > most]:
    raise Refused(f"--num_samples must be at most {most}, the rows that --data has, got {too_many[0]}.")
  if len(num) > 1:
    return options | {"axes": {"num_samples": num}}
  return options | ({"num_samples": num[0]} if num else {})


def _rows(name: str):
  from collapse_jax.pipelines import kinds

  with flag_values.given_as(name):
    return kinds.read(Path(getattr(flag_values.FLAGS, name)))


def _check_rows(real, test) -> int:
  """Number of real rows, where both are alike."""
  from collapse_jax.pipelines import kinds

  with flag_values.given_as("data"):
    schema = kinds.schema_of(real)
  with flag_values.given_as("test"):
    other = kinds.schema_of(test)
  if (schema.kind, schema.columns) != (other.kind, other.columns):
    shown = lambda one: f"{', '.join(f'{name} ({kind})' for name, kind in one.columns.items())}"
    raise Refused(f"--test must have the columns of --data, {shown(schema)}, got {shown(other)}.")
  return kinds.num_rows(real)


def _measures() -> dict[str, str]:
  found = {}
  for item in flag_values.items("measures") if flag_values.FLAGS.measures else []:
    name, _, kind = item.partition("=")
    if kind not in _KINDS:
      raise Refused(f"--measures must be a list of METRIC=KIND, KIND one of {', '.join(_KINDS)}, got {item!r}.")
    found[name] = kind
  return found


def _simulate(**options: Any):
  """The loop; None after a dry run."""
  if flag_values.dry_run():
    print(_plan(**options))
    return None
  common.prepare_jax()
  import collapse_jax

  results = collapse_jax.loop(**options, resume=flag_values.FLAGS.resume, progress=True)
  failed = sorted({str(status) for status in results.cell_status.values.ravel()} - {"ok"})
  if failed and not (results.cell_status == "ok").any():
    raise ChildProcessError(f"no run came to its end: {failed[0]}")
  for cell, status in zip(
    results.cell_status.stack(cell=results.cell_status.dims).cell.values, results.cell_status.values.ravel()
  ):
    if status != "ok":
      output.warn(f"{', '.join(map(str, cell))} did not come to its end: {status}")
  results.attrs["task"] = "loop"
  return results


def _plan(*, workflows, num_generations, num_seeds, real, axes=None, num_samples=None, **_) -> str:
  """What a loop takes: generation 1 is fitted once for all workflows.

  Args:
    workflows, num_generations, num_seeds, real, axes, num_samples: as of `collapse_jax.loop`.
  """
  from collapse_jax.pipelines import kinds

  sizes = (axes or {}).get("num_samples", [num_samples or kinds.num_rows(real)])
  num = len(sizes) * num_seeds * (1 + len(workflows) * (num_generations - 1))
  return (
    f"{len(workflows) * len(sizes) * num_seeds} runs of {num_generations} generations: {num} fits, as many samples of "
    f"{', '.join(map(str, sizes))} rows and evaluations"
  )
