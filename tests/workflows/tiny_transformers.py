"""A random Llama, BERT and RoBERTa with tokenizers of their own, made in a fraction of a second. For the tests beside this."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

LLAMA_CONTEXT = 96
PROMPT = "the quick brown fox"
BERT_CONTEXT = 40
ROBERTA_PADDING = 3
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *["a", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs"]]


def save_tiny_llama(directory: Path, *, with_specials: bool = True) -> None:
    """Untrained, and large weights: answers vary, and are full of half characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"] if with_specials else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PROMPT + " jumps over the lazy dog. " * 4], trainer)
    ends = {"bos_token": "<s>", "eos_token": "</s>"} if with_specials else {}
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, **ends).save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LLAMA_CONTEXT,
        bos_token_id=0 if with_specials else None,
        eos_token_id=1 if with_specials else None,
        initializer_range=0.5,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)


def save_tiny_bert(directory: Path) -> None:
    _save_word_tokenizer(directory)
    BertModel(BertConfig(**_ENCODER)).save_pretrained(directory)


def save_tiny_roberta(directory: Path) -> None:
    """Its tokenizer does not say how long a text may be; the padding token is number 3, so four positions are not used."""
    _save_word_tokenizer(directory)
    RobertaModel(RobertaConfig(**_ENCODER, pad_token_id=ROBERTA_PADDING)).save_pretrained(directory)


_ENCODER: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": BERT_CONTEXT,
    "initializer_range": 0.5,
}


def _save_word_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(directory)
    torch.manual_seed(0)
