"""gRPC's listener: whose port it is, how it stops without losing a call, and what bounds its connections."""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from deployments.config import GrpcArgs
from deployments.router import grpc_edge
from deployments.router.grpc_listener import GrpcListener
from deployments.router.port import PortTaken
from deployments.router.protocols.open_inference.grpc_proto import SERVICE
from tests.ports import free_port
from tests.router.grpc_front import Caller, failure, infer_edge, infer_request, listening, until
from tests.router.router_front import Front, ScriptedClient
from workflows.context import CallContext

CODE = grpc.StatusCode
Spawn = Callable[..., Awaitable[tuple[Process, str]]]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    """Starts other processes, and ends them with the test."""
    started: list[Process] = []

    async def spawn(*words: str) -> tuple[Process, str]:
        command = [sys.executable, "-m", "tests.router.grpc_replica", *words]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        started.append(process)
        assert process.stdout is not None
        return process, (await process.stdout.readline()).decode().strip()

    yield spawn
    for process in started:
        await ended(process)


async def ended(process: Process) -> str:
    """What a process says when it is told to stop."""
    said, _ = await process.communicate(b"")
    return said.decode().strip()


def house(client: ScriptedClient | None = None) -> Front:
    front = Front()
    front.add("m", client, kind="tensors")
    return front


def listener_on(port: int, owner: str = "us", host: str = "127.0.0.1", **args: Any) -> GrpcListener:
    grpc_args = GrpcArgs.model_validate({"port": port, **args})
    edge, limits = infer_edge(house(), grpc_args)
    return GrpcListener(edge, host, grpc_args, limits=limits, owner=owner, quiet_s=0.05)


@asynccontextmanager
async def asking(target: str) -> AsyncGenerator[Caller]:
    async with grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Caller(channel)


# ---- whose port it is ------------------------------------------------------------------------------------------------------


async def test_a_listener_that_never_started_stops() -> None:
    await listener_on(0).stop()


async def test_it_is_alive_until_it_stops() -> None:
    listener = listener_on(0)
    assert not listener.alive
    await listener.start(1)
    assert listener.alive
    assert listener.address[1] != 0
    await listener.stop()
    assert not listener.alive


async def test_a_port_may_be_had_again_after_a_stop() -> None:
    port = free_port()
    for owner in ("us", "them"):
        listener = listener_on(port, owner)
        await listener.start(1)
        await listener.stop()


async def test_replicas_of_a_cluster_share_a_port(spawn: Spawn) -> None:
    port = free_port()
    _, said = await spawn(str(port), "us")
    assert said == str(port)
    listener = listener_on(port)
    await listener.start(1)
    await listener.stop()
    async with asking(f"127.0.0.1:{port}") as caller:
        assert (await caller.ask("ServerLive")).live


async def test_another_cluster_does_not_get_it(spawn: Spawn) -> None:
    port = free_port()
    listener = listener_on(port)
    await listener.start(1)
    _, said = await spawn(str(port), "them")
    await listener.stop()
    assert said == f"PortTaken: 127.0.0.1:{port} belongs to another cluster of this user"


