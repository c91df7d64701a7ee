"""What a look at Serve's status makes the router ask, and of whom: a card that is asked for starts a replica."""

from __future__ import annotations

import pytest
from ray.serve._private.common import DeploymentStatus, DeploymentStatusTrigger, ReplicaState
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatusOverview, ServeStatus

from deployments.lanes.address import LaneAddress
from deployments.ray_client import DEPLOYMENT
from deployments.router.directory import Directory
from deployments.router.discovery import Discovery
from deployments.router.dispatch import Dispatcher
from deployments.standing import Standing
from tests.router.played_client import PlayedClient, card
from workflows.card import Card
from workflows.errors import ModelNotFound


class Played(PlayedClient):
    """An application's handle, which counts how often its card was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.avoid: frozenset[str] = frozenset()
        self.asked = 0

    async def card(self) -> Card:
        self.asked += 1
        return card()

    async def lanes(self) -> list[LaneAddress]:
        return []

    async def standings(self) -> list[Standing]:
        return []


class Cluster:
    """What Serve says, and the router's discovery beside it. `reachable`: applications that have been built."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.handles = {"it": Played()}
        self.reachable = {"it"}
        self.discovery = Discovery(self.directory, lambda _, client: Dispatcher(client), None, self.handle_of)

    async def handle_of(self, name: str, *, must_exist: bool) -> Played:
        if name not in self.reachable and must_exist:
            raise ModelNotFound()
        return self.handles[name]

    async def sees(self, status: ApplicationStatus, replicas: int | None, deployed: float = 1.0) -> str:
        """One look; `replicas` None: no deployment is listed. Returns the state that callers are told."""
        counts = {ReplicaState.RUNNING: replicas} if replicas else {}
        about = DeploymentStatusOverview(DeploymentStatus.HEALTHY, DeploymentStatusTrigger.UNSPECIFIED, counts, "")
        deployments = {} if replicas is None else {DEPLOYMENT: about}
        app = ApplicationStatusOverview(status, "", deployed, deployments)
        await self.discovery.look(ServeStatus(applications={"it": app}, proxies={}, target_capacity=None))
        entries = list(self.directory)
        return entries[0].state if entries else "unknown"

    @property
    def asked(self) -> int:
        return self.handles["it"].asked


@pytest.fixture
async def cluster() -> Cluster:
    return Cluster()


async def test_a_workflow_without_replicas_is_not_woken_by_being_found(cluster: Cluster) -> None:
    assert await cluster.sees(ApplicationStatus.RUNNING, 0) == "loading"
    assert await cluster.sees(ApplicationStatus.RUNNING, 0) == "loading"
    assert cluster.asked == 0


async def test_nor_where_it_was_built_between_the_look_and_the_question(cluster: Cluster) -> None:
    # The status is of before; the application can be reached by now, and may have no replica.
    await cluster.sees(ApplicationStatus.DEPLOYING, None)
    assert cluster.asked == 0
    assert await cluster.sees(ApplicationStatus.RUNNING, 0) == "loading"
    assert cluster.asked == 0


async def test_one_that_runs_is_asked_once(cluster: Cluster) -> None:
    assert await cluster.sees(ApplicationStatus.RUNNING, 1) == "ready"
    assert await cluster.sees(ApplicationStatus.RUNNING, 1) == "ready"
    assert cluster.asked == 1


async def test_one_that_is_upgraded_is_asked_though_serve_lists_nothing(cluster: Cluster) -> None:
    await cluster.sees(ApplicationStatus.RUNNING, 1)
    assert await cluster.sees(ApplicationStatus.DEPLOYING, None, deployed=2.0) == "ready"
    assert cluster.asked == 2


async def test_one_that_went_to_sleep_stays_ready_and_asleep(cluster: Cluster) -> None:
    await cluster.sees(ApplicationStatus.RUNNING, 1)
    assert await cluster.sees(ApplicationStatus.RUNNING, 0) == "ready"
    assert cluster.asked == 1


async def test_what_is_not_built_yet_is_not_there(cluster: Cluster) -> None:
    cluster.reachable.clear()
    assert await cluster.sees(ApplicationStatus.DEPLOYING, None) == "unknown"
    cluster.reachable.add("it")
    assert await cluster.sees(ApplicationStatus.RUNNING, 1) == "ready"


async def test_what_is_gone_is_forgotten(cluster: Cluster) -> None:
    await cluster.sees(ApplicationStatus.RUNNING, 1)
    await cluster.discovery.look(ServeStatus(applications={}, proxies={}, target_capacity=None))
    assert list(cluster.directory) == []
