"""What a task's input is to `huggingface_hub`'s client: the arguments of one of its methods. Sends nothing.

What the method has no word for is refused by its name, unless it would change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from workflows.errors import Unsupported
from workflows.types.embed import Embed
from workflows.types.exchange import Exchange
from workflows.types.pictures import RedrawPicture
from workflows.types.sounds import Transcribe
from workflows.types.speech import Speak
from workflows.types.tables import CompareTexts
from workflows.types.tasks import ClassifyTokens, Summarize, Translate

__all__ = ["Arguments", "comparison", "embedding", "finding", "rewriting", "said", "speaking", "target", "transcribing"]

Arguments = dict[str, Any]
_ABOUT_REQUESTS: Final = frozenset({"model"})


def said(*names: str) -> Callable[[Exchange], Arguments]:
    """Arguments that are called as the input's fields: all that must be given, and of these `names` what was given."""

    def arguments(asked: Exchange) -> Arguments:
        given: Arguments = {}
        for name, field in type(asked).model_fields.items():
            value = getattr(asked, name)
            if field.is_required():
                given[name] = value
            elif value != field.get_default(call_default_factory=True):
                if name not in names and name not in _ABOUT_REQUESTS:
                    raise _lacking(name)
                given[name] = value
        given.pop("model", None)
        return given

    return arguments


def embedding(asked: Embed) -> Arguments:
    """A text's; the other way to ask, by tokens, the API does not have."""
    if asked.text is None:
        raise Unsupported("tokens: the upstream takes texts only", param="tokens")
    given = said("text", "dimensions", "normalize", "prompt_name", "truncate", "truncation_direction")(asked)
    return {**given, "text": asked.text}


def comparison(asked: CompareTexts) -> Arguments:
    return {"sentence": asked.text, "other_sentences": asked.others}


def finding(asked: ClassifyTokens) -> Arguments:
    """Servers do not agree on how tokens are joined where nothing is said of it."""
    given = said("aggregation_strategy", "ignore_labels", "stride")(asked)
    return {**given, "aggregation_strategy": asked.aggregation_strategy}


def rewriting(asked: Summarize | Translate) -> Arguments:
    """Of summaries and translations: lengths and beams are `generate_parameters` there."""
    names = ("src_lang", "tgt_lang", "clean_up_tokenization_spaces", "truncate", "decoding")
    given = said(*names)(asked)
    decoding = asked.decoding.model_dump(exclude_none=True)
    given.pop("decoding", None)
    if decoding:
        given["generate_parameters"] = decoding
    truncate = given.pop("truncate", None)
    if truncate is not None:
        given["truncation"] = "longest_first" if truncate else "do_not_truncate"
    return given


def transcribing(asked: Transcribe) -> Arguments:
    more: Mapping[str, Any] = {} if asked.return_timestamps is None else {"return_timestamps": asked.return_timestamps}
    return {"audio": asked.audio, "extra_body": more or None}


def target(asked: RedrawPicture) -> Arguments:
    """A picture to change; its new size is one argument there."""
    given = said("prompt", "negative_prompt", "num_inference_steps", "guidance_scale", "width", "height")(asked)
    width, height = given.pop("width", None), given.pop("height", None)
    if (width is None) != (height is None):
        missing = "width" if width is None else "height"
        raise Unsupported(f"{missing}: the upstream takes width and height together", param=missing)
    if width is not None:
        given["target_size"] = {"width": width, "height": height}
    return given


def speaking(asked: Speak) -> Arguments:
    return {"text": asked.text}


def _lacking(name: str) -> Unsupported:
    return Unsupported(f"{name}: the upstream does not have this", param=name)
