"""Tokens of requests and answers where a provider does not tell them: counted with a tokenizer, or else guessed.

The module `transformers` is passed in, since importing it belongs into `do_setup`. No weights are opened, and no code of
the tokenizer's own is run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from workflows.errors import WorkflowError
from workflows.models.finding import resolve_model
from workflows.models.sources import ModelSources
from workflows.types import Generate, Usage

__all__ = ["TokenCounter"]

# What is downloaded of a model of which only the tokenizer is wanted.
_TOKENIZER_FILES: Final = ("*.json", "*.txt", "*.model", "*.jinja")

T = TypeVar("T")


def _letters() -> list[str]:
    """How GPT-2's vocabulary writes each byte: itself where it is to be seen, the others as the letters from U+0100 on.

    After `bytes_to_unicode` of https://github.com/openai/gpt-2/blob/master/src/encoder.py.
    """
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(others)) for byte in range(0x100)]


_LETTERS: Final = _letters()

_SMALL_CHARS: Final = 8192  # shorter texts are counted at once: a thread costs more than that
_GUESSED_BYTES: Final = 4  # of a token, in English and in most programs
_HALF: Final = "\ufffd"  # of a character that a token has only a part of
_GUESSED_TURN: Final = 4  # tokens that a chat template lays around a message


class TokenCounter:
    """Counts what a provider does not tell. Where there is no tokenizer, or it has no chat template for a conversation,
    the count is a guess and `Usage.estimated` says so.

    Args:
        tokenizer: As `open` gives it; None to guess.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def found(
        cls, transformers: Any, tokenizer: str | None, root: str | None, sources: ModelSources | str | None
    ) -> TokenCounter:
        """With the tokenizer that an operator names; see `workflows.models.finding.resolve_model`. None is to guess.

        Blocks. Raises as that and `open` do.
        """
        if tokenizer is None:
            return cls()
        return cls.open(transformers, resolve_model(tokenizer, root, sources, _TOKENIZER_FILES))

    @classmethod
    def open(cls, transformers: Any, directory: Path) -> TokenCounter:
        """Blocks. Raises WorkflowError, for the operator, where there is no tokenizer that can be opened."""
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
        except Exception as cause:
            raise WorkflowError("transformers cannot open this tokenizer; the log says why") from cause
        return cls(tokenizer)

    async def usage(self, asked: Generate, answer: str, *, more: bool = False) -> Usage:
        """Of one answer: the tokens of its text, without one that may have ended it.

        Args:
            more: Whether the answer holds something that is not in this text, as a call of a tool.
        """
        prompt, counted = await self.prompt(asked)
        guessed = more or not counted or self._tokenizer is None
        return Usage(
            prompt_tokens=prompt, completion_tokens=await self.text(answer), estimated=True if guessed else None
        )

    async def prompt(self, asked: Generate) -> tuple[int, bool]:
        """How many tokens are to be read, and whether they were counted: images, tools and what a model is told about
        them can only be guessed."""
        if asked.prompt_tokens is not None:
            return len(asked.prompt_tokens), True
        if asked.messages is None:
            return await self.text(asked.prompt or "", specials=True), self._tokenizer is not None
        plain = asked.tools is None and not any(message.images or message.tool_calls for message in asked.messages)
        texts = [message.text for message in asked.messages]
        if plain:
            messages = [{"role": message.role, "content": message.text} for message in asked.messages]
            counted = await _somewhere(sum(map(len, texts)), self._conversation, messages)
            if counted is not None:
                return counted, True
        counts = [await self.text(text) for text in texts]
        return sum(counts) + _GUESSED_TURN * (len(texts) + 1), False

    async def text(self, text: str, *, specials: bool = False) -> int:
        """How many tokens a text has; `specials` adds those that the tokenizer lays around a prompt."""
        return await _somewhere(len(text), self._text, text, specials)

    def id_of(self, token: str, raw: bytes | None = None) -> int | None:
        """Of one token, by its text, or where that is half a character by its bytes.

        None without a tokenizer, and for what is none of its tokens by itself.
        """
        if self._tokenizer is None:
            return None
        if _HALF in token:
            return None if raw is None else self._id_of_bytes(raw)
        found: list[int] = self._tokenizer(token, add_special_tokens=False, verbose=False)["input_ids"]
        return found[0] if len(found) == 1 else None

    def _id_of_bytes(self, raw: bytes) -> int | None:
        """As vocabularies of bytes write them: in GPT-2's letters, or a single byte by its number."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        found = vocabulary.get("".join(_LETTERS[byte] for byte in raw))
        return vocabulary.get(f"<0x{raw[0]:02X}>") if found is None and len(raw) == 1 else found

    def _text(self, text: str, specials: bool) -> int:
        if self._tokenizer is None:
            return -(-len(text.encode(errors="replace")) // _GUESSED_BYTES)
        return len(self._tokenizer(text, add_special_tokens=specials, verbose=False)["input_ids"])

    def _conversation(self, messages: list[dict[str, Any]]) -> int | None:
        """None where there is no template, or it does not take these messages: templates raise what they like."""
        if self._tokenizer is None or not self._tokenizer.chat_template:
            return None
        with suppress(Exception):
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return self._text(text, specials=False)
        return None


async def _somewhere(chars: int, work: Callable[..., T], *args: Any) -> T:
    """Here, or on a thread where it would hold up everybody else."""
    return work(*args) if chars <= _SMALL_CHARS else await asyncio.to_thread(work, *args)
