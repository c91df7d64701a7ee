"""What a request gives a model to read, as token ids. Knows the tokenizer and the chat template, no engine."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from workflows.errors import ContextTooLong, InvalidInput, Unsupported
from workflows.inference.local_transformer import check_text, check_tokens
from workflows.types import Generate, Message

__all__ = ["Prompt", "Prompts"]

# A text that is cut before it is tokenized may begin within a word: so much more of it is kept.
_LONGEST_WORD: Final = 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens to read, and the `param` of the request that they come from."""

    tokens: list[int]
    param: str


class Prompts:
    """Reads requests. Calls to `read` do not disturb each other, whatever threads they are on.

    Args:
        vocabulary: How many tokens the model knows.
        context: Prompt and answer together are at most this long, in tokens.
        max_token_chars: See `LocalTransformer`.
    """

    def __init__(self, tokenizer: Any, *, vocabulary: int, context: int, max_token_chars: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._context = context
        self._max_token_chars = max_token_chars

    @staticmethod
    def size(asked: Generate) -> int:
        """About how many characters are to be read: what decides whether it may take long."""
        if asked.messages is not None:
            return sum(len(message.text) for message in asked.messages)
        return len(asked.prompt or asked.prompt_tokens or ())

    def read(self, asked: Generate) -> Prompt:
        """Raises ContextTooLong for a prompt that leaves no room for an answer, InvalidInput for what is none, and
        Unsupported without template, and for what no local model here can do.
        """
        _check_asked(asked)
        if asked.messages is not None:
            text = self._conversation(asked.messages, asked.truncate)
            prompt = self._tokens(text, "messages", asked.truncate, with_specials=False)
        elif asked.prompt_tokens is not None:
            prompt = Prompt(asked.prompt_tokens, "prompt_tokens")
        else:
            assert asked.prompt is not None  # Generate holds exactly one of the three
            prompt = self._tokens(asked.prompt, "prompt", asked.truncate, with_specials=True)
        check_tokens(prompt.tokens, self._vocabulary, prompt.param)
        tokens = prompt.tokens if asked.truncate is None else prompt.tokens[-asked.truncate :]
        if len(tokens) >= self._context:
            raise ContextTooLong(
                f"context length exceeded: {len(tokens)} tokens, and fewer than {self._context} fit", param=prompt.param
            )
        return Prompt(tokens, prompt.param)

    def _begin(self, param: str) -> list[int]:
        begin = self._tokenizer.bos_token_id
        if begin is None:
            raise InvalidInput(
                "the prompt is empty, and this model needs at least one token to start from", param=param
            )
        return [begin]

    def _tokens(self, text: str, param: str, truncate: int | None, *, with_specials: bool) -> Prompt:
        if truncate is not None and truncate < self._context:
            text = text[-(truncate * self._max_token_chars + _LONGEST_WORD) :]
            check_text(text, param, len(text))
        else:
            check_text(text, param, self._context * self._max_token_chars)
        encoded = self._tokenizer(text, add_special_tokens=with_specials, return_attention_mask=False, verbose=False)
        return Prompt(list(encoded["input_ids"]) or self._begin(param), param)

    def _conversation(self, messages: list[Message], truncate: int | None) -> str:
        """The conversation as the text that the model was trained to continue. The template runs in jinja's sandbox."""
        if not self._tokenizer.chat_template:
            raise Unsupported("this model has no chat template: send a prompt instead of messages", param="messages")
        turns = [_turn(message) for message in messages]
        chars = sum(len(turn["content"]) for turn in turns)
        if truncate is None and chars > self._context * self._max_token_chars:
            raise ContextTooLong(param="messages")
        text: str | None = None
        # Templates raise what they like, for example for two user turns in a row, and may quote them.
        with suppress(Exception):
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        if not isinstance(text, str):
            raise InvalidInput("the model's chat template does not take this conversation", param="messages")
        return text


def _check_asked(asked: Generate) -> None:
    """Raises Unsupported for what would be lost silently: templates leave out what they do not know."""
    if asked.tools is not None:
        raise Unsupported("tools: this model calls no tools", param="tools")
    if asked.response_format is not None and asked.response_format.type != "text":
        raise Unsupported("response_format: this model writes text of any form", param="response_format")
    for index, message in enumerate(asked.messages or ()):
        if message.tool_calls is not None:
            param = f"messages.{index}.tool_calls"
            raise Unsupported(f"{param}: this model calls no tools", param=param)
        if message.images:
            param = f"messages.{index}.content"
            raise Unsupported(f"{param}: this model reads no images", param=param)


def _turn(message: Message) -> dict[str, str]:
    """As chat templates take it."""
    turn = {"role": message.role, "content": message.text}
    return turn if message.tool_call_id is None else {**turn, "tool_call_id": message.tool_call_id}
