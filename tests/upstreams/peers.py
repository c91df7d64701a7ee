"""Upstreams that nobody wrote for these tests: our own router, and servers of others where they are installed.

Those of others are started from where the environment says that their commands are, and skipped where it does not:

    UPSTREAM_TRANSFORMERS   transformers, of an environment with transformers[serving]
    UPSTREAM_LITELLM        litellm, of an environment with litellm[proxy]
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from workflows import AsyncInferenceWorkflow, HFInferenceClientWorkflow, TGIClientInferenceWorkflow
from workflows.inference.css.workflow import CSSInferenceWorkflow

__all__ = ["LITELLM", "OURS", "TRANSFORMERS", "Peer", "command", "serving"]

Workflow = AsyncInferenceWorkflow[Any, Any, Any]

PROMPT: Final = "The for statement"
GREEDY: Final = {"max_tokens": 8, "temperature": 0.0}
CONTINUED: Final[Mapping[str, Any]] = {"prompt": PROMPT, "sampling": GREEDY}
SAID: Final[Mapping[str, Any]] = {"messages": [{"role": "user", "content": PROMPT}], "sampling": GREEDY}
_STARTS_S: Final = 90.0


@dataclass(frozen=True)
class Peer:
    """One workflow and one upstream.

    Attributes:
        make: The workflow, for the upstream at this address.
        ask: What it is asked, greedily.
        real: Whether a model answers, of which the same text is expected again, and no more tokens than were asked for.
        stops: Whether it knows stop strings.
        bounded: Whether it refuses a text that is too long as one.
        named: Whether it knows the model by a name, and says so of another one.
        tokens: Whether it tells tokens by themselves.
        ours: Whether it is our own router, and quick.
    """

    name: str
    make: Callable[..., Workflow]
    ask: Mapping[str, Any]
    real: bool = True
    stops: bool = True
    bounded: bool = True
    named: bool = False
    tokens: bool = False
    ours: bool = False

    def __str__(self) -> str:
        return self.name


def _tgi(address: str, **options: Any) -> Workflow:
    return TGIClientInferenceWorkflow(f"{address}/tgi/tiny-gpt", **options)


def _hub(task: Any) -> Callable[..., Workflow]:
    return lambda address, **options: HFInferenceClientWorkflow(task, base_url=f"{address}/hf/tiny-gpt", **options)


def _openai(endpoint: Any, model: str = "tiny-gpt") -> Callable[..., Workflow]:
    def make(address: str, **options: Any) -> Workflow:
        named = options.pop("model", model)
        return CSSInferenceWorkflow("openai-compatible", named, endpoint=endpoint, base_url=f"{address}/v1", **options)

    return make


def _hub_chat(model: str) -> Callable[..., Workflow]:
    """An address that ends in /v1 is that of a server as OpenAI's, to the hub's client as well."""
    return lambda address, **options: HFInferenceClientWorkflow(
        "conversational", base_url=f"{address}/v1", **{"model": model, **options}
    )


OURS: Final = [
    Peer("tgi-prompts", _tgi, CONTINUED, tokens=True, ours=True),
    Peer("tgi-chat", _tgi, SAID, ours=True),
    Peer("hub-prompts", _hub("text-generation"), CONTINUED, tokens=True, ours=True),
    Peer("hub-chat", _hub("conversational"), SAID, ours=True),
    Peer("openai-chat", _openai("chat"), SAID, named=True, ours=True),
    Peer("openai-completions", _openai("completions"), CONTINUED, named=True, ours=True),
]
# Its model is a directory; its stop strings are part of the text, and it says of no text that it is too long.
TRANSFORMERS: Final = [
    Peer("openai-chat", _openai("chat", "tiny_gpt"), SAID, stops=False, bounded=False),
    Peer("hub-chat", _hub_chat("tiny_gpt"), SAID, stops=False, bounded=False),
]
# What answers there says one and the same thing.
LITELLM: Final = [
    Peer("openai-chat", _openai("chat", "mock"), SAID, real=False, stops=False, bounded=False),
    Peer("openai-completions", _openai("completions", "mock"), CONTINUED, real=False, stops=False, bounded=False),
    Peer("hub-chat", _hub_chat("mock"), SAID, real=False, stops=False, bounded=False),
]


def command(variable: str) -> str:
    """Where a server of others is, or the test is skipped."""
    found = os.environ.get(variable)
    if not found or not Path(found).exists():
        pytest.skip(f"{variable} names no command")
    return found


@contextmanager
def serving(
    arguments: Sequence[str], port: int, ready: str, log: Path, folder: Path, **environment: str
) -> Iterator[str]:
    """A server of others on this port, in this folder, once `ready` answers 200; ended afterwards."""
    address = f"http://127.0.0.1:{port}"
    known = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with log.open("wb") as written:
        process = subprocess.Popen(arguments, env={**known, **environment}, cwd=folder, stdout=written, stderr=written)
    try:
        ends = time.monotonic() + _STARTS_S
        while not _answers(address + ready):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < ends, log.read_text()[-2000:]
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # some finish what they have begun, which may take long
            process.kill()
            process.wait(10)


def _answers(url: str) -> bool:
    """Waits a moment where nobody listens yet: there is nothing else to wait for in a process that is not ours."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        time.sleep(0.2)
        return False
