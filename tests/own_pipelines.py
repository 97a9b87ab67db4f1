"""Pipelines that tests run; a program too: python tests/own_pipelines.py DIRECTORY JOBS runs a loop, and goes on with it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

WORKFLOWS = ["replace", "accumulate"]


class Normal:
  """A normal distribution by maximum likelihood, each column by itself, which notes its calls."""

  def __init__(self, log=None, pause=0.0, forgets=False):
    self.log, self.pause, self.forgets = log, pause, forgets

  def identity(self, role):
    return "Normal", role, self.forgets

  def note(self, what):
    time.sleep(self.pause)
    if self.log is not None:
      with open(self.log, "a") as file:
        file.write(f"{what}\n")

  def fit(self, data, *, seed, workdir, previous=None, weight=None):
    rows, weight = data["x"], None if self.forgets else weight
    mean = np.average(rows, weights=weight, axis=0)
    self.note(f"fit {seed}")
    return mean, np.average((rows - mean) ** 2, weights=weight, axis=0)

  def sample(self, model, num, *, seed, workdir):
    mean, var = model
    self.note(f"sample {seed}")
    return {"x": mean + np.sqrt(var) * np.random.default_rng(seed).normal(size=(num, len(mean)))}

  def evaluate(self, model, sample, real_test, *, seed):
    self.note(f"evaluate {seed}")
    var = model[1]
    error = np.mean((model[0] - real_test["x"].mean(axis=0)) ** 2)
    return {"error": error, "var": var.mean(), "var_sem": var.std() / np.sqrt(len(var))}


class Faulty(Normal):
  """From generation 2 on something is wrong."""

  def __init__(self, fault):
    super().__init__()
    self.fault = fault

  def identity(self, role):
    return self.fault, role

  def fit(self, data, *, seed, workdir, previous=None, weight=None, generation=0):
    print("a line of the log")
    if generation == 2 and self.fault == "raises":
      raise ArithmeticError("no convergence\nafter 7 steps")
    if generation == 2 and self.fault == "hangs":
      time.sleep(1000)
    if generation == 2 and self.fault == "dies":
      os.kill(os.getpid(), signal.SIGKILL)
    if generation == 2 and self.fault == "no model":
      return None
    return super().fit(data, seed=seed, workdir=workdir)

  def sample(self, model, num, *, seed, workdir, generation=0):
    rows = super().sample(model, num, seed=seed, workdir=workdir)
    self.generation = generation
    if generation == 2:
      if self.fault == "fewer":
        rows = {"x": rows["x"][:-3]}
      if self.fault == "columns":
        rows = {"x": rows["x"], "y": rows["x"][:, 0]}
      if self.fault == "nan":
        rows["x"][4, 0] = np.nan
      if self.fault == "kind":
        rows = rows["x"]
      if self.fault == "width":
        rows = {"x": rows["x"][:, :1]}
    return rows

  def evaluate(self, model, sample, real_test, *, seed):
    found = super().evaluate(model, sample, real_test, seed=seed)
    return {**found, "other": 1.0} if self.fault == "names" and self.generation == 2 else found


def normal_rows(num=40, dim=2, seed=0):
  return {"x": np.random.default_rng(seed).normal(size=(num, dim))}


def run(pipeline, directory, workflows=WORKFLOWS, **options):
  """A small loop."""
  import collapse_jax as cj

  options = {"num_generations": 3, "num_seeds": 2, "directory": directory} | options
  return cj.loop(pipeline, normal_rows(), normal_rows(30, seed=1), list(workflows), **options)


def steps_of(directory):
  """Name of each finished step -> what tells whether it was written again."""
  files = (Path(directory) / "steps").glob("*/step.json")
  return {file.parent.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def killed_and_resumed(folder, kills, seed=0):
  """Kills a loop of two jobs at random moments, resumes it to the end, and compares with one left alone; how often it was killed.

  Args:
    folder: where loops go.
    kills: how often at most: less where the loop ends before.
    seed: of the moments.
  Raises:
    AssertionError: a step was done again that had been finished, or a number differs.
  """
  import collapse_jax as cj

  place, chance, done, killed = Path(folder) / "killed", random.Random(seed), {}, 0
  command = [sys.executable, __file__, str(place), "2"]
  for _ in range(kills):
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    target = len(done) + chance.randint(1, 6)
    while len(steps_of(place)) < target and process.poll() is None:
      time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    killed += process.wait() == -signal.SIGKILL
    now = steps_of(place)
    assert {name: now.get(name) for name in done} == done
    done = now
  subprocess.run(command, check=True, stderr=subprocess.PIPE)
  after = steps_of(place)
  assert {name: after[name] for name in done} == done
  alone = run(Normal(), Path(folder) / "alone", num_generations=6, num_seeds=3)
  assert set(steps_of(Path(folder) / "alone")) == set(after)
  found = cj.load(place)
  for name in ("error", "var", "train_size", "real_share"):
    np.testing.assert_array_equal(found[name], alone[name])
  return killed


if __name__ == "__main__":
  run(Normal(pause=0.02), sys.argv[1], num_generations=6, num_seeds=3, jobs=int(sys.argv[2]), resume=True)
