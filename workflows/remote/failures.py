"""What went wrong with one attempt at an upstream, told apart for three readers: caller, retries and log.

    kind        the caller hears                again?    speaks against the upstream?
    refused     UpstreamFailed                  yes       yes   no connection
    silent      UpstreamSilent                  no        yes   it took longer than the policy allows; it may still run
    cut         UpstreamFailed                  yes       yes   the answer broke off, or never began
    malformed   UpstreamFailed                  no        yes   an answer that cannot be read
    too_large   UpstreamFailed                  no        no    a longer answer, or line, than the policy allows
    failed      UpstreamFailed                  yes       yes   its own fault, as it says: 5xx, or an error within a stream
    limited     RateLimited                     yes       no    429
    denied      UpstreamFailed                  no        no    the key, the account or the address is wrong: the operator's
    missing     ModelNotFound                   no        no    404
    rejected    InvalidInput, ContextTooLong    no        no    the caller's input

Nothing of what an upstream writes reaches a caller or a log but a status, a time to come back and the name of a field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

from workflows.errors import (
    ContextTooLong,
    InvalidInput,
    ModelNotFound,
    RateLimited,
    UpstreamFailed,
    UpstreamSilent,
    WorkflowError,
)

__all__ = ["FailureKind", "UpstreamFailure", "of_exception", "of_status", "retry_after"]

_MAX_RETRY_AFTER_S: Final = 86_400.0
_FIELD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\[\]-]{0,127}")


class FailureKind(StrEnum):
    REFUSED = "refused"
    SILENT = "silent"
    CUT = "cut"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    FAILED = "failed"
    LIMITED = "limited"
    DENIED = "denied"
    MISSING = "missing"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class _Meaning:
    error: type[WorkflowError]
    message: str
    retryable: bool = False
    counts: bool = False
    ran: bool = True


_MEANINGS: Final[Mapping[FailureKind, _Meaning]] = {
    FailureKind.REFUSED: _Meaning(
        UpstreamFailed, "the upstream model cannot be reached", retryable=True, counts=True, ran=False
    ),
    FailureKind.SILENT: _Meaning(UpstreamSilent, UpstreamSilent.default_message, counts=True),
    FailureKind.CUT: _Meaning(UpstreamFailed, "the upstream model broke off its answer", retryable=True, counts=True),
    FailureKind.MALFORMED: _Meaning(UpstreamFailed, "the upstream model's answer cannot be read", counts=True),
    FailureKind.TOO_LARGE: _Meaning(UpstreamFailed, "the upstream model's answer is larger than allowed"),
    FailureKind.FAILED: _Meaning(UpstreamFailed, "the upstream model failed", retryable=True, counts=True),
    FailureKind.LIMITED: _Meaning(
        RateLimited, "the upstream model's rate limit is reached, try again later", retryable=True, ran=False
    ),
    FailureKind.DENIED: _Meaning(UpstreamFailed, "the upstream model does not admit this service", ran=False),
    FailureKind.MISSING: _Meaning(ModelNotFound, "model not found", ran=False),
    FailureKind.REJECTED: _Meaning(InvalidInput, "the upstream model does not take this input", ran=False),
}


class UpstreamFailure(Exception):
    """Why one attempt failed. Raised by adapters, and by the transport below them; `Upstream` decides what follows.

    Args:
        kind: See the table above.
        status: The HTTP status that said so.
        retry_after_s: When the upstream wants to be asked again, in seconds from now.
        retryable: Whether another attempt may succeed, where that differs from the table.
        error: What the caller gets if this is the end of it, where that differs from the table.
        detail: For the log, and for it alone: words of ours, never the upstream's.
    """

    def __init__(
        self,
        kind: FailureKind,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        retryable: bool | None = None,
        error: WorkflowError | None = None,
        detail: str = "",
    ) -> None:
        meaning = _MEANINGS[kind]
        self.kind = kind
        self.status = status
        self.retry_after_s = retry_after_s
        self.retryable = meaning.retryable if retryable is None else retryable
        self.counts = meaning.counts
        self.detail = detail
        self.error = error or _error(meaning, retry_after_s)
        super().__init__(f"{kind}{'' if status is None else f' {status}'}{detail and f': {detail}'}")


def of_status(
    status: int,
    headers: Mapping[str, str],
    *,
    code: str | None = None,
    param: str | None = None,
) -> UpstreamFailure:
    """What an answer with another status than 2xx means.

    Args:
        headers: Of the answer; read by lower-case names.
        code: The provider's own name of the error, where its body gives one.
        param: The field of the caller's input that is at fault, in the caller's terms, where the body names one.
    """
    after = retry_after(headers)
    kind = _kind_of(status, code)
    said = headers.get("x-should-retry")
    retryable = {"true": True, "false": False}.get(said or "")
    if kind in {FailureKind.REJECTED, FailureKind.MISSING, FailureKind.DENIED} or status == 501:
        retryable = False
    error: WorkflowError | None = None
    if kind is FailureKind.REJECTED:
        error = _rejected(status, code, param)
    return UpstreamFailure(kind, status=status, retry_after_s=after, retryable=retryable, error=error)


def of_exception(exc: BaseException) -> UpstreamFailure | None:
    """What an exception of an HTTP library, an SDK or a parser means; None where it says nothing of the upstream."""
    chain = _chain(exc)
    for link in chain:
        if isinstance(link, UpstreamFailure):
            return link
    for link in chain:
        found = _told(link)
        if found is not None:
            return found
    for link in chain:
        kind = _named(link, _KINDS)
        if kind is not None:
            certificate = any(_named(inner, _CERTIFICATES) for inner in chain)
            return UpstreamFailure(kind, retryable=False if certificate else None, detail=_name(link))
    for link in chain:
        kind = _named(link, _GENERAL)
        if kind is not None:
            code = vars(link).get("code")
            known = _CODES.get(code) if isinstance(code, str) else None
            return UpstreamFailure(known or kind, detail=_name(link))
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the upstream wants to be asked again; None where it does not say, or nothing that can be read."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, _MAX_RETRY_AFTER_S)
    text = (headers.get("retry-after") or "").strip()[:64]
    seconds = _number(text)
    if seconds is None and text:
        try:
            then = parsedate_to_datetime(text)
        except (ValueError, TypeError, OverflowError):
            return None
        seconds = max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None if seconds is None else min(seconds, _MAX_RETRY_AFTER_S)


def _error(meaning: _Meaning, retry_after_s: float | None) -> WorkflowError:
    if retry_after_s is None:
        return meaning.error(meaning.message, may_have_run=meaning.ran)
    return meaning.error(meaning.message, retry_after_s=retry_after_s, may_have_run=meaning.ran)


def _kind_of(status: int, code: str | None) -> FailureKind:
    known = _CODES.get(code) or _STATUSES.get(status)
    if known is not None:
        return known
    # What is left is a redirect, or something that no API answers to what it is asked.
    return FailureKind.FAILED if status >= 500 else FailureKind.MALFORMED


def _rejected(status: int, code: str | None, param: str | None) -> WorkflowError:
    field = param if param and _FIELD.fullmatch(param) else None
    if code in _CONTEXT_CODES:
        return ContextTooLong(param=field)
    if status == 413:
        return InvalidInput("larger than the upstream model takes", param=field)
    message = _MEANINGS[FailureKind.REJECTED].message
    return InvalidInput(f"{field}: {message}" if field else message, param=field)


def _told(exc: BaseException) -> UpstreamFailure | None:
    """Of an exception that carries an answer: a status, headers, and what SDKs have read of the body."""
    told = vars(exc)  # no properties, which may warn or raise
    response = told.get("response")
    status = told.get("status_code") or getattr(response, "status_code", None) or told.get("status")
    headers = getattr(response, "headers", None) if response is not None else told.get("headers")
    if not isinstance(status, int) or isinstance(status, bool) or not 300 <= status <= 599:
        return None
    code, param = told.get("code"), told.get("param")
    return of_status(
        status,
        {str(name).lower(): str(value) for name, value in headers.items()} if isinstance(headers, Mapping) else {},
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
    )


def _chain(exc: BaseException) -> list[BaseException]:
    """An exception and those that led to it, the outermost first; suppressed ones too, since SDKs suppress the cause."""
    chain: list[BaseException] = []
    link: BaseException | None = exc
    while link is not None and link not in chain and len(chain) < 16:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _named(exc: BaseException, table: Mapping[str, FailureKind]) -> FailureKind | None:
    """By name, so that no library has to be there: `httpx2.ConnectError`, of the exception's class or one above it."""
    for cls in type(exc).__mro__:
        kind = table.get(f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}")
        if kind is not None:
            return kind
    return None


