"""The site: `make docs`. Without network, and a warning is an error."""

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent.parent))

import collapse_jax

project = "collapse_jax"
author = copyright = "The authors of collapse_jax"
version = release = collapse_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "collapse_jax"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
myst_heading_anchors = 3
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_typehints = "signature"
autodoc_member_order = "groupwise"
default_role = "code"
# Files of the repository that are no pages of the site; fields that several types have.
suppress_warnings = ["myst.xref_missing", "ref.python"]


def setup(app):
  app.connect("autodoc-skip-member", _of_tuples)
  app.connect("autodoc-process-docstring", _as_markup, priority=0)


def _of_tuples(app, kind, name, member, skip, options):
  """Fields of a NamedTuple are told in its docstring, and say of themselves but their number."""
  return True if type(member).__name__ == "_tuplegetter" else None


def _as_markup(app, kind, name, found, options, lines):
  """Docstrings are plain text with `code`: bars and stars mean themselves, and a list may follow a line at once."""
  plain = []
  for line in lines:
    item, before = (re.match(r" *(- |\* )?", text).group(0) for text in (line, plain[-1] if plain else ""))
    if item.strip() and plain and plain[-1].strip() and not before.strip() and len(before) <= len(item) - 2:
      plain.append("")
    parts = line.split("`")
    parts[::2] = [part.replace("|", "\\|").replace("*", "\\*") for part in parts[::2]]
    plain.append("`".join(parts))
  lines[:] = plain
