"""What an operator says of a TGI server, also as the predecessor had it, and what the server says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workflows.errors import InvalidInput
from workflows.remote.policy import UpstreamPolicy
from workflows.types.text import MAX_TOKENS, Generate

__all__ = ["RetryParams", "ServerFacts", "policy_of"]

_MOST_WAIT_S: Final = 600.0


class RetryParams(BaseModel):
    """Retries as the predecessor had them; which errors may be tried again is known by now.

    Attributes:
        tries: How often a call is asked, the first time included.
        delay: Before the first retry at most, in seconds; doubled for each further one
        max_delay: until it is this long.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    tries: Annotated[int, Field(ge=1, le=10)] = 3
    delay: Annotated[float, Field(gt=0, le=_MOST_WAIT_S)] = 3.0
    max_delay: Annotated[float, Field(gt=0, le=_MOST_WAIT_S)] | None = None


def policy_of(
    upstream: UpstreamPolicy | None, timeout: float | None, retry_params: RetryParams | None
) -> UpstreamPolicy:
    """The one policy that was said, in whichever words. Raises InvalidInput where it was said in both."""
    if timeout is None and retry_params is None:
        return upstream or UpstreamPolicy()
    if upstream is not None:
        name = "timeout" if timeout is not None else "retry_params"
        raise InvalidInput(f"{name}: upstream says this, and more: give upstream alone", param=name)
    said: dict[str, Any] = {}
    if timeout is not None:
        said |= {"first_byte_s": float(timeout), "between_tokens_s": float(timeout)}
    if retry_params is not None:
        longest = max(retry_params.delay, retry_params.max_delay or _MOST_WAIT_S)
        said |= {"attempts": retry_params.tries, "backoff_s": retry_params.delay, "backoff_max_s": longest}
    return UpstreamPolicy(**said)


class ServerFacts(BaseModel):
    """What `/info` says, so far as it does; newer servers call the longest input `max_input_tokens`."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, hide_input_in_errors=True)
    model_id: Annotated[str, Field(max_length=1024)] | None = None
    max_total_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_input_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_input_length: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_stop_sequences: Annotated[int, Field(ge=0)] | None = None

    @classmethod
    def read(cls, said: object) -> ServerFacts:
        """Raises ValueError for what is no description of a server."""
        if not isinstance(said, Mapping):
            raise ValueError("no object")
        try:
            return cls.model_validate(dict(said))
        except ValidationError:
            raise ValueError("facts of another form") from None

    @property
    def model(self) -> str | None:
        """As callers may know it: of a directory its name, and no path."""
        if self.model_id is None or not self.model_id.startswith("/"):
            return self.model_id
        return self.model_id.rstrip("/").rpartition("/")[2] or None

    @property
    def longest_input(self) -> int | None:
        return self.max_input_tokens or self.max_input_length

    def fitting(self, asked: Generate) -> Generate:
        """The same, with a length that the server takes where the caller has not said one.

        Raises InvalidInput for what the server is known to refuse.
        """
        said, total = asked.sampling, self.max_total_tokens
        if self.max_stop_sequences is not None and len(said.stop) > self.max_stop_sequences:
            raise _most("sampling.stop", f"{self.max_stop_sequences} stop strings")
        if total is not None and said.max_tokens is not None and said.max_tokens >= total:
            if "max_tokens" in said.model_fields_set:
                raise _most("sampling.max_tokens", f"{total - 1}")
            asked = asked.model_copy(update={"sampling": said.model_copy(update={"max_tokens": max(1, total - 1)})})
        if self.longest_input is not None and asked.truncate is not None and asked.truncate > self.longest_input:
            raise _most("truncate", f"{self.longest_input}")
        return asked


def _most(param: str, most: str) -> InvalidInput:
    return InvalidInput(f"{param}: the upstream takes at most {most}", param=param)
