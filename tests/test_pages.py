"""The code of pages that promise to be run."""

import re
from pathlib import Path

import pytest

import collapse_jax as cj

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("page", ["how_much_real_data.md", "samplers.md"])
def test_code_of_a_page_runs(page):
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
