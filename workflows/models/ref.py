"""Model ids: one strict grammar, read once into an immutable reference. Knows no file and no network.

    storage/owner/name[@revision][:file[,file...]]
    huggingface/acme/digits                          the hub, its default revision, all files that can be loaded
    huggingface/acme/digits@v2:onnx/model.onnx       one file of a tag, a branch (without a slash) or a commit
    huggingface/acme/digits/v2:onnx/model.onnx       the same, as infernet-ml wrote it
    local/acme/digits:model.onnx                     below one of the operator's roots

Of several files, the first is the model, and the others are what it needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from workflows.errors import InvalidInput

__all__ = ["AllowList", "ModelRef", "is_file_name", "parse_ref"]

MAX_ID_CHARS: Final = 1024
MAX_FILES: Final = 32
_MAX_FILE_CHARS: Final = 255

_STORAGE: Final = r"[a-z][a-z0-9-]{0,31}"
_PART: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?"
_FILE_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9._+=-]*[A-Za-z0-9_+=-])?"
_FILE: Final = re.compile(rf"{_FILE_PART}(?:/{_FILE_PART}){{0,7}}", re.ASCII)
_REF: Final = re.compile(
    rf"(?P<storage>{_STORAGE})/(?P<owner>{_PART})/(?P<name>{_PART})"
    rf"(?:/(?P<version>{_PART})|@(?P<revision>{_PART}))?(?::(?P<files>[^:]+))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A parsed id: `str()` gives its one canonical form, and parsing that gives an equal one.

    Attributes:
        revision: None is the storage's default.
        files: None of them means every file that can be loaded.
    """

    storage: str
    owner: str
    name: str
    revision: str | None = None
    files: tuple[str, ...] = ()

    @property
    def model(self) -> ModelRef:
        """The same without its files: what is resolved, locked and cached as one."""
        return replace(self, files=())

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.storage}/{self.owner}/{self.name}{revision}" + (":" + ",".join(self.files) if self.files else "")


def parse_ref(text: object) -> ModelRef:
    """Read an id. Raises InvalidInput, which says the grammar and never repeats what came."""
    found = _REF.fullmatch(text) if isinstance(text, str) and len(text) <= MAX_ID_CHARS else None
    if found is None or any(".." in (part or "") for part in found.groups()):
        raise _malformed()
    files = tuple(found["files"].split(",")) if found["files"] else ()
    if len(files) > MAX_FILES or len(set(files)) != len(files) or not all(map(is_file_name, files)):
        raise _malformed()
    return ModelRef(found["storage"], found["owner"], found["name"], found["version"] or found["revision"], files)


def is_file_name(text: str) -> bool:
    """Whether a file of a model may be called this: a relative path of plain ASCII, without `..` and hidden files."""
    return len(text) <= _MAX_FILE_CHARS and ".." not in text and _FILE.fullmatch(text) is not None


class AllowList:
    """The ids that a caller may name.

    Args:
        patterns: Ids in which `*` stands for any characters within owner, name, revision or file, for example
            `huggingface/acme/*`. A pattern without a revision allows the default one only (on the hub anybody can open a
            revision of somebody else's model), `@*` all of them; without files it allows all files.

    Raises:
        InvalidInput: A pattern is none; `param` is `allowed`.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def allows(self, ref: ModelRef) -> bool:
        return any(_matches(pattern, ref) for pattern in self._patterns)


@dataclass(frozen=True, slots=True)
class _Pattern:
    storage: str
    owner: re.Pattern[str]
    name: re.Pattern[str]
    revision: re.Pattern[str] | None
    files: tuple[re.Pattern[str], ...]


def _compiled(pattern: str) -> _Pattern:
    try:
        filled = parse_ref(pattern.replace("*", "0"))
    except InvalidInput:
        filled = None
    if filled is None or "*" in pattern.partition("/")[0]:
        raise InvalidInput(f"{pattern[:128]!r} is no pattern of model ids", param="allowed")
    place, _, files = pattern.partition(":")
    place, _, revision = place.partition("@")
    _, owner, name, *version = place.split("/")
    wanted = revision or "".join(version)
    return _Pattern(
        filled.storage,
        _wild(owner),
        _wild(name),
        _wild(wanted) if wanted else None,
        tuple(map(_wild, files.split(","))) if files else (),
    )


def _wild(part: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, part.split("*"))))


def _matches(pattern: _Pattern, ref: ModelRef) -> bool:
    if pattern.storage != ref.storage or not pattern.owner.fullmatch(ref.owner) or not pattern.name.fullmatch(ref.name):
        return False
    if pattern.revision is None:
        right_revision = ref.revision is None
    else:
        # `@*` is for every revision, the default one among them.
        right_revision = pattern.revision.fullmatch(ref.revision or "") is not None
    if not pattern.files:
        return right_revision
    files = [any(wild.fullmatch(file) for wild in pattern.files) for file in ref.files]
    return right_revision and bool(files) and all(files)


def _malformed() -> InvalidInput:
    return InvalidInput("a model id is storage/owner/name[@revision][:file,...]", param="model")
