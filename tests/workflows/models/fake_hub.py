"""Hugging Face's hub as far as huggingface_hub and we speak to it: on loopback, with faults that tests ask for.

Small files come from the hub itself, large ones by a redirect from a second address, as the real one's do.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

__all__ = ["FakeHub", "File", "fake_hub"]

Fault = Literal["corrupt", "cut", "cut-once", "longer", "no-ranges", "broken"]
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<commit>[0-9a-f]{40})/(?P<file>.+)")
_INFO = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?")


@dataclass
class File:
    content: bytes
    lfs: bool = True
    fault: Fault | None = None
    # Where a test holds the answer up: after so many bytes, `reached` is set and `go` waited for.
    hold_after: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def about(self, name: str) -> dict[str, Any]:
        git = hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()
        said: dict[str, Any] = {"rfilename": name, "size": len(self.content), "blobId": git}
        if self.lfs:
            sha256 = hashlib.sha256(self.content).hexdigest()
            said["lfs"] = {"size": len(self.content), "sha256": sha256, "pointerSize": 130}
        return said


class FakeHub:
    """`repos` has the commits of each repository, `branches` what they are called; `seen` every request, as it came.

    `chatter`: bytes that it says of a model beside what one asks. `most_held`: files that were held up at once.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, File]]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.refused: dict[str, int] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.chatter = self.holding = self.most_held = 0
        self.counting = threading.Lock()
        self.endpoint = self.large = ""

    def push(self, repo: str, files: dict[str, File | bytes], branch: str = "main") -> str:
        commits = self.repos.setdefault(repo, {})
        commit = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits[commit] = {name: file if isinstance(file, File) else File(file) for name, file in files.items()}
        self.branches[repo, branch] = commit
        return commit

    def count(self, path: str) -> int:
        """How often something was asked for whose path contains this."""
        return sum(path in seen for _, seen, _ in self.seen)

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self.counting:
            self.holding += 1
            self.most_held = max(self.most_held, self.holding)
        try:
            yield
        finally:
            with self.counting:
                self.holding -= 1

    def info(self, repo: str, revision: str) -> dict[str, Any] | None:
        commit = self.branches.get((repo, revision), revision)
        files = self.repos.get(repo, {}).get(commit)
        if files is None:
            return None
        siblings = [file.about(name) for name, file in files.items()]
        tags = ["x" * self.chatter]
        return {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": tags, "private": False}


class _Answers(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append((self.headers["Host"], path, {key.lower(): value for key, value in self.headers.items()}))
        info, file = _INFO.fullmatch(path), _RESOLVE.fullmatch(path)
        repo = (info or file or {"repo": ""})["repo"]
        if repo in self.hub.refused:
            self.say(self.hub.refused[repo], b"{}")
        elif info:
            said = self.hub.info(repo, info["revision"] or "main")
            self.say(
                200 if said else 404,
                json.dumps(said or {}).encode(),
                **({} if said else {"X-Error-Code": "RepoNotFound"}),
            )
        elif file:
            found = self.hub.repos.get(repo, {}).get(file["commit"], {}).get(file["file"])
            at_large = self.headers["Host"] == urlsplit(self.hub.large).netloc
            if found is None:
                self.say(404, b"")
            elif found.lfs and not at_large:
                self.say(302, b"", Location=self.hub.large + self.path)
            else:
                self.give(found)
        else:
            self.say(404, b"")

    def say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def give(self, file: File) -> None:
        content, start = file.content, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and file.fault != "no-ranges":
            start = int(asked[1])
        if file.fault == "broken":
            self.say(500, b"out of order")
            return
        if file.fault == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if file.fault == "longer":
            content += bytes(100)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if file.fault in ("cut", "cut-once"):
            end = (
                start + max(0, (end - start) // 2) if file.fault == "cut-once" else min(end // 2, max(start, end // 2))
            )
            file.fault = None if file.fault == "cut-once" else "cut"
            self.close_connection = True
        middle = min(end, max(start, end if file.hold_after is None else file.hold_after))
        self.wfile.write(content[start:middle])
        if file.hold_after is not None:
            self.wfile.flush()
            with self.hub.counted():
                file.reached.set()
                file.go.wait(30)
        self.wfile.write(content[middle:end])


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    answers = type("Answers", (_Answers,), {"hub": hub})
    servers = [_Server(("127.0.0.1", 0), answers), _Server(("127.0.0.1", 0), answers)]
    hub.endpoint, hub.large = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for file in (file for commits in hub.repos.values() for files in commits.values() for file in files.values()):
            file.go.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left, or was killed, is what tests are about."""
