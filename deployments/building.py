"""From a configured import path and options to a workflow instance, checked before anything heavy is loaded. No Ray."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model

from deployments.config import WorkflowArgs
from workflows.base import BaseInferenceWorkflow
from workflows.errors import WorkflowError

__all__ = ["ConfigError", "build_workflow", "check_workflow", "imported", "parsed", "workflow_class"]

AnyWorkflow = BaseInferenceWorkflow[Any, Any, Any]


class ConfigError(ValueError):
    """A configuration that cannot work, in one line that names the key. For operators, never sent to callers.

    Attributes:
        complaints: The line's parts, one for each key that is wrong.
    """

    def __init__(self, *complaints: str) -> None:
        self.complaints = [" ".join(complaint.split()) for complaint in complaints]
        super().__init__("; ".join(self.complaints))


def imported(path: str, key: str) -> Any:
    """What is called `package.module.name` or `package.module:name`. Raises ConfigError that names the key."""
    module_name, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(import_module(module_name), name)
    except (Exception, SystemExit) as cause:  # whatever the module does when it is imported
        raise ConfigError(f"{key}: cannot import {path!r}: {_said(cause)}") from cause


def workflow_class(path: str) -> type[AnyWorkflow]:
    """The class at `package.module.Class` or `package.module:Class`. Raises ConfigError."""
    found = imported(path, "args.workflow")
    if not (isinstance(found, type) and issubclass(found, BaseInferenceWorkflow)):
        raise ConfigError(f"args.workflow: {path!r} is not a BaseInferenceWorkflow")
    return found


def build_workflow(args: WorkflowArgs) -> AnyWorkflow:
    """The configured workflow, not set up. Raises ConfigError naming the option that is wrong."""
    cls = workflow_class(args.workflow)
    try:
        return cls(**_checked_options(cls, args.options))
    except ConfigError:
        raise
    except (Exception, SystemExit) as cause:  # whatever the class itself checks, or its annotations are
        raise ConfigError(f"args.options: {_said(cause)}") from cause


def check_workflow(args: WorkflowArgs) -> AnyWorkflow:
    """The configured workflow, not set up. Raises ConfigError for an option that is wrong or names a file that is not here;
    loads no model.

    Builders do not ask for the files: they may run on another machine of the cluster than the one that has them.
    """
    workflow = build_workflow(args)
    try:
        workflow.check_files()
    except (Exception, SystemExit) as cause:
        raise ConfigError(f"args.options: {_said(cause)}") from cause
    return workflow


def _checked_options(cls: type[AnyWorkflow], options: dict[str, Any]) -> dict[str, Any]:
    """The options, validated against the constructor's own signature and annotations."""
    parameters = [
        parameter
        for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    try:
        hints = get_type_hints(cls.__init__, include_extras=True)
    except Exception:  # noqa: BLE001 - annotations that only a type checker can resolve
        hints = {}
    # The options are aliases, because a pydantic field may not be called whatever a parameter may, `copy` for example.
    names = {parameter.name: f"option_{index}" for index, parameter in enumerate(parameters)}
    fields: dict[str, Any] = {
        names[parameter.name]: (
            hints.get(parameter.name, Any),
            Field(alias=parameter.name)
            if parameter.default is parameter.empty
            else Field(alias=parameter.name, default=parameter.default),
        )
        for parameter in parameters
    }
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    model = create_model(f"{cls.__name__} options", __config__=config, **fields)
    try:
        checked = model.model_validate(options)
    except ValidationError as error:
        complaints = _complaints(error, "args.options")
    else:
        return {name: getattr(checked, names[name]) for name in options}
    raise ConfigError(*complaints)  # without a cause: pydantic's own error shows the values, of which some are keys


def _said(error: BaseException) -> str:
    """What a stranger's error says, for operators; our own are written to stand alone."""
    return str(error) if isinstance(error, WorkflowError) else f"{type(error).__name__}: {error}".removesuffix(": ")


def _complaints(error: ValidationError, prefix: str = "", most: int = 10) -> list[str]:
    """pydantic's complaints, one line each, with the path of the key."""
    lines = []
    for complaint in error.errors(include_url=False, include_context=False, include_input=False)[:most]:
        path = ".".join([*([prefix] if prefix else []), *(str(part) for part in complaint["loc"])])
        what = (
            "unknown key" if complaint["type"] == "extra_forbidden" else complaint["msg"].removeprefix("Value error, ")
        )
        lines.append(f"{path}: {what}")
    return lines


def parsed(model: type[Any], value: Any, prefix: str = "") -> Any:
    """`value` as a config model. Raises ConfigError."""
    try:
        return TypeAdapter(model).validate_python(value)
    except ValidationError as error:
        complaints = _complaints(error, prefix)
    raise ConfigError(*complaints)
