"""Workflows that take no tensors, asked by a protocol that knows nothing else."""

from typing import Any

import numpy as np
import pytest

from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import InvalidInput, Overloaded

USAGE = {"prompt_tokens": 3, "completion_tokens": 5}


async def answer(input_data: Any, call: CallContext) -> Any:
    """As the kinds' workflows answer, by what they are asked."""
    if "prompt" in input_data:
        if input_data["prompt"] == "busy":
            raise Overloaded()
        if "unknown" in input_data["sampling"]:
            raise InvalidInput("sampling.unknown: Extra inputs are not permitted", param="sampling.unknown")
        return {"text": input_data["prompt"].upper(), "finish_reason": "stop", "usage": USAGE}
    if "text" in input_data:
        return {"embedding": np.array([len(input_data["text"]), 0.1], np.float32), "tokens": 2}
    return {"seen": input_data}


def house(**limits: Any) -> tuple[Front, dict[str, ScriptedClient]]:
    made = Front(limits=limits)
    kinds = {"text": "generate", "embedding": "embed", "own": "json"}
    return made, {name: made.add(name, ScriptedClient(answer), kind=kind) for name, kind in kinds.items()}


def texts(name: str, *elements: str, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": shape or [len(elements)], "data": list(elements)}


async def infer(model: str, *tensors: dict[str, Any], front: Front | None = None, **fields: Any) -> tuple[int, Any]:
    front = front or house()[0]
    reply = await front.post(f"/v2/models/{model}/infer", {"inputs": list(tensors), **fields})
    return reply.status_code, reply.json()


async def test_models_say_what_they_take_and_give() -> None:
    front, _ = house()
    said = {name: (await front.get(f"/v2/models/{name}")).json() for name in ("text", "embedding", "own")}
    assert [said[name]["platform"] for name in said] == ["infernet_generate", "infernet_embed", "infernet_json"]
    assert said["text"]["inputs"] == [{"name": "text_input", "datatype": "BYTES", "shape": [-1]}]
    assert [tensor["name"] for tensor in said["text"]["outputs"]] == [
        "text_output",
        "finish_reason",
        "prompt_tokens",
        "completion_tokens",
    ]
    assert said["embedding"]["outputs"][0] == {"name": "embedding", "datatype": "FP32", "shape": [-1, -1]}
    assert (said["own"]["inputs"], said["own"]["outputs"]) == (
        [{"name": "input", "datatype": "BYTES", "shape": [-1]}],
        [{"name": "output", "datatype": "BYTES", "shape": [-1]}],
    )


async def test_a_text_is_continued_and_its_parameters_are_the_sampling() -> None:
    seen: list[Any] = []

    async def keep(input_data: Any, call: CallContext) -> Any:
        seen.append(input_data)
        return await answer(input_data, call)

    front, _ = house()
    front.add("text", ScriptedClient(keep), kind="generate")
    parameters = {"max_tokens": 7, "stop": "\n", "timeout": 9_000_000}
    status, body = await infer("text", texts("text_input", "a"), front=front, parameters=parameters, id="x")
    assert status == 200
    assert seen == [{"prompt": "a", "sampling": {"max_tokens": 7, "stop": ["\n"]}}]
    assert body["outputs"] == [
        {"name": "text_output", "datatype": "BYTES", "shape": [1], "data": ["A"]},
        {"name": "finish_reason", "datatype": "BYTES", "shape": [1], "data": ["stop"]},
        {"name": "prompt_tokens", "datatype": "INT64", "shape": [1], "data": [3]},
        {"name": "completion_tokens", "datatype": "INT64", "shape": [1], "data": [5]},
    ]
    assert body["id"] == "x"


async def test_every_element_is_an_input_of_its_own_and_answers_keep_the_shape() -> None:
    front, clients = house()
    status, body = await infer(
        "text", texts("text_input", "a", "b", "c", "d", shape=[2, 2]), front=front, outputs=[{"name": "text_output"}]
    )
    assert (status, len(clients["text"].calls)) == (200, 4)
    (made,) = body["outputs"]
    assert (made["shape"], made["data"]) == ([2, 2], ["A", "B", "C", "D"])
    status, body = await infer("embedding", texts("text", "one", "four", shape=[2, 1]), front=front)
    embedding, tokens = body["outputs"]
    assert (embedding["shape"], tokens["shape"]) == ([2, 1, 2], [2, 1])
    assert embedding["data"] == [3.0, 0.1, 4.0, 0.1]
    status, body = await infer("embedding", texts("text", "scalar", shape=[]) | {"shape": []}, front=front)
    assert body["outputs"][0]["shape"] == [2]


async def test_other_inputs_are_json_documents() -> None:
    status, body = await infer("own", texts("input", '{"a": [1, 2.5]}', '"b"'))
    assert (status, body["outputs"][0]["data"]) == (200, ['{"seen":{"a":[1,2.5]}}', '{"seen":"b"}'])
    status, body = await infer("own", texts("input", "1", "{"))
    assert (status, body) == (400, {"error": "tensor 'input': element 1 is no JSON document"})


@pytest.mark.parametrize(
    ("model", "tensors", "fields", "message"),
    [
        ("text", [texts("prompt", "a")], {}, "unknown input 'prompt': this workflow takes 'text_input'"),
        (
            "text",
            [texts("text_input", "a"), texts("b", "a")],
            {},
            "unknown input 'b': this workflow takes 'text_input'",
        ),
        (
            "text",
            [{"name": "text_input", "datatype": "INT8", "shape": [1], "data": [1]}],
            {},
            "tensor 'text_input': datatype must be BYTES",
        ),
        (
            "text",
            [{"name": "text_input", "datatype": "BYTES", "shape": [0], "data": []}],
            {},
            "tensor 'text_input': must have 1 to 2 elements",
        ),
        ("text", [texts("text_input", *"abc")], {}, "tensor 'text_input': must have 1 to 2 elements"),
        (
            "text",
            [texts("text_input", "a")],
            {"parameters": {"unknown": 1}},
            "sampling.unknown: Extra inputs are not permitted",
        ),
        ("embedding", [texts("text", "a")], {"parameters": {"max_tokens": 1}}, "unknown parameter 'max_tokens'"),
        ("own", [texts("input", "1")], {"parameters": {"a": 1}}, "unknown parameter 'a'"),
        (
            "embedding",
            [texts("text", "a")],
            {"outputs": [{"name": "vector"}]},
            "unknown output 'vector'; there are embedding, tokens",
        ),
    ],
)
async def test_what_does_not_fit_is_refused_by_name_and_never_asked(
    model: str, tensors: list[Any], fields: dict[str, Any], message: str
) -> None:
    front, clients = house(max_batch_items=2)
    status, body = await infer(model, *tensors, front=front, **fields)
    assert (status, body) == (400, {"error": message})
    if "sampling" not in message:  # which only the workflow knows
        assert not clients[model].calls


async def test_the_first_error_is_the_answer_for_all_texts() -> None:
    status, body = await infer("text", texts("text_input", "a", "busy", "c"))
    assert (status, body) == (503, {"error": "overloaded, try again later"})


@pytest.mark.parametrize("model", ["text", "embedding"])
async def test_a_workflow_that_does_not_answer_as_its_kind_is_at_fault(model: str) -> None:
    async def odd(input_data: Any, call: CallContext) -> Any:
        return {"embedding": "no", "text": "x"}

    front = Front()
    front.add(model, ScriptedClient(odd), kind="generate" if model == "text" else "embed")
    status, body = await infer(model, texts("text_input" if model == "text" else "text", "a"), front=front)
    assert status == 500
    assert "gave no answer of its kind" in body["error"]


async def test_a_text_must_be_text() -> None:
    front, clients = house()
    head = b'{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}}]}'
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    answer = await front.request("POST", "/v2/models/text/infer", content=head + b"\x01\0\0\0\xff", headers=headers)
    assert (answer.status_code, answer.json()) == (400, {"error": "tensor 'text_input': element 0 is not UTF-8"})
    assert not clients["text"].calls
