"""Small configurations of every family, with what each can vary switched on."""

import transformers

SMALL = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2}


def gpt2():
  return transformers.GPT2Config(n_positions=96, n_embd=32, n_layer=2, n_head=4, **SMALL)


def llama():
  return transformers.LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=96,
    rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    **SMALL,
  )


def llama3():
  return transformers.LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=96,
    tie_word_embeddings=True,
    attention_bias=True,
    mlp_bias=True,
    hidden_act="gelu",
    rope_parameters={
      "rope_type": "llama3",
      "rope_theta": 500.0,
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 16,
    },
    **SMALL,
  )


def llama2_linear():
  return transformers.LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=96,
    rope_parameters={"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    **SMALL,
  )


def gemma2():
  return transformers.Gemma2Config(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=96,
    sliding_window=5,
    query_pre_attn_scalar=12,
    attn_logit_softcapping=5.0,
    final_logit_softcapping=3.0,
    **SMALL,
  )


CONFIGS = {"gpt2": gpt2, "llama": llama, "llama3": llama3, "llama2_linear": llama2_linear, "gemma2": gemma2}
