"""How each task is asked and answered in this protocol, from and to the exchange types of kind `task`.

A task has as many parameters as its exchange type has fields; those that are called otherwise here are named below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from deployments.router.protocols.huggingface.requests import Asked, object_of
from workflows.card import Card
from workflows.errors import BadOutput, InvalidInput, Unsupported
from workflows.types.exchange import Exchange
from workflows.types.tasks import (
    AnswerQuestion,
    ClassifyText,
    ClassifyTokens,
    ClassifyZeroShot,
    Decoding,
    FillMask,
    Summarize,
    Translate,
)

__all__ = ["FORMS", "TRUNCATION", "Form", "form_of"]

TRUNCATION: Final[Mapping[str | bool, bool]] = {
    True: True,
    False: False,
    "do_not_truncate": False,
    "longest_first": True,
    "only_first": True,
}
"""Whether a text that is too long is cut. What is called after the second of two texts has no meaning here."""
_LENGTHS: Final = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
"""Lengths that count the token that answers begin with."""


@dataclass(frozen=True, slots=True)
class Form:
    """One task.

    Attributes:
        asks: What the workflow takes.
        sources: The fields that come as `inputs`: the only one as a string, several as an object.
        optional: Those of them that may be missing; then the others may come as a string.
        told: What one output is here, given the parameters.
        always_list: Whether one answer comes in a list as well, as the first of all.
    """

    asks: type[Exchange]
    told: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
    sources: Sequence[str] = ("text",)
    optional: Sequence[str] = ()
    always_list: bool = False
    parameters: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        named = {"truncate": "truncation", "decoding": "generate_parameters"}
        fields = set(self.asks.model_fields) - set(self.sources)
        object.__setattr__(self, "parameters", frozenset(named.get(name, name) for name in fields))

    def inputs(self, asked: Asked, most: int) -> list[dict[str, Any]]:
        """The workflow's plain inputs, one for each of the request's. Raises InvalidInput; it checks values by itself."""
        asked.refuse_stream()
        parameters = self._parameters(asked.parameters)
        given = asked.inputs if isinstance(asked.inputs, list) else [asked.inputs]
        if not 0 < len(given) <= most:
            raise InvalidInput(f"inputs: 1 to {most} are taken at once", param="inputs")
        return [self._source(source) | parameters for source in given]

    def answer(self, asked: Asked, outputs: Sequence[Any]) -> Any:
        """Raises BadOutput for what is no answer of this task."""
        try:
            answers = [self.told(output, asked.parameters) for output in outputs]
        except (KeyError, TypeError, IndexError) as cause:
            raise BadOutput("the workflow gave no answer of its task") from cause
        return answers if self.always_list or isinstance(asked.inputs, list) else answers[0]

    def _source(self, source: Any) -> dict[str, Any]:
        required = [name for name in self.sources if name not in self.optional]
        if isinstance(source, str) and len(required) == 1:
            return {required[0]: source}
        if isinstance(source, dict) and len(self.sources) > 1:
            said = object_of(source, "inputs")
            for name in said:
                if name not in self.sources:
                    raise Unsupported(f"inputs have an unknown field {name[:64]!r}", param="inputs")
            if all(name in said for name in required) and all(isinstance(text, str) for text in said.values()):
                return dict(said)
        forms = ["a string"] if len(required) == 1 else []
        if len(self.sources) > 1:
            forms.append(f"an object of the strings {' and '.join(self.sources)}")
        raise InvalidInput(f"inputs must be {' or '.join(forms)}, or a list of them", param="inputs")

    def _parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for name, value in given.items():
            if name not in self.parameters:
                raise Unsupported(f"the parameter {name[:64]!r} is not supported for this task", param=name[:64])
            if name == "truncation":
                plain["truncate"] = _truncate(value)
            elif name == "generate_parameters":
                plain["decoding"] = _decoding(value)
            else:
                plain[name] = value
        return plain


def form_of(card: Card) -> Form:
    """Raises Unsupported for a workflow that this protocol has no words for."""
    form = FORMS.get(card.task or "")
    if card.kind != "task" or form is None:
        raise Unsupported(f"this workflow takes {card.task or card.kind} inputs, which this protocol has no words for")
    return form


def _truncate(value: Any) -> bool:
    if not isinstance(value, bool | str) or value not in TRUNCATION:
        allowed = ", ".join(str(choice) for choice in TRUNCATION if isinstance(choice, str))
        raise InvalidInput(f"truncation must be true, false, or one of {allowed}", param="truncation")
    return TRUNCATION[value]


def _decoding(value: Any) -> dict[str, Any]:
    """How text is made, as the exchange type says it."""
    decoding: dict[str, Any] = {}
    for name, said in object_of(value, "generate_parameters").items():
        ours = _LENGTHS.get(name, name)
        if name == "do_sample" and said is False:
            continue
        if ours not in Decoding.model_fields:
            raise Unsupported(f"generate_parameters: {name[:64]!r} is not supported", param=name[:64])
        if name in _LENGTHS and (type(said) is not int or said < 1):
            raise InvalidInput(f"generate_parameters: {name} must be a positive number", param=name)
        if ours in decoding:
            raise InvalidInput(f"generate_parameters: {name} and {ours} say the same", param=name)
        decoding[ours] = max(said - 1, int(name == "max_length")) if name in _LENGTHS else said
    return decoding


# ---- answers -----------------------------------------------------------------------------------------------------------


def _labels(output: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    return [{"label": each["label"], "score": each["score"]} for each in output["labels"]]


def _entities(output: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    said = []
    for each in output["entities"]:
        place = {"word": each["word"], "start": each["start"], "end": each["end"], "score": each["score"]}
        if each["index"] is None:
            said.append({"entity_group": each["label"], **place})
        else:
            said.append({"entity": each["label"], "index": each["index"], **place})
    return said


def _fillings(output: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    """Of one mask a list, of several a list of lists."""
    masks = output["masks"]
    return masks[0] if len(masks) == 1 else masks


def _answers(output: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    """One by itself, unless several are asked for."""
    answers = output["answers"]
    return answers if parameters.get("top_k", 1) != 1 else answers[0]


def _summary(output: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    return {"summary_text": output["text"]}


def _translation(output: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
    return {"translation_text": output["text"]}


FORMS: Final[Mapping[str, Form]] = {
    "fill-mask": Form(FillMask, _fillings),
    "question-answering": Form(AnswerQuestion, _answers, ("question", "context")),
    "summarization": Form(Summarize, _summary, always_list=True),
    "text-classification": Form(ClassifyText, _labels, ("text", "text_pair"), ("text_pair",), always_list=True),
    "token-classification": Form(ClassifyTokens, _entities),
    "translation": Form(Translate, _translation, always_list=True),
    "zero-shot-classification": Form(ClassifyZeroShot, _labels),
}
