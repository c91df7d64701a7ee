"""A text, or a question with a text, in as many rows as it takes to read all of it. Knows tokenizers, no task."""

from __future__ import annotations

from typing import Any

from workflows.errors import ContextTooLong
from workflows.inference.local_transformer import check_tokens
from workflows.inference.tasks.encoder import Row
from workflows.inference.tasks.task import TaskModel

__all__ = ["windows_of"]


def windows_of(
    model: TaskModel,
    text: str,
    pair: str | None = None,
    *,
    stride: int,
    tokens: int | None = None,
    cut: str = "only_first",
    param: str = "text",
    **wanted: Any,
) -> tuple[Any, list[Row]]:
    """The encoding, and its rows.

    Args:
        stride: Tokens that neighbouring windows share; less than there are of the text in one.
        tokens: Of one window; None is as many as the model takes.
        cut: Which of two texts goes on from window to window: `only_first` or `only_second`.
        wanted: Further options of the tokenizer.

    Raises InvalidInput for a text that takes more windows than one input may have, or has tokens that the model has not.
    """
    encoded = model.tokenizer(
        text,
        pair,
        truncation=cut,
        max_length=model.bounds.max_tokens if tokens is None else tokens,
        stride=stride,
        return_overflowing_tokens=True,
        return_attention_mask=False,
        verbose=False,
        **wanted,
    )
    most = model.bounds.max_rows
    windows = encoded["input_ids"]
    if len(windows) > most:
        raise ContextTooLong(f"context length exceeded: {len(windows)} windows, and {most} are read", param=param)
    for ids in windows:
        check_tokens(ids, model.vocabulary, param)
    types = encoded.get("token_type_ids")
    return encoded, [Row(list(ids), None if types is None else types[at]) for at, ids in enumerate(windows)]
