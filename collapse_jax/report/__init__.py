"""What results say, for people: a self-contained page of one or several Datasets, and the answer in a few lines. Reads Datasets
only."""

from collapse_jax.report._summary import Summary as Summary
from collapse_jax.report._summary import summary as summary
from collapse_jax.report.answer import Answer as Answer
from collapse_jax.report.answer import answers as answers
from collapse_jax.report.writing import page as page
from collapse_jax.report.writing import write_report as write_report

__all__ = ["Answer", "Summary", "answers", "page", "summary", "write_report"]


def __dir__() -> list[str]:
  return __all__
