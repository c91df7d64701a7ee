"""What is known of downloaded models: `models.lock`, which people keep, and the cache's own notes. Reads and writes JSON."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workflows.errors import InvalidInput
from workflows.models.ref import is_file_name
from workflows.models.storage import Listing, RemoteFile

__all__ = ["FileRecord", "ModelRecord", "ModelsLock", "Resolved", "sync_directory"]

FileName = Annotated[str, Field(max_length=255)]


class FileRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class ModelRecord(BaseModel):
    """A model's files at one commit; there is no commit of a model on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    commit: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    files: dict[str, FileRecord]


class ModelsLock(BaseModel):
    """`models.lock`: by id, which commit it means and what its files hash to."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1] = 1
    models: dict[str, ModelRecord] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> ModelsLock:
        """Raises InvalidInput where the file is not there or holds no lock."""
        try:
            lock = cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as cause:
            raise InvalidInput("models.lock cannot be read", param="sources") from cause
        if not all(is_file_name(name) for model in lock.models.values() for name in model.files):
            raise InvalidInput("models.lock names a file that no model may have", param="sources")
        return lock

    def write(self, path: Path) -> None:
        """Sorted, so that a change shows as little as it is."""
        said = self.model_dump(mode="json", exclude_none=True)
        _replace_file(path, json.dumps(said, indent=1, sort_keys=True).encode() + b"\n")


class Resolved(BaseModel):
    """The cache's note on an id: which commit it has meant ever since, what is there, and what of it was downloaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    listing: Listing
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Resolved | None:
        """None where there is none, or none that can be read: then the id is resolved anew."""
        try:
            found = cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None
        return found if all(map(is_file_name, (*found.listing.files, *found.files))) else None

    @classmethod
    def locked(cls, record: ModelRecord) -> Resolved | None:
        """What a lock says, in the same terms; None for a model on this machine."""
        if record.commit is None:
            return None
        files = {name: RemoteFile(size=file.size, sha256=file.sha256) for name, file in record.files.items()}
        return cls(listing=Listing(commit=record.commit, files=files), files=record.files)

    def write(self, path: Path) -> None:
        _replace_file(path, self.model_dump_json().encode())


def _replace_file(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all, and so that it is there after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a rename in this directory survive a crash of the machine."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
