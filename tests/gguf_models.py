"""GGUF files as llama.cpp's converter lays them out, from our parameters."""

import gguf
import numpy as np

from collapse_jax.lm import checkpoint, families

PARTS = {
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
  "input_layernorm": "attn_norm",
  "post_attention_layernorm": "ffn_norm",
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  "lm_head": "output",
  "transformer.wte": "token_embd",
  "transformer.wpe": "position_embd",
  "transformer.ln_f": "output_norm",
  "ln_1": "attn_norm",
  "ln_2": "ffn_norm",
  "attn.c_attn": "attn_qkv",
  "attn.c_proj": "attn_output",
  "mlp.c_fc": "ffn_up",
  "mlp.c_proj": "ffn_down",
}
GEMMA = PARTS | {
  "post_attention_layernorm": "post_attention_norm",
  "pre_feedforward_layernorm": "ffn_norm",
  "post_feedforward_layernorm": "post_ffw_norm",
}


def side_by_side(value, heads):
  """Rotary pairs half a head apart, as in transformers, to pairs side by side, as llama.cpp wants them."""
  rows = value.shape[0]
  return value.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(value.shape)


def write(path, model, about=lambda writer: None):
  """`about` adds metadata to the writer."""
  config, arch = model.config, families.architecture(model.config)
  writer = gguf.GGUFWriter(path, arch.family)
  writer.add_context_length(arch.max_length)
  writer.add_embedding_length(arch.dim)
  writer.add_block_count(arch.num_layers)
  writer.add_feed_forward_length(arch.mlp_dim)
  writer.add_head_count(arch.num_heads)
  if arch.family == "gpt2":
    writer.add_layer_norm_eps(arch.norm_eps)
  else:
    writer.add_head_count_kv(arch.num_kv_heads)
    writer.add_layer_norm_rms_eps(arch.norm_eps)
  if arch.family == "llama":
    writer.add_rope_dimension_count(arch.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
  if arch.family == "gemma2":
    writer.add_key_length(arch.head_dim)
    writer.add_value_length(arch.head_dim)
    writer.add_attn_logit_softcapping(arch.soft_cap)
    writer.add_final_logit_softcapping(arch.final_soft_cap)
    writer.add_sliding_window(config.sliding_window)
  about(writer)
  parts = GEMMA if arch.family == "gemma2" else PARTS
  for name, value in checkpoint.to_tensors(arch, model.params):
    stem, leaf = name.rsplit(".", 1)
    before, _, after = stem.partition(".h." if arch.family == "gpt2" else ".layers.")
    layer, _, part = after.partition(".")
    value = np.asarray(value, np.float32)
    if arch.family == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
      value = side_by_side(value, arch.num_heads if "q_proj" in part else arch.num_kv_heads)
    if arch.family == "gemma2" and "norm" in name:
      value = value + 1
    if arch.family == "gpt2" and after and leaf == "weight" and value.ndim == 2:
      value = value.T
    writer.add_tensor(
      f"blk.{layer}.{parts[part]}.{leaf}" if after else f"{parts[before]}.{leaf}", np.ascontiguousarray(value)
    )
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


TEMPLATE = "{% for one in messages %}<{{ one.role }}>{{ one.content }}</s>{% endfor %}"


def sentencepiece(pieces, prefix=True):
  """Metadata of a vocabulary as of Llama 2 and Gemma 2: 260 tokens of their own, then pieces from the best on."""
  tokens = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{i:02X}>" for i in range(256)), *pieces]

  def about(writer):
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 260 + [-float(i) for i in range(len(pieces))])
    writer.add_token_types([2, 3, 3, 3, *[6] * 256, *[1] * len(pieces)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(prefix)
    writer.add_chat_template(TEMPLATE)

  return tokens, about
