"""The tasks that a model of the hub may have: what is asked, by which method of the client, and what is answered.

Text that is made has a module of its own, which streams and counts tokens (`generation`), and so has speech (`spoken`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from workflows.inference.hf_client import answering, asking
from workflows.inference.hf_client.asking import Arguments, said
from workflows.types import pictures, sounds, tables, tasks
from workflows.types.embed import Embed, Embedding
from workflows.types.exchange import Exchange
from workflows.types.speech import Speak, Speech
from workflows.types.text import Generate, Generated

__all__ = ["REFUSED", "TASKS", "HFTask", "RemoteTask"]

HFTask = Literal[
    "audio-classification",
    "audio-to-audio",
    "automatic-speech-recognition",
    "conversational",
    "document-question-answering",
    "feature-extraction",
    "fill-mask",
    "image-classification",
    "image-segmentation",
    "image-to-image",
    "image-to-text",
    "image-to-video",
    "object-detection",
    "question-answering",
    "sentence-similarity",
    "summarization",
    "table-question-answering",
    "tabular-classification",
    "tabular-regression",
    "text-classification",
    "text-generation",
    "text-to-image",
    "text-to-speech",
    "text-to-video",
    "token-classification",
    "translation",
    "visual-question-answering",
    "zero-shot-classification",
    "zero-shot-image-classification",
]

REFUSED: Final[Mapping[str, str]] = {
    "tabular-regression": "Hugging Face's client sends this task to nobody: ask the server as tabular-classification",
    "image-to-video": "Hugging Face's client sends this task to providers that keep the film at an address of theirs, "
    "where it fetches it without limits",
    "text-to-video": "Hugging Face's client sends this task to providers that keep the film at an address of theirs, "
    "where it fetches it without limits",
}
"""Tasks that the client names and that cannot be served, and why."""


@dataclass(frozen=True, slots=True)
class RemoteTask:
    """One task.

    Attributes:
        asks, answers: Types of the workflow.
        method: The client's.
        arguments: Of the method, from an input.
        read: An answer from an input and what the method has given; see `answering`. Embeddings take the tokens as well.
        unopened: Where the method would open the pictures that come, which need not be small because their files are: the
            argument that is the request's `inputs`. The client's request is sent, and its answer taken as it is.
        media: Whether files come or go.
    """

    asks: type[Exchange]
    answers: type[Exchange]
    method: str
    arguments: Callable[[Any], Arguments]
    read: Callable[..., Exchange]
    unopened: str | None = None
    media: bool = False


def _about_text(
    asks: type[Exchange], answers: type[Exchange], method: str, read: Callable[..., Exchange], *names: str
) -> RemoteTask:
    return RemoteTask(asks, answers, method, said(*names), read)


def _about_files(
    asks: type[Exchange], answers: type[Exchange], method: str, read: Callable[..., Exchange], *names: str
) -> RemoteTask:
    return RemoteTask(asks, answers, method, said(*names), read, media=True)


_CLASSES: Final = ("function_to_apply", "top_k")
_READING: Final = (
    *("align_to_words", "doc_stride", "handle_impossible_answer", "lang", "max_answer_len", "max_question_len"),
    *("max_seq_len", "top_k"),
)
_DRAWING: Final = ("negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "scheduler", "seed")


def _no_reading(*args: Any) -> Exchange:
    raise TypeError("this is read by a module of its own")


TASKS: Final[Mapping[str, RemoteTask]] = {
    # Text: see `generation`.
    "text-generation": RemoteTask(Generate, Generated, "text_generation", said(), _no_reading),
    "conversational": RemoteTask(Generate, Generated, "chat_completion", said(), _no_reading),
    # Places of texts.
    "feature-extraction": RemoteTask(Embed, Embedding, "feature_extraction", asking.embedding, answering.embedded),
    "sentence-similarity": RemoteTask(
        tables.CompareTexts, tables.Similarities, "sentence_similarity", asking.comparison, answering.compared
    ),
    # Questions about texts and tables.
    "fill-mask": _about_text(tasks.FillMask, tasks.Filled, "fill_mask", answering.filled, "targets", "top_k"),
    "question-answering": _about_text(
        tasks.AnswerQuestion, tasks.Answers, "question_answering", answering.answers, *_READING
    ),
    "summarization": RemoteTask(
        tasks.Summarize, tasks.Rewritten, "summarization", asking.rewriting, answering.rewritten
    ),
    "table-question-answering": _about_text(
        *(tables.AskTable, tables.TableAnswer, "table_question_answering", answering.table_answer),
        *("padding", "sequential", "truncation"),
    ),
    "tabular-classification": _about_text(
        tables.ClassifyRows, tables.RowClasses, "tabular_classification", answering.classes
    ),
    "text-classification": _about_text(
        tasks.ClassifyText, tasks.Labels, "text_classification", answering.labels, *_CLASSES
    ),
    "token-classification": RemoteTask(
        tasks.ClassifyTokens, tasks.Entities, "token_classification", asking.finding, answering.entities
    ),
    "translation": RemoteTask(tasks.Translate, tasks.Rewritten, "translation", asking.rewriting, answering.rewritten),
    "zero-shot-classification": _about_text(
        *(tasks.ClassifyZeroShot, tasks.Labels, "zero_shot_classification", answering.labels),
        *("hypothesis_template", "multi_label"),
    ),
    # Pictures.
    "document-question-answering": _about_files(
        *(pictures.AskDocument, pictures.DocumentAnswers, "document_question_answering", answering.document_answers),
        *_READING,
    ),
    "image-classification": _about_files(
        pictures.ClassifyPicture, tasks.Labels, "image_classification", answering.labels, *_CLASSES
    ),
    "image-segmentation": RemoteTask(
        *(pictures.SegmentPicture, pictures.Segments, "image_segmentation"),
        said("subtask", "threshold", "mask_threshold", "overlap_mask_area_threshold"),
        answering.segments,
        unopened="image",
        media=True,
    ),
    "image-to-image": RemoteTask(
        *(pictures.RedrawPicture, pictures.Picture, "image_to_image", asking.target, answering.picture),
        unopened="image",
        media=True,
    ),
    "image-to-text": _about_files(
        pictures.DescribePicture, pictures.Description, "image_to_text", answering.description
    ),
    "object-detection": _about_files(
        pictures.DetectObjects, pictures.Objects, "object_detection", answering.objects, "threshold"
    ),
    "text-to-image": RemoteTask(
        *(pictures.DrawPicture, pictures.Picture, "text_to_image", said(*_DRAWING), answering.picture),
        unopened="prompt",
        media=True,
    ),
    "visual-question-answering": _about_files(
        *(pictures.AskPicture, pictures.PictureAnswers, "visual_question_answering", answering.picture_answers),
        "top_k",
    ),
    "zero-shot-image-classification": _about_files(
        *(pictures.ClassifyPictureZeroShot, tasks.Labels, "zero_shot_image_classification", answering.labels),
        "hypothesis_template",
    ),
    # Sounds.
    "audio-classification": _about_files(
        sounds.ClassifySound, tasks.Labels, "audio_classification", answering.labels, *_CLASSES
    ),
    "audio-to-audio": _about_files(sounds.ChangeSound, sounds.Sounds, "audio_to_audio", answering.sounds),
    "text-to-speech": RemoteTask(Speak, Speech, "text_to_speech", asking.speaking, _no_reading, media=True),
    "automatic-speech-recognition": RemoteTask(
        *(sounds.Transcribe, sounds.Transcript, "automatic_speech_recognition"),
        asking.transcribing,
        answering.transcript,
        media=True,
    ),
}
assert TASKS.keys() | REFUSED.keys() == set(get_args(HFTask))
