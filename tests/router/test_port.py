"""The shared port: whoever accepts, no connection is lost; whoever else holds it, one line says so."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from deployments.router import port as port_module
from deployments.router.port import Port, PortTaken

HOST = "127.0.0.1"
OpenPort = Callable[..., Awaitable[Port]]


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path: that of a Unix socket has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="port-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def free() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def opened() -> AsyncGenerator[OpenPort]:
    """Opens ports as another process would: while the event loop of the lender runs."""
    ports: list[Port] = []

    async def open_port(port: int, owner: str = "ours", *, lend: bool = True) -> Port:
        made = await asyncio.to_thread(Port, HOST, port, owner)
        ports.append(made)
        if lend:
            await made.lend()
        return made

    yield open_port
    for port in ports:
        await port.close()


def connect(port: int) -> socket.socket:
    client = socket.create_connection((HOST, port), timeout=5)
    client.sendall(b"hello")
    return client


def serve_one(port: Port) -> None:
    """Accept the next connection and answer it."""
    accepted, _ = port.socket.accept()
    with accepted:
        accepted.settimeout(5)
        assert accepted.recv(16) == b"hello"
        accepted.sendall(b"welcome")


def sockets(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_socket()]


def files(folder: Path) -> list[str]:
    return [path.name for path in sockets(folder)]


async def test_ports_of_one_owner_share_one_queue(opened: OpenPort, free: int) -> None:
    first, second = await opened(free), await opened(free)
    assert first.address == second.address == (HOST, free)
    clients = [connect(free) for _ in range(4)]
    for port in (first, second, second, first):
        serve_one(port)
    for client in clients:
        with client:
            assert client.recv(16) == b"welcome"


async def test_what_waits_to_be_accepted_outlives_the_first_owner(opened: OpenPort, free: int) -> None:
    first, second = await opened(free), await opened(free)
    clients = [connect(free) for _ in range(50)]
    await first.close()
    for client in clients:
        serve_one(second)
        with client:
            assert client.recv(16) == b"welcome"


async def test_a_borrower_lends_on(opened: OpenPort, free: int) -> None:
    first = await opened(free)
    second = await opened(free)
    await first.close()
    third = await opened(free)
    await second.close()
    client = connect(free)
    serve_one(third)
    with client:
        assert client.recv(16) == b"welcome"


async def test_ports_that_open_at_the_same_time_find_each_other(opened: OpenPort, free: int) -> None:
    first = await opened(free, lend=False)
    second = asyncio.ensure_future(opened(free))
    await asyncio.sleep(0)
    await first.lend()
    assert (await second).address == first.address


async def test_one_that_has_just_bound_the_port_is_waited_for(
    opened: OpenPort, free: int, runtime_folder: Path
) -> None:
    first = await opened(free)
    (offer,) = sockets(runtime_folder)
    hidden = offer.rename(offer.with_suffix(".hidden"))
    second = asyncio.ensure_future(opened(free))
    await asyncio.sleep(0.05)  # it has found the port taken, and no offer
    hidden.rename(offer)
    assert (await second).address == first.address


async def test_a_lender_that_is_busy_is_asked_again(
    opened: OpenPort, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_module, "_TIMEOUT_S", 0.02)
    monkeypatch.setattr(port_module, "_OFFER_S", 0.0)
    first = await opened(free, lend=False)
    second = asyncio.ensure_future(opened(free))
    done, _ = await asyncio.wait([second], timeout=0.2)  # it has been asked in vain, several times
    assert not done
    await first.lend()
    assert (await second).address == first.address


async def test_a_lender_that_stays_busy_is_given_up(
    opened: OpenPort, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_module, "_TIMEOUT_S", 0.02)
    monkeypatch.setattr(port_module, "_BUSY_S", 0.1)
    await opened(free, lend=False)
    with pytest.raises(PortTaken, match="Address already in use"):
        await opened(free)


async def test_another_owner_is_refused_in_one_line(opened: OpenPort, free: int) -> None:
    await opened(free, "ours")
    with pytest.raises(PortTaken, match="belongs to another cluster") as refused:
        await opened(free, "theirs")
    assert "\n" not in str(refused.value)


async def test_a_port_that_somebody_else_holds_is_refused_in_one_line(opened: OpenPort, runtime_folder: Path) -> None:
    with socket.socket() as foreign:
        foreign.bind((HOST, 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        with pytest.raises(PortTaken, match=f"cannot listen on {HOST}:{port}: Address already in use") as refused:
            await opened(port)
    assert "\n" not in str(refused.value)
    assert files(runtime_folder) == []
    assert (await opened(port)).address == (HOST, port)


async def test_a_host_that_is_not_ours_is_refused_with_the_reason() -> None:
    with pytest.raises(PortTaken, match=r"cannot listen on 192\.0\.2\.1:8000: Cannot assign"):
        Port("192.0.2.1", 8000, "ours")


LENDER = """
import asyncio, sys
from deployments.router.port import Port

