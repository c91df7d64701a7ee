"""A request as this protocol writes it, and what it asks of a workflow. Knows no answers and no routes.

Parameters are those of TGI, by name; `null` is the same as nothing. What has no counterpart here is refused by name, and
so is what nobody knows: nothing that is asked for is ignored.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from workflows.card import Card
from workflows.errors import InvalidInput, Unsupported
from workflows.types.text import MAX_ALTERNATIVES, MAX_STOP_STRINGS, MAX_TOKENS

__all__ = ["NO_TOKENS", "Asked", "Parameters", "check_generates", "read_request"]

Text = Annotated[str, Field(min_length=1, max_length=256)]


def _false(value: bool) -> bool:
    if value:
        raise ValueError
    return value


# `Literal[False]` would take 0 as well.
No = Annotated[bool, AfterValidator(_false), WithJsonSchema({"const": False})]


class Parameters(BaseModel):
    """What may be said about one answer. The types of what is not here allow nothing but its absence.

    Attributes:
        max_new_tokens: `null` is as many as there is room for.
        do_sample: Draw tokens; so does any parameter that makes a difference only where they are drawn.
        details: Tell tokens and why the answer ended.
        return_full_text: Begin with what was sent.
        truncate: Read the last so many tokens only.
        top_n_tokens: Tell so many of the most probable tokens in the place of each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
    max_new_tokens: int | None = Field(default=100, ge=1, le=MAX_TOKENS)
    do_sample: bool | None = None
    temperature: float | None = Field(default=None, gt=0.0, le=2.0)
    top_k: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    top_p: float | None = Field(default=None, gt=0.0, lt=1.0)
    typical_p: float | None = Field(default=None, gt=0.0, lt=1.0)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100.0)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    stop: list[Text] | None = Field(default=None, max_length=MAX_STOP_STRINGS)
    return_full_text: bool | None = None
    truncate: int | None = Field(default=None, ge=1, le=MAX_TOKENS)
    details: bool | None = None
    top_n_tokens: int | None = Field(default=None, ge=0, le=MAX_ALTERNATIVES)
    best_of: int | None = Field(default=None, ge=1, le=1)
    watermark: No | None = None
    decoder_input_details: No | None = None
    grammar: None = None
    adapter_id: None = None

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn; else each is the most probable one. A temperature of 1 alone changes nothing."""
        shaped = self.top_k is not None or self.top_p is not None or self.typical_p is not None
        return self.do_sample is True or shaped or self.temperature not in (None, 1.0)


_LACKING: Final = frozenset({"best_of", "watermark", "decoder_input_details", "grammar", "adapter_id"})
NO_TOKENS: Final = "this workflow does not tell its tokens, which details are made of"
_TOP_LEVEL: Final = frozenset({"inputs", "parameters", "stream", "add_special_tokens"})
# What is called otherwise in the exchange types, or is none of their sampling, is put in its place by `input_data`.
_SAMPLING: Final = ("top_k", "top_p", "typical_p", "repetition_penalty", "frequency_penalty", "seed", "stop")


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request.

    Attributes:
        stream: What the body says; None where it says nothing.
        tells_tokens: Whether the workflow can tell its tokens; one that cannot is streamed in pieces of text.
    """

    inputs: str
    parameters: Parameters
    stream: bool | None
    tells_tokens: bool = True

    def input_data(self, *, streaming: bool) -> dict[str, Any]:
        """The plain input of the workflow, with nothing in it that would be so anyway.

        The text that was sent is put before the answer here and not by the workflow, which may read less of it.
        """
        said = self.parameters
        sampling = {name: value for name in _SAMPLING if (value := getattr(said, name)) not in (None, [])}
        sampling["max_tokens"] = said.max_new_tokens
        sampling["temperature"] = (said.temperature or 1.0) if said.draws else 0.0
        asked: dict[str, Any] = {"prompt": self.inputs, "sampling": sampling}
        if said.stop:
            asked["include_stop"] = True
        if said.truncate is not None:
            asked["truncate"] = said.truncate
        if said.details or (streaming and (self.tells_tokens or said.top_n_tokens)):
            asked["top_logprobs"] = said.top_n_tokens or 0
        return asked


def check_generates(card: Card) -> None:
    """Raises Unsupported for workflows that this protocol has no words for."""
    if card.kind != "generate":
        raise Unsupported(f"this workflow takes {card.kind} inputs, and generates no text")


def read_request(card: Card, body: Any) -> Asked:
    """The request in a body, for this workflow. Raises InvalidInput."""
    check_generates(card)
    fields = _object(body, "the body", _TOP_LEVEL)
    inputs = fields.get("inputs")
    if not isinstance(inputs, str) or not inputs:
        raise InvalidInput("inputs must be a string with something in it", param="inputs")
    stream = fields.get("stream")
    if stream is not None and type(stream) is not bool:
        raise InvalidInput("stream must be true or false", param="stream")
    if fields.get("add_special_tokens") not in (None, True):
        raise Unsupported("special tokens are always added as the model wants them", param="add_special_tokens")
    asked = Asked(inputs, _parameters(fields.get("parameters")), stream, card.tells_tokens)
    if asked.parameters.details and not card.tells_tokens:
        raise Unsupported(NO_TOKENS, param="details")
    return asked


def _parameters(value: Any) -> Parameters:
    fields = {} if value is None else _object(value, "parameters", Parameters.model_fields)
    try:
        return Parameters.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])  # one of ours, whatever was sent
    if name in _LACKING:
        raise Unsupported(f"the parameter {name} is not supported", param=name)
    raise InvalidInput(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", param=name)


def _object(value: Any, what: str, known: Container[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object", param=None if what == "the body" else what)
    for field in value:
        if field not in known:
            raise Unsupported(f"{what}: unknown field {field[:64]!r}", param=field[:64])
    return value
