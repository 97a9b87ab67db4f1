"""Programs as a pipeline, in any language that reads and writes files."""

import difflib
import json
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np

from collapse_jax.pipelines import kinds
from collapse_jax.pipelines.adapters import _parts, _processes
from collapse_jax.refused import Refused

__all__ = ["command"]

FORMATS = ("csv", "parquet", "jsonl", "npz")
# Of each template: what it must name, and what it may name too.
NEEDED = {"fit": {"data", "model"}, "sample": {"model", "out"}, "evaluate": {"out"}}
OTHERS = {
  "fit": {"weights", "seed", "generation", "previous"},
  "sample": {"num", "seed", "generation"},
  "evaluate": {"model", "data", "test", "seed"},
}


class Written(NamedTuple):
  """A model that a program wrote: where, what rows are like in files, and no rows, of the kind that they are here."""

  path: Path
  schema: kinds.Schema
  like: kinds.Rows


def command(
  fit: str, sample: str, evaluate: str | None = None, *, format: str | None = None, timeout: float | None = None
) -> _parts.Adapter:
  """A pipeline of command lines, as a shell takes them.

  Names in braces are replaced by absolute paths and by numbers, quoted for the shell; all other braces stay as they are. What
  programs print goes to the log of the step, another status than 0 is a failed step, and what they start ends with them.

  Args:
    fit: reads rows from `{data}`, and writes a file or a folder `{model}`, which is not there before. Also: `{seed}`, 31 bits;
      `{generation}`, 1, 2, ...; `{previous}`, the model before where runs are warm-started, else nothing; `{weights}`, a file of
      how much each row counts, one number a line: a fit that does not read it is refused where rows count unequally.
    sample: reads `{model}`, and writes `{num}` rows with the columns of `{data}` to `{out}`. Also: `{seed}`, `{generation}`.
    evaluate: writes a JSON object of numbers to `{out}`. Also: `{model}`, `{data}`, rows of the sample, `{test}`, real rows,
      `{seed}`. None: metrics by kind of data are taken.
    format: of files of rows, "csv", "parquet", "jsonl" or "npz"; None: "jsonl" of text, "csv" of tables and of columns of numbers,
      "npz" of other arrays.
    timeout: seconds for each command; None: as long as it takes.
  Raises:
    Refused: a template lacks what it must name, or names something else; an unknown format.

  >>> import collapse_jax as cj
  >>> pipeline = cj.pipelines.command(
  ...   fit="python fit.py {data} {model} --seed={seed}", sample="python draw.py {model} {out} --num={num} --seed={seed}"
  ... )
  """
  templates = {"fit": fit, "sample": sample} | ({} if evaluate is None else {"evaluate": evaluate})
  for role, template in templates.items():
    _check(role, template)
  if format is not None and format not in FORMATS:
    raise Refused.must_be("format", f"one of {', '.join(FORMATS)}", format)

  def do(role, **values):
    _processes.run(_processes.fill(templates[role], values), timeout)
    wanted = values["out" if role != "fit" else "model"]
    if not wanted.exists():
      raise RuntimeError(f"the command wrote no {wanted.name}, where it should have")

  def fit_weighted(data, *, seed, workdir, previous=None, generation="", weight=None):
    workdir = Path(workdir).absolute()
    rows, ending = _for_files(data, format)
    path, weights, model = workdir / f"data.{ending}", workdir / "weights.txt", workdir / "model"
    kinds.write(rows, path)
    np.savetxt(weights, np.ones(kinds.num_rows(rows)) if weight is None else weight, fmt="%.9g")
    before = "" if previous is None else previous.path
    do("fit", data=path, weights=weights, model=model, seed=seed, generation=generation, previous=before)
    path.unlink()  # the step keeps its rows itself
    weights.unlink()
    return Written(model, kinds.schema_of(rows), kinds.take(data, np.arange(0)))

  def fit_alike(data, *, seed, workdir, previous=None, generation=""):
    return fit_weighted(data, seed=seed, workdir=workdir, previous=previous, generation=generation)

  def draw(model, num, *, seed, workdir, generation=""):
    ending = _for_files(model.like, format)[1]
    out = Path(workdir).absolute() / f"out.{ending}"
    do("sample", model=model.path, out=out, num=num, seed=seed, generation=generation)
    found = kinds.read(out, model.schema)
    return found if model.schema.kind == kinds.kind_of(model.like) else _parts.from_table(found, model.like)

  def judge(model, sample, real_test, *, seed):
    import tempfile

    with tempfile.TemporaryDirectory(prefix="collapse_jax_") as name:
      folder = Path(name)
      paths = {}
      for what, data in (("data", sample), ("test", real_test)):
        rows, ending = _for_files(data, format)
        paths[what] = folder / f"{what}.{ending}"
        kinds.write(rows, paths[what])
      out = folder / "metrics.json"
      do("evaluate", model=model.path, out=out, seed=seed, **paths)
      try:
        return json.loads(out.read_text())
      except ValueError as error:
        raise RuntimeError(f"what the command wrote to metrics.json is no JSON: {error}") from None

  def identity(role):
    return "command", templates[role], format, _processes.sources(templates[role])

  weighted = "weights" in _processes.names(fit)
  return _parts.Adapter(
    fit_weighted if weighted else fit_alike, draw, identity, fit, None if evaluate is None else judge, _save, _load
  )


def _check(role: str, template: str) -> None:
  """Raises Refused where a template could not be filled as it is meant."""
  found, known = _processes.names(template), NEEDED[role] | OTHERS[role]
  if lacking := NEEDED[role] - found:
    names = " and ".join(f"{{{name}}}" for name in sorted(lacking))
    raise Refused(f"{role} must name {names}, got {template!r}.", argument=role, value=template)
  all_known = set().union(*NEEDED.values(), *OTHERS.values())
  # Other names are a shell's or awk's, such as {print}; not what is nearly one of ours.
  for name in sorted(found - known):
    if name in all_known or difflib.get_close_matches(name, known, cutoff=0.7):
      allowed = ", ".join(f"{{{name}}}" for name in sorted(known))
      text = f"{role} may name {allowed}, got {{{name}}} in {template!r}."
      raise Refused(text, argument=role, value=template, allowed=allowed)


def _for_files(data: kinds.Rows, format: str | None) -> tuple[kinds.Rows, str]:
  """Rows as a file has them, and its ending."""
  kind = kinds.kind_of(data)
  if kind == "arrays" and format is None and any(np.ndim(value) > 1 for value in data.values()):
    format = "npz"
  ending = format or ("jsonl" if kind == "text" else "csv")
  as_is = (kind, ending) in (("text", "jsonl"), ("arrays", "npz")) or kind == "table"
  return data if as_is else _parts.as_table(data, f"format {ending}"), ending


def _save(model: Written, folder: Path) -> None:
  (folder / "rows.pkl").write_bytes(pickle.dumps((model.schema, model.like)))


def _load(folder: Path) -> Written:
  return Written(Path(folder).absolute() / "model", *pickle.loads((folder / "rows.pkl").read_bytes()))
