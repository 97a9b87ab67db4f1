"""Kinds of data that pipelines work on, as rows: counted, taken, joined, written and read. Imports no JAX.

A kind is a table (pandas DataFrame), arrays ({name: array [n, ...]}), text (list of dicts) or a dataset (`datasets.Dataset`).
"""

import csv
import hashlib
import importlib.util
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from collapse_jax.data import files
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks

__all__ = [
  "PROVENANCE",
  "Schema",
  "concatenate",
  "conformed",
  "copied",
  "digest",
  "kind_of",
  "nbytes",
  "num_rows",
  "read",
  "schema_of",
  "suffix",
  "take",
  "write",
  "writer",
]

Rows = Any  # of one of the four kinds

# What files tell of each row beside its data: its number, generation and parent model, the seed it was drawn with, its weight.
PROVENANCE = ("_row", "_generation", "_model", "_seed", "_weight")

KINDS = "a pandas DataFrame, a dict of arrays, a list of dicts, or a datasets.Dataset"


class Schema(NamedTuple):
  """What rows have to be like.

  Attributes:
    kind: "table", "arrays", "text" or "dataset".
    columns: name -> "number", "time" or "other".
    missing: columns in which something is missing, or not finite, among the real rows: it may be in others.
    like: no rows, of the types of the real ones.
  """

  kind: str
  columns: dict[str, str]
  missing: frozenset[str]
  like: Rows


