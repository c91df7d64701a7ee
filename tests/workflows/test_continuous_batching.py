"""Many requests at once over five architectures: each gets what it would get alone, and nothing is left of any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from random import Random
from threading import enumerate as threads
from typing import Any

import pytest
import torch

from tests.workflows.tiny_language_models import ARCHITECTURES, VOCABULARY, save_tiny
from tests.workflows.tiny_transformers import LLAMA_CONTEXT
from workflows.context import CallContext
from workflows.errors import ContextTooLong
from workflows.inference.text_generation import TransformersTextGenerationWorkflow
from workflows.types import Generate, Generated, Sampling

STREAMS = 64
NEW = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # of this thread, which runs `generate`
    return tmp_path_factory.mktemp("models")


def prompts(count: int, seed: int) -> list[list[int]]:
    """Of all lengths that leave room for an answer, and some with a long beginning in common."""
    random = Random(seed)
    shared = [random.randrange(2, VOCABULARY) for _ in range(40)]
    made = []
    for place in range(count):
        own = [random.randrange(2, VOCABULARY) for _ in range(random.randrange(1, LLAMA_CONTEXT - NEW - 40))]
        made.append(shared + own if place % 3 == 0 else own)
    return made


def alone(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    tokens: list[int] = whole[0, len(prompt) :].tolist()
    return tokens


def asked(prompt: list[int], **sampling: Any) -> Generate:
    return Generate(
        prompt_tokens=prompt, sampling=Sampling(**{"temperature": 0.0, "max_tokens": NEW, **sampling}), top_logprobs=0
    )


def tokens_of(answer: Generated) -> list[int]:
    assert answer.tokens is not None
    return [token.id for token in answer.tokens if token.id is not None]


def left_behind(workflow: TransformersTextGenerationWorkflow) -> list[Any]:
    """What the engine still holds of any request."""
    engine: Any = workflow._engine
    manager = engine._manager
    cache = manager._manager.batch_processor.cache
    tables = [table for allocator in cache.cache_allocators.values() for table in allocator.block_table]
    scheduler = manager._manager.batch_processor.scheduler
    return [
        *engine._running,
        *engine._waiting,
        *manager._rows.by_id,
        *manager.rooms._by_id,
        *tables,
        *scheduler.active_requests,
        *scheduler.waiting_requests,
        *(block for allocator in cache.cache_allocators.values() for block in allocator.ledger.shared_ref_counts),
    ]


def free_share(workflow: TransformersTextGenerationWorkflow) -> float:
    """How much of the cache is free, once what is kept for later prompts is given up."""
    engine: Any = workflow._engine
    cache = engine._manager._manager.batch_processor.cache
    cache.evict_cached_blocks()
    share: float = cache.compute_free_capacity()
    return share


async def whole(workflow: TransformersTextGenerationWorkflow, prompt: list[int]) -> Generated:
    async with aclosing(workflow.astream(asked(prompt))) as chunks:
        return Generated.fold([chunk async for chunk in chunks])


async def beginning(workflow: TransformersTextGenerationWorkflow, prompt: list[int], length: int) -> list[int]:
    """The first tokens only: leaves the stream then."""
    got: list[int] = []
    async with aclosing(workflow.astream(asked(prompt))) as chunks:
        async for chunk in chunks:
            got.extend(token.id for token in chunk.tokens or [] if token.id is not None)
            if len(got) >= length:
                break
    return got


@pytest.mark.parametrize("name", ARCHITECTURES)
async def test_everybody_gets_what_they_would_get_alone(root: Path, name: str) -> None:
    model = save_tiny(name, root / name)
    workflow = TransformersTextGenerationWorkflow(
        name, root=str(root), threads=1, engine="thread", cache_tokens=6 * LLAMA_CONTEXT
    )
    before = set(threads())
    await workflow.asetup()
    texts = prompts(10, seed=1)
    expected = [alone(model, prompt) for prompt in texts]
    random = Random(2)
    tasks: list[asyncio.Task[Any]] = []
    lengths: dict[int, int] = {}
    for number in range(STREAMS):
        prompt = texts[number % len(texts)]
        if number % 5 == 4:
            lengths[number] = random.randrange(1, NEW)
            tasks.append(asyncio.create_task(beginning(workflow, prompt, lengths[number])))
        else:
            tasks.append(asyncio.create_task(whole(workflow, prompt)))
    await tasks[0]
    for victim in tasks[7::11]:
        victim.cancel()
    outcomes: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)

    for number, outcome in enumerate(outcomes):
        right = expected[number % len(texts)]
        if isinstance(outcome, Generated):
            assert tokens_of(outcome) == right
            assert outcome.usage.prompt_tokens == len(texts[number % len(texts)])
            assert outcome.usage.completion_tokens == len(right)
            assert outcome.finish_reason == ("stop" if right[-1] == 1 else "length")
        elif isinstance(outcome, list):
            assert outcome == right[: lengths[number]]
        else:
            assert isinstance(outcome, asyncio.CancelledError)
            assert tasks[number] in tasks[7::11]
    assert sum(isinstance(outcome, Generated) for outcome in outcomes) > STREAMS / 2

    unary = await workflow.ainference(asked(texts[3]))
    assert (unary.text, tokens_of(unary)) == (outcomes[3].text, expected[3])
    assert left_behind(workflow) == []
    assert free_share(workflow) == 1.0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await workflow.ateardown()
    # What is left are the idle threads of the loop's pool.
    assert {thread for thread in set(threads()) - before if not thread.name.startswith("asyncio_")} == set()


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[TransformersTextGenerationWorkflow]:
    save_tiny("llama", root / "served")
    workflow = TransformersTextGenerationWorkflow("served", root=str(root), threads=1, engine="thread", concurrency=4)
    yield workflow.setup()
    workflow.teardown()


def test_a_seed_gives_the_same_answer_in_any_company(served: TransformersTextGenerationWorkflow) -> None:
    texts = prompts(6, seed=3)
    wishes = [
        asked(text, temperature=1.0, seed=seed, top_p=0.9, repetition_penalty=1.2) for seed, text in enumerate(texts)
    ]
    each = [served.inference(wish) for wish in wishes]
    together = served.inference_batch(wishes)
    backwards = served.inference_batch(wishes[::-1])[::-1]
    assert [answer.seed for answer in each] == list(range(6))
    for one, same, again in zip(each, together, backwards, strict=True):
        assert isinstance(same, Generated)
        assert isinstance(again, Generated)
        assert tokens_of(one) == tokens_of(same) == tokens_of(again)


def test_an_unseeded_answer_tells_the_seed_that_repeats_it(served: TransformersTextGenerationWorkflow) -> None:
    wish = asked([5, 6, 7], temperature=1.0)
    first, second = served.inference(wish), served.inference(wish)
    assert first.seed is not None
    assert first.seed != second.seed
    assert tokens_of(served.inference(asked([5, 6, 7], temperature=1.0, seed=first.seed))) == tokens_of(first)
    assert served.inference(asked([5])).seed is None


def test_a_prompt_that_does_not_fit_harms_nobody(served: TransformersTextGenerationWorkflow) -> None:
    wishes = [asked([3] * 20), asked([3] * LLAMA_CONTEXT), asked([4] * 20)]
    outcomes = served.inference_batch(wishes)
    assert isinstance(outcomes[1], ContextTooLong)
    assert outcomes[1].param == "prompt_tokens"
    assert [isinstance(outcome, Generated) for outcome in outcomes] == [True, False, True]


def test_a_prompt_known_from_before_is_not_read_again(served: TransformersTextGenerationWorkflow) -> None:
    text = [(7 * place) % VOCABULARY for place in range(70)]
    first, second = served.inference(asked(text)), served.inference(asked(text))
    assert first.usage.cached_tokens is None
    assert second.usage.cached_tokens == 64
    assert tokens_of(first) == tokens_of(second)
    assert left_behind(served) == []


def test_who_leaves_a_whole_answer_stops_it(served: TransformersTextGenerationWorkflow) -> None:
    gone = CallContext()
    gone.cancel()
    served.inference_batch([asked([3]), asked([4])], [gone, CallContext()])
    served.inference(asked([3]))
    assert left_behind(served) == []
