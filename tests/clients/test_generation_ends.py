"""Whoever leaves a text that is being generated stops that within two steps of the model, over each protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from openai import OpenAI
from text_generation import Client
from tritonclient.utils import InferenceServerException

from tests.clients.system import System
from tests.clients.tensors import inputs_of
from tests.waiting import until
from workflows.inference.generation.continuous import ContinuousEngine
from workflows.inference.generation.rows import Rows

HELD_AT = 4
MOST_TOKENS = 400
PROMPT = "The for statement"
PATIENCE_S = 30.0


class Steps:
    """The model's steps, the fourth of which waits until the engine was told that its only caller has left.

    Attributes:
        held: Set when that step is reached, after three tokens.
        after: The steps since then.
    """

    def __init__(self, engine: Any, patch: pytest.MonkeyPatch) -> None:
        self.held, self.left = threading.Event(), threading.Event()
        self.count = self.after = 0
        self._engine = engine
        step, forget = Rows.__call__, ContinuousEngine.forget

        def counted(rows: Rows, *arguments: Any) -> Any:
            self.count += 1
            self.after += self.left.is_set()
            if self.count == HELD_AT:
                self.held.set()
                assert self.left.wait(PATIENCE_S)
            return step(rows, *arguments)

        def told(engine: ContinuousEngine, answer: Any) -> None:
            forget(engine, answer)
            self.left.set()

        patch.setattr(Rows, "__call__", counted)
        patch.setattr(ContinuousEngine, "forget", told)

    def at_rest(self) -> bool:
        scheduler = self._engine._manager._manager.batch_processor.scheduler
        return not (self._engine._running or scheduler.active_requests or scheduler.waiting_requests)


@pytest.fixture
def steps(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    workflow: Any = system.workflows["tiny-gpt"]
    made = Steps(workflow._engine, monkeypatch)
    yield made
    made.left.set()
    until(made.at_rest, seconds=PATIENCE_S, what=lambda: f"{made.count} steps, and still at work")


def openai_stream(system: System, steps: Steps) -> None:
    with OpenAI(base_url=f"http://{system.http}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"role": "user", "content": PROMPT}
        stream = client.chat.completions.create(
            model="tiny-gpt", messages=[asked], stream=True, max_tokens=MOST_TOKENS, temperature=0
        )
        assert next(iter(stream)).choices
        stream.close()


def http_whole(system: System, steps: Steps) -> None:
    body = {"model": "tiny-gpt", "prompt": PROMPT, "max_tokens": MOST_TOKENS, "temperature": 0}
    connection = HTTPConnection(system.http)
    connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
    assert steps.held.wait(PATIENCE_S)
    connection.close()


def tgi_stream(system: System, steps: Steps) -> None:
    stream = Client(f"http://{system.http}/tgi/tiny-gpt").generate_stream(PROMPT, max_new_tokens=MOST_TOKENS)
    next(stream)
    stream.close()


def grpc_whole(system: System, steps: Steps) -> None:
    prompt = inputs_of(triton, {"text_input": np.array([PROMPT.encode()], np.object_)})
    with triton.InferenceServerClient(system.grpc) as client:
        wishes = {"max_tokens": MOST_TOKENS, "temperature": 0.0}
        call = client.async_infer("tiny-gpt", prompt, lambda result, error: None, parameters=wishes)
        assert steps.held.wait(PATIENCE_S)
        call.cancel()
        assert steps.left.wait(PATIENCE_S)


def grpc_stream(system: System, steps: Steps) -> None:
    answered = threading.Event()
    prompt = inputs_of(triton, {"text_input": np.array([PROMPT.encode()], np.object_)})
    with triton.InferenceServerClient(system.grpc) as client:
        client.start_stream(lambda result, error: answered.set())
        wishes = {"max_tokens": MOST_TOKENS, "temperature": 0.0}
        client.async_stream_infer("tiny-gpt", prompt, parameters=wishes)
        assert answered.wait(PATIENCE_S)
        client.stop_stream(cancel_requests=True)


@pytest.mark.filterwarnings("ignore:The `dict` method is deprecated")  # of the text-generation package
@pytest.mark.parametrize("leave", [openai_stream, http_whole, tgi_stream, grpc_whole, grpc_stream])
def test_who_leaves_stops_it(leave: Callable[[System, Steps], None], system: System, steps: Steps) -> None:
    leave(system, steps)
    assert steps.left.wait(PATIENCE_S), "nobody told the engine"
    until(steps.at_rest, seconds=PATIENCE_S, what=lambda: f"{steps.after} steps later still at work")
    assert steps.after <= 2
    assert steps.count < MOST_TOKENS


def test_a_deadline_stops_it(system: System, steps: Steps) -> None:
    prompt = inputs_of(triton, {"text_input": np.array([PROMPT.encode()], np.object_)})
    wishes = {"max_tokens": MOST_TOKENS, "temperature": 0.0}
    with (
        triton.InferenceServerClient(system.grpc) as client,
        pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"),
    ):
        client.infer("tiny-gpt", prompt, parameters=wishes, client_timeout=2.0)
    assert steps.left.wait(PATIENCE_S), "nobody told the engine"
    until(steps.at_rest, seconds=PATIENCE_S, what=lambda: f"{steps.after} steps later still at work")
    assert steps.after <= 2
