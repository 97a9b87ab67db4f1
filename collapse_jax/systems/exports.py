"""What is made of the language models of generations: directories that transformers, or PEFT, loads, and scores of lm-eval."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from collapse_jax import lm
from collapse_jax.lm import checkpoint, families, peft
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks, devices
from collapse_jax.systems.language_setting import Setting
from collapse_jax.systems.samples import name_of
from collapse_jax.vocabulary import EXPORTS

__all__ = ["Evaluations", "Exports", "fitted_model"]

FOLDER = "models"


def fitted_model(setting: Setting, weights: Any) -> lm.LanguageModel:
  """The model of fitted weights, adapters added to it."""
  model, adapters = setting.model, setting.adapters
  if adapters is not None:
    arch = peft.adapted(families.architecture(model.config), adapters)
    weights = checkpoint.merge_adapters(arch, checkpoint.join(model.params, weights))
  return model._replace(params=weights)


class Exports:
  """Writes a directory for each seed and generation, whole or not at all; where processes hold a model together, the first does.

  Args:
    setting_of: (cell) -> Setting.
    kind: "hf": the whole model, adapters added to it; or "peft": its adapters alone, and the base once.
    directory: of the sweep.
    home: where that is moved in the end, for what refers to it; None: it stays.
    lora_ranks: of the cells, where they differ.
  Raises:
    Refused: another kind, nowhere to write, or no adapters for "peft".
  """

  def __init__(
    self,
    setting_of: Callable[[dict[str, Any]], Setting],
    kind: str,
    directory: Any,
    home: Any = None,
    lora_ranks: Sequence[int | None] = (None,),
  ):
    if kind not in EXPORTS:
      raise Refused.must_be("export", " or ".join(EXPORTS), kind)
    if directory is None:
      raise Refused("export needs a directory.", argument="export", value=kind)
    self._setting_of, self._kind, self._folder = setting_of, kind, Path(directory) / FOLDER
    self._home = Path(home or directory).absolute() / FOLDER
    if kind == "peft" and any(setting_of({"lora_rank": rank}).adapters is None for rank in lora_ranks):
      raise Refused("export=peft needs adapters (lora_rank).", argument="export", value=kind, allowed="hf")
    if kind == "peft" and jax.process_index() == 0:  # the base, once for all processes
      setting = setting_of({})
      if not _is_directory(setting.model_name) and not (self._folder / "base").exists():
        self._whole(self._folder / "base", lambda part: lm.save(setting.model, part))

  def write(self, cell: dict[str, Any], t: int, seeds: range, params: Any) -> None:
    """For `on_params` of a sweep."""
    setting = self._setting_of(cell)
    for seed, weights in _each(seeds, params):
      place = self._folder / name_of(cell) / f"seed_{seed}_generation_{t}"
      self._whole(place, lambda part: self._save(setting, weights, part))  # noqa: B023

  def _save(self, setting: Setting, weights: Any, part: Path) -> None:
    model, adapters = setting.model, setting.adapters
    if self._kind == "peft":
      assert adapters is not None
      lm.save_adapters(model.config, adapters._replace(start=weights), part, self._base(setting))
      return
    lm.save(fitted_model(setting, weights), part)

  def _base(self, setting: Setting) -> str:
    """Where PEFT finds the base: where it came from, if that is a directory of transformers, else one that is written here."""
    if _is_directory(setting.model_name):
      return str(Path(setting.model_name).absolute())
    return str(self._home / "base")

  def _whole(self, place: Path, save: Callable[[Path], None]) -> None:
    part = place.with_name(f"{place.name}.part")
    for older in (part, place):
      shutil.rmtree(older, ignore_errors=True)
    chunks.make_folder(place.parent)
    save(part)
    chunks.rename(part, place)


def _is_directory(name: str) -> bool:
  """Of transformers."""
  return (Path(name) / "config.json").is_file()


def _each(seeds: range, params: Any) -> Iterator[tuple[int, Any]]:
  """Seeds and their weights, where they are; those that processes hold together, on the host of the first, which tells of them."""
  weights = params.weights
  if devices.are_of_all_processes(weights):
    weights = jax.tree.map(_on_first, weights)  # by all that have parts
    if jax.process_index() > 0:
      return
  for i, seed in enumerate(seeds):
    yield seed, jax.tree.map(lambda x: x[i], weights)  # noqa: B023


def _on_first(x: Any) -> Any:
  """An array, whole, on the host of the first process; the others keep none while the next is gathered."""
  whole = devices.on_host(x)
  return whole if jax.process_index() == 0 else None


class Evaluations:
  """Scores of every k-th generation, in a file for each seed, so that a sweep that goes on has them.

  Args:
    setting_of: (cell) -> Setting.
    evaluate: (LanguageModel) -> scores by name, such as `lm.harness.evaluate` of some tasks.
    every: k.
    directory: of the sweep; None: the scores are in memory only.
  """

  def __init__(self, setting_of: Callable[[dict[str, Any]], Setting], evaluate: Any, every: int, directory: Any):
    self._setting_of, self._evaluate, self._every = setting_of, evaluate, every
    self._folder = None if directory is None else Path(directory) / "evaluations"
    self._found: dict[tuple[str, int, int], dict[str, float]] = {}

  def write(self, cell: dict[str, Any], t: int, seeds: range, params: Any) -> None:
    """For `on_params` of a sweep."""
    if t % self._every:
      return
    for seed, weights in _each(seeds, params):
      scores = self._evaluate(fitted_model(self._setting_of(cell), weights))
      self._found[name_of(cell), seed, t] = scores
      if self._folder is not None:
        place = self._folder / name_of(cell) / f"seed_{seed}_generation_{t}.json"
        chunks.make_folder(place.parent)
        chunks.write(place, json.dumps(scores).encode())

  def add_to(self, results: Any, dims: Sequence[str]) -> None:
    """Each score as a variable of results over all dims; NaN in generations that were not evaluated. All processes must call this.

    Args:
      results: a Dataset of `sweep`.
      dims: of the cells, as they are named in folders.
    """
    for one in devices.gather({"found": np.asarray(json.dumps([[*at, scores] for at, scores in self._found.items()]))}):
      self._found |= {tuple(at): scores for *at, scores in json.loads(str(one["found"]))}
    sizes = [results.sizes[dim] for dim in (*dims, "seed", "generation")]
    arrays: dict[str, np.ndarray] = {}
    for index in np.ndindex(*sizes):
      *place, seed, t = index
      cell = {dim: results[dim].values[i].item() for dim, i in zip(dims, place)}
      for name, value in self._of(name_of(cell), int(results.seed[seed]), int(results.generation[t])).items():
        arrays.setdefault(name, np.full(sizes, np.nan))[index] = value
    for name, values in arrays.items():
      results[f"eval_{name}"] = ((*dims, "seed", "generation"), values, {"long_name": f"lm-eval {name}", "units": "1"})

  def _of(self, name: str, seed: int, t: int) -> dict[str, float]:
    file = None if self._folder is None else self._folder / name / f"seed_{seed}_generation_{t}.json"
    if (name, seed, t) not in self._found and file is not None and file.is_file():
      self._found[name, seed, t] = chunks.read_object(file)
    return self._found.get((name, seed, t), {})
