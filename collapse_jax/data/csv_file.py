"""Tables of numbers as spreadsheets, pandas, R and others write them. Imports no JAX."""

import array
import codecs
import contextlib
import csv
import io
import itertools
import re
from collections.abc import Iterator

import numpy as np

from collapse_jax.data import files
from collapse_jax.refused import Refused

__all__ = ["MIN_ROWS", "read"]

MIN_ROWS = 4  # two to train on, two in reserve
MOST_BYTES, MOST_CHARACTERS = 256 * files.MIB, 16 * files.MIB  # of a file, of a line
MISSING = ("", "na", "n/a", "nan", "null", "none")
# Probabilities, under the hypothesis that it is a row like the others, below which a first line of numbers is a header, and
# above which it is a row; between them it is refused.
HEADER, ROW = 1e-4, 0.2


def read(path) -> tuple[np.ndarray, list[str], str]:
  """Rows [rows, columns] float64, column names, and what was concluded about the layout ("" for most).

  UTF-8, or UTF-16 with its mark. Cells are separated by what a first line `sep=` says, else by tabs, semicolons, commas or
  blanks; where that is no comma, a comma is a decimal mark. Lines without any text are skipped, as are empty cells at the end
  of all lines and lines of empty cells at the end of the file. Row names (a first column without a name, or below a header that
  is one cell shorter) are left out. The first line is a header where it has a text above numbers, or where its numbers are
  unlikely to be a row like the others (`_probability_of_row`).

  Raises:
    ValueError: the file cannot be used, or its first line may be either; the message names file, place and remedy.
  """
  path = files.home(path)
  shown, notes = files.shown(path), []
  delimiter, records = _records(path)
  first_line, first = next(records, (0, []))
  if not first:
    raise Refused(f"{shown} holds no rows.")
  table = _Table(delimiter != ",")
  table.begin(len(first))
  above = np.array([table.number(cell) for cell in first])
  for line, record in records:
    if not table.num:
      table.begin(len(record))
    if len(record) != table.width or table.width not in (len(first), len(first) + 1):
      raise _uneven(shown, line, record, first)
    table.add(line, record, count=len(set(above)) == len(above))
  rows = np.frombuffer(table.cells).reshape(-1, table.width)
  columns = np.arange(table.width)  # that are kept
  if table.width > 1 and table.num and table.empty == table.num and (len(first) < table.width or first[-1] == ""):
    columns = columns[:-1]  # a delimiter at the end of each line
    first, above = first[: len(columns)], above[: len(columns)]
  is_label = 0 in table.text or (table.num > 0 and _are_row_numbers(rows[:, 0]))
  if len(first) < len(columns):  # as R writes row names; "1,5" below one name may be a decimal comma
    if not is_label or (len(first) == 1 and 0 not in table.text) or any(map(_is_number, first)):
      raise _uneven(shown, table.first_line, columns, first)
    columns = columns[1:]
  elif len(first) > 1 and is_label and re.fullmatch(r"(Unnamed: \d+)?", first[0]) and all(map(_may_be_name, first[1:])):
    columns, first, above = columns[1:], first[1:], above[1:]
  has_labels = len(columns) > 0 and columns[0] == 1
  words = [j for j, cell in enumerate(first) if not _is_number(cell) and cell.lower() not in MISSING]
  if has_labels:
    notes.append("a first column without a name read as row names")
    has_header = True
  elif words:
    has_header = not any(map(_is_number, first)) or any(columns[j] not in table.text for j in words)
  else:
    has_header = not table.bad and _is_header(
      shown, first_line, first, above, rows[:, columns], table.integers[columns]
    )
  if has_header and "" in first:
    raise Refused(
      f"{shown}: column {int(columns[first.index('')]) + 1} has no name in the header (a row number, or a "
      "delimiter at the end?); name it or remove it."
    )
  if has_header and not words:
    notes.append(f"first line {files.shown(', '.join(first), 40)} read as names of columns")
  rows, bad = (
    rows[:, columns],
    {j: table.bad[column] for j, column in enumerate(columns.tolist()) if column in table.bad},
  )
  if not has_header:
    rows = np.concatenate([above[None], rows])
    bad |= {int(j): (first_line, first[j]) for j in np.flatnonzero(~np.isfinite(above))}
  names = [files.shown(name) for name in first] if has_header else [f"column {i + 1}" for i in range(len(first))]
  if len(rows) < MIN_ROWS:
    count = {0: "no rows of numbers", 1: "one row"}.get(len(rows), f"{len(rows)} rows")
    raise Refused(f"{shown} holds {count}; at least {MIN_ROWS} are needed to split training from test rows.")
  if bad:  # by column, so that a text column is named at its first row
    line, cell = bad[min(bad)]
    raise Refused(f"{shown}: column {names[min(bad)]!r}, line {line} {_complaint(cell)}")
  if table.comma and table.point:
    raise Refused(
      f"{shown} has decimal commas ({table.comma!r}) and decimal points ({table.point!r}); write all alike."
    )
  if table.comma and delimiter == "\t" and table.all_thousands:
    raise Refused(f"{shown}: {table.comma!r} may have a decimal comma or a separator of thousands; write neither.")
  return rows, names, "; ".join(notes)


