"""Models on this machine's disk: found by id, downloaded once, checked against their hashes, and pinned to a commit.

    cache/models/<storage>/<owner>/<name>/<commit>/...   files, under these names only when whole and right
    cache/records/<storage>/<owner>/<name>/...           what an id has meant ever since it was first asked for
    cache/partial, cache/locks                           what is on its way; one download of a model on this machine

Called from any thread; whoever comes second waits for whoever came first. Knows no model's format beyond what runs code.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

from filelock import FileLock
from tqdm import tqdm

from workflows.errors import InvalidInput, ModelNotFound, WorkflowError
from workflows.models.download import Download, disk_fault, no_room, sha256_of
from workflows.models.local import locate
from workflows.models.records import FileRecord, ModelRecord, ModelsLock, Resolved
from workflows.models.ref import ModelRef
from workflows.models.sources import HUB, LOCAL, ModelSources
from workflows.models.storage import Storage, absent, unreachable

__all__ = ["LOADABLE", "ModelStore"]

log = logging.getLogger(__name__)

# What a whole model consists of: weights and graphs that run no code, and the texts that belong to them.
LOADABLE: Final = ("*.safetensors", "*.onnx", "*.onnx_data", "*.onnx.data", "*.json", "*.txt", "*.model", "*.jinja")
_STALE_S: Final = 7 * 24 * 3600.0
# As many locks for all models that anybody may name: now and then one model waits for another.
_STRIPES: Final = 4096
_LOCK_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a model lies and what belongs to it."""

    directory: Path
    files: dict[str, FileRecord]


