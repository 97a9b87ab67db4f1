"""A corpus of damaged and malicious files: each loads right or is refused in one line, in bounded time and memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import hostile_files
import pytest

from collapse_jax.data import files

KINDS = {
  "checkpoint": 400,
  "gguf": 180,
  "csv": 60,
  "jsonl": 100,
  "special": 14,
  "results": 80,
  "chunk": 40,
  "manifest": 15,
  "npz": 40,
}


@pytest.mark.slow
def test_corpus(tmp_path):
  """In a process of its own, so that what kills it is seen."""
  environment = os.environ | {
    "PYTHONPATH": str(Path(__file__).parent.parent),
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cpu",
  }
  done = subprocess.run(
    [sys.executable, hostile_files.__file__, str(tmp_path)],
    capture_output=True,
    text=True,
    timeout=600,
    env=environment,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  said = json.loads(done.stdout.splitlines()[-1])
  assert not said["wrong"], "\n".join(said["wrong"])
  assert all(said["count"][kind] >= num for kind, num in KINDS.items()), said["count"]
  assert all(said["loaded"].get(kind) for kind in KINDS if kind != "special") and "special" not in said["loaded"]
  assert said["bytes"] < hostile_files.LIMIT and said["seconds"] < 120
  assert "panicked" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("fault", ["a traceback", "two lines", "slow", "wrong"])
def test_the_corpus_sees(fault, monkeypatch):
  """What a reader must not do, done."""

  def load(path):
    if fault == "a traceback":
      raise KeyError(path)
    if fault == "two lines":
      raise ValueError("a\nb")
    while fault == "slow":
      pass
    return path

  monkeypatch.setattr(hostile_files, "SECONDS", 1)
  before = signal.signal(signal.SIGALRM, hostile_files.stop)
  try:
    corpus = hostile_files.Corpus()
    corpus.read("x", Path("y"), load, lambda found: fault != "wrong")
  finally:
    signal.signal(signal.SIGALRM, before)
  assert len(corpus.wrong) == 1


def test_read_bytes(tmp_path, monkeypatch):
  path = tmp_path / "a"
  path.write_bytes(b"12345")
  assert files.read_bytes(path, 5) == b"12345"
  os.mkfifo(tmp_path / "fifo")
  (tmp_path / "loop").symlink_to("loop")
  (tmp_path / "lost").symlink_to("nothing")
  monkeypatch.setattr(files, "PIPE_SECONDS", 0.05)
  for name, most, pipe, said in (
    ("a", 4, False, "larger than"),
    ("b", 4, False, "no such file"),
    ("fifo", 4, False, "no regular file"),
    ("fifo", 4, True, "nothing came"),
    (".", 4, True, "is a directory"),
    ("loop", 4, False, "cannot be read"),
    ("lost", 4, False, "no such file"),
    ("a/b", 4, False, "cannot be read"),
    ("\0", 4, False, "cannot be read"),
    ("x" * 300, 4, False, "cannot be read"),
    ("\x1b[2J", 4, False, r"\\x1b\[2J: no such file"),
  ):
    with pytest.raises(ValueError, match=said) as error:
      files.read_bytes(tmp_path / name, most, pipe)
    assert len(str(error.value).splitlines()) == 1
  for device in ("/dev/zero", "/dev/null"):
    with pytest.raises(ValueError, match="no regular file"):
      files.read_bytes(device, 1 << 40, pipe=True)


def test_a_pipe_is_read_once_and_bounded():
  for content, most in ((b"123", 3), (b"1234", 3)):
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    try:
      if len(content) > most:
        with pytest.raises(ValueError, match="larger than"):
          files.read_bytes(f"/dev/fd/{reading}", most, pipe=True)
      else:
        assert (
          files.read_bytes(f"/dev/fd/{reading}", most, pipe=True)
          == files.read_bytes(f"/dev/fd/{reading}", most, pipe=True)
          == content
        )
    finally:
      os.close(reading)


def test_text_and_objects(tmp_path):
  path = tmp_path / "a.json"
  for content, said in (
    (b"\xff", "no JSON"),
    (b"[]", "no JSON object"),
    (b"[" * 200_000, "nested too deep"),
    (b"{", "no JSON"),
    (b"1" * 5000, "no"),
  ):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
      files.read_json(path)
  path.write_bytes('\ufeff{"a": "ü"}'.encode())
  assert files.read_text(path, 99) == '{"a": "ü"}' and files.read_json(path) == {"a": "ü"}
  with pytest.raises(ValueError, match="larger than"):
    files.read_json(path, 3)
  path.write_bytes(b"\xff")
  with pytest.raises(ValueError, match="not UTF-8"):
    files.read_text(path, 99)


def test_home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  assert (
    files.home("~/rows.csv") == f"{tmp_path}/rows.csv"
    and files.home("rows~.csv") == "rows~.csv"
    and files.home("~no_such_user/a") == "~no_such_user/a"
  )
  (tmp_path / "~").mkdir()
  (tmp_path / "~" / "rows.csv").write_text("")
  assert files.home("~/rows.csv") == "~/rows.csv"


def test_names_are_shown_without_what_a_terminal_would_obey():
  assert files.shown("a\x1b[31mb\nc\udcff") == r"a\x1b[31mb\nc\udcff" and files.shown("ü 漢") == "ü 漢"
  assert files.shown("x" * 300) == "x" * 200 + "..."
