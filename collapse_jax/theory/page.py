"""docs/laws.md, from the docstrings of this package: `python -m collapse_jax.theory.page > docs/laws.md`, or `make docs`."""

import importlib
import inspect
import re
from collections.abc import Callable

from collapse_jax import theory

__all__ = ["SOURCE", "page", "source", "statement", "subjects"]

HEAD = """# Laws

Every closed form of `collapse_jax.theory`, by subject: what it gives, with its formula, and where it is from. A name leads to what
it takes and returns. In formulas n is num_samples, t the generation, and `<-` what a generation makes of a number. "Exact" means at
any n, "first order" the leading term in 1/n, "derived" that it is derived here and quoted from no paper; tests hold all of them
against simulations.
"""

SOURCE = r"(?:et al\.|derived|\d{4}\.\d{5}|\b(?:1[89]|20)\d\d\b|Wright and Fisher|Polya|De Moivre)"


def page() -> str:
  """Markdown: a section a subject, a row a function."""
  return HEAD + "".join(
    f"\n## {_title(about)}\n\n{_escaped(about)}\n\n| law | what it gives | source |\n| --- | --- | --- |\n"
    + "".join(f"| {_link(law)} | {_cell(statement(law))} | {_cell(source(law) or 'as above')} |\n" for law in laws)
    for about, laws in subjects().items()
  )


def subjects() -> dict[str, list[Callable]]:
  """What is said of each subject -> its functions, as its file has them."""
  found: dict[str, list[Callable]] = {}
  for law in (getattr(theory, name) for name in theory.__all__):
    if inspect.isfunction(law):
      found.setdefault(law.__module__, []).append(law)
  place = lambda law: law.__code__.co_firstlineno
  return {_doc(importlib.import_module(name)): sorted(laws, key=place) for name, laws in sorted(found.items())}


def statement(law: Callable) -> str:
  """What is said of a law before its arguments."""
  return re.split(r"^(?:Args|Returns|Raises):$", _doc(law), flags=re.M)[0]


def source(law: Callable) -> str:
  """Whom a law is from, as its docstring says in brackets; "" where that is said of its subject alone."""
  return "; ".join(one for one in re.findall(r"\(([^()]+)\)", _doc(law)) if re.search(SOURCE, one))


def _doc(of) -> str:
  return inspect.getdoc(of) or ""


def _title(about: str) -> str:
  return re.split(r"[:.(]", about)[0].strip()


def _link(law: Callable) -> str:
  return f"[`{law.__name__}`](api/theory.md#collapse_jax.theory.{law.__name__})"


def _cell(text: str) -> str:
  return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
  """Plain text with `code` as Markdown, in which all else means itself."""
  parts = text.split("`")
  parts[::2] = [re.sub(r"([\\*_|<>\[\]~])", r"\\\1", part) for part in parts[::2]]
  return "`".join(parts)


if __name__ == "__main__":
  print(page(), end="")
