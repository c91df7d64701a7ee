"""What the answers and exceptions of upstreams, SDKs and HTTP libraries mean."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import anthropic
import httpx2
import huggingface_hub.errors
import openai
import pydantic
import pytest
import text_generation.errors
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from workflows.errors import (
    ContextTooLong,
    InvalidInput,
    ModelNotFound,
    RateLimited,
    UpstreamFailed,
    WorkflowError,
)
from workflows.remote.failures import FailureKind, UpstreamFailure, of_exception, of_status, retry_after

REQUEST = httpx2.Request("POST", "http://upstream/v1")


@pytest.mark.parametrize(
    ("status", "kind", "error", "retryable"),
    [
        (301, FailureKind.MALFORMED, UpstreamFailed, False),
        (400, FailureKind.REJECTED, InvalidInput, False),
        (401, FailureKind.DENIED, UpstreamFailed, False),
        (402, FailureKind.DENIED, UpstreamFailed, False),
        (403, FailureKind.DENIED, UpstreamFailed, False),
        (404, FailureKind.MISSING, ModelNotFound, False),
        (405, FailureKind.MALFORMED, UpstreamFailed, False),
        (408, FailureKind.FAILED, UpstreamFailed, True),
        (409, FailureKind.FAILED, UpstreamFailed, True),
        (413, FailureKind.REJECTED, InvalidInput, False),
        (418, FailureKind.MALFORMED, UpstreamFailed, False),
        (422, FailureKind.REJECTED, InvalidInput, False),
        (429, FailureKind.LIMITED, RateLimited, True),
        (500, FailureKind.FAILED, UpstreamFailed, True),
        (501, FailureKind.FAILED, UpstreamFailed, False),
        (503, FailureKind.FAILED, UpstreamFailed, True),
        (529, FailureKind.FAILED, UpstreamFailed, True),
    ],
)
def test_status(status: int, kind: FailureKind, error: type[WorkflowError], retryable: bool) -> None:
    failure = of_status(status, {})
    assert (failure.kind, type(failure.error), failure.retryable) == (kind, error, retryable)
    assert failure.status == status


@pytest.mark.parametrize(
    ("status", "code", "kind", "error"),
    [
        (400, "context_length_exceeded", FailureKind.REJECTED, ContextTooLong),
        (429, "insufficient_quota", FailureKind.DENIED, UpstreamFailed),
        (400, "model_not_found", FailureKind.MISSING, ModelNotFound),
        (400, "invalid_api_key", FailureKind.DENIED, UpstreamFailed),
        (429, "words that nobody knows", FailureKind.LIMITED, RateLimited),
    ],
)
def test_a_providers_own_word_says_more(status: int, code: str, kind: FailureKind, error: type[WorkflowError]) -> None:
    failure = of_status(status, {}, code=code)
    assert (failure.kind, type(failure.error)) == (kind, error)
    assert failure.retryable is (kind is FailureKind.LIMITED)


def test_what_the_upstream_says_of_coming_back_reaches_the_caller() -> None:
    failure = of_status(429, {"retry-after": "7"})
    assert failure.retry_after_s == failure.error.retry_after_s == 7.0
    assert of_status(503, {"retry-after": "7"}).error.retry_after_s == 7.0
    assert of_status(500, {}).error.retry_after_s is None
    assert of_status(429, {}).error.retry_after_s == 1.0


@pytest.mark.parametrize(("said", "retryable"), [("true", True), ("false", False), ("perhaps", True)])
def test_an_upstream_may_say_whether_asking_again_helps(said: str, retryable: bool) -> None:
    assert of_status(500, {"x-should-retry": said}).retryable is retryable
    assert of_status(400, {"x-should-retry": said}).retryable is False


@pytest.mark.parametrize(
    ("param", "told"),
    [("messages[0].content", "messages[0].content"), (None, None), ("a b", None), ("x" * 200, None), ("<b>", None)],
)
def test_a_field_is_told_where_it_looks_like_one(param: str | None, told: str | None) -> None:
    error = of_status(400, {}, param=param).error
    assert error.param == told
    assert error.message == f"{f'{told}: ' if told else ''}the upstream model does not take this input"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": " 2.5 "}, 2.5),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e99"}, 86_400.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Mon, 99 Foo 2020"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "9" * 1000}, 86_400.0),
        ({"retry-after": "9", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "9", "retry-after-ms": "x"}, 9.0),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    seconds = retry_after({"retry-after": then})
    assert seconds is not None
    assert 30 < seconds <= 60


def caused(outer: Exception, inner: BaseException) -> Exception:
    outer.__cause__ = inner
    return outer


def raised(make: Callable[[], object]) -> Exception:
    try:
        make()
    except Exception as error:  # noqa: BLE001 - handed on
        return error
    raise AssertionError("nothing was raised")


def answered(status: int, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers=headers, request=REQUEST, json={"error": {"code": None}})


KEY = ConnectionKey("upstream", 80, False, True, None, None, None)
NAMED = [
    (httpx2.ConnectError("x"), FailureKind.REFUSED),
    (httpx2.ConnectTimeout("x"), FailureKind.REFUSED),
    (httpx2.ReadTimeout("x"), FailureKind.SILENT),
    (httpx2.WriteTimeout("x"), FailureKind.SILENT),
    (httpx2.ReadError("x"), FailureKind.CUT),
    (httpx2.RemoteProtocolError("x"), FailureKind.CUT),
    (httpx2.DecodingError("x"), FailureKind.MALFORMED),
    (aiohttp.ClientConnectorError(KEY, OSError(1, "x")), FailureKind.REFUSED),
    (aiohttp.ConnectionTimeoutError(), FailureKind.REFUSED),
    (aiohttp.SocketTimeoutError(), FailureKind.SILENT),
    (aiohttp.ServerDisconnectedError(), FailureKind.CUT),
    (aiohttp.ClientPayloadError(), FailureKind.CUT),
    (aiohttp.ClientOSError(104, "x"), FailureKind.CUT),
    (ConnectionResetError(), FailureKind.CUT),
    (ConnectionRefusedError(), FailureKind.REFUSED),
    (TimeoutError(), FailureKind.SILENT),
    (raised(lambda: json.loads("{")), FailureKind.MALFORMED),
    (raised(b"\xff".decode), FailureKind.MALFORMED),
    (raised(lambda: pydantic.TypeAdapter(int).validate_python("x")), FailureKind.MALFORMED),
    (openai.APITimeoutError(REQUEST), FailureKind.SILENT),
    (openai.APIConnectionError(request=REQUEST), FailureKind.CUT),
    (caused(openai.APIConnectionError(request=REQUEST), httpx2.ConnectError("x")), FailureKind.REFUSED),
    (caused(openai.APITimeoutError(REQUEST), httpx2.ConnectTimeout("x")), FailureKind.REFUSED),
    (openai.APIError("x", REQUEST, body={"code": "server_error"}), FailureKind.FAILED),
    (openai.APIError("x", REQUEST, body={"code": "rate_limit_exceeded"}), FailureKind.LIMITED),
    (openai.RateLimitError("x", response=answered(429), body=None), FailureKind.LIMITED),
    (openai.RateLimitError("x", response=answered(429), body={"code": "insufficient_quota"}), FailureKind.DENIED),
    (openai.BadRequestError("x", response=answered(400), body=None), FailureKind.REJECTED),
    (anthropic.APIConnectionError(request=REQUEST), FailureKind.CUT),
    (anthropic.InternalServerError("x", response=answered(529), body=None), FailureKind.FAILED),
    (anthropic.APIStatusError("x", response=answered(200), body=None), FailureKind.FAILED),
    (huggingface_hub.errors.HfHubHTTPError("x", response=answered(503)), FailureKind.FAILED),
    (huggingface_hub.errors.InferenceTimeoutError("x"), FailureKind.SILENT),
    (huggingface_hub.errors.GenerationError("x"), FailureKind.FAILED),
    (text_generation.errors.OverloadedError("x"), FailureKind.LIMITED),
    (text_generation.errors.ValidationError("x"), FailureKind.REJECTED),
]


@pytest.mark.parametrize(("exception", "kind"), NAMED, ids=[type(error).__qualname__ for error, _ in NAMED])
def test_exceptions_of_libraries(exception: Exception, kind: FailureKind) -> None:
    failure = of_exception(exception)
    assert failure is not None
    assert failure.kind is kind


@pytest.mark.parametrize("exception", [KeyError("x"), RuntimeError("x"), WorkflowError(), TypeError("x")])
def test_what_says_nothing_of_the_upstream(exception: Exception) -> None:
    assert of_exception(exception) is None


def test_headers_of_an_answer_are_found_in_an_sdks_exception() -> None:
    told = openai.RateLimitError("x", response=answered(429, **{"Retry-After": "3"}), body=None)
    failure = of_exception(told)
    assert failure is not None
    assert failure.retry_after_s == 3.0


def test_an_answer_of_aiohttp() -> None:
    about = aiohttp.RequestInfo(URL("http://x"), "POST", CIMultiDictProxy(CIMultiDict()), URL("http://x"))
    told = aiohttp.ClientResponseError(about, (), status=429, headers=CIMultiDict({"Retry-After": "3"}))
    failure = of_exception(told)
    assert failure is not None
    assert (failure.kind, failure.retry_after_s) == (FailureKind.LIMITED, 3.0)


def test_what_the_transport_raised_is_found_within_what_an_sdk_makes_of_it() -> None:
    inner = UpstreamFailure(FailureKind.TOO_LARGE)
    assert of_exception(caused(openai.APIConnectionError(request=REQUEST), inner)) is inner


def test_a_wrong_certificate_is_not_asked_again() -> None:
    refused = caused(httpx2.ConnectError("x"), ssl.SSLCertVerificationError(1, "x"))
    failure = of_exception(refused)
    assert failure is not None
    assert (failure.kind, failure.retryable) == (FailureKind.REFUSED, False)


def test_a_circle_of_causes_has_an_end() -> None:
    first, second = RuntimeError(), RuntimeError()
    first.__cause__, second.__cause__ = second, first
    assert of_exception(first) is None


@pytest.mark.parametrize("kind", FailureKind)
def test_every_kind_has_an_error_for_the_caller(kind: FailureKind) -> None:
    failure = UpstreamFailure(kind, detail="for the log")
    assert isinstance(failure.error, WorkflowError)
    assert "for the log" not in failure.error.message
    assert str(failure) == f"{kind}: for the log"
