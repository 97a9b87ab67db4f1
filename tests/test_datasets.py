"""Our generators against scikit-learn's, and real rows from files.

KS tests: p > 1e-4 with fixed seeds, a false-alarm rate of 1e-4 each; a law that is wrong on purpose must fall below.
"""

import jax
import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn import datasets as sk

from collapse_jax.data import generators, real_data

NUM = 20_000
LEVEL = 1e-4


def least_p(ours, theirs):
  """The smallest KS p-value over columns (or over the only one)."""
  ours, theirs = (np.asarray(x).reshape(len(x), -1) for x in (ours, theirs))
  return min(ks_2samp(a, b).pvalue for a, b in zip(ours.T, theirs.T))


@pytest.mark.parametrize("num", [10, 11, 500, 501])
@pytest.mark.parametrize("name", ["moons", "circles"])
def test_grids_equal_scikit_learn_point_for_point(name, num):
  """No law of random angles, noise or another factor has this."""
  options = {"factor": 0.8} if name == "circles" else {}
  ours = getattr(generators, name)(jax.random.key(0), num, noise=0.0)
  assert ours.dtype == np.float32
  np.testing.assert_allclose(ours, getattr(sk, f"make_{name}")(num, shuffle=False, noise=0, **options)[0], atol=1e-6)


@pytest.mark.parametrize("name", ["moons", "circles"])
def test_noise_around_the_grid(name):
  make, generate = getattr(sk, f"make_{name}"), getattr(generators, name)
  grid = make(NUM, shuffle=False)[0]
  theirs = make(NUM, shuffle=False, noise=0.05, random_state=0)[0] - grid
  assert least_p(generate(jax.random.key(0), NUM) - grid, theirs) > LEVEL
  assert least_p(generate(jax.random.key(0), NUM, noise=0.06) - grid, theirs) < LEVEL
  shuffled = np.random.default_rng(0).permutation(generate(jax.random.key(0), NUM))  # random angles
  assert least_p(shuffled - grid, theirs) < LEVEL


def test_swiss_roll():
  def views(rows):
    """Radius along the roll, width, and the radial distance from the spiral, which is the noise."""
    rows = np.asarray(rows, np.float64)
    radius, angle = np.hypot(rows[:, 0], rows[:, 2]), np.arctan2(rows[:, 2], rows[:, 0])
    return np.stack([radius, rows[:, 1], (radius - angle + np.pi) % (2 * np.pi) - np.pi], axis=1)

  theirs = views(sk.make_swiss_roll(NUM, noise=0.05, random_state=0)[0])
  ours = generators.swiss_roll(jax.random.key(0), NUM)
  assert least_p(views(ours), theirs) > LEVEL
  assert least_p(views(generators.swiss_roll(jax.random.key(0), NUM, noise=0.06)), theirs) < LEVEL
  for scale in ([1, 0.95, 1], [1.02, 1, 1.02]):
    assert least_p(views(np.asarray(ours) * np.float32(scale)), theirs) < LEVEL


def test_blobs_have_scikit_learns_law():
  centers = np.float32([[-50, 0], [0, 50], [50, 0], [0, -50]])  # so far apart that the nearest centre is the label
  theirs, labels = sk.make_blobs(NUM + 3, centers=centers, random_state=0)

  def parts(rows):
    nearest = np.linalg.norm(np.asarray(rows)[:, None] - centers[None], axis=2).argmin(axis=1)
    return np.bincount(nearest, minlength=4), rows - centers[nearest]

  counts, deviation = parts(generators.blobs(jax.random.key(0), NUM + 3, centers))
  np.testing.assert_array_equal(counts, np.bincount(labels))
  assert least_p(deviation, theirs - centers[labels]) > LEVEL
  _, wide = parts(generators.blobs(jax.random.key(0), NUM + 3, centers, cluster_std=1.2))
  assert least_p(wide, theirs - centers[labels]) < LEVEL


def test_blob_centers_are_uniform():
  ours = jax.vmap(generators.blob_centers)(jax.random.split(jax.random.key(0), 2000))
  assert ours.shape == (2000, 3, 2)
  theirs = [sk.make_blobs(3, centers=3, random_state=seed, return_centers=True)[2] for seed in range(2000)]
  gaps = [np.linalg.norm(np.diff(np.asarray(x), axis=1), axis=2) for x in (ours, theirs)]  # centres are independent
  ours, theirs = np.ravel(ours), np.ravel(theirs)
  assert least_p(ours, theirs) > LEVEL
  assert least_p(*gaps) > LEVEL
  assert least_p(1.1 * ours, theirs) < LEVEL