def kind_of(data: Rows) -> str:
  """ "table", "arrays", "text" or "dataset".

  Raises:
    Refused: it is none of these.
  """
  what = type(data).__name__
  if what == "DataFrame" and hasattr(data, "columns"):
    names = list(data.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
      raise Refused(f"columns of a table must have names, no two alike, got {files.shown(names)}.")
    return "table"
  if what == "Dataset" and hasattr(data, "column_names"):
    return "dataset"
  if isinstance(data, Mapping):
    shapes = {name: np.shape(value) for name, value in data.items()}
    if not shapes or () in shapes.values() or len({shape[0] for shape in shapes.values()}) > 1:
      raise Refused(f"a dict of arrays must have some, all of as many rows, got {files.shown(shapes)}.")
    if wrong := [name for name, value in data.items() if np.asarray(value).dtype == object]:
      raise Refused(f"a dict of arrays must hold numbers or text, got objects in {files.shown(wrong[0])!r}.")
    return "arrays"
  if isinstance(data, list) and all(isinstance(row, Mapping) for row in data):
    return "text"
  raise Refused(f"data must be {KINDS}, got {what}.", argument="real", value=type(data), allowed=KINDS)


def num_rows(data: Rows) -> int:
  """Of data of any kind."""
  return len(next(iter(data.values()))) if isinstance(data, Mapping) else len(data)


def take(data: Rows, index: np.ndarray) -> Rows:
  """Some rows.

  Args:
    data: of any kind.
    index: [k] integers.
  """
  kind = kind_of(data)
  if kind == "table":
    return data.take(index).reset_index(drop=True)
  if kind == "arrays":
    return {name: np.asarray(value)[index] for name, value in data.items()}
  return [data[i] for i in index] if kind == "text" else data.select(index)


def copied(data: Rows) -> Rows:
  """The same rows, which may be changed without changing these: columns and values of rows, not what lies inside of values."""
  kind = kind_of(data)
  if kind == "table":
    return data.copy()
  if kind == "arrays":
    return {name: np.array(value) for name, value in data.items()}
  return [dict(row) for row in data] if kind == "text" else data


def concatenate(parts: Sequence[Rows]) -> Rows:
  """Rows of several, one after another; of one kind and the same columns.

  Args:
    parts: at least one.
  """
  if len(parts) == 1:
    return parts[0]
  kind = kind_of(parts[0])
  if kind == "table":
    import pandas

    return pandas.concat(parts, ignore_index=True)
  if kind == "arrays":
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  if kind == "text":
    return [row for part in parts for row in part]
  import datasets

  return datasets.concatenate_datasets(parts)


def nbytes(data: Rows) -> int:
  """About how much memory it takes."""
  kind = kind_of(data)
  if kind == "table":
    return int(data.memory_usage(index=False).sum())
  if kind == "arrays":
    return sum(np.asarray(value).nbytes for value in data.values())
  return 200 * len(data) if kind == "text" else 0  # datasets are mapped from their files


def schema_of(data: Rows) -> Schema:
  """What rows have to be like that stand beside these.

  Raises:
    Refused: not of a kind that pipelines work on, no row, or a column that is called as files call what they tell of rows.
  """
  kind = kind_of(data)
  if not num_rows(data):
    raise Refused("data must have rows, got none.")
  columns, missing = _described(data, kind)
  if taken := [name for name in columns if name in PROVENANCE]:
    raise Refused(f"no column of the data may be called {taken[0]}: files tell that of each row.", value=taken[0])
  return Schema(kind, columns, frozenset(missing), take(data, np.arange(0)))


def conformed(data: Rows, schema: Schema, num: int) -> Rows:
  """What a sampler returned, with its columns in the order of the real rows.

  Args:
    data: whatever it returned.
    schema: of the real rows.
    num: rows that it was asked for.
  Raises:
    Refused: other rows, columns or values than it should return; in one line.
  """
  try:
    kind = kind_of(data)
  except Refused:
    kind = type(data).__name__
  if kind != schema.kind:
    raise Refused(
      f"sample must return {_KIND_NAMES[schema.kind]}, as the real rows are, got {_KIND_NAMES.get(kind, kind)}."
    )
  if num_rows(data) != num:
    raise Refused(f"sample must return {num} rows, got {num_rows(data)}.")
  columns, missing = _described(data, kind)
  for what, names in (("lacks", schema.columns.keys() - columns), ("has also", columns.keys() - schema.columns)):
    if names and not (kind == "text" and what == "lacks" and names <= schema.missing):
      raise Refused(f"sample must return the columns of the real rows: it {what} {', '.join(sorted(names)[:5])}.")
  for name, found in columns.items():
    if found != schema.columns[name]:
      raise Refused(
        f"sample must return a column {name} of kind {schema.columns[name]}, as the real one is, got {found}."
      )
  if worse := sorted(set(missing) - schema.missing):
    raise Refused(
      f"sample returned missing or infinite values in {', '.join(worse[:5])}, of which the real rows have none."
    )
  if kind == "arrays":
    for name, value in schema.like.items():
      if np.shape(data[name])[1:] != value.shape[1:]:
        raise Refused(f"sample must return an array {name} of rows {value.shape[1:]}, got {np.shape(data[name])[1:]}.")
    return {name: np.asarray(data[name]) for name in schema.columns}
  if kind == "table":
    return _typed(data.reset_index(drop=True)[list(schema.columns)], schema)
  return data if kind == "text" else data.select_columns(list(schema.columns))


def suffix(kind: str) -> str:
  """Ending of files that rows of a kind are kept in: tables are Parquet where pyarrow is installed, else CSV."""
  return {"arrays": ".npz", "text": ".jsonl"}.get(kind, ".parquet" if _has_pyarrow() else ".csv")


def write(data: Rows, path: Any, beside: Mapping[str, Any] | None = None) -> None:
  """Writes rows as the ending of the path says, at once: a file is whole or not there.

  Args:
    data: of any kind.
    path: ends in .parquet, .csv (tables and datasets), .jsonl (all but arrays) or .npz (arrays).
    beside: name -> [n] numbers or texts, or one for all rows; columns that are added.
  Raises:
    Refused: this kind of data cannot be written so, or values that the format does not know.
    OSError: the file cannot be written.
  """
  chunks.write(Path(path), writer(data, Path(path).suffix, beside))


def writer(data: Rows, ending: str, beside: Mapping[str, Any] | None = None) -> Callable[[IO[bytes]], None]:
  """A function that writes rows into a file that is open.

  Args:
    data, beside: as of `write`.
    ending: of the name of the file.
  """
  kind = kind_of(data)
  found = _WRITERS.get((kind, ending))
  if found is None:
    known = ", ".join(sorted(one for of, one in _WRITERS if of == kind))
    raise Refused(f"{_KIND_NAMES[kind]} can be written as {known}, not as {ending or 'a file without ending'}.")
  return lambda file: found(data, file, beside or {})


def read(path: Any, schema: Schema | None = None) -> Rows:
  """Rows of a file that `write` wrote or a user has, without what files tell beside the data.

  Args:
    path: ends in .parquet, .csv, .jsonl or .npz.
    schema: of the real rows, whose types these get where a file does not tell; None: a table, or text from .jsonl.
  Raises:
    Refused: the file is not there, or holds no such rows.
  """
  path = Path(path)
  files.check_regular(path)
  reader = _READERS.get(path.suffix)
  if reader is None:
    raise Refused(f"{files.shown(path)} must end in {', '.join(_READERS)}.", value=str(path))
  try:
    return reader(path, schema)
  except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise Refused(f"{files.shown(path)} cannot be read: {files.shown(reason).rstrip('.')}.") from None


def digest(data: Rows) -> str:
  """A hexadecimal digest of what rows hold."""
  kind, found = kind_of(data), hashlib.sha256()
  if kind == "text":
    for row in data:
      found.update(json.dumps(row, sort_keys=True, default=str).encode())
      found.update(b"\n")
    return found.hexdigest()
  if kind == "dataset":
    data = data.to_pandas()
  if kind == "arrays":
    for name, value in data.items():
      array = np.ascontiguousarray(value)
      found.update(f"{name} {array.dtype} {array.shape}\n".encode())
      found.update(array.view(np.uint8).data if array.size else b"")
    return found.hexdigest()
  import pandas

  for name in data.columns:
    column = data[name]
    try:
      hashed = pandas.util.hash_pandas_object(column, index=False, categorize=False).to_numpy()
    except TypeError:  # lists and dicts
      hashed = pandas.util.hash_pandas_object(column.map(repr), index=False, categorize=False).to_numpy()
    found.update(f"{name} {column.dtype}\n".encode())
    found.update(hashed.tobytes())
  return found.hexdigest()


_KIND_NAMES = {
  "table": "a DataFrame",
  "arrays": "a dict of arrays",
  "text": "a list of dicts",
  "dataset": "a datasets.Dataset",
}


def _has_pyarrow() -> bool:
  return importlib.util.find_spec("pyarrow") is not None


def _described(data: Rows, kind: str) -> tuple[dict[str, str], set[str]]:
  """name -> kind of each column, and those in which something is missing or not finite."""
  if kind == "arrays":
    arrays = {str(name): np.asarray(value) for name, value in data.items()}
    columns = {name: _of_dtype(value.dtype) for name, value in arrays.items()}
    return columns, {name for name, value in arrays.items() if value.dtype.kind in "fc" and not _finite(value)}
  if kind == "text":
    names = dict.fromkeys(name for row in data for name in row)
    return {str(name): "other" for name in names}, {
      str(name) for name in names if any(_is_missing(row.get(name)) for row in data)
    }
  if kind == "dataset":
    data = data.with_format("arrow")[:] if len(data) else data.data.table
    return {name: "other" for name in data.column_names}, {
      name for name in data.column_names if data[name].null_count or _has_nan(data[name])
    }
  columns = {name: _of_dtype(data[name].dtype) for name in data.columns}
  missing = set()
  for name, found in columns.items():
    column = data[name]
    if found == "number" and getattr(column.dtype, "kind", "O") in "iub":
      continue
    if column.isna().any() or (found == "number" and not _finite(column.to_numpy(float, na_value=np.nan))):
      missing.add(name)
  return columns, missing


def _of_dtype(dtype: Any) -> str:
  kind = getattr(dtype, "kind", "O")
  return "number" if kind in "biufc" else "time" if kind in "mM" else "other"


def _finite(values: np.ndarray) -> bool:
  return bool(np.isfinite(np.sum(values)) or np.isfinite(values).all())  # a sum needs no array of as many values


def _is_missing(value: Any) -> bool:
  return value is None or (isinstance(value, float) and not math.isfinite(value))


def _has_nan(column: Any) -> bool:
  import pyarrow.compute
  import pyarrow.types

  return pyarrow.types.is_floating(column.type) and not pyarrow.compute.all(pyarrow.compute.is_finite(column)).as_py()


def _typed(table: Any, schema: Schema) -> Any:
  """A table with the categories of the real rows, where these have all that there are."""
  for name, dtype in schema.like.dtypes.items():
    if getattr(dtype, "categories", None) is not None and table[name].dtype != dtype:
      cast = table[name].astype(dtype)
      if not (cast.isna() & ~table[name].isna()).any():
        table = table.assign(**{name: cast})
  return table


def _each(value: Any, num: int) -> np.ndarray:
  return np.broadcast_to(np.asarray(value), (num,))


def _write_parquet(data: Any, file: IO[bytes], beside: Mapping[str, Any]) -> None:
  try:
    import pyarrow
    import pyarrow.parquet
  except ModuleNotFoundError:
    raise Refused("Parquet files need pyarrow: pip install pyarrow, or name a .csv file.") from None
  try:
    is_table = kind_of(data) == "table"
    table = pyarrow.Table.from_pandas(data, preserve_index=False) if is_table else data.with_format("arrow")[:]
  except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
    raise Refused(f"a table cannot be written as Parquet: {files.shown(error)}.") from None
  for name, value in beside.items():
    table = table.append_column(name, _arrow_column(value, len(table)))
  # Random numbers do not get smaller: what is written is read soon.
  pyarrow.parquet.write_table(table, file, compression="none", use_dictionary=[n for n in beside])


def _arrow_column(value: Any, num: int) -> Any:
  """Few different values, which take next to no memory."""
  import pyarrow

  if np.ndim(value):
    return pyarrow.array(np.asarray(value))
  return pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(num, np.int8)), [value])


