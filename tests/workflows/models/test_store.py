"""Models from a hub: downloaded once, pinned, checked, and never there by half. The real client, against a hub of ours."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.models.fake_hub import FakeHub, File
from tests.workflows.models.payloads import PAYLOADS, Canary
from workflows.errors import InvalidInput, ModelNotFound, Overloaded, UpstreamFailed, WorkflowError
from workflows.models.download import Download
from workflows.models.hub import Hub
from workflows.models.records import ModelsLock
from workflows.models.ref import ModelRef, parse_ref
from workflows.models.sources import ModelSources
from workflows.models.storage import Listing, RemoteFile
from workflows.models.store import ModelStore

DIGITS = "huggingface/acme/digits"


def store(settings: dict[str, Any], **more: Any) -> ModelStore:
    return ModelStore(ModelSources.model_validate({**settings, **more}))


def fetch(settings: dict[str, Any], text: str, **more: Any) -> Path:
    return store(settings, **more).fetch(parse_ref(text))


def left(settings: dict[str, Any]) -> list[str]:
    """The names of all files of models, whole or not, that are in the cache."""
    cache = settings["cache"]
    return sorted(path.name for place in ("models", "partial") for path in (cache / place).rglob("*") if path.is_file())


def test_the_first_request_downloads_and_no_later_one_connects(hub: FakeHub, settings: dict[str, Any]) -> None:
    hub.push(
        "acme/digits",
        {"onnx/m.onnx": b"m" * 3000, "config.json": File(b"{}", lfs=False), "code.py": b"x", ".env": b"x"},
    )
    ours = store(settings)
    directory = ours.fetch(parse_ref(DIGITS))
    assert (directory / "onnx" / "m.onnx").read_bytes() == b"m" * 3000
    assert left(settings) == ["config.json", "m.onnx"]  # code is not even downloaded
    asked = len(hub.seen)
    assert ours.fetch(parse_ref(DIGITS)) == directory
    assert ours.fetch(parse_ref(f"{DIGITS}:onnx/m.onnx")) == directory / "onnx" / "m.onnx"
    assert fetch(settings, DIGITS) == directory  # another process, as far as the cache knows
    assert len(hub.seen) == asked


def test_a_branch_that_moves_still_means_what_it_meant(hub: FakeHub, settings: dict[str, Any]) -> None:
    first = hub.push("acme/digits", {"a.onnx": b"old", "b.onnx": b"old too"})
    assert fetch(settings, f"{DIGITS}:a.onnx").read_bytes() == b"old"
    second = hub.push("acme/digits", {"a.onnx": b"new", "b.onnx": b"new too"})
    assert fetch(settings, f"{DIGITS}:a.onnx").read_bytes() == b"old"
    assert fetch(settings, f"{DIGITS}:b.onnx").read_bytes() == b"old too"
    assert fetch(settings, f"{DIGITS}@{second}:a.onnx").read_bytes() == b"new"
    key, record = store(settings).lock(parse_ref(DIGITS))
    assert (key, record.commit) == (DIGITS, second)
    assert fetch(settings, f"{DIGITS}:a.onnx").read_bytes() == b"new"
    assert first != second


@pytest.mark.parametrize("lfs", [True, False])
@pytest.mark.parametrize("fault", ["corrupt", "cut", "longer", "broken"])
def test_a_wrong_content_is_refused_and_not_kept(hub: FakeHub, settings: dict[str, Any], fault: Any, lfs: bool) -> None:
    hub.push("acme/digits", {"m.onnx": File(b"m" * 100_000, fault=fault, lfs=lfs), "config.json": b"{}"})
    with pytest.raises(UpstreamFailed) as caught:
        fetch(settings, DIGITS)
    assert caught.value.retryable == (fault in ("cut", "broken"))
    assert not list((settings["cache"] / "models").rglob("m.onnx"))
    (file,) = (files["m.onnx"] for files in hub.repos["acme/digits"].values())
    file.fault = None
    assert (fetch(settings, DIGITS) / "m.onnx").read_bytes() == file.content
    assert left(settings) == ["config.json", "m.onnx"]


@pytest.mark.parametrize("fault", ["cut-once", "no-ranges"])
def test_a_download_goes_on_where_it_broke_off(hub: FakeHub, settings: dict[str, Any], fault: Any) -> None:
    file = File(bytes(range(256)) * 1000, fault="cut-once")
    hub.push("acme/digits", {"m.onnx": file})
    if fault == "no-ranges":
        file.fault = "cut"
        with pytest.raises(UpstreamFailed):
            fetch(settings, DIGITS)
        file.fault = "no-ranges"
    assert (fetch(settings, DIGITS) / "m.onnx").read_bytes() == file.content
    assert hub.seen[-1][2]["range"] == "bytes=128000-"


def test_a_beginning_that_is_wrong_is_thrown_away(hub: FakeHub, settings: dict[str, Any]) -> None:
    file = File(b"right" * 1000, fault="cut")
    hub.push("acme/digits", {"m.onnx": file})
    with pytest.raises(UpstreamFailed):
        fetch(settings, DIGITS)
    (begun,) = (settings["cache"] / "partial").iterdir()
    begun.write_bytes(b"wrong" * 200)
    file.fault = None
    assert (fetch(settings, DIGITS) / "m.onnx").read_bytes() == file.content
    begun.write_bytes(b"x" * 10_000)  # longer than the whole, after the file was damaged
    next((settings["cache"] / "models").rglob("m.onnx")).write_bytes(b"left" * 1250)
    assert (fetch(settings, DIGITS) / "m.onnx").read_bytes() == file.content


def test_fifty_at_once_make_one_download(hub: FakeHub, settings: dict[str, Any]) -> None:
    file = File(b"m" * 100_000, hold_after=50_000)
    hub.push("acme/digits", {"m.onnx": file})
    stores = [store(settings) for _ in range(5)]  # as in five processes: what they share is on the disk
    together = threading.Barrier(51)

    def ask(number: int) -> Path:
        together.wait()
        return stores[number % 5].fetch(parse_ref(DIGITS))

    with ThreadPoolExecutor(50) as threads:
        waiting = [threads.submit(ask, number) for number in range(50)]
        together.wait()
        assert file.reached.wait(10)
        file.go.set()
        found = {future.result() for future in waiting}
    assert len(found) == 1
    assert hub.count("/api/models/") == 1
    assert hub.count("m.onnx") == 2  # the file, and the redirect to it


def test_one_model_does_not_wait_for_another(hub: FakeHub, settings: dict[str, Any]) -> None:
    slow = File(b"slow" * 100, hold_after=10)
    hub.push("acme/slow", {"m.onnx": slow})
    hub.push("acme/fast", {"m.onnx": b"fast"})
    ours = store(settings)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ours.fetch, parse_ref("huggingface/acme/slow:m.onnx"))
        assert slow.reached.wait(10)
        assert ours.fetch(parse_ref("huggingface/acme/fast:m.onnx")).read_bytes() == b"fast"
        assert not waiting.done()
        slow.go.set()
        assert waiting.result().read_bytes() == slow.content


def test_only_so_many_files_at_once_of_all_models(hub: FakeHub, settings: dict[str, Any]) -> None:
    files = [File(b"m" * 100, hold_after=10) for _ in range(6)]
    for number, file in enumerate(files):
        hub.push(f"acme/m{number}", {"m.onnx": file, "n.onnx": b"n"})
    ours = store(settings, parallel=2)
    with ThreadPoolExecutor(6) as threads:
        waiting = [threads.submit(ours.fetch, parse_ref(f"huggingface/acme/m{number}")) for number in range(6)]
        while hub.count("/api/models/") < 6 or sum(file.reached.wait(0.01) for file in files) < 2:
            assert not any(future.done() for future in waiting)
        for file in files:
            file.go.set()
        for future in waiting:
            assert sorted(path.name for path in future.result().iterdir()) == ["m.onnx", "n.onnx"]
    assert hub.most_held == 2


def test_what_an_operator_deletes_is_downloaded_again_as_it_was(hub: FakeHub, settings: dict[str, Any]) -> None:
    commit = hub.push("acme/digits", {"m.onnx": b"one"})
    ours = store(settings)
    ours.fetch(parse_ref(DIGITS))
    hub.push("acme/digits", {"m.onnx": b"two"})
    for begun in (ours, store(settings)):
        shutil.rmtree(settings["cache"] / "models")
        assert begun.fetch(parse_ref(DIGITS)).name == commit
        assert begun.fetch(parse_ref(f"{DIGITS}:m.onnx")).read_bytes() == b"one"
    assert hub.count("/api/models/") == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_unknown_private_and_gated_are_one_answer(hub: FakeHub, settings: dict[str, Any], status: int) -> None:
    hub.push("acme/digits", {"m.onnx": b"m"})
    hub.refused["acme/digits"] = status
    for text in (DIGITS, f"{DIGITS}@absent", f"{DIGITS}:absent.onnx", "huggingface/no/body"):
        with pytest.raises(ModelNotFound) as caught:
            fetch(settings, text)
        assert caught.value.message == "model not found"


def test_what_is_not_there_is_not_found(hub: FakeHub, settings: dict[str, Any]) -> None:
    hub.push("acme/digits", {"m.onnx": b"m", "weights.bin": b"w"})
    hub.push("acme/empty", {"weights.bin": b"w"})
    for text in (
        f"{DIGITS}:absent.onnx",
        f"{DIGITS}@absent",
        "huggingface/acme/empty",
        "local/acme/digits",
        "s3/a/b",
        "huggingface/a--b/c",
    ):
        with pytest.raises(ModelNotFound):
            fetch(settings, text)


def test_a_hub_that_does_not_answer_is_upstreams_fault(hub: FakeHub, settings: dict[str, Any]) -> None:
    hub.refused["acme/digits"] = 500
    for endpoint in (hub.endpoint, "http://127.0.0.1:9"):
        with pytest.raises(UpstreamFailed) as caught:
            fetch(settings, DIGITS, endpoint=endpoint)
        assert caught.value.retryable
        assert "127.0.0.1" not in caught.value.message


def test_a_hub_that_does_not_come_to_an_end(hub: FakeHub, settings: dict[str, Any]) -> None:
    commit = hub.push("acme/digits", {"m.onnx": b"m"})
    hub.chatter = 1 << 20
    assert Hub(hub.endpoint, None, 5).listing(parse_ref(DIGITS)).commit == commit
    seconds = iter(range(0, 1000, 40))
    with pytest.raises(UpstreamFailed, match="did not answer"):
        Hub(hub.endpoint, None, 5, clock=lambda: float(next(seconds))).listing(parse_ref(DIGITS))
    assert next(seconds) == 120  # it was not read to its end
    hub.chatter = 17 << 20
    with pytest.raises(UpstreamFailed, match="did not answer"):
        fetch(settings, DIGITS)


def test_the_token_goes_to_the_hub_and_no_further(
    hub: FakeHub, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    (tmp_path / "token").write_text("hf_secret\n")
    hub.push("acme/digits", {"m.onnx": b"m", "config.json": File(b"{}", lfs=False)})
    fetch(settings, DIGITS, token_file=tmp_path / "token")
    large = hub.large.removeprefix("http://")
    told = {host == large: headers.get("authorization") for host, _, headers in hub.seen}
    assert told == {False: "Bearer hf_secret", True: None}
    assert "hf_secret" not in caplog.text
    with pytest.raises(InvalidInput, match="token"):
        fetch(settings, f"{DIGITS}@v2", token_file=tmp_path / "absent")


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_file_bytes": 999}, InvalidInput),
        ({"max_file_bytes": 1000, "max_model_bytes": 1500}, InvalidInput),
        ({"disk_bytes": 1999}, Overloaded),
        ({"keep_free_bytes": 1 << 60}, Overloaded),
    ],
)
def test_what_is_too_large_is_not_downloaded(
    hub: FakeHub, settings: dict[str, Any], limits: dict[str, int], error: type[WorkflowError]
) -> None:
    hub.push("acme/digits", {"a.onnx": b"a" * 1000, "b.onnx": b"b" * 1000})
    with pytest.raises(error):
        fetch(settings, DIGITS, **limits)
    assert hub.count("resolve") == 0
    assert left(settings) == []


@pytest.mark.parametrize(("name", "make"), [pytest.param(name, make, id=name) for name, _, make in PAYLOADS])
def test_what_runs_code_is_refused_with_the_reason_and_not_kept(
    hub: FakeHub, settings: dict[str, Any], tmp_path: Path, name: str, make: Any
) -> None:
    canary = tmp_path / "canary"
    content = make(Canary(canary))
    hub.push("acme/digits", {"model.safetensors": content})
    with pytest.raises(InvalidInput, match=r"may run code when it is loaded, so it is not kept.*code_sha256") as caught:
        fetch(settings, DIGITS)
    assert left(settings) == []
    sha256 = hashlib.sha256(content).hexdigest()
    assert sha256 in caught.value.message
    assert fetch(settings, f"{DIGITS}:model.safetensors", code_sha256=[sha256]).read_bytes() == content
    assert not canary.exists()


def test_what_was_not_there_is_looked_for_again(hub: FakeHub, settings: dict[str, Any]) -> None:
    """An id means a commit from when it was found, and not from when somebody asked in vain."""
    hub.push("acme/digits", {"README.md": b"soon"})
    for text in (DIGITS, f"{DIGITS}:m.onnx"):
        with pytest.raises(ModelNotFound):
            fetch(settings, text)
    hub.push("acme/digits", {"m.onnx": b"m" * 1000})
    with pytest.raises(InvalidInput):
        fetch(settings, DIGITS, max_file_bytes=999, max_model_bytes=999)
    hub.push("acme/digits", {"m.onnx": b"m" * 10})
    assert fetch(settings, f"{DIGITS}:m.onnx").read_bytes() == b"m" * 10


def test_what_cannot_be_locked_leaves_the_id_what_it_was(hub: FakeHub, settings: dict[str, Any]) -> None:
    hub.push("acme/digits", {"m.onnx": b"one"})
    fetch(settings, DIGITS)
    hub.push("acme/digits", {"m.onnx": File(b"two", fault="corrupt")})
    with pytest.raises(UpstreamFailed):
        store(settings).lock(parse_ref(DIGITS))
    assert (fetch(settings, DIGITS) / "m.onnx").read_bytes() == b"one"


def test_what_was_thrown_away_does_not_count(hub: FakeHub, settings: dict[str, Any]) -> None:
    file = File(b"right" * 200, fault="cut")
    hub.push("acme/digits", {"m.onnx": file})
    with pytest.raises(UpstreamFailed):
        fetch(settings, DIGITS)
    (begun,) = (settings["cache"] / "partial").iterdir()
    begun.write_bytes(b"wrong" * 150)
    file.fault = None
    path = fetch(settings, DIGITS, max_file_bytes=1000, max_model_bytes=1000)
    assert (path / "m.onnx").read_bytes() == file.content


def test_a_storage_that_only_drips_is_given_up(tmp_path: Path) -> None:
    ticks = itertools.count(step=25.0)
    closed: list[int] = []

    def drip(start: int) -> Generator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append(start)

    with pytest.raises(UpstreamFailed):
        Download(
            read=drip,
            expected=RemoteFile(size=1 << 30, git_sha1="0" * 40),
            partial=tmp_path / "partial",
            most_bytes=1 << 40,
            trusted=frozenset(),
            check_room=lambda needed: None,
            seen=lambda size: None,
            clock=lambda: next(ticks),
        ).into(tmp_path / "final")
    assert closed == [3 * attempt for attempt in range(20)]
    assert not (tmp_path / "final").exists()


class Generous:
    """A storage that gives these sizes, whatever it `said` of each."""

    def __init__(self, *sizes: int, said: int | None = None) -> None:
        self.sizes = {f"m{number}.onnx": size for number, size in enumerate(sizes)}
        self.said = RemoteFile(size=said)
        self.given = 0

    def listing(self, ref: ModelRef) -> Listing:
        return Listing(commit="a" * 40, files=dict.fromkeys(self.sizes, self.said))

    def read(self, ref: ModelRef, commit: str, file: str, start: int, mark: str | None) -> Generator[bytes]:
        for _ in range(0, self.sizes[file], 1 << 20):
            self.given += 1 << 20
            yield bytes(1 << 20)


def test_what_proves_to_be_larger_than_was_said_or_than_it_may_be_ends_then(settings: dict[str, Any]) -> None:
    ours = store(settings, max_file_bytes=4 << 20, max_model_bytes=5 << 20, parallel=1)
    ours._storages["huggingface"] = Generous(3 << 20, 3 << 20, 3 << 20)
    with pytest.raises(InvalidInput, match=f"the model is larger than {5 << 20} bytes"):
        ours.fetch(parse_ref(DIGITS))
    assert left(settings) == ["m0.onnx"]
    ours._storages["huggingface"] = Generous(5 << 20)
    with pytest.raises(InvalidInput, match=f"a file of the model is larger than {4 << 20} bytes"):
        ours.fetch(parse_ref(f"{DIGITS}@other"))
    assert left(settings) == ["m0.onnx"]
    ours._storages["huggingface"] = more = Generous(1 << 40, said=2 << 20)
    with pytest.raises(UpstreamFailed, match="another content"):
        ours.fetch(parse_ref(f"{DIGITS}@third"))
    assert (more.given, left(settings)) == (3 << 20, ["m0.onnx"])


def test_a_disk_that_fills_up_in_the_middle_ends_the_download(settings: dict[str, Any]) -> None:
    """Whatever was said of its size, and whoever else fills it."""
    endless = Generous(1 << 30)
    ours = store(settings, disk_bytes=100 << 20)
    ours._storages["huggingface"] = endless
    with pytest.raises(Overloaded, match="no room") as caught:
        ours.fetch(parse_ref(DIGITS))
    assert caught.value.retry_after_s
    assert endless.given <= 200 << 20
    assert left(settings) == []


def test_a_cache_that_cannot_be_written_is_said(hub: FakeHub, settings: dict[str, Any], tmp_path: Path) -> None:
    hub.push("acme/digits", {"m.onnx": b"m"})
    (tmp_path / "file").touch()
    with pytest.raises(WorkflowError, match="the cache of models cannot be written") as caught:
        fetch(settings, DIGITS, cache=tmp_path / "file" / "cache")
    assert not isinstance(caught.value, Overloaded)
    fetch(settings, DIGITS)
    assert settings["cache"].stat().st_mode & 0o777 == 0o700


# ---- the lock --------------------------------------------------------------------------------------------------------


def locked(settings: dict[str, Any], *ids: str) -> Path:
    path = Path(settings["cache"]).parent / "models.lock"
    ModelsLock(models=dict(store(settings).lock(parse_ref(text)) for text in ids)).write(path)
    return path


def test_with_a_lock_nothing_unlisted_is_loaded_and_nobody_is_asked(hub: FakeHub, settings: dict[str, Any]) -> None:
    hub.push("acme/digits", {"m.onnx": b"m"})
    hub.push("acme/other", {"m.onnx": b"m"})
    settings["lock"] = locked(settings, DIGITS)
    asked = len(hub.seen)
    assert fetch(settings, f"{DIGITS}:m.onnx").read_bytes() == b"m"
    for text in ("huggingface/acme/other", f"{DIGITS}@main", f"{DIGITS}:n.onnx"):
        with pytest.raises(ModelNotFound, match="model not found"):
            fetch(settings, text)
    assert len(hub.seen) == asked
    (directory,) = (settings["cache"] / "models").rglob("m.onnx")
    (directory.parent / "config.json").write_text("{}")
    with pytest.raises(WorkflowError, match="does not list"):
        fetch(settings, DIGITS)


def test_a_lock_is_enough_for_another_machine(hub: FakeHub, settings: dict[str, Any], tmp_path: Path) -> None:
    hub.push("acme/digits", {"m.onnx": b"m" * 100, "config.json": File(b"{}", lfs=False)})
    settings["lock"] = locked(settings, DIGITS)
    hub.push("acme/digits", {"m.onnx": b"n" * 100, "config.json": File(b"{}", lfs=False)})
    settings["cache"] = tmp_path / "another"
    asked = hub.count("/api/")
    assert (fetch(settings, DIGITS) / "m.onnx").read_bytes() == b"m" * 100
    assert hub.count("/api/") == asked
    # The hub gives something else for the same commit: what has no hash of the hub's has the lock's.
    (old, _) = hub.repos["acme/digits"].values()
    old["config.json"].content = b"[]"
    settings["cache"] = tmp_path / "third"
    with pytest.raises(UpstreamFailed, match="another content"):
        fetch(settings, DIGITS)


def test_a_flipped_byte_is_noticed_and_mended(hub: FakeHub, settings: dict[str, Any]) -> None:
    hub.push("acme/digits", {"m.onnx": b"m" * 100})
    path = fetch(settings, f"{DIGITS}:m.onnx")
    path.write_bytes(b"m" * 99 + b"n")
    assert fetch(settings, f"{DIGITS}:m.onnx", check_hashes=False).read_bytes() != b"m" * 100
    assert fetch(settings, f"{DIGITS}:m.onnx").read_bytes() == b"m" * 100


# ---- this machine ----------------------------------------------------------------------------------------------------


def test_local_ids_lie_below_a_root(settings: dict[str, Any], tmp_path: Path) -> None:
    model = tmp_path / "zoo" / "acme" / "digits"
    (model / "v2").mkdir(parents=True)
    (model / "m.onnx").write_bytes(b"one")
    (model / "v2" / "m.onnx").write_bytes(b"two")
    (tmp_path / "secret").write_bytes(b"s")
    (model / "link.onnx").symlink_to(tmp_path / "secret")
    settings["roots"] = [str(tmp_path / "absent"), str(tmp_path / "zoo")]
    assert fetch(settings, "local/acme/digits") == model
    assert fetch(settings, "local/acme/digits:m.onnx").read_bytes() == b"one"
    assert fetch(settings, "local/acme/digits@v2:m.onnx").read_bytes() == b"two"
    for text in ("local/acme/absent", "local/acme/digits:absent.onnx", "local/acme/digits:link.onnx"):
        with pytest.raises(ModelNotFound, match=r"^model not found$"):
            fetch(settings, text)
    settings["lock"] = locked(settings, "local/acme/digits:m.onnx")
    assert fetch(settings, "local/acme/digits:m.onnx").read_bytes() == b"one"
    (model / "m.onnx").write_bytes(b"two")
    for text in ("local/acme/digits:m.onnx", "local/acme/digits@v2:m.onnx", "local/acme/digits"):
        with pytest.raises(ModelNotFound):
            fetch(settings, text)
