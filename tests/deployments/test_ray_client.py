"""What a Ray handle's answers mean, where a cluster would have to be broken for them: the handle is played."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from deployments.ray_client import RayClient
from workflows.errors import NotReady, ReplicaLost
from workflows.plain_error import encode_error


class Told:
    """What a broadcast gives."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers

    async def results_async(self, timeout_s: float, return_exceptions: bool = False) -> list[Any]:
        return self.answers


class Handle:
    """Its replicas answer as told, broadcast by broadcast; the last answers come again and again."""

    app_name = "it"

    def __init__(self, *answers: list[Any]) -> None:
        self.ahead = deque(answers)

    def options(self, **_: Any) -> Handle:
        return self

    def broadcast(self, method: str, timeout_s: float) -> Told:
        return Told(self.ahead.popleft() if len(self.ahead) > 1 else self.ahead[0])


def out_of_reach() -> Any:
    raise RuntimeError("the controller is restarting")


def client_of(*answers: list[Any]) -> RayClient:
    handle: Any = Handle(*answers)
    return RayClient(handle, out_of_reach)


DONE = (("a", 3, "loaded", ""), None)
ALSO_DONE = (("b", 1, "loaded", ""), None)
DEAD = RuntimeError("the actor died")


async def test_a_replica_that_did_not_answer_is_not_loaded_however_little_is_known_of_it() -> None:
    with pytest.raises(ReplicaLost) as lost:
        await client_of([DONE, DEAD]).load(0.0)
    assert lost.value.may_have_run


async def test_replicas_are_asked_again_until_all_of_them_answer() -> None:
    standings = await client_of([DONE, DEAD], [DONE, ALSO_DONE]).load(60.0)
    assert [(standing.replica, standing.number) for standing in standings] == [("a", 3), ("b", 1)]


async def test_an_error_says_of_how_many_replicas_it_holds() -> None:
    failed = (("b", 3, "unloaded", "no disk"), encode_error(NotReady("it is unloaded: no disk")))
    with pytest.raises(NotReady, match=r"^1 of 2 replicas: it is unloaded: no disk$"):
        await client_of([DONE, failed]).load(60.0)
