"""Any place that fsspec can read as a storage of models: `base/owner/name[/revision]/file`.

Object stores list a model's files; over https an id has to name them. There are no commits here, so one is made of what
the storage says about the files: when they change, it does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import IO, Any, Final

import fsspec
from aiohttp import ClientTimeout
from fsspec.core import url_to_fs

from workflows.errors import InvalidInput, WorkflowError
from workflows.models.ref import ModelRef, is_file_name
from workflows.models.storage import CHUNK_BYTES, MAX_LISTED, Listing, RemoteFile, absent, another_content, unreachable

__all__ = ["UrlStorage"]

# What changes with a file's content, by the names that the file systems give it.
_MARKS: Final = ("ETag", "etag", "md5Hash", "content_settings", "VersionId", "generation", "mtime", "LastModified")
# Those of them that a list of files and the file itself give alike.
_MARKS_OF_CONTENT: Final = ("ETag", "etag", "md5Hash")
_MAX_DEPTH: Final = 8
_ABSENT: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


class UrlStorage:
    """See `workflows.models.storage.Storage`."""

    def __init__(self, base: str, timeout_s: float) -> None:
        self._lists = not base.startswith("http")
        self._base = base.rstrip("/")
        # Object stores have limits of their own.
        silence = ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        self._options: dict[str, Any] = {} if self._lists else {"client_kwargs": {"timeout": silence}}

    def listing(self, ref: ModelRef) -> Listing:
        if not ref.files and not self._lists:
            raise InvalidInput("this storage cannot list files: name them after a colon", param="model")
        try:
            files = self._named(ref) if ref.files and not self._lists else self._found(ref)
        except WorkflowError:
            raise
        except Exception as cause:
            raise _fault(cause) from cause
        if not files:
            raise absent()
        marks = {name: [about.get("size"), *(str(about.get(mark)) for mark in _MARKS)] for name, about in files.items()}
        commit = hashlib.sha256(json.dumps([str(ref.model), marks], sort_keys=True).encode()).hexdigest()[:40]
        return Listing(commit=commit, files={name: _remote(about) for name, about in files.items()})

    def read(self, ref: ModelRef, commit: str, file: str, start: int, mark: str | None) -> Generator[bytes]:
        try:
            fs, place = self._opened(ref)
            with self._entered(fs, f"{place}/{file}", start) as (content, before):
                skip = before
                while piece := content.read(CHUNK_BYTES):
                    rest = piece[skip:]
                    skip -= len(piece) - len(rest)
                    if rest:
                        yield rest
            if mark is not None and _mark(fs.info(f"{place}/{file}")) != mark:  # it was replaced, maybe in the middle
                raise another_content()
        except WorkflowError:
            raise
        except Exception as cause:
            raise _fault(cause) from cause

    @contextmanager
    def _entered(self, fs: fsspec.AbstractFileSystem, path: str, start: int) -> Iterator[tuple[IO[bytes], int]]:
        """A file to be read from `start` on, once so many bytes more were left out."""
        if self._lists:
            # Without a cache of its own: what is read is written at once.
            with fs.open(path, "rb", block_size=8 * CHUNK_BYTES, cache_type="readahead") as content:
                content.seek(start)
                yield content, 0
            return
        # One request for all of it: not every web server knows ranges, which fsspec would ask for piece by piece.
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        with fs.open(path, "rb", block_size=0, size=start + 1, headers=headers) as content:  # or it asks for the size
            yield content, 0 if content.r.status == HTTPStatus.PARTIAL_CONTENT else start

    def _opened(self, ref: ModelRef) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            fs, base = url_to_fs(self._base, use_listings_cache=False, **self._options)
        except ImportError as cause:
            raise InvalidInput("fsspec lacks the package for this storage", param="sources") from cause
        return fs, "/".join(part for part in (base.rstrip("/"), ref.owner, ref.name, ref.revision) if part)

    def _named(self, ref: ModelRef) -> dict[str, Mapping[str, Any]]:
        fs, place = self._opened(ref)
        return {file: fs.info(f"{place}/{file}") for file in ref.files}

    def _found(self, ref: ModelRef) -> dict[str, Mapping[str, Any]]:
        fs, place = self._opened(ref)
        found = fs.find(place, maxdepth=_MAX_DEPTH, detail=True)
        if len(found) > MAX_LISTED:
            raise unreachable()
        prefix = len(place.rstrip("/")) + 1
        return {path[prefix:]: about for path, about in found.items() if is_file_name(path[prefix:])}


def _remote(about: Mapping[str, Any]) -> RemoteFile:
    size = about.get("size")
    return RemoteFile(size=size if isinstance(size, int) and size >= 0 else None, mark=_mark(about))


def _mark(about: Mapping[str, Any]) -> str | None:
    return next((str(about[mark])[:256] for mark in _MARKS_OF_CONTENT if about.get(mark)), None)


def _fault(cause: Exception) -> WorkflowError:
    """fsspec calls whatever fails over http a missing file, and knows the reason only as a cause."""
    why = cause.__cause__
    missing = why is None or isinstance(why, FileNotFoundError) or getattr(why, "status", None) in _ABSENT
    return absent() if isinstance(cause, FileNotFoundError) and missing else unreachable()
