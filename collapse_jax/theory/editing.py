"""Token editing and its linear-regression analysis (Zhu et al. 2412.14689).

Errors are in units of the first fit's, noise_var d / (n - d - 1), for n >> d. A share m of the labels is edited each
generation. The paper's bound of 2 belongs to additive noise with disjoint masks; other masks and forms behave as below
(all derived).
"""

import numpy as np


def edited_regression(share: float, num_generations: int, *, base: str = "chain", mask: str = "fresh",
                      noise: str = "regenerated") -> np.ndarray:
  """Expected error [T] of models 1..T fitted to labels of which a share m was edited after each generation, n >> d.

  Additive: 1 + (t-1) m, until every label has been edited once where masks are disjoint. Regenerated: fresh masks in a chain
  1 + (t-1) m (2-m); fresh masks on the real labels 1 + v_t with v <- m^2 v + m (2-m); one fixed mask
  (1-m) ((1-m^t)/(1-m))^2 + m (1-m^(2t))/(1-m^2); disjoint masks as `edited_sweep`.

  Args:
    share: m, in (0, 1); 1/m a whole number where masks are disjoint.
    num_generations: T.
    base, mask, noise: as in `transforms.edit_labels`; disjoint masks on real labels and additive noise on real labels have
      no form here.
  Raises:
    ValueError: a combination without a form.
  """
  m, t = share, np.arange(1, num_generations + 1)
  if noise == "additive" and base == "chain":
    return 1 + (np.minimum(t - 1, round(1 / m)) if mask == "disjoint" else t - 1) * m
  if noise == "regenerated" and mask == "fixed":
    return (1 - m) * ((1 - m ** t) / (1 - m)) ** 2 + m * (1 - m ** (2 * t)) / (1 - m ** 2)
  if noise == "regenerated" and mask == "disjoint" and base == "chain":
    return np.array([edited_sweep(m, k) for k in np.minimum(t - 1, round(1 / m))])
  if noise == "regenerated" and mask == "fresh" and base == "chain":
    return 1 + (t - 1) * m * (2 - m)
  if noise == "regenerated" and mask == "fresh":
    return 1 + m * (2 - m) * (1 - m ** (2 * (t - 1))) / (1 - m ** 2)
  raise ValueError(f"no closed form for base={base!r}, mask={mask!r}, noise={noise!r}.")


def edited_sweep(share: float, num_edits: int) -> float:
  """Error after k of N = 1/m disjoint blocks were regenerated in turn, n >> d.

  Block n's old noise has share (1+m)^k - [n <= k] (1+m)^(k-n) in the estimate, its new one [n <= k] (1+m)^(k-n).
  """
  m, k, n = share, num_edits, np.arange(1, round(1 / share) + 1)
  new = np.where(n <= k, (1 + m) ** (k - n.astype(float)), 0.0)
  return float(m * np.sum(((1 + m) ** k - new) ** 2 + new ** 2))


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
  """
  truth, model = np.asarray(truth, float), np.asarray(model, float)
  least = np.sort(model, axis=1)[:, -top_k][:, None]
  redrawn = np.where(model >= least, model ** (1 / beta), 0.0)
  redrawn /= redrawn.sum(axis=1, keepdims=True)
  return float(np.asarray(law) @ np.where(model >= threshold, truth * (1 - redrawn), 0.0).sum(axis=1))
