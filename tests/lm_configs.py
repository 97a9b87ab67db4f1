"""Small configurations of every family, with what each can vary switched on."""

import transformers

SMALL = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2}


def varied(name, **options):
  """A function that makes a configuration of transformers by the name of its class."""
  sizes = {"hidden_size": 32, "max_position_embeddings": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
  return lambda: getattr(transformers, f"{name}Config")(**SMALL | sizes | {"intermediate_size": 48} | options)


CONFIGS = {
  "gpt2": lambda: transformers.GPT2Config(n_positions=96, n_embd=32, n_layer=2, n_head=4, **SMALL),
  "llama": varied("Llama", num_key_value_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}),
  "llama3": varied(
    "Llama",
    num_hidden_layers=3,
    num_key_value_heads=1,
    head_dim=16,
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
  ),
  "llama2_linear": varied(
    "Llama",
    num_key_value_heads=4,
    rope_parameters={"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
  ),
  "gemma2": varied(
    "Gemma2",
    num_hidden_layers=3,
    num_key_value_heads=2,
    head_dim=8,
    sliding_window=5,
    query_pre_attn_scalar=12,
    attn_logit_softcapping=5.0,
    final_logit_softcapping=3.0,
  ),
}

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 24}
SHARED = {"num_key_value_heads": 2}
WINDOWS = {"use_sliding_window": True, "sliding_window": 5}
GEMMA3 = {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 12, **SHARED}
MORE = {
  "gpt2_untied": lambda: transformers.GPT2Config(
    n_positions=96,
    n_embd=32,
    n_layer=2,
    n_head=2,
    n_inner=48,
    tie_word_embeddings=False,
    scale_attn_weights=False,
    **SMALL,
  ),
  "gemma2_untied": varied(
    "Gemma2",
    **GEMMA3,
    layer_types=["full_attention", "sliding_attention"],
    tie_word_embeddings=False,
    attention_bias=True,
  ),
  "qwen2": varied("Qwen2", **SHARED),
  "qwen2_windows": varied(
    "Qwen2",
    **SHARED,
    **WINDOWS,
    max_window_layers=1,
    num_hidden_layers=3,
    tie_word_embeddings=True,
    rope_parameters=YARN,
  ),
  "mistral": varied("Mistral", **SHARED, sliding_window=5, head_dim=16),
  "mistral_whole": varied(
    "Mistral",
    sliding_window=None,
    num_key_value_heads=1,
    tie_word_embeddings=True,
    rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
  ),
  "opt": varied("OPT", ffn_dim=48),
  "opt_untied": varied(
    "OPT", ffn_dim=48, enable_bias=False, tie_word_embeddings=False, activation_function="gelu", num_attention_heads=2
  ),
  "gemma3": varied(
    "Gemma3Text",
    **GEMMA3,
    num_hidden_layers=4,
    sliding_window_pattern=2,
    rope_parameters={
      "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
      "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
    },
  ),
  "gemma3_untied": varied(
    "Gemma3Text",
    **GEMMA3,
    layer_types=["full_attention", "sliding_attention"],
    tie_word_embeddings=False,
    attention_bias=True,
    final_logit_softcapping=3.0,
    attn_logit_softcapping=5.0,
  ),
  "qwen3": varied("Qwen3", **SHARED, head_dim=16),
  "qwen3_windows": varied(
    "Qwen3",
    **WINDOWS,
    head_dim=8,
    num_key_value_heads=1,
    max_window_layers=1,
    tie_word_embeddings=True,
    attention_bias=True,
  ),
  "olmo2": varied("Olmo2"),
  "olmo2_tied": varied("Olmo2", **SHARED, tie_word_embeddings=True, attention_bias=True),
  "olmo3": varied(
    "Olmo3",
    sliding_window=5,
    num_hidden_layers=4,
    rope_parameters={"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}},
  ),
  "olmo3_tied": varied(
    "Olmo3",
    **SHARED,
    sliding_window=5,
    layer_types=["full_attention", "sliding_attention"],
    tie_word_embeddings=True,
    attention_bias=True,
  ),
  "smollm3": varied("SmolLM3", **SHARED, num_hidden_layers=4, no_rope_layer_interval=2, pad_token_id=0),
  "smollm3_windows": varied(
    "SmolLM3",
    **SHARED,
    **WINDOWS,
    num_hidden_layers=3,
    no_rope_layers=[1, 0, 1],
    tie_word_embeddings=False,
    attention_bias=True,
    mlp_bias=True,
    pad_token_id=0,
  ),
  "gpt_neox": varied("GPTNeoX", num_attention_heads=2),
  "gpt_neox_sequential": varied(
    "GPTNeoX",
    use_parallel_residual=False,
    attention_bias=False,
    tie_word_embeddings=True,
    hidden_act="gelu_new",
    rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0},
  ),
  "phi": varied("Phi"),
  "phi_normed": varied(
    "Phi",
    **SHARED,
    qk_layernorm=True,
    tie_word_embeddings=True,
    hidden_act="gelu",
    num_attention_heads=4,
    rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25},
  ),
  "gpt_neo": lambda: transformers.GPTNeoConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    max_position_embeddings=96,
    attention_types=[[["global", "local"], 1]],
    window_size=5,
    **SMALL,
  ),
  "gpt_neo_untied": lambda: transformers.GPTNeoConfig(
    hidden_size=32,
    num_layers=3,
    num_heads=2,
    intermediate_size=48,
    max_position_embeddings=96,
    attention_types=[[["local"], 1], [["global", "local"], 1]],
    window_size=5,
    tie_word_embeddings=False,
    **SMALL,
  ),
}
