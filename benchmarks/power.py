"""What is left of a sweep when the power fails: on ext4 over a file, from what had reached the file when a process ended.

  python -m benchmarks.power

For each of a Gaussian, a language-model and a real-data sweep: one that ends in peace, and some that are killed in the middle of a
write. The backing file of the file system is copied at that moment, without sync and without unmounting, as a power failure would
leave it; the copy is checked and mounted, and the sweep gone on with from there. Ends with status 1 if something that was finished
is lost, or a number differs. Needs to mount; where that is not allowed it says so and ends with status 0.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import collapse_jax as cj

ROOT = Path(__file__).parent.parent
MEGABYTES = 200
SWEEPS = {
  "gaussian": (
    "--dims=2",
    "--num_samples=10",
    "--workflows=replace",
    "--num_generations=5",
    "--num_seeds=20",
    "--chunk_size=2",
  ),
  "language_model": (
    "--num_samples=16",
    "--num_generations=4",
    "--num_seeds=1",
    "--workflows=replace",
    "--max_test_rows=16",
    "--on_malformed=keep",
  ),
  "real_data_value": ("--num_real=0,8", "--num_synthetic=0,8", "--num_seeds=1", "--max_test_rows=16"),
}
COMMITTED = {"gaussian": ".chunk", "language_model": ".npz", "real_data_value": ".chunk"}
KILLED = {
  "gaussian": (3, 8),
  "language_model": (2, 3),
  "real_data_value": (2,),
}  # in the write of which chunk or checkpoint


class Disk:
  """An ext4 file system in a file."""

  def __init__(self, folder: Path):
    self.image, self.place = folder / "image", folder / "mounted"
    self.place.mkdir(parents=True)

  def make(self) -> "Disk":
    with open(self.image, "wb") as file:
      file.truncate(MEGABYTES << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", self.image], check=True)
    return self

  @contextlib.contextmanager
  def mounted(self):
    # A long commit interval: what nobody syncs stays in memory, whenever the process ends.
    subprocess.run(["mount", "-o", "loop,commit=600", self.image, self.place], check=True, capture_output=True)
    try:
      yield self.place
    finally:
      subprocess.run(["umount", self.place], check=True)

  def snapshot(self, folder: Path) -> "Disk":
    """What had reached the device."""
    copy = Disk(folder)
    shutil.copyfile(self.image, copy.image)
    # The journal is replayed; 1: errors were corrected.
    assert subprocess.run(["fsck.ext4", "-p", copy.image], capture_output=True, check=False).returncode in (0, 1)
    return copy


def can_mount(folder: Path) -> str:
  """Why not, or ""."""
  if any(shutil.which(one) is None for one in ("mkfs.ext4", "fsck.ext4", "mount")):
    return "mkfs.ext4 is not installed"
  try:
    with Disk(folder).make().mounted():
      return ""
  except (subprocess.CalledProcessError, OSError) as error:
    return f"mounting failed ({(getattr(error, 'stderr', b'') or b'').decode().strip() or error})"


def start(name: str, out: Path, log: Path, when: str = "0", *flags: str) -> int:
  arguments = [
    sys.executable,
    ROOT / "tests" / "killed.py",
    log,
    when,
    "kill",
    f"experiments.{name}",
    *SWEEPS[name],
    f"--output_dir={out}",
    *flags,
  ]
  with open(f"{log}.out", "a") as said:
    return subprocess.run(
      list(map(str, arguments)),
      cwd=ROOT,
      stdout=said,
      stderr=said,
      check=False,
      env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).returncode


def commits(name: str, log: Path) -> set[str]:
  return {line for line in log.read_text().splitlines() if line.endswith(COMMITTED[name])} if log.exists() else set()


def main():
  wrong = False
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    why = can_mount(folder / "try")
    if why:
      print(f"not measured: {why}")
      return 0
    for name, moments in KILLED.items():
      whole = None
      for nth in (0, *moments):
        place = folder / f"{name}_{nth}"
        log, again = place / "log", place / "again"
        place.mkdir()
        disk = Disk(place / "disk").make()
        with disk.mounted() as mounted:
          status = start(name, mounted / "out", log, f"{COMMITTED[name]}:{nth}" if nth else "0")
          assert status == (-signal.SIGKILL if nth else 0), Path(f"{log}.out").read_text()[-2000:]
          copy = disk.snapshot(place / "copy")
          whole = whole if nth else cj.load(mounted / "out")
        with copy.mounted() as mounted:
          out = mounted / "out"
          if not nth:
            left = {file.name for file in out.rglob("*") if file.is_file() and file.stat().st_size}
            lost = {"results.nc", "report.html", "config.json"} - left
            print(f"{name}, ended in peace: {', '.join(sorted(lost)) or 'nothing'} lost", flush=True)
            wrong |= bool(lost)
            continue
          status = start(name, out, again, "0", "--resume")
          assert status == 0, Path(f"{again}.out").read_text()[-2000:]
          resumed = cj.load(out)
        same = all(resumed[metric].equals(whole[metric]) for metric in whole.data_vars)
        twice = commits(name, log) & commits(name, again)
        print(
          f"{name}, killed in write {nth}: of {len(commits(name, log))} that were committed {len(twice)} computed again; "
          f"numbers {'equal' if same else 'DIFFER'}",
          flush=True,
        )
        wrong |= not same or bool(twice)
  return int(wrong)


if __name__ == "__main__":
  sys.exit(main())
