"""What results say, where they are looked at: in a notebook a table and a figure, in a terminal a few lines."""

import base64
from pathlib import Path
from typing import NamedTuple

from collapse_jax import diagnostics, plotting
from collapse_jax.plotting import figures
from collapse_jax.report import answer

__all__ = ["Summary", "summary"]

_HOME = Path(__file__).parent


class Summary(NamedTuple):
  """What became of each workflow; shows itself.

  Attributes:
    sentences: workflow -> (verdict of the worst cell, what that means in words, what it rests on).
    title: of the figure, "" where there is none.
    png: the figure.
  """

  sentences: dict[str, tuple[str, str, str]]
  title: str
  png: bytes

  def __repr__(self) -> str:
    lines = [f"{workflow} {verdict}: {text}" for workflow, (_, verdict, text) in self.sentences.items()]
    return "\n".join(lines) or "No metric has a direction that is worse."

  def _repr_html_(self) -> str:
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_HOME), autoescape=True, trim_blocks=True)
    png = base64.b64encode(self.png).decode()
    return environment.get_template("summary.html.j2").render(sentences=self.sentences, title=self.title, png=png)


def summary(results) -> Summary:
  """The answer of the report without the report: a sentence a workflow, and the first figure.

  Args:
    results: a Dataset of `sweep` or `loop`.
  """
  found = answer.answers(diagnostics.complete(results))
  name = str(results.attrs.get("task", "results"))
  sentences = {workflow: answer.sentence(one) for workflow, one in answer.by_workflow({name: found}).items()}
  title, figure = next(iter(figures.drawn(results)), ("", None))
  return Summary(sentences, title, b"" if figure is None else plotting.png(figure))
