"""
A verifier, from blind to perfect
=================================

Rows with a wrong label are thrown away by a verifier that makes mistakes too. A classifier that is trained on what
is left works up to a share of wrong labels which depends on the verifier alone (Feng et al., arXiv 2406.07515).
"""

import collapse_jax as cj
from collapse_jax import theory, transforms
from collapse_jax.transforms import verifiers


def task(num_samples, label_error, psi):
  plain = cj.tasks.classification(20, num_samples, label_error=label_error, labels="noisy")
  return transforms.verify(plain, verifiers.noisy(0.9, psi))


results = cj.sweep(
  task,
  ["replace"],
  {"num_samples": [1000], "label_error": [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9], "psi": [0.1, 0.3, 0.9]},
  num_generations=2,
  num_seeds=10,
)
accuracy = results.accuracy.isel(generation=-1).mean("seed").squeeze()

# %%
# `psi` is the share of wrong labels that pass; 0.9 is as blind as no verifier. Lines are where theory expects the fall.

import matplotlib.pyplot as plt

figure, axis = plt.subplots(layout="constrained")
for shade, psi in zip(("C0", "C1", "C2"), results.psi.values):
  axis.plot(results.label_error, accuracy.sel(psi=psi), "o-", color=shade, label=f"psi = {psi:g}")
  axis.axvline(float(theory.breakdown_point(0.9, float(psi))), color=shade, linestyle=":")
axis.set(xlabel="share of wrong labels before", ylabel="accuracy")
axis.legend(frameon=False)
