"""Checks a `serve_config.yaml` without starting anything, and names every key and value that cannot work.

Ray ignores keys it does not know, so that a typo in a flag is silent; here it is an error.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.building import ConfigError, build_workflow, parsed
from deployments.config import LOOPBACK, Name, RouterArgs, RouterSettings, WorkflowArgs, WorkflowSettings

__all__ = ["check_file"]

WORKFLOW_BUILDER = "deployments.app:workflow"
ROUTER_BUILDER = "deployments.app:router"
ROUTER_GRACE_S = 660.0  # what Router and ServeIngress say themselves
_DEPLOYMENTS = {WORKFLOW_BUILDER: "WorkflowDeployment", ROUTER_BUILDER: "Router"}


def check_file(path: Path) -> list[str]:
    """All complaints about a file, one line each with the key's path; an empty list means it can be served."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return [f"cannot be read: {error}"]
    except yaml.YAMLError as error:
        return [f"is not YAML: {' '.join(str(error).split())}"]
    if not isinstance(content, dict):
        return ["must be a mapping at the top"]
    return list(_check(content))


def _check(content: dict[str, Any]) -> Iterator[str]:
    yield from _unknown_keys(ServeDeploySchema, content, "")
    try:
        ServeDeploySchema.model_validate(content)
    except ValidationError as error:
        for complaint in error.errors(include_url=False, include_context=False, include_input=False):
            if complaint["type"] != "extra_forbidden":  # said above
                yield f"{'.'.join(str(part) for part in complaint['loc'])}: {' '.join(complaint['msg'].split())}"
        return
    for index, app in enumerate(content.get("applications") or []):
        yield from _check_application(app, f"applications.{index}", content)
    yield from _shared_ports(content)


def _shared_ports(content: dict[str, Any]) -> Iterator[str]:
    taken: set[int] = set()
    for index, app in enumerate(content.get("applications") or []):
        args = app.get("args") or {}
        port = args.get("port", RouterArgs.model_fields["port"].default)
        if app.get("import_path") != ROUTER_BUILDER or args.get("listen", "own") != "own" or not isinstance(port, int):
            continue
        if port in taken:
            yield f"applications.{index}.args.port: another router of this file listens on port {port}"
        if port != 0:  # which is a port of its own each time
            taken.add(port)


def _check_application(app: dict[str, Any], where: str, content: dict[str, Any]) -> Iterator[str]:
    builder = app.get("import_path")
    if builder not in _DEPLOYMENTS:
        colons = str(builder).replace(".app.", ".app:")
        if colons in _DEPLOYMENTS:  # Serve takes both forms, but discovery knows its applications by this one
            yield f"{where}.import_path: must be written {colons}"
        return  # somebody else's application
    args = app.get("args") or {}
    try:
        if builder == WORKFLOW_BUILDER:
            TypeAdapter(Name).validate_python(app.get("name"))
            build_workflow(parsed(WorkflowArgs, args, "args"))
        else:
            yield from (f"{where}.{line}" for line in _router_rules(parsed(RouterArgs, args, "args"), app, content))
    except ConfigError as error:
        yield from (f"{where}.{line}" for line in error.complaints)
    except ValidationError:
        yield f"{where}.name: must match [A-Za-z0-9][A-Za-z0-9._-]*"
    for index, deployment in enumerate(app.get("deployments") or []):
        yield from _check_deployment(deployment, builder, f"{where}.deployments.{index}")


def _check_deployment(deployment: dict[str, Any], builder: str, where: str) -> Iterator[str]:
    if deployment.get("name") != _DEPLOYMENTS[builder]:
        yield f"{where}.name: the deployment of this application is called {_DEPLOYMENTS[builder]}"
    settings = WorkflowSettings if builder == WORKFLOW_BUILDER else RouterSettings
    try:
        parsed(settings, deployment.get("user_config") or {}, "user_config")
    except ConfigError as error:
        yield from (f"{where}.{line}" for line in error.complaints)
    scaling = deployment.get("autoscaling_config")
    if scaling is None and deployment.get("num_replicas") == "auto":
        scaling = {}
    if isinstance(scaling, dict) and not scaling.get("policy"):
        yield (
            f"{where}.autoscaling_config.policy: is needed, because Serve sees one request where an envelope carries "
            "many: use deployments.autoscaling:by_items"
        )


def _router_rules(args: RouterArgs, app: dict[str, Any], content: dict[str, Any]) -> Iterator[str]:
    guarded = args.keys_file is not None or args.keys_env is not None
    if args.keys_file is not None and not Path(args.keys_file).is_file():
        yield "args.keys_file: there is no such file"
    proxies = content.get("proxy_location", "EveryNode") != "Disabled"
    if args.listen == "own" and proxies:
        yield "args.listen: own needs proxy_location: Disabled at the top, or Serve's proxies listen beside the router"
    if args.listen == "own" and app.get("route_prefix", "/") is not None:
        yield "route_prefix: must be null where the router listens itself (listen: own)"
    yield from _times(args, app)
    if args.listen == "serve" and not proxies:
        yield "args.listen: serve needs Serve's proxies, but proxy_location is Disabled"
    host = (content.get("http_options") or {}).get("host", "0.0.0.0")
    if args.listen == "serve" and host not in LOOPBACK and not guarded:
        yield f"http_options.host: {host} is reachable from outside, which needs args.keys_file or args.keys_env"


def _times(args: RouterArgs, app: dict[str, Any]) -> Iterator[str]:
    """A stopping router lets streams end while it drains, and Serve lets it drain."""
    grace, stream, drain = _grace_s(app), args.limits.stream_s, args.drain_s
    if args.listen == "serve":  # Serve's proxies drain, and drain_s means nothing
        if stream >= grace:
            yield f"args.limits.stream_s: {stream:g} must be less than graceful_shutdown_timeout_s, which is {grace:g}"
        return
    if stream > drain:
        yield f"args.limits.stream_s: {stream:g} must not be more than args.drain_s, which is {drain:g}"
    if drain >= grace:
        yield (
            f"args.drain_s: {drain:g} must be less than graceful_shutdown_timeout_s of deployment Router, "
            f"which is {grace:g}"
        )


def _grace_s(app: dict[str, Any]) -> float:
    said = [deployment.get("graceful_shutdown_timeout_s") for deployment in app.get("deployments") or []]
    return next((float(grace) for grace in said if isinstance(grace, int | float)), ROUTER_GRACE_S)


def _unknown_keys(model: type[BaseModel], value: object, where: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        return
    fields = model.model_fields
    names = {field.alias or name: field for name, field in fields.items()} | dict(fields)
    for key, inner in value.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in names:
            yield f"{path}: unknown key"
            continue
        for nested in _models_in(names[key].annotation):
            parts = enumerate(inner) if isinstance(inner, list) else [(None, inner)]
            for index, part in parts:
                yield from _unknown_keys(nested, part, path if index is None else f"{path}.{index}")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The one pydantic model that an annotation such as `list[Model] | None` speaks of."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    found = [model for inner in typing.get_args(annotation) for model in _models_in(inner)]
    return found if len(found) == 1 else []
