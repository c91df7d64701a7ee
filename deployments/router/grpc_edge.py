"""The door of the router for gRPC, in front of every service. Checks in a fixed order, then lets a method answer.

    room -> method (UNIMPLEMENTED) -> caller (PERMISSION_DENIED) -> key (UNAUTHENTICATED, PERMISSION_DENIED)
    -> message (INVALID_ARGUMENT) -> the protocol's own checks

All that happens before any message is taken. Sizes of metadata and messages are bounded by the listener, before a call is
one. Every answer has a request id, every call one line in the access log, and whatever goes wrong unforeseen is a bare
INTERNAL. As over HTTP, only this machine is answered where no keys are configured. (There is no check of host names: no
page in a browser can speak gRPC to a server that does not speak its own tongue.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import grpc

from deployments.collector import without_frames
from deployments.config import Limits
from deployments.router.access_log import AccessLog
from deployments.router.admission import NOBODY, allowed_key, is_loopback, new_ids, only_local, read_headers
from deployments.router.alarms import alarm_at
from deployments.router.grpc_call import Call, Conversation, Method, unforeseen
from deployments.router.keys import Keys
from deployments.router.metrics import Metrics
from deployments.router.protocols.tables import GRPC
from deployments.router.refusals import NoRoute
from workflows.errors import Cancelled, DeadlineExceeded, Overloaded, WorkflowError

__all__ = ["GrpcEdge"]

log = logging.getLogger(__name__)

SEND_STALL_S: Final = 30.0
LEAST_BYTES_PER_S: Final = 64 << 10
"""Whoever takes its answer more slowly than this, and `SEND_STALL_S`, does not take it."""
EARLY_S: Final = 0.05
"""Both sides end a call at its deadline, by clocks of their own: a little before ours it is no other end."""


class GrpcEdge(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC comes without types
    """All methods, for a server of `grpc.aio`.

    Args:
        max_calls: That run at a time; those whose answer nobody reads run as well.
        max_stream_s: After which a call of many messages is made to end, as when the server drains.
        send_stall_s: How long a small answer may take to be taken.
        keys: The keys that are valid now.

    Attributes:
        running: Calls that are not over.
        last_begun: When the last call came, by `time.perf_counter()`.
        draining: Whether `drain()` was called.
        hang_up: Ends the connection of a caller, by its address as gRPC says it, with all its calls; set by who listens.
            gRPC has no way to end a call whose answer is on its way.
    """

    def __init__(
        self,
        methods: Iterable[Method],
        *,
        limits: Limits,
        max_calls: int,
        max_stream_s: float,
        keys: Callable[[], Keys],
        metrics: Metrics,
        access_log: Callable[[str], None] | None = None,
        send_stall_s: float = SEND_STALL_S,
    ) -> None:
        self.hang_up: Callable[[str], None] = _ignore
        self._send_stall_s = send_stall_s
        self.running = 0
        self.last_begun = time.perf_counter()
        self.draining = False
        self._limits = limits
        self._max_calls = max_calls
        self._max_stream_s = max_stream_s
        self._keys = keys
        self._metrics = metrics
        self._access = AccessLog(access_log)
        self._conversations: set[Conversation] = set()
        self._handlers = {method.path: self._handler(method) for method in methods}
        self._nowhere = self._handler(Method("", "grpc", unary=_no_method, access="public"))

    def service(self, handler_call_details: Any) -> Any:
        """gRPC asks this for whoever answers a method."""
        return self._handlers.get(handler_call_details.method, self._nowhere)

    def drain(self) -> None:
        """Conversations end from now on as soon as what was asked in them is answered; all else goes on."""
        self.draining = True
        for conversation in self._conversations:
            conversation.leaving.set()

    def _handler(self, method: Method) -> Any:
        # Also methods with one message take a stream, so that callers are refused before any message is taken.
        async def handle(messages: Any, context: Any) -> bytes | None:
            return await self._handle(method, context)

        if method.conversing is not None:
            return grpc.stream_stream_rpc_method_handler(handle)
        return grpc.stream_unary_rpc_method_handler(handle)

    async def _handle(self, method: Method, context: Any) -> bytes | None:
        call = self._begin(method, context)
        refusal: WorkflowError | None = None
        try:
            self._admit(method, call)
            return await self._answer(method, call)
        except WorkflowError as error:
            refusal = error
        except asyncio.CancelledError:
            left = call.seconds_left()
            refusal = DeadlineExceeded() if left is not None and left < EARLY_S else Cancelled()
            raise
        except Exception as cause:  # noqa: BLE001 - it is logged with the call
            refusal = unforeseen(cause)
        finally:
            self._settle(call, refusal)
        await _refuse(call, without_frames(refusal))
        return None

    def _begin(self, method: Method, context: Any) -> Call:
        started = self.last_begun = time.perf_counter()
        metadata = context.invocation_metadata()
        headers, repeated, _ = read_headers((name.encode(), _as_bytes(value)) for name, value in metadata)
        shown, call_id = new_ids(headers.get(b"x-request-id"))
        call = Call(
            id=shown,
            call_id=call_id,
            path=method.path,
            protocol=method.protocol,
            headers=headers,
            repeated=repeated,
            key=NOBODY,
            limits=self._limits,
            started=started,
            context=context,
        )
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        task.add_done_callback(partial(self._over, call))  # gRPC's own would leave it to the garbage collector
        self.running += 1
        return call

    def _over(self, call: Call, task: asyncio.Task[Any]) -> None:
        """Also the answer is sent."""
        self.running -= 1
        if call.sending is not None:
            call.sending.cancel()

    def _watch_sending(self, call: Call, size: int) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._send_stall_s + size / LEAST_BYTES_PER_S
        call.sending = alarm_at(loop, end, partial(self._give_up, call, self._send_stall_s / 10))

    def _give_up(self, call: Call, more_s: float) -> None:
        """An answer was not taken; or the loop was busy, and will hear in a moment that it was."""
        if more_s:
            loop = asyncio.get_running_loop()
            call.sending = loop.call_later(more_s, self._give_up, call, 0.0)
        else:
            log.warning("call %s: nobody took its answer", call.id)
            self.hang_up(call.context.peer())

    def _admit(self, method: Method, call: Call) -> None:
        if self.running > self._max_calls:
            raise Overloaded("too many calls are open")
        if method.access == "public":
            return
        keys = self._keys()
        peer = "" if keys else call.context.peer()
        if not keys and not _is_local(peer):
            raise only_local() if peer else Cancelled()  # gRPC no longer knows whose a call was that is over already
        call.key = allowed_key(keys, call.headers, call.repeated, method.access)

    async def _answer(self, method: Method, call: Call) -> bytes | None:
        answer = None
        if method.unary is not None:
            answer = await method.unary(call, await call.only_message())
            call.bytes_out = len(answer)
            self._watch_sending(call, len(answer))
        if method.conversing is not None:
            await self._converse(method.conversing, Conversation(call, self._settle))
        call.context.set_trailing_metadata((("x-request-id", call.id), *call.marks()))
        return answer

    async def _converse(
        self, conversing: Callable[[Conversation], Awaitable[None]], conversation: Conversation
    ) -> None:
        if self.draining:
            conversation.leaving.set()
        end = asyncio.get_running_loop().call_later(self._max_stream_s, conversation.leaving.set)
        self._conversations.add(conversation)
        try:
            await conversation.begin()
            await conversing(conversation)
        finally:
            self._conversations.discard(conversation)
            end.cancel()

    def _settle(self, call: Call, error: WorkflowError | None) -> None:
        """Count and log what became of a call, or of one request of many in it."""
        if error is not None:
            shown = GRPC.shown(error)
            call.code = shown.code
            call.status = GRPC.status(shown).value[0]
            if shown.code == "internal":
                log.error("call %s failed", call.id, exc_info=error)
        seconds = time.perf_counter() - call.started
        self._metrics.observe_request(call.protocol, call.workflow, call.code, seconds)
        self._access.write(call, seconds)


async def _refuse(call: Call, error: WorkflowError) -> None:
    """End with an error. Nobody hears it if the caller has left."""
    trailers = (("x-request-id", call.id), *GRPC.trailers(error))
    try:
        await call.context.abort(GRPC.status(error), GRPC.text(error), trailers)
    except grpc.aio.AbortError:
        raise  # which is how gRPC is told
    except grpc.aio.BaseError:
        log.debug("call %s: nobody heard how it ended", call.id)


def _as_bytes(value: str | bytes) -> bytes:
    """Metadata are text, but for those whose name says that they are binary."""
    return value if isinstance(value, bytes) else value.encode()


def _is_local(peer: str) -> bool:
    """Whether the caller is on this machine. gRPC says `ipv4:127.0.0.1:40000`, or `ipv6:%5B::1%5D:40000`."""
    kind, _, address = peer.partition(":")
    return kind == "unix" or is_loopback(unquote(address).rpartition(":")[0].strip("[]"))


def _ignore(peer: str) -> None: ...


async def _no_method(call: Call, message: bytes) -> bytes:
    raise NoRoute("no such method")
