"""Published curves of language models beside those of `tiny` under the same workflows, by shape: writes a page.

  python -m benchmarks.published_language [--run]

--run first runs what the page is of (three CPU minutes), and keeps its losses in docs/data/published_language.nc. The page,
docs/language_models_published.md, is written from that file and from the table of published values alone.
"""

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray

from collapse_jax.diagnostics import published as table

PAGE, DATA = Path("docs/language_models_published.md"), Path("docs/data/published_language.nc")
FIGURE = Path("docs/figures/language_models_published.png")
WORKFLOWS = ("replace", "grown_replace", "accumulate_subsample", "accumulate")
OURS, COLD = "`tiny`, fine-tuning", 0.3
FLAGS = "--num_samples=96 --num_generations={} --workflows={} --temperatures={} \\\n  --measure=few --on_malformed=keep"
RUNS = (("replace,accumulate_subsample,accumulate", 1.0, 10), ("replace,accumulate", COLD, 4))
DRAWN = ("Gemma-2 2B, fine-tuning", "gpt2-9m, pretraining", OURS)
Curves = Mapping[str, Mapping[int, float]]  # workflow -> generation -> nats per token

TEXT = """# Language models, beside published curves

Test loss of the language models of Kazdan et al. (2410.16713: Gemma 2 fine-tuned on HelpSteer2, three seeds; GPT-2 and Llama 2
trained anew on TinyStories each generation, one seed) and of Gerstgrasser et al. (2404.01413, table 2), beside that of `tiny`,
a Llama of 0.26 million parameters that is fine-tuned from the same base each generation on 96 rows of `pydocs`, three seeds:

```
{commands}
```

`python -m benchmarks.published_language --run` runs this and writes the page; the published values are those of
`collapse_jax.diagnostics.published.values()`.

**What is compared is shape**: which workflow loses how much from its first generation on, in what order, how the curve bends,
and what colder sampling does. Losses themselves are of other models, other text and other vocabularies, and
`collapse compare` holds none of them against the others.

![Test loss over that of the first generation, published and of tiny](figures/language_models_published.png)

## Claims

| claim | published | `tiny` |
| --- | --- | --- |
{claims}

## How much is lost

Test loss of generation t over that of the first one, in nats per token; in brackets, as a share of what `replace` loses by
then. Standard errors are over seeds.

| t | model | {workflows} |
| --- | --- |{rule}
{losses}

## How `replace` bends

Of what is lost by generation 10, how much is lost by generation t already; a straight line would have {straight}.

| model | {bends_at} |
| --- |{bends_rule}
{bends}

## Colder sampling

What is lost by generation 4 at temperature {cold}, over what is lost at temperature 1.

| model | replace | accumulate |
| --- | --- | --- |
{temperatures}

## What is not compared

- Training anew from random weights each generation, as for the published GPT-2 and Llama 2 models: 96 rows teach random
  weights nothing. `--flagfile=gpt2_9m_tinystories.flags` is the published setting.
- Shumailov et al. (2305.17493: OPT-125m on WikiText-2) show histograms of the perplexity of samples, and Drayson et al.
  (2502.15654: GPT-2 on WikiText-2) six rules of decoding: both start from weights and text that have to be downloaded
  (`--flagfile=shumailov_opt125m_wikitext2.flags`, `drayson_*.flags`), and neither is a curve of test loss of these workflows.
- How much a workflow loses depends on how far a generation moves from its base, thus on rows, epochs and learning rate, which
  differ.
"""


def run() -> None:
  """Runs what the page is of, and keeps the losses."""
  from collapse_jax.lm import text, tiny, training
  from collapse_jax.systems import language_model as loop

  model = tiny.load()
  texts = loop.read_texts(model, text.splits("pydocs"), 64)
  setting = loop.Setting(model, texts, training.Recipe(1e-3), measure="few", model_name="tiny", dataset="pydocs")
  found = {}
  for workflows, temperature, num in RUNS:
    results = loop.simulate(
      setting,
      workflows.split(","),
      (96,),
      (temperature,),
      writing=loop.Writing(on_malformed="keep"),
      num_generations=num,
      num_seeds=3,
      progress=True,
    )
    loss = results.test_loss.squeeze(["num_samples", "temperature"], drop=True).rename(generation=f"generation_{num}")
    found[f"loss_{temperature:g}"] = loss.rename(workflow=f"workflow_{num}").drop_attrs()
  DATA.parent.mkdir(exist_ok=True)
  xarray.Dataset(found).to_netcdf(DATA, engine="h5netcdf")


