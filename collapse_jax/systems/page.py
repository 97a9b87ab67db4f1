"""docs/systems.md, from the texts of the systems: `python -m collapse_jax.systems.page > docs/systems.md`, or `make docs`."""

import itertools
import re
from collections.abc import Mapping

from collapse_jax.systems.types import System

__all__ = ["page", "summaries"]

HEAD = '''# Published systems in one loop

Each system below is a task, transforms of it, and a workflow: none touches the loop. `python -m experiments.reproduce
--only='related/*'` runs them, and `--only='deep/*'` those of deep models, in minutes on two CPU cores, and sets what is predicted
of each beside simulations (`collapse_jax.systems`; the same are tests): every prediction is within five standard errors, and a
theory that is wrong on purpose is further off in every row that has one. The report lists them, beside what others found for the
same quantity. Where the package is installed without a checkout, `collapse run NAME` is `python -m experiments.NAME`. The examples share
this:

```python
import jax
import jax.numpy as jnp
import collapse_jax as cj
from collapse_jax import rewards, tasks, transforms, verifiers, workflows


def runs(task, workflow, num_generations, num_seeds):
  """Metrics [seed, generation]."""
  one = lambda key: cj.run(key, task, workflow, num_generations)
  return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), num_seeds))
```

`runs(task, workflow, 10, 100)["test_nll"]` then has the curves. Figures are of laptop scale; black dashes are theory.
'''

TAIL = """## Chains of transforms

```python
curated = transforms.curate(tasks.kde("moons", 50, 0.3), 2, lambda rows: rows[:, 0])
task = transforms.verify(curated, lambda key, problem, rows: rows[:, 1] > -0.5)
workflow = workflows.accumulate_subsample()
```

`verify` gives weights, and comes last: what chooses among rows needs rows that all count alike, and says so.

## Your own task

```python
draw = lambda key, p, num: cj.store.batch(jax.random.bernoulli(key, p, (num,)).astype(float))
coin = cj.TaskSetting(
  init=lambda key: (None, draw(key, 0.1, 50)),
  fit=lambda key, problem, context: jnp.average(cj.store.flat(context.data)[0], weights=cj.store.flat(context.data)[1]),
  sample=lambda key, problem, p, context: (draw(key, p, context.num), {}),
  evaluate=lambda key, problem, p: {"share": p},
  num_samples=50,
)
task = transforms.curate(coin, 2, lambda rows: rows)
workflow = workflows.replace()
```
"""


def page(systems: Mapping[str, System]) -> str:
  """Markdown: the sections of all systems, numbered, between what is said of all."""
  number = itertools.count(1)
  sections = re.sub(
    r"^## ", lambda _: f"## {next(number)}. ", "\n".join(one.text for one in systems.values()), flags=re.M
  )
  return "\n".join((HEAD, sections, TAIL))


def summaries(text: str) -> list[str]:
  """The first paragraph of each section of a system's text, in plain words."""
  paragraphs = re.findall(r"^## .*\n\n((?:.+\n)+)", text, flags=re.M)
  return [re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", " ".join(one.split())) for one in paragraphs]


if __name__ == "__main__":
  from collapse_jax.systems.table import SYSTEMS

  print(page(SYSTEMS), end="")
