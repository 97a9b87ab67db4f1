"""The text that language models write, generation by generation, in files."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from collapse_jax import vocabulary
from collapse_jax.lm import text
from collapse_jax.sweeps import chunks, devices
from collapse_jax.sweeps.checkpoints import folder_name

__all__ = ["NUM_SHOWN", "Samples", "name_of"]

_log = logging.getLogger(__name__)
NUM_SHOWN = 3


class Samples:
  """Writes the text of every generation, with checksums, and remembers some of it for the report.

  Args:
    tokenizer: that tells text from tokens.
    directory: of the sweep, whose checkpoints are in "checkpoints"; None: nothing is written.
    whole: as of `text.to_texts`.
  """

  def __init__(self, tokenizer, directory, whole: bool = False):
    self.tokenizer, self.whole = tokenizer, whole
    self.directory: Any = None if directory is None else Path(directory)
    self.first: dict[str, dict[int, list[str]]] = {}

  def write(self, cell, t, seeds, batch):
    name, sums = name_of(cell), []
    for i, seed in enumerate(seeds):
      rows = {key: value[i, 0] for key, value in batch.rows.items()}
      kept = batch.row_weight[i, 0] > 0
      texts = text.to_texts(self.tokenizer, rows["tokens"][kept], rows["length"][kept], self.whole)
      if self.directory is not None:
        file = self._folder(cell) / f"seed_{seed}_generation_{t}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = "".join(json.dumps(_row(one, text)) + "\n" for one in texts).encode()
        chunks.write(file, content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {file.name}\n")
      if seed == 0:
        self.first.setdefault(name, {})[t] = texts[:NUM_SHOWN]
    if self.directory is not None:
      chunks.write(self._sums(cell, t, seeds), "".join(sums).encode())

  def check_all(self, grid, parts) -> None:
    """`check` of every cell and part of the seeds, by the first process while the others wait; what it fails with fails all."""
    why = ""
    if jax.process_index() == 0:
      try:
        for cell in grid:
          for seeds in parts:
            self.check(cell, seeds)
      except OSError as error:
        if jax.process_count() == 1:
          raise
        why = str(error)
    if why := str(devices.gather({"why": np.asarray(why)})[0]["why"]):
      raise OSError(why)

  def _folder(self, cell) -> Path:
    return self.directory / "samples" / name_of(cell)

  def _sums(self, cell, t, seeds) -> Path:
    """As `sha256sum --check` reads them."""
    return self._folder(cell) / f"seeds_{seeds.start}-{seeds.stop - 1}_generation_{t}.sha256"

  def check(self, cell, seeds) -> None:
    """Removes the checkpoints of generations from the first on whose text is not there, or not whole: it is computed again."""
    folder = self.directory / "checkpoints" / folder_name(cell, seeds)
    checkpoints = {int(file.stem): file for file in folder.glob("*.npz") if file.stem.isdigit()}
    torn = next((t for t in range(1, max(checkpoints, default=0) + 1) if not self._is_whole(cell, t, seeds)), None)
    if torn is not None:
      _log.warning("%s: the text of generation %d is damaged: it is computed again.", self._folder(cell), torn)
      for t, file in checkpoints.items():
        if t >= torn:
          file.unlink()

  def _is_whole(self, cell, t, seeds) -> bool:
    sums = self._sums(cell, t, seeds)
    try:
      expected = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in (sums.with_name(f"seed_{seed}_generation_{t}.jsonl") for seed in seeds)
      )
      return sums.read_bytes() == expected.encode()
    except FileNotFoundError:
      return False

  def shown(self) -> dict[str, dict[int, list[str]]]:
    """cell -> generation -> first samples of seed 0, those that were written before a resume among them."""
    found = {name: dict(one) for name, one in self.first.items()}
    for file in sorted(self.directory.glob("samples/*/seed_0_generation_*.jsonl")) if self.directory else ():
      t = int(file.stem.rsplit("_", 1)[1])
      if t in found.get(file.parent.name, {}):
        continue
      try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:NUM_SHOWN]]
        found.setdefault(file.parent.name, {})[t] = [
          one["text"] if "text" in one else text.formatted(one["prompt"], one["response"]) for one in rows
        ]
      except (OSError, ValueError, KeyError, TypeError):
        _log.warning("%s is damaged: the report does not show its text.", file)
    return {name: dict(sorted(one.items())) for name, one in found.items()}


def name_of(cell) -> str:
  """Of its folder."""
  return vocabulary.file_name(",".join(f"{key}={value}" for key, value in cell.items()))


def _row(one, text):
  if text.is_formatted(one):
    prompt, response = one[len(text.USER) :].split(text.ASSISTANT)
    return {"prompt": prompt, "response": response}
  return {"text": one}
