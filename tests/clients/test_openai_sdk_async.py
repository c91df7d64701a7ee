"""The official `openai` client for asyncio, many requests at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI

from tests.clients.system import System

PROMPTS = ["The for statement", "A list is", "An exception", "The module", "If the", "Return a", "A class", "Each"]


@pytest.fixture
async def client(system: System) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"http://{system.http}/v1", api_key="none", max_retries=0) as made:
        yield made


async def test_many_streams_each_with_its_own_text(client: AsyncOpenAI) -> None:
    async def whole(prompt: str) -> str:
        answer = await client.completions.create(model="tiny-gpt", prompt=prompt, temperature=0, max_tokens=16)
        return answer.choices[0].text

    async def streamed(prompt: str) -> str:
        text = ""
        async with await client.completions.create(
            model="tiny-gpt", prompt=prompt, temperature=0, max_tokens=16, stream=True
        ) as stream:
            async for chunk in stream:
                text += chunk.choices[0].text
        return text

    texts = await asyncio.gather(*map(whole, PROMPTS))
    assert len(set(texts)) > 4
    assert await asyncio.gather(*map(streamed, PROMPTS)) == texts


async def test_a_chat_whole_and_piece_by_piece(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny-gpt",
        "messages": [{"role": "user", "content": "What is a list?"}],
        "temperature": 0,
        "max_tokens": 12,
        "n": 2,
    }
    whole = await client.chat.completions.create(**asked)
    texts = ["", ""]
    usage = None
    async for chunk in await client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
        usage = chunk.usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert usage == whole.usage


async def test_who_leaves_disturbs_nobody(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny-gpt", "prompt": PROMPTS[0], "temperature": 0}
    alone = await client.completions.create(**asked, max_tokens=30)
    stays = asyncio.create_task(client.completions.create(**asked, max_tokens=30))
    leaves = [asyncio.create_task(client.completions.create(**asked, max_tokens=900)) for _ in range(4)]
    async with await client.completions.create(**asked, n=3, max_tokens=900, stream=True) as stream:
        await anext(aiter(stream))
    for each in leaves:
        each.cancel()
    await asyncio.gather(*leaves, return_exceptions=True)
    assert (await stays).choices[0].text == alone.choices[0].text


async def test_embeddings_and_models(client: AsyncOpenAI) -> None:
    answers = await asyncio.gather(
        *(client.embeddings.create(model="text-embedding", input=prompt) for prompt in PROMPTS)
    )
    together = await client.embeddings.create(model="text-embedding", input=PROMPTS)
    for one, each in zip(answers, together.data, strict=True):
        np.testing.assert_allclose(one.data[0].embedding, each.embedding, rtol=1e-4, atol=1e-5)
    assert [model.id async for model in client.models.list()] == ["text-embedding", "tiny-bark", "tiny-gpt"]


async def test_errors_are_the_clients_own(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.completions.create(model="none", prompt="a", stream=True)
    assert caught.value.code == "model_not_found"
