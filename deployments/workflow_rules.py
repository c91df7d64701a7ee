"""What the workflow applications of a config file must be to each other: names, versions, aliases. Knows no Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deployments.config import WorkflowArgs
from deployments.ladders import rung_complaint
from workflows.base import BaseInferenceWorkflow
from workflows.card import Card

__all__ = [
    "PlannedWorkflow",
    "alias_complaints",
    "ladder_complaints",
    "root_complaints",
    "traffic_complaints",
    "version_complaints",
]


@dataclass(frozen=True)
class PlannedWorkflow:
    """A workflow application as its file describes it.

    Attributes:
        where: The path of its application in the file.
        workflow: Built, and not set up.
    """

    where: str
    name: str
    args: WorkflowArgs
    grace_s: float
    workflow: BaseInferenceWorkflow[Any, Any, Any]

    @cached_property
    def card(self) -> Card:
        """As it is before the model is known."""
        told = {"fallbacks": self.args.fallbacks, "preserves": self.args.preserves}
        return self.workflow.card(self.name).model_copy(update=told)

    @property
    def known_as(self) -> str:
        return self.args.version_of or self.name


def alias_complaints(workflows: Iterable[PlannedWorkflow], names: set[str]) -> Iterator[str]:
    """`names`: of all applications."""
    taken: dict[str, str] = {}
    for workflow in workflows:
        for index, alias in enumerate(workflow.args.aliases):
            where = f"{workflow.where}.args.aliases.{index}"
            if alias in names - {workflow.name}:
                yield f"{where}: another application is called {alias}"
            elif alias in taken:
                yield f"{where}: {alias} is taken by {taken[alias]}"
            taken.setdefault(alias, where)


def version_complaints(workflows: Iterable[PlannedWorkflow], names: set[str]) -> Iterator[str]:
    """`names`: of all applications."""
    taken: dict[tuple[str, str], str] = {}
    applications = {workflow.name: workflow for workflow in workflows}
    for workflow in applications.values():
        version, known_as = workflow.args.version, workflow.known_as
        other = taken.setdefault((known_as, version), workflow.where)
        if other != workflow.where:
            yield f"{workflow.where}.args.version: {other} is version {version} of {known_as} as well"
        if known_as in names - {workflow.name} and (
            known_as not in applications or applications[known_as].known_as != known_as
        ):
            yield f"{workflow.where}.args.version_of: the application {known_as} is no version of that name"


def ladder_complaints(workflows: Iterable[PlannedWorkflow], names: set[str]) -> Iterator[str]:
    """`names`: of all applications, also of those that are wrong in themselves."""
    planned = {workflow.name: workflow for workflow in workflows}
    for workflow in planned.values():
        for index, name in enumerate(workflow.args.fallbacks):
            where = f"{workflow.where}.args.fallbacks.{index}"
            if name == workflow.name:
                yield f"{where}: a workflow cannot answer in its own place"
            elif name in workflow.args.fallbacks[:index]:
                yield f"{where}: {name} is there already"
            elif name not in names:
                yield f"{where}: no application is called {name}"
            elif name in planned:
                if complaint := rung_complaint(workflow.card, planned[name].card):
                    yield f"{where}: {complaint}"
                if _leads_to(name, workflow.name, planned):
                    yield f"{where}: {name} falls back on {workflow.name} in turn, so that each would get the other's load"


def _leads_to(start: str, end: str, planned: Mapping[str, PlannedWorkflow]) -> bool:
    seen, ahead = {end}, [start]
    while ahead:
        name = ahead.pop()
        if name not in seen and name in planned:
            seen.add(name)
            if end in planned[name].args.fallbacks:
                return True
            ahead += planned[name].args.fallbacks
    return False


def traffic_complaints(
    traffic: Mapping[str, Mapping[str, float]], workflows: Iterable[PlannedWorkflow], where: str
) -> Iterator[str]:
    """`where`: the path of these shares in the file."""
    versions: dict[str, set[str]] = {}
    for workflow in workflows:
        versions.setdefault(workflow.known_as, set()).add(workflow.args.version)
    for name, shares in traffic.items():
        if name not in versions:
            yield f"{where}.{name}: no workflow has that name"
            continue
        for version in sorted(shares.keys() - versions[name]):
            yield f"{where}.{name}.{version}: no workflow is that version of {name}"


def root_complaints(root: str | None, workflows: Iterable[PlannedWorkflow], where: str) -> Iterator[str]:
    """`root`: what is served at the router's root; `where`: the path of that in the file."""
    names = {name for workflow in workflows for name in (workflow.name, workflow.known_as, *workflow.args.aliases)}
    if root is not None and root not in names:
        yield f"{where}: no workflow has that name"
