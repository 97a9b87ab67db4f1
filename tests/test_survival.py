"""Full disks, kills of a language model, and processes of one sweep that die, are refused, or go on together."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest
import xarray
from helpers import ENVIRONMENT, GAUSSIAN_FLAGS, KILLED, compile_quickly, dataset, run, values, waiting

import collapse_jax as cj
from collapse_jax import tasks

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("survival")]  # one worker, for what they share
GAUSSIAN = ("experiments.gaussian", *GAUSSIAN_FLAGS)
LANGUAGE = (
  "experiments.language_model",
  "--num_samples=8",
  "--num_generations=3",
  "--num_seeds=2",
  "--chunk_size=1",
  "--workflows=replace,accumulate",
  "--max_test_rows=8",
  "--on_malformed=keep",
)  # 12 checkpoints


class SmallDisk:
  """A tmpfs of so many kB in a mount namespace of its own; where mounting is not allowed, files of so many kB at most."""

  def __init__(self, folder: Path, size: int, largest_file: int):
    folder.mkdir()
    self.folder, self.limit, self.prefix = folder, None, ()
    for user in ((), ("--map-root-user",)):
      shell = subprocess.Popen(
        [
          "unshare",
          "--mount",
          *user,
          "sh",
          "-c",
          f"mount -t tmpfs -o size={size}k tmpfs {folder} && echo ready && read x",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
      )
      if shell.stdout.readline() == "ready\n":
        self.shell, self.prefix = (
          shell,
          ("nsenter", "--mount", *(("--user",) if user else ()), f"--target={shell.pid}", f"--wd={os.getcwd()}"),
        )
        self.seen = Path(f"/proc/{shell.pid}/root{folder}")
        return
      shell.kill()
      shell.communicate()
    self.shell, self.seen, self.limit = None, folder, largest_file * 1024

  def resize(self, size: int, largest_file: int = 1 << 20):
    if self.limit is None:
      subprocess.run([*self.prefix, "mount", "-o", f"remount,size={size}k", self.folder], check=True)
    else:
      self.limit = largest_file * 1024

  def run(self, *arguments, expect=0):
    prefix = self.prefix or ("prlimit", f"--fsize={self.limit}")
    done = subprocess.run(
      [*prefix, sys.executable, *map(str, arguments)],
      capture_output=True,
      text=True,
      env=ENVIRONMENT,
      timeout=300,
      check=False,
    )
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    return done

  def full(self, *arguments, names):
    """Runs into the end of the disk, with one line that names what could not be written."""
    line = self.run(*arguments, expect=1).stderr.splitlines()[-1]
    assert re.fullmatch(
      rf"error: (No space left on device|File too large)(: \S*{names}\S*?)?(; what is finished is kept, --resume goes on with it)?\.",
      line,
    ), line

  def close(self):
    if self.shell is not None:
      self.shell.communicate("\n")


@pytest.fixture
def disk(tmp_path):
  with contextlib.ExitStack() as stack:

    def make(*sizes):
      one = SmallDisk(tmp_path / "disk", *sizes)
      stack.callback(one.close)
      return one

    yield make


@pytest.fixture(scope="module")
def expected():
  """The Gaussian sweep in peace, from another process and another entry."""
  compile_quickly(True)  # as in ENVIRONMENT
  return cj.sweep(
    tasks.gaussian,
    ["replace"],
    {"dim": [2], "num_samples": [10], "noise_var": [1.0], "temperature": [1.0]},
    num_generations=5,
    num_seeds=20,
    chunk_size=2,
  )


def assert_same(results, expected):
  for name, one in expected.data_vars.items():
    np.testing.assert_array_equal(results[name], one, err_msg=name)


def test_disk_full_of_a_simulation(disk, expected):
  """Chunks, then results that do not fit: each time what is there is kept, and with more room the sweep ends as one in peace."""
  small = disk(36, 1)
  command, out = (*GAUSSIAN, f"--output_dir={small.folder / 'out'}"), small.seen / "out"
  small.full("-m", *command, names=r"\.(chunk|json)")
  kept = set(out.glob("chunks/*/*.chunk"))
  assert len(kept) < 10 and not list(out.glob("**/*.part"))
  assert small.limit or kept
  small.resize(100, 20)
  small.full("-m", *command, *(("--resume",) if (out / "unfinished.json").exists() else ()), names=r"results\.nc")
  everything = set(out.glob("chunks/*/*.chunk"))
  assert len(everything) == 10 and kept <= everything and not (out / "results.nc").exists()
  small.resize(4000)
  small.run("-m", *command, "--resume")
  assert_same(dataset(out), expected)
  assert {file.name for file in out.iterdir()} == {".lock", "config.json", "figures", "report.html", "results.nc"}


def test_disk_full_of_events(disk, tmp_path):
  """A sweep whose curves find no room goes on, with a warning."""
  small = disk(8, 8)
  done = small.run(
    "-m", *GAUSSIAN, "--num_generations=50", f"--output_dir={tmp_path / 'out'}", f"--log_dir={small.folder}"
  )
  assert (
    done.stderr.count("No more curves") == 1
    and "warning: --log_dir" in done.stderr
    and cj.load(tmp_path / "out").sizes["seed"] == 20
  )


@pytest.fixture(scope="module")
def language(tmp_path_factory):
  out = tmp_path_factory.mktemp("language")
  said = run("-m", *LANGUAGE, f"--output_dir={out / 'out'}").stdout
  assert len(re.findall(r", about \d+ s left$", said, re.M)) == 12 and ", about 0 s left\n" in said
  return out / "out"


def test_language_model(disk, language, tmp_path):
  """A full disk, a kill in a checkpoint, another at a random moment: no generation is computed twice, and results are the same."""
  small, log = disk(3000, 600), tmp_path / "log"
  command, out = (
    (*LANGUAGE, f"--output_dir={small.folder / 'out'}", f"--log_dir={tmp_path / 'logs'}"),
    small.seen / "out",
  )
  small.full("-m", *command, names=r"\.npz")
  kept = {str(file.relative_to(out)) for file in out.glob("chunks/checkpoints/*/*.npz")}
  assert not list(out.glob("**/*.part")) and (kept or small.limit)
  small.resize(16000)
  refused = small.run("-m", *command, expect=2)
  assert "--resume" in refused.stderr and kept == {
    str(file.relative_to(out)) for file in out.glob("chunks/checkpoints/*/*.npz")
  }
  small.run(KILLED, log, ".npz:3", "kill", *command, "--resume", expect=-signal.SIGKILL)
  assert list(out.glob("chunks/checkpoints/*/*.npz.part")) and len(checkpoints(log)) == 2
  small.run(KILLED, log, 3, "within=1", *command, "--resume", expect=-signal.SIGKILL)
  small.run(KILLED, log, 0, "kill", *command, "--resume")
  names = checkpoints(log)
  assert len(names) == len(set(names))
  xarray.testing.assert_identical(dataset(out), dataset(language))
  assert texts(out) == texts(language) and len(texts(out)) == 24  # and their checksums
  shown = [json.loads(cj.load(one).attrs["samples"]) for one in (out, language)]
  assert shown[0] == shown[1] and [len(one) for one in shown[0].values()] == [3, 3]
  curves = {
    name: [(tag, step) for tag, step, _ in points]
    for name, points in values(tmp_path / "logs").items()
    if name != "figures"
  }
  assert len(curves) == 4 and all(
    [step for tag, step in points if tag == "test_loss"] == [1, 2, 3] for points in curves.values()
  )
  assert {file.name for file in out.iterdir()} == {
    ".lock",
    "checkpoints",
    "config.json",
    "figures",
    "report.html",
    "results.nc",
    "samples",
  }


REAL = ("experiments.real_data_value", "--num_real=0,32", "--num_synthetic=0,32", "--num_seeds=1", "--max_test_rows=8")
CHANGED = (
  "import runpy, sys, optax; plain = optax.clip_by_global_norm; optax.clip_by_global_norm = lambda norm: plain(norm / 2); "
  "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


@pytest.mark.parametrize(("command", "suffix"), [(LANGUAGE, ".npz"), (REAL, ".chunk")])
def test_other_training_code_is_refused(command, suffix, tmp_path):
  """Of language models too: half of the cells by one optimiser and half by another would be nobody's numbers."""
  out, log = tmp_path / "out", tmp_path / "log"
  arguments = (*command, f"--output_dir={out}")
  run(KILLED, log, f"{suffix}:3", "kill", *arguments, expect=-signal.SIGKILL)
  kept = {file: file.read_bytes() for file in out.rglob(f"*{suffix}")}
  refused = run("-c", CHANGED, *arguments, "--resume", expect=2)
  assert "another task or workflow, or from other data" in refused.stderr.splitlines()[-1]
  assert len(kept) == 2 and kept == {file: file.read_bytes() for file in out.rglob(f"*{suffix}")}
  run(KILLED, log, 0, "kill", *arguments, "--resume")
  names = [line for line in log.read_text().splitlines() if line.endswith(suffix)]
  assert len(names) == len(set(names)) and (out / "results.nc").exists()