class _Table:
  """Rows of numbers, with what must be known of their text.

  Attributes:
    cells: float64 of all rows, NaN for what is no number.
    bad: column -> (line, cell) of the first cell that is no finite number.
    text: columns with a cell that is neither a number nor missing.
    empty: how many cells of the last column are empty.
    integers: [width] how many cells are written as integers.
    comma, point: a cell with a decimal comma, and one with a decimal point.
    all_thousands: all cells with a comma could have it between thousands and hundreds.
  """

  def __init__(self, decimal_comma: bool):
    self.decimal_comma = decimal_comma
    self.cells, self.num, self.first_line = array.array("d"), 0, 0
    self.bad: dict[int, tuple[int, str]] = {}
    self.text: set[int] = set()
    self.empty = 0
    self.comma, self.point, self.all_thousands = "", "", True

  def begin(self, width: int) -> None:
    self.width, self.integers = width, np.zeros(width, int)

  def add(self, line: int, record: list[str], count: bool) -> None:
    values = None
    if (whole := "".join(record)).isascii() and "_" not in whole:
      with contextlib.suppress(ValueError):
        values = list(map(float, record))
    if values is None or not np.isfinite(values).all():
      values = [self.number(cell) for cell in record]
      for j in np.flatnonzero(~np.isfinite(values)):
        self.bad.setdefault(int(j), (line, record[j]))
        if not _is_number(record[j]) and record[j].lower() not in MISSING:
          self.text.add(int(j))
      self.empty += record[-1] == ""
    elif self.decimal_comma and not self.point and "." in whole:
      self.point = next(cell for cell in record if "." in cell)
    if count:
      self.integers = self.integers + [cell.lstrip("+-").isdigit() for cell in record]
    self.cells.extend(values)
    self.num, self.first_line = self.num + 1, self.first_line or line

  def number(self, cell: str) -> float:
    """NaN for what is none."""
    if self.decimal_comma and re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", cell, re.ASCII):
      self.comma = cell
      self.all_thousands &= re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", cell) is not None
      return float(cell.replace(",", "."))
    if not _is_number(cell):
      return np.nan
    if self.decimal_comma and "." in cell:
      self.point = self.point or cell
    return float(cell)


def _is_header(shown, line, first, above, rows, integers) -> bool:
  """Whether a first line of numbers is a header; a ValueError where that cannot be told."""
  if not len(rows) or not np.isfinite(above).all() or len(set(above)) < len(above):  # names are finite and differ
    return False
  probability = _probability_of_row(first, above, rows, integers)
  if probability > ROW:
    return False
  if probability < HEADER and len(above) > 1:
    return True
  raise Refused(
    f"{shown}: line {line} ({files.shown(', '.join(first), 40)}) may be names of columns or a row of numbers; put "
    "a line of names with letters above it or in its place."
  )


def _probability_of_row(first: list[str], above: np.ndarray, rows: np.ndarray, integers: np.ndarray) -> float:
  """How likely a row like `rows` would look as much like names as the first line does: integers where the others have fractions,
  steps of one (0, 1, 2; 2019, 2020, 2021), equal steps, five and more in ascending order, all far from the rows, or one name
  that writers give.

  Each share is by Laplace's rule, so that few rows give little evidence.
  """
  share = lambda count: (count + 1) / (len(rows) + 2)
  probability, steps = 1.0, np.diff(above)
  if len(above) == 1:
    named = re.fullmatch(r"0|(19|20)\d\d", first[0])
    return share(np.sum(rows == above)) if named else 1.0
  if all(re.fullmatch(r"[-+]?\d+", cell) for cell in first):
    probability = float(np.prod(share(integers)))
  apart = np.maximum(rows.min(axis=0) - above, above - rows.max(axis=0))
  if (apart > np.ptp(rows, axis=0)).all():
    probability *= share(0)
  if np.allclose(steps, steps[0], rtol=1e-6, atol=0):
    if steps[0] == 1:
      probability *= share(np.sum(rows[:, 1] - rows[:, 0] == 1))
    equal = np.isclose(np.diff(rows, axis=1)[:, 1:], steps[0], rtol=1e-6, atol=0)
    probability *= float(np.prod(share(equal.sum(axis=0))))
  elif len(steps) > 3 and (steps > 0).all():
    probability *= share(np.sum((np.diff(rows, axis=1) > 0).all(axis=1)))
  return probability