async def main():
    port = Port("127.0.0.1", int(sys.argv[1]), "ours")
    await port.lend()
    print("lends", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_what_a_killed_process_left_behind_is_in_nobodys_way(
    opened: OpenPort, free: int, runtime_folder: Path
) -> None:
    lender = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        LENDER,
        str(free),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert lender.stdout is not None
    assert await lender.stdout.readline() == b"lends\n"
    borrowed = await opened(free, lend=False)  # from another process, and it outlives it
    lender.kill()
    await lender.wait()
    client = connect(free)
    serve_one(borrowed)
    client.close()
    await borrowed.close()
    (left,) = files(runtime_folder)
    port = await opened(free)
    assert left not in files(runtime_folder)
    assert port.address == (HOST, free)


async def test_an_owner_who_is_just_leaving_is_not_another_cluster(
    opened: OpenPort, free: int, runtime_folder: Path
) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    closed = await opened(free)
    (name,) = files(runtime_folder)
    await closed.close()
    folder = runtime_folder / f"infernet-serve-{os.getuid()}" / f"{HOST}-{free}"
    async with await asyncio.start_unix_server(leave, path=str(folder / name)):
        assert (await opened(free)).address == (HOST, free)


async def test_closing_leaves_nothing_behind(opened: OpenPort, free: int, runtime_folder: Path) -> None:
    port = await opened(free)
    assert len(files(runtime_folder)) == 1
    await port.close()
    assert files(runtime_folder) == []
    with pytest.raises(ConnectionRefusedError):
        connect(free)


async def test_a_lent_socket_is_not_handed_down_to_child_processes(opened: OpenPort, free: int) -> None:
    for port in (await opened(free), await opened(free)):
        assert not port.socket.get_inheritable()


async def test_no_owner_can_make_the_others_wait_in_accept(opened: OpenPort, free: int) -> None:
    first, second = await opened(free), await opened(free)
    for port in (second, first):
        with port.socket.dup():  # as the listener does
            assert not os.get_blocking(first.socket.fileno())
            assert not os.get_blocking(second.socket.fileno())


async def test_port_0_is_a_port_of_ones_own(opened: OpenPort) -> None:
    first, second = await opened(0), await opened(0)
    assert first.address[1] != second.address[1]
    assert 0 not in (first.address[1], second.address[1])


def test_nobody_else_may_enter_the_folder(runtime_folder: Path) -> None:
    asyncio.run(Port(HOST, 0, "ours").close())
    (folder,) = runtime_folder.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o755)
    with pytest.raises(PermissionError, match="must belong to this user alone"):
        Port(HOST, 0, "ours")


def test_a_link_in_place_of_the_folder_is_refused(runtime_folder: Path, tmp_path: Path) -> None:
    (runtime_folder / f"infernet-serve-{os.getuid()}").symlink_to(tmp_path)
    tmp_path.chmod(0o700)
    with pytest.raises(PermissionError):
        Port(HOST, 0, "ours")
