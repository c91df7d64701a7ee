"""What a workflow says about itself: enough for a router to route, and for a stranger to write a client."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["BatchCost", "Batching", "Card", "Preserved", "Signature", "TensorSpec"]


class Batching(BaseModel):
    """How many requests may run together.

    Attributes:
        max_size: Requests in one batch.
        max_wait_s: How long an idle model waits for company before it runs a batch that is not full, in seconds.
        max_cost: The sum of the items' `cost()` in one batch; None is unlimited. A single item above it runs alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_size: int = Field(default=32, ge=1, le=4096)
    max_wait_s: float = Field(default=0.0, ge=0.0, le=10.0)
    max_cost: float | None = Field(default=None, gt=0.0)


class TensorSpec(BaseModel):
    """One input or output of a tensor model; -1 in `shape` is a dimension that the caller chooses."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    dtype: str
    shape: list[int]


class Signature(BaseModel):
    """A tensor model's own inputs and outputs, in its own order."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


class BatchCost(BaseModel):
    """Batches whose items cost up to `cost` together have taken `seconds`, the newest counting most."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cost: float
    seconds: float
    batches: int


class Preserved(BaseModel):
    """What of its answers a workflow keeps to, as its operator declares it: another one may answer in its place if it keeps
    to the same.

    Attributes:
        embedding_space: A name for the space that vectors lie in, the model's for example. Vectors of two spaces mean
            nothing to each other.
        dimensions: Of its vectors.
        labels: All that it may give.
        context_length: Tokens that it reads and writes altogether.
        least_context_length: How long the context of whoever answers in its place must be; None is as long as its own.
        contract: A name for what inputs and outputs mean, for kinds of which no trait above says that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    embedding_space: str | None = Field(default=None, min_length=1, max_length=256)
    dimensions: int | None = Field(default=None, ge=1, le=1 << 20)
    labels: list[Annotated[str, Field(min_length=1, max_length=1024)]] | None = Field(
        default=None, min_length=1, max_length=65536
    )
    context_length: int | None = Field(default=None, ge=1, le=1 << 30)
    least_context_length: int | None = Field(default=None, ge=1, le=1 << 30)
    contract: str | None = Field(default=None, min_length=1, max_length=256)


class Card(BaseModel):
    """A workflow's description. Schemas are JSON Schema of the native protocol's bodies.

    Attributes:
        kind: `tensors`, `generate`, `embed`, `speech`, `task` or `json`: which protocols can speak to it.
        task: For kind `task`: which one, by its name on Hugging Face's hub (`text-classification`, ...).
        model: Which model it runs, as callers may know: an id or a directory's name, never a path.
        context_tokens: Of a text model: how many tokens it reads, and writes where it does, altogether.
        max_new_tokens: Of a model that generates text: its longest answer.
        voices: Of a speech model: as whom it can speak, the one that it takes by itself first.
        sample_rate: Of a speech model: its own, in Hz.
        tells_tokens: Of a model that generates text: whether it can tell its tokens one by one, with their chances.
        streams: Whether `stream()` works; `chunk_schema` is None where it does not.
        retry_safe: Whether running an input twice does no harm, so that a lost one may be run again elsewhere.
        concurrency: Items that one replica works on at once outside of a batch: 1 for a sync workflow.
        version: Its own, and `version_of` the name under which it is one of several; None where it is the only one.
        signature: For kind `tensors`, once the model is known.
        aliases: Other names it answers to, where it is deployed.
        fallbacks: Which other workflows answer in its place when it cannot, the first one first, where it is deployed.
        preserves: What whoever answers in its place has to keep to.
        max_queue: Items that may wait in one replica of it, where it is deployed.
        max_streams: Streams that one replica of it runs at a time, where it is deployed.
        batch_costs: What a replica has learned of its batches, for each bucket by size, those used last first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    summary: str
    kind: str
    task: str | None = None
    model: str | None = None
    context_tokens: int | None = None
    max_new_tokens: int | None = None
    tells_tokens: bool = True
    voices: list[str] = Field(default_factory=list)
    sample_rate: int | None = None
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    chunk_schema: dict[str, Any] | None = None
    batching: Batching | None = None
    streams: bool = False
    retry_safe: bool = False
    concurrency: int = 1
    version: str = "1"
    version_of: str | None = None
    signature: Signature | None = None
    aliases: list[str] = Field(default_factory=list)
    fallbacks: list[str] = Field(default_factory=list)
    preserves: Preserved = Preserved()
    max_queue: int | None = None
    max_streams: int | None = None
    batch_costs: list[list[BatchCost]] = Field(default_factory=list)

    @property
    def known_as(self) -> str:
        """The name under which callers find it, with its version or without."""
        return self.version_of or self.name


@dataclass(frozen=True, slots=True)
class Load:
    """What one input means to a batch: how much of `max_cost` it takes, and with which others it may run."""

    cost: float = 1.0
    bucket: Hashable = None
