"""How often each verdict is given on curves whose truth is known: the table in docs/benchmarks.md.

python -m benchmarks.verdicts
"""

import collections
import itertools

import numpy as np

from collapse_jax.diagnostics.curves import verdict

CURVES = {  # of s = t / T, or of t; what is right
  "flat": (lambda t, s: 0 * s, "bounded"),
  "1 - 1/t": (lambda t, s: 1 - 1 / t, "bounded"),
  "1 - 1/sqrt(t)": (lambda t, s: 1 - t**-0.5, "bounded"),
  "1 - t^-1/4": (lambda t, s: 1 - t**-0.25, "bounded"),
  "1 - exp(-3 t/T)": (lambda t, s: 1 - np.exp(-3 * s), "bounded"),
  "a rise that ends at 0.7 T": (lambda t, s: np.minimum(s, 0.7) / 0.7, "bounded"),
  "log t": (lambda t, s: np.log(t) / np.log(t[-1]), "growing"),
  "sqrt(t)": (lambda t, s: s**0.5, "growing"),
  "t": (lambda t, s: s, "diverging"),
  "t^2": (lambda t, s: s**2, "diverging"),
  "t, and an oscillation": (lambda t, s: s + 0.15 * np.sin(8 * np.pi * s), "diverging"),
  "t, and a large oscillation": (lambda t, s: s + 0.5 * np.sin(8 * np.pi * s), "diverging"),
  "t, and a slow oscillation": (lambda t, s: s + 0.1 * np.sin(3 * np.pi * s), "diverging"),
}
NOISES = ("white", "walk")  # independent in each generation, or a random walk of each run


def runs(curve: str, num_generations: int, num_seeds: int, noise: float, kind: str, rng) -> np.ndarray:
  """[seeds, T]: a curve that rises by about 1, and noise whose standard deviation at the end is `noise`."""
  t = np.arange(1, num_generations + 1.0)
  shocks = rng.standard_normal((num_seeds, num_generations))
  if kind == "walk":
    shocks = np.cumsum(shocks, axis=1) / np.sqrt(num_generations)
  return CURVES[curve][0](t, t / t[-1]) + noise * shocks


def rates(curve, num_generations, num_seeds, noise, kind, repeats=100, worse="higher") -> dict[str, float]:
  """Label -> share of `repeats` sweeps that get it."""
  rng = np.random.default_rng(0)
  sign = -1 if worse == "lower" else 1
  t = np.arange(1, num_generations + 1)
  made = (sign * runs(curve, num_generations, num_seeds, noise, kind, rng) for _ in range(repeats))
  found = collections.Counter(verdict(values, t, worse).label for values in made)
  return {label: count / repeats for label, count in found.items()}


def main():
  grid = list(itertools.product((5, 10, 100, 1000), (2, 3, 5, 20, 100), (0.02, 0.1, 0.5), NOISES))
  print("| curve | right | wrong at most | right: 5 runs | 20 runs | 100 runs |\n| --- | --- | --- | --- | --- | --- |")
  for curve, (_, right) in CURVES.items():
    found = {at: rates(curve, *at) for at in grid}
    wrong = {at: 1 - rate.get(right, 0.0) - rate.get("undecided", 0.0) for at, rate in found.items()}
    worst = max(wrong, key=wrong.__getitem__)
    clear = [at for at in grid if at[0] >= 30 and at[2] <= 0.1]
    mean = [np.mean([found[at].get(right, 0.0) for at in clear if at[1] == num]) for num in (5, 20, 100)]
    where = f" (T {worst[0]}, {worst[1]} runs, {worst[3]} noise {worst[2]})" if wrong[worst] > 0 else ""
    print(
      f"| {curve} | {right} | {100 * wrong[worst]:.0f}%{where} | {' | '.join(f'{100 * one:.0f}%' for one in mean)} |"
    )


if __name__ == "__main__":
  main()
