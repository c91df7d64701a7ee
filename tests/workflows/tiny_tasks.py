"""Random models for every task, with tokenizers of their own, made in a fraction of a second: with large weights, so that
answers differ. For the tests of workflows and of clients."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

CONTEXT: Final = 40
SPECIAL: Final = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<mask>"]
WORDS: Final = [
    *(
        "a",
        "quick",
        "brown",
        "fox",
        "jump",
        "over",
        "lazy",
        "dog",
        "this",
        "example",
        "is",
        "about",
        "sport",
        "politics",
    ),
    *(".", ",", "summarize", "translate", ":"),
]
_VOCABULARY: Final = [
    *SPECIAL,
    *WORDS,
    "##s",
    "##ed",
    "##ing",
    *ascii_lowercase[1:],
    *(f"##{c}" for c in ascii_lowercase),
]
TEXTS: Final = [
    "a quick fox.",
    "a lazy brown fox jumps over dogs, jumping dogs jumped",
    "Fox",
    "quick quick brown xyzzy is about a \u4e16 dog",
    "this example is about politics",
]
LONG_TEXT: Final = " ".join(TEXTS * 5)
CLASSES: Final = {
    "text-classification": ["contradiction", "neutral", "entailment"],
    "token-classification": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
}
PAIRS: Final = {
    "translation_en_to_fr": {"prefix": "translate a : "},
    "translation_en_to_de": {"prefix": "translate is : ", "max_length": 5},
    "summarization": {"prefix": "summarize: ", "min_length": 4, "max_length": 12, "num_beams": 2},
}
LANGUAGES: Final = ["eng_Latn", "fra_Latn", "deu_Latn"]


def save_tiny_task(directory: Path, task: str, **config: Any) -> None:
    """A model for a task of encoders, or `summarization`; `config` adds to its config.json."""
    torch.manual_seed(0)
    word_tokenizer(pairs=task != "summarization").save_pretrained(directory)
    if task == "summarization":
        T5ForConditionalGeneration(_t5(len(_VOCABULARY), **config)).save_pretrained(directory)
        return
    kinds: dict[str, Any] = {
        "fill-mask": BertForMaskedLM,
        "question-answering": BertForQuestionAnswering,
        "text-classification": BertForSequenceClassification,
        "token-classification": BertForTokenClassification,
    }
    names = CLASSES.get(task, ["A", "B"])
    settings: dict[str, Any] = {
        "vocab_size": len(_VOCABULARY),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.7,
        "id2label": dict(enumerate(names)),
        "label2id": {name: place for place, name in enumerate(names)},
        **config,
    }
    kinds[task](BertConfig(**settings)).save_pretrained(directory)


def save_tiny_translator(directory: Path) -> None:
    """Its tokenizer knows languages by tokens of their own, as those of NLLB do."""
    torch.manual_seed(0)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *ascii_lowercase, "\u2581a"]
    nllb: Any = NllbTokenizer
    tokenizer = nllb(
        vocab={piece: place for place, piece in enumerate(pieces)},
        merges=[("\u2581", "a")],
        extra_special_tokens=LANGUAGES,
        model_max_length=CONTEXT,
    )
    tokenizer.save_pretrained(directory)
    special = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    T5ForConditionalGeneration(_t5(len(tokenizer), **special)).save_pretrained(directory)


def reference(task: str, directory: Path) -> Any:
    """transformers' own pipeline for a saved model."""
    pipeline: Any = transformers.pipeline
    return pipeline(task, model=str(directory))


def word_tokenizer(*, pairs: bool = True) -> Any:
    """WordPiece, so that words have parts: one piece per letter for words that it does not know."""
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(_VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]" if pairs else "$A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
        model_max_length=CONTEXT,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token=SPECIAL[4],
    )


def _t5(vocabulary: int, **config: Any) -> T5Config:
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "initializer_factor": 2.0,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 0,
        **config,
    }
    return T5Config(**settings)