class ModelStore:
    """The cache of one machine, as `sources` says. Several, of several processes, may share a directory."""

    def __init__(self, sources: ModelSources) -> None:
        self._sources = sources
        self._cache = sources.cache.expanduser().absolute()
        self._guard = threading.Lock()
        self._alone = [threading.Lock() for _ in range(_STRIPES)]
        self._storages: dict[str, Storage] = {}
        self._verified: dict[Path, tuple[str, int, int, int, int, int]] = {}
        self._slots = threading.BoundedSemaphore(sources.parallel)

    # ---- what one asks for -----------------------------------------------------------------------------------------

    def fetch(self, ref: ModelRef, wanted: Sequence[str] = LOADABLE) -> Path:
        """Where a model lies, after it was downloaded if need be: its first file where the id names files, else its
        directory. A second call for what is there makes no connection.

        Args:
            wanted: Patterns of the files that are needed where the id names none.

        Raises:
            ModelNotFound: The storage has no such model, or the lock does not list it.
            UpstreamFailed: The storage does not answer, or answers with something else than it had declared.
            Overloaded: There is no room for it on the disk.
            InvalidInput: It is too large, or a file runs code and is not trusted; or a setting is wrong.
            WorkflowError: Its directory holds files that the lock does not list, or the cache cannot be written.
        """
        if ref.storage not in self._sources.names:
            raise absent()
        record = self._locked(ref)
        if ref.storage == LOCAL:
            return self._fetch_local(ref, record, wanted)
        pinned = None if record is None else Resolved.locked(record)
        if record is not None and pinned is None:
            raise absent()
        found = self._present(ref, pinned or Resolved.read(self._note(ref)), wanted)
        if found is None:
            with self._only_one(ref):
                found = self._download(ref, pinned or Resolved.read(self._note(ref)), wanted, keep=pinned is None)
        if record is not None:
            self._refuse_unlisted(found.directory, record)
        return found.directory / ref.files[0] if ref.files else found.directory

    def lock(self, ref: ModelRef, wanted: Sequence[str] = LOADABLE) -> tuple[str, ModelRecord]:
        """Resolve an id anew, download what it means now, and give what `models.lock` should say of it, with the key."""
        if ref.storage not in self._sources.names:
            raise absent()
        if ref.storage == LOCAL:
            directory = self._local(ref)
            names = _chosen(ref, _listed(directory), wanted)
            return str(ref), ModelRecord(files={name: _record(directory / name) for name in names})
        with self._only_one(ref):
            listing, before = self._storage(ref).listing(ref), Resolved.read(self._note(ref))
            resolved = before if before is not None and before.listing == listing else Resolved(listing=listing)
            found = self._download(ref, resolved, wanted, keep=False)
            # Not before: what cannot be locked leaves the id what it was.
            resolved.model_copy(update={"files": {**resolved.files, **found.files}}).write(self._note(ref))
        return self._key(ref), ModelRecord(commit=listing.commit, files=found.files)

    def problems(self, key: ModelRef, record: ModelRecord) -> Iterator[str]:
        """What is not as a lock says, a line each; reads every byte."""
        try:
            directory = self._local(key) if record.commit is None else self._directory(key, record.commit)
        except ModelNotFound:
            yield f"{key}: is not there"
            return
        for name, file in sorted(record.files.items()):
            path = directory / name
            if not path.is_file():
                yield f"{key}: {name} is not there"
            elif not _is_right(path, file, hashed=True):
                yield f"{key}: {name} is not what the lock says"
        if record.commit is not None:
            for name in sorted(_listed(directory) - record.files.keys()):
                yield f"{key}: {name} is not listed"

    # ---- what is there ---------------------------------------------------------------------------------------------

    def _locked(self, ref: ModelRef) -> ModelRecord | None:
        """What the lock says of an id; None where there is no lock."""
        if self._sources.lock is None:
            return None
        models = ModelsLock.read(self._sources.lock.expanduser()).models
        record = models.get(str(ref)) or models.get(str(ref.model))
        if record is None:
            log.warning("%s is not in models.lock, and is not loaded", ref)
            raise absent()
        return record

    def _present(self, ref: ModelRef, resolved: Resolved | None, wanted: Sequence[str]) -> _Found | None:
        """A model that needs no download; None otherwise."""
        if resolved is None:
            return None
        directory = self._directory(ref, resolved.listing.commit)
        names = _chosen(ref, resolved.listing.files, wanted)
        files = {name: resolved.files[name] for name in names if name in resolved.files}
        if len(files) < len(names) or not all(
            self._still_right(directory / name, file) for name, file in files.items()
        ):
            return None
        return _Found(directory, files)

    def _fetch_local(self, ref: ModelRef, record: ModelRecord | None, wanted: Sequence[str]) -> Path:
        directory = self._local(ref)
        names = _chosen(ref, record.files if record else _listed(directory), wanted)
        if record is not None:
            for name in names:
                if not self._still_right(directory / name, record.files[name]):
                    log.warning("%s: %s is not what models.lock says", ref, name)
                    raise absent()
        try:
            return locate(names[0], directory) if ref.files else directory
        except ModelNotFound:
            raise absent() from None

    def _local(self, ref: ModelRef) -> Path:
        place = "/".join(part for part in (ref.owner, ref.name, ref.revision) if part)
        for root in self._sources.roots:
            try:
                return locate(place, root)
            except ModelNotFound:
                continue
        raise absent()

    def _still_right(self, path: Path, record: FileRecord) -> bool:
        """Whether a file has its hash, which is not computed again while nobody touches the file: the system sets the time
        of a file's last change, and lets nobody else do it."""
        try:
            about = path.stat()
        except OSError:
            return False
        seen = (record.sha256, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        if self._verified.get(path) != seen:
            if not _is_right(path, record, hashed=self._sources.check_hashes):
                return False
            self._verified[path] = seen
        return True

    @staticmethod
    def _refuse_unlisted(directory: Path, record: ModelRecord) -> None:
        unlisted = _listed(directory) - record.files.keys()
        if unlisted:
            log.error("the cache holds files that models.lock does not list: %s", ", ".join(sorted(unlisted)[:8]))
            raise WorkflowError("the model's directory holds files that models.lock does not list")

    # ---- what is not -----------------------------------------------------------------------------------------------

    def _download(self, ref: ModelRef, resolved: Resolved | None, wanted: Sequence[str], *, keep: bool) -> _Found:
        """Whoever calls is alone with this model. `keep`: write down what the id means, and what of it is here."""
        if resolved is None:
            resolved = Resolved(listing=self._storage(ref).listing(ref))
        directory = self._directory(ref, resolved.listing.commit)
        names = _chosen(ref, resolved.listing.files, wanted)
        files = {name: record for name in names if (record := _kept(directory / name, resolved, name))}
        missing = [name for name in names if name not in files]
        self._check_size(ref, resolved, names, missing)
        if keep:
            resolved.write(self._note(ref))  # what is asked for again is asked of the same commit
        try:
            if missing:
                self._sweep()
                self._download_all(ref, resolved, missing, files)
        finally:
            if keep:  # also where one failed: the others need not be downloaded again
                resolved.model_copy(update={"files": {**resolved.files, **files}}).write(self._note(ref))
        return _Found(directory, files)

    def _download_all(self, ref: ModelRef, resolved: Resolved, names: list[str], done: dict[str, FileRecord]) -> None:
        total = sum(resolved.listing.files[name].size or 0 for name in names)
        log.info("downloading %s: %d files, %d bytes", ref.model, len(names), total)
        stop = threading.Event()
        with (
            tqdm(total=total or None, desc=str(ref.model), unit="B", unit_scale=True, disable=None) as bar,
            ThreadPoolExecutor(self._sources.parallel, "download") as threads,
        ):
            got = 0

            def seen(size: int) -> None:
                nonlocal got
                with self._guard:
                    got += size
                    bar.update(size)
                if got > self._sources.max_model_bytes:
                    raise self._too_large()
                if stop.is_set():
                    raise unreachable()

            running = {threads.submit(self._download_one, ref, resolved, name, seen): name for name in names}
            try:
                for future in as_completed(running):
                    done[running[future]] = future.result()
            except BaseException:
                stop.set()
                threads.shutdown(cancel_futures=True)
                raise

    def _download_one(self, ref: ModelRef, resolved: Resolved, name: str, seen: Callable[[int], None]) -> FileRecord:
        commit, expected, storage = resolved.listing.commit, resolved.listing.files[name], self._storage(ref)
        with self._slots:
            return Download(
                read=lambda start: storage.read(ref, commit, name, start, expected.mark),
                expected=expected,
                partial=self._partial(ref, commit, name),
                most_bytes=self._sources.max_file_bytes,
                trusted=self._sources.code_sha256,
                check_room=self._check_room,
                seen=seen,
            ).into(self._directory(ref, commit) / name)

    def _check_size(self, ref: ModelRef, resolved: Resolved, names: list[str], missing: list[str]) -> None:
        sizes = {name: resolved.listing.files[name].size or 0 for name in names}
        if sum(sizes.values()) > self._sources.max_model_bytes:
            raise self._too_large()
        if missing:
            begun = sum(_size(self._partial(ref, resolved.listing.commit, name)) for name in missing)
            self._check_room(sum(sizes[name] for name in missing) - begun)

    def _check_room(self, needed: int) -> None:
        if shutil.disk_usage(self._cache).free - needed < self._sources.keep_free_bytes:
            raise no_room()
        if self._sources.disk_bytes is not None:
            used = sum(_size(path) for path in self._cache.rglob("*") if path.is_file())
            if used + needed > self._sources.disk_bytes:
                raise no_room()

    def _too_large(self) -> InvalidInput:
        return InvalidInput(f"the model is larger than {self._sources.max_model_bytes} bytes", param="model")

    def _sweep(self) -> None:
        """Remove what others began and nobody went on with for a week."""
        for path in (self._cache / "partial").glob("*"):
            try:
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()
            except FileNotFoundError:
                pass

    # ---- places ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _only_one(self, ref: ModelRef) -> Iterator[None]:
        """Alone with this model among the threads of this process, and then among the processes of this machine."""
        stripe = int.from_bytes(hashlib.sha256(str(ref.model).encode()).digest()[:2]) % _STRIPES
        locks = self._cache / "locks"
        try:
            self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)  # models may not be everybody's
            locks.mkdir(exist_ok=True)
            with self._alone[stripe], FileLock(locks / f"{stripe:03x}", poll_interval=_LOCK_POLL_S):
                yield
        except OSError as cause:
            raise disk_fault(cause) from cause

    def _key(self, ref: ModelRef) -> str:
        """How an id is written down: without its files where the storage tells all there are."""
        return str(ref.model if self._sources.lists(ref.storage) else ref)

    def _note(self, ref: ModelRef) -> Path:
        files = (
            "" if self._sources.lists(ref.storage) else "," + hashlib.sha256(",".join(ref.files).encode()).hexdigest()
        )
        return self._cache / "records" / ref.storage / ref.owner / ref.name / f"{ref.revision or ''},{files}.json"

    def _partial(self, ref: ModelRef, commit: str, name: str) -> Path:
        return self._cache / "partial" / hashlib.sha256(f"{ref.model} {commit} {name}".encode()).hexdigest()

    def _directory(self, ref: ModelRef, commit: str) -> Path:
        return self._cache / "models" / ref.storage / ref.owner / ref.name / commit

    def _storage(self, ref: ModelRef) -> Storage:
        """Its library is imported when it is needed first."""
        with self._guard:
            storage = self._storages.get(ref.storage)
            if storage is None:
                storage = self._storages[ref.storage] = _opened(ref.storage, self._sources)
            return storage


