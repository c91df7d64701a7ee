"""Five architectures of language models, tiny and random, each with the byte-level tokenizer of the tiny Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.workflows.tiny_transformers import LLAMA_CONTEXT, save_tiny_llama

VOCABULARY: Final = 290
WINDOW: Final = 16
_COMMON: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": LLAMA_CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "initializer_range": 0.5,
}


def _model(name: str) -> Any:
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**_COMMON))
    if name == "gpt2":
        own: dict[str, Any] = {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": LLAMA_CONTEXT,
            "initializer_range": 0.5,
        }
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, **own))
    if name == "mistral":
        return MistralForCausalLM(MistralConfig(**_COMMON, sliding_window=WINDOW))
    if name == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**_COMMON))
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    own = {**_COMMON, "num_hidden_layers": 3, "initializer_range": 0.2}
    return Gemma3ForCausalLM(Gemma3TextConfig(**own, sliding_window=WINDOW, layer_types=kinds))


ARCHITECTURES: Final = ("llama", "gpt2", "mistral", "qwen3", "gemma3")


def save_tiny(name: str, directory: Path) -> Any:
    """The model, as it was saved."""
    save_tiny_llama(directory)
    torch.manual_seed(0)
    model = _model(name).eval()
    model.save_pretrained(directory)
    return model
