"""The snippets of the protocol's page, run as they are, print what stands behind them."""

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
    assert "localhost:8000" in snippet
    exec(compile(snippet.replace("localhost:8000", system.http), str(PAGE), "exec"), {})
    assert capsys.readouterr().out.splitlines() == said
