"""Token editing (Zhu et al. 2412.14689)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import tasks, theory, transforms, workflows
from collapse_jax.plotting.panels import finish, panels, text_of
from collapse_jax.random import new_key
from collapse_jax.systems.drawing import GREY, SHADES, curves, name_axes, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "pairs"]

SOURCE = "2412.14689"


def pairs(seed: int = 0) -> list[Pair]:
  """Shares that are eligible and changed at the paper's threshold, by the true model, so that both are sums over its table."""
  vocabulary, threshold = 50, 0.99
  table = np.asarray(
    jax.nn.softmax(jax.random.loggamma(new_key(5), jnp.full((vocabulary, vocabulary), 0.02)), axis=1), np.float64
  )
  task = tasks.ngram(100, truth=table, length=64)
  law = np.asarray(task.init(new_key(0))[0].first, np.float64)
  true = task._replace(fit=lambda key, problem, context: problem)
  rows = []
  for beta in (1.0, 1.5):
    out = simulate(transforms.edit_tokens(true, threshold, 8, beta), workflows.replace(), 100, 1, seed)
    if beta == 1:
      rows.append(
        pair(
          "token editing",
          SOURCE,
          "eligible share, bigram",
          out["eligible_share"][:, 0],
          theory.eligible_share(table, law, table, threshold),
          theory.eligible_share(table, law, table, 0.9),
        )
      )
    rows.append(
      pair(
        "token editing",
        SOURCE,
        f"changed share, bigram, beta = {beta:g}",
        out["changed_share"][:, 0],
        theory.changed_share(table, law, table, threshold, 8, beta),
        theory.changed_share(table, law, table, threshold, 8, beta + 0.3),
      )
    )
  return rows


def figures(results):
  """Loss, entropy and what is changed, over generations: a column a workflow, a curve an edited base."""

  def draw(part):
    metrics = [name for name in ("test_nll", "entropy", "changed_share") if name in part]
    figure, axes = panels(len(metrics), part.sizes["workflow"], share_y="row")
    left_out = 0
    for (metric, row), (j, workflow) in itertools.product(zip(metrics, axes), enumerate(part.workflow.values)):
      row[j].set_title(str(workflow), fontsize=9)
      for base, shade in zip(part.base.values, SHADES):
        thresholds = part.threshold.values[:1] if base == "none" else part.threshold.values
        for threshold, style in zip(thresholds, itertools.cycle(("-", ":", "-."))):
          if metric == "changed_share" and base == "none":
            continue
          label = "everything is generated" if base == "none" else f"{base}, threshold {text_of(threshold)}"
          cell = {"base": base, "threshold": threshold, "workflow": workflow}
          left_out += curves(row[j], part, metric, cell, GREY if base == "none" else shade, label)
          if row[j].lines:
            row[j].lines[-1].set_linestyle(style)
    name_axes(axes, part, metrics)
    finish(figure, axes, "", part, left_out, 0, False)
    return figure

  return sliced("token_editing", results, ("base", "threshold", "workflow"), draw)


TEXT = """## Token editing

Zhu et al., [2412.14689](https://arxiv.org/abs/2412.14689): instead of generating text, tokens that the model finds likely are drawn
again. Works on any task with `next_token`: n-grams and language models.

```python
task = transforms.edit_tokens(tasks.ngram(50, vocab_size=20, length=16), threshold=0.5, top_k=8, base="anchor")
workflow = workflows.replace()
```

`python -m experiments.token_editing`; `python -m experiments.language_model --edit_threshold=0.99` edits the text of a language
model in the same way. Edited anew each generation under `replace`, real text alternates: a model of text that was edited finds
little to edit, and the next one much. Eligible and changed shares of bigrams depend on the table of the truth: the predicted ones
are sums over the table that is simulated.

![Token editing of bigrams](figures/token_editing.png)
"""

SYSTEM = System(TEXT, pairs, figures)
