"""A model of others that cannot be reached is stood in for by one that runs here, and its callers are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.ports import free_port
from tests.ray.cluster import Cluster, states
from tests.waiting import until

Deploy = Callable[..., Any]
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "The for statement"}],
    "temperature": 0,
    "max_tokens": 8,
}


@pytest.fixture
def client(default_system: Cluster, deployed: Deploy) -> Iterator[OpenAI]:
    """Of the router, behind which `elsewhere` refuses every connection."""
    options = {"provider": "openai-compatible", "model": "large", "base_url": f"http://127.0.0.1:{free_port()}/v1"}
    ladder = {"fallbacks": ["tiny-gpt"], "preserves": {"context_length": 512}}
    deployed("elsewhere", "workflows.CSSInferenceWorkflow", options, told=ladder)
    until(lambda: states(default_system).get("elsewhere") == "ready", seconds=20, what=lambda: "elsewhere is ready")
    with OpenAI(base_url=f"{default_system.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_what_runs_here_stands_in_for_what_cannot_be_reached(client: OpenAI) -> None:
    own = client.chat.completions.create(model="tiny-gpt", **ASKED).choices[0].message.content
    assert own

    whole = client.chat.completions.with_raw_response.create(model="elsewhere", **ASKED)
    assert whole.parse().choices[0].message.content == own
    assert whole.headers["x-served-by"] == "tiny-gpt"
    assert whole.headers["x-degraded"] == "true"

    streamed = client.chat.completions.with_raw_response.create(model="elsewhere", stream=True, **ASKED)
    chunks = [chunk.choices[0] for chunk in streamed.parse() if chunk.choices]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == own
    assert chunks[-1].finish_reason
    assert streamed.headers["x-served-by"] == "tiny-gpt"
    assert streamed.headers["x-degraded"] == "true"

    alone = client.chat.completions.with_raw_response.create(model="tiny-gpt", **ASKED)
    assert "x-degraded" not in alone.headers
