"""What a request asks beside its text, in the words of one provider; what that has not is refused by its name. Sends nothing.

What a caller has not said is not sent, so that the provider's own default holds; but an answer's length, which has a default
of ours, because it costs money.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from workflows.errors import InvalidInput, Unsupported
from workflows.inference.css.providers import ParameterName, Takes
from workflows.types.conversation import Message
from workflows.types.embed import Embed
from workflows.types.exchange import Exchange
from workflows.types.text import Generate, Sampling

__all__ = ["check_embed", "check_generate", "most_tokens", "ours_for", "sampling_of"]

_SAMPLING: Final = tuple(name for name in Sampling.model_fields if name != "max_tokens")
"""What is said of how tokens are chosen; of their number, see `most_tokens`."""
_CONTENTS: Final = frozenset({"messages", "prompt", "input"})
"""What a model is to read or say, as providers call it."""
_ASKED: Final = ("messages", "prompt", "prompt_tokens", "text", "tokens")
"""The same, as callers do."""
_NEUTRAL: Final = {name: field.get_default(call_default_factory=True) for name, field in Sampling.model_fields.items()}


def sampling_of(asked: Generate, takes: Takes, provider: str) -> dict[str, Any]:
    """What was said about how tokens are chosen, but for their number. Raises Unsupported and InvalidInput."""
    sampling, said = asked.sampling, {}
    for name in _SAMPLING:
        value = getattr(sampling, name)
        if name not in sampling.model_fields_set or value is None or value in ([], {}):
            continue
        if name not in takes.parameters:
            if value != _NEUTRAL[name]:
                raise _lacks(provider, f"sampling.{name}")
            continue
        wire = takes.parameters[name]
        if wire is not None:
            said[wire] = value
    if len(sampling.stop) > takes.most_stops:
        raise _most(provider, "sampling.stop", f"{takes.most_stops} stop strings")
    if sampling.temperature > takes.max_temperature and takes.parameters.get("temperature") is not None:
        raise _most(provider, "sampling.temperature", f"{takes.max_temperature:g}")
    return said


def most_tokens(asked: Generate, most: int | None) -> int | None:
    """An answer's longest: what was asked, and no more than the operator lets it be."""
    lengths = [length for length in (asked.sampling.max_tokens, most) if length is not None]
    return min(lengths, default=None)


def check_generate(asked: Generate, takes: Takes, provider: str) -> None:
    """Raises Unsupported and InvalidInput for what this endpoint has not, but for what `sampling_of` looks at."""
    for name in _others(asked):
        if name not in takes.parameters:
            raise _lacks(provider, name)
    if asked.top_logprobs is not None and asked.top_logprobs > takes.most_logprobs:
        raise _most(provider, "top_logprobs", f"{takes.most_logprobs}")
    # Without stop strings there is nothing to include; and who tells which one it was, lets us put it back.
    if asked.include_stop and asked.sampling.stop and not (takes.tells_stop or "include_stop" in takes.parameters):
        raise _lacks(provider, "include_stop")
    form = asked.response_format
    if form is not None and form.type != "text" and form.type not in takes.formats:
        raise Unsupported(f"response_format: {provider} has no {form.type}", param="response_format")
    for index, message in enumerate(asked.messages or ()):
        _check_images(index, message, takes, provider)


def check_embed(asked: Embed, takes: Takes, provider: str) -> None:
    """Raises Unsupported for what this endpoint has not. Vectors are brought to length 1 here, if that is asked for."""
    refused: Mapping[str, bool] = {
        "tokens": asked.tokens is not None and "tokens" not in takes.parameters,
        "dimensions": asked.dimensions is not None and "dimensions" not in takes.parameters,
        "prompt_name": asked.prompt_name is not None,
        "truncate": asked.truncate is True and "truncate" not in takes.parameters,
        "truncation_direction": asked.truncation_direction != "right",
    }
    for name, lacking in refused.items():
        if lacking:
            raise _lacks(provider, name)


def ours_for(wire: str | None, asked: Exchange, takes: Takes) -> str | None:
    """What a caller knows the field by that a provider complains of; None for one that no caller knows.

    Providers may write there what they like, so that none of it is repeated: what is left is the name of a field of ours.
    """
    root = re.split(r"[.\[]", wire or "", maxsplit=1)[0]
    if root in _CONTENTS:
        return next((name for name in _ASKED if getattr(asked, name, None) is not None), None)
    ours = next((name for name, theirs in takes.parameters.items() if theirs == root), None)
    if ours is None:
        return root if root in type(asked).model_fields else None
    return f"sampling.{ours}" if ours == "max_tokens" or ours in _SAMPLING else ours


def _others(asked: Generate) -> Iterator[ParameterName]:
    """What is asked beside text and sampling."""
    if asked.prompt_tokens is not None:
        yield "prompt_tokens"
    if asked.truncate is not None:
        yield "truncate"
    if asked.top_logprobs is not None:
        yield "top_logprobs"
    if asked.tools is not None:
        yield "tools"
    if asked.parallel_tool_calls is not None:
        yield "parallel_tool_calls"
    if asked.response_format is not None and asked.response_format.type != "text":
        yield "response_format"


def _check_images(index: int, message: Message, takes: Takes, provider: str) -> None:
    for image in message.images:
        if image.type not in takes.images:
            what = "images by their address" if takes.images else "images"
            param = f"messages.{index}.content"
            raise Unsupported(f"{param}: {provider} takes no {what}", param=param)


def _lacks(provider: str, param: str) -> Unsupported:
    return Unsupported(f"{param}: {provider} does not have this", param=param)


def _most(provider: str, param: str, most: str) -> InvalidInput:
    return InvalidInput(f"{param}: {provider} takes at most {most}", param=param)
