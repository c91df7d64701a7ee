"""What these workflows are asked: the exchange types, with the name of a model. Which names are taken, the operator says."""

from __future__ import annotations

from workflows.remote.model_id import ModelId
from workflows.types.embed import Embed
from workflows.types.speech import Speak
from workflows.types.text import Generate

__all__ = ["AskEmbedding", "AskSpeech", "AskText"]


class AskText(Generate):
    """See `Generate`.

    Attributes:
        model: One of those that the operator allows; None is the first of them.
    """

    model: ModelId | None = None


class AskEmbedding(Embed):
    """See `Embed`; `model` as in `AskText`."""

    model: ModelId | None = None


class AskSpeech(Speak):
    """See `Speak`; `model` as in `AskText`."""

    model: ModelId | None = None
