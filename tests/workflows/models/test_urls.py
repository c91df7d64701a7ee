"""Models from object stores, played by fsspec's memory, and from a web server that cannot list its files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from workflows.errors import InvalidInput, ModelNotFound, UpstreamFailed, WorkflowError
from workflows.models.download import Download
from workflows.models.ref import parse_ref
from workflows.models.sources import ModelSources
from workflows.models.store import ModelStore
from workflows.models.urls import UrlStorage


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def end_headers(self) -> None:
        """With a mark of the content, as web servers give it, where a file beside it says so."""
        if Path(self.directory, "marked").exists() and Path(self.translate_path(self.path)).is_file():
            self.send_header("ETag", f'"{hash(Path(self.translate_path(self.path)).read_bytes())}"')
        super().end_headers()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "web").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_object_stores_list_what_a_model_has() -> None:
    memory = fsspec.filesystem("memory")
    for name, content in {"m.onnx": b"m" * 100, "onnx/n.onnx": b"n", "../up.onnx": b"x", ".env": b"x"}.items():
        memory.pipe(f"/bucket/acme/digits/{name}", content)
    memory.pipe("/bucket/acme/digits2/m.onnx", b"other")
    storage = UrlStorage("memory://bucket", 5)
    ref = parse_ref("s3/acme/digits")
    listing = storage.listing(ref)
    assert {name: file.size for name, file in listing.files.items()} == {"m.onnx": 100, "onnx/n.onnx": 1}
    assert b"".join(storage.read(ref, listing.commit, "m.onnx", 40, None)) == b"m" * 60
    assert storage.listing(ref) == listing
    memory.pipe("/bucket/acme/digits/m.onnx", b"m" * 101)
    assert storage.listing(ref).commit != listing.commit
    for text in ("s3/acme/absent", "s3/acme/digits@v2"):
        with pytest.raises(ModelNotFound):
            storage.listing(parse_ref(text))
    with pytest.raises(ModelNotFound):
        list(storage.read(ref, listing.commit, "absent", 0, None))
    memory.rm("/bucket", recursive=True)


def test_over_http_files_are_named_by_the_id(web: str, tmp_path: Path) -> None:
    place = tmp_path / "web" / "acme" / "digits"
    place.mkdir(parents=True)
    (place / "m.onnx").write_bytes(b"m" * 1000)
    (place / "n.onnx").write_bytes(b"n")
    settings: dict[str, Any] = {"cache": tmp_path / "cache", "storages": {"web": web}, "keep_free_bytes": 0}
    store = ModelStore(ModelSources.model_validate(settings))
    path = store.fetch(parse_ref("web/acme/digits:m.onnx"))
    assert path.read_bytes() == b"m" * 1000
    assert store.fetch(parse_ref("web/acme/digits:n.onnx")).read_bytes() == b"n"
    (place / "m.onnx").write_bytes(b"x" * 1001)
    assert store.fetch(parse_ref("web/acme/digits:m.onnx")) == path
    assert path.read_bytes() == b"m" * 1000  # as it was first seen
    key, record = store.lock(parse_ref("web/acme/digits:m.onnx"))
    assert (key, record.files["m.onnx"].size) == ("web/acme/digits:m.onnx", 1001)
    with pytest.raises(InvalidInput, match="name them"):
        store.fetch(parse_ref("web/acme/digits"))
    with pytest.raises(ModelNotFound):
        store.fetch(parse_ref("web/acme/digits:absent.onnx"))
    small = ModelStore(ModelSources.model_validate({**settings, "cache": tmp_path / "two", "max_file_bytes": 1000}))
    with pytest.raises(InvalidInput, match="larger"):
        small.fetch(parse_ref("web/acme/digits:m.onnx"))


@pytest.mark.parametrize("marked", [True, False])
def test_no_file_is_made_of_two_contents(web: str, tmp_path: Path, marked: bool) -> None:
    """What was there when it was listed is what is kept, or nothing is; what cannot tell does not go on in the middle."""
    place = tmp_path / "web" / "acme" / "digits"
    place.mkdir(parents=True)
    if marked:
        (tmp_path / "web" / "marked").touch()
    (place / "m.onnx").write_bytes(b"m" * 1000)
    storage, ref = UrlStorage(web, 5), parse_ref("web/acme/digits:m.onnx")
    listing = storage.listing(ref)
    (place / "m.onnx").write_bytes(b"x" * 1000)
    about = listing.files["m.onnx"]
    assert (about.mark is not None) is marked
    download = Download(
        read=lambda start: storage.read(ref, listing.commit, "m.onnx", start, about.mark),
        expected=about,
        partial=tmp_path / "partial",
        most_bytes=2000,
        trusted=frozenset(),
        check_room=lambda needed: None,
        seen=lambda size: None,
    )
    download.partial.write_bytes(b"m" * 400)
    if marked:
        with pytest.raises(UpstreamFailed, match="another content"):
            download.into(tmp_path / "final")
        assert not download.partial.exists()
    else:
        download.into(tmp_path / "final")
        assert (tmp_path / "final").read_bytes() == b"x" * 1000


def test_a_storage_that_is_down_or_lacks_its_package(tmp_path: Path) -> None:
    faults: list[tuple[str, type[WorkflowError]]] = [
        ("http://127.0.0.1:9", UpstreamFailed),
        ("s3://bucket", InvalidInput),
    ]
    for url, error in faults:
        storage = UrlStorage(url, 1)
        with pytest.raises(error) as caught:
            storage.listing(parse_ref("web/acme/digits:m.onnx"))
        assert "127.0.0.1" not in caught.value.message
        assert "s3fs" not in caught.value.message
    assert tmp_path.is_dir()


def test_a_large_file_of_a_server_without_ranges(web: str, tmp_path: Path) -> None:
    place = tmp_path / "web" / "acme" / "digits"
    place.mkdir(parents=True)
    content = bytes(range(256)) * 40_000
    (place / "m.onnx").write_bytes(content)
    storage, ref = UrlStorage(web, 5), parse_ref("web/acme/digits:m.onnx")
    for start in (0, 9_000_000):
        assert b"".join(storage.read(ref, "", "m.onnx", start, None)) == content[start:]
