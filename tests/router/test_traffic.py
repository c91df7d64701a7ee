"""Versions of a model: found by name and version, and requests that name none shared among them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc
import pytest

from deployments.router.directory import Directory, Entry, State
from deployments.router.dispatch import Dispatcher
from deployments.router.keys import Keys, mint_key
from deployments.router.traffic import Traffic
from deployments.statistics import Statistics
from tests.router.grpc_front import failure, infer_request, listening
from tests.router.router_front import SIGNATURE, Front, ScriptedClient
from workflows import CallContext, Card
from workflows.errors import ModelNotFound

TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}


class Counting(ScriptedClient):
    async def statistics(self) -> Statistics:
        return Statistics()


def entry_of(name: str, version: str = "1", version_of: str | None = None, state: State = "ready") -> Entry:
    card = Card(
        name=name,
        summary="",
        kind="tensors",
        input_schema={},
        output_schema={},
        signature=SIGNATURE,
        version=version,
        version_of=version_of,
    )
    return Entry(name, Dispatcher(Counting()), state, card=card, replicas=1)


def directory_of(*entries: Entry, traffic: Mapping[str, Mapping[str, float]] | None = None) -> Directory:
    directory = Directory(Traffic(traffic))
    for entry in entries:
        directory.put(entry)
    return directory


def found(directory: Directory, requests: int, name: str = "m") -> Counter[str]:
    return Counter(directory.find(name).name for _ in range(requests))


def test_shares_are_kept_closely() -> None:
    directory = directory_of(entry_of("m"), entry_of("m-2", "2", "m"), traffic={"m": {"1": 90, "2": 10}})
    assert abs(found(directory, 5000)["m-2"] - 500) <= 5
    directory.traffic = Traffic({"m": {"1": 0.5, "2": 0.5}})
    assert abs(found(directory, 1000)["m-2"] - 500) <= 5
    directory.traffic = Traffic({"m": {"2": 3}})
    assert found(directory, 10) == {"m-2": 10}
    directory.traffic = Traffic()
    assert found(directory, 10) == {"m": 10}


def test_several_routers_keep_shares_together_and_agree_on_sessions() -> None:
    shares = {"m": {"1": 90, "2": 10}}
    routers = [directory_of(entry_of("m"), entry_of("m-2", "2", "m"), traffic=shares) for _ in range(4)]
    whole = Counter(routers[number % 4].find("m").name for number in range(5000))
    assert abs(whole["m-2"] - 500) <= 20
    for session in map(str, range(200)):
        assert len({router.find("m", session=session).name for router in routers}) == 1


def test_whatever_shares_are_all_requests_go_somewhere_that_has_one() -> None:
    few = 5e-324  # the smallest number there is
    for shares in ({"1": few, "2": few}, {"1": 1e6, "2": few}, {"1": 0, "2": few}, {"1": 0.1, "2": 0.2, "3": 1e6}):
        directory = directory_of(entry_of("m"), entry_of("m-2", "2", "m"), traffic={"m": shares})
        names = found(directory, 500) + Counter(directory.find("m", session=str(each)).name for each in range(500))
        assert names.total() == 1000
        assert ("m" in names) == (shares["1"] > 0)


def test_sessions_are_shared_as_well_and_stay() -> None:
    directory = directory_of(entry_of("m"), entry_of("m-2", "2", "m"), traffic={"m": {"1": 75, "2": 25}})
    owners = {f"s{number}": directory.find("m", session=f"s{number}").name for number in range(2000)}
    assert abs(Counter(owners.values())["m-2"] - 500) < 80
    assert all(directory.find("m", session=session).name == name for session, name in owners.items())


def test_a_version_that_is_not_ready_gets_nothing() -> None:
    second = entry_of("m-2", "2", "m", state="failed")
    directory = directory_of(entry_of("m"), second, traffic={"m": {"1": 1, "2": 99}})
    assert found(directory, 20) == {"m": 20}
    second.state = "ready"
    assert found(directory, 20)["m-2"] > 15
    directory.traffic = Traffic({"m": {"7": 1}})
    assert found(directory, 20) == {"m": 20}


def test_a_version_whose_share_is_0_stands_in_for_nobody() -> None:
    second = entry_of("m-2", "2", "m", state="loading")
    directory = directory_of(entry_of("m"), second, traffic={"m": {"1": 0, "2": 1}})
    assert found(directory, 20) == {"m-2": 20}  # which says that it is loading
    directory.remove("m-2")
    assert found(directory, 20) == {"m": 20}
    alone = directory_of(entry_of("m-1", "1", "m"), traffic={"m": {"1": 0, "2": 1}})
    assert found(alone, 20) == {"m-1": 20}


def test_while_the_newest_version_is_not_ready_an_older_one_answers() -> None:
    newest = entry_of("m-2", "2", "m", state="loading")
    directory = directory_of(entry_of("m-0", "0", "m"), entry_of("m-1", "1", "m"), newest)
    for shares in ({}, {"m": {"7": 1.0}}):
        directory.traffic = Traffic(shares)
        assert found(directory, 5) == {"m-1": 5}
    newest.state = "ready"
    assert found(directory, 5) == {"m-2": 5}
    for entry in directory:
        entry.state = "unloaded"
    assert found(directory, 5) == {"m-2": 5}


def test_a_version_is_found_by_its_number_and_an_application_by_its_name() -> None:
    directory = directory_of(entry_of("m"), entry_of("m-2", "2", "m"))
    for shares in ({"1": 1.0}, {"2": 1.0}):
        directory.traffic = Traffic({"m": shares})
        assert directory.find("m", version="1").name == "m"
        assert directory.find("m", version="2").name == "m-2"
        assert directory.find("m-2").name == "m-2"
        assert directory.find("m-2", version="2").name == "m-2"
    for name, version in (("m", "3"), ("m", "01"), ("n", ""), ("n", "1")):
        with pytest.raises(ModelNotFound):
            directory.find(name, version=version)


def test_of_two_that_say_to_be_the_same_version_one_answers_always() -> None:
    directory = directory_of(entry_of("a", "1", "m"), entry_of("b", "1", "m"), traffic={"m": {"1": 1}})
    assert directory.find("m", version="1").name == "a"
    assert found(directory, 20) == {"a": 20}


def test_without_an_application_of_that_name_the_newest_version_answers() -> None:
    directory = directory_of(*(entry_of(f"m-{version}", version, "m") for version in ("9", "10", "2", "v1")))
    assert [entry.version for entry in directory.versions("m")] == ["v1", "2", "9", "10"]
    assert directory.find("m").name == "m-10"


async def test_the_open_inference_protocol_tells_versions() -> None:
    front = Front()
    front.directory.put(entry_of("m"))
    front.directory.put(entry_of("m-2", "2", "m"))
    assert (await front.get("/v2/models/m")).json()["versions"] == ["1", "2"]
    for version in ("1", "2"):
        answer = await front.post(f"/v2/models/m/versions/{version}/infer", {"inputs": [TENSOR]})
        assert (answer.json()["model_name"], answer.json()["model_version"]) == ("m", version)
        (stats,) = (await front.get(f"/v2/models/m/versions/{version}/stats")).json()["model_stats"]
        assert (stats["name"], stats["version"]) == ("m", version)
    assert [one["version"] for one in (await front.get("/v2/models/m/stats")).json()["model_stats"]] == ["1", "2"]
    index = (await front.post("/v2/repository/index")).json()
    assert [(one["name"], one["version"]) for one in index] == [("m", "1"), ("m", "2")]
    (own,) = (await front.get("/v2/models/m-2/stats")).json()["model_stats"]
    assert own["version"] == "2"
    wrong = await front.post("/v2/models/m/versions/2/infer", {"inputs": [TENSOR], "model_version": "1"})
    assert wrong.status_code == 400
    front.directory.traffic = Traffic({"m": {"2": 1}})
    assert (await front.post("/v2/models/m/infer", {"inputs": [TENSOR]})).json()["model_version"] == "2"


async def test_a_key_for_a_model_is_one_for_its_versions() -> None:
    secret, stored = mint_key("caller", workflows=["m"])
    front = Front(Keys([stored]))
    front.directory.put(entry_of("m"))
    front.directory.put(entry_of("m-2", "2", "m"))
    front.directory.put(entry_of("n"))
    headers = {"x-api-key": secret}
    assert (await front.get("/v2/models/m/versions/2", headers=headers)).status_code == 200
    assert (await front.get("/v2/models/n", headers=headers)).status_code == 404
    listed = (await front.get("/v1/workflows", headers=headers)).json()["workflows"]
    assert [one["name"] for one in listed] == ["m", "m-2"]


async def test_a_key_for_one_version_finds_that_one_whatever_the_shares_are() -> None:
    secret, stored = mint_key("caller", workflows=["m-2"])
    front = Front(Keys([stored]))
    front.directory.put(entry_of("m"))
    front.directory.put(entry_of("m-2", "2", "m"))
    headers = {"x-api-key": secret}
    for shares in ({}, {"m": {"1": 1}}, {"m": {"1": 1, "2": 1}}):
        front.directory.traffic = Traffic(shares)
        for name in ("m", "m-2"):
            answers = [
                await front.post(f"/v2/models/{name}/infer", {"inputs": [TENSOR]}, headers=headers) for _ in "abcd"
            ]
            assert [answer.json()["model_version"] for answer in answers] == ["2"] * 4
    assert (await front.get("/v2/models/m/versions/1", headers=headers)).status_code == 404
    assert (await front.get("/v2/models/m", headers=headers)).json()["versions"] == ["2"]
    stats = (await front.get("/v2/models/m/stats", headers=headers)).json()["model_stats"]
    assert [one["version"] for one in stats] == ["2"]


async def test_an_alias_means_all_versions() -> None:
    front = Front()
    first, second = entry_of("m"), entry_of("m-2", "2", "m")
    assert first.card is not None
    first.card = first.card.model_copy(update={"aliases": ["other"]})
    front.directory.put(first)
    front.directory.put(second)
    stats = (await front.get("/v2/models/other/stats")).json()["model_stats"]
    assert [one["version"] for one in stats] == ["1", "2"]
    front.directory.traffic = Traffic({"m": {"2": 1}})
    assert front.directory.find("other") is second


async def test_a_request_ends_where_it_began_whatever_becomes_of_its_version() -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def waits(input_data: Any, call: CallContext) -> Any:
        begun.set()
        await gate.wait()
        return {"outputs": input_data["inputs"], "parameters": {"by": "second"}}

    async def drips(input_data: Any) -> AsyncGenerator[list[Any]]:
        yield ["one"]
        begun.set()
        await gate.wait()
        yield ["two"]

    front = Front()
    front.directory.put(entry_of("m"))
    front.directory.traffic = Traffic({"m": {"2": 1}})
    named = {"inputs": {"x": {"dtype": "float32", "shape": [1], "data": [1.0]}}}
    for path, body in (("/v2/models/m/infer", {"inputs": [TENSOR]}), ("/v1/workflows/m/stream", named)):
        second = entry_of("m-2", "2", "m")
        assert second.card is not None
        second.card = second.card.model_copy(update={"streams": True})
        second.dispatcher.client = Counting(waits, drips)
        front.directory.put(second)
        gate.clear()
        begun.clear()
        asked = asyncio.create_task(front.post(path, body))
        await asyncio.wait_for(begun.wait(), 10)
        front.directory.traffic = Traffic({"m": {"1": 1}})
        assert (await front.post("/v2/models/m/infer", {"inputs": [TENSOR]})).json()["model_version"] == "1"
        front.directory.traffic = Traffic({"m": {"2": 1}})
        front.directory.remove("m-2")
        gate.set()
        answer = await asked
        assert answer.status_code == 200
        assert ("two" if "stream" in path else '"second"') in answer.text
        assert (await front.post("/v2/models/m/versions/2/infer", {"inputs": [TENSOR]})).status_code == 404


async def test_versions_over_grpc() -> None:
    front = Front()
    second = entry_of("m-2", "2", "m")
    for entry in (entry_of("m"), second):
        front.directory.put(entry)
    async with listening(front) as it, it.caller() as caller:

        async def version_of(asked: str) -> str:
            answer = await caller.call("ModelInfer", infer_request("m", model_version=asked))
            assert answer.model_name == "m"
            return str(answer.model_version)

        assert [await version_of(asked) for asked in ("", "1", "2")] == ["1", "1", "2"]
        assert list((await caller.ask("ModelMetadata", name="m", version="2")).versions) == ["1", "2"]
        front.directory.traffic = Traffic({"m": {"1": 1, "2": 3}})
        assert abs(Counter([await version_of("") for _ in range(100)])["2"] - 75) <= 2
        second.state = "unloaded"
        assert [(await caller.ask("ModelReady", name="m", version=one)).ready for one in ("", "1", "2")] == [
            True,
            True,
            False,
        ]
        assert {await version_of("") for _ in range(20)} == {"1"}
        assert (await failure(version_of("3"))).code() == grpc.StatusCode.NOT_FOUND
