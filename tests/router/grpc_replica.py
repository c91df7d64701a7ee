"""A process that listens as a router replica does: `python -m tests.router.grpc_replica PORT OWNER ["reuse"|"plain"]`.

Says on a line of its own output which port it has, or why it has none, and stops when its input ends. With a third word
it is no replica but somebody else on the port, who shares it or does not.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from deployments.config import GrpcArgs
from deployments.router.grpc_listener import GrpcListener
from tests.router.grpc_front import infer_edge
from tests.router.router_front import Front


async def main(port: int, owner: str) -> None:
    front = Front()
    front.add("m", kind="tensors")
    args = GrpcArgs(port=port, connection_age_s=1)
    edge, limits = infer_edge(front, args)
    listener = GrpcListener(edge, "127.0.0.1", args, limits=limits, owner=owner)
    try:
        await listener.start(10)
    except OSError as error:
        sys.stdout.write(f"{type(error).__name__}: {error.strerror}\n")
        return
    sys.stdout.write(f"{listener.address[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await listener.stop()
    sys.stdout.write("stopped\n")


def squat(port: int, how: str) -> None:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if how == "reuse":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        squat(int(sys.argv[1]), sys.argv[3])
    else:
        asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