def _write_csv(data: Any, file: IO[bytes], beside: Mapping[str, Any]) -> None:
  data = data if kind_of(data) == "table" else data.to_pandas()
  data = data.assign(**beside) if beside else data
  data.to_csv(file, index=False, quoting=csv.QUOTE_MINIMAL)


def _write_jsonl(data: Any, file: IO[bytes], beside: Mapping[str, Any]) -> None:
  kind = kind_of(data)
  rows = data.to_dict("records") if kind == "table" else data
  added = {name: _each(value, len(data)).tolist() for name, value in beside.items()}
  for i, row in enumerate(rows):
    more = {name: values[i] for name, values in added.items()}
    try:
      file.write(json.dumps({**row, **more}, ensure_ascii=False, default=_plain).encode() + b"\n")
    except (TypeError, ValueError) as error:
      raise Refused(f"row {i} cannot be written as JSON: {error}.") from None


def _plain(value: Any) -> Any:
  if isinstance(value, np.generic | np.ndarray):
    return value.tolist()
  raise TypeError(f"{type(value).__name__} is no JSON value")


def _write_npz(data: Any, file: IO[bytes], beside: Mapping[str, Any]) -> None:
  num = num_rows(data)
  arrays = {**data, **{name: _each(value, num) for name, value in beside.items()}}
  with zipfile.ZipFile(file, "w") as archive:
    for name, value in arrays.items():
      with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)


