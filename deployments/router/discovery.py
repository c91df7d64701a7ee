"""Keeps the directory in step with Serve: which workflow applications exist, how they are, and their cards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ServeStatus

from deployments.client import WorkflowClient
from deployments.lanes.address import LaneAddress
from deployments.lanes.chooser import LaneChooser
from deployments.ray_client import DEPLOYMENT, RayClient, ask_controller, running_replicas
from deployments.router.directory import Directory, Entry, State
from deployments.router.dispatch import Dispatcher
from deployments.serve_status import serve_status
from deployments.standing import Standing
from workflows.errors import ModelNotFound, WorkflowError

__all__ = ["Discovery"]

log = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
STATUS_TIMEOUT_S: Final = 30.0
CARD_TIMEOUT_S: Final = 10.0
WAKE_TIMEOUT_S: Final = 120.0
CARD_PERIOD_S: Final = 30.0
STANDING_PERIOD_S: Final = 2.0
LANE_TRIES: Final = 10
FIRST_LOOK_S: Final = 15.0
_CONFIG_ERROR: Final = "deployments.building.ConfigError"
_MARKED: Final = re.compile(r"SETUP-FAILED<(.*?)>SETUP-FAILED", re.DOTALL)


class Handle(WorkflowClient, Protocol):
    """What discovery asks of an application, beside what requests do; see `RayClient`."""

    avoid: frozenset[str]

    async def lanes(self) -> list[LaneAddress]: ...
    async def standings(self) -> list[Standing]: ...


@dataclass(slots=True, eq=False)
class _Known:
    """A workflow application, as far as it was looked into.

    Attributes:
        seen: When the deployment, whose card we have, was last changed.
        card_until: When it is asked again, for what a replica learns meanwhile; a reading of `time.monotonic()`.
        replicas: That run.
        asked: As of which state of things the replicas were asked for their lanes, and how often they still will be.
        standings_at: When those without a lane are asked again whether they are loaded; a reading of `time.monotonic()`.
        told: State, reason and detail as Serve tells them.
    """

    handle: Handle
    ways: LaneChooser
    seen: float | None = None
    card_until: float = 0.0
    replicas: int = 0
    asked: tuple[int, int, float] | None = None
    tries: int = 0
    standings_at: float = 0.0
    told: tuple[State, str, str] = ("loading", "", "")


class Discovery:
    """Looks at Serve's status every second. Belongs to the router's event loop.

    Args:
        dispatcher: Makes the dispatcher of a newly found workflow.
        node: The Ray node that this is; replicas on the same one are reached over their local lanes. None: over handles.
        handle_of: Gives the handle of an application by its name; raises ModelNotFound.
    """

    def __init__(
        self,
        directory: Directory,
        dispatcher: Callable[[str, WorkflowClient], Dispatcher],
        node: str | None,
        handle_of: Callable[..., Awaitable[Handle]] = RayClient.of_application,
    ) -> None:
        self._directory = directory
        self._handle_of = handle_of
        self._dispatcher = dispatcher
        self._node = node
        self._known: dict[str, _Known] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Returns once what runs now is known, so that a router that takes over from another knows no less than it did;
        or after a few seconds without that, because a router must come up even if the controller is slow."""
        self._task = asyncio.create_task(self._watch(), name="discovery")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._looked.wait()

    async def stop(self) -> None:
        if self._task is not None:
            tasks = [self._task, *self._looking.values(), *self._waking.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(known.ways.close() for known in self._known.values()))

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(STATUS_TIMEOUT_S):
                    status = await ask_controller(serve_status)
                if status.applications:  # none, not even the router's own: no controller was found
                    await self.look(status)
                    self._looked.set()
            except Exception:
                # The controller may be restarting: what is known stays known, and traffic goes on.
                log.warning("Serve's status could not be read", exc_info=True)
            await asyncio.sleep(PERIOD_S)

    async def look(self, status: ServeStatus) -> None:
        """Begin to bring everything in step with one status; until all was looked at once, wait for that."""
        for name in self._known.keys() - status.applications.keys():
            self._directory.remove(name)
            del self._known[name]  # its lanes end with its replicas, which finish what they have
        for name, app in status.applications.items():
            if name not in self._looking:  # a replica that does not answer holds up its own application alone
                self._looking[name] = asyncio.create_task(self._look_at(name, app))
        if self._looking and not self._looked.is_set():
            await asyncio.wait(self._looking.values())

    async def _look_at(self, name: str, app: ApplicationStatusOverview) -> None:
        try:
            known = name in self._known
            # While it was found it may have been built: what was seen of it before that could look like an upgrade, for
            # which a card is asked, and that would wake what is to sleep.
            if known or (await self._is_new_workflow(name, app) and app.deployments):
                await self._update(name, app)
        except Exception:  # one application's trouble is not the others'
            log.warning("workflow %s could not be looked at", name, exc_info=True)
        finally:
            del self._looking[name]

    async def _is_new_workflow(self, name: str, app: ApplicationStatusOverview) -> bool:
        """Adds what was built by `deployments.app:workflow`, and nobody else's applications."""
        if app.deployments and DEPLOYMENT not in app.deployments:
            return False
        try:
            # One that could not be built yet is known by what our builder said.
            handle = await self._handle_of(name, must_exist=_CONFIG_ERROR not in app.message)
        except ModelNotFound:
            return False  # not built yet, or somebody else's
        ways = LaneChooser(handle, lambda: self._stands(name))
        known = self._known[name] = _Known(handle, ways)
        self._directory.put(Entry(name, self._dispatcher(name, known.ways), wake=partial(self._wake, name)))
        return True

    async def _update(self, name: str, app: ApplicationStatusOverview) -> None:
        known, entry = self._known.get(name), self._entry(name)
        if known is None or entry is None:
            return  # removed meanwhile
        if app.deployments:
            known.replicas = running_replicas(app)
        # While an application is built anew, Serve lists no deployments for it; its old replicas still run.
        old = known.seen != app.last_deployed_time_s or time.monotonic() > known.card_until
        if (known.replicas or not app.deployments) and old:
            await self._fetch_card(entry)
            if entry.card is not None and app.status == ApplicationStatus.RUNNING:
                known.seen = app.last_deployed_time_s
                known.card_until = time.monotonic() + CARD_PERIOD_S
            if entry.card is not None and not app.deployments:
                known.replicas = known.replicas or 1  # it gave its card, so one runs
        await self._find_lanes(known, app.last_deployed_time_s)
        await self._ask_standings(known)
        known.told = _state(app, known.replicas, entry.card is not None)
        self._show(name)
        with contextlib.suppress(WorkflowError):
            await entry.dispatcher.tell_waiting()

    async def _find_lanes(self, known: _Known, deployed: float) -> None:
        """Ask the replicas for their lanes when there may be other replicas than before, until each has one, but not for
        ever: those of other machines never will."""
        known.ways.count(known.replicas)
        now = (known.replicas, known.ways.losses, deployed)
        if known.asked != now:
            known.asked, known.tries = now, LANE_TRIES
        if self._node is None or not known.tries or known.ways.lanes >= known.replicas:
            return
        known.tries -= 1
        try:
            async with asyncio.timeout(CARD_TIMEOUT_S):
                lanes = await known.handle.lanes()
        except (WorkflowError, TimeoutError):
            return  # the handle remains
        await known.ways.adopt([lane for lane in lanes if lane.node == self._node])

    async def _ask_standings(self, known: _Known) -> None:
        """Whether the replicas without a lane are loaded; the others say so by themselves, and at once."""
        if known.ways.lanes >= known.replicas:
            known.ways.hear([], of_all=True)
            return
        now = time.monotonic()
        if now < known.standings_at:
            return
        known.standings_at = now + STANDING_PERIOD_S
        try:
            async with asyncio.timeout(CARD_TIMEOUT_S):
                known.ways.hear(await known.handle.standings(), of_all=True)
        except (WorkflowError, TimeoutError):
            return  # asked again

    def _wake(self, name: str) -> None:
        """Ask for the card of a workflow that has no replica and never had one here: Serve starts one for who waits."""
        known, entry = self._known.get(name), self._entry(name)
        if known is not None and entry is not None and not known.replicas and name not in self._waking:
            self._waking[name] = task = asyncio.create_task(
                self._fetch_card(entry, WAKE_TIMEOUT_S), name=f"wake {name}"
            )
            task.add_done_callback(lambda _: self._waking.pop(name, None))

    def _stands(self, name: str) -> None:
        """A replica was loaded or unloaded: at once, because requests go by that. What was loaded may be something new."""
        if (known := self._known.get(name)) is not None:
            known.card_until = 0.0
        self._show(name)

    def _show(self, name: str) -> None:
        """Bring the entry up to date with what is known."""
        known, entry = self._known.get(name), self._entry(name)
        if known is None or entry is None:
            return
        unloaded = known.ways.unloaded
        # Where all are unloaded there is nothing to look for: any of them says so.
        known.handle.avoid = frozenset(one.replica for one in unloaded if len(unloaded) < known.replicas)
        if entry.card is not None:
            entry.dispatcher.configure(entry.card, known.replicas, len(unloaded))
        entry.replicas, entry.lanes = known.replicas, known.ways.lanes
        entry.state, entry.reason, entry.detail = _with_standings(known.told, known.replicas, unloaded)

    def _entry(self, name: str) -> Entry | None:
        return next((entry for entry in self._directory if entry.name == name), None)

    async def _fetch_card(self, entry: Entry, patience_s: float = CARD_TIMEOUT_S) -> None:
        try:
            async with asyncio.timeout(patience_s):
                entry.card = await entry.dispatcher.client.card()
        except (WorkflowError, TimeoutError):
            log.warning("no card from workflow %s yet", entry.name)


