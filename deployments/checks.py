"""Checks a `serve_config.yaml` without starting anything, and names every key and value that cannot work.

Ray ignores keys it does not know, so that a typo in a flag is silent; here it is an error.
"""

from __future__ import annotations

import contextlib
import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import FunctionType
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve import Application
from ray.serve.config import ProxyLocation
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deployments.building import ConfigError, check_workflow, imported, parsed
from deployments.config import Name, RouterArgs, RouterSettings, WorkflowArgs, WorkflowSettings
from deployments.router_rules import (
    CALLBACK_KEY,
    PlannedRouter,
    Proxies,
    proxy_complaints,
    router_complaints,
    shared_ports,
)
from deployments.strict_yaml import read_mapping
from deployments.workflow_rules import (
    PlannedWorkflow,
    alias_complaints,
    ladder_complaints,
    root_complaints,
    traffic_complaints,
    version_complaints,
)

__all__ = ["Report", "check_file", "examine"]

WORKFLOW_BUILDER = "deployments.app:workflow"
ROUTER_BUILDER = "deployments.app:router"
ROUTER_GRACE_S = 660.0  # what Router and ServeIngress say themselves
WORKFLOW_GRACE_S = 600.0  # what WorkflowDeployment says itself
_DEPLOYMENTS = {WORKFLOW_BUILDER: "WorkflowDeployment", ROUTER_BUILDER: "Router"}
_POLICY = "deployments.autoscaling:by_items"
_BRINGS_CODE = frozenset({"working_dir", "py_modules", "pip", "uv", "conda", "container", "image_uri"})
_RUNTIME_ENV = RuntimeEnv.known_fields | (inspect.signature(RuntimeEnv).parameters.keys() - {"kwargs"})
_EACH_DEPLOYMENT = ("applications", "*", "deployments", "*")


@dataclass
class Report:
    """One line each, with the key's path. Without complaints the file can be served; a warning is no obstacle."""

    complaints: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_file(path: Path) -> list[str]:
    """All complaints about a file, one line each with the key's path; an empty list means it can be served."""
    return examine(path).complaints


def examine(path: Path) -> Report:
    """Everything there is to say about a file."""
    try:
        content = read_mapping(path)
    except ConfigError as error:
        return Report(error.complaints)
    report = Report(list(_shape(content)))
    try:
        schema = ServeDeploySchema.model_validate(content)
    except ValidationError as error:
        for complaint in error.errors(include_url=False, include_context=False, include_input=False):
            if complaint["type"] != "extra_forbidden":  # said above
                where = ".".join(str(part) for part in complaint["loc"])
                report.complaints.append(f"{where}: {' '.join(complaint['msg'].split())}")
    except Exception as error:  # noqa: BLE001 - its validators trip over what they did not expect
        if not report.complaints:
            report.complaints.append(f"Serve cannot read it: {type(error).__name__}: {' '.join(str(error).split())}")
    else:
        _examine_applications(schema, content, report)
    return report


def _examine_applications(schema: ServeDeploySchema, content: dict[str, Any], report: Report) -> None:
    proxies = Proxies(
        enabled=schema.proxy_location != ProxyLocation.Disabled,
        host=schema.http_options.host,
        callback=next((str(value) for _, value in _found(content, *CALLBACK_KEY.split("."))), None),
    )
    routers: list[PlannedRouter] = []
    workflows: list[PlannedWorkflow] = []
    for index, (app, written) in enumerate(zip(schema.applications, content["applications"], strict=True)):
        where = f"applications.{index}"
        try:
            if app.import_path == WORKFLOW_BUILDER:
                workflows.append(_workflow(app, where))
            elif app.import_path == ROUTER_BUILDER:
                routers.append(_router(app, written, where))
                report.complaints += router_complaints(routers[-1], proxies)
            else:
                _check_somebody_elses(app)
        except ConfigError as error:
            report.complaints += [f"{where}.{line}" for line in error.complaints]
        if app.import_path in _DEPLOYMENTS:
            report.complaints += _check_deployments(written.get("deployments") or [], app.import_path, where)
    report.complaints += proxy_complaints(routers, proxies)
    report.complaints += shared_ports(routers)
    names = {app.name for app in schema.applications}
    report.complaints += alias_complaints(workflows, names)
    report.complaints += version_complaints(workflows, names)
    report.complaints += ladder_complaints(workflows, names)
    report.complaints += _traffic(content, workflows)
    for router in routers:
        report.complaints += root_complaints(router.args.tgi_root, workflows, f"{router.where}.args.tgi_root")
    report.warnings += _interruptions(routers, workflows)