_WRITERS: dict[tuple[str, str], Callable[..., None]] = {
  ("table", ".parquet"): _write_parquet,
  ("table", ".csv"): _write_csv,
  ("table", ".jsonl"): _write_jsonl,
  ("dataset", ".parquet"): _write_parquet,
  ("dataset", ".csv"): _write_csv,
  ("dataset", ".jsonl"): _write_jsonl,
  ("text", ".jsonl"): _write_jsonl,
  ("arrays", ".npz"): _write_npz,
}


def _read_parquet(path: Path, schema: Schema | None) -> Any:
  try:
    import pyarrow.parquet
  except ModuleNotFoundError:
    raise Refused("Parquet files need pyarrow: pip install pyarrow.") from None
  with pyarrow.parquet.ParquetFile(path) as file:
    names = [name for name in file.schema_arrow.names if name not in PROVENANCE]
    table = file.read(names)
  if schema is None or schema.kind == "table":
    found = table.to_pandas(split_blocks=True, self_destruct=True)
    return found if schema is None else _typed(found, schema)
  import datasets

  return datasets.Dataset(
    table.cast(schema.like.features.arrow_schema), info=datasets.DatasetInfo(features=schema.like.features)
  )


def _read_csv(path: Path, schema: Schema | None) -> Any:
  import pandas

  if schema is None or schema.kind != "table":
    table = pandas.read_csv(path, low_memory=False, **files.exact_numbers())
    return table.drop(columns=[name for name in PROVENANCE if name in table])
  empty = [name for name, kind in schema.columns.items() if kind == "other" and name not in schema.missing]
  table = pandas.read_csv(
    path,
    low_memory=False,
    **files.exact_numbers(),
    dtype={name: str for name, kind in schema.columns.items() if kind == "other"},
    keep_default_na=False,
    na_values={name: [""] for name in schema.columns if name not in empty},
    usecols=lambda name: name not in PROVENANCE,
  )
  missing = [name for name in schema.columns if name not in table]
  dtypes = {name: dtype for name, dtype in schema.like.dtypes.items() if name not in missing}
  return table.astype({name: dtype for name, dtype in dtypes.items() if _lossless(table[name], dtype)})


def _lossless(column: Any, dtype: Any) -> bool:
  """Whether a column can be cast: fractions, or nothing, are no integers."""
  return getattr(dtype, "kind", "O") not in "iub" or getattr(column.dtype, "kind", "O") in "iub"


def _read_jsonl(path: Path, schema: Schema | None) -> Any:
  rows = []
  with path.open(encoding="utf-8") as file:
    for line in file:
      if line.strip():
        row = json.loads(line)
        if not isinstance(row, dict):
          raise Refused("a line holds no JSON object")
        rows.append({name: value for name, value in row.items() if name not in PROVENANCE})
  if schema is None or schema.kind == "text":
    return rows
  import pandas

  return pandas.DataFrame(rows) if rows else schema.like


def _read_npz(path: Path, schema: Schema | None) -> Any:
  with np.load(path, allow_pickle=False) as arrays:
    return {name: arrays[name] for name in arrays.files if name not in PROVENANCE}


_READERS: dict[str, Callable[[Path, Schema | None], Any]] = {
  ".parquet": _read_parquet,
  ".csv": _read_csv,
  ".jsonl": _read_jsonl,
  ".npz": _read_npz,
}
