"""Say which models and rows of a loop descend from a row, and withdraw rows, with all that was made from them.

  collapse lineage runs/mine --row=17
  collapse lineage runs/mine --row=sample-0123456789abcdef:3
  collapse lineage runs/mine --withdraw=17,40,41

A row is the number of a real one, from 0 in the order of --data, or SAMPLE:NUMBER of one that a model wrote, as the column `_row`
of the sample's file and `loop/runs/*/*/steps.json` have it. --row changes nothing. --withdraw deletes the models and samples that
descend from the rows, and notes these: the same `collapse loop` with --resume makes again what is missing, without them. With
--dry_run it only says what.
"""

from pathlib import Path

from absl import flags

from collapse_jax.cli import reading
from collapse_jax.cli.parts import compare, directory, flag_values
from collapse_jax.refused import Refused

__all__ = ["define", "main"]

_MOST = 10  # things that are named one by one


def define() -> None:
  """Flags of this command."""
  flags.DEFINE_string("row", None, "The row whose ancestors and descendants are told.")
  flags.DEFINE_string("withdraw", None, "Comma list of rows that are to go, with what descends from them.")
  flags.DEFINE_boolean("dry_run", False, "With --withdraw: only say what would be deleted.")


def main(arguments: list[str]) -> None:
  """Prints sentences, and a table of runs, or of what is to be made again; deletes that."""
  place = Path(reading.only(arguments, "one directory of a loop"))
  flag = flag_values.FLAGS
  if (flag.row is None) == (flag.withdraw is None):
    raise Refused("give either --row or --withdraw.")
  name = "row" if flag.withdraw is None else "withdraw"
  asked = flag_values.items(name)
  if name == "row" and len(asked) > 1:
    raise Refused(f"--row must be a single row, got {flag.row!r}; --withdraw takes several.")
  from collapse_jax import pipelines

  acts = name == "withdraw" and not flag.dry_run
  act = pipelines.withdraw if acts else pipelines.lineage
  with flag_values.given_as(name):
    found = act(place / directory.LOOP if (place / directory.LOOP).is_dir() else place, asked)
  print(_told(found, name == "withdraw"))
  if acts:
    print(
      "These models and samples are deleted; the same `collapse loop` with --resume makes them again, without the rows."
    )


def _told(found, withdrawn: bool = False) -> str:
  """What a person asks, before what a program needs.

  Args:
    found: a `pipelines.Lineage`.
    withdrawn: whether the rows are to go, and not only looked at.
  """
  which = f"row{'s' if len(found.rows) > 1 else ''} {_some(found.rows)}"
  from_what = (
    f"descends from {_num(found.ancestors, 'step')} and {_real(found.real_rows)}" if found.ancestors else "is real"
  )
  lines = [] if withdrawn else [f"{which} {from_what}."]
  lines.append(f"{_num(found.models, 'model')} and the rows of {_num(found.samples, 'sample')} descend from {which}.")
  if not found.ancestors and not found.models:
    lines.append("Where there are more real rows than --num_samples, each seed begins with some of them.")
  if withdrawn and found.generations:
    rows = [(one["run"], str(one["generation"]), one["model"], one["sample"]) for one in found.generations]
    lines += ["To be made again without:", compare.aligned([("run", "generation", "model", "sample"), *rows])]
  elif found.generations:
    runs: dict[str, list[str]] = {}
    for one in found.generations:
      runs.setdefault(one["run"], []).append(str(one["generation"]))
    lines.append(
      compare.aligned([("run", "generations"), *((run, " ".join(every)) for run, every in sorted(runs.items()))])
    )
  return "\n".join(lines)


def _num(things, name: str) -> str:
  return f"{len(things) or 'no'} {name}{'' if len(things) == 1 else 's'}"


def _real(rows) -> str:
  return f"{_num(rows, 'real row')}{f' ({_some(rows)})' if rows else ''}"


def _some(things) -> str:
  return ", ".join(map(str, things[:_MOST])) + (", ..." if len(things) > _MOST else "")
