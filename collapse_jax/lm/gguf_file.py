"""GGUF files: weights dequantised, configuration and tokenizer from their metadata."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

# Rules that split text before byte-pair merges, by the name that llama.cpp gives them.
_LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
           r"|\s+(?!\S)|\s+")
SPLITS = ("gpt-2", "default", "smollm", "llama-bpe")
_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head", "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm"}
_GEMMA2 = _NAMES | {"ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
                    "post_ffw_norm": "post_feedforward_layernorm"}
_GPT2 = {"token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
         "output": "lm_head", "attn_norm": "ln_1", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
         "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj", "ffn_norm": "ln_2"}


def read(path: Path):
  """(transformers configuration, tokenizer or None, name in a Hugging Face checkpoint -> function that reads it).

  Raises:
    ValueError: not a whole GGUF file, an unknown architecture, or a kind of tokenizer that is not supported.
  """
  import gguf
  try:
    reader = gguf.GGUFReader(path)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    family = meta["general.architecture"]
  except Exception as error:
    raise ValueError(f"{path} is truncated or no GGUF file: {(str(error).splitlines() or [repr(error)])[0]}.") from None
  if family not in ("llama", "gemma2", "gpt2"):
    raise ValueError(f"{path}: unknown architecture {family!r}; known: gpt2, llama, gemma2.")
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  config = _config(family, meta, tensors)
  names = {"llama": _NAMES, "gemma2": _GEMMA2, "gpt2": _GPT2}[family]
  stem = "transformer.h" if family == "gpt2" else "model.layers"

  def renamed(name: str) -> str:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not match or match.group(2) not in names:
      return name
    layer, kind, leaf = match.groups()
    return f"{stem}.{layer}.{names[kind]}.{leaf}" if layer else f"{names[kind]}.{leaf}"

  def reader_of(tensor) -> Callable[[], np.ndarray]:
    def dequantised():
      value = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
      if family == "llama" and re.search(r"attn_[qk]\.weight$", tensor.name):
        heads = config.num_attention_heads if "attn_q" in tensor.name else config.num_key_value_heads
        return _half_split(value, heads)
      if family == "gemma2" and "norm" in tensor.name:
        return value - 1
      if family == "gpt2" and re.search(r"(attn_qkv|attn_output|ffn_up|ffn_down)\.weight$", tensor.name):
        return value.T
      return value
    return dequantised

  return config, _tokenizer(path, meta), {renamed(name): reader_of(tensor) for name, tensor in tensors.items()}


def _half_split(value, heads):
  """Rotary pairs side by side, as llama.cpp wants them, to pairs half a head apart, as in transformers."""
  rows, columns = value.shape
  return value.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(family, meta, tensors):
  from transformers import Gemma2Config, GPT2Config, LlamaConfig
  get = lambda name, default=None: meta.get(f"{family}.{name}", default)
  tied = "output.weight" not in tensors
  ids = {f"{kind}_token_id": meta.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
  ids["pad_token_id"] = meta.get("tokenizer.ggml.padding_token_id")
  vocab = int(tensors["token_embd.weight"].shape[1])
  if family == "gpt2":
    return GPT2Config(vocab_size=vocab, n_positions=get("context_length"), n_embd=get("embedding_length"),
                      n_layer=get("block_count"), n_head=get("attention.head_count"), n_inner=get("feed_forward_length"),
                      layer_norm_epsilon=get("attention.layer_norm_epsilon"), tie_word_embeddings=tied, **ids)
  if "rope_freqs.weight" in tensors or get("rope.scaling.type", "none") != "none":
    raise ValueError("scaled rotary embeddings are not read from GGUF files; load the model's safetensors instead.")
  heads = get("attention.head_count")
  rope = {"rope_type": "default", "rope_theta": get("rope.freq_base", 10_000.0)}
  shared = dict(
      vocab_size=vocab, hidden_size=get("embedding_length"), intermediate_size=get("feed_forward_length"),
      num_hidden_layers=get("block_count"), num_attention_heads=heads,
      num_key_value_heads=get("attention.head_count_kv", heads),
      head_dim=get("attention.key_length", get("rope.dimension_count", get("embedding_length") // heads)),
      max_position_embeddings=get("context_length"), rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
      rope_parameters=rope, tie_word_embeddings=tied, **ids)
  if family == "llama":
    return LlamaConfig(**shared)
  return Gemma2Config(**shared, sliding_window=get("attention.sliding_window", 4096),
                      attn_logit_softcapping=get("attn_logit_softcapping", 50.0),
                      final_logit_softcapping=get("final_logit_softcapping", 30.0),
                      query_pre_attn_scalar=144 if get("block_count") == 46 else shared["head_dim"])


def _tokenizer(path, meta):
  from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast
  tokens = meta.get("tokenizer.ggml.tokens")
  if tokens is None:
    return None
  kind, split = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre", "default")
  if kind != "gpt2" or split not in SPLITS:
    raise ValueError(f"{path}: a tokenizer of kind {kind}/{split} is not supported; known: gpt2 with {', '.join(SPLITS)}.")
  merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
  tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges,
                                   ignore_merges=split == "llama-bpe"))
  level = pre_tokenizers.ByteLevel(add_prefix_space=bool(meta.get("tokenizer.ggml.add_space_prefix", False)),
                                   use_regex=split != "llama-bpe")
  first: list = []
  if split == "smollm":
    first = [pre_tokenizers.Digits(individual_digits=True)]
  elif split == "llama-bpe":
    first = [pre_tokenizers.Split(Regex(_LLAMA3), "isolated")]
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, level])
  tokenizer.decoder = decoders.ByteLevel()
  special = [token for token, type_ in zip(tokens, meta["tokenizer.ggml.token_type"]) if type_ == 3]
  tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
  named = {f"{ours}_token": tokens[meta[f"tokenizer.ggml.{theirs}_token_id"]]
           for ours, theirs in {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}.items()
           if f"tokenizer.ggml.{theirs}_token_id" in meta}
  return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named)
