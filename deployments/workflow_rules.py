"""What the workflow applications of a config file must be to each other: names, versions, aliases. Knows no Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from deployments.config import WorkflowArgs

__all__ = ["PlannedWorkflow", "alias_complaints", "root_complaints", "traffic_complaints", "version_complaints"]


@dataclass(frozen=True)
class PlannedWorkflow:
    """A workflow application as its file describes it.

    Attributes:
        where: The path of its application in the file.
    """

    where: str
    name: str
    args: WorkflowArgs
    grace_s: float

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