@pytest.mark.parametrize(("name", "same"), [("blobs", True), ("blobs_mismatched", False)])
def test_test_blobs_have_the_training_centres_except_in_the_published_defect(name, same):
  source = generators.get(name)
  truth = source.init(jax.random.key(0))
  train, test = source.split(jax.random.key(1), truth, 3001, 3000)
  more = source.draw(jax.random.key(2), truth, 3000)
  farthest = lambda rows: (
    np.linalg.norm(np.asarray(rows)[:, None] - np.asarray(truth["train"])[None], axis=2).min(1).max()
  )
  assert farthest(train) < 6
  assert farthest(more) < 6
  assert (farthest(test) < 6) == same
  assert not np.allclose(train[:3000], test)  # independent draws
  assert ("different centres" in source.note) != same


@pytest.mark.parametrize("name", ["moons", "blobs", "wine"])
def test_every_seed_has_its_own_rows_and_real_data_one_test_set(name):
  source = generators.get(name)

  def split(key):
    truth_key, split_key = jax.random.split(key)
    return source.split(split_key, source.init(truth_key), 50, 500)

  keys = jax.random.split(jax.random.key(0), 3)
  train, test = (np.asarray(x) for x in jax.jit(jax.vmap(split))(keys))
  assert train.shape == (3, 50, source.dim)
  assert test.shape == (3, source.num_test or 500, source.dim)
  np.testing.assert_allclose(split(keys[1])[0], train[1], atol=1e-5)  # jit and vmap change nothing
  for other in (1, 2):
    assert not np.allclose(train[0], train[other])
    assert np.allclose(test[0], test[other]) == (name == "wine")
  if name == "wine":  # without replacement, from the pool
    pool = {row.tobytes() for row in real_data.load(name).train}
    assert all(len({row.tobytes() for row in rows} & pool) == 50 for rows in train)


