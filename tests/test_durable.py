"""What is on disk outlives a power failure before anything older goes."""

from pathlib import Path

import numpy as np
import pytest
import xarray
from helpers import by_steps, small
from power import Disk

from collapse_jax import tasks
from collapse_jax.sweeps import chunks


def boom(*_):
  raise KeyboardInterrupt


@pytest.mark.parametrize("synced", [True, False])
def test_a_sweep_goes_on_after_a_power_failure(tmp_path, monkeypatch, synced):
  """All chunks that are committed are certain to be there, by their content, their names and those of new directories."""
  root, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
  root.mkdir()
  expected = small()
  with monkeypatch.context() as patch:
    disk = Disk(root, patch, synced)
    with pytest.raises(KeyboardInterrupt):
      small(directory=root / "below" / "out", on_cell=boom)
    committed = {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.chunk")}
    left = disk.left()
  assert len(committed) >= 3
  kept = {name: content for name, content in left.items() if name.endswith(".chunk")}
  assert kept == (committed if synced else {})
  if synced:
    resumed = small(directory=disk.after_failure(elsewhere) / "below" / "out", resume=True)
    np.testing.assert_array_equal(resumed.error, expected.error)


def test_a_language_model_keeps_two_checkpoints(tmp_path, monkeypatch):
  """Whenever one is deleted two newer ones are certain to be there; the sweep goes on from what is left at that moment."""
  root = tmp_path / "disk"
  root.mkdir()
  options = {"num_generations": 5, "num_seeds": 2}
  task = lambda num_samples: tasks.sample_median(num_samples)
  with monkeypatch.context() as patch:
    disk = Disk(root, patch)
    expected = by_steps(task, ["accumulate"], {"num_samples": [5]}, directory=root / "out", **options)
  removed = [(path, left) for path, left in disk.removals if path.suffix == ".npz"]
  assert [path.stem for path, _ in removed] == ["1", "2", "3"]
  for path, left in removed:
    whole = {int(Path(name).stem): content for name, content in left.items() if name.endswith(".npz") and content}
    assert sorted(whole) == [int(path.stem) + 1, int(path.stem) + 2]
  elsewhere = tmp_path / "elsewhere"
  for name, content in removed[1][1].items():
    (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
    (elsewhere / name).write_bytes(content)
  computed = []
  resumed = by_steps(
    task,
    ["accumulate"],
    {"num_samples": [5]},
    directory=elsewhere / "out",
    resume=True,
    on_batch=lambda cell, t, seeds, batch: computed.append(t),
    **options,
  )
  xarray.testing.assert_identical(resumed.drop_attrs(), expected.drop_attrs())
  assert computed == [5]
  with monkeypatch.context() as patch:  # the wrong twin: nobody syncs, and at each deletion nothing is certain
    disk = Disk(root, patch, synced=False)
    by_steps(task, ["accumulate"], {"num_samples": [5]}, directory=root / "twin", **options)
  assert [left for path, left in disk.removals if path.suffix == ".npz"] == [{}] * 3


def test_what_is_older_goes_last(tmp_path, monkeypatch):
  """`discard`, `rename` and `durable` of directories: the new one is certain before the old one is gone."""
  old, new = tmp_path / "chunks", tmp_path / "part"
  old.mkdir()
  chunks.write(old / "a.chunk", b"old")
  (new / "figures").mkdir(parents=True)
  for name in ("results.nc", "figures/one.png"):
    (new / name).write_bytes(name.encode())
  disk = Disk(tmp_path, monkeypatch)
  chunks.rename(new, tmp_path / "results")
  assert not any(name.startswith("results/") for name in disk.left())  # the name alone
  chunks.discard([old], tmp_path / "results")
  ((path, left),) = disk.removals
  assert path == Path("chunks") and left == {
    "results/results.nc": b"results.nc",
    "results/figures/one.png": b"figures/one.png",
  }


def test_rename_is_certain(tmp_path, monkeypatch):
  disk = Disk(tmp_path, monkeypatch)
  chunks.make_folder(tmp_path / "a" / "b")
  chunks.write(tmp_path / "a" / "b" / "file", b"1")
  chunks.rename(tmp_path / "a" / "b" / "file", tmp_path / "a" / "other")
  assert disk.left() == {"a/other": b"1"}
  chunks.write(tmp_path / "a" / "other", b"2")
  assert disk.left() == {"a/other": b"2"}


def test_symbolic_links_go_alone(tmp_path):
  (tmp_path / "there").mkdir()
  (tmp_path / "there" / "notes").write_text("mine")
  (tmp_path / "link").symlink_to(tmp_path / "there")
  chunks.remove(tmp_path / "link")
  assert not (tmp_path / "link").exists() and (tmp_path / "there" / "notes").read_text() == "mine"


def test_names_of_cells_fit(tmp_path):
  """A table of shares as a workflow: its folder has a short name, and another table another one."""
  size = 12
  tables = [np.tril(np.ones((size, size))) / np.arange(1, size + 1)[:, None], np.eye(size)]
  names = [f"weights({table.tolist()})" for table in tables]
  options = {"num_generations": 2, "num_seeds": 1, "directory": tmp_path}
  by_steps(tasks.sample_median, names, {"num_samples": [5]}, **options)
  folders = [folder.name for folder in tmp_path.iterdir()]
  assert len(folders) == 2 and all(len(name.encode()) <= 143 for name in folders)
  computed = []
  by_steps(
    tasks.sample_median,
    names,
    {"num_samples": [5]},
    resume=True,
    on_batch=lambda *about: computed.append(about),
    **options,
  )
  assert not computed


def test_nothing_is_written_through_a_link(tmp_path):
  """Neither through one in the place of a file nor through one in that of its part."""
  (tmp_path / "theirs").write_text("notes")
  for name in ("file", "file.part"):
    (tmp_path / name).symlink_to(tmp_path / "theirs")
  chunks.write(tmp_path / "file", b"mine")
  assert (tmp_path / "file").read_bytes() == b"mine" and (tmp_path / "theirs").read_text() == "notes"
  assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "theirs"]
