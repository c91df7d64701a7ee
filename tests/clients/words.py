"""A small language of numbers: a workflow that counts, tells its tokens, and fails where the prompt says so."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from workflows.base import BaseInferenceWorkflow
from workflows.errors import BadOutput, InvalidInput, Overloaded, UpstreamFailed
from workflows.types import Generate, Generated, TextChunk, Usage
from workflows.types.text import Alternative, Token

__all__ = ["NUMBERS", "Words"]

NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_REFUSALS: Final = {
    "full": Overloaded("full"),
    "broken": BadOutput("broken"),
    "unreachable": UpstreamFailed("unreachable"),
    "long": InvalidInput("long"),
}


class Words(BaseInferenceWorkflow[Generate, Generated, TextChunk]):
    """Counts from the number after the prompt's last word to nine, and ends; each word is one token."""

    def do_preprocessing(self, input_data: Generate) -> Generate:
        prompt = input_data.messages[-1].content if input_data.messages else input_data.prompt
        if prompt in _REFUSALS:
            raise _REFUSALS[prompt]
        return input_data.model_copy(update={"prompt": prompt})

    def do_stream(self, preprocessed_data: Generate) -> Generator[TextChunk]:
        sampling = preprocessed_data.sampling
        words = (preprocessed_data.prompt or "").split()[-(preprocessed_data.truncate or 100) :]
        last = words[-1] if words else ""
        ahead = list(range(NUMBERS.index(last) + 1 if last in NUMBERS else 0, len(NUMBERS)))
        made, text = 0, ""
        while True:
            if last == "break" and made == 2:
                raise UpstreamFailed("it broke")
            number = ahead[made] if made < len(ahead) else None
            piece = "" if number is None else f" {NUMBERS[number]}"
            made, text = made + 1, text + piece
            stop = next((stop for stop in sampling.stop if stop in text), None)
            told = self._told(preprocessed_data, number, piece)
            if number is not None and stop is None and made != sampling.max_tokens:
                yield TextChunk(text=piece, tokens=told)
                continue
            yield TextChunk(
                text=piece if stop is None or preprocessed_data.include_stop else "",
                finish_reason="stop" if number is None or stop is not None else "length",
                usage=Usage(prompt_tokens=len(words), completion_tokens=made),
                stop_string=stop,
                seed=None if sampling.temperature == 0 else sampling.seed or 1,
                tokens=told,
            )
            return

    def _told(self, asked: Generate, number: int | None, piece: str) -> list[Token] | None:
        if asked.top_logprobs is None:
            return None
        if number is None:
            return [Token(id=99, text="</s>", logprob=-0.125, special=True)]
        top = [Alternative(id=other, text=f" {NUMBERS[other]}", logprob=-1.0) for other in range(asked.top_logprobs)]
        return [Token(id=number, text=piece, logprob=-0.25, top=top)]
