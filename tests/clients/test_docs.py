"""The snippets of the protocol's page, run as they are and over gRPC, print what stands behind them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.system import System

PAGE = Path(__file__).resolve().parents[2] / "docs" / "open_inference.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_there_are_snippets() -> None:
    assert SNIPPETS


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_prints_what_it_says(system: System, snippet: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = re.findall(r"print\(.*\)  # (.*)$", snippet, re.MULTILINE)
    grpc = snippet.replace("tritonclient.http", "tritonclient.grpc").replace("localhost:8000", "localhost:9000")
    for way in (snippet, grpc):
        here = way.replace("localhost:8000", system.http).replace("localhost:9000", system.grpc)
        assert here != way
        exec(compile(here, str(PAGE), "exec"), {})
        assert capsys.readouterr().out.splitlines() == said
