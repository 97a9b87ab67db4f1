"""Names of files made from labels, and the directory for caches."""

import logging
import os
import stat

import pytest

from collapse_jax import caches, vocabulary


def test_short_plain_labels_are_names_as_they_are():
  for label in ("workflow=mix(0.2),num_samples=256,temperature=1.0", "replace", "workflow=mix(0.2, fresh=True)"):
    assert vocabulary.file_name(label) == label


def test_names_of_files_are_short_ascii_and_differ_where_labels_do():
  long = "workflow=weights([" + ",".join(f"[{i}]" for i in range(200)) + "])"
  labels = [
    "",
    ".",
    "..",
    ".a",
    "a.",
    "-a",
    " a",
    "a ",
    "a/b",
    "a_b",
    "a\\b",
    "a\nb",
    "a\0b",
    "a$b",
    "~",
    "é",
    "e\u0301",
    "\ud800",
    "\ud801",
    "日本" * 60,
    long,
    long + "x",
    long[:-1],
    "a" * 100,
    "a" * 101,
    vocabulary.file_name(long),
    vocabulary.file_name(".."),
  ]
  made = [vocabulary.file_name(label) for label in labels]
  assert len(set(made)) == len(set(labels))
  for name in made:
    assert name.isascii() and name.isprintable() and 0 < len(name) <= 100 and name not in (".", "..")
    assert not set(name) & set('/\\:*?"<>|$') and name[0] not in "-. " and name[-1] not in ". "
  assert vocabulary.file_name(long).startswith("workflow=weights([[0],[1]")


@pytest.fixture
def places(monkeypatch, tmp_path):
  """A home and a temporary directory of the test's own."""
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  (tmp_path / "tmp").mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
  caches._temporary.cache_clear()
  yield tmp_path
  caches._temporary.cache_clear()


def test_cache_directory_is_named_or_below_home(places, monkeypatch):
  assert caches.directory("x") == places / "home/.cache/collapse_jax/x"
  monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification has passed over
  assert caches.directory() == places / "home/.cache/collapse_jax"
  monkeypatch.setenv("XDG_CACHE_HOME", str(places / "named"))
  assert caches.directory("x") == places / "named/collapse_jax/x" and caches.directory("x").is_dir()


@pytest.mark.parametrize("why", ["no home", "unwritable home"])
def test_cache_directory_without_a_home_is_temporary_private_and_said_once(places, monkeypatch, caplog, why):
  if why == "no home":
    monkeypatch.setattr("pathlib.Path.home", _raises)  # as where HOME is unset and the user has no entry
  else:
    (places / "home").write_text("a file: nothing can be made below it, whoever asks")
  with caplog.at_level(logging.WARNING):
    path = caches.directory("x")
    assert caches.directory("x") == path
  assert path.is_dir() and path.is_relative_to(places / "tmp") and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
  assert len(caplog.messages) == 1 and str(path.parent) in caplog.text and "XDG_CACHE_HOME" in caplog.text


def test_temporary_cache_that_others_can_write_or_that_is_a_link_is_not_used(places, monkeypatch):
  monkeypatch.setattr("pathlib.Path.home", _raises)
  known = places / "tmp" / f"collapse_jax-{os.getuid()}"
  known.mkdir(mode=0o777)
  known.chmod(0o777)
  assert not caches.directory().is_relative_to(known)
  caches._temporary.cache_clear()
  known.rmdir()
  (places / "elsewhere").mkdir(mode=0o700)
  known.symlink_to(places / "elsewhere")
  assert not caches.directory().resolve().is_relative_to(places / "elsewhere")


def _raises(*_):
  raise RuntimeError("Could not determine home directory.")
