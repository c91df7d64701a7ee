"""What `huggingface_hub`'s client gives for each task, as our own types. Believes nothing of it.

Its objects have whatever the server sent; what does not fit raises ValueError (pydantic's among them), TypeError, KeyError
or AttributeError, which the caller of these functions takes for an answer that cannot be read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from workflows.types.embed import Embed, Embedding
from workflows.types.exchange import Exchange
from workflows.types.media import media_type
from workflows.types.pictures import (
    Description,
    DocumentAnswer,
    DocumentAnswers,
    Objects,
    Picture,
    PictureAnswer,
    PictureAnswers,
    Segment,
    Segments,
)
from workflows.types.sounds import Sound, Sounds, Spoken, Transcript
from workflows.types.tables import ClassifyRows, CompareTexts, RowClasses, Similarities, TableAnswer
from workflows.types.tasks import Answer, Answers, Entities, Entity, Filled, Filling, Label, Labels, Rewritten

__all__ = [
    "answers",
    "classes",
    "compared",
    "description",
    "document_answers",
    "embedded",
    "entities",
    "filled",
    "labels",
    "objects",
    "picture",
    "picture_answers",
    "rewritten",
    "segments",
    "sounds",
    "table_answer",
    "transcript",
]


# ---- texts -------------------------------------------------------------------------------------------------------------


def labels(asked: Exchange, given: Sequence[Any]) -> Labels:
    found = [Label(label=each.label, score=each.score) for each in given]
    return Labels(labels=sorted(found, key=lambda each: -each.score))


def entities(asked: Exchange, given: Sequence[Any]) -> Entities:
    found = []
    for each in given:
        label = each.entity_group if each.entity is None else each.entity
        index = each.get("index") if each.entity is not None else None
        place = {"word": each.word, "start": each.start, "end": each.end, "index": index}
        found.append(Entity(label=label, score=each.score, **place))
    return Entities(entities=found)


def filled(asked: Exchange, given: Sequence[Any]) -> Filled:
    """Of one mask there is a list, of several a list of lists."""
    masks = given if given and isinstance(given[0], list) else [given]
    return Filled(
        masks=[
            [
                Filling(score=each.score, token=each.token, token_str=each.token_str, sequence=each.sequence)
                for each in mask
            ]
            for mask in masks
        ]
    )


def answers(asked: Exchange, given: Any) -> Answers:
    """A single answer comes by itself."""
    several = given if isinstance(given, list) else [given]
    found = [Answer(answer=each.answer, score=each.score, start=each.start, end=each.end) for each in several]
    if not found:
        raise ValueError("no answer")
    return Answers(answers=found)


def rewritten(asked: Exchange, given: Any) -> Rewritten:
    return Rewritten(text=given.get("summary_text", given.get("translation_text")))


def embedded(asked: Embed, given: Any, tokens: int) -> Embedding:
    """The vector of one text, which may stand in a list of one. Vectors of tokens are refused: which of them, or what mean
    of them, is the text's, only its model knows."""
    vector = np.asarray(given, np.float32)
    if vector.ndim == 2 and len(vector) == 1:
        vector = vector[0]
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        raise ValueError("no vector of a text")
    if asked.dimensions is not None and len(vector) != asked.dimensions:
        raise ValueError("a vector of another length than was asked for")
    return Embedding(embedding=vector, tokens=tokens)


def compared(asked: CompareTexts, given: Any) -> Similarities:
    if not isinstance(given, list) or len(given) != len(asked.others):
        raise ValueError("not one number for each text")
    return Similarities(similarities=given)


# ---- tables ------------------------------------------------------------------------------------------------------------


def table_answer(asked: Exchange, given: Any) -> TableAnswer:
    aggregator = given.aggregator or None
    return TableAnswer(
        answer=given.answer, cells=given.cells or [], coordinates=given.coordinates or [], aggregator=aggregator
    )


def classes(asked: ClassifyRows, given: Any) -> RowClasses:
    rows = len(next(iter(asked.table.values())))
    if not isinstance(given, list) or len(given) != rows:
        raise ValueError("not one class for each row")
    return RowClasses(classes=given)


# ---- pictures ----------------------------------------------------------------------------------------------------------


def objects(asked: Exchange, given: Sequence[Any]) -> Objects:
    found = []
    for each in given:
        box = {edge: getattr(each.box, edge) for edge in ("xmin", "ymin", "xmax", "ymax")}
        found.append({"label": each.label, "score": each.score, "box": box})
    return Objects.model_validate({"objects": found})


def segments(asked: Exchange, given: bytes) -> Segments:
    parts = json.loads(given)
    return Segments(
        segments=[Segment(label=part["label"], mask=part["mask"], score=part.get("score")) for part in parts]
    )


def description(asked: Exchange, given: Any) -> Description:
    text = given.generated_text
    return Description(text=given.get("image_to_text_output_generated_text") if text is None else text)


def picture_answers(asked: Exchange, given: Sequence[Any]) -> PictureAnswers:
    return PictureAnswers(answers=[PictureAnswer(answer=each.answer, score=each.score) for each in given])


def document_answers(asked: Exchange, given: Sequence[Any]) -> DocumentAnswers:
    return DocumentAnswers(
        answers=[DocumentAnswer(answer=each.answer, score=each.score, start=each.start, end=each.end) for each in given]
    )


def picture(asked: Exchange, given: bytes) -> Picture:
    kind = media_type(given)
    if kind is None or not kind.startswith("image/"):
        raise ValueError("no picture")
    return Picture(image=given, media_type=kind)


# ---- sounds ------------------------------------------------------------------------------------------------------------


def transcript(asked: Exchange, given: Any) -> Transcript:
    parts = None
    if given.chunks is not None:
        parts = [Spoken(text=each.text, start=each.timestamp[0], end=each.timestamp[1]) for each in given.chunks]
    return Transcript(text=given.text, parts=parts)


def sounds(asked: Exchange, given: Sequence[Any]) -> Sounds:
    found = []
    for each in given:
        audio = each.blob if isinstance(each.blob, bytes) else base64.b64decode(each.blob, validate=True)
        kind = media_type(audio)
        if kind is None or not kind.startswith("audio/"):
            raise ValueError("no sound")
        found.append(Sound(label=each.label, audio=audio, media_type=kind))
    return Sounds(sounds=found)
