"""Token editing and its linear-regression analysis (Zhu et al. 2412.14689).

Errors are in units of the first fit's, noise_var d / (n - d - 1), for n >> d. A share m of the labels is edited each
generation. The paper's bound of 2 belongs to additive noise with disjoint masks; other masks and forms behave as below
(all derived).
"""

import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.theory.checks import check, check_count
from collapse_jax.theory.temperature import tempered

__all__ = ["changed_share", "edited_regression", "edited_sweep", "eligible_share"]


def edited_regression(
  share: float, num_generations: int, *, base: str = "chain", mask: str = "fresh", noise: str = "regenerated"
) -> np.ndarray:
  """Expected error [T] of models 1..T fitted to labels of which a share m was edited after each generation, n >> d.

  Additive: 1 + (t-1) m, until every label has been edited once where masks are disjoint. Regenerated: fresh masks in a chain
  1 + (t-1) m (2-m); fresh masks on the real labels 1 + v_t with v <- m^2 v + m (2-m); one fixed mask
  (1-m) ((1-m^t)/(1-m))^2 + m (1-m^(2t))/(1-m^2); disjoint masks as `edited_sweep`. Fresh noise on the real labels gives 1 + m.

  Args:
    share: m, in [0, 1]; 1/m must be a whole number, at most 10^6, where masks are disjoint.
    num_generations: T.
    base, mask, noise: as in `transforms.edit_labels`.
  Raises:
    ValueError: another word, or disjoint masks that do not fill the rows.
  """
  check("share", share, 0, 1)
  check_count("num_generations", num_generations)
  m, t = share, np.arange(1, num_generations + 1)
  if mask == "disjoint" and (m < 1e-6 or abs(1 / m - round(1 / m)) > 1e-9):
    raise Refused(f"share must be one over a whole number where masks are disjoint, got {m}.")
  if (
    base not in ("anchor", "chain")
    or mask not in ("fresh", "fixed", "disjoint")
    or noise not in ("additive", "regenerated")
  ):
    raise Refused(f"no closed form for base={base!r}, mask={mask!r}, noise={noise!r}.")
  if mask == "disjoint" and base == "anchor":
    return _edited_anew(m, num_generations, noise)
  if noise == "additive" and base == "anchor":
    return np.where(t == 1, 1.0, 1 + m)
  if noise == "additive":
    return 1 + (np.minimum(t - 1, round(1 / m)) if mask == "disjoint" else t - 1) * m
  if mask == "fixed":
    return (1 - m) * _powers(m, t) ** 2 + m * _powers(m**2, t)
  if mask == "disjoint":
    return np.array([edited_sweep(m, k) for k in np.minimum(t - 1, round(1 / m))])
  if base == "chain":
    return 1 + (t - 1) * m * (2 - m)
  return 1 + m * (2 - m) * _powers(m**2, t - 1)


def _powers(base: float, num) -> np.ndarray:
  """1 + base + ... + base^(num - 1)."""
  return num * 1.0 if base == 1 else (1 - base**num) / (1 - base)


def _edited_anew(m: float, num_generations: int, noise: str) -> np.ndarray:
  """Real labels of which another of the 1/m blocks is edited each generation, until none is left: by the share that the old
  noise of each block, and all new noise, have in the estimate."""
  blocks = np.arange(round(1 / m))
  old, new, errors = np.ones(len(blocks)), 0.0, [1.0]
  for edited in range(num_generations - 1):
    if edited >= len(blocks):
      old, new = np.ones(len(blocks)), 0.0
    elif noise == "additive":
      new = m
    else:
      old, new = m * old + (blocks != edited), m**2 * new + m
    errors.append(float(m * np.sum(old**2) + new))
  return np.array(errors)


def edited_sweep(share: float, num_edits: int) -> float:
  """Error after k of N = 1/m disjoint blocks were regenerated in turn, n >> d.

  Block n's old noise has share (1+m)^k - [n <= k] (1+m)^(k-n) in the estimate, its new one [n <= k] (1+m)^(k-n).
  """
  check("share", share, 1e-6, 1)
  check("num_edits", num_edits, 0, round(1 / share))
  m, k, n = share, num_edits, np.arange(1, round(1 / share) + 1)
  new = np.where(n <= k, (1 + m) ** (k - n.astype(float)), 0.0)
  return float(m * np.sum(((1 + m) ** k - new) ** 2 + new**2))


def eligible_share(truth, law, model, threshold: float) -> float:
  """Share of tokens that a model finds likely: sum_c pi(c) sum over Q(x|c) >= threshold of P(x|c).

  Args:
    truth: [contexts, V] probabilities P of the text.
    law: [contexts] its contexts' shares pi.
    model: [contexts, V] probabilities Q.
    threshold: see `transforms.edit_tokens`.
  """
  return float(np.asarray(law) @ np.where(np.asarray(model) >= threshold, truth, 0.0).sum(axis=1))


def changed_share(truth, law, model, threshold: float, top_k: int, beta: float = 1.0) -> float:
  """Share of tokens that become another one: as `eligible_share`, times the chance 1 - R(x|c) that the draw differs.

  R is Q restricted to its top_k tokens, to the power 1 / beta, normalised.

  Args:
    truth, law, model, threshold: as of `eligible_share`.
    top_k: 1..V, likeliest tokens of Q that are drawn from.
    beta: temperature of the draw, above 0.
  """
  truth, model = np.asarray(truth, float), np.asarray(model, float)
  check("top_k", top_k, 1, model.shape[1])
  least = np.sort(model, axis=1)[:, -top_k][:, None]
  redrawn = tempered(np.where(model >= least, model, 0.0), beta)
  return float(np.asarray(law) @ np.where(model >= threshold, truth * (1 - redrawn), 0.0).sum(axis=1))
