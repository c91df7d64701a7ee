"""The seam between a workflow and one kind of question: read it, run the model on many, make the answers.

Knows how texts become tokens that fit; no model and no padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

from workflows.errors import ContextTooLong, WorkflowError
from workflows.inference.local_transformer import LocalTransformer, check_text, check_tokens
from workflows.types.exchange import Exchange

__all__ = ["Bounds", "In", "Out", "Task", "TaskModel", "about_tokens"]

In = TypeVar("In", bound=Exchange)
Read = TypeVar("Read")
Out = TypeVar("Out", bound=Exchange)

# A short text does not wait for long ones to finish.
_CLASS_ENDS: Final = (32, 128)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one input may be.

    Attributes:
        max_tokens: Tokens that the model reads at once.
        max_rows: Times that the model reads for one input: labels, or windows of a long text.
        max_new_tokens: Tokens that it writes.
        truncate: Whether texts that are too long are cut, where the input does not say.
        prefix: What stands before every text; None is as the model's files say.
    """

    max_tokens: int
    max_rows: int
    max_new_tokens: int
    truncate: bool
    prefix: str | None = None


class TaskModel:
    """An opened model with what it may be used for.

    Args:
        torch: The module.
    """

    def __init__(self, torch: Any, opened: LocalTransformer, bounds: Bounds) -> None:
        self.torch = torch
        self.model = opened.model
        self.tokenizer = opened.tokenizer
        self.device = opened.device
        self.vocabulary = opened.vocabulary
        self.bounds = bounds
        self._max_chars = bounds.max_tokens * opened.max_token_chars

    @property
    def on_gpu(self) -> bool:
        return bool(self.device.type == "cuda")

    def checked(self, text: str, param: str = "text", *, truncate: bool | None = False, rows: int = 1) -> str:
        """A text that may be given to the tokenizer: no longer than so many rows can possibly hold.

        Raises InvalidInput for one that cannot fit, unless `truncate`, and for one that is no Unicode.
        """
        most = self._max_chars * rows
        if self.cuts(truncate):
            text = text[:most]
        check_text(text, param, most)
        return text

    def cuts(self, truncate: bool | None) -> bool:
        """Whether a text is cut: as the input says, else as the workflow is configured."""
        return self.bounds.truncate if truncate is None else truncate

    def encoded(
        self,
        text: str,
        pair: str | None = None,
        *,
        truncate: bool | None = False,
        only_first: bool = False,
        param: str = "text",
        **wanted: Any,
    ) -> Any:
        """The tokenizer's encoding of a text, or of two, that fits.

        Args:
            only_first: Of two texts, cut the first.
            wanted: Further options of the tokenizer.

        Raises InvalidInput for one that does not fit and may not be cut.
        """
        most = self.bounds.max_tokens
        cut: dict[str, Any] = {}
        if self.cuts(truncate):
            cut = {"truncation": "only_first" if only_first else "longest_first", "max_length": most}
        encoded = self.tokenizer(text, pair, return_attention_mask=False, verbose=False, **cut, **wanted)
        count = len(encoded["input_ids"])
        if count > most:
            raise ContextTooLong(f"context length exceeded: {count} tokens, and {most} fit", param=param)
        check_tokens(encoded["input_ids"], self.vocabulary, param)
        return encoded


class Task(ABC, Generic[In, Read, Out]):
    """One kind of question to one opened model. All methods are called by one thread at a time.

    Attributes:
        name: As Hugging Face's hub has it.
        opens: The transformers class that opens such a model.
    """

    name: ClassVar[str]
    opens: ClassVar[str]
    input: type[In]
    output: type[Out]

    def __init__(self, model: TaskModel) -> None:
        """Raises WorkflowError where the model lacks what the task needs."""
        self.model = model

    @abstractmethod
    def read(self, asked: In) -> Read:
        """What the model is given. Raises InvalidInput."""

    @abstractmethod
    def run(self, batch: list[Read]) -> list[Any | WorkflowError]:
        """What the model says to each, under `torch.inference_mode()`."""

    @abstractmethod
    def answer(self, asked: In, read: Read, said: Any) -> Out:
        """What it means."""

    @abstractmethod
    def warm_up(self) -> None:
        """Run the model on as much as one row may hold."""

    def example(self) -> In | None:
        """What to show as an input, where this model needs another one than its type shows."""
        return None

    @staticmethod
    @abstractmethod
    def cost(asked: In, bounds: Bounds) -> float:
        """About how many tokens the model reads."""

    @classmethod
    def bucket(cls, asked: In, bounds: Bounds) -> Hashable:
        """Short, middling or long: which inputs may run together."""
        cost = cls.cost(asked, bounds)
        return sum(cost > end for end in _CLASS_ENDS)


def about_tokens(text: str, most: int) -> int:
    """About how many tokens: four letters of English each, one sign of Chinese each; never more than `most`."""
    if text.isascii():
        return min(2 + len(text) // 4, most)
    # The first so many characters decide: more cannot cost more, and this runs on the event loop.
    return min(2 + len(text[: 4 * most].encode("utf-8", "replace")) // 3, most)
