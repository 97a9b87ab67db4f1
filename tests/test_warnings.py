"""A warning is an error: of a test, of a thread or destructor, of a program that a test starts; not what other packages say to each other."""

import re
import subprocess
import sys
from pathlib import Path

from helpers import ENVIRONMENT, USUAL

ROOT = Path(__file__).parent.parent
PLANTED = """
import gc, threading, warnings
import numpy as np
import theirs

def test_warns(): warnings.warn("planted")
def test_is_told_of_a_deprecation(): theirs.told()
def test_divides_by_zero(): np.ones(1) / np.zeros(1)
def test_has_the_mean_of_nothing(): np.mean([])
def test_leaves_a_file_open(): open(__file__); gc.collect()
def test_has_a_thread_that_fails():
  thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()
def test_fine(): pass
def test_fine_where_others_talk(): theirs.talk()
"""
THEIRS = """
import warnings
def told(): warnings.warn("of the caller", DeprecationWarning, stacklevel=2)
def talk():
  for kind in (DeprecationWarning, PendingDeprecationWarning, FutureWarning): warnings.warn("among themselves", kind)
"""


def test_a_test_that_warns_fails(tmp_path):
  (tmp_path / "test_planted.py").write_text(PLANTED)
  (tmp_path / "theirs.py").write_text(THEIRS)
  options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}")
  done = subprocess.run(
    [sys.executable, "-m", "pytest", *options, tmp_path], cwd=tmp_path, capture_output=True, text=True, check=False
  )
  names = re.findall(r"^def (test_\w+)", PLANTED, re.M)
  failed = set(re.findall(r"^FAILED \S*::(test_\w+)", done.stdout, re.M))
  assert failed == {name for name in names if "fine" not in name} and "2 passed" in done.stdout, done.stdout


def test_a_program_that_warns_fails():
  for environment in (ENVIRONMENT, USUAL):
    done = subprocess.run(
      [sys.executable, "-c", "import warnings; warnings.warn('planted')"],
      env=environment,
      capture_output=True,
      check=False,
    )
    assert done.returncode == 1 and b"planted" in done.stderr
