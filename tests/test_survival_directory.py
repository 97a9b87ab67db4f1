"""What a sweep leaves in its directory, however it ends; in process, with simulations that only write."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import filelock
import numpy as np
import pytest
from helpers import DRAWN, finish, go, numbers

import collapse_jax as cj
from collapse_jax.refused import Refused
from collapse_jax.sweeps.chunks import Chunks
from experiments import compare, directory, flag_values, language_flags, output, real_data_value

WHOLE = {"config.json", "results.nc", *DRAWN}


def digest(path):
  """Of all files but the lock."""
  return {
    str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
    for file in sorted(path.rglob("*"))
    if file.is_file() and file.name != ".lock"
  }


def refuse(directory):
  """As a sweep that is found too large once it has begun, with a trace of it."""
  directory.mkdir(exist_ok=True)
  (directory / "sweep.json").write_text("{}")
  (directory.parent / "profile").mkdir(exist_ok=True)
  raise Refused("--num_generations is too large.")


def commit(directory, then=Refused):
  chunks = Chunks(directory, {}, flag_values.FLAGS.resume)
  chunks.save((0,), 0, {"finite": np.ones((1, 1), bool)})
  chunks.close()
  raise then("too late")


@pytest.mark.parametrize("error", [Refused, OSError, RuntimeError])
@pytest.mark.parametrize("before", ["nothing", "empty", "finished"])
def test_sweeps_that_finish_nothing_leave_nothing(begin, tmp_path, before, error):
  """The command that was corrected runs; results that --overwrite would have replaced are still there, and finished."""
  path = tmp_path / "below" / "out"
  begin(f"--output_dir={path}")
  if before != "nothing":
    path.mkdir(parents=True)
  if before == "finished":
    go(finish, path)
  begin(f"--output_dir={path}", "--overwrite")
  held = digest(tmp_path)

  def fail(directory):
    with contextlib.suppress(Refused):
      refuse(directory)
    raise error("--num_generations is too large.")

  with pytest.raises(error, match="too large"):
    go(fail, path)
  assert output.kept() == "."  # nothing is there to go on with
  assert digest(tmp_path) == held and (tmp_path / "below").exists() == (before != "nothing")
  if before == "finished":
    begin(f"--output_dir={path}", "--resume")
    go(refuse, path)  # nothing to do
  else:
    begin(f"--output_dir={path}")
    go(finish, path)
    assert cj.load(path).loss.values.flat[0] == 1


@pytest.mark.parametrize("error", [Refused, OSError])
def test_what_is_finished_is_kept(begin, tmp_path, error):
  path = tmp_path / "out"
  begin(f"--output_dir={path}")
  with pytest.raises(error):
    go(lambda directory: commit(directory, error), path)
  assert "--resume goes on" in output.kept()
  held = digest(path)
  assert "unfinished.json" in held and any(name.endswith(".chunk") for name in held)
  with pytest.raises(Refused, match="--resume to go on"):
    go(finish, path)
  assert digest(path) == held
  begin(f"--output_dir={path}", "--resume")
  go(finish, path)
  assert set(digest(path)) == WHOLE


@pytest.mark.parametrize("lost", ["unfinished.json", None, "both"])
def test_a_lost_or_empty_marker(begin, tmp_path, lost):
  """Chunks are refused without a flag, gone on with by --resume, and never removed in silence."""
  path = tmp_path / "out"
  begin(f"--output_dir={path}")
  with pytest.raises(OSError):
    go(lambda directory: commit(directory, OSError), path)
  (path / "unfinished.json").write_bytes(b"")
  if lost:
    (path / "unfinished.json").unlink()
  held = digest(path)
  with pytest.raises(Refused, match="already holds an unfinished sweep; give --resume"):
    go(finish, path)
  assert digest(path) == held
  if lost == "both":  # somebody else's, for all that is known
    begin(f"--output_dir={path}", "--overwrite")
    go(finish, path)
    assert len(list(path.glob("chunks.before/process_0/*.chunk"))) == 1 and not (path / "chunks").exists()
    return
  begin(f"--output_dir={path}", "--resume")

  def go_on(directory):
    assert len(list(directory.glob("process_0/*.chunk"))) == 1
    return numbers()

  go(go_on, path)
  assert set(digest(path)) == WHOLE


@pytest.mark.parametrize("marker", ["", '{"command": "x", "flags": {"seed": "5"}}'])
def test_a_sweep_that_died_before_it_finished_anything(begin, tmp_path, marker):
  """There is nothing to go on with, and nothing in the way."""
  path = tmp_path / "out"
  (path / "chunks" / "process_0").mkdir(parents=True)
  (path / "chunks" / "process_0" / "sweep.json").write_text("{}")
  (path / "unfinished.json").write_text(marker)
  begin(f"--output_dir={path}")
  go(finish, path)
  assert set(digest(path)) == WHOLE and not (path / "chunks").exists()


def test_texts_and_checkpoints_stay_beside_results(begin, tmp_path, monkeypatch):
  """Also those of an experiment among several, or on another disk; and whoever dies between is finished with by --resume."""
  path = tmp_path / "out"
  texts = {
    "samples/cell/seed_0_generation_1.jsonl",
    "language_model/samples/cell/seed_0_generation_1.jsonl",
    "language_model/checkpoints/cell/3.npz",
  }

  def simulate(directory):
    for file in texts:
      (directory / file).parent.mkdir(parents=True)
      (directory / file).write_text("text")
    return {"": numbers(), "language_model": numbers()}

  def die(old, new):
    assert (path / "chunks").exists() and not (path / "unfinished.json").exists()
    raise KeyboardInterrupt

  def another_disk(old, new):
    if new.suffix in (".jsonl", ".npz"):
      raise OSError(errno.EXDEV, "another disk")
    os.replace(old, new)

  folders = ("", "language_model")
  begin(f"--output_dir={path}")
  with monkeypatch.context() as patch:
    patch.setattr(directory, "_move", die)
    with pytest.raises(KeyboardInterrupt):
      go(simulate, path, folders=folders)
  begin(f"--output_dir={path}", "--resume")
  with monkeypatch.context() as patch:
    patch.setattr(directory.chunks, "rename", another_disk)
    go(refuse, path, folders=folders)  # nothing to do
  assert set(digest(path)) == WHOLE | texts | {"language_model/results.nc"} and not (path / "chunks").exists()
  begin(f"--output_dir={path}", "--seed=1", "--resume")
  with pytest.raises(Refused, match=r"^--resume: .* with --seed=0, not 1; --overwrite begins anew\.$"):
    go(refuse, path, folders=folders)
  begin(f"--output_dir={path}", "--seed=1", "--overwrite")
  go(finish, path)
  assert set(digest(path)) == WHOLE  # samples and checkpoints of those results go with them, no other


THEIRS = (
  "notes.txt",
  "figures/notes.txt",
  "figures/a.png",
  "chunks/a/data.bin",
  "samples/mine.txt",
  "checkpoints/1/model.npz",
  "profile/x",
  ".writing-abc/results.nc",
  "gaussian/notes.txt",
)


@pytest.mark.parametrize("theirs", [(one,) for one in THEIRS] + [THEIRS])
@pytest.mark.parametrize("end", [finish, refuse])
def test_what_others_made_is_never_removed(begin, tmp_path, theirs, end):
  """Refused; with --overwrite it stays, or is set aside where its name is needed."""
  path = tmp_path / "out"
  for name in theirs:
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(f"mine: {name}")
  held = digest(path)
  free = theirs == (".writing-abc/results.nc",)  # hidden files are nobody's business
  begin(f"--output_dir={path}")
  if not free:
    with pytest.raises(Refused, match="which this program did not make; name another directory, or give --overwrite"):
      go(end, path)
    assert digest(path) == held
  for _ in range(2):
    begin(f"--output_dir={path}", "--overwrite")
    with contextlib.suppress(Refused):
      go(end, path)
    found = digest(path)
    assert sorted(held.values()) == sorted(
      value for name, value in found.items() if name not in WHOLE or value == held.get(name)
    )
    assert {name for name in held if name != "figures/a.png"} <= set(found)
  assert (set(found) == set(held)) == (end is refuse)


@pytest.mark.parametrize("name", ["results.nc", "config.json", "report.html", "unfinished.json", "chunks", "figures"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_names_that_are_taken(begin, tmp_path, name, kind):
  path, other = tmp_path / "out", tmp_path / "other"
  path.mkdir()
  if kind == "file":
    (path / name).write_text("mine")
  elif kind == "folder":
    (path / name).mkdir()
    (path / name / "mine.txt").write_text("mine")
  else:
    other.write_text("mine")
    (path / name).symlink_to(other)
  begin(f"--output_dir={path}")
  with pytest.raises(Refused, match="already holds"):
    go(finish, path)
  begin(f"--output_dir={path}", "--overwrite")
  go(finish, path)
  assert [
    file.read_text()
    for file in tmp_path.rglob("*")
    if file.is_file() and file.read_bytes() == b"mine" and not file.is_symlink()
  ] == ["mine"]
  assert set(digest(path)) >= WHOLE and cj.load(path).loss.values.flat[0] == 1


def test_links_to_other_disks(begin, tmp_path):
  """Written through, emptied of what is ours, and never removed."""
  path, disk = tmp_path / "out", tmp_path / "disk"
  path.mkdir()
  for name in ("figures", "chunks"):
    (disk / name).mkdir(parents=True)
    (path / name).symlink_to(disk / name)
  for flags in ((), ("--overwrite",), ("--resume",)):
    begin(f"--output_dir={path}", *flags)
    go(finish, path)
    assert (path / "figures").is_symlink() and (path / "chunks").is_symlink()
    assert set(digest(disk)) == {"figures/a.png", "figures/b.pdf"}
  begin(f"--output_dir={path}", "--overwrite")
  with pytest.raises(OSError):
    go(lambda directory: commit(directory, OSError), path)
  (disk / "chunks" / "lost+found").mkdir()
  assert list(disk.glob("chunks/process_0/*.chunk"))
  begin(f"--output_dir={path}", "--resume")
  go(finish, path)
  assert (path / "chunks").is_symlink() and [one.name for one in (disk / "chunks").iterdir()] == ["lost+found"]


def test_a_manifest_cannot_name_what_lies_elsewhere(begin, tmp_path):
  path = tmp_path / "out"
  begin(f"--output_dir={path}")
  go(finish, path)
  (tmp_path / "theirs.txt").write_text("x")
  config = json.loads((path / "config.json").read_text())
  config["made"] |= {
    "../theirs.txt": 1,
    str(tmp_path / "theirs.txt"): 1,
    "figures/../../theirs.txt": 1,
    ".": 1,
    "figures": 1,
  }
  (path / "config.json").write_text(json.dumps(config))
  begin(f"--output_dir={path}", "--overwrite")
  go(finish, path)
  assert (tmp_path / "theirs.txt").exists() and set(digest(path)) >= WHOLE


def test_results_of_an_experiment_among_several(begin, tmp_path):
  """reproduce --output_dir=W/results where results/gaussian holds a run of its own, with notes; and while a sweep runs there."""
  path = tmp_path / "results"
  below = path / "gaussian"
  begin(f"--output_dir={below}")
  go(finish, below)
  (below / "my_notes.txt").write_text("mine")
  held = digest(path)
  several = lambda directory: {"gaussian": numbers(2.0), "kde/moons": numbers(3.0)}
  folders = ("gaussian", "kde/moons")
  begin(f"--output_dir={path}")
  with pytest.raises(Refused, match=r"already holds gaussian/"):
    go(several, path, folders=folders)
  assert digest(path) == held
  begin(f"--output_dir={path}", "--overwrite")
  with filelock.FileLock(below / ".lock"):
    with pytest.raises(Refused, match=r"gaussian is being written by another process"):
      go(several, path, folders=folders)
    assert digest(path) == held
  go(several, path, folders=folders)
  mine = WHOLE - {"results.nc"} | {"gaussian/my_notes.txt", "kde/moons/results.nc"}
  assert set(digest(path)) == mine | {"gaussian/results.nc"}
  assert cj.load(below).loss.values.flat[0] == 2 and cj.load(path / "kde" / "moons").loss.values.flat[0] == 3
  begin(f"--output_dir={below / 'x'}")
  with (
    filelock.FileLock(path / ".lock"),
    pytest.raises(Refused, match=r"results is being written by another process"),
  ):
    go(finish, below / "x")
  begin(f"--output_dir={path}", "--overwrite")
  go(lambda directory: {"kde/moons": numbers(4.0)}, path, folders=("kde/moons",))
  assert set(digest(path)) == mine  # no results of two runs side by side


@pytest.mark.parametrize(
  "damage",
  [
    "results.nc",
    "report.html",
    "figures/a.png",
    "figures",
    "results.nc cut",
    "report.html cut",
    "results.nc empty",
    "figures/b.pdf empty",
  ],
)
def test_resume_tells_the_truth(begin, tmp_path, capsys, damage):
  """What is missing, cut or empty is made again: figures and report from the numbers, numbers by computing."""
  path = tmp_path / "out"
  begin(f"--output_dir={path}")
  go(finish, path)
  whole = digest(path)
  name, _, how = damage.partition(" ")
  file = path / name
  if how:
    file.write_bytes(file.read_bytes()[: 0 if how == "empty" else len(file.read_bytes()) // 2])
  elif file.is_dir():
    shutil.rmtree(file)
  else:
    file.unlink()
  begin(f"--output_dir={path}", "--resume")
  capsys.readouterr()
  ran = []
  go(lambda directory: ran.append(1) or finish(directory), path)
  found = digest(path)
  assert {one for one in whole if found.get(one) != whole[one]} == ({"config.json"} if ran else set())  # other flags
  assert set(found) == WHOLE and bool(ran) == (name == "results.nc")
  said = capsys.readouterr()
  assert said.out.strip().endswith("report.html") and ("computed again" in said.err) == bool(ran)


def test_drawing_that_fails_is_a_warning(begin, tmp_path, monkeypatch, capsys):
  """Numbers are there, nothing is left to be computed, and --resume draws."""
  path = tmp_path / "out"
  begin(f"--output_dir={path}")

  def fail(path, folders):
    assert (
      cj.load(path).loss.values.flat[0] == 1
      and not (path / "unfinished.json").exists()
      and not (path / "chunks").exists()
    )
    raise RuntimeError("no LaTeX\nmore")

  with monkeypatch.context() as patch:
    patch.setattr(output, "drawings", fail)
    go(finish, path)
  said = capsys.readouterr()
  assert (
    "warning: " in said.err and "no LaTeX" in said.err and "--resume" in said.err and len(said.err.splitlines()) == 1
  )
  assert said.out.strip() == str(path / "results.nc") and set(digest(path)) == {"config.json", "results.nc"}
  begin(f"--output_dir={path}", "--resume")
  go(refuse, path)
  assert set(digest(path)) == WHOLE


def test_a_full_disk_while_figures_are_written(begin, tmp_path, monkeypatch, capsys):
  path = tmp_path / "out"
  begin(f"--output_dir={path}")
  plain = directory.chunks.write

  def full(file, content):
    if file.name == "b.pdf":
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    plain(file, content)

  with monkeypatch.context() as patch:
    patch.setattr(directory.chunks, "write", full)
    go(finish, path)
  assert "b.pdf" in capsys.readouterr().err and cj.load(path).loss.values.flat[0] == 1
  begin(f"--output_dir={path}", "--resume")
  go(refuse, path)
  assert set(digest(path)) == WHOLE


def test_durable_before_anything_goes(begin, tmp_path, monkeypatch):
  """Results and their names are on the device before the marker, chunks or what they replace are removed."""
  path = tmp_path / "out"
  begin(f"--output_dir={path}")
  go(finish, path)
  events = []

  def watch(name, plain):
    def call(first, *rest, **options):
      what = os.readlink(f"/proc/self/fd/{first}") if name == "fsync" else str(rest[0] if name == "replace" else first)
      if what.startswith(str(path)):
        events.append((name, what.removeprefix(f"{path}").lstrip("/").removesuffix(".part" if name == "fsync" else "")))
      return plain(first, *rest, **options)

    monkeypatch.setattr(os, name, call)

  for name in ("fsync", "replace", "unlink", "rmdir"):
    watch(name, getattr(os, name))

  def sweep(directory):
    with contextlib.suppress(OSError):
      commit(directory, OSError)
    return numbers(2.0)

  begin(f"--output_dir={path}", "--overwrite")
  go(sweep, path)
  removed = [
    (i, name)
    for i, (what, name) in enumerate(events)
    if what == "unlink" and name.endswith((".chunk", "unfinished.json", ".png", ".pdf", ".html"))
  ]
  assert {name.split("/")[0] for _, name in removed} == {"unfinished.json", "chunks", "figures", "report.html"}
  for name in ("results.nc", "config.json"):
    placed = events.index(("replace", name))
    assert ("fsync", name) in events[:placed] and ("fsync", "") in events[placed : min(removed)[0]]


def test_results_and_configuration_of_two_runs(begin, tmp_path):
  """A kill between them is seen by whoever reads; compare leaves out what was being written."""
  path = tmp_path / "out"
  begin(f"--output_dir={path}")
  go(finish, path)
  older = (path / "results.nc").read_bytes()
  begin(f"--output_dir={path}", "--seed=1", "--overwrite")
  go(finish, path)
  (path / "results.nc").write_bytes(older)
  with pytest.raises(ValueError, match="of two runs"):
    cj.load(path)
  with pytest.raises(Refused, match="of two runs"):
    compare.load(str(path))
  begin(f"--output_dir={path}", "--seed=1", "--resume")
  go(finish, path)
  assert cj.load(path).loss.values.flat[0] == 1
  (path / ".writing-x").mkdir()
  shutil.copy(path / "results.nc", path / ".writing-x")
  assert list(compare.load(str(path))) == [str(path)]


@pytest.mark.parametrize(
  ("value", "said"),
  [
    ("x" * 300, "too long"),
    ("y/" * 2500, "too long"),
    ("file", "is a file"),
    ("file/below", "below .*file, which is a file"),
    ("loop", "symbolic link to nothing"),
  ],
)
def test_directories_that_cannot_be(begin, tmp_path, value, said):
  (tmp_path / "file").write_text("x")
  (tmp_path / "loop").symlink_to("loop")
  begin(f"--output_dir={tmp_path / value}")
  with pytest.raises(Refused, match=said):
    go(finish, tmp_path)


def test_dry_run_of_a_large_model_allocates_nothing(begin, capsys):
  """27 billion parameters in the value of real data: only shapes."""
  begin("--dry_run")
  asked = []
  plain = language_flags.load_model

  def load(*arguments, abstract=False, **options):
    asked.append(abstract)
    return plain(*arguments, abstract=True, **options)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(language_flags, "load_model", load)
    real_data_value.simulate([8], [8], num_seeds=1, model="gemma2_27b")
  assert asked == [True] and "27,227,128,320 parameters" in capsys.readouterr().out


def test_failing_sweeps_wait_for_nobody():
  """Once a sweep has begun, an error ends it although a thread of it still runs; one line, or a traceback for what is no user's fault."""
  script = (
    "import sys, threading, time; from experiments import common, output; from collapse_jax.refused import Refused; "
    "common.parse(['x']); output.BEGUN.set(); "
    "threading.Thread(target=time.sleep, args=(600,)).start(); common._guarded({}, False, [''])"
  )
  for raised, status, said in (
    ("MemoryError('one run does not fit.')", 1, "error: one run does not fit."),
    ("Refused('--x is\\n bad.')", 2, "error: --x is bad."),
    ("RuntimeError('mine')", 1, "error: RuntimeError."),
  ):
    thrower = f"lambda: (_ for _ in ()).throw({raised})"
    done = subprocess.run(
      [sys.executable, "-c", script.format(thrower)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status and said in done.stderr.splitlines()[-1], done.stderr
    assert ("Traceback" in done.stderr) == ("mine" in raised)
