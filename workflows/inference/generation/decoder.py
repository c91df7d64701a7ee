"""Token ids to text, as a transformers tokenizer has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TokenizerDecoder"]


class TokenizerDecoder:
    """See `Decoder`.

    Args:
        transformers: The module.
    """

    def __init__(self, transformers: Any, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        # Once for every token, so what stands around the Rust decoder is left out where it would change nothing.
        usual = transformers.TokenizersBackend
        same = all(getattr(type(tokenizer), name) is getattr(usual, name, None) for name in ("decode", "_decode"))
        self._backend = tokenizer.backend_tokenizer if same else None

    def text(self, tokens: Sequence[int]) -> str:
        return self._decoded(tokens, skip_special=True)

    def shown(self, token: int) -> str:
        return self._decoded([token], skip_special=False)

    def is_special(self, token: int) -> bool:
        return token in self._special

    def _decoded(self, tokens: Sequence[int], *, skip_special: bool) -> str:
        text: str
        if self._backend is not None:
            text = self._backend.decode(tokens, skip_special_tokens=skip_special)
        else:
            text = self._tokenizer.decode(tokens, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
        return text
