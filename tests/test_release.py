"""What a release and its checks rely on: files that no other test reads."""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

import yaml

from collapse_jax import cli, tasks, transforms, workflows

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
IDENTITY = ("-c", "user.name=me", "-c", "user.email=me@example.com")
WORKFLOWS = {
  path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / ".github" / "workflows").glob("*.yml")
}


def steps(workflow):
  return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_version_is_told_once_in_each_place():
  newest = re.findall(r"^## (\d.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[0]
  assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == newest
  assert SETTINGS["tool"]["setuptools_scm"]["fallback_version"] == newest


def test_version_is_that_of_the_tag(tmp_path):
  """And stays so in an sdist; where there is no git it is the fallback, and with no tag the number of commits."""
  home = tmp_path / "source"
  (home / "collapse_jax").mkdir(parents=True)
  settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
  settings = re.sub(r"^packages = \[.*?^\]", 'packages = ["collapse_jax"]', settings, flags=re.M | re.S)
  (home / "pyproject.toml").write_text(re.sub(r"^package-dir.*$", "", settings, flags=re.M), encoding="utf-8")
  for name in ("README.md", "LICENSE", "collapse_jax/__init__.py", "collapse_jax/report/vendor/LICENSE.txt"):
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / name, home / name)
  version = lambda place: build("prepare_metadata_for_build_wheel", place).name.removesuffix(".dist-info").split("-")[1]
  git = lambda *words: subprocess.run(["git", *IDENTITY, *words], cwd=home, check=True, capture_output=True)
  assert version(home) == SETTINGS["tool"]["setuptools_scm"]["fallback_version"]
  git("init")
  git("add", ".")
  git("commit", "--message=one")
  assert re.fullmatch(r"0\.1(\.1)?\.dev1\+g[0-9a-f]+(\.d\d+)?", version(home))
  git("tag", "v9.8.7")
  assert version(home).split("+")[0] in ("9.8.7", "9.8.8.dev0")  # the second where building left files
  git("clean", "-dfx")
  sdist = build("build_sdist", home)
  assert sdist.name == "collapse_jax-9.8.7.tar.gz"
  with tarfile.open(sdist) as archive:
    archive.extractall(tmp_path, filter="data")
  assert version(tmp_path / "collapse_jax-9.8.7") == "9.8.7"


def build(what, place):
  """What a hook of the build makes of the sources in a place, beside which it puts it."""
  folder = tempfile.mkdtemp(dir=place.parent)
  script = f"import sys; from setuptools import build_meta; print(build_meta.{what}(sys.argv[1]))"
  done = subprocess.run([sys.executable, "-c", script, folder], cwd=place, capture_output=True, text=True, check=True)
  return Path(folder, done.stdout.splitlines()[-1])


def test_checks_run_what_is_there():
  ran = "\n".join(step.get("run", "") for workflow in WORKFLOWS.values() for step in steps(workflow))
  assert "bash .ci/run" in ran and (ROOT / ".ci" / "run").exists()
  extras = {extra for some in re.findall(r"\.\[([\w,]+)\]", ran) for extra in some.split(",")}
  assert extras and extras <= set(PROJECT["optional-dependencies"])
  for command in re.findall(r"\bcollapse (\w+)", ran):
    assert command in cli.COMMANDS
  lowest = PROJECT["requires-python"].removeprefix(">=")
  of_make = dict(re.findall(r"^(PYTHONS|SETS) \?= (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
  versions = WORKFLOWS["tests"]["jobs"]["versions"]["strategy"]["matrix"]
  assert of_make == {"PYTHONS": " ".join(versions["python"]), "SETS": " ".join(versions["set"])}
  assert versions["python"][0] == lowest
  dry = subprocess.run(
    ["make", "--no-print-directory", "-n", "matrix/3.12/highest"], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout
  *_, installs, tests = dry.splitlines()
  assert "--resolution highest" in installs and "--extra test --extra parity" in installs
  assert "CI=1 " in tests and tests.count(" -m ") == 1 and "tests/" not in tests  # -m of pytest itself: all of them


def test_nothing_but_publishing_may_write():
  for workflow in WORKFLOWS.values():
    assert workflow["permissions"] == {"contents": "read"}
  allowed = {name for name, job in WORKFLOWS["release"]["jobs"].items() if "permissions" in job}
  assert allowed == {"publish"}


def test_links_of_pages_at_the_top():
  for page in ROOT.glob("*.md"):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
      assert (ROOT / link).exists(), (page.name, link)


def test_the_readme_has_a_line_for_everything():
  """Tasks, workflows and transforms that there are, and none that is gone."""
  readme = (ROOT / "README.md").read_text(encoding="utf-8")
  rows = re.findall(r"^\| (.*?) \|", readme, re.M)
  told = lambda start: {name for row in rows for name in re.findall(rf"{start}(\w+)", row)}
  assert told(r"`tasks\.") == {name for name in tasks.__all__ if name != "Adapters"}
  transformed = {name for row in rows if "`transforms." in row for name in re.findall(r"`(?:transforms\.)?(\w+)", row)}
  assert transformed == set(transforms.__all__) - {"in_rows", "rewards", "verifiers", "class_shares"}
  table = readme.partition("\n| workflow |")[2].partition("\n\n")[0]
  assert set(re.findall(r"^\| `(\w+)", table, re.M)) == set(workflows.FACTORIES)


def test_build_lists_every_experiment():
  ran = set(re.findall(r"^\| `python -m experiments\.(\w+)", (ROOT / "BUILD.md").read_text(encoding="utf-8"), re.M))
  assert ran == set(cli.experiments())


def test_install_names_every_extra_and_what_is_excluded():
  page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
  rows = re.findall(r"^\| (`.*?) \|", page, re.M)
  assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(PROJECT["optional-dependencies"])
  (jax,) = (one for one in PROJECT["dependencies"] if one.startswith("jax>"))
  lowest, *excluded = re.findall(r"\d+\.\d+\.\d+", jax)
  assert f"{lowest} or later" in page and all(one in page for one in excluded)
  assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or later" in page
