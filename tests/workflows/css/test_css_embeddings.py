"""Vectors from others: how they are asked for, in which forms they come, and what is done with them here."""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np
import pytest

from tests.workflows.css.played import asked_for, played
from tests.workflows.remote.faulty_upstream import answer
from workflows.errors import BadOutput, Unsupported, UpstreamFailed
from workflows.remote.secret import SecretRef

VECTOR: Final = [3.0, 4.0]
PACKED: Final = base64.b64encode(np.array(VECTOR, "<f4").tobytes()).decode()


def told(embedding: object = VECTOR, usage: object = None) -> dict[str, Any]:
    return {"object": "list", "data": [{"index": 0, "embedding": embedding}], "usage": usage}


async def embedded(asked: object, answered: object = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    said = told(usage={"prompt_tokens": 4}) if answered is None else answered
    return await asked_for(said, asked, **{"endpoint": "embeddings", **options})


@pytest.mark.parametrize("form", [VECTOR, [3, 4], PACKED], ids=["floats", "numbers", "base64"])
async def test_a_vector_in_all_its_forms(form: object) -> None:
    given, sent = await embedded({"text": "hi"}, told(form, {"prompt_tokens": 4, "total_tokens": 4}))
    assert given.embedding.dtype == np.float32
    assert given.embedding.tolist() == VECTOR
    assert given.tokens == 4
    assert sent == {"model": "m", "input": "hi"}


async def test_openai_is_asked_for_base64(key: SecretRef) -> None:
    _, sent = await embedded({"text": "hi", "dimensions": 2}, provider="openai", key=key)
    assert sent == {"model": "m", "input": "hi", "dimensions": 2, "encoding_format": "base64"}


async def test_tokens_go_where_they_are_taken(key: SecretRef) -> None:
    _, sent = await embedded({"tokens": [1, 2]}, provider="openai", key=key)
    assert sent["input"] == [1, 2]
    with pytest.raises(Unsupported) as caught:
        await embedded({"tokens": [1, 2]}, provider="gemini", key=key)
    assert caught.value.param == "tokens"


@pytest.mark.parametrize(("normalize", "length"), [(None, 5.0), (False, 5.0), (True, 1.0)])
async def test_length_1_where_it_is_asked_for(normalize: bool | None, length: float) -> None:
    given, sent = await embedded({"text": "hi", "normalize": normalize})
    assert np.linalg.norm(given.embedding) == pytest.approx(length)
    assert "normalize" not in sent


@pytest.mark.parametrize(
    "asked",
    [{"prompt_name": "query"}, {"truncate": True}, {"truncation_direction": "left"}],
    ids=lambda asked: next(iter(asked)),
)
async def test_what_no_provider_has(asked: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as caught:
        await embedded({"text": "hi", **asked})
    assert caught.value.param == next(iter(asked))


async def test_another_length_than_was_asked_for() -> None:
    with pytest.raises(BadOutput):
        await embedded({"text": "hi", "dimensions": 3})


@pytest.mark.parametrize("broken", [[], ["a"], [1.0, True], "AAA=", [1e400], None], ids=str)
async def test_what_is_no_vector(broken: object) -> None:
    with pytest.raises(UpstreamFailed):
        await embedded({"text": "hi"}, told(broken))


async def test_tokens_that_nobody_tells_are_estimated() -> None:
    given, _ = await embedded({"text": "hello world"}, told())
    assert given.tokens == 3


async def test_the_kind_follows_the_endpoint() -> None:
    async with played(answer(200, told()), endpoint="embeddings") as (workflow, _):
        card = workflow.card("vectors")
        assert (card.kind, card.streams, card.chunk_schema, card.model) == ("embed", False, None, "m")
    async with played(answer(200, told())) as (workflow, _):
        assert (workflow.card("chat").kind, workflow.streams) == ("generate", True)