def ours() -> tuple[dict[float, dict[str, dict[int, float]]], dict[float, dict[str, dict[int, float]]]]:
  """Means over seeds by temperature, and the standard errors of what is lost from the first generation on."""
  means: dict[float, dict[str, dict[int, float]]] = {}
  errors: dict[float, dict[str, dict[int, float]]] = {}
  with xarray.open_dataset(DATA, engine="h5netcdf") as data:
    for _, temperature, num in RUNS:
      loss = data[f"loss_{temperature:g}"].transpose(f"workflow_{num}", "seed", f"generation_{num}")
      for workflow, values in zip(loss[f"workflow_{num}"].values, loss.values.astype(np.float64)):
        lost = values - values[:, :1]
        spread = lost.std(axis=0, ddof=1) / np.sqrt(len(lost))
        means.setdefault(temperature, {})[str(workflow)] = dict(enumerate(values.mean(axis=0).tolist(), 1))
        errors.setdefault(temperature, {})[str(workflow)] = dict(enumerate(spread.tolist(), 1))
  return means, errors


def published() -> dict[tuple[str, float], dict[str, dict[int, float]]]:
  """Curves of the published table, by model and temperature."""
  found: dict[tuple[str, float], dict[str, dict[int, float]]] = {}
  for one in table.values():
    if one["task"] == "language_model":
      select, place = one["select"], one["place"]
      name = (
        place.rpartition(", ")[2] + ", fine-tuning"
        if place.startswith("fine-tuning")
        else f"{select['model']}, pretraining"
      )
      name += "" if one["source"] == "2410.16713" else f" ({one['source']})"
      curves = found.setdefault((name, float(select.get("temperature", 1))), {})
      curves.setdefault(select["workflow"], {})[one["generation"]] = one["value"]
  return found


def lost(curves: Curves, workflow: str, t: int) -> float | None:
  """Nats per token over the first generation, which is the same under all workflows; None where it is not known."""
  first = next((values[1] for values in curves.values() if 1 in values), None)
  value = curves.get(workflow, {}).get(t)
  return None if first is None or value is None else value - first


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--run", action="store_true", help="run first what the page is of")
  if parser.parse_args().run:
    run()
  means, errors = ours()
  every = published()
  shown = {t for curves in every.values() for values in curves.values() for t in values}
  for temperature, curves in means.items():
    every[OURS, temperature] = {
      workflow: {t: value for t, value in values.items() if t in shown} for workflow, values in curves.items()
    }
  warm = {name: curves for (name, temperature), curves in every.items() if temperature == 1}
  bends_at = (2, 3, 5)
  bends = {name: [_share(curves, "replace", t) for t in bends_at] for name, curves in warm.items()}
  bends = {name: shares for name, shares in bends.items() if any(one is not None for one in shares)}
  colder = {
    name: [_colder(every[name, 1.0], curves, workflow) for workflow in ("replace", "accumulate")]
    for (name, temperature), curves in every.items()
    if temperature == COLD
  }
  PAGE.write_text(
    TEXT.format(
      commands="\n".join(
        f"python -m experiments.language_model {FLAGS.format(num, workflows, f'{temperature:g}')}"
        for workflows, temperature, num in RUNS
      ),
      claims="\n".join(_claims(warm, bends, colder)),
      workflows=" | ".join(f"`{one}`" for one in WORKFLOWS),
      rule=" --- |" * len(WORKFLOWS),
      losses="\n".join(_losses(warm, errors[1.0])),
      straight=", ".join(f"{(t - 1) / 9:.0%}" for t in bends_at),
      bends_at=" | ".join(f"t = {t}" for t in bends_at),
      bends_rule=" --- |" * len(bends_at),
      bends="\n".join(f"| {name} | {' | '.join(map(_percent, shares))} |" for name, shares in bends.items()),
      cold=COLD,
      temperatures="\n".join(
        f"| {name} | {' | '.join('-' if one is None else f'{one:+.2f} nats' for one in both)} |"
        for name, both in colder.items()
      ),
    )
  )
  _draw({name: warm[name] for name in DRAWN}, errors[1.0])


def _share(curves: Curves, workflow: str, t: int) -> float | None:
  some, whole = lost(curves, workflow, t), lost(curves, workflow, 10)
  return None if some is None or whole is None else some / whole