def _state(app: ApplicationStatusOverview, replicas: int, known: bool) -> tuple[State, str, str]:
    """State, reason and detail. Replicas that run can answer, whatever is being deployed or has failed beside them."""
    reason, detail = _failure(app)
    serves = known and (replicas > 0 or app.status == ApplicationStatus.RUNNING)  # RUNNING with none: scaled to zero
    state: State
    if app.status == ApplicationStatus.DELETING:
        state, reason = "stopping", "being removed"
    elif serves:
        state = "ready"
    elif app.status == ApplicationStatus.DEPLOY_FAILED or reason:
        state, reason = "failed", reason or "the deployment failed; its log says why"
    elif app.status == ApplicationStatus.RUNNING and not replicas and not known:
        state, reason = "loading", "scaled to zero; the first request starts a replica"
    else:
        state, reason = "loading", "being restarted" if known else "no running replica yet"
    return state, reason, detail or reason


def _with_standings(told: tuple[State, str, str], replicas: int, unloaded: list[Standing]) -> tuple[State, str, str]:
    """The same, with what operators have taken out of memory."""
    if told[0] != "ready" or not replicas or not unloaded:
        return told
    reason = next((standing.reason for standing in unloaded if standing.reason), "")
    if len(unloaded) < replicas:
        some = f"{len(unloaded)} of {replicas} replicas are unloaded"
        reason = f"{some}: {reason}" if reason else some
        return "ready", reason, reason
    if any(standing.state == "loading" for standing in unloaded):
        return "loading", "being loaded again", "being loaded again"
    return "unloaded", reason, reason


def _failure(app: ApplicationStatusOverview) -> tuple[str, str]:
    """Reason and detail as our own code put them between marks; the rest of Serve's text is full of paths and pids."""
    for text in (app.message, *(deployment.message for deployment in app.deployments.values())):
        for found in reversed(_MARKED.findall(text)):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                said = json.loads(found)
                return str(said["reason"]), str(said["detail"])
    if _CONFIG_ERROR in app.message:
        detail = app.message.rpartition(_CONFIG_ERROR)[2].strip(": ").partition("\n")[0]
        return "its configuration is wrong; the log says how", detail[:512]
    return "", ""
