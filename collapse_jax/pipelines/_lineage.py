"""What rows and models of a loop descend from, as files tell it. Imports no JAX."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from collapse_jax import vocabulary
from collapse_jax.pipelines._steps import Steps

__all__ = ["ROWS", "RUNS", "write_generation"]

ROWS, RUNS, STEPS = "rows.npz", "runs", "steps.json"


def write_generation(directory: Path, cell: Mapping[str, Any], seed: int, model: Any, steps: Steps) -> None:
  """Makes the folder of a generation: runs/CELL,seed=SEED/gT, with links to what its steps hold.

  Args:
    directory: of the loop.
    cell: name -> value.
    seed: number of the run.
    model: of the generation, which has been sampled and evaluated.
    steps: of the directory.
  """
  label = ",".join(f"{name}={value}" for name, value in {**cell, "seed": seed}.items())
  folder = directory / RUNS / vocabulary.file_name(label) / f"g{model.generation:03d}"
  folder.mkdir(parents=True, exist_ok=True)
  names = {"fit": model.name, "sample": model.sampled.name, "evaluate": model.evaluation}
  for role, name in names.items():
    place = steps.place(name)
    for file in sorted(place.iterdir()):
      if file.name not in ("step.json", ROWS, "work"):
        shown = f"{role}_log.txt" if file.name == "log.txt" and role != "fit" else file.name
        with contextlib.suppress(FileExistsError):
          os.symlink(os.path.relpath(file, folder), folder / shown)
  about = {
    "cell": {name: str(value) for name, value in cell.items()},
    "seed": seed,
    "generation": model.generation,
    **names,
  }
  (folder / STEPS).write_text(json.dumps(about, indent=2) + "\n")  # a loop makes these anew
