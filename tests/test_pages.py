"""The code of pages that promise to be run."""

import inspect
import re
from pathlib import Path

import pytest

import collapse_jax as cj
from collapse_jax import theory
from collapse_jax.theory import page as laws

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(
  "page", ["how_much_real_data.md", "samplers.md", "write_a_task.md", "write_a_transform.md", "write_a_pipeline.md"]
)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  found: dict = {}
  blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
  assert blocks
  for block in blocks:
    exec(block, found)


def test_the_site_has_every_public_name():
  written = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
  told = set(re.findall(r"(?:automodule:: collapse_jax\.|autofunction:: |autoclass:: )([\w.]+)", written))
  names = {f"transforms.{name}" if name in ("rewards", "verifiers") else name for name in cj.__all__}
  assert names <= told, names - told


def test_every_page_can_be_found():
  for folder in (DOCS, DOCS / "api"):
    index = (folder / "index.md").read_text(encoding="utf-8").splitlines()
    assert {page.stem for page in folder.glob("*.md")} - {"index"} <= set(index)


def test_laws():
  """Every public function once, with what it says of itself and where it is from; and the page is what is generated."""
  page = (DOCS / "laws.md").read_text(encoding="utf-8")
  assert page == laws.page()
  functions = {name for name in theory.__all__ if inspect.isfunction(getattr(theory, name))}
  rows = re.findall(r"^\| \[`(\w+)`\]\((\S+)\) \| (.*) \| (.*) \|$", page, re.M)
  assert len(rows) == len(functions) and {row[0] for row in rows} == functions
  assert all(link == f"api/theory.md#collapse_jax.theory.{name}" and len(text) > 20 for name, link, text, _ in rows)
  assert all(
    laws.source(law) or re.search(laws.SOURCE, about) for about, found in laws.subjects().items() for law in found
  )
  assert laws.source(theory.curation_gaussian) == "derived" and "Kazdan et al. 2024" in laws.source(
    theory.gaussian_replace
  )
  assert not laws.source(test_laws)
