"""Token ids to text, as a transformers tokenizer has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TokenizerDecoder"]


class TokenizerDecoder:
    """See `Decoder`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)

    def text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def shown(self, token: int) -> str:
        text: str = self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def is_special(self, token: int) -> bool:
        return token in self._special
