"""Our generators against scikit-learn's, and real rows from files. KS tests: false-alarm rate 1e-4 each."""

import jax
import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn import datasets as sk

from collapse_jax import datasets, real_data


@pytest.mark.parametrize("num", [10, 11, 501])
@pytest.mark.parametrize("name", ["moons", "circles"])
def test_grids_equal_scikit_learn_point_for_point(name, num):
  ours = getattr(datasets, name)(jax.random.key(0), num, noise=0.0)
  np.testing.assert_allclose(ours, getattr(sk, f"make_{name}")(num, shuffle=False, noise=0)[0], atol=1e-6)


@pytest.mark.parametrize("name", ["moons", "circles", "swiss_roll"])
def test_laws_equal_scikit_learns(name):
  num = 20_000
  theirs = getattr(sk, f"make_{name}")(num, noise=0.05, random_state=0)[0]
  ours = np.asarray(getattr(datasets, name)(jax.random.key(0), num))
  noisy = np.asarray(getattr(datasets, name)(jax.random.key(0), num, noise=0.15 if name != "swiss_roll" else 2.0))
  views = [lambda x, k=k: x[:, k] for k in range(ours.shape[1])] + [lambda x: np.hypot(x[:, 0], x[:, -1])]
  assert min(ks_2samp(view(ours), view(theirs)).pvalue for view in views) > 1e-4
  assert min(ks_2samp(view(noisy), view(theirs)).pvalue for view in views) < 1e-4


def test_blobs():
  for dataset, same in (("blobs", True), ("blobs_mismatched", False)):
    source = datasets.get(dataset)
    truth = source.init(jax.random.key(0))
    train, test = (np.asarray(part) for part in source.split(jax.random.key(1), truth, 3001, 3000))
    nearest = lambda x, truth=truth: np.linalg.norm(x[:, None] - np.asarray(truth["train"])[None], axis=2).min(axis=1)
    assert (nearest(test).max() < 6) == same
    assert nearest(train).max() < 6
  centers = np.asarray(truth["train"])
  assert (np.bincount(np.arange(3001) % 3) == [1001, 1000, 1000]).all()
  deviation = train - centers[np.arange(3001) % 3]
  theirs, labels, their_centers = sk.make_blobs(3001, centers=3, random_state=0, return_centers=True)
  assert ks_2samp(deviation.ravel(), (theirs - their_centers[labels]).ravel()).pvalue > 1e-4
  assert ks_2samp(1.2 * deviation.ravel(), (theirs - their_centers[labels]).ravel()).pvalue < 1e-4
  many = np.asarray(jax.vmap(datasets.blob_centers)(jax.random.split(jax.random.key(0), 500))).ravel()
  assert ks_2samp(many, np.random.default_rng(0).uniform(-10, 10, 3000)).pvalue > 1e-4


def test_every_seed_has_its_own_draw():
  for name in ("moons", "wine"):
    source = datasets.get(name)
    train, test = jax.jit(jax.vmap(lambda key, s=source: s.split(key, s.init(key), 50, 500)))(
        jax.random.split(jax.random.key(0), 2))
    assert not np.allclose(train[0], train[1])
    assert np.allclose(test[0], test[1]) == (name == "wine")


@pytest.mark.parametrize(("name", "rows", "dim"), [("wine", 178, 13), ("iris", 150, 4), ("breast_cancer", 569, 30)])
def test_real_data_are_split_and_standardised(name, rows, dim):
  data = real_data.load(name)
  assert len(data.train) + len(data.test) == rows
  assert data.train.shape[1] == dim
  np.testing.assert_allclose(data.train.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(data.train.std(0), 1, atol=1e-5)
  with pytest.raises(ValueError, match=f"at most {len(data.train)} for {name}"):
    datasets.get(name).split(jax.random.key(0), None, rows, 500)


def test_arrays():
  rows = np.random.default_rng(0).normal(size=(100, 3))
  assert datasets.get(rows).max_samples == 70
  assert datasets.get((rows[:60], rows[60:])).max_samples == 60
  with pytest.raises(ValueError, match="finite"):
    datasets.get(rows * np.nan)


GOOD = {
    "header": "a,b\n1,2\n3,5\n4,4\n0,1\n5,2\n", "none": "1,2\n3,5\n4,4\n0,1\n5,2\n", "quotes": '"a","b"\n"1",2\n3,5\n4,4\n0,1\n5,2\n',
    "semicolon": "a;b\n1;2\n3;5\n4;4\n0;1\n5;2\n", "tab": "1\t2\n3\t5\n4\t4\n0\t1\n5\t2\n",
    "blank": "a,b\n\n1,2\n3,5\n\n4,4\n0,1\n5,2\n\n", "bom": "\ufeffa,b\n1,2\n3,5\n4,4\n0,1\n5,2\n"}


@pytest.mark.parametrize("name", GOOD)
def test_good_files(name, tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text(GOOD[name], encoding="utf-8")
  rows, _ = real_data.read_csv(str(path))
  np.testing.assert_array_equal(rows, [[1, 2], [3, 5], [4, 4], [0, 1], [5, 2]])


def test_constant_columns_are_named(tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text("a,b\n1,7\n3,7\n4,7\n0,7\n5,7\n")
  assert real_data.load(str(path)).dropped == ("b",)
  assert "constant columns dropped: b" in datasets.get(str(path)).note


BAD = {
    "text": ("a,b\n1,x\n3,5\n4,4\n0,1\n", "column 'b', row 2"), "nan": ("a,b\n1,nan\n3,5\n4,4\n0,1\n", "is missing"),
    "empty_cell": ("a,b\n1,\n3,5\n4,4\n0,1\n", "is missing"), "inf": ("a,b\n1,inf\n3,5\n4,4\n0,1\n", "not a finite number"),
    "one_row": ("a,b\n1,2\n", "one row"), "no_rows": ("", "no rows"), "header_only": ("a,b\n", "no rows of numbers"),
    "ragged": ("a,b\n1,2\n3,4,5\n", "line 3 has 3 columns"), "constant": ("a\n1\n1\n1\n1\n1\n", "every column is constant")}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text(BAD[name][0])
  with pytest.raises(ValueError, match=BAD[name][1]) as error:
    real_data.load(str(path))
  assert "\n" not in str(error.value)


def test_unreadable_files(tmp_path):
  (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
  for path, part in ((tmp_path / "none.csv", "no such file"), (tmp_path, "is a directory"),
                     (tmp_path / "binary.csv", "cannot be read")):
    with pytest.raises(ValueError, match=part):
      real_data.read_csv(str(path))