# ---- one application ---------------------------------------------------------------------------------------------------


def _workflow(app: ServeApplicationSchema, where: str) -> PlannedWorkflow:
    """Raises ConfigError."""
    parsed(Name, app.name, "name")
    args: WorkflowArgs = parsed(WorkflowArgs, app.args, "args")
    grace_s = _number(app, "graceful_shutdown_timeout_s", WORKFLOW_GRACE_S)
    return PlannedWorkflow(where, app.name, args, grace_s, check_workflow(args))


def _router(app: ServeApplicationSchema, written: dict[str, Any], where: str) -> PlannedRouter:
    """Raises ConfigError."""
    args: RouterArgs = parsed(RouterArgs, app.args, "args")
    environment: dict[str, str] = {}
    for path in (("runtime_env",), ("deployments", "*", "ray_actor_options", "runtime_env")):
        for _, variables in _found(written, *path, "env_vars"):
            if isinstance(variables, Mapping):
                environment |= {str(name): str(value) for name, value in variables.items()}
    return PlannedRouter(
        where,
        args,
        app.route_prefix,
        grace_s=_number(app, "graceful_shutdown_timeout_s", ROUTER_GRACE_S),
        surge_percent=_number(app, "max_surge_percent", 0.0),
        environment=environment,
    )


def _number(app: ServeApplicationSchema, name: str, default: float) -> float:
    """What the file says of the application's deployment; Serve marks what it does not say with an enum."""
    said = [getattr(deployment, name) for deployment in app.deployments]
    return next((float(value) for value in said if isinstance(value, int | float)), default)


def _check_somebody_elses(app: ServeApplicationSchema) -> None:
    """Raises ConfigError for what Serve could not import, or what was meant to be one of ours."""
    near = get_close_matches(app.import_path, _DEPLOYMENTS, n=1, cutoff=0.8)
    try:
        found = imported(app.import_path, "import_path")
    except ConfigError as error:
        if near:
            raise ConfigError(f"{error}; did you mean {near[0]}?") from error
        if _BRINGS_CODE & app.runtime_env.keys():
            return  # it may be there, where it will run
        raise
    ours = f"{getattr(found, '__module__', '')}:{getattr(found, '__qualname__', '')}"
    if ours in _DEPLOYMENTS:  # Serve takes any path to it, but we know our applications by this one
        raise ConfigError(f"import_path: must be written {ours}")
    if not isinstance(found, FunctionType | Application):
        raise ConfigError(f"import_path: {app.import_path} is neither an application nor a function that builds one")


def _check_deployments(deployments: list[dict[str, Any]], builder: str, where: str) -> Iterator[str]:
    for index, deployment in enumerate(deployments):
        at = f"{where}.deployments.{index}"
        if deployment.get("name") != _DEPLOYMENTS[builder]:
            yield f"{at}.name: the deployment of this application is called {_DEPLOYMENTS[builder]}"
        elif index > 0:
            yield f"{at}: {_DEPLOYMENTS[builder]} is configured twice"
        settings = WorkflowSettings if builder == WORKFLOW_BUILDER else RouterSettings
        try:
            parsed(settings, deployment.get("user_config") or {}, "user_config")
        except ConfigError as error:
            yield from (f"{at}.{line}" for line in error.complaints)
        scaling = deployment.get("autoscaling_config")
        if scaling is None and deployment.get("num_replicas") == "auto":
            scaling = {}
        if isinstance(scaling, dict) and not scaling.get("policy"):
            yield (
                f"{at}.autoscaling_config.policy: is needed, because Serve sees one request where an envelope carries "
                f"many: use {_POLICY}"
            )


