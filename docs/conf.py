"""The site: `make docs`. Without network, and a warning is an error."""

import importlib.metadata
import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What gallery and notebooks run is bound by compilation, of which XLA's optimisations are half.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Of matrices as small as these, threads of BLAS wait for each other more than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Fusions through LLVM alone, in one module, take half as long as by way of MLIR; later versions know no other.
if importlib.metadata.version("jax").startswith("0.9."):
  os.environ.setdefault("XLA_FLAGS", "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "docs"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Of notebooks, which are processes of their own.
os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
sys.path.insert(0, str(ROOT))

from sphinx_gallery.scrapers import figure_rst

import collapse_jax

project = "collapse_jax"
author = copyright = "The authors of collapse_jax"
version = release = collapse_jax.__version__
extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
  "sphinx_copybutton",
  "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "myst-nb", ".rst": "restructuredtext", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "gallery", "auto_gallery/*.ipynb", "auto_gallery/*.md5"]
html_theme = "sphinx_book_theme"
html_title = "collapse_jax"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
# Once [project.urls] says where the repository is, pages lead to it, and notebooks have a button that opens them in Colab.
if urls := tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls"):
  html_theme_options |= {
    "repository_url": urls["Repository"],
    "repository_branch": "main",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
  }
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_typehints = "signature"
autodoc_member_order = "groupwise"
default_role = "code"
# Files of the repository that are no pages of the site; fields that several types have; a function among the settings.
suppress_warnings = ["myst.xref_missing", "ref.python", "config.cache"]


def _figures(block, block_vars, gallery_conf, **options):
  """The figure that a block of the gallery ends with, where it is ours: these are no windows of pyplot."""
  variables = block_vars["example_globals"]
  last = variables.get("___")  # of an earlier block, where this one ends with no expression
  if not hasattr(last, "_repr_png_") or last is variables.get("_drawn"):
    return ""
  variables["_drawn"] = last
  path = next(block_vars["image_path_iterator"])
  Path(path).write_bytes(last._repr_png_())
  return figure_rst([path], gallery_conf["src_dir"])


sphinx_gallery_conf = {
  "examples_dirs": "gallery",
  "gallery_dirs": "auto_gallery",
  "filename_pattern": r"/plot_",
  "within_subsection_order": "FileNameSortKey",
  "image_scrapers": ("matplotlib", _figures),
  "capture_repr": ("_repr_html_", "__repr__"),
  "ignore_repr_types": r"matplotlib|PlainFigure",
  "abort_on_example_error": True,
  "remove_config_comments": True,
  "min_reported_time": 3,
  "show_memory": False,
  "write_computation_times": False,
  "copyfile_regex": "",
}


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
