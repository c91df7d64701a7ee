"""How patient, how insistent and how greedy a workflow is with its upstream, as the operator says it. Settings only."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workflows.remote.secret import SecretRef

__all__ = ["BreakerPolicy", "UpstreamPolicy"]

MAX_PLACES: Final = 1024  # what the `concurrency` of a workflow may be

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1024, le=2**40)]


class BreakerPolicy(BaseModel):
    """When an upstream is left alone, and when it is tried again.

    Attributes:
        failures: So many have to have failed within `window_s`, and
        share: this share of those that were asked then, before nobody is let through.
        window_s: How long a failure is remembered.
        open_s: How long nobody is let through. After that a few are, as a test.
        probes: So many at a time while the upstream is tested, and so many have to succeed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    failures: Annotated[int, Field(ge=1, le=10_000)] = 5
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    window_s: Seconds = 30.0
    open_s: Seconds = 10.0
    probes: Annotated[int, Field(ge=1, le=100)] = 1


class UpstreamPolicy(BaseModel):
    """The limits of one upstream, for each replica by itself. The caller's own deadline counts beside all of them.

    Attributes:
        connect_s: Until a connection stands, TLS included.
        first_byte_s: Until an answer begins, the connection included: the head of any, the first item of a streamed one.
        between_tokens_s: The longest silence after that.
        total_s: For a call with all its attempts and waiting.
        attempts: How often one call may ask, the first time included.
        backoff_s: Before the n-th retry any time up to `backoff_s` times two to the power of n - 1 passes,
        backoff_max_s: but no more than this.
        retry_after_max_s: Who is told to come back later than this says so to the caller instead of waiting.
        retry_budget: Each call earns this part of a retry for all calls together: 0.1 lets 100 calls become 110 at most.
        retry_reserve: Retries that may be made before calls have earned them. More than 0 loosens the budget by so many.
        max_concurrent: How many calls ask at the same time,
        max_waiting: and how many wait for their turn; who comes then is refused at once.
        breaker: When the upstream is left alone.
        max_body_bytes: An answer is no longer than this,
        max_line_bytes: and no line of a streamed one than this.
        proxy: Where the URL of a proxy stands. The environment's own settings for proxies are not looked at.
        ca_file: Certificates of the authorities that vouch for the upstream; by default the system's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    connect_s: Seconds = 5.0
    first_byte_s: Seconds = 60.0
    between_tokens_s: Seconds = 30.0
    total_s: Seconds = 600.0
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    backoff_s: Seconds = 0.5
    backoff_max_s: Seconds = 8.0
    retry_after_max_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 30.0
    retry_budget: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.1
    retry_reserve: Annotated[int, Field(ge=0, le=1000)] = 0
    max_concurrent: Annotated[int, Field(ge=1, le=MAX_PLACES)] = 64
    max_waiting: Annotated[int, Field(ge=0, le=MAX_PLACES)] = 64
    breaker: BreakerPolicy = BreakerPolicy()
    max_body_bytes: Bytes = 64 * 2**20
    max_line_bytes: Bytes = 2**20
    proxy: SecretRef | None = None
    ca_file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None

    @property
    def places(self) -> int:
        """How many calls are taken at once, those that wait included: the `concurrency` of a workflow."""
        return min(self.max_concurrent + self.max_waiting, MAX_PLACES)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.backoff_max_s < self.backoff_s:
            raise ValueError("backoff_max_s is shorter than backoff_s")
        return self
