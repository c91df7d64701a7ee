"""What is counted and logged: bounded, complete, and never what was said."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.client import Timing
from deployments.router.access_log import AccessLogFiles
from deployments.router.keys import Keys, mint_key
from deployments.router.metrics import MAX_WORKFLOWS, Metrics
from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext
from workflows.errors import InvalidInput

PATH = "/v1/workflows/m/inference"


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """By name and label values but the replica's, in the order of the labels' names."""
    return {
        (sample.name, tuple(sample.labels[label] for label in sorted(sample.labels.keys() - {"replica"}))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests_are_counted_by_protocol_workflow_and_outcome() -> None:
    async def picky(input_data: Any, call: CallContext) -> Any:
        if input_data == 1:
            raise InvalidInput
        return input_data

    house = Front()
    house.add("m", ScriptedClient(picky))
    for body in (0, 0, 1):
        await house.post(PATH, body)
    await house.get("/v2/models/m")
    await house.get("/v2/models/none")
    answer = await house.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(answer.text)
    assert found["infernet_requests_total", ("ok", "native", "m")] == 2
    assert found["infernet_requests_total", ("invalid", "native", "m")] == 1
    assert found["infernet_errors_total", ("invalid", "native", "m")] == 1
    assert ("infernet_errors_total", ("ok", "native", "m")) not in found
    assert found["infernet_requests_total", ("ok", "open_inference", "m")] == 1
    assert found["infernet_requests_total", ("no_model", "open_inference", "")] == 1
    assert found["infernet_request_seconds_count", ("native", "m")] == 3
    assert found["infernet_request_seconds_bucket", ("+Inf", "native", "m")] == 3
    assert found["infernet_queue_seconds_sum", ("m",)] == pytest.approx(3 * 0.002, abs=0.003)
    assert found["infernet_batch_items_count", ("m",)] == 2


async def test_what_an_item_costs_is_counted_by_the_size_of_its_batch() -> None:
    metrics = Metrics()
    for size, seconds in ((1, 0.5), (3, 0.75), (4, 1.0), (5, 2.0)):
        for _ in range(size):
            metrics.observe_outcome("m", Timing(0.0, seconds, size))
    found = {
        (sample.name, sample.labels["size"]): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if "size" in sample.labels
    }
    assert [found["infernet_batched_items_total", size] for size in "148"] == [1, 7, 5]
    assert [found["infernet_batched_seconds_total", size] for size in "148"] == pytest.approx([0.5, 1.75, 2.0])


async def test_every_series_says_which_replica_it_is_of() -> None:
    house = Front()
    house.add("m")
    metrics = Metrics("a1b2", house.directory)
    metrics.observe_request("native", "m", "ok", 0.1)
    metrics.observe_request("native", "m", "invalid", 0.1)
    metrics.observe_outcome("m", Timing(0.1, 0.1, 1))
    metrics.tokens("m", "key", 1, 1)
    metrics.fell("m", "n")
    families = list(text_string_to_metric_families(metrics.exposition().decode()))
    assert len(families) == 14
    for family in families:
        assert {sample.labels["replica"] for sample in family.samples} == {"a1b2"}


async def test_names_that_callers_invent_are_no_labels() -> None:
    house = Front()
    house.add("m")
    await house.get("/metrics")
    before = len((await house.get("/metrics")).text)
    for i in range(200):
        await house.get(f"/v2/models/canary{i}")
        await house.get(f"/canary{i}", headers={"x-request-id": f"canary{i}", "user-agent": f"canary{i}"})
    after = (await house.get("/metrics")).text
    assert "canary" not in after
    assert len(after) < before + 8000


def test_workflows_that_come_and_go_for_ever_become_other() -> None:
    metrics = Metrics()
    for i in range(MAX_WORKFLOWS + 50):
        metrics.observe_request("native", f"w{i}", "ok", 0.1)
        metrics.observe_outcome(f"w{i}", Timing(0.1, 0.1, 1))
        metrics.tokens(f"w{i}", "key", 1, 1)
    lines = metrics.exposition().decode().splitlines()
    found = samples("\n".join(line for line in lines if line.startswith("#") or '"other"' in line) + "\n")
    assert found["infernet_requests_total", ("ok", "native", "other")] == 50
    assert found["infernet_batch_items_count", ("other",)] == 50
    assert found["infernet_tokens_total", ("prompt", "key", "other")] == 50


async def test_the_state_of_each_workflow_is_shown() -> None:
    gate = asyncio.Event()

    async def gated(input_data: Any, call: CallContext) -> Any:
        await gate.wait()
        return input_data

    house = Front()
    house.add("m", ScriptedClient(gated))
    house.directory.find("m").replicas, house.directory.find("m").lanes = 3, 2
    asked = [asyncio.create_task(house.post(PATH, number)) for number in range(3)]
    dispatcher = house.directory.find("m").dispatcher
    while dispatcher.load < 3 or dispatcher.waiting:
        await asyncio.sleep(0)
    found = samples((await house.get("/metrics")).text)
    gate.set()
    await asyncio.gather(*asked)
    shown = {name: found[f"infernet_workflow_{name}", ("m",)] for name in ("replicas", "lanes", "inflight", "waiting")}
    assert shown == {"replicas": 3, "lanes": 2, "inflight": 3, "waiting": 0}


def test_buckets_hold_what_is_at_most_their_bound() -> None:
    metrics = Metrics()
    for size in (1, 2, 3, 5000):
        metrics.observe_outcome("m", Timing(0.0, 0.0, size))
    found = samples(metrics.exposition().decode())
    assert [found["infernet_batch_items_bucket", (bound, "m")] for bound in ("1.0", "2.0", "4.0", "+Inf")] == [
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize(("kind", "counted"), [("embed", 14), ("task", 14), ("json", None)])
async def test_workflows_that_only_read_count_their_tokens(kind: str, counted: int | None) -> None:
    async def read(input_data: Any, call: CallContext) -> Any:
        return {"tokens": 7}

    house = Front()
    house.add("m", ScriptedClient(read), kind=kind)
    await house.post(PATH, [{"text": "a"}, {"text": "b"}])
    assert (
        samples((await house.get("/metrics")).text).get(("infernet_tokens_total", ("prompt", "anyone", "m"))) == counted
    )


async def test_one_line_per_request_says_everything_but_what_was_said() -> None:
    secret, stored = mint_key("team-b")
    house = Front(Keys([stored]))
    house.add("m")
    body = {"text": "canary-prompt"}
    answer = await house.post(PATH, body, headers={"x-api-key": secret})
    (text,) = house.lines.texts
    line = json.loads(text)
    assert line.pop("ts") > 1.7e9
    assert line.pop("ms") > 0
    assert line == {
        "request_id": answer.headers["x-request-id"],
        "method": "POST",
        "route": "/v1/workflows/{name}/inference",
        "protocol": "native",
        "workflow": "m",
        "served_by": ["m"],
        "status": 200,
        "code": "ok",
        "bytes_in": len(answer.request.content),
        "bytes_out": len(answer.content),
        "key": "team-b",
        "chunks": 0,
    }
    await house.get("/v2?api_key=canary", headers={"x-api-key": "canary"})
    assert house.lines.last["key"] == "none"
    assert len(house.lines.texts) == 2
    assert "canary" not in "".join(house.lines.texts)
    assert secret not in "".join(house.lines.texts)


async def write(log: AccessLogFiles, *lines: str) -> None:
    for line in lines:
        log(line)
    log.close()


def test_every_process_has_its_own_log_and_old_ones_are_removed(tmp_path: Path) -> None:
    none = 10_000_000  # there is no process with such an id
    for pid in range(none + 1, none + 12):
        for name in (f"access_{pid}.log", f"access_{pid}.log.1"):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (pid, pid))
    foreign = {"access.log", "access_x.log", "other_1.log", "access_1.log.gz"}
    for name in foreign:
        (tmp_path / name).touch()
    log = AccessLogFiles(tmp_path / "access.log")
    asyncio.run(write(log, "one", "two"))
    own = f"access_{os.getpid()}.log"
    assert (tmp_path / own).read_text() == "one\ntwo\n"
    kept = {f"access_{pid}.log{end}" for pid in range(none + 5, none + 12) for end in ("", ".1")}
    assert {file.name for file in tmp_path.iterdir()} == {own, *foreign, *kept}


def test_a_log_that_cannot_be_written_is_found_at_the_start(tmp_path: Path) -> None:
    log = AccessLogFiles(tmp_path / "a" / "b" / "access.log")
    asyncio.run(write(log, "one", "two"))
    assert (tmp_path / "a" / "b" / f"access_{os.getpid()}.log").read_text() == "one\ntwo\n"
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        AccessLogFiles(tmp_path / "file" / "access.log")
    (tmp_path / f"taken_{os.getpid()}.log").mkdir()
    with pytest.raises(OSError, match="taken"):
        AccessLogFiles(tmp_path / "taken.log")


async def test_a_line_cannot_be_forged() -> None:
    house = Front()
    for hostile in ("\n{}", "\x1b[2J", "\u2028", "\u202e", '","a":"'):
        await house.request(
            "GET", "/" + quote(hostile), headers={"x-request-id": hostile.encode(), "user-agent": hostile.encode()}
        )
        await house.request("CANARY", "/v2")
    for text in house.lines.texts:
        assert text.isascii()
        assert text.isprintable()
        assert json.loads(text)["method"] in {"GET", "other"}


async def test_concurrent_requests_have_their_own_lines() -> None:
    house = Front()
    house.add("m")
    answers = await asyncio.gather(*(house.post(PATH, i) for i in range(20)))
    logged = {json.loads(text)["request_id"] for text in house.lines.texts}
    assert logged == {answer.headers["x-request-id"] for answer in answers}