# ---- all applications together -----------------------------------------------------------------------------------------


def _traffic(content: dict[str, Any], workflows: list[PlannedWorkflow]) -> Iterator[str]:
    for index, app in enumerate(content["applications"]):
        if app.get("import_path") != ROUTER_BUILDER:
            continue
        for where, settings in _found(app, "deployments", "*", "user_config", where=f"applications.{index}"):
            with contextlib.suppress(ConfigError):  # said with the deployment
                traffic = parsed(RouterSettings, settings or {}).traffic
                yield from traffic_complaints(traffic, workflows, f"{where}.traffic")


def _interruptions(routers: Iterable[PlannedRouter], workflows: Iterable[PlannedWorkflow]) -> Iterator[str]:
    """What an update of a running system would cost its callers."""
    for router in routers:
        if router.surge_percent == 0:
            yield (
                f"{router.where}.deployments: max_surge_percent of Router is 0, so that an update stops the router "
                "before the next one listens; 100 loses no request"
            )
    longest = max((router.args.limits.stream_s for router in routers), default=0.0)
    for workflow in workflows:
        if longest > workflow.grace_s:
            yield (
                f"{workflow.where}.deployments: graceful_shutdown_timeout_s is {workflow.grace_s:g}, so that an update "
                f"cuts streams short, which the router lets last {longest:g} s (args.limits.stream_s)"
            )


# ---- Ray's own keys, where its schemas are open ----------------------------------------------------------------------------


def _shape(content: dict[str, Any]) -> Iterator[str]:
    """What Serve's schema would not say, or would end with a traceback for."""
    yield from _unknown_keys(ServeDeploySchema, content, "")
    for where, deployment in _found(content, *_EACH_DEPLOYMENT):
        if not isinstance(deployment, Mapping):
            yield f"{where}: must be a mapping"
    yield from _policies(content)
    for where, gpus in _found(content, *_EACH_DEPLOYMENT, "ray_actor_options", "num_gpus"):
        with contextlib.suppress(TypeError, ValueError):  # which the schema complains of
            if float(gpus) > 1 and float(gpus) % 1 != 0:
                yield f"{where}: must be a whole number, or a fraction of one GPU"
    for path in (("applications", "*"), (*_EACH_DEPLOYMENT, "ray_actor_options")):
        for where, env in _found(content, *path, "runtime_env"):
            yield from _runtime_env(env, where)


def _runtime_env(env: object, where: str) -> Iterator[str]:
    if not isinstance(env, Mapping):
        return  # which the schema complains of
    yield from (f"{where}.{key}: unknown key" for key in env if key not in _RUNTIME_ENV)
    variables = env.get("env_vars") or {}
    if not isinstance(variables, Mapping):
        yield f"{where}.env_vars: must be a mapping"
        return
    for name, value in variables.items():
        if not isinstance(value, str):
            yield f"{where}.env_vars.{name}: must be text, in quotes"


def _policies(content: dict[str, Any]) -> Iterator[str]:
    for where, policy in _found(content, *_EACH_DEPLOYMENT, "autoscaling_config", "policy"):
        if not isinstance(policy, dict) or not isinstance(path := policy.get("policy_function"), str):
            continue
        try:
            if not callable(imported(path, f"{where}.policy_function")):
                yield f"{where}.policy_function: {path} cannot be called"
        except ConfigError as error:
            yield str(error)
            policy["policy_function"] = _POLICY  # so that Serve's schema, which imports it, can say the rest


def _found(value: Any, *keys: str, where: str = "") -> Iterator[tuple[str, Any]]:
    """What is at a path that may have `*` for every member of a list, each with its own path; perhaps nothing."""
    if not keys:
        yield where, value
    elif keys[0] == "*" and isinstance(value, list):
        for index, member in enumerate(value):
            yield from _found(member, *keys[1:], where=f"{where}.{index}")
    elif isinstance(value, Mapping) and keys[0] in value:
        yield from _found(value[keys[0]], *keys[1:], where=f"{where}.{keys[0]}".removeprefix("."))


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