def _name(exc: BaseException) -> str:
    return f"{type(exc).__module__.partition('.')[0]}.{type(exc).__qualname__}"


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


_STATUSES: Final[Mapping[int, FailureKind]] = {
    **dict.fromkeys((400, 413, 414, 422, 431), FailureKind.REJECTED),
    **dict.fromkeys((401, 402, 403, 407), FailureKind.DENIED),
    **dict.fromkeys((404, 410), FailureKind.MISSING),
    **dict.fromkeys((408, 409, 425), FailureKind.FAILED),
    429: FailureKind.LIMITED,
}
_CONTEXT_CODES: Final = frozenset({"context_length_exceeded", "context_window_exceeded"})
_CODES: Final[Mapping[str | None, FailureKind]] = {
    **dict.fromkeys(_CONTEXT_CODES, FailureKind.REJECTED),
    # A status of 429 that no waiting mends: the account is empty.
    "insufficient_quota": FailureKind.DENIED,
    "billing_hard_limit_reached": FailureKind.DENIED,
    "model_not_found": FailureKind.MISSING,
    "invalid_api_key": FailureKind.DENIED,
    "overloaded_error": FailureKind.FAILED,
    "rate_limit_exceeded": FailureKind.LIMITED,
    "rate_limit_error": FailureKind.LIMITED,
}
_KINDS: Final[Mapping[str, FailureKind]] = {
    "httpx2.ConnectError": FailureKind.REFUSED,
    "httpx2.ConnectTimeout": FailureKind.REFUSED,
    "httpx2.PoolTimeout": FailureKind.REFUSED,
    "httpx2.ProxyError": FailureKind.REFUSED,
    "httpx2.TimeoutException": FailureKind.SILENT,
    "httpx2.NetworkError": FailureKind.CUT,
    "httpx2.RemoteProtocolError": FailureKind.CUT,
    "httpx2.DecodingError": FailureKind.MALFORMED,
    "httpx2.TooManyRedirects": FailureKind.MALFORMED,
    "aiohttp.ClientConnectorError": FailureKind.REFUSED,
    "aiohttp.ConnectionTimeoutError": FailureKind.REFUSED,
    "aiohttp.ServerTimeoutError": FailureKind.SILENT,
    "aiohttp.ServerDisconnectedError": FailureKind.CUT,
    "aiohttp.ClientOSError": FailureKind.CUT,
    "aiohttp.ClientPayloadError": FailureKind.CUT,
    "aiohttp.ContentTypeError": FailureKind.MALFORMED,
    "aiohttp.TooManyRedirects": FailureKind.MALFORMED,
    "aiohttp.LineTooLong": FailureKind.TOO_LARGE,
    "aiohttp.HttpProcessingError": FailureKind.MALFORMED,
    "builtins.ConnectionRefusedError": FailureKind.REFUSED,
    "builtins.ConnectionError": FailureKind.CUT,
    "builtins.TimeoutError": FailureKind.SILENT,
    "builtins.UnicodeDecodeError": FailureKind.MALFORMED,
    "asyncio.IncompleteReadError": FailureKind.CUT,
    "json.JSONDecodeError": FailureKind.MALFORMED,
    "pydantic_core.ValidationError": FailureKind.MALFORMED,
}
# SDKs raise these around one of the above, which says more, or for an error within a stream; alone they say this.
_GENERAL: Final[Mapping[str, FailureKind]] = {
    "openai.APITimeoutError": FailureKind.SILENT,
    "openai.APIResponseValidationError": FailureKind.MALFORMED,
    "openai.APIConnectionError": FailureKind.CUT,
    "openai.APIError": FailureKind.FAILED,
    "anthropic.APITimeoutError": FailureKind.SILENT,
    "anthropic.APIResponseValidationError": FailureKind.MALFORMED,
    "anthropic.APIConnectionError": FailureKind.CUT,
    "anthropic.APIError": FailureKind.FAILED,
    "huggingface_hub.InferenceTimeoutError": FailureKind.SILENT,
    "huggingface_hub.OverloadedError": FailureKind.LIMITED,
    "huggingface_hub.ValidationError": FailureKind.REJECTED,
    "huggingface_hub.TextGenerationError": FailureKind.FAILED,
    "text_generation.BadRequestError": FailureKind.REJECTED,
    "text_generation.GenerationError": FailureKind.FAILED,
    "text_generation.IncompleteGenerationError": FailureKind.FAILED,
    "text_generation.NotFoundError": FailureKind.MISSING,
    "text_generation.OverloadedError": FailureKind.LIMITED,
    "text_generation.RateLimitExceededError": FailureKind.LIMITED,
    "text_generation.ShardNotReadyError": FailureKind.FAILED,
    "text_generation.ShardTimeoutError": FailureKind.FAILED,
    "text_generation.UnknownError": FailureKind.FAILED,
    "text_generation.ValidationError": FailureKind.REJECTED,
}
_CERTIFICATES: Final[Mapping[str, FailureKind]] = {
    "ssl.SSLError": FailureKind.REFUSED,
    "aiohttp.ClientConnectorCertificateError": FailureKind.REFUSED,
    "aiohttp.ClientConnectorSSLError": FailureKind.REFUSED,
}
