"""Adapters in files: as PEFT computes them, back as they were, and refused where they are of another kind."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import needed
from lm_configs import CONFIGS, MORE

from collapse_jax import lm
from collapse_jax.lm import checkpoint, decoder, families, peft
from collapse_jax.refused import Refused

ALL = CONFIGS | MORE
TOKENS = np.random.default_rng(0).integers(3, 97, (2, 11))


def adapters(config, seed=1):
  """Of every kind of kernel but two, none of them 0."""
  plain = lm.Adapters(3, 6.0, ("query", "value", "out", "up", "down"))
  like = checkpoint.split_adapters(decoder.abstract_params(peft.adapted(families.architecture(config), plain)))[0]
  rng = np.random.default_rng(seed)
  return plain._replace(start=jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32), like))


def logits(model, config, found):
  functions = decoder.functions(peft.adapted(families.architecture(config), found))
  return functions.apply(checkpoint.join(model.params, found.start), TOKENS)


# Kernels of their own; fused beside each other, without a transposition; fused head by head.
@pytest.mark.parametrize("name", ["llama3", "gpt2", "gpt_neox"])
def test_there_and_back(name, tmp_path):
  torch, library = needed("torch"), needed("peft")
  import transformers

  config = ALL[name]()
  model, mine = lm.random(config, jax.random.key(0)), adapters(config)
  lm.save(model, tmp_path / "base")
  lm.save_adapters(config, mine, tmp_path / "mine", str(tmp_path / "base"))
  back = lm.load_adapters(tmp_path / "mine", config)
  assert back[:3] == mine[:3] and jax.tree.structure(back.start) == jax.tree.structure(mine.start)
  jax.tree.map(np.testing.assert_array_equal, back.start, mine.start)

  base = lambda: transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
  there = library.PeftModel.from_pretrained(base(), tmp_path / "mine").eval()
  with torch.no_grad():
    expected = there(torch.tensor(TOKENS)).logits.numpy()
  np.testing.assert_allclose(logits(model, config, mine), expected, atol=1e-4)
  assert np.abs(expected - model.apply(model.params, TOKENS)).max() > 0.1

  wanted = {"gpt2": ["c_attn"], "gpt_neox": ["query_key_value"]}.get(name, ["q_proj", "v_proj"])
  about = library.LoraConfig(
    r=4, lora_alpha=6, target_modules=wanted, task_type="CAUSAL_LM", use_rslora=True, fan_in_fan_out=name == "gpt2"
  )
  theirs = library.get_peft_model(base(), about).eval()
  torch.manual_seed(0)
  for parameter, value in theirs.named_parameters():
    if "lora_B" in parameter:
      torch.nn.init.normal_(value, std=0.1)
  theirs.save_pretrained(tmp_path / "theirs")
  with torch.no_grad():
    expected = theirs(torch.tensor(TOKENS)).logits.numpy()
  found = lm.load_adapters(tmp_path / "theirs", config)
  assert found.rank == 4 and found.alpha == pytest.approx(12)
  np.testing.assert_allclose(logits(model, config, found), expected, atol=1e-4)


@pytest.mark.parametrize(
  "change, match",
  [
    ({"peft_type": "IA3"}, "of type IA3 are not read"),
    ({"use_dora": True}, "with use_dora are not read"),
    ({"bias": "all"}, "with biases"),
    ({"r": "8"}, "numbers above 0"),
    ({"lora_alpha": 0}, "numbers above 0"),
    ({"alpha_pattern": {"q_proj": 7}}, "several ranks, or scales"),
  ],
)
def test_refused(change, match, tmp_path):
  config = ALL["llama"]()
  lm.save_adapters(config, adapters(config), tmp_path)
  file = tmp_path / "adapter_config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | change))
  with pytest.raises(Refused, match=match):
    lm.load_adapters(tmp_path, config)


def test_of_another_model(tmp_path):
  lm.save_adapters(ALL["llama"](), adapters(ALL["llama"]()), tmp_path)
  with pytest.raises(Refused, match="does not fit the model"):
    lm.load_adapters(tmp_path, ALL["llama3"]())
  with pytest.raises(Refused, match="no adapter of a kernel"):
    lm.load_adapters(tmp_path, ALL["gpt2"]())
  (tmp_path / "adapter_model.safetensors").write_bytes(b"1234")
  with pytest.raises(Refused, match="header is longer"):
    lm.load_adapters(tmp_path, ALL["llama"]())