def _colder(warm: Curves, cold: Curves, workflow: str) -> float | None:
  """By how much more is lost by generation 4; both start from the same first generation, fitted to real text."""
  both = [curves.get(workflow, {}).get(4) for curves in (warm, cold)]
  return None if None in both else both[1] - both[0]


def _percent(share: float | None) -> str:
  return "-" if share is None else f"{share:.0%}"


def _losses(warm: Mapping[str, Curves], errors: Curves) -> list[str]:
  rows = []
  for t in sorted({t for curves in warm.values() for values in curves.values() for t in values if t > 1}):
    for name, curves in warm.items():
      found = {workflow: lost(curves, workflow, t) for workflow in WORKFLOWS}
      if all(one is None for one in found.values()):
        continue
      cells = []
      for workflow, value in found.items():
        if value is None:
          cells.append("-")
          continue
        error = f" ± {errors[workflow][t]:.2f}" if name == OURS else ""
        share = "" if workflow == "replace" or not found["replace"] else f" ({value / found['replace']:.0%})"
        cells.append(f"{value:+.2f}{error}{share}")
      rows.append((t, name, cells))
  return [f"| {t} | {name} | {' | '.join(cells)} |" for t, name, cells in rows]


def _claims(warm: Mapping[str, Curves], bends, colder) -> list[str]:
  """What holds of how many of the published models, and of ours."""

  def ordered(curves: Curves) -> bool | None:
    found = []
    for t in {t for values in curves.values() for t in values if t > 1}:
      values = [value for one in WORKFLOWS if (value := lost(curves, one, t)) is not None]
      found += [a > b for a, b in itertools.pairwise(values)]
    return all(found) if found else None

  def held(curves: Curves) -> bool | None:
    """Accumulate loses less than a quarter of what replace does."""
    found = []
    for t in {t for values in curves.values() for t in values if t > 1}:
      both = [lost(curves, one, t) for one in ("replace", "accumulate")]
      if None not in both:
        found.append(both[1] < both[0] / 4)
    return all(found) if found else None

  about = {
    "More is lost under `replace` than under `accumulate_subsample`, and more there than under `accumulate`, at every t below": {
      name: ordered(curves) for name, curves in warm.items()
    },
    "`accumulate` loses less than a quarter of what `replace` does, at every t below": {
      name: held(curves) for name, curves in warm.items()
    },
    "`replace` bends: by generation 5 more than half of what it loses by generation 10 is lost": {
      name: None if shares[-1] is None else shares[-1] > 0.5 for name, shares in bends.items()
    },
    f"Temperature {COLD} makes `replace` worse by more than it makes `accumulate`": {
      name: None if None in both else both[0] > max(both[1], 0) for name, both in colder.items()
    },
  }
  rows = []
  for claim, holds in about.items():
    theirs = [one for name, one in holds.items() if name != OURS and one is not None]
    rows.append(f"| {claim} | {sum(theirs)} of {len(theirs)} chains | {'yes' if holds[OURS] else 'no'} |")
  return rows


def _draw(chosen: Mapping[str, Curves], errors: Curves) -> None:
  """A panel a model, a curve a workflow; the band of what was run here is from standard errors over its seeds."""
  from collapse_jax.plotting.figures import workflow_colours
  from collapse_jax.plotting.panels import panels, png

  figure, axes = panels(1, len(chosen))
  colours = workflow_colours(list(WORKFLOWS))
  for axis, (name, curves) in zip(axes[0], chosen.items()):
    for workflow in WORKFLOWS:
      at = [t for t in curves.get(workflow, ()) if t <= 10]
      if at:
        mean = np.array([lost(curves, workflow, t) for t in at])
        axis.plot(at, mean, "o-", color=colours[workflow], markersize=3, label=workflow)
        if name == OURS:
          half = 1.96 * np.array([errors[workflow][t] for t in at])
          axis.fill_between(at, mean - half, mean + half, color=colours[workflow], alpha=0.25, linewidth=0)
    axis.set_title(name.replace("`", ""), fontsize=9)
    axis.set(xlabel="generation t", ylim=(min(0, axis.get_ylim()[0]), None))
  axes[0, 0].set_ylabel("test loss less that of\ngeneration 1 (nats per token)")
  figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=9, frameon=False)
  figure.supxlabel(
    "published: one chain a curve, no interval is given; tiny: mean and 1.96 standard errors over 3 seeds",
    fontsize=8,
    color="0.35",
  )
  FIGURE.write_bytes(png(figure))


if __name__ == "__main__":
  main()