@pytest.mark.parametrize(
  ("name", "rows", "dim"), [("wine", 178, 13), ("iris", 150, 4), ("breast_cancer", 569, 30), ("digits", 1797, 60)]
)
def test_bundled_data_are_split_and_standardised(name, rows, dim):
  data, source = real_data.load(name), generators.get(name)
  assert len(data.train) + len(data.test) == rows
  assert len(data.test) == min(500, round(0.3 * rows))
  assert data.train.shape[1] == source.dim == dim
  assert (source.max_samples, source.num_test, source.draw) == (len(data.train), len(data.test), None)
  np.testing.assert_allclose(data.train.mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(data.train.std(axis=0), 1, atol=1e-5)
  assert len(real_data.load(name, 10).test) == 10
  with pytest.raises(ValueError, match=f"at most {len(data.train)} for {name} .{rows} rows, {len(data.test)} held out"):
    source.split(jax.random.key(0), None, rows, 500)


def test_real_rows_follow_the_precision_of_jax():
  with jax.enable_x64(True):
    assert {part.dtype for part in generators.get("iris").split(jax.random.key(0), None, 10, 5)} == {
      np.dtype("float64")
    }


def test_arrays():
  rows = np.random.default_rng(0).normal(size=(100, 3))
  assert generators.get(rows).max_samples == 70
  pair = generators.get((rows[:60] * 1e-20, rows[60:] * 1e-20))  # small units are not constant columns
  assert (pair.max_samples, pair.num_test, pair.dim, pair.note) == (60, 40, 3, "")
  assert generators.get(pair) is pair
  rows[:, 1] = 0.1
  assert generators.get(rows).note == "constant columns dropped: column 2"


@pytest.mark.parametrize(
  ("bad", "part"),
  [
    ("wien", "unknown data set 'wien'; known: blobs"),
    ("", "unknown data set"),
    (np.full((9, 2), np.nan), "must be finite"),
    (np.arange(9.0), "shape"),
    (np.zeros((9, 2)), "constant"),
    ([["a", "b"]] * 9, "array of numbers"),
    (np.random.default_rng(0).normal(size=(3, 2)), "at least 4 rows"),
    ((np.eye(5),), "pair"),
    ((np.eye(5), np.eye(4)), "equal dim"),
    (np.geomspace(1, 1e300, 18).reshape(9, 2), "too large"),
  ],
)
def test_what_cannot_be_used_is_refused(bad, part):
  with pytest.raises(ValueError, match=part) as error:
    generators.get(bad)
  assert "\n" not in str(error.value)


ROWS = "1,2\n3,5\n4,4\n0,1\n5,2\n"
GOOD = {
  "header": "a,b\n" + ROWS,
  "none": ROWS,
  "quotes": '"a, with comma","b"\n"1",' + ROWS[2:],
  "semicolon": ("a;b\n" + ROWS).replace(",", ";"),
  "tab": ROWS.replace(",", "\t"),
  "crlf": ROWS.replace("\n", "\r\n"),
  "blank": "\na,b\n\n" + ROWS.replace("3", "\n  \n3") + "\n\n",
  "bom": "\ufeffa,b\n" + ROWS,
  "bom_none": "\ufeff" + ROWS,
  "decimals": "a,b\n1.0,2e0\n+3, 5.\n 4,.4e1\n-0,1\n5,2",
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files(name, tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text(GOOD[name], encoding="utf-8", newline="")
  rows, columns = real_data.read_csv(str(path))
  np.testing.assert_array_equal(rows, [[1, 2], [3, 5], [4, 4], [0, 1], [5, 2]])
  assert columns[1] == ("column 2" if GOOD[name][0] in "1\ufeff" and "a" not in GOOD[name] else "b")
  assert generators.get(path).max_samples == 3


def test_constant_columns_are_named(tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text("a,b\n1,7\n3,7\n4,7\n0,7\n5,7\n")
  assert real_data.load(str(path)).dropped == ("b",)
  assert "constant columns dropped: b" in generators.get(str(path)).note


def test_a_file_that_has_changed_is_read_again(tmp_path):
  path = tmp_path / "rows.csv"
  for extra in (0, 5):
    path.write_text(ROWS + "7,8\n" * extra)
    data = real_data.load(str(path))
    assert len(data.train) + len(data.test) == 5 + extra


BAD = {
  "text": (
    "a,b\n1,x\n3,5\n4,4\n0,1\n",
    "column 'b', line 2 is not a finite number: 'x'; remove the column or the row; collapse run table takes texts.",
  ),
  "nan": ("a,b\n\n1,nan\n3,5\n4,4\n0,1\n", "column 'b', line 3 is missing"),
  "empty_cell": ("1,2\n3,\n4,4\n0,1\n", "column 'column 2', line 2 is missing"),
  "inf": ("a,b\n1,inf\n3,5\n4,4\n0,1\n", "not a finite number: 'inf'; remove the column or the row."),
  "decimal_comma": ('a,b\n"1,5",2\n3,5\n4,4\n0,1\n', "'1,5'; write decimals with a point"),
  "mixed_decimals": ("a;b\n1,5;2\n3;5.5\n4;4\n0;1\n", "decimal commas .'1,5'. and decimal points .'5.5'."),
  "thousands": ("a\tb\n1,500\t2\n3\t5\n4\t4\n0\t1\n", "separator of thousands"),
  "unnamed": (",a\n0.5,1\n1,2\n2,5\n3,4\n", "column 1 has no name"),
  "unnamed_second": ("a,,b\n0,1,1\n1,2,3\n2,5,7\n3,4,8\n", "column 2 has no"),
  "missing_first": (",2.5\n1,3.1\n2,4.7\n3,5\n4,1\n", "column 'column 1', line 1 is missing"),
  "comma_below_one_name": ("a\n1,5\n2,7\n3,1\n4,2\n", "line 2 has 2 columns"),
  "other_digits": ("a\n١\n1\n2\n3\n", "not a finite number"),
  "R_NA": ('"a","b"\n1,NA\n3,5\n4,4\n0,1\n', "column 'b', line 2 is missing"),
  "open_quote": ('a,b\n1,"2\n3,4\n', "line 2 cannot be read as CSV"),
  "one_row": ("a,b\n1,2\n", "one row"),
  "few": ("1,2\n3,4\n5,1\n", "3 rows; at least 4"),
  "empty": ("", "no rows"),
  "blank": ("\n \n", "no rows"),
  "header_only": ("a,b\n", "no rows of numbers"),
  "long": ("a,b\n1,2\n3,4,5\n", "line 3 has 3 columns"),
  "short": ("a,b\n1,2\n\n3\n", "line 4 has 1 columns"),
  "constant": ("a\n1\n1\n1\n1\n1\n", "every column is constant"),
  "nul": ("a,b\n1,\0\n", "not a text file"),
}


TRUE = np.random.default_rng(5).normal(size=(200, 3)) * [1, 0.5, 2] + [1, 2, 3]


def written(rows, **options) -> bytes:
  """As pandas writes them."""
  import pandas

  return pandas.DataFrame(rows, columns=options.pop("columns", None)).to_csv(**{"index": False, **options}).encode()


def test_headers_of_numbers(tmp_path):
  """pandas' default names and years are names, whatever is below them, and said; the same file with letters gives the same rows."""
  counts = np.random.default_rng(0).poisson(20, (200, 5))
  for rows, columns in (
    (TRUE, None),
    (TRUE, [2019, 2020, 2021]),
    (TRUE, [1990, 2000, 2010]),
    (TRUE, [3, 17, 42]),
    (TRUE, [2019.0, 2020.0, 2021.0]),
    (counts, None),
    (counts[:, :3], [2019, 2020, 2021]),
    (TRUE[:10], None),
    (TRUE[:, :2], None),
    (np.round(TRUE, 1), None),
    (np.column_stack([TRUE, counts]), np.arange(400.5, 404.5, 0.5)),
  ):
    (tmp_path / "rows.csv").write_bytes(written(rows, columns=columns))
    found, names = real_data.read_csv(tmp_path / "rows.csv")
    np.testing.assert_allclose(found, rows, rtol=1e-15)
    assert names == [str(name) for name in (np.arange(rows.shape[1]) if columns is None else columns)]
  (tmp_path / "rows.csv").write_bytes(written(TRUE))
  assert generators.get(tmp_path / "rows.csv").note == "first line 0, 1, 2 read as names of columns"
  assert np.abs(real_data.load(tmp_path / "rows.csv").train).max() < 5  # standardised by rows, not by a header


def test_rows_of_numbers_without_a_header(tmp_path):
  """No row is taken for a header: of 50 files a row, whatever their first is."""
  from sklearn.datasets import load_iris

  generator = np.random.default_rng(0)
  labelled = np.column_stack([generator.poisson(5, (200, 2)), generator.integers(0, 2, 200)])
  for rows, most_refused in (
    (TRUE, 0),
    (load_iris().data, 0),
    (labelled, 0.2),
    (generator.poisson(100, (200, 4)), 0.01),
    (np.round(TRUE, 1), 0.05),
    (np.cumsum(TRUE, axis=0), 0),
    (generator.integers(0, 2, (200, 1)), 0),
    (np.sort(np.round(TRUE), axis=1), 0.2),
  ):
    refused = 0
    for start in range(0, 200, 4):
      lines = [",".join(f"{x:.15g}" for x in row) for row in np.roll(rows, -start, axis=0)]
      (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
      try:
        assert len(real_data.read_csv(tmp_path / "rows.csv")[0]) == len(rows)
      except ValueError as error:
        assert "may be names of columns or a row of numbers" in str(error)
        refused += 1
    assert refused <= 50 * most_refused, (rows[:2], refused)


def test_undecidable_headers_are_refused(tmp_path):
  for content in (
    written(TRUE[:, :1]),
    written(np.arange(40).reshape(20, 2)[:, ::-1] * 3),
    written(TRUE[:5, :2] * [10, 10], columns=[2019, 2020]),
  ):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(
      ValueError, match=r"line 1 .* may be names of columns or a row of numbers; put a line of names with letters"
    ):
      real_data.read_csv(tmp_path / "rows.csv")


LINES = [",".join(f"{x:.6g}" for x in row) for row in TRUE]
WRITERS = {
  "pandas_index": written(TRUE, columns=list("abc"), index=True),
  "pandas_index_twice": written(TRUE, columns=list("abc"), index=True, index_label="Unnamed: 0"),
  "pandas_index_numbers": written(TRUE, index=True),
  "pandas_mixed_names": written(TRUE, columns=["a", 2020, 2021]),
  "R": b'"","a","b","c"\n' + b"".join(b'"%d",%s\n' % (i + 1, line.encode()) for i, line in enumerate(LINES)),
  "R_names": b'"","a","b","c"\n'
  + b"".join(b'"Mazda %d",%s\n' % (i + 1, line.encode()) for i, line in enumerate(LINES)),
  "R_write_table": b'"a" "b" "c"\n'
  + b"".join(b'"%d" %s\n' % (i + 1, line.replace(",", " ").encode()) for i, line in enumerate(LINES)),
  "R_shorter_header": b'"a","b","c"\n'
  + b"".join(b'"%d",%s\n' % (i + 7, line.encode()) for i, line in enumerate(LINES)),
  "R_csv2": ('"a";"b";"c"\n' + "\n".join(LINES).replace(",", ";").replace(".", ",")).encode(),
  "Excel_German": (
    "\ufeffsep=;\r\na;b;c\r\n" + "\r\n".join(LINES).replace(",", ";").replace(".", ",") + "\r\n;;\r\n;;\r\n"
  ).encode(),
  "Excel_unicode": ("a\tb\tc\r\n" + "\r\n".join(LINES).replace(",", "\t")).encode("utf-16"),
  "Excel_Macintosh": ("a,b,c\r" + "\r".join(LINES) + "\r").encode(),
  "delimiter_at_the_end": ("a,b,c,\n" + "".join(f"{one},\n" for one in LINES)).encode(),
  "delimiter_at_the_end_of_rows": ("a,b,c\n" + "".join(f"{one},\n" for one in LINES)).encode(),
  "quoted": written(TRUE, columns=list("abc"), quoting=1),
  "blank_lines": ("a,b,c\n" + "\n".join(LINES) + "\n\n  \n\r\n").encode(),
  "empty_cells_at_the_end": ("a,b,c\n" + "\n".join(LINES) + "\n,,\n,,\n").encode(),
  "sep_tab": ("sep=\t\na\tb\tc\n" + "\n".join(LINES).replace(",", "\t")).encode(),
  "sep_bar": ("sep=|\n" + "\n".join(LINES).replace(",", "|")).encode(),
  "sep_quoted": ('"sep=,"\na,b,c\n' + "\n".join(LINES)).encode(),
}


@pytest.mark.parametrize("name", WRITERS)
def test_writers(name, tmp_path):
  (tmp_path / "rows.csv").write_bytes(WRITERS[name])
  rows, names = real_data.read_csv(tmp_path / "rows.csv")
  np.testing.assert_allclose(rows, TRUE, rtol=1e-5)
  assert names[0] in ("a", "0") or name == "sep_bar"
  said = generators.get(tmp_path / "rows.csv").note
  assert ("row names" in said) == (
    name.startswith("pandas_index") or name in ("R", "R_names", "R_write_table", "R_shorter_header")
  )


def test_wide_lines(tmp_path):
  """25,000 genes: each line is longer than the csv module allows a field to be."""
  rows = np.random.default_rng(0).normal(size=(6, 25_000))
  (tmp_path / "rows.csv").write_bytes(written(rows))
  np.testing.assert_array_equal(real_data.read_csv(tmp_path / "rows.csv")[0], rows)


def test_what_can_be_read_once_is(tmp_path):
  """A pipe, as of `<(command)`, and a FIFO; one that nobody writes to is not waited for."""
  import os
  import threading

  reading, writing = os.pipe()
  os.write(writing, GOOD["header"].encode())
  os.close(writing)
  real_data.check(f"/dev/fd/{reading}")
  assert len(real_data.load(f"/dev/fd/{reading}").train) == 3
  os.close(reading)
  os.mkfifo(tmp_path / "rows.csv")
  thread = threading.Thread(target=lambda: (tmp_path / "rows.csv").write_text(GOOD["header"]))
  thread.start()
  assert (
    len(real_data.load(str(tmp_path / "rows.csv")).train) == len(real_data.load(str(tmp_path / "rows.csv")).train) == 3
  )
  thread.join()


def test_what_never_comes_or_never_ends_is_refused(tmp_path, monkeypatch):
  import os

  from collapse_jax.data import files

  monkeypatch.setattr(files, "PIPE_SECONDS", 0.1)
  os.mkfifo(tmp_path / "rows.csv")
  for path, part in (("/dev/zero", "no regular file"), (tmp_path / "rows.csv", "nothing came")):
    with pytest.raises(ValueError, match=part):
      real_data.check(str(path))


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text(BAD[name][0])
  with pytest.raises(ValueError, match=BAD[name][1]) as error:
    real_data.check(str(path))
  assert "rows.csv" in str(error.value)
  assert "\n" not in str(error.value)


def test_unreadable_files(tmp_path):
  (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
  for path, part in (
    (tmp_path / "none.csv", "no such file"),
    (tmp_path, "is a directory"),
    (tmp_path / "binary.csv", "cannot be read"),
    ("x" * 5000 + ".csv", "cannot be read"),
  ):
    with pytest.raises(ValueError, match=part):
      real_data.check(str(path))
