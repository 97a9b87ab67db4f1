"""What figures and report pages show, read back; and result Datasets of known numbers, made by hand."""

import html.parser
import json
from typing import Any, NamedTuple

import numpy as np
import xarray


def results(metrics, *, task="mine", generations=None, about=(), **axes):
  """A result Dataset as a sweep would make it, but of given numbers.

  Args:
    metrics: name -> values [workflow, axes..., seed, generation]; of `NAME_expected` and its variances, which have no seed; of
      `NAME_limit` and `NAME_expected_up_to`, which have no generation either; any other variable is (dims, values) or (dims,
      values, attributes). The first one is the primary metric.
    task: what the results call themselves.
    generations: as recorded; default 1, 2, ...
    about: name -> attributes of a metric; default: higher is worse, no units.
    axes: name -> values, `workflow` among them.
  """
  axes = {"workflow": ["replace", "accumulate", "accumulate_subsample"], **axes}
  made = {}
  for name, values in metrics.items():
    if not isinstance(values, tuple):
      plain = {"long_name": name.replace("_", " "), "units": "1", "worse": "higher", "log_scale": 0}
      if name.endswith(("_limit", "_expected_up_to")):
        dims, plain = (*axes,), {}
      elif "_expected" in name:
        dims, plain = (*axes, "generation"), {}
      else:
        dims, plain = (*axes, "seed", "generation"), plain | dict(about).get(name, {})
      values = (dims, np.asarray(values), plain)
    made[name] = values
  num = dict(zip(*next(iter(made.values()))[:1], next(iter(made.values()))[1].shape))["generation"]
  coordinates = {**axes, "generation": np.arange(1, num + 1) if generations is None else generations}
  return xarray.Dataset(made, coordinates, {"task": task, "primary_metric": next(iter(made))})


def runs(mean, *, seeds=5, spread=0.1, seed=0):
  """Runs [..., seed, generation] about curves [..., generation], with a spread that grows."""
  mean = np.asarray(mean, np.float64)[..., None, :]
  noise = np.random.default_rng(seed).normal(size=(*mean.shape[:-2], seeds, mean.shape[-1]))
  return mean + spread * noise * np.linspace(1, 2, mean.shape[-1])


# ------------------------------------------------------------------------------------------------------- figures
def lines(axis, style: str | None = None, colour=None):
  """[(x, y)] of an axis' lines; of one style, as "-" or "--", and of one colour."""
  from matplotlib.colors import to_rgba

  return [
    (np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
    for line in axis.lines
    if (style is None or line.get_linestyle() == style)
    and (colour is None or to_rgba(line.get_color()) == to_rgba(colour))
  ]


def theory(axis):
  """The dashed black lines."""
  return lines(axis, "--", "black")


def bands(axis):
  """[(x, low, high)] of what is filled."""
  from matplotlib.collections import PolyCollection

  found = []
  for one in axis.collections:
    if isinstance(one, PolyCollection):
      corners = one.get_paths()[0].vertices
      x = np.unique(corners[:, 0])
      at = [corners[corners[:, 0] == value, 1] for value in x]
      found.append((x, np.array([y.min() for y in at]), np.array([y.max() for y in at])))
  return found


def interval(values):
  """Mean, and low and high end of the 95% interval of the mean over runs [seeds, ...]."""
  values = np.asarray(values, np.float64)
  half = 1.96 * np.sqrt(values.var(axis=0, ddof=1) / len(values))
  return values.mean(axis=0), values.mean(axis=0) - half, values.mean(axis=0) + half


def assert_curve(axis, at, x, values):
  """The solid curve and the band number `at` of an axis are the mean and its interval of runs [seeds, x]."""
  mean, low, high = interval(values)
  solid, band = lines(axis, "-")[at], bands(axis)[at]
  order = np.argsort(x)
  np.testing.assert_allclose(solid, (x, mean), rtol=1e-12, atol=1e-12)
  np.testing.assert_allclose(band, (np.asarray(x)[order], low[order], high[order]), rtol=1e-9, atol=1e-12)


def legend(figure) -> list[str]:
  return [text.get_text() for one in figure.legends for text in one.get_texts()]


def caption(figure) -> str:
  return " ".join(figure.get_supxlabel().split())


# ------------------------------------------------------------------------------------------------------- report
class Table(NamedTuple):
  """A table of a page: the headings that it stands under, its own first row, and the cells of the others as text."""

  part: str
  heading: str
  columns: list[str]
  rows: list[list[str]]

  def records(self) -> list[dict[str, str]]:
    return [dict(zip(self.columns, row)) for row in self.rows]


class Page(html.parser.HTMLParser):
  """A report page: `tables`; `texts` [(tag, text)] of headings, paragraphs, list items and captions, in order; `ids`, `links`,
  `sources` of what it loads, `lines` of its small curves, and `data`, the JSON that its scripts read."""

  _TEXTS = ("h1", "h2", "h3", "h4", "p", "li", "summary", "figcaption", "title", "code")

  def __init__(self, text: str):
    super().__init__()
    self.tables: list[Table] = []
    self.texts: list[tuple[str, str]] = []
    self.images: list[dict[str, Any]] = []
    self.ids: list[str] = []
    self.links: list[str] = []
    self.sources: list[str] = []
    self.lines: list[str] = []
    self.data: list[dict[str, Any]] = []
    self._is_data = False
    self._under = {"h2": "", "h3": "", "h4": ""}
    self._open: list[tuple[str, list[str]]] = []
    self._row: list[str] = []
    self.feed(text)
    assert not self._open, self._open

  def handle_starttag(self, tag, attributes):
    named = dict(attributes)
    for name, found in (("id", self.ids), ("href", self.links), ("src", self.sources), ("points", self.lines)):
      found += [named[name]] if name in named else []
    self._is_data = tag == "script" and named.get("type") == "application/json"
    if tag == "img":
      self.images.append(named)
    if tag == "table":
      self.tables.append(Table(self._under["h2"], self._under["h4"] or self._under["h3"], [], []))
    if tag == "tr":
      self._row = []
    if tag in (*self._TEXTS, "td", "th"):
      self._open.append((tag, []))

  def handle_data(self, data):
    if self._is_data:
      self.data.append(json.loads(data))
      self._is_data = False
    for _, parts in self._open:
      parts.append(data)

  def handle_endtag(self, tag):
    if tag in (*self._TEXTS, "td", "th"):
      opened, parts = self._open.pop()
      assert opened == tag, (opened, tag)
      text = " ".join("".join(parts).split())
      if tag in ("td", "th"):
        self._row.append(text)
      else:
        self.texts.append((tag, text))
      if tag in self._under:
        below = {"h2": ("h3", "h4"), "h3": ("h4",), "h4": ()}[tag]
        self._under |= {tag: text} | dict.fromkeys(below, "")
    if tag == "tr":
      table = self.tables[-1]
      if table.columns:
        table.rows.append(self._row)
      else:
        table.columns.extend(self._row)

  def table(self, *columns: str, part: str | None = None) -> Table:
    """The only table, of a part of the page, that has these columns."""
    [found] = [one for one in self.tables if set(columns) <= set(one.columns) and part in (None, one.part)]
    return found

  def text(self, start: str) -> str:
    """The only text that begins with these words."""
    [found] = [text for _, text in self.texts if text.startswith(start)]
    return found
