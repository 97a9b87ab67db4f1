"""Edited real data instead of generated data: token editing (Zhu et al. 2412.14689) and its linear-regression analysis."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import check_integer, check_positive, known
from collapse_jax.transforms.parts import in_rows, kth_smallest, on_real, require_parts, resample
from collapse_jax.types import Array, Context, MetricInfo, TaskSetting
from collapse_jax.vocabulary import EDIT_BASES, EDIT_MASKS, EDIT_NOISES

__all__ = ["edit_labels", "edit_tokens"]

_BLOCK_LOGITS = 2**24  # logits at once, 64 MiB


@citing("2412.14689")
def edit_tokens(
  task: TaskSetting,
  threshold,
  top_k: int,
  beta=1.0,
  *,
  base: str = "anchor",
  mask: str = "fresh",
  fixed_tokens: tuple[int, ...] = (),
  block_rows: int | None = None,
) -> TaskSetting:
  """Tokens that the model finds likely are drawn again from its top choices; nothing is generated (Zhu et al. 2412.14689).

  One teacher-forced pass gives P(x_i | x_<i); where it is at least `threshold`, x_i is drawn from the top_k tokens there.
  First tokens and padding stay.

  Args:
    task: a task with `next_token`, whose rows are {"tokens": [n, L], "length": [n]}.
    threshold: least probability of a token that is edited, in [0, 1]; may be traced. The paper's script takes 0.99.
    top_k: tokens that are drawn from, at least 1.
    beta: divides their log probabilities: above 1 flattens; may be traced.
    base: what is edited: "anchor", the real batch in every generation (practice), or "chain", the last edited one (theory).
    mask: "fresh": all eligible tokens in every generation; "fixed": those eligible in the first only; "disjoint": each token
      is edited at most once.
    fixed_tokens: never edited, such as an end token.
    block_rows: sequences at once; default such that their logits take 64 MiB. Results do not depend on it.
  Returns:
    the task, with metrics `eligible_share` and `changed_share` of the tokens that might be edited. Its rows have another
    part, "edited" [n, L], which says where the mask has been.
  Raises:
    ValueError: an argument out of range, a task without `next_token`, or, while tracing, a workflow that asks for another
      number of rows than the base has.

  >>> import collapse_jax as cj
  >>> task = cj.transforms.edit_tokens(cj.tasks.ngram(num_samples=10, vocab_size=5), 0.9, top_k=3)
  >>> print(*task.metrics)
  test_nll entropy total_variation eligible_share changed_share
  """
  check_integer("top_k", top_k, 1)
  check_positive("beta", beta)
  if known(threshold) and not 0 <= threshold <= 1:
    raise Refused.must_be("threshold", "from 0 to 1", threshold)
  if block_rows is not None:
    check_integer("block_rows", block_rows, 1)
  _check(base, mask)
  if task.next_token is None:
    raise Refused("edit_tokens needs a task with next_token: tasks.ngram, tasks.language_model, or your own.")
  next_token = task.next_token

  def sample(key, problem, params, context: Context):
    rows, edited, row_weight = _base(context, base)
    tokens, length = rows["tokens"], rows["length"]
    position = jnp.arange(tokens.shape[1])[None]
    editable = (position > 0) & (position < length[:, None])
    for token in fixed_tokens:
      editable &= tokens != token
    if row_weight is not None:
      editable &= (row_weight > 0)[:, None]

    def block(part):
      row_keys, some = part
      log_p = jax.nn.log_softmax(next_token(problem, params, some).astype(float), axis=-1)
      chance = jnp.take_along_axis(log_p, some[..., None], axis=-1)[..., 0]
      if top_k > log_p.shape[-1]:
        raise Refused.must_be("top_k", f"at most the {log_p.shape[-1]} tokens there are", top_k)
      top, choice = jax.lax.top_k(log_p, top_k)
      noise = jax.vmap(lambda key: jax.random.gumbel(key, top.shape[1:]))(row_keys)
      drawn = jnp.take_along_axis(choice, jnp.argmax(top / beta + noise, axis=-1)[..., None], axis=-1)[..., 0]
      return chance >= jnp.log(threshold), drawn.astype(some.dtype)

    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(tokens)))
    likely, drawn = _by_blocks(block, (row_keys, tokens), block_rows or _block_of(next_token, problem, params, tokens))
    eligible = likely & editable
    chosen, edited = _masked(mask, eligible, edited, context.t)
    new = jnp.where(chosen, drawn, tokens)
    num = jnp.maximum(jnp.sum(editable), 1)
    found = {"eligible_share": jnp.sum(eligible) / num, "changed_share": jnp.sum(new != tokens) / num}
    return storage.batch(rows | {"tokens": new, "edited": edited}, row_weight), found

  info = {
    "eligible_share": MetricInfo("share of tokens that the model finds likely enough to edit"),
    "changed_share": MetricInfo("share of tokens that became another one"),
  }
  return _with_memory(task, sample, info, ("tokens", "length"), "edit_tokens")


@citing("2412.14689")
def edit_labels(
  task: TaskSetting, share, *, base: str = "anchor", mask: str = "fresh", noise: str = "regenerated"
) -> TaskSetting:
  """A share of the labels of fixed covariates is made anew: the setting in which token editing is analysed (2412.14689).

  Args:
    task: `tasks.linear_regression`, or another whose rows are {"index": [n], "label": [n]} in the order of one design.
    share: of labels edited in a generation, in [0, 1]; may be traced.
    base, mask: as in `edit_tokens`. "fresh" draws a random mask in each generation, "fixed" one for all; "disjoint" takes
      labels that have not been edited, until all have been.
    noise: "regenerated": a label becomes what the model emits for that row; "additive": fresh noise is added to it, and the
      model has no part in it (the form of the paper's theorem); for `tasks.linear_regression`, and others whose problem has the
      deviation `noise_std` of labels.
  Returns:
    the task, with metric `edited_share`. Its rows have another part, "edited" [n].
  Raises:
    ValueError: an argument out of range; as in `edit_tokens`; additive noise for labels without (when a run starts).

  >>> import collapse_jax as cj
  >>> task = cj.transforms.edit_labels(cj.tasks.linear_regression(dim=2, num_samples=10), 0.5)
  >>> print(*task.metrics)
  test_mse edited_share
  """
  if known(share) and not 0 <= share <= 1:
    raise Refused.must_be("share", "from 0 to 1", share)
  _check(base, mask)
  if noise not in EDIT_NOISES:
    raise Refused.must_be("noise", "regenerated or additive", noise)
  task = in_rows(task)
  draw_real = task.init

  def begin(key):
    problem, real = draw_real(key)
    if noise == "additive" and not hasattr(problem, "noise_std"):
      raise Refused(
        "noise='additive' needs labels with noise of known size, as tasks.linear_regression has: others take "
        "'regenerated'.",
        argument="noise",
        value="additive",
      )
    return problem, real

  def sample(key, problem, params, context: Context):
    emit_key, mask_key, noise_key = jax.random.split(key, 3)
    rows, edited, row_weight = _base(context, base)
    emitted, metrics = task.sample(emit_key, problem, params, context)
    num = len(edited)
    score = jax.random.uniform(mask_key, (num,))
    if mask == "disjoint":  # those of the lowest scores among what is left
      wanted = jnp.round(share * num)
      eligible = (score <= kth_smallest(jnp.where(edited, 2.0, score), wanted)) & ~edited & (wanted > 0)
    else:
      eligible = score < share
    chosen, edited = _masked(mask, eligible, edited, context.t)
    if noise == "regenerated":
      new = emitted.rows["label"][0]
    else:
      new = rows["label"] + problem.noise_std * jax.random.normal(noise_key, (num,))
    rows = rows | {"label": jnp.where(chosen, new, rows["label"]), "edited": edited}
    return storage.batch(rows, row_weight), metrics | {"edited_share": jnp.mean(chosen)}

  info = {"edited_share": MetricInfo("share of labels edited")}
  return _with_memory(task._replace(init=begin), sample, info, ("label", "index"), "edit_labels")


def _check(base, mask):
  for name, value, allowed in (("base", base, EDIT_BASES), ("mask", mask, EDIT_MASKS)):
    if value not in allowed:
      raise Refused.must_be(name, f"one of {', '.join(allowed)}", value)


def _with_memory(task: TaskSetting, sample, info, parts: tuple[str, str], what: str) -> TaskSetting:
  """The task with that sampler, rows that remember where the mask over their first part has been, also beside statistics."""

  def marked(data):
    require_parts(data.rows, parts, what)
    return data._replace(rows=data.rows | {"edited": jnp.zeros(data.rows[parts[0]].shape, bool)})

  task = on_real(task, marked)
  if task.summary is not None:
    task = task._replace(summary=task.summary._replace(keep_rows=True))
  return resample(task, sample, info)


def _base(context: Context, base: str) -> tuple[Any, Array, Any]:
  """The rows to edit, where the mask has been, and the weights of rows."""
  last = context.latest
  assert last is not None
  n = storage.num_rows(context.real.rows, 1)
  if not (known(context.num) and context.num == n):
    raise Refused(f"editing emits as many rows as there are real ones, {n}, and cannot emit {context.num}.")
  batch = last if base == "chain" else context.real
  rows, row_weight = jax.tree.map(lambda x: x[0], (batch.rows, batch.row_weight))
  return rows, last.rows["edited"][0], row_weight


def _masked(mask: str, eligible, edited, t):
  """Where to edit, and where the mask has been after that."""
  if mask == "fresh":
    return eligible, edited
  if mask == "disjoint":
    chosen = eligible & ~edited
    return chosen, edited | chosen
  chosen = jnp.where(t == 1, eligible, edited)
  return chosen, chosen


def _block_of(next_token, problem, params, tokens) -> int:
  logits = jax.eval_shape(next_token, problem, params, tokens)
  return max(1, _BLOCK_LOGITS // int(np.prod(logits.shape[1:])))


def _by_blocks(function, arrays, size: int):
  """`function` of arrays [n, ...], at most `size` rows at once."""
  num = storage.num_rows(arrays)
  if num <= size:
    return function(arrays)
  short = -num % size
  padded = jax.tree.map(lambda x: jnp.concatenate([x, x[jnp.zeros(short, int)]]), arrays)
  blocks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), padded)
  out = jax.lax.map(function, blocks)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num], out)
