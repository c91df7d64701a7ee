"""Embeddings and the list of models, through the whole app."""

from __future__ import annotations

import base64
import time
from typing import Any

import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse, Model

from deployments.router.keys import Keys, mint_key
from tests.router.openai_house import EMBED, House, exact
from tests.router.router_front import ScriptedClient
from workflows.context import CallContext
from workflows.errors import Overloaded
from workflows.tensors import Array


async def test_vectors_in_the_order_of_their_texts() -> None:
    house = House()
    body = (await house.post(EMBED, {"model": "vectors", "input": ["a", "bcd", ""], "user": "u"})).json()
    exact(CreateEmbeddingResponse, body)
    assert body == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0]},
            {"object": "embedding", "index": 1, "embedding": [3.0]},
            {"object": "embedding", "index": 2, "embedding": [0.0]},
        ],
        "model": "vectors",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert house.seen == [{"text": "a"}, {"text": "bcd"}, {"text": ""}]


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("a", [{"text": "a"}]),
        ([1, 2], [{"tokens": [1, 2]}]),
        ([[1, 2], [3]], [{"tokens": [1, 2]}, {"tokens": [3]}]),
    ],
    ids=str,
)
async def test_texts_and_tokens(given: Any, asked: list[Any]) -> None:
    house = House()
    answer = await house.post(EMBED, {"model": "vectors", "input": given, "dimensions": 1})
    assert house.seen == [{**each, "dimensions": 1} for each in asked]
    assert [len(each["embedding"]) for each in answer.json()["data"]] == [1] * len(asked)


async def test_base64_is_the_same_vector() -> None:
    house = House()
    asked = {"model": "vectors", "input": [1, 3, 7]}
    (plain,) = (await house.post(EMBED, {**asked, "encoding_format": "float"})).json()["data"]
    (packed,) = (await house.post(EMBED, {**asked, "encoding_format": "base64"})).json()["data"]
    found = np.frombuffer(base64.b64decode(packed["embedding"]), "<f4")
    assert found.tolist() == np.array(plain["embedding"], np.float32).tolist()
    assert len(found) == 3


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize(
    ("vector", "status"),
    [
        (np.array([1.5, -2.0], np.float64), 200),
        (np.array([1.5, -2.0], np.float16), 200),
        (np.array([1, -2], np.int64), 200),
        (np.arange(8, dtype=np.float32)[::2], 200),
        (np.array([1.0, np.nan], np.float32), 500),
        (np.array([1.0, -np.inf], np.float32), 500),
        (np.zeros((1, 2), np.float32), 500),
        ([1.0], 500),
        (None, 500),
    ],
    ids=str,
)
async def test_what_a_vector_may_be(vector: Array | Any, status: int, encoding: str) -> None:
    async def answer(input_data: Any, call: CallContext) -> Any:
        return {"embedding": vector, "tokens": 1}

    house = House()
    house.add("vectors", ScriptedClient(answer), kind="embed")
    got = await house.post(EMBED, {"model": "vectors", "input": "a", "encoding_format": encoding})
    assert got.status_code == status
    if status == 500:
        assert got.json()["error"]["code"] == "non_finite_output"
    else:
        said = got.json()["data"][0]["embedding"]
        found = np.frombuffer(base64.b64decode(said), "<f4") if encoding == "base64" else np.array(said)
        assert found.tolist() == vector.tolist()


async def test_other_errors_of_a_member_are_what_they_are() -> None:
    async def answer(input_data: Any, call: CallContext) -> Any:
        if input_data["text"] == "b":
            raise Overloaded(retry_after_s=3)
        return {"embedding": np.zeros(1, np.float32), "tokens": 1}

    house = House()
    house.add("vectors", ScriptedClient(answer), kind="embed")
    got = await house.post(EMBED, {"model": "vectors", "input": ["a", "b"]})
    assert (got.status_code, got.headers["retry-after"]) == (503, "3")
    assert got.json()["error"] == {
        "message": "overloaded, try again later",
        "type": "server_error",
        "param": None,
        "code": "server_is_overloaded",
    }


async def test_many_texts_at_once() -> None:
    house = House()
    answer = await house.post(EMBED, {"model": "vectors", "input": ["x" * index for index in range(1024)]})
    assert [each["embedding"] for each in answer.json()["data"]] == [[float(index)] for index in range(1024)]


# ---- models ----------------------------------------------------------------------------------------------------------------


async def test_models_are_those_that_can_be_asked_by_every_name_that_they_have() -> None:
    house = House()
    house.add("new", with_card=False, state="loading")
    entry = house.directory.find("gpt")
    assert entry.card is not None
    entry.card = entry.card.model_copy(update={"context_tokens": 128})
    body = (await house.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [(each["id"], each["root"]) for each in body["data"]] == [
        ("gpt", "gpt"),
        ("slow", "slow"),
        ("vectors", "vectors"),
        ("org/gpt", "gpt"),
    ]
    first = body["data"][0]
    assert first == {**first, "object": "model", "owned_by": "infernet-serve", "max_model_len": 128}
    assert 0 < first["created"] <= time.time()
    for each in body["data"]:
        ours = {"root": each["root"], "max_model_len": each.get("max_model_len")}
        exact(Model, {key: value for key, value in each.items() if key not in ours})
        assert (await house.get(f"/v1/models/{each['id']}")).json() == each
    assert (await house.get("/v1/models/org%2Fgpt")).json()["id"] == "org/gpt"


async def test_a_model_of_several_versions_has_their_names_and_its_own() -> None:
    house = House()
    for version in ("1", "2"):
        house.add(f"two-{version}", kind="embed")
        entry = house.directory.find(f"two-{version}")
        assert entry.card is not None
        entry.card = entry.card.model_copy(update={"version": version, "version_of": "two"})
    found = {each["id"]: each["root"] for each in (await house.get("/v1/models")).json()["data"]}
    assert {name: root for name, root in found.items() if "two" in name} == {
        "two": "two",
        "two-1": "two-1",
        "two-2": "two-2",
    }
    assert (await house.get("/v1/models/two")).json()["id"] == "two"


@pytest.mark.parametrize("name", ["none", "tensors", "new", "org/none", "a%2Fb%2Fc", "..", "%00", "x" * 500])
async def test_models_that_do_not_exist(name: str) -> None:
    house = House()
    house.add("new", with_card=False, state="loading")
    answer = await house.get(f"/v1/models/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in {"model_not_found", "unknown_url"}
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_key_sees_its_own_models() -> None:
    secret, key = mint_key("alice", workflows=["gp*"])
    house = House(Keys([key]))
    headers = {"authorization": f"Bearer {secret}"}
    body = (await house.get("/v1/models", headers=headers)).json()
    assert [each["id"] for each in body["data"]] == ["gpt", "org/gpt"]
    assert (await house.get("/v1/models/vectors", headers=headers)).status_code == 404
    assert (await house.get("/v1/models")).status_code == 401
