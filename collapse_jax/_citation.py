"""What to cite: BibTeX of the papers that tasks, workflows and transforms come from."""

import functools
import importlib.resources
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from collapse_jax.types import TaskSetting, Workflow

__all__ = ["citation", "citing"]

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made", TaskSetting, Workflow)


def citing(*sources: str) -> Callable[[Callable[Arguments, Made]], Callable[Arguments, Made]]:
  """A decorator of factories and transforms: what they make cites these, after what it was made of.

  Args:
    *sources: numbers of arXiv, or whole BibTeX entries.
  """

  def decorate(factory: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    @functools.wraps(factory)
    def make(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
      made = factory(*args, **kwargs)
      return made._replace(cites=tuple(dict.fromkeys(made.cites + sources)))

    return make

  return decorate


def citation(*used: TaskSetting | Workflow) -> str:
  """BibTeX of this package and of what was used: all that its `cites` names, each paper once.

  >>> import collapse_jax as cj
  >>> found = cj.citation(cj.tasks.gaussian(dim=1, num_samples=10), cj.workflows.accumulate())
  >>> print(*(line for line in found.splitlines() if line.startswith("@")))
  @software{collapse_jax, @article{kazdan2024collapse, @article{shumailov2023curse, @article{gerstgrasser2024inevitable,

  Args:
    *used: task-settings, also transformed ones, and workflows. A `cites` holds numbers of arXiv, or whole BibTeX entries.
  Returns:
    entries, an empty line between each; a paper that this package has no entry of is cited by its number alone.
  """
  from collapse_jax import __version__

  package = (
    "@software{collapse_jax,\n"
    "  title = {collapse\\_jax: a laboratory for model collapse},\n"
    f"  version = {{{__version__}}},\n"
    "}"
  )
  cited = dict.fromkeys(source for one in used for source in one.cites)
  return "\n\n".join([package, *map(_entry, cited)]) + "\n"


def _entry(source: str) -> str:
  if source.lstrip().startswith("@"):
    return source.strip()
  unknown = f"@misc{{arXiv:{source},\n  eprint = {{{source}}},\n  archivePrefix = {{arXiv}},\n}}"
  return _papers().get(source, unknown)


@functools.cache
def _papers() -> dict[str, str]:
  """Number of arXiv -> entry."""
  text = importlib.resources.files("collapse_jax").joinpath("papers.bib").read_text(encoding="utf-8")
  entries = (entry.strip() for entry in re.split(r"\n(?=@)", text))
  return {re.findall(r"eprint = \{(.*?)\}", entry)[0]: entry for entry in entries}
