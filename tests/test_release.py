"""What a release and its checks rely on: files that no other test reads."""

import re
import tomllib
from pathlib import Path

import yaml

from collapse_jax import cli

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = {
  path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / ".github" / "workflows").glob("*.yml")
}


def steps(workflow):
  return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_version_is_told_once_in_each_place():
  assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == PROJECT["version"]
  assert f"## {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_checks_run_what_is_there():
  ran = "\n".join(step.get("run", "") for workflow in WORKFLOWS.values() for step in steps(workflow))
  assert "bash .ci/run" in ran and (ROOT / ".ci" / "run").exists()
  for extra in re.findall(r"'\.\[(\w+)\]'", ran):
    assert extra in PROJECT["optional-dependencies"]
  for command in re.findall(r"\bcollapse (\w+)", ran):
    assert command in cli.COMMANDS
  lowest = PROJECT["requires-python"].removeprefix(">=")
  assert WORKFLOWS["tests"]["jobs"]["versions"]["strategy"]["matrix"]["python"][0] == lowest


def test_nothing_but_publishing_may_write():
  for workflow in WORKFLOWS.values():
    assert workflow["permissions"] == {"contents": "read"}
  allowed = {name for name, job in WORKFLOWS["release"]["jobs"].items() if "permissions" in job}
  assert allowed == {"publish"}


def test_links_of_pages_at_the_top():
  for page in ROOT.glob("*.md"):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
      assert (ROOT / link).exists(), (page.name, link)
