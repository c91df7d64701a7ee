"""Kind `embed`: a text's place in a vector space."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from workflows.types.exchange import Exchange
from workflows.types.tensors import Vector
from workflows.types.text import MAX_TOKENS, TokenIds

__all__ = ["Embed", "Embedding"]


class Embed(Exchange):
    """A text to place in a vector space, or the same as the model's own `tokens`: exactly one of the two.

    Attributes:
        tokens: Ids as the model's own tokenizer makes them, with or without the tokens that mark beginning and end.
        dimensions: Give only so many, at length 1, of a model whose vectors may be cut; None gives all.
        normalize: Give a vector of length 1, or as long as the model makes it; None is as the model was trained.
        prompt_name: Which of the model's own prompts stands before the text; None is the one that it has by default.
        truncate: Cut a text that is too long; None is as the workflow is configured.
        truncation_direction: Which end of it is cut off.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a text"}]})
    kind: ClassVar[str] = "embed"
    text: str | None = None
    tokens: TokenIds | None = None
    dimensions: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    normalize: bool | None = None
    prompt_name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] = "right"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.text is None) == (self.tokens is None):
            raise ValueError("give either text or tokens")
        if self.tokens is not None and self.prompt_name is not None:
            raise ValueError("prompt_name needs a text")
        return self


class Embedding(Exchange):
    """Where the text landed: `embedding` is float32 of shape (dimensions,); `tokens` counts what the model read."""

    kind: ClassVar[str] = "embed"
    embedding: Vector
    tokens: int = Field(ge=0)