def checkpoints(log):
  return [line for line in log.read_text().splitlines() if line.endswith(".npz")]


def texts(out):
  return {str(file.relative_to(out)): file.read_text() for file in out.glob("samples/*/*")}


def test_died_while_tidying(language, tmp_path):
  """Results are complete once the marker is gone: samples that still lie among the chunks are put beside them."""
  out = tmp_path / "out"
  shutil.copytree(language, out)
  (out / "chunks").mkdir()
  for name in ("samples", "checkpoints"):
    (out / name).rename(out / "chunks" / name)
  run("-m", *LANGUAGE, f"--output_dir={out}", "--resume")
  assert texts(out) == texts(language) and not (out / "chunks").exists()


def slurm(process: int, job: int):
  """What SLURM tells a process."""
  return {
    "SLURM_JOB_ID": str(job),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": str(process),
    "SLURM_LOCALID": str(process),
    "SLURM_STEP_NUM_NODES": "1",
  }


def free_job():
  """A job whose port (SLURM's last digits choose it) is free."""
  for job in range(os.getpid() % 4096, 8192):
    with socket.socket() as one, contextlib.suppress(OSError):
      one.bind(("localhost", job % 4096 + 61440))
      return job
  raise OSError("no port is free")


@contextlib.contextmanager
def processes(*commands):
  """Starts them; kills what is left in the end."""
  with contextlib.ExitStack() as stack:
    started = [
      stack.enter_context(
        subprocess.Popen(
          [sys.executable, *map(str, command)],
          env=ENVIRONMENT | environment,
          text=True,
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
        )
      )
      for command, environment in commands
    ]
    try:
      yield started
    finally:
      for one in started:
        one.kill()


