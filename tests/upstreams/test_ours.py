"""The suite of remote behaviour against our own router's TGI, Hugging Face and OpenAI routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.system import System
from tests.upstreams.behaviour import CHECKS, Check, Given
from tests.upstreams.peers import OURS, Peer
from workflows import HFInferenceClientWorkflow
from workflows.inference.css.workflow import CSSInferenceWorkflow
from workflows.types.text import Generated


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("peer", OURS, ids=str)
async def test_promise(peer: Peer, check: Check, ours: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await check(Given(peer, ours, tmp_path, caplog))


MORE: list[dict[str, Any]] = [
    {},
    {"top_logprobs": 3},
    {"echo": True},
    {"sampling": {"max_tokens": 12, "seed": 3, "temperature": 0.8, "top_p": 0.9}},
    {"truncate": 2, "include_stop": True, "sampling": {"max_tokens": 8, "temperature": 0, "stop": ["used"]}},
]


@pytest.mark.parametrize("more", MORE, ids=str)
@pytest.mark.parametrize("peer", [peer for peer in OURS if peer.tokens], ids=str)
async def test_an_answer_is_that_of_the_model_itself(
    peer: Peer, more: dict[str, Any], router: System, ours: str
) -> None:
    """To the token: two protocols lie between, and nothing is lost."""
    asked = {**peer.ask, **more}
    alone = router.direct("tiny-gpt", asked)
    workflow = await peer.make(ours).asetup()
    got = await workflow.ainference(asked)
    streamed = Generated.fold([chunk async for chunk in workflow.astream(asked)])
    await workflow.ateardown()
    assert got.model_dump(exclude={"tokens", "seed"}) == alone.model_dump(exclude={"tokens", "seed"})
    assert streamed.model_dump(exclude={"tokens"}) == got.model_dump(exclude={"tokens"})
    for mine, its in zip(got.tokens or (), alone.tokens or (), strict=True):
        assert (mine.id, mine.text, mine.special) == (its.id, its.text, its.special)
        assert mine.logprob == pytest.approx(its.logprob, abs=1e-4)
        assert [other.id for other in mine.top] == [other.id for other in its.top]


async def test_vectors_are_those_of_the_model_itself(router: System, ours: str) -> None:
    alone = router.direct("text-embedding", {"text": "hello"})
    for workflow in (
        HFInferenceClientWorkflow("feature-extraction", base_url=f"{ours}/hf/text-embedding"),
        CSSInferenceWorkflow("openai-compatible", "text-embedding", endpoint="embeddings", base_url=f"{ours}/v1"),
    ):
        await workflow.asetup()
        got: Any = await workflow.ainference({"text": "hello"})
        await workflow.ateardown()
        np.testing.assert_allclose(got.embedding, alone.embedding, atol=1e-6)


async def test_texts_are_compared_by_the_hubs_own_route(ours: str) -> None:
    workflow = await HFInferenceClientWorkflow("sentence-similarity", base_url=f"{ours}/hf/text-embedding").asetup()
    others = ["He is eating bread.", "Rain is expected."]
    got: Any = await workflow.ainference({"text": "A man eats food.", "others": others})
    await workflow.ateardown()
    near, far = got.similarities
    assert near > 0.5 > far
