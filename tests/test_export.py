"""Results for other tools: the long table, the file as each library reads it, the hub; completion of the command line."""

import csv
import functools
import subprocess
from pathlib import Path

import h5netcdf
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import xarray
from helpers import called
from looking import results, runs

import collapse_jax as cj
from collapse_jax import cli
from collapse_jax.cli import completion

T = np.arange(1, 7)


@pytest.fixture
def collapse(capsys):
  return functools.partial(called, capsys)


def made(**axes):
  """Two workflows, three seeds; a scalar and, of one dim more, a vector."""
  shape = (2, *map(len, axes.values()))
  loss = runs(np.broadcast_to(2 + 0.1 * T, (*shape, len(T))), seeds=3)
  extra = {} if axes else {"shares": (("workflow", "seed", "generation", "k"), np.stack([loss, 2 * loss], -1))}
  found = results({"loss": loss, "loss_expected": loss.mean(-2), **extra}, workflow=["replace", "mix(0.2)"], **axes)
  found.loss.values[0, ..., -1, 4:] = np.nan
  return found


@pytest.fixture
def place(tmp_path):
  made(num_samples=[10, 100]).to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
  return tmp_path


def test_long_form_is_every_number_once():
  found = made(num_samples=[10, 100], dim=[3])
  found["cell_status"] = (("workflow", "num_samples", "dim"), np.array([[["ok"], ["too large"]], [["ok"], ["ok"]]]))
  table = cj.diagnostics.long_form(found)
  assert list(table.columns) == ["workflow", "num_samples", "seed", "generation", "metric", "value"]
  assert len(table) == 3 * 3 * len(T) and set(table.metric) == {"loss"}
  for row in table.itertuples():
    at = {"workflow": row.workflow, "num_samples": row.num_samples, "seed": row.seed, "generation": row.generation}
    np.testing.assert_equal(row.value, found.loss.sel(at).item())


def test_a_vector_is_entries():
  found = made()
  table = cj.diagnostics.long_form(found).set_index(["metric", "workflow", "seed", "generation"]).value
  np.testing.assert_array_equal(table["shares[1]"].values, found.shares.values[..., 1].ravel())


def test_a_table_is_read_again(tmp_path, collapse):
  found = made().drop_vars("shares")
  found.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
  status, out, _ = collapse("export", tmp_path, f"--to={tmp_path / 'long.csv'}")
  assert (status, out) == (0, f"{tmp_path / 'long.csv'}\n")
  again = cj.decisions.read(tmp_path / "long.csv")
  np.testing.assert_array_equal(again.loss.sel(workflow=found.workflow).values, found.loss.values)


def test_files_are_read_by_others(place, collapse, monkeypatch):
  """results.nc by xarray, h5netcdf and netCDF4's own layout; the table by csv, as R does, and by pandas."""
  found = cj.load(place)
  with h5netcdf.File(place / "results.nc") as raw:
    np.testing.assert_array_equal(raw["loss"][...], found.loss.values)
    assert raw["loss"].dimensions == found.loss.dims and raw.attrs["primary_metric"] == "loss"
  with xarray.open_dataset(place / "results.nc", engine="h5netcdf") as other:
    xarray.testing.assert_identical(other.load(), found)
  monkeypatch.chdir(place)
  status, out, _ = collapse("export", place)
  assert (status, out) == (0, f"{place.name}.csv\n")
  expected = cj.diagnostics.long_form(found)
  with open(out.strip(), newline="") as file:
    head, *rows = csv.reader(file)
  assert head == list(expected.columns) and len(rows) == len(expected)
  assert [row[-1] == "" for row in rows] == list(expected.value.isna())
  assert all(float(row[-1]) == value for row, value in zip(rows, expected.value) if row[-1])
  status, _, said = collapse("export", place)
  assert status == 2 and "exists; give --overwrite" in said
  assert collapse("export", place, "--overwrite", "--format=parquet")[:2] == (0, f"{place.name}.parquet\n")
  pd.testing.assert_frame_equal(pd.read_parquet(f"{place.name}.parquet"), expected)


def test_push(place, collapse, monkeypatch):
  """What the hub's client is asked for."""
  asked = []

  class Api:
    def create_repo(self, name, **options):
      asked.append((name, options))
      return "https://huggingface.co/datasets/me/loops"

    def upload_folder(self, *, folder_path, **options):
      asked.append((options, {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}))

  monkeypatch.setattr(huggingface_hub, "HfApi", Api)
  status, out, _ = collapse("export", place, "--push=me/loops")
  assert (status, out) == (0, "https://huggingface.co/datasets/me/loops\n")
  (name, made_with), (sent, files) = asked
  assert (name, made_with) == ("me/loops", {"repo_type": "dataset", "private": True, "exist_ok": True})
  assert (sent["repo_id"], sent["repo_type"]) == ("me/loops", "dataset")
  assert set(files) == {"README.md", "results.csv", "results.nc"}
  assert b"data_files: results.csv" in files["README.md"] and b"replace" in files["README.md"]
  for wrong, said in ((["--push=loops"], "must be USER/NAME"), (["--push=a/b", "--to=c"], "exclude each other")):
    status, _, line = collapse("export", place, *wrong)
    assert status == 2 and said in line and len(asked) == 2


@pytest.mark.parametrize(
  ("words", "wanted", "not_wanted"),
  [
    (["ex"], {"export"}, {"loop"}),
    (["run", "gau"], {"gaussian"}, {"kde"}),
    (["run", "gaussian", "--noise"], {"--noise_vars="}, {"--dims="}),
    (["export", "--p"], {"--push=", "--private"}, {"--to="}),
    (["completion", ""], {"bash", "zsh"}, {"fish"}),
    (["check", "--nothing"], set(), {"--metric="}),
  ],
)
def test_bash_completes(words, wanted, not_wanted, tmp_path):
  given = " ".join(f"'{word}'" for word in ["collapse", *words])
  script = (
    f'{completion.script("bash")}\nCOMP_WORDS=({given})\nCOMP_CWORD={len(words)}\n_collapse\necho "${{COMPREPLY[@]}}"'
  )
  done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
  found = set(done.stdout.split())
  assert wanted <= found and not found & not_wanted, found
  assert all(one.startswith(words[-1]) for one in found)


def test_completion_of_shells(collapse):
  status, out, _ = collapse("completion", "zsh")
  assert status == 0 and out.startswith("autoload -U +X bashcompinit") and out.endswith(completion.script("bash"))
  assert all(name in out for name in (*cli.COMMANDS, *cli.experiments()))
  status, _, said = collapse("completion", "fish")
  assert status == 2 and "not for 'fish'" in said