def _opened(name: str, sources: ModelSources) -> Storage:
    try:
        if name == HUB:
            hub = resolve_name("workflows.models.hub:Hub")
            opened: Storage = hub(sources.endpoint, sources.token_file, sources.timeout_s)
        else:
            opened = resolve_name("workflows.models.urls:UrlStorage")(sources.storages[name], sources.timeout_s)
    except ImportError as cause:
        raise InvalidInput("ids of models need `pip install infernet-serve[hub]`", param="model") from cause
    return opened


def _chosen(ref: ModelRef, there: Collection[str], wanted: Sequence[str]) -> list[str]:
    """The files of a model that are needed. Raises ModelNotFound where one is not there, or none is."""
    if ref.files:
        if not all(name in there for name in ref.files):
            raise absent()
        return list(ref.files)
    names = sorted(name for name in there if any(fnmatchcase(name, pattern) for pattern in wanted))
    if not names:
        raise absent()
    return names


def _is_right(path: Path, record: FileRecord, hashed: bool) -> bool:
    try:
        return path.stat().st_size == record.size and (not hashed or sha256_of(path) == record.sha256)
    except OSError:
        return False


def _kept(path: Path, resolved: Resolved, name: str) -> FileRecord | None:
    """The record of a file that is here and right, by what was downloaded, or by what the storage says of its hash."""
    record, said = resolved.files.get(name), resolved.listing.files[name]
    if record is None and said.sha256 is not None:
        record = FileRecord(sha256=said.sha256, size=_size(path))
    return record if record is not None and _is_right(path, record, hashed=True) else None


def _record(path: Path) -> FileRecord:
    return FileRecord(sha256=sha256_of(path), size=_size(path))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _listed(directory: Path) -> set[str]:
    """The files in a directory, by their relative names."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
