"""From what an option says of a model, an id or a path, to where it lies on this machine."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Final

from workflows.errors import InvalidInput, ModelNotFound
from workflows.models.local import locate
from workflows.models.records import ModelsLock
from workflows.models.ref import ModelRef, parse_ref
from workflows.models.sources import LOCAL, ModelSources, sources_of

if TYPE_CHECKING:
    from workflows.models.store import ModelStore

__all__ = ["ONNX_FILES", "TRANSFORMERS_FILES", "check_model", "model_name", "model_ref", "resolve_model", "store_of"]

# What is downloaded of a model whose id names no files.
ONNX_FILES: Final = ("*.onnx", "*.onnx_data", "*.onnx.data")
TRANSFORMERS_FILES: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")

_making = threading.Lock()


def resolve_model(
    model: str | Path,
    root: str | Path | None = None,
    sources: ModelSources | str | None = None,
    wanted: Sequence[str] = TRANSFORMERS_FILES,
) -> Path:
    """Where a model lies, after it was downloaded if need be: a file, or a directory for an id that names no files.

    Args:
        model: An id, see `workflows.models.ref`, where `root` is None and it begins with the name of a storage; else a
            path, see `workflows.models.local`. A path that looks like an id begins with `./`.
        wanted: Patterns of the files to download where the id names none.

    Raises:
        ModelNotFound: There is no such model, or `models.lock` does not list it.
        InvalidInput: The id is malformed, the model is too large or not safe to load, or a setting is wrong.
        UpstreamFailed, Overloaded: It cannot be downloaded now.
    """
    said = sources_of(sources)
    ref = model_ref(model, root, said)
    return locate(model, root) if ref is None else store_of(said).fetch(ref, wanted)


def check_model(
    model: str | Path, root: str | Path | None = None, sources: ModelSources | str | None = None
) -> Path | None:
    """Raise WorkflowError for a path that is not there, or an id that can never be loaded. Downloads nothing.

    Returns: where the model lies, if it is on this machine anyway.
    """
    said = sources_of(sources)
    ref = model_ref(model, root, said)
    if ref is None:
        return locate(model, root)
    if said.lock is not None:
        models = ModelsLock.read(said.lock.expanduser()).models
        if str(ref) not in models and str(ref.model) not in models:
            raise ModelNotFound("the model is not in models.lock")
    return store_of(said).fetch(ref, ("*",)) if ref.storage == LOCAL else None


def model_ref(model: str | Path, root: str | Path | None, sources: ModelSources) -> ModelRef | None:
    """The id that an option holds; None where it is a path. Raises InvalidInput for an id that is malformed."""
    if root is not None or isinstance(model, Path) or model.partition("/")[0] not in sources.names:
        return None
    ref = parse_ref(model)
    if not ref.files and not sources.lists(ref.storage):
        raise InvalidInput("this storage cannot list a model's files: name them after a colon", param="model")
    return ref


def model_name(model: str, root: str | Path | None, sources: ModelSources | str | None) -> str:
    """What callers may know of a model: its id, or the last part of its path."""
    ref = model_ref(model, root, sources_of(sources))
    return Path(model).name if ref is None else str(ref)


def store_of(sources: ModelSources) -> ModelStore:
    """The one store of this process for these settings, whose library is imported when it is needed first."""
    with _making:
        return _made(sources.model_dump_json())


@cache
def _made(settings: str) -> ModelStore:
    try:
        store: type[ModelStore] = resolve_name("workflows.models.store:ModelStore")
    except ImportError as cause:
        raise InvalidInput("ids of models need `pip install infernet-serve[hub]`", param="model") from cause
    return store(ModelSources.model_validate_json(settings))
