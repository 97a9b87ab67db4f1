"""What rows and models of a loop descend from, and what descends from them, as its files tell it. Imports no JAX."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax import vocabulary
from collapse_jax.pipelines import kinds
from collapse_jax.pipelines._steps import DONE, FOLDER, RESULTS, WITHDRAWN, Steps, written_by_one
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks

__all__ = ["ROLES", "ROWS", "RUNS", "Lineage", "lineage", "withdraw", "withdrawn", "write_generation"]

ROWS, RUNS, STEPS, CROISSANT = "rows.npz", "runs", "steps.json", "croissant.json"
ROLES = ("fit", "sample", "evaluate")


class Lineage(NamedTuple):
  """What rows have to do with the models of a loop.

  Attributes:
    rows: that were asked for: numbers of real rows, or "sample-DIGEST:NUMBER".
    ancestors: fits and samples that they descend from, youngest first.
    real_rows: numbers of the real rows that they descend from.
    models: fits that have seen them, or what descends from them, oldest first.
    samples: whose rows descend from them, all of them.
    generations: of runs, which have to be made again without them: run, generation, and the folders of model and sample.
  """

  rows: tuple[int | str, ...]
  ancestors: tuple[str, ...]
  real_rows: tuple[int, ...]
  models: tuple[str, ...]
  samples: tuple[str, ...]
  generations: tuple[dict[str, Any], ...]


def lineage(directory: str | os.PathLike[str], row: int | str | Sequence[int | str]) -> Lineage:
  """What a row descends from, and which models and rows descend from it.

  Args:
    directory: of a `loop`.
    row: number of a real row, from 0; or of a synthetic one, "sample-DIGEST:NUMBER", as `_row` of a sample's file has it. Or
      several of these: what descends from any of them is what has to be made again without them.
  Raises:
    Refused: no loop has been there, or there is no such row.
  """
  directory = Path(directory)
  return _traced(directory, _Graph(directory), [row] if isinstance(row, int | str) else row)


def withdraw(directory: str | os.PathLike[str], rows: Sequence[int | str]) -> Lineage:
  """Takes rows out of a loop: what descends from them is deleted, and made again without them by a loop that goes on (`resume`).

  Deleted are models and samples that descend from any of the rows, what was measured of these, `results.nc`, and steps that no run
  has any more, of which it is not known. The rows are noted, in `withdrawn.json`: no later loop of the same real rows trains on
  them, unless it begins anew. Files of real rows, and samples that were withdrawn in part, stay as they are.

  Args:
    directory: of a `loop`, which is not running.
    rows: as of `lineage`.
  Returns:
    what they were before.
  Raises:
    Refused: as of `lineage`, or a loop is running there.
  """
  directory = Path(directory)
  _manifest(directory)  # or nothing is written there, not even a lock
  with written_by_one(directory):
    graph = _Graph(directory)  # of what no loop goes on with
    found = _traced(directory, graph, rows)
    noted = withdrawn(directory, graph.real)
    for row in found.rows:
      segment, number = graph.found(row)
      noted[segment] = np.union1d(noted.get(segment, np.zeros(0, int)), [number])
    told = {"real": graph.real, "rows": {name: numbers.tolist() for name, numbers in noted.items()}}
    chunks.write(directory / WITHDRAWN, (json.dumps(told) + "\n").encode())
    gone = {*found.models, *found.samples}
    if (directory / RESULTS).exists():  # numbers would be of models that are gone
      chunks.remove(directory / RESULTS)
    kept = set[str]()
    for one in graph.generations:
      if gone.isdisjoint((one["fit"], one["sample"])):
        kept |= {one[role] for role in ROLES}
      else:  # its links would lead nowhere
        chunks.remove(one["folder"])
    for place in sorted((directory / FOLDER).iterdir()):
      if place.name not in kept:
        chunks.remove(place)
  return found


def withdrawn(directory: Path, real: str) -> dict[str, np.ndarray]:
  """Name of a segment -> numbers of its rows that no model is to see.

  Args:
    directory: of a loop.
    real: name of the real rows that it has now.
  """
  if not (directory / WITHDRAWN).exists():
    return {}
  noted = chunks.read_object(directory / WITHDRAWN)
  if noted["real"] != real:
    return {}
  return {name: np.asarray(numbers, int) for name, numbers in noted["rows"].items()}


def _traced(directory: Path, graph: "_Graph", rows: Sequence[int | str]) -> Lineage:
  touched: dict[str, Any] = {}  # rows [k] of a real batch or sample; None: all
  asked: list[int | str] = []
  for row in rows:
    segment, number = graph.found(row)
    asked.append(number if segment == graph.real else f"{segment}:{number}")
    touched[segment] = np.append(touched.get(segment, np.zeros(0, int)), number)
  ancestors, real_rows = graph.above(touched)
  models, samples = graph.below(touched)
  again = [one for one in graph.generations if one["fit"] in models or one["sample"] in samples]
  generations = tuple(
    {
      "run": one["run"],
      "generation": one["generation"],
      "model": str(directory / FOLDER / one["fit"]),
      "sample": str(directory / FOLDER / one["sample"]),
    }
    for one in again
  )
  return Lineage(tuple(asked), ancestors, real_rows, models, samples, generations)


def _manifest(directory: Path) -> dict[str, Any]:
  """What a loop noted of its rows."""
  try:
    return chunks.read_object(directory / "loop.json")
  except (ValueError, OSError):
    raise Refused(f"{directory} holds no loop.", argument="directory", value=str(directory)) from None


class _Graph:
  """Fits and samples of the runs of a directory, in the order of their generations."""

  def __init__(self, directory: Path):
    manifest = _manifest(directory)
    self.real, self.num_real = str(manifest["real"]), int(manifest["num_real"])
    self._steps = directory / FOLDER
    self.generations = sorted(
      (
        {**chunks.read_object(file), "run": file.parent.parent.name, "folder": file.parent}
        for file in directory.glob(f"{RUNS}/*/g*/{STEPS}")
      ),
      key=lambda one: (one["generation"], one["run"]),
    )
    self._fits = {name: self._noted(name) for name in dict.fromkeys(one["fit"] for one in self.generations)}
    self._samples = {name: self._noted(name) for name in dict.fromkeys(one["sample"] for one in self.generations)}

  def _noted(self, name: str) -> dict[str, Any]:
    return chunks.read_object(self._steps / name / DONE)

  def found(self, row: int | str) -> tuple[str, int]:
    """Segment and number of a row."""
    segment, _, number = str(row).rpartition(":")
    segment = segment or self.real
    num = self.num_real if segment == self.real else self._samples.get(segment, {}).get("num", 0)
    if not re.fullmatch(r"\d+", number) or int(number) >= num:
      known = f"0 to {self.num_real - 1}, or sample-DIGEST:NUMBER as {RUNS}/*/*/{STEPS} name samples"
      raise Refused(f"there is no row {row}; rows are {known}.", argument="row", value=row, allowed=known)
    return segment, int(number)

  def _rows_of(self, fit: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """Segments that a model was fitted to, and which rows of them; None: all."""
    inputs = self._fits[fit]["inputs"]
    some: dict[str, np.ndarray] = {}
    if not all(one["whole"] for one in inputs):
      with np.load(self._steps / fit / ROWS, allow_pickle=False) as arrays:
        some = {name: arrays[name] for name in arrays.files}
    for one in inputs:
      yield one["rows"], some.get(one["rows"])

  def below(self, touched: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fits and samples that descend from rows."""
    touched, models, samples = dict(touched), dict[str, None](), dict[str, None]()

    def sees(fit: str) -> bool:
      if self._fits[fit]["previous"] in models:
        return True
      for segment, rows in self._rows_of(fit):
        if segment in touched and (rows is None or touched[segment] is None or np.isin(touched[segment], rows).any()):
          return True
      return False

    for one in self.generations:  # of which none descends from a later one
      fit, sample = one["fit"], one["sample"]
      if fit not in models and sees(fit):
        models[fit] = None
      if self._samples[sample]["model"] in models:
        samples[sample] = touched[sample] = None
    return tuple(models), tuple(samples)

  def above(self, touched: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Fits and samples that rows descend from, and which real rows."""
    found, real = dict[str, None](), np.zeros(self.num_real, bool)
    asked = touched.get(self.real)
    if asked is not None:
      real[asked] = True
    left = [name for name in touched if name != self.real]
    while left:
      name = left.pop(0)
      if name in found:
        continue
      found[name] = None
      if name in self._samples:
        left.append(self._samples[name]["model"])
        continue
      left += filter(None, [self._fits[name]["previous"]])
      for segment, rows in self._rows_of(name):
        if segment == self.real:
          real[slice(None) if rows is None else rows] = True
        else:
          left.append(segment)
    return tuple(found), tuple(map(int, np.flatnonzero(real)))


def write_generation(
  directory: Path, cell: Mapping[str, Any], seed: int, model: Any, steps: Steps, schema: kinds.Schema
) -> None:
  """Makes the folder of a generation: runs/CELL,seed=SEED/gT, with links to what its steps hold.

  Args:
    directory: of the loop.
    cell: name -> value.
    seed: number of the run.
    model: of the generation, which has been sampled and evaluated.
    steps: of the directory.
    schema: of the rows.
  """
  label = ",".join(f"{name}={value}" for name, value in {**cell, "seed": seed}.items())
  folder = directory / RUNS / vocabulary.file_name(label) / f"g{model.generation:03d}"
  folder.mkdir(parents=True, exist_ok=True)
  names = {"fit": model.name, "sample": model.sampled.name, "evaluate": model.evaluation}
  for role, name in names.items():
    place = steps.place(name)
    for file in sorted(place.iterdir()):
      if file.name not in (DONE, ROWS):
        shown = f"{role}_log.txt" if file.name == "log.txt" and role != "fit" else file.name
        with contextlib.suppress(FileExistsError):
          os.symlink(os.path.relpath(file, folder), folder / shown)
  told = {name: str(value) for name, value in cell.items()}
  about = {"cell": told, "seed": seed, "generation": model.generation, **names}
  # A loop makes these anew: they need not outlive a power failure.
  (folder / STEPS).write_text(json.dumps(about, indent=2) + "\n")
  fit, sample = steps.done(model.name), steps.done(model.sampled.name)
  assert fit is not None and sample is not None
  (folder / CROISSANT).write_text(json.dumps(_croissant(folder, label, fit, sample, schema)) + "\n")


_CONTEXT = {
  "@language": "en",
  "@vocab": "https://schema.org/",
  "sc": "https://schema.org/",
  "cr": "http://mlcommons.org/croissant/",
  "rai": "http://mlcommons.org/croissant/RAI/",
  "dct": "http://purl.org/dc/terms/",
  "prov": "http://www.w3.org/ns/prov#",
  "conformsTo": "dct:conformsTo",
  **{name: f"cr:{name}" for name in ("citeAs", "column", "extract", "field", "fileObject", "fileSet", "includes")},
  **{name: f"cr:{name}" for name in ("isLiveDataset", "jsonPath", "key", "md5", "recordSet", "references", "source")},
  "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
  "data": {"@id": "cr:data", "@type": "@json"},
  "examples": {"@id": "cr:examples", "@type": "@json"},
}
_FORMATS = {
  ".parquet": "application/x-parquet",
  ".csv": "text/csv",
  ".jsonl": "application/jsonlines",
  ".npz": "application/zip",
}
_TYPES = {"number": "sc:Float", "time": "sc:DateTime", "other": "sc:Text"}


def _croissant(
  folder: Path, label: str, fit: Mapping[str, Any], sample: Mapping[str, Any], schema: kinds.Schema
) -> dict[str, Any]:
  """Of the rows of a generation, in the vocabulary of Croissant 1.1: files, columns, what they come from and what made them.

  Args:
    folder: of the generation.
    label: of its run.
    fit, sample: what is noted of its steps.
    schema: of the rows.
  """
  told = {"training-rows": fit["file"], "synthetic-rows": sample["file"]}
  told = {name: file for name, file in told.items() if file}  # training rows may not be kept
  sources = [{"@id": one["rows"], "@type": "sc:Dataset", "name": one["rows"]} for one in fit["inputs"]]
  fitting = {
    "@type": "prov:Activity",
    "@id": fit["step"],
    "prov:label": f"fit of generation {fit['generation']}, seed {fit['seed']}",
    "prov:used": [{"@id": one["@id"]} for one in sources],
  }
  writing = {
    "@type": "prov:Activity",
    "@id": sample["step"],
    "prov:label": f"sample of generation {sample['generation']}, seed {sample['seed']}",
    "prov:wasInformedBy": {"@id": fit["step"]},
  }
  document = {
    "@context": _CONTEXT,
    "@type": "sc:Dataset",
    "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
    "name": f"generation-{fit['generation']}",
    "description": f"Training rows of generation {fit['generation']} of {label}, and the rows that its model wrote.",
    "rai:hasSyntheticData": True,
    "prov:wasDerivedFrom": sources,
    "prov:wasGeneratedBy": [fitting, writing],
    "distribution": [_file(folder / file) for file in told.values()],
  }
  columns = [] if schema.kind == "arrays" else [*schema.columns.items(), *_BESIDE.items()]
  document["recordSet"] = [
    {
      "@type": "cr:RecordSet",
      "@id": name,
      "name": name,
      "field": [
        {
          "@type": "cr:Field",
          "@id": f"{name}/{column}",
          "name": column,
          "dataType": _TYPES.get(kind, kind),
          "source": {
            "fileObject": {"@id": file},
            "extract": {"jsonPath": f"$.{column}"} if file.endswith(".jsonl") else {"column": column},
          },
        }
        for column, kind in columns
      ],
    }
    for name, file in told.items()
    if columns
  ]
  return document


_BESIDE = dict(zip(kinds.PROVENANCE, ("sc:Integer", "sc:Integer", "sc:Text", "sc:Integer", "sc:Float")))


def _file(path: Path) -> dict[str, Any]:
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  return {
    "@type": "cr:FileObject",
    "@id": path.name,
    "name": path.name,
    "contentUrl": path.name,
    "contentSize": f"{path.stat().st_size} B",
    "encodingFormat": _FORMATS[path.suffix],
    "sha256": digest,
  }
