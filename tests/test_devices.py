"""What the machine has, as far as this process may use it."""

import os
import subprocess
import sys

import pytest

from collapse_jax.sweeps import devices

JOB = "system.slice/slurmstepd.scope/job_7"


@pytest.fixture
def machine(tmp_path, monkeypatch):
  """Control groups: what /proc/self/cgroup says, and files below /sys/fs/cgroup."""
  plain, mounted, own = devices._groups, tmp_path / "mounted", tmp_path / "own"

  def make(lines, files):
    own.write_text(lines)
    for name, content in files.items():
      (mounted / name).parent.mkdir(parents=True, exist_ok=True)
      (mounted / name).write_text(content)

  monkeypatch.setattr(devices, "_groups", lambda controller: plain(controller, mounted, own))
  monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
  return make


@pytest.mark.parametrize(
  ("lines", "files"),
  [
    (f"0::/{JOB}\n", {f"{JOB}/memory.max": "2147483648\n", "memory.max": "max\n"}),
    (f"0::/{JOB}/step_0/task_1\n", {f"{JOB}/memory.max": "2147483648\n", f"{JOB}/step_0/memory.max": "max\n"}),
    (f"0::/{JOB}/step_0\n", {f"{JOB}/memory.max": "4294967296\n", f"{JOB}/step_0/memory.max": "2147483648\n"}),
    (f"0::/{JOB}/step_0\n", {f"{JOB}/memory.max": "2147483648\n", f"{JOB}/step_0/memory.max": "4294967296\n"}),
    ("0::/\n", {"memory.max": "2147483648\n"}),
    ("0::/../..\n", {"memory.max": "2147483648\n"}),
    (
      f"4:memory:/{JOB}\n2:cpu,cpuacct:/\n",
      {f"memory/{JOB}/memory.limit_in_bytes": "2147483648\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"},
    ),
    ("4:memory:/docker/0123abcd\n", {"memory/memory.limit_in_bytes": "2147483648\n"}),  # the path is the host's
    ("", {"memory.max": "2147483648\n"}),
  ],
)
def test_memory_is_the_least_of_all_control_groups_above(machine, lines, files):
  machine(lines, files)
  assert devices.memory_bytes() == 2**31


@pytest.mark.parametrize(
  ("lines", "files"),
  [
    (f"0::/{JOB}\n", {"memory.max": "max\n"}),
    ("0::/\n", {"memory.max": "not a number"}),
    ("", {}),
    (f"0::/{JOB}\n", {"system.slice/other/memory.max": "2147483648\n"}),
  ],
)  # of a neighbour
def test_memory_without_a_limit(machine, lines, files):
  machine(lines, files)
  assert devices.memory_bytes() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
  ("lines", "files", "cores"),
  [
    (f"0::/{JOB}\n", {f"{JOB}/cpu.max": "150000 100000\n", "cpu.max": "max 100000\n"}, 2),
    (f"0::/{JOB}\n", {f"{JOB}/cpu.max": "max 100000\n", "system.slice/cpu.max": "50000 100000\n"}, 1),
    (
      "3:cpu,cpuacct:/docker/0123\n",
      {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
      3,
    ),
    ("3:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 64),
    ("", {}, 64),
  ],
)
def test_cores_are_those_of_the_quota(machine, lines, files, cores):
  machine(lines, files)
  assert devices.num_cores() == cores and devices.num_workers() == min(cores, 8)
  assert f"{cores} cores" in devices.name()


def python(code, **environment):
  return subprocess.run(
    [sys.executable, "-W", "ignore", "-c", code],
    capture_output=True,
    text=True,
    timeout=100,
    check=False,
    env={**os.environ, "PYTHONPATH": os.getcwd()} | environment,
  )


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cores_are_those_of_the_affinity():
  code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from collapse_jax.sweeps import devices; print(devices.num_workers())"
  assert python(code).stdout == "1\n"


FORKED = """
import os, jax, collapse_jax as cj
if {used}: jax.numpy.zeros(3).block_until_ready()
if os.fork():
  raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
  cj.sweep(cj.tasks.sample_median, ["replace"], {{"num_samples": [5]}}, num_generations=2, num_seeds=2)
except RuntimeError as error:
  print(error, flush=True)
  os._exit(7)
os._exit(8)
"""


@pytest.mark.parametrize(("used", "status"), [(True, 7), (False, 8)])
def test_forked_children(used, status):
  """Of a process that has used JAX: refused at once, where they would wait for ever; fork before JAX is used works."""
  done = python(FORKED.format(used=used))
  assert done.returncode == status, done.stderr
  assert ("forked from one that had used JAX" in done.stdout) == used


@pytest.mark.parametrize("platform", ["cuda", "foo"])
def test_platforms_that_are_not_there(platform):
  """One ValueError that names what was asked for."""
  code = (
    "import collapse_jax as cj\ntry: cj.sweep(cj.tasks.sample_median, ['replace'], {'num_samples': [5]}, num_generations=2, "
    "num_seeds=2)\nexcept ValueError as error: print(error)"
  )
  done = python(code, JAX_PLATFORMS=platform)
  assert done.returncode == 0 and done.stdout.startswith(f"JAX finds no device of JAX_PLATFORMS={platform}: "), (
    done.stderr
  )
  assert done.stdout.count("\n") == 1