def ended(one, status, timeout=100):
  out, error = one.communicate(timeout=timeout)
  assert one.returncode == status and "Traceback" not in error, error
  return out + error


def test_processes_die_and_go_on(expected, tmp_path):
  """One that is killed ends the other, as does one that is terminated; together they go on, and end as one process does."""
  out, log, port = tmp_path / "out", tmp_path / "log", 61440 + free_job() % 4096
  command = ("-m", *GAUSSIAN, f"--output_dir={out}", "--distributed")
  explicit = (f"--coordinator=localhost:{port}", "--num_processes=2")
  with (
    processes(((*command, *explicit, "--process_id=0"), {})) as (first,),
    waiting(log, ".chunk:2", *command[1:], *explicit, "--process_id=1") as second,
  ):
    second.send_signal(signal.SIGKILL)
    assert (
      ended(first, 1).splitlines()[-1]
      == "error: another process of this sweep has ended; what is finished is kept, --resume goes on with it."
    )
  assert len(list(out.glob("chunks/process_0/*.chunk"))) == 5 and len(list(out.glob("chunks/process_1/*.chunk"))) == 1
  log.unlink()
  job = free_job()
  with (
    processes(((*command, "--resume"), slurm(0, job))) as (first,),
    waiting(log, ".chunk:2", *command[1:], "--resume", **slurm(1, job)) as second,
  ):
    first.send_signal(signal.SIGTERM)
    assert "error: terminated" in ended(first, 143).splitlines()[-1]
    assert second.wait(60) != 0
  assert len(list(out.glob("chunks/process_1/*.chunk"))) == 2
  for _ in range(2):  # once to the end, once where there is nothing left to do
    job = free_job()
    with processes(*((((*command, "--resume"), slurm(i, job))) for i in range(2))) as both:
      assert all(ended(one, 0) is not None for one in both)
    assert_same(dataset(out), expected)
  assert cj.load(out).num_processes == 2 and not (out / "chunks").exists()


def test_processes_are_refused_together(tmp_path):
  """Where another sweep holds the directory, all processes end, and nothing is touched."""
  out, job = tmp_path / "out", free_job()
  held = out / "chunks" / "checkpoints" / "workflow=replace,num_samples=8,temperature=1.0,seeds=1-1" / "1.npz"
  held.parent.mkdir(parents=True)
  held.write_bytes(b"theirs")
  command = ("-m", *LANGUAGE, f"--output_dir={out}", "--distributed", "--overwrite")
  with filelock.FileLock(out / ".lock"), processes(*((command, slurm(i, job)) for i in range(2))) as both:
    for one in both:
      assert "is being written by another process" in ended(one, 2).splitlines()[-1]
  assert held.read_bytes() == b"theirs" and not (out / "unfinished.json").exists()
