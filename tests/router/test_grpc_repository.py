"""The model repository over gRPC, as Triton's and KServe's clients ask for it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from deployments.router.keys import Keys, mint_key
from tests.router.grpc_front import failure, listening, text_request
from tests.router.router_front import Front
from tests.router.test_in_process import serving
from tests.router.test_repository import Counting

CODE = grpc.StatusCode


async def test_the_index_says_what_there_is_and_how_it_is() -> None:
    front = Front()
    front.add("a")
    front.add("b", state="loading", with_card=False)
    front.add("c", state="failed", reason="out of memory", with_card=False)
    async with listening(front) as it, it.caller() as caller:
        models = (await caller.ask("RepositoryIndex")).models
        ready = (await caller.ask("RepositoryIndex", ready=True)).models
        error = await failure(caller.ask("RepositoryIndex", repository_name="r"))
    assert [(model.name, model.version, model.state, model.reason) for model in models] == [
        ("a", "1", "READY", ""),
        ("b", "1", "LOADING", ""),
        ("c", "1", "UNAVAILABLE", "out of memory"),
    ]
    assert [model.name for model in ready] == ["a"]
    assert (error.code(), error.details()) == (CODE.INVALID_ARGUMENT, "there is one repository, and it has no name")


async def test_a_model_is_unloaded_and_loaded_again() -> None:
    workflow = Counting()
    request = text_request("m", '"a"', field="input")
    async with serving(("m", workflow)) as front, listening(front) as it, it.caller() as caller:
        await caller.call("ModelInfer", request)

        def use(what: str, *given: Any, **more: Any) -> Any:
            with triton.InferenceServerClient(it.target) as client:
                return getattr(client, what)(*given, **more)

        await asyncio.to_thread(use, "unload_model", "m")
        assert (workflow.is_setup, workflow.torn_down) == (False, 1)
        error = await failure(caller.call("ModelInfer", request))
        assert (error.code(), error.details()) == (CODE.UNAVAILABLE, "m is unloaded")
        assert not (await caller.ask("ModelReady", name="m")).ready
        await asyncio.to_thread(use, "load_model", "m")
        answer = await caller.call("ModelInfer", request)
        assert answer.outputs[0].contents.bytes_contents[0] == b'"a in life 2"'
        with pytest.raises(InferenceServerException, match="models and their configuration come with serve deploy"):
            await asyncio.to_thread(use, "load_model", "m", config="{}")
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            await asyncio.to_thread(use, "load_model", "absent")


async def test_the_name_may_stand_where_kserve_has_it() -> None:
    workflow = Counting()
    async with serving(("m", workflow)) as front, listening(front) as it, it.caller() as caller:
        unloaded = await caller.ask("RepositoryModelUnload", repository_name="m")
        assert (unloaded.model_name, unloaded.isUnloaded, workflow.is_setup) == ("m", True, False)
        loaded = await caller.ask("RepositoryModelLoad", repository_name="m")
        assert (loaded.model_name, loaded.isLoaded, workflow.is_setup) == ("m", True, True)
        assert (await failure(caller.ask("RepositoryModelLoad"))).code() == CODE.NOT_FOUND
        error = await failure(caller.ask("RepositoryModelLoad", repository_name="r", model_name="m"))
        assert error.code() == CODE.INVALID_ARGUMENT


async def test_only_operators_load_and_unload() -> None:
    (operator, one), (user, two) = mint_key("op", "operator"), mint_key("me")
    keys = Keys([one, two])
    async with serving(("m", Counting())) as front, listening(front, keys) as it, it.caller() as caller:
        for name in ("RepositoryModelLoad", "RepositoryModelUnload"):
            error = await failure(caller.ask(name, [("x-api-key", user)], model_name="m"))
            assert (error.code(), error.details()) == (CODE.PERMISSION_DENIED, "this needs an operator's API key")
            assert (await failure(caller.ask(name, model_name="m"))).code() == CODE.UNAUTHENTICATED
            await caller.ask(name, [("x-api-key", operator)], model_name="m")
        await caller.ask("RepositoryIndex", [("x-api-key", user)])
