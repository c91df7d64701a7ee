"""One file from a storage into the cache: hashed as it arrives, resumed where it broke off, whole or not there at all.

What arrives is written under a name of its own, which only the right content ever leaves. Knows no storage and no lock;
whoever calls it is alone with this file.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from workflows.errors import InvalidInput, Overloaded, UpstreamFailed, WorkflowError
from workflows.models.content import RUNS_CODE, kind_of
from workflows.models.records import FileRecord, sync_directory
from workflows.models.storage import CHUNK_BYTES, RemoteFile, another_content, unreachable

__all__ = ["Download", "disk_fault", "no_room", "sha256_of"]

log = logging.getLogger(__name__)

_MAX_ATTEMPTS: Final = 20
_MAX_STALLS: Final = 3  # attempts in a row that brought nothing new
_LOOK_EVERY_BYTES: Final = 64 << 20
# A storage that is never silent, and never done: slower than that, after so long, is as bad as no answer.
_SLOWEST_BYTES_PER_S: Final = 10_000
_MAY_BE_SLOW_S: Final = 60.0
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_RETRY_S: Final = 60.0


@dataclass(slots=True)
class Download:
    """What to download, from where, and under which conditions.

    Attributes:
        read: Gives the file's bytes from a position on; raises UpstreamFailed where it breaks off.
        expected: What the storage said of the file beforehand.
        partial: Where it grows. What is there already is taken for its beginning.
        most_bytes: More than that is too large.
        trusted: Hashes of files that may run code.
        check_room: Raises Overloaded where this many bytes more would fill the disk.
        seen: Told of every piece, by its size, and by a negative one of what is thrown away; may raise to end the download.
        clock: Seconds, for tests.
    """

    read: Callable[[int], Generator[bytes]]
    expected: RemoteFile
    partial: Path
    most_bytes: int
    trusted: frozenset[str]
    check_room: Callable[[int], None]
    seen: Callable[[int], None]
    clock: Callable[[], float] = time.monotonic
    _hash: Any = field(init=False)
    _git: Any = field(init=False)
    _size: int = field(default=0, init=False)

    def into(self, final: Path) -> FileRecord:
        """Download, check, and give the file its name.

        Raises:
            UpstreamFailed: The storage broke off for good, or gave another content than it had declared.
            Overloaded: There is no room on the disk.
            InvalidInput: The file is too large, or runs code when it is loaded and is not trusted.
            WorkflowError: The cache cannot be written.
        """
        if self.expected.size is not None and self.expected.size > self.most_bytes:
            raise self._too_large()
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.partial.open("a+b") as file:
                resumed = self._take_up(file)
                self._fill(file)
                if not self._is_right() and resumed:  # what was there before may be what is wrong
                    self._start_over(file)
                    self._fill(file)
                record = self._checked(file)
                file.flush()
                os.fsync(file.fileno())
            final.parent.mkdir(parents=True, exist_ok=True)
            self.partial.replace(final)
            sync_directory(final.parent)
        except WorkflowError as error:
            if not (isinstance(error, UpstreamFailed) and error.retryable):  # which is worth to be gone on with
                self.partial.unlink(missing_ok=True)
            raise
        except OSError as cause:
            self.partial.unlink(missing_ok=True)
            raise disk_fault(cause) from cause
        return record

    def _take_up(self, file: IO[bytes]) -> bool:
        """Hash what an earlier attempt has left, and say whether there was anything."""
        self._begin()
        file.seek(0)
        while piece := file.read(CHUNK_BYTES):
            self._count(piece)
        self.seen(self._size)
        expected = self.expected
        # Where nothing tells one content from another, the rest may be of another one than the beginning.
        told_apart = expected.sha256 or expected.git_sha1 or expected.mark
        if expected.size is None or self._size > expected.size or not told_apart:
            self._start_over(file)
        return self._size > 0

    def _begin(self) -> None:
        self._hash, self._size = hashlib.sha256(), 0
        # git hashes the size first: it has to be known.
        self._git = None
        if self.expected.git_sha1 is not None and self.expected.size is not None:
            self._git = hashlib.sha1(b"blob %d\0" % self.expected.size, usedforsecurity=False)

    def _start_over(self, file: IO[bytes]) -> None:
        file.truncate(0)
        self.seen(-self._size)
        self._begin()

    def _count(self, piece: bytes) -> None:
        self._hash.update(piece)
        if self._git is not None:
            self._git.update(piece)
        self._size += len(piece)

    def _fill(self, file: IO[bytes]) -> None:
        """Read until the file is whole; where the storage breaks off, go on from there."""
        stalls = 0
        for _ in range(_MAX_ATTEMPTS):
            before = self._size
            broken: UpstreamFailed | None = None
            try:
                if self.expected.size is None or self._size < self.expected.size:
                    self._read_once(file)
            except UpstreamFailed as error:
                if error.retry_after_s is None:
                    raise
                broken = error
            whole = self._size >= self.expected.size if self.expected.size is not None else broken is None
            if whole:
                return
            stalls = 0 if self._size > before else stalls + 1
            log.info("a download broke off after %d bytes", self._size, exc_info=broken)
            if stalls >= _MAX_STALLS:
                raise broken or unreachable()
        raise unreachable()

    def _read_once(self, file: IO[bytes]) -> None:
        most = self.most_bytes if self.expected.size is None else self.expected.size
        looked, before, began = self._size, self._size, self.clock()
        with closing(self.read(self._size)) as pieces:
            for piece in pieces:
                if self._size + len(piece) > most:
                    raise self._too_large() if self.expected.size is None else another_content()
                file.write(piece)
                self._count(piece)
                self.seen(len(piece))
                if self._size - looked >= _LOOK_EVERY_BYTES:
                    looked = self._size
                    self.check_room(0)
                passed = self.clock() - began
                if passed > _MAY_BE_SLOW_S and self._size - before < passed * _SLOWEST_BYTES_PER_S:
                    raise unreachable()

    def _is_right(self) -> bool:
        if self.expected.sha256 is not None:
            return bool(self._hash.hexdigest() == self.expected.sha256)
        return self._git is None or self._git.hexdigest() == self.expected.git_sha1

    def _checked(self, file: IO[bytes]) -> FileRecord:
        if not self._is_right():
            raise another_content()
        sha256 = self._hash.hexdigest()
        kind = kind_of(file)
        if kind in RUNS_CODE and sha256 not in self.trusted:
            raise InvalidInput(
                f"a file of the model is {RUNS_CODE[kind]}: it may run code when it is loaded, so it is not kept. If "
                f"you trust where it came from, add its hash to code_sha256: {sha256}",
                param="model",
            )
        return FileRecord(sha256=sha256, size=self._size)

    def _too_large(self) -> InvalidInput:
        return InvalidInput(f"a file of the model is larger than {self.most_bytes} bytes", param="model")


def sha256_of(path: Path) -> str:
    """A file's hash. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_fault(cause: OSError) -> WorkflowError:
    """What to tell of a disk that does not take what is written."""
    return no_room() if cause.errno in _FULL else WorkflowError("the cache of models cannot be written")


def no_room() -> Overloaded:
    return Overloaded("there is no room for this model on the disk", retry_after_s=_NO_ROOM_RETRY_S)
