"""Kind `task`: questions about a picture, and pictures to be made. A picture is a whole file: PNG, JPEG, ...

Places in a picture count pixels from its top left corner.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from workflows.types.exchange import Exchange
from workflows.types.media import Media
from workflows.types.text import MAX_TOKENS

__all__ = [
    "AskDocument",
    "AskPicture",
    "Box",
    "ClassifyPicture",
    "ClassifyPictureZeroShot",
    "DescribePicture",
    "Description",
    "DetectObjects",
    "DocumentAnswer",
    "DocumentAnswers",
    "DrawPicture",
    "Found",
    "Objects",
    "Picture",
    "PictureAnswer",
    "PictureAnswers",
    "RedrawPicture",
    "Segment",
    "SegmentPicture",
    "Segments",
]

MAX_PIXELS_ALONG: Final = 1 << 14
_ONE_PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_Words = Annotated[str, Field(max_length=1 << 16)]
_Label = Annotated[str, Field(min_length=1, max_length=1024)]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Along = Annotated[int, Field(ge=1, le=MAX_PIXELS_ALONG)]
_Count = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
_TopK = Annotated[int, Field(ge=1, le=1024)]


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class _Task(Exchange):
    kind: ClassVar[str] = "task"


# ---- what is to be seen ------------------------------------------------------------------------------------------------


class ClassifyPicture(_Task):
    """A picture to put into one of the model's own classes; answered by `Labels`. See `ClassifyText`."""

    model_config = _example(image=_ONE_PIXEL)
    task: ClassVar[str] = "image-classification"
    image: Media
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: _TopK | None = None


class ClassifyPictureZeroShot(_Task):
    """A picture, and classes that the model has never heard of; answered by `Labels`. See `ClassifyZeroShot`."""

    model_config = _example(image=_ONE_PIXEL, candidate_labels=["cat", "dog"])
    task: ClassVar[str] = "zero-shot-image-classification"
    image: Media
    candidate_labels: list[_Label] = Field(min_length=2, max_length=1024)
    hypothesis_template: Annotated[str, Field(max_length=1024)] | None = None


class DetectObjects(_Task):
    """A picture in which to find things.

    Attributes:
        threshold: How sure the model must be of each; None is as the upstream has it.
    """

    model_config = _example(image=_ONE_PIXEL)
    task: ClassVar[str] = "object-detection"
    image: Media
    threshold: _Share | None = None


class Box(_Task):
    """From `xmin`, `ymin` to `xmax`, `ymax`."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Found(_Task):
    """A thing that was found, and where it is."""

    label: str
    score: float
    box: Box


class Objects(_Task):
    """What was found, in the model's order."""

    objects: list[Found]


class SegmentPicture(_Task):
    """A picture to divide into what belongs together.

    Attributes:
        subtask: `instance` tells things of one class apart, `semantic` does not, `panoptic` where they can be counted.
        threshold, mask_threshold, overlap_mask_area_threshold: How sure the model must be of a part, of each of its pixels,
            and how much of it must be left where another one lies over it; None is as the upstream has it.
    """

    model_config = _example(image=_ONE_PIXEL)
    task: ClassVar[str] = "image-segmentation"
    image: Media
    subtask: Literal["instance", "panoptic", "semantic"] | None = None
    threshold: _Share | None = None
    mask_threshold: _Share | None = None
    overlap_mask_area_threshold: _Share | None = None


class Segment(_Task):
    """A part of a picture. `mask` is a picture of the same size, white where the part is; `score` None where not told."""

    label: str
    mask: Media
    score: float | None = None


class Segments(_Task):
    """The parts of a picture, in the model's order."""

    segments: list[Segment]


# ---- what is to be said ------------------------------------------------------------------------------------------------


class DescribePicture(_Task):
    """A picture to say in words, or in which to read them."""

    model_config = _example(image=_ONE_PIXEL)
    task: ClassVar[str] = "image-to-text"
    image: Media


class Description(_Task):
    """A picture in words."""

    text: str


class AskPicture(_Task):
    """A question about a picture.

    Attributes:
        top_k: How many answers to give, the best first; None is as the upstream has it.
    """

    model_config = _example(image=_ONE_PIXEL, question="What is this?")
    task: ClassVar[str] = "visual-question-answering"
    image: Media
    question: _Words
    top_k: _TopK | None = None


class PictureAnswer(_Task):
    """An answer, and how sure the model is of it."""

    answer: str | None
    score: float


class PictureAnswers(_Task):
    """The best first."""

    answers: list[PictureAnswer]


class AskDocument(_Task):
    """A question about a page, of which there is a picture. For the numbers see `AnswerQuestion`; None is as the upstream
    has it.

    Attributes:
        lang: The page's language, for reading it.
    """

    model_config = _example(image=_ONE_PIXEL, question="What is the total?")
    task: ClassVar[str] = "document-question-answering"
    image: Media
    question: _Words
    lang: Annotated[str, Field(pattern=r"^[A-Za-z_+-]{2,64}$")] | None = None
    top_k: Annotated[int, Field(ge=1, le=100)] | None = None
    max_answer_len: Annotated[int, Field(ge=1, le=4096)] | None = None
    doc_stride: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    max_seq_len: _Count | None = None
    max_question_len: _Count | None = None
    handle_impossible_answer: bool | None = None


class DocumentAnswer(_Task):
    """An answer, from word `start` to word `end` of the page."""

    answer: str
    score: float
    start: int
    end: int


class DocumentAnswers(_Task):
    """The best first."""

    answers: list[DocumentAnswer]


# ---- what is to be drawn -----------------------------------------------------------------------------------------------


class _Drawing(_Task):
    negative_prompt: _Words | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0.0, le=1000.0)] | None = None


class DrawPicture(_Drawing):
    """Words to make a picture of. What is None is as the upstream has it.

    Attributes:
        negative_prompt: What shall not be in it.
        num_inference_steps: More take longer, and are finer.
        guidance_scale: How closely it keeps to the words.
        scheduler: The method, by the upstream's name.
        seed: What repeats a picture.
    """

    model_config = _example(prompt="a cat on a mat")
    task: ClassVar[str] = "text-to-image"
    prompt: _Words
    width: _Along | None = None
    height: _Along | None = None
    scheduler: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)


class RedrawPicture(_Drawing):
    """A picture to make another one of. For the fields see `DrawPicture`."""

    model_config = _example(image=_ONE_PIXEL, prompt="the same in winter")
    task: ClassVar[str] = "image-to-image"
    image: Media
    prompt: _Words | None = None
    width: _Along | None = None
    height: _Along | None = None


class Picture(_Task):
    """A picture as a file of the type that is told, as HTTP calls it."""

    image: Media
    media_type: str
