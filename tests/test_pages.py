"""The code of pages that promise to be run."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("page", ["how_much_real_data.md", "samplers.md"])
def test_code_of_a_page_runs(page):
  found: dict = {}
  blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
  assert blocks
  for block in blocks:
    exec(block, found)
