"""What the edge refuses before any workflow is involved. Errors of the same tree, so that one table answers them all.

Unauthenticated       unauth      no key, a wrong one, or two that differ: one answer for all
NoRoute               no_route    no such path
MethodNotAllowed      method      the path exists, for other methods
BadHost               host        a Host name that is not ours: somebody's DNS points at us
TooLarge              too_large   the body
UriTooLong            uri         the URL
HeadersTooLarge       hdr         the header block
SlowBody              slow_body   the body did not arrive in time
UnsupportedMediaType  media       not JSON, or compressed
BadJson               parse       not JSON in strict UTF-8, or nested too deep
BadMessage            parse       not a message of the protocol, or with far too much in it
"""

from __future__ import annotations

from collections.abc import Iterable

from workflows.errors import WorkflowError

__all__ = [
    "BadHost",
    "BadJson",
    "BadMessage",
    "HeadersTooLarge",
    "MethodNotAllowed",
    "NoRoute",
    "SlowBody",
    "TooLarge",
    "Unauthenticated",
    "UnsupportedMediaType",
    "UriTooLong",
]


class Unauthenticated(WorkflowError):
    code = "unauth"
    default_message = "a valid API key is needed"


class NoRoute(WorkflowError):
    code = "no_route"
    default_message = "no such path"


class MethodNotAllowed(WorkflowError):
    """`allowed` is what the `Allow` header says; it does not survive pickling, and the edge never pickles."""

    code = "method"
    default_message = "method not allowed"

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        super().__init__()
        self.allowed = ", ".join(sorted(allowed))


class BadHost(WorkflowError):
    code = "host"
    default_message = "this server does not answer to that host name"


class TooLarge(WorkflowError):
    code = "too_large"
    default_message = "the request body is too large"


class UriTooLong(WorkflowError):
    code = "uri"
    default_message = "the URL is too long"


class HeadersTooLarge(WorkflowError):
    code = "hdr"
    default_message = "the request headers are too large"


class SlowBody(WorkflowError):
    code = "slow_body"
    default_message = "the request body did not arrive in time"


class UnsupportedMediaType(WorkflowError):
    code = "media"
    default_message = "the body must be application/json; send the header Content-Type: application/json"


class BadJson(WorkflowError):
    code = "parse"
    default_message = "the body is not valid JSON"


class BadMessage(WorkflowError):
    code = "parse"
    default_message = "the request is not a message that this method takes"
