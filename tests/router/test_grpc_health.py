"""gRPC's standard health service: for whoever asks, and for those with a key who watch."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deployments.router.keys import Keys, mint_key
from tests.router.grpc_front import failure, listening

CODE = grpc.StatusCode
STATUS = health_pb2.HealthCheckResponse


def asked(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
async def test_it_serves_until_it_drains(service: str) -> None:
    async with listening() as it, it.caller() as caller:
        health = health_pb2_grpc.HealthStub(caller.channel)
        assert (await health.Check(asked(service))).status == STATUS.SERVING
        it.edge.drain()
        assert (await health.Check(asked(service))).status == STATUS.NOT_SERVING
        assert it.front.lines.last["protocol"] == "grpc_health"


async def test_no_other_service_is_known() -> None:
    async with listening() as it, it.caller() as caller:
        health = health_pb2_grpc.HealthStub(caller.channel)
        error = await failure(health.Check(asked("other")))
        assert (error.code(), error.details()) == (CODE.NOT_FOUND, "there is no such service")
        watching = health.Watch(asked("other"))
        assert (await watching.read()).status == STATUS.SERVICE_UNKNOWN
        watching.cancel()
        error = await failure(caller.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff"))
        assert error.code() == CODE.INVALID_ARGUMENT


async def test_all_who_watch_hear_of_the_end() -> None:
    async with listening() as it, it.caller() as caller:
        health = health_pb2_grpc.HealthStub(caller.channel)
        watching = [health.Watch(asked()) for _ in range(3)]
        for watch in watching:
            assert (await watch.read()).status == STATUS.SERVING
        watching.pop().cancel()
        it.edge.drain()
        for watch in watching:
            assert (await watch.read()).status == STATUS.NOT_SERVING
            assert await watch.code() == CODE.UNAVAILABLE


async def test_watching_needs_a_key_and_asking_needs_none() -> None:
    secret, key = mint_key("probe")
    async with listening(keys=Keys([key])) as it, it.caller() as caller:
        health = health_pb2_grpc.HealthStub(caller.channel)
        assert (await health.Check(asked())).status == STATUS.SERVING
        assert await health.Watch(asked()).code() == CODE.UNAUTHENTICATED
        watching = health.Watch(asked(), metadata=[("x-api-key", secret)])
        assert (await watching.read()).status == STATUS.SERVING
        watching.cancel()


async def test_a_watch_does_not_last_for_ever() -> None:
    async with listening(grpc={"max_stream_s": 0.05}) as it, it.caller() as caller:
        watching = health_pb2_grpc.HealthStub(caller.channel).Watch(asked())
        assert (await watching.read()).status == STATUS.SERVING
        assert await watching.code() == CODE.UNAVAILABLE
