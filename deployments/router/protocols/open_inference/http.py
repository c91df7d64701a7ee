"""The Open Inference Protocol (KServe v2) over HTTP, under `/v2`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.directory import Entry
from deployments.router.protocols.open_inference import repository
from deployments.router.protocols.open_inference.compression import compressed
from deployments.router.protocols.open_inference.generate import read_generate
from deployments.router.protocols.open_inference.infer_body import (
    HttpInfer,
    checked_object,
    given_parameters,
    infer_reply,
    read_infer,
)
from deployments.router.protocols.open_inference.inference import find, infer
from deployments.router.protocols.open_inference.metadata import model_metadata, server_metadata
from deployments.router.protocols.open_inference.statistics import all_statistics, model_statistics
from deployments.router.protocols.tables import OPEN_INFERENCE
from deployments.router.request import Protocol, Reply, Request, Route, json_reply
from workflows.errors import InvalidInput

__all__ = ["PROTOCOL", "routes"]

PROTOCOL: Final = Protocol("open_inference", "/v2", OPEN_INFERENCE)
_NO_MARK: Final = b""
"""A stream's last event is marked as the last one."""


def routes(workflows: Workflows) -> list[Route]:
    """What this protocol adds to the router, but for the two health routes of the server itself."""

    async def server(request: Request) -> Reply:
        return json_reply(server_metadata())

    async def metadata(request: Request) -> Reply:
        return json_reply(model_metadata(workflows, request, _model(workflows, request)))

    async def ready(request: Request) -> Reply:
        entry = _model(workflows, request)
        is_ready = entry.state == "ready"
        return json_reply({"name": entry.known_as, "ready": is_ready}, 200 if is_ready else 503)

    async def infer_model(request: Request) -> Reply:
        asked = await read_infer(request)
        entry = _model(workflows, request)
        _check_named(asked, request, entry)
        answer = await infer(workflows, request, entry, asked.infer)
        return await compressed(request, infer_reply(entry, asked, answer))

    async def generate(request: Request) -> Reply:
        body = await request.json()
        entry = _model(workflows, request)
        asked = read_generate(entry, workflows.card(entry), body, streaming=False)
        output = await workflows.ask(request, entry, asked.input_data, at_most_s=asked.timeout_s)
        return json_reply(asked.answer(output))

    async def generate_stream(request: Request) -> None:
        body = await request.json()
        entry = _model(workflows, request)
        asked = read_generate(entry, workflows.card(entry), body, streaming=True)
        await workflows.stream(request, entry, asked.input_data, asked.event, _NO_MARK, at_most_s=asked.timeout_s)

    found = [Route("GET", "/v2", server, PROTOCOL), *_repository_routes(workflows), *_statistics_routes(workflows)]
    for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found += [
            Route("GET", model, metadata, PROTOCOL),
            Route("GET", f"{model}/ready", ready, PROTOCOL),
            Route("POST", f"{model}/infer", infer_model, PROTOCOL, body="json_or_binary"),
            Route("POST", f"{model}/generate", generate, PROTOCOL, body="json"),
            Route("POST", f"{model}/generate_stream", generate_stream, PROTOCOL, body="json"),
        ]
    return found


def _repository_routes(workflows: Workflows) -> list[Route]:
    async def index(request: Request) -> Reply:
        only_ready = (await _small_body(request, "ready")).get("ready", False)
        if type(only_ready) is not bool:
            raise InvalidInput("ready must be true or false", param="ready")
        return json_reply(repository.index(workflows, request, only_ready=only_ready))

    async def load(request: Request) -> Reply:
        parameters = given_parameters((await _small_body(request, "parameters")).get("parameters"))
        await repository.load(workflows, request, request.params[0], parameters)
        return json_reply({})

    async def unload(request: Request) -> Reply:
        parameters = given_parameters((await _small_body(request, "parameters")).get("parameters"))
        await repository.unload(workflows, request, request.params[0], parameters)
        return json_reply({})

    one = "/v2/repository/models/{name}"
    return [
        Route("POST", "/v2/repository/index", index, PROTOCOL, body="json_or_binary"),
        Route("POST", f"{one}/load", load, PROTOCOL, access="operator", body="json_or_binary"),
        Route("POST", f"{one}/unload", unload, PROTOCOL, access="operator", body="json_or_binary"),
    ]


def _statistics_routes(workflows: Workflows) -> list[Route]:
    async def of_all(request: Request) -> Reply:
        return json_reply({"model_stats": await all_statistics(workflows, request)})

    async def of_one(request: Request) -> Reply:
        return json_reply({"model_stats": await model_statistics(workflows, request, *request.params)})

    return [
        Route("GET", "/v2/models/stats", of_all, PROTOCOL),
        Route("GET", "/v2/models/{name}/stats", of_one, PROTOCOL),
        Route("GET", "/v2/models/{name}/versions/{version}/stats", of_one, PROTOCOL),
    ]


def _check_named(asked: HttpInfer, request: Request, entry: Entry) -> None:
    """What the body says about the model must not contradict the URL."""
    name, version = asked.named
    if name not in (None, "", entry.name, entry.known_as, request.params[0]):
        raise InvalidInput("model_name is not the model that the URL names", param="model_name")
    if version not in (None, "", entry.version):
        raise InvalidInput("model_version is not the version that the URL names", param="model_version")


async def _small_body(request: Request, *known: str) -> Mapping[str, Any]:
    """The fields of a body that may be left out."""
    return checked_object(await request.json(), "the body", set(known)) if request.body else {}


def _model(workflows: Workflows, request: Request) -> Entry:
    return find(workflows, request, *request.params)
