"""Trains a toy language model of two million parameters on Python's own documentation, and writes `tiny_gpt/`.

    python -m workflows.demo.train_tiny_gpt [DIRECTORY]

Takes about ten minutes on two cores. Seeds are fixed, but the text comes with the interpreter (`pydoc_data.topics`):
another Python version trains on other words. The committed model was trained with Python 3.11.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from zlib import crc32

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["corpus", "holdout_loss", "main"]

SEED = 20260101
VOCABULARY = 2048
CONTEXT = 512
WINDOW = 256
BATCH = 16
STEPS = 520
WARM_UP = 40
TOP_RATE = 3e-3
NOISE = 0.05  # of the tokens read, not of those to be predicted: there is little text, and many passes over it
BOS, EOS = "<|bos|>", "<|eos|>"
# Whoever sends `messages` gets a continuation of what they said: nobody taught this model to answer.
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"

Paragraphs = list[str]


def corpus() -> tuple[list[Paragraphs], list[Paragraphs]]:
    """Topics for training and held-out topics, each as its paragraphs.

    About one topic in ten is held out, chosen by its name. Topics quote each other: a paragraph counts once, and those
    of held-out topics are never trained on.
    """
    held_out = sorted(name for name in topics if crc32(name.encode()) % 10 == 0)
    seen: set[str] = set()
    holdout = [_unseen(topics[name], seen) for name in held_out]
    training = [_unseen(topics[name], seen) for name in sorted(topics) if name not in held_out]
    return training, holdout


def _unseen(text: str, seen: set[str]) -> Paragraphs:
    paragraphs = [part for part in text.strip().split("\n\n") if part.strip() and part not in seen]
    seen.update(paragraphs)
    return paragraphs


def train_tokenizer(documents: list[Paragraphs]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text can be written; texts start with the BOS token."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["\n\n".join(paragraphs) for paragraphs in documents], trainer)
    core.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, core.token_to_id(BOS))])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def new_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=CONTEXT,
        attention_dropout=0.2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config)


class Windows:
    """Random stretches of the training text that begin where a paragraph does, as prompts do."""

    def __init__(self, documents: list[Paragraphs], tokenizer: PreTrainedTokenizerFast) -> None:
        tokens: list[int] = []
        starts: list[int] = []
        for paragraphs in documents:
            for number, paragraph in enumerate(paragraphs):
                starts.append(len(tokens))
                last = number == len(paragraphs) - 1
                tokens += tokenizer.encode(paragraph if last else paragraph + "\n\n", add_special_tokens=False)
            tokens.append(tokenizer.eos_token_id)
        self._bos = int(tokenizer.bos_token_id)
        self._tokens = torch.tensor(tokens)
        self._starts = torch.tensor([start for start in starts if start + WINDOW <= len(tokens)])

    def batch(self) -> torch.Tensor:
        """Token ids int64 [BATCH, WINDOW]."""
        starts = self._starts[torch.randint(len(self._starts), (BATCH,))]
        rows = starts[:, None] + torch.arange(WINDOW - 1)
        return torch.cat([torch.full((BATCH, 1), self._bos), self._tokens[rows]], dim=1)


def train(model: LlamaForCausalLM, windows: Windows) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=TOP_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate)
    began = time.monotonic()
    model.train()
    for step in range(STEPS):
        ids = windows.batch()
        noisy = torch.where(torch.rand(ids.shape) < NOISE, torch.randint_like(ids, VOCABULARY), ids)
        loss = model(input_ids=noisy, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}/{STEPS}  loss {loss.item():.3f}  {time.monotonic() - began:.0f} s", flush=True)
    model.eval()


def _rate(step: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (STEPS - WARM_UP)))


def holdout_loss(model: Any, tokenizer: Any, documents: list[Paragraphs]) -> float:
    """Mean negative log-likelihood per token, in nats, over whole documents cut into stretches of `WINDOW` tokens."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for paragraphs in documents:
            ids = tokenizer("\n\n".join(paragraphs), return_tensors="pt", verbose=False).input_ids
            for stretch in ids.split(WINDOW, dim=1):
                predicted = stretch.shape[1] - 1
                if predicted > 0:
                    total += float(model(input_ids=stretch, labels=stretch).loss) * predicted
                    count += predicted
    return total / count


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=1, do_sample=False)
    model.bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    for file in directory.iterdir():
        file.chmod(0o644)  # the weights are written for their owner alone, but travel in a package


def main(directory: Path) -> None:
    torch.manual_seed(SEED)
    training, holdout = corpus()
    tokenizer = train_tokenizer(training)
    model = new_model()
    train(model, Windows(training, tokenizer))
    save(model, tokenizer, directory)

    loss = holdout_loss(model.float(), tokenizer, holdout)
    report = {
        "holdout_loss": round(loss, 3),
        "holdout_perplexity": round(math.exp(loss), 1),
        "uniform_perplexity": VOCABULARY,
        "parameters": model.num_parameters(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    (directory / "report.json").write_text(json.dumps(report) + "\n", encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tiny_gpt")
