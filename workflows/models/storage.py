"""What a storage of models is to the cache: it lists a model's files and gives them out, from any byte on."""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

from workflows.errors import ModelNotFound, UpstreamFailed
from workflows.models.ref import ModelRef

__all__ = ["CHUNK_BYTES", "MAX_LISTED", "Listing", "RemoteFile", "Storage", "absent", "another_content", "unreachable"]

MAX_LISTED = 10_000
CHUNK_BYTES = 1 << 20


class RemoteFile(BaseModel):
    """What a storage says of a file before it is downloaded.

    Attributes:
        git_sha1: git's hash of a small file on the hub.
        mark: What is another one as soon as the content is, where the storage knows no hash.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int | None = Field(default=None, ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    git_sha1: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    mark: Annotated[str, Field(max_length=256)] | None = None


class Listing(BaseModel):
    """A model's files as they were at one commit, which never changes: 40 hex digits."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    files: dict[str, RemoteFile]


class Storage(Protocol):
    """One place that models come from. Called from several threads."""

    def listing(self, ref: ModelRef) -> Listing:
        """Resolve a revision, now. Raises ModelNotFound, UpstreamFailed, or InvalidInput for a wrong setting."""
        ...

    def read(self, ref: ModelRef, commit: str, file: str, start: int, mark: str | None) -> Generator[bytes]:
        """A file's bytes from `start` on, in pieces; may end early. Raises ModelNotFound, or UpstreamFailed, also where it
        turns out not to be what had this mark."""
        ...


def absent() -> ModelNotFound:
    """The one answer for what is not there, not public, not allowed or not locked."""
    return ModelNotFound()


def another_content() -> UpstreamFailed:
    return UpstreamFailed("the model's storage gave another content than it had declared")


def unreachable() -> UpstreamFailed:
    return UpstreamFailed("the model's storage did not answer", retry_after_s=5.0)