def _are_row_numbers(column: np.ndarray) -> bool:
  return bool(
    np.isfinite(column).all() and (column == np.round(column)).all() and len(np.unique(column)) == len(column)
  )


def _may_be_name(cell: str) -> bool:
  """A text, or a number as names have them."""
  return cell.lstrip("+-").isdigit() or not _is_number(cell)


def _records(path) -> tuple[str, Iterator[tuple[int, list[str]]]]:
  """The delimiter, and line numbers (from 1) and stripped cells of the lines that hold any text."""
  shown = files.shown(path)
  content = files.read_bytes(path, MOST_BYTES, pipe=True)
  wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  if not wide and b"\0" in content:
    raise Refused(f"{shown} cannot be read: it is not a text file.")
  file = io.TextIOWrapper(io.BytesIO(content), "utf-16" if wide else "utf-8-sig", newline="")

  def lines():
    try:
      while line := file.readline(MOST_CHARACTERS + 1):
        if len(line) > MOST_CHARACTERS:
          raise Refused(f"{shown} has a line of more than {MOST_CHARACTERS:,} characters.")
        yield line
    except UnicodeDecodeError:
      raise Refused(f"{shown} cannot be read: it is not UTF-8 text; save it as CSV in UTF-8.") from None

  rest, seen = lines(), []
  texts: list[str] = []
  for line in rest:
    seen.append(line)
    texts += filter(None, [line.strip()])
    if len(texts) == 2:
      break
  said = re.fullmatch(
    r'"?sep=([,;|:\t])"?\1*', next((line.strip(" \r\n") for line in seen if line.strip()), ""), re.IGNORECASE
  )
  if said:
    delimiter = said.group(1)
    at = next(i for i, line in enumerate(seen) if line.strip())
    seen[at] = "\n"
  else:
    unquoted = [re.sub(r'"[^"]*"', "", text) for text in texts]
    # Semicolons and tabs first: next to them a comma is a decimal mark. Blanks only where each line has them.
    delimiter = next((mark for mark in "\t;," if mark in "".join(unquoted[:1])), "")
    delimiter = delimiter or (" " if len(texts) == 2 and all(" " in text for text in unquoted) else ",")

  def records():
    line = 1
    empty: list[tuple[int, list[str]]] = []
    text = itertools.chain(seen, rest)
    reader = csv.reader(
      (one.strip(" ") for one in text) if delimiter == " " else text,
      delimiter=delimiter,
      strict=True,
      skipinitialspace=True,
    )
    try:
      for record in reader:
        record = [cell.strip() for cell in record]
        if any(record):
          yield from empty
          yield line, record
          empty = []
        elif len(record) > 1:
          empty.append((line, record))
        line = reader.line_num + 1
    except csv.Error as error:
      raise Refused(f"{shown} line {line} cannot be read as CSV: {error}.") from None

  return delimiter, records()


def _uneven(shown, line, record, first) -> Refused:
  return Refused(
    f"{shown} line {line} has {len(record)} columns where the first has {len(first)}; give every line as many."
  )


def _complaint(cell: str) -> str:
  if cell.lower() in MISSING:
    return "is missing; fill it, or remove the column or the row."
  if re.fullmatch(r"[-+]?\d+,\d+", cell):
    return (
      f"is not a finite number: {files.shown(cell, 40)!r}; write decimals with a point and no thousands separators."
    )
  is_text = re.search("[^\\W\\d_]", cell) and not re.fullmatch(r"[-+]?inf(inity)?", cell, re.IGNORECASE)
  other = "; collapse run table takes texts" if is_text else ""
  return f"is not a finite number: {files.shown(cell, 40)!r}; remove the column or the row{other}."


def _is_number(cell: str) -> bool:
  if not cell.isascii() or "_" in cell:
    return False
  try:
    float(cell)
  except ValueError:
    return False
  return True