@pytest.mark.parametrize("how", ["reuse", "plain"])
async def test_nor_does_it_go_where_somebody_else_is(spawn: Spawn, how: str) -> None:
    _, port = await spawn("0", "nobody", how)
    with pytest.raises(PortTaken, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        await listener_on(int(port)).start(1)


async def test_a_replica_that_was_killed_leaves_nothing_behind(spawn: Spawn) -> None:
    port = free_port()
    process, _ = await spawn(str(port), "them")
    process.kill()
    await process.wait()
    listener = listener_on(port)
    await listener.start(1)
    await listener.stop()


async def test_a_host_that_there_is_not() -> None:
    with pytest.raises(PortTaken, match=r"cannot listen on no\.such\.host\.invalid"):
        await listener_on(free_port(), host="no.such.host.invalid").start(1)
    with pytest.raises(PortTaken, match=r"cannot listen on 192\.0\.2\.1"):
        await listener_on(free_port(), host="192.0.2.1").start(1)
    with pytest.raises(PortTaken, match=r"cannot listen on 192\.0\.2\.1"):
        await listener_on(0, host="192.0.2.1").start(1)


# ---- how it stops ----------------------------------------------------------------------------------------------------------


async def test_a_stop_lets_calls_finish() -> None:
    running, go = asyncio.Event(), asyncio.Event()

    async def waits(input_data: Any, call: CallContext) -> Any:
        running.set()
        await go.wait()
        return {"outputs": input_data["inputs"]}

    async with listening(house(ScriptedClient(waits))) as it, it.caller() as caller:
        call = asyncio.ensure_future(caller.call("ModelInfer", infer_request()))
        await running.wait()
        stopping = asyncio.create_task(it.listener.stop())
        await until(lambda: refuses(it.listener.address))
        go.set()
        assert (await call).model_name == "m"
        await stopping


def refuses(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) != 0


async def test_a_stop_does_not_wait_for_ever() -> None:
    async def waits(input_data: Any, call: CallContext) -> Any:
        await asyncio.Event().wait()

    async with listening(house(ScriptedClient(waits)), drain_s=0.2) as it, it.caller() as caller:
        call = asyncio.ensure_future(failure(caller.call("ModelInfer", infer_request())))
        await until(lambda: it.edge.running == 1)
        async with asyncio.timeout(5):
            await it.listener.stop()
        assert (await call).code() in (CODE.CANCELLED, CODE.UNAVAILABLE)


async def test_a_connection_that_does_nothing_holds_nobody_up() -> None:
    async with listening(house(), drain_s=60) as it, it.caller() as caller:
        await caller.ask("ServerLive")
        async with asyncio.timeout(10):
            await it.listener.stop()


async def test_one_replica_after_another_and_no_call_is_lost(spawn: Spawn) -> None:
    """Callers with a connection of their own, which they keep, and some that open a new one now and then."""
    port = free_port()
    now, _ = await spawn(str(port), "us")
    done = asyncio.Event()
    counts = [0] * 6

    async def calls(index: int) -> None:
        while not done.is_set():
            async with asking(f"127.0.0.1:{port}") as caller:
                for _ in range(20 if index % 2 else 1_000_000):
                    await caller.call("ModelInfer", infer_request())
                    counts[index] += 1
                    if done.is_set():
                        break

    callers = [asyncio.create_task(calls(index)) for index in range(len(counts))]
    for _ in range(3):
        goal = sum(counts) + 200
        await until(lambda goal=goal: sum(counts) > goal)  # type: ignore[misc]
        then, said = await spawn(str(port), "us")
        assert said == str(port)
        assert await ended(now) == "stopped"
        now = then
    done.set()
    await asyncio.gather(*callers)
    assert min(counts) > 0


# ---- what bounds its connections -------------------------------------------------------------------------------------------


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with listening(house(), limits={"head_s": 0.1}) as it:
        reader, writer = await asyncio.open_connection(*it.listener.address)
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_there_are_only_so_many_connections() -> None:
    few = {"max_connections": 2}
    async with listening(house(), limits=few) as it, it.caller() as one, it.caller() as two, it.caller() as three:
        await one.ask("ServerLive")
        await two.ask("ServerLive")
        assert (await failure(three.ask("ServerLive"))).code() == CODE.UNAVAILABLE
        await one.ask("ServerLive")


async def test_what_is_no_http2_is_closed() -> None:
    async with listening(house()) as it, it.caller() as caller:
        for noise in (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x00" * 1000,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * 9,
        ):
            reader, writer = await asyncio.open_connection(*it.listener.address)
            writer.write(noise)
            async with asyncio.timeout(5):
                await reader.read()
            writer.close()
        await caller.ask("ServerLive")


async def test_old_connections_are_sent_away_and_nobody_notices() -> None:
    async with listening(house(), grpc={"connection_age_s": 1}) as it, it.caller() as caller:
        loop = asyncio.get_running_loop()
        end = loop.time() + 2.5
        peers = set()
        while loop.time() < end:
            call = caller.call("ServerLive", b"")
            await call
            peers |= {address for _, address in it.listener._connections()}
        assert len(peers) > 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_who_does_not_take_its_answer_is_hung_up_on(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_edge, "LEAST_BYTES_PER_S", 1 << 40)
    large = np.zeros((4 << 20, 2), np.float32)
    async with listening(house(), host=host) as it, it.caller() as caller, it.caller() as other:
        it.edge._send_stall_s = 0.1
        call = caller.channel.stream_stream(f"/{SERVICE}/ModelInfer")()  # which reads only what it is told to read
        await call.write(infer_request(array=large).SerializeToString())
        await until(lambda: it.edge.running == 1)
        await until(lambda: it.edge.running == 0)
        assert await call.code() == CODE.UNAVAILABLE
        it.edge._send_stall_s = 5
        await other.call("ModelInfer", infer_request())


async def test_many_are_hung_up_on_with_one_look_at_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    async with listening(house()) as it:

        def counted() -> Any:
            nonlocal looks
            looks += 1
            return look()

        look = it.listener._sockets
        monkeypatch.setattr(it.listener, "_sockets", counted)
        opened = [await asyncio.open_connection(*it.listener.address) for _ in range(21)]
        *unwanted, wanted = [writer.get_extra_info("sockname")[:2] for _, writer in opened]
        for reader, _ in opened:
            await reader.readexactly(9)  # it was accepted, and is greeted
        for host, port in unwanted:
            it.listener._hang_up(f"ipv4:{host}:{port}")
        async with asyncio.timeout(5):
            await asyncio.gather(*(reader.read() for reader, _ in opened[:-1]))
        assert looks == 1
        it.listener._hang_up(f"ipv4:{wanted[0]}:{wanted[1]}")
        async with asyncio.timeout(5):
            await opened[-1][0].read()
        assert looks == 2
        for _, writer in opened:
            writer.close()


async def test_who_takes_its_answer_slowly_is_waited_for() -> None:
    large = np.zeros((4 << 20, 2), np.float32)
    async with listening(house()) as it, it.caller(options={"grpc.max_receive_message_length": -1}) as caller:
        call = caller.channel.stream_stream(f"/{SERVICE}/ModelInfer")()
        await call.write(infer_request(array=large).SerializeToString())
        await until(lambda: it.front.lines.texts != [])
        assert it.edge.running == 1  # because the answer is not sent
        assert len(await call.read()) > large.nbytes
        await until(lambda: it.edge.running == 0)
