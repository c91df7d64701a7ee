"""`python -m workflows.models`, as an operator runs it, and what a download looks like to those who kill it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workflows.models.fake_hub import FakeHub, File
from workflows.models.__main__ import main

DIGITS = "huggingface/acme/digits"


@pytest.fixture
def sources(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sources.yaml"
    path.write_text(
        yaml.safe_dump({**settings, "cache": str(settings["cache"]), "lock": str(tmp_path / "models.lock")})
    )
    monkeypatch.setenv("INFERNET_MODELS", str(path))
    return path


def lock(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "models.lock").read_text())["models"]


@pytest.mark.usefixtures("sources")
def test_a_lock_is_written_updated_and_verified(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = hub.push("acme/digits", {"m.onnx": b"one", "n.onnx": b"n", "config.json": File(b"{}", lfs=False)})
    assert main(["lock", DIGITS, "--files", "m.onnx", "*.json"]) == 0
    assert lock(tmp_path)[DIGITS]["commit"] == first
    assert sorted(lock(tmp_path)[DIGITS]["files"]) == ["config.json", "m.onnx"]
    assert main(["lock", f"{DIGITS}:n.onnx"]) == 0
    assert sorted(lock(tmp_path)[DIGITS]["files"]) == ["config.json", "m.onnx", "n.onnx"]
    second = hub.push("acme/digits", {"m.onnx": b"two", "n.onnx": b"n", "config.json": File(b"{}", lfs=False)})
    assert main(["verify"]) == 0
    assert main(["lock", "--update"]) == 0
    assert lock(tmp_path)[DIGITS]["commit"] == second
    assert sorted(lock(tmp_path)[DIGITS]["files"]) == ["config.json", "m.onnx", "n.onnx"]
    assert main(["lock", DIGITS]) == 0
    assert f"{DIGITS}: unchanged, 3 files" in capsys.readouterr().out
    (path,) = (tmp_path / "cache" / "models").rglob(f"{second}/m.onnx")
    path.write_bytes(b"twp")
    assert main(["verify"]) == 1
    assert f"{DIGITS}: m.onnx is not what the lock says" in capsys.readouterr().err
    path.unlink()
    (path.parent / "extra.json").write_text("{}")
    assert main(["verify"]) == 1
    said = capsys.readouterr().err
    assert "m.onnx is not there" in said
    assert "extra.json is not listed" in said


@pytest.mark.usefixtures("sources")
def test_what_cannot_be_locked_is_said_and_keeps_the_rest(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.push("acme/digits", {"m.onnx": b"one"})
    assert main(["lock", "huggingface/acme/absent", DIGITS]) == 1
    assert list(lock(tmp_path)) == [DIGITS]
    assert "huggingface/acme/absent: model not found" in capsys.readouterr().err
    assert main(["lock"]) == 1
    assert main(["lock", "../../etc/passwd"]) == 1
    (tmp_path / "models.lock").write_text('{"version": 1, "models": {"a": {"files": {"../x": {"sha256": "x"}}}}}')
    assert main(["verify"]) == 1
    assert "models.lock cannot be read" in capsys.readouterr().err


@pytest.mark.usefixtures("sources")
def test_a_disk_that_is_full_in_the_middle(hub: FakeHub, tmp_path: Path) -> None:
    """Played by a limit of the system on what a process may write into one file."""
    hub.push("acme/digits", {"m.onnx": os.urandom(2_000_000), "config.json": File(b"{}", lfs=False)})
    command = ["prlimit", "--fsize=1000000", sys.executable, "-m", "workflows.models", "lock", DIGITS]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, f"{DIGITS}: there is no room for this model on the disk\n")
    assert not (tmp_path / "models.lock").exists()
    assert list((tmp_path / "cache" / "partial").iterdir()) == []
    assert not list((tmp_path / "cache" / "models").rglob("m.onnx"))


def sizes(directory: Path) -> Iterator[int]:
    for path in directory.iterdir():
        with suppress(FileNotFoundError):  # it has got its name meanwhile
            yield path.stat().st_size


def test_killed_in_the_middle_and_started_again(hub: FakeHub, sources: Path, tmp_path: Path) -> None:
    file = File(os.urandom(3_000_000), hold_after=1_000_000)
    hub.push("acme/digits", {"m.onnx": file, "config.json": File(b"{}", lfs=False)})
    command = [sys.executable, "-m", "workflows.models", "lock", DIGITS]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert file.reached.wait(30)
    partial = tmp_path / "cache" / "partial"
    while not any(size > 2 for size in sizes(partial)):  # of the large file: the small one may be there before
        assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not list((tmp_path / "cache" / "models").rglob("m.onnx"))
    assert not (tmp_path / "models.lock").exists()
    file.go.set()
    file.hold_after = None
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    ((_, _, headers),) = [seen for seen in hub.seen if "range" in seen[2] and seen[0] in hub.large]
    assert int(headers["range"].removeprefix("bytes=").removesuffix("-")) > 0  # it went on, and did not begin again
    (path,) = (tmp_path / "cache" / "models").rglob("m.onnx")
    assert path.read_bytes() == file.content
    assert list(partial.iterdir()) == []
    assert main(["verify"]) == 0
    assert sources.exists()
