"""The whole way without Ray: HTTP, dispatcher, runner, a real workflow, and back. Right answers for the right callers."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from deployments.local import LocalClient
from deployments.router.directory import Entry
from deployments.router.dispatch import Dispatcher
from deployments.runner import Runner
from tests.router.router_front import Front, Visit
from workflows import types
from workflows.base import BaseInferenceWorkflow
from workflows.card import Batching
from workflows.errors import InvalidInput


class Doubling(BaseInferenceWorkflow[types.Tensors, types.TensorsResult]):
    """Twice the input; refuses 13 inside the model."""

    batching = Batching(max_size=16)
    retry_safe = True

    def do_run_batch(self, batch: list[Any]) -> list[Any]:
        return [self._double(item) for item in batch]

    @staticmethod
    def _double(item: types.Tensors) -> Any:
        array = item.inputs["x"]
        if (array == 13).any():
            return InvalidInput("unlucky")
        return types.TensorsResult(outputs={"y": array * 2})


class Spelling(BaseInferenceWorkflow[str, str, str]):
    """A text letter by letter."""

    def do_stream(self, preprocessed_data: str) -> Iterator[str]:
        yield from preprocessed_data


@asynccontextmanager
async def serving(*workflows: tuple[str, BaseInferenceWorkflow[Any, Any, Any]]) -> AsyncIterator[Front]:
    house = Front()
    runners = [Runner(workflow, name) for name, workflow in workflows]
    for runner in runners:
        await runner.start()
        card = runner.card
        dispatcher = Dispatcher(LocalClient(runner))
        dispatcher.configure(card, 1)
        house.directory.put(Entry(card.name, dispatcher, "ready", card=card))
    try:
        yield house
    finally:
        for runner in runners:
            await runner.stop()


async def test_many_callers_at_once_each_get_their_own_answer() -> None:
    async def ask(house: Front, i: int) -> Any:
        tensor = {"dtype": "float32", "shape": [1, 2], "data": [float(i), 0.1]}
        if i % 2:
            return (await house.post("/v1/workflows/double/inference", {"inputs": {"x": tensor}})).json()
        oip = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [float(i), 0.1]}
        return (await house.post("/v2/models/double/infer", {"inputs": [oip]})).json()

    async with serving(("double", Doubling())) as house:
        answers = await asyncio.gather(*(ask(house, i) for i in range(40)))
    tenth = np.float32(0.1) * 2
    for i, answer in enumerate(answers):
        if i == 13:
            assert answer["error"]["message"] == "unlucky"
            continue
        got = answer["outputs"]["y"]["data"] if i % 2 else answer["outputs"][0]["data"]
        assert np.array(got, np.float32).tolist() == [2.0 * i, tenth]


async def test_an_unknown_field_is_named_by_the_workflow() -> None:
    tensor = {"dtype": "float32", "shape": [1], "data": [1.0]}
    async with serving(("double", Doubling())) as house:
        answer = await house.post("/v1/workflows/double/inference", {"inputs": {"x": tensor}, "odd": 1})
    assert answer.status_code == 400
    assert "odd" in answer.json()["error"]["message"]


async def test_a_stream_and_its_whole_answer_agree() -> None:
    async with serving(("spell", Spelling())) as house:
        whole = await house.post("/v1/workflows/spell/inference", "héllo")
        visit = Visit(house.app, "POST", "/v1/workflows/spell/stream", "héllo")
        await visit.start()
    assert whole.json() == "héllo"
    events = b"".join(message.get("body", b"") for message in visit.rest()).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert [json.loads(event.removeprefix("data: ")) for event in events[:-2]] == list("héllo")
