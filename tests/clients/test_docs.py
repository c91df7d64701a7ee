"""The snippets of the protocols' pages, run as they are (and over gRPC where that is meant), print what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.system import System

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["huggingface.md", "open_inference.md", "openai.md", "speech.md", "tgi.md"]
SNIPPETS = [
    (page, snippet)
    for page in PAGES
    for snippet in re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
]


def test_there_are_snippets() -> None:
    assert {page for page, _ in SNIPPETS} == set(PAGES)


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(("page", "snippet"), SNIPPETS)
def test_a_snippet_prints_what_it_says(
    system: System, page: str, snippet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = re.findall(r"print\(.*\)  # (.*)$", snippet, re.MULTILINE)
    ways = [snippet]
    if "tritonclient.http" in snippet:
        ways.append(
            snippet.replace("tritonclient.http", "tritonclient.grpc").replace("localhost:8000", "localhost:9000")
        )
    assert said
    for way in ways:
        here = way.replace("localhost:8000", system.http).replace("localhost:9000", system.grpc)
        assert here != way or "localhost" not in way
        exec(compile(here, page, "exec"), {})
        assert capsys.readouterr().out.splitlines() == said
