"""Write results as a table that other tools read, a line a number; or put them on the Hugging Face hub.

  collapse export results/gaussian
  collapse export results/gaussian --format=parquet --to=gaussian.parquet
  collapse export results/gaussian --push=me/gaussian-loops --noprivate

The columns are workflow, those axes that have several values, seed, generation, metric, value; where there are no such axes
`collapse forecast`, `share` and `check` read the CSV file again. --push uploads results.nc, the table and a page about them to a
data set that is private unless --noprivate says otherwise; log in with `hf auth login`.
"""

import re
import tempfile
from pathlib import Path

from absl import flags

from collapse_jax.cli import reading
from collapse_jax.cli.parts import flag_values
from collapse_jax.refused import Refused

__all__ = ["define", "main", "write"]

FORMATS = ("csv", "parquet")


def define() -> None:
  """Flags of this command."""
  flags.DEFINE_string("format", "csv", f"{' or '.join(FORMATS)}.")
  flags.DEFINE_string("to", None, "The file; default: the name of the directory with the ending of the format, here.")
  flags.DEFINE_boolean("overwrite", False, "Replace the file where there is one.")
  flags.DEFINE_string(
    "push", None, "USER/NAME of a data set on the Hugging Face hub, which is made where there is none."
  )
  flags.DEFINE_boolean("private", True, "Of a data set that --push makes.")


def main(arguments: list[str]) -> None:
  """Prints the path of the file, or the address of the data set."""
  flag = flag_values.FLAGS
  kind = flag_values.choice("format", FORMATS)
  place = reading.only(arguments, "one directory with results")
  if flag.push is not None:
    if flag.to is not None:
      raise Refused("--to and --push exclude each other.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", flag.push):
      raise Refused(f"--push must be USER/NAME, got {flag.push!r}.")
    print(_push(reading.results(place), flag.push, kind, flag.private))
    return
  path = Path(flag.to or f"{Path(place).resolve().with_suffix('').name}.{kind}").expanduser()
  if path.exists() and not flag.overwrite:
    raise Refused(f"{path} exists; give --overwrite, or another --to.")
  write(reading.results(place), path, kind)
  print(path)


def write(results, path: Path, kind: str) -> None:
  """The table of results in a file.

  Args:
    results: a Dataset.
    path: of the file.
    kind: one of `FORMATS`.
  """
  from collapse_jax import diagnostics

  table = diagnostics.long_form(results)
  if kind == "csv":
    table.to_csv(path, index=False)
    return
  try:
    table.to_parquet(path, index=False)
  except ImportError:
    raise Refused("--format=parquet needs the extra hub: pip install 'collapse-jax[hub]'.") from None


def _push(results, name: str, kind: str, private: bool) -> str:
  import huggingface_hub

  from collapse_jax import report

  api = huggingface_hub.HfApi()
  with tempfile.TemporaryDirectory() as folder:
    home = Path(folder)
    results.to_netcdf(home / "results.nc", engine="h5netcdf")
    write(results, home / f"results.{kind}", kind)
    about = f"---\ntags: [model-collapse]\nconfigs:\n- config_name: default\n  data_files: results.{kind}\n---\n"
    command = results.attrs.get("command", "")
    made = f"\n\nMade by `{command}`, with collapse_jax {results.attrs.get('package_version', '?')}." if command else ""
    text = f"{about}\n# {name}\n\n{report.summary(results)!r}{made}\n"
    (home / "README.md").write_text(text, encoding="utf-8")
    address = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, commit_message="Results of collapse_jax")
  return str(address)
