"""What a sweep leaves in its directory, however it ends; in process, with simulations that only write."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from collapse_jax.chunks import Chunks
from experiments import common, language_model, real_data_value


@pytest.fixture
def begin():
  """Parses flags as a binary does; they are gone in the end."""
  before = set(common.FLAGS)
  common.define_shared()

  def parse(*flags):
    common.FLAGS.unparse_flags()
    common.parse(["x", *map(str, flags)])
  yield parse
  for flag in set(common.FLAGS) - before:
    delattr(common.FLAGS, flag)
  common.FLAGS.unparse_flags()
  common.FLAGS(["test"])
  common.PARSED.clear()
  common.BEGUN.clear()


def digest(path):
  """Of all files but the lock."""
  return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
          for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock"}


def save(results, path):
  (path / "config.json").write_text(json.dumps(common.config()))
  (path / "results.nc").write_bytes(results)


def go(simulate, path):
  common.simulate_and_write(str(path), lambda directory: simulate(directory), {}, save=save)


def refuse(directory):
  """As a sweep that is found too large once it has begun, with a trace of it."""
  directory.mkdir()
  (directory / "sweep.json").write_text("{}")
  (directory.parent / "profile").mkdir(exist_ok=True)
  raise common.UsageError("--num_generations is too large.")


def finish(directory):
  directory.mkdir(parents=True, exist_ok=True)
  return b"numbers"


def commit(directory, then=common.UsageError):
  chunks = Chunks(directory, {}, common.FLAGS.resume)
  chunks.save((0,), 0, {"finite": np.ones((1, 1), bool)})
  chunks.close()
  raise then("too late")


@pytest.mark.parametrize("before", ["nothing", "empty", "finished"])
def test_refused_sweeps_leave_nothing(begin, tmp_path, before):
  """The command that was corrected runs; results that --overwrite would have replaced are still there, and finished."""
  path = tmp_path / "below" / "out"
  begin(f"--output_dir={path}")
  if before != "nothing":
    path.mkdir(parents=True)
  if before == "finished":
    go(finish, path)
  begin(f"--output_dir={path}", "--overwrite")
  held = digest(tmp_path)
  with pytest.raises(common.UsageError, match="too large"):
    go(refuse, path)
  assert digest(tmp_path) == held and (tmp_path / "below").exists() == (before != "nothing")
  if before == "finished":
    begin(f"--output_dir={path}", "--resume")
    go(refuse, path)  # nothing to do
  else:
    begin(f"--output_dir={path}")
    go(finish, path)
    assert (path / "results.nc").read_bytes() == b"numbers"


@pytest.mark.parametrize("error", [common.UsageError, OSError])
def test_what_is_finished_is_kept(begin, tmp_path, error):
  path = tmp_path / "out"
  begin(f"--output_dir={path}")
  with pytest.raises(error):
    go(lambda directory: commit(directory, error), path)
  held = digest(path)
  assert "unfinished.json" in held and any(name.endswith(".chunk") for name in held)
  with pytest.raises(common.UsageError, match="--resume to go on"):
    go(finish, path)
  assert digest(path) == held
  begin(f"--output_dir={path}", "--resume")
  go(finish, path)
  assert set(digest(path)) == {"config.json", "results.nc"}


def test_texts_and_checkpoints_stay_beside_results(begin, tmp_path, monkeypatch):
  """Also those of an experiment among several; and whoever dies between is finished with by --resume."""
  path = tmp_path / "out"

  def simulate(directory):
    for file in ("samples/cell/a.jsonl", "language_model/samples/cell/b.jsonl", "language_model/checkpoints/cell/3.npz"):
      (directory / file).parent.mkdir(parents=True)
      (directory / file).write_text("text")
    (path / "language_model").mkdir()
    return b"numbers"

  def die(new, old):
    assert (path / common.CHUNKS).exists() and not (path / common.UNFINISHED).exists()
    raise KeyboardInterrupt
  begin(f"--output_dir={path}")
  with monkeypatch.context() as patch:
    patch.setattr(common, "_replace", die)
    with pytest.raises(KeyboardInterrupt):
      go(simulate, path)
  begin(f"--output_dir={path}", "--resume")
  go(refuse, path)  # nothing to do
  assert set(digest(path)) == {"config.json", "results.nc", "samples/cell/a.jsonl", "language_model/samples/cell/b.jsonl",
                               "language_model/checkpoints/cell/3.npz"}
  begin(f"--output_dir={path}", "--seed=1", "--resume")
  with pytest.raises(common.UsageError, match=r"^--resume: .* with --seed=0, not 1; --overwrite begins anew\.$"):
    go(refuse, path)


def test_dry_run_of_a_large_model_allocates_nothing(begin, capsys):
  """27 billion parameters in the value of real data: only shapes."""
  begin("--dry_run")
  asked = []
  plain = language_model.load_model

  def load(*arguments, abstract=False):
    asked.append(abstract)
    return plain(*arguments, abstract=True)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(language_model, "load_model", load)
    real_data_value.simulate([8], [8], num_seeds=1, model="gemma2_27b")
  assert asked == [True] and "27,227,128,320 parameters" in capsys.readouterr().out


def test_failing_sweeps_wait_for_nobody():
  """Once a sweep has begun, an error ends it although a thread of it still runs; one line, or a traceback for what is no user's fault."""
  script = "import sys, threading, time; from experiments import common; common.parse(['x']); common.BEGUN.set(); " \
      "threading.Thread(target=time.sleep, args=(600,)).start(); common._guarded({}, False, [''])"
  for raised, status, said in (("MemoryError('one run does not fit.')", 1, "error: one run does not fit."),
                               ("common.UsageError('--x is\\n bad.')", 2, "error: --x is bad."),
                               ("RuntimeError('mine')", 1, "error: RuntimeError; what is finished is kept")):
    thrower = f"lambda: (_ for _ in ()).throw({raised})"
    done = subprocess.run([sys.executable, "-c", script.format(thrower)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status and said in done.stderr.splitlines()[-1], done.stderr
    assert ("Traceback" in done.stderr) == ("mine" in raised)
