"""Bark's voice presets, as a model's own list names them: three small arrays each. Opens no file that a caller names."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from workflows.errors import WorkflowError
from workflows.models.ref import is_file_name
from workflows.tensors import Array

__all__ = ["INDEX", "Preset", "language_of", "read_presets"]

log = logging.getLogger(__name__)

INDEX: Final = "speaker_embeddings_path.json"
_MAX_INDEX_BYTES: Final = 1 << 20
_MAX_PRESETS: Final = 4096
_MAX_FILE_BYTES: Final = 1 << 20
_NOT_A_VOICE: Final = "repo_or_path"
# Each with its axes, and the rows that it must have.
_PARTS: Final[tuple[tuple[str, tuple[int, ...]], ...]] = (
    ("semantic_prompt", ()),
    ("coarse_prompt", (2,)),
    ("fine_prompt", (8,)),
)
_LANGUAGE: Final = re.compile(r"(?:^|/)([a-z]{2})_speaker_\d+$")


@dataclass(frozen=True, slots=True)
class Preset:
    """A voice: the tokens of something that it once said. int64, of shapes (n,), (2, n) and (8, n)."""

    semantic_prompt: Array
    coarse_prompt: Array
    fine_prompt: Array


def read_presets(directory: Path, semantic_words: int, codebook: int) -> dict[str, Preset]:
    """All voices of the model, in its own order; none where it has no list of them.

    A voice whose files were not downloaded is left out. Raises WorkflowError for a list or a file that is not as it must be.
    """
    index = directory / INDEX
    if not index.is_file():
        return {}
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("too large")
        listed = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError) as cause:
        raise WorkflowError(f"{INDEX!r} cannot be read") from cause
    if not isinstance(listed, dict) or len(listed) > _MAX_PRESETS:
        raise WorkflowError(f"{INDEX!r} holds no list of voices")
    found = {}
    missing = 0
    for voice, files in listed.items():
        if voice == _NOT_A_VOICE:
            continue
        paths = [directory / file for file in _files(voice, files)]
        if all(path.is_file() for path in paths):
            bounds = (semantic_words, codebook, codebook)
            arrays = [_read(path, rows, bound) for path, (_, rows), bound in zip(paths, _PARTS, bounds, strict=True)]
            found[voice] = Preset(*arrays)
        else:
            missing += 1
    if missing:
        log.warning("of %d voices in the model's list there are no files", missing)
    return found


def language_of(voice: str) -> str | None:
    """What the name of one of Bark's own voices says, as `v2/en_speaker_6`."""
    named = _LANGUAGE.search(voice)
    return named[1] if named else None


def _files(voice: str, files: Any) -> list[str]:
    names = [files.get(part) for part, _ in _PARTS] if isinstance(files, dict) else []
    if (
        not 0 < len(voice) <= 256
        or not voice.isprintable()
        or not names
        or not all(isinstance(name, str) and is_file_name(name) for name in names)
    ):
        raise WorkflowError(f"{INDEX!r} has a voice whose files are not named as they must be")
    return [str(name) for name in names]


def _read(path: Path, rows: tuple[int, ...], bound: int) -> Array:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError("too large")
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError) as cause:
        raise WorkflowError("a file of a voice cannot be read") from cause
    if array.ndim != len(rows) + 1 or array.shape[: len(rows)] != rows:
        raise WorkflowError("a file of a voice holds something else")
    if array.dtype.kind not in "iu" or not array.size or array.min() < 0 or array.max() >= bound:
        raise WorkflowError("a file of a voice holds tokens that the model does not know")
    return array.astype(np.int64)
