"""The builders that `serve_config.yaml` names: one for a workflow application, one for the router. Light to import."""

from __future__ import annotations

from typing import Any, cast

from ray.serve import Application

from deployments.building import build_workflow, parsed
from deployments.config import RouterArgs, WorkflowArgs
from deployments.router.ingress import Router, ServeIngress
from deployments.workflow_deployment import WorkflowDeployment

__all__ = ["router", "workflow"]


def workflow(args: dict[str, Any]) -> Application:
    """One workflow as an application, under the application's name. `args` are `WorkflowArgs`.

    Raises ConfigError, in Serve's build task, for a key or value that cannot work.
    """
    config: WorkflowArgs = parsed(WorkflowArgs, args, "args")
    build_workflow(config)
    return _bind(WorkflowDeployment, config)


def router(args: dict[str, Any]) -> Application:
    """The router as an application. `args` are `RouterArgs`. Raises ConfigError like `workflow`."""
    config: RouterArgs = parsed(RouterArgs, args, "args")
    return _bind(Router if config.listen == "own" else ServeIngress, config)


def _bind(deployment: Any, config: WorkflowArgs | RouterArgs) -> Application:
    return cast("Application", deployment.bind(config.model_dump()))
