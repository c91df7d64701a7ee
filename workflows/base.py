"""The life of an inference workflow: `setup()`, then `inference()` and `stream()`, at last `teardown()`.

What you write are the `do_*` hooks; what you call are the methods without the prefix, which are final.
What you define is what your workflow can do: there is no flag to set.

    class Upper(BaseInferenceWorkflow[str, str]):
        def do_run_model(self, preprocessed_data: str) -> str:
            return preprocessed_data.upper()

    Upper().setup().inference("hello")  # "HELLO"

Knows no Ray, no HTTP and no queue. All hooks of one workflow run one at a time, whichever threads call.
"""

from __future__ import annotations

import inspect
import logging
import threading
from abc import ABC
from collections.abc import AsyncIterator, Awaitable, Generator, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, cast, final

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypeVar

from workflows import types
from workflows.batch import run_batch
from workflows.card import Batching, Card, Load, Signature
from workflows.chunks import chunks, while_wanted
from workflows.context import CallContext
from workflows.declared import adapter_of, json_schema, read_back
from workflows.errors import InvalidInput, NotReady, Unsupported, WorkflowError
from workflows.executions import Execution
from workflows.generics import type_arguments
from workflows.prerequisite import Prerequisite
from workflows.resources import Resources

__all__ = ["BaseInferenceWorkflow", "Parsed"]

log = logging.getLogger(__name__)

In = TypeVar("In", default=Any)
Out = TypeVar("Out", default=Any)
Chunk = TypeVar("Chunk", default=Any)

# Final, with the hook to define instead.
_FINAL = {
    "setup": "do_setup",
    "inference": "do_run_model",
    "inference_batch": "do_run_batch",
    "stream": "do_stream",
    "teardown": "do_teardown",
}
_HOOKS = (
    *("do_setup", "do_warm_up", "do_preprocessing", "do_run_model", "do_run_batch", "do_postprocessing", "do_stream"),
    *("do_teardown", "cost", "bucket", "signature", "check_files"),
)
_BASES = ("workflows.base", "workflows.async_base")
_MAX_PARAM_CHARS = 64


@dataclass(frozen=True, slots=True)
class Parsed:
    """An input that `parse_input` has seen, in place of a raw one: between a queue and the hooks, never from a caller."""

    value: Any


class BaseInferenceWorkflow(ABC, Generic[In, Out, Chunk]):
    """The base of every workflow; its three parameters are the input, the output and a stream's chunk.

    They are pydantic models, exchange types (`workflows.types`) or plain JSON types, and become the schemas of the
    card. Hooks may return more precise types than declared here; only `AsyncInferenceWorkflow` may return awaitables.

    Attributes:
        batching: How requests may run together; None means one by one, unless `do_run_batch` is defined.
        retry_safe: True where running an input twice does no harm: then a batch that raises is run again in halves
            to find the culprit, and an input whose replica died may be run on another.
        resources: What this workflow may use of the machine. Assign before `setup()`.
        deployed_batching: What a deployment says instead of the class, see `batch_limits`. May be assigned at any time.
    """

    batching: ClassVar[Batching | None] = None
    retry_safe: ClassVar[bool] = False
    resources: Resources
    deployed_batching: Batching | None = None
    _hooks_may_wait: ClassVar[bool] = False
    _ready: bool
    _one_hook: AbstractContextManager[Any]

    # ---- yours -----------------------------------------------------------------------------------------------------

    def do_setup(self) -> Any:
        """Load the model; heavy imports belong here. Called once by `setup()`; what it raises, `setup()` raises."""

    def do_warm_up(self) -> Any:
        """Run the model once, so that a broken one never becomes ready. Called by `setup()`, after `do_setup`."""

    def do_preprocessing(self, input_data: In) -> Any:
        """Turn a validated input into what the model takes. Raise `InvalidInput` for what only you can check."""
        return input_data

    def do_run_model(self, preprocessed_data: Any) -> Any:
        """Run the model on one preprocessed input. Default: a batch of one, or the fold of `do_stream`."""
        if self._defines("do_run_batch"):
            (outcome,) = self.do_run_batch([preprocessed_data])
            if isinstance(outcome, WorkflowError):
                raise outcome
            return outcome
        with closing(chunks(self.do_stream, preprocessed_data)) as made:
            return types.fold(self._types[1], while_wanted(made))

    def do_run_batch(self, batch: list[Any]) -> list[Any]:
        """Run the model on several preprocessed inputs of one `bucket()`.

        Returns as many outputs in the same order; a `WorkflowError` in an output's place fails that item alone.
        """
        return [self.do_run_model(item) for item in batch]

    def do_postprocessing(self, input_data: In, output_data: Any) -> Out | Awaitable[Out]:
        """Turn the model's output into the answer."""
        return cast("Out", output_data)

    def do_stream(self, preprocessed_data: Any) -> Iterator[Chunk] | AsyncIterator[Chunk]:
        """Give the answer piece by piece: a generator, or any iterator. Closed early when the caller leaves, so a
        generator's `finally`, an iterator's `close()`, is the place to clean up."""
        raise Unsupported("this workflow does not stream")

    def do_teardown(self) -> Any:
        """Release what `do_setup` took. Called once by `teardown()`, only after a successful setup."""

    def cost(self, input_data: In) -> float:
        """How much of `Batching.max_cost` this input takes (rows, tokens, ...). Must be quick: runs on the event loop."""
        return 1.0

    def bucket(self, input_data: In) -> Hashable:
        """Inputs run together only if their buckets are equal (shapes, options, ...). Quick, like `cost`."""
        return None

    def signature(self) -> Signature | None:
        """A tensor model's inputs and outputs; called after `setup()`."""
        return None

    def check_files(self) -> None:
        """Raise WorkflowError where a file that the options name is missing; load nothing. Asked by
        `python -m deployments check`, before anything is set up."""

    # ---- ours ------------------------------------------------------------------------------------------------------

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # State lives here rather than in __init__, so that a subclass may forget to call super().__init__().
        self = super().__new__(cls)
        self._ready = False
        self._one_hook = threading.RLock()
        self.resources = Resources.of_machine()
        return self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, hook in _FINAL.items():
            if getattr(cls, name) is not getattr(BaseInferenceWorkflow, name):
                raise TypeError(f"{cls.__name__}.{name} is final: define {hook} instead")
        for name in () if cls._hooks_may_wait else _HOOKS:
            if _waits(getattr(cls, name)):
                raise TypeError(f"{cls.__name__}.{name} is async: derive from AsyncInferenceWorkflow for that")

    @final
    @property
    def is_setup(self) -> bool:
        return self._ready

    @final
    def setup(self) -> Self:
        """Make the workflow ready; a second call does nothing. Raises what `do_setup` raises and then stays not ready."""
        self._require_hooks()
        _ = self._adapters  # a type that cannot be validated is said now, not to the first caller
        with self._one_hook:
            if not self._ready:
                self._setup()
                self._ready = True
        return self

    @final
    def inference(self, input_data: In | Any) -> Out:
        """The answer to one input: an instance of the input type, or plain data that validates as one.

        Raises NotReady before `setup()`, InvalidInput for an input that does not validate, else what the hooks raise.
        """
        self._require_ready()
        return self._inference(input_data)

    @final
    def inference_batch(
        self,
        inputs: Sequence[In | Any],
        calls: Sequence[CallContext] | None = None,
        executions: list[Execution] | None = None,
    ) -> list[Out | WorkflowError]:
        """One outcome per input, in order; an input's failure is a `WorkflowError` in its place and hurts no other.

        Inputs of different buckets, and more than `Batching` allows, run as several batches.
        `calls` tells the hooks whom they work for; it is as long as `inputs`. To `executions`, what has run is added.
        """
        self._require_ready()
        return self._inference_batch(
            inputs, calls or [CallContext()] * len(inputs), [] if executions is None else executions
        )

    @final
    def stream(self, input_data: In | Any) -> Generator[Chunk]:
        """The answer to one input, chunk by chunk. Closing the generator early closes `do_stream`, whose `finally` runs.

        Raises NotReady and Unsupported at once, everything else with the first chunk.
        """
        self._require_ready()
        if not self.streams:
            raise Unsupported("this workflow does not stream")
        return self._stream(input_data)

    @final
    def teardown(self) -> None:
        """Release everything; the workflow can be set up again. Does nothing where it is not set up."""
        with self._one_hook:
            if self._ready:
                self._ready = False
                self._teardown()

    @property
    def streams(self) -> bool:
        """Whether `stream()` works."""
        return self._defines("do_stream")

    @property
    def limits(self) -> Batching:
        """How many may run together, whoever said so: the class, or a definition of `do_run_batch`, or nobody."""
        if self.batching is not None:
            return self.batching
        return Batching() if self._defines("do_run_batch") else Batching(max_size=1)

    @final
    @property
    def batch_limits(self) -> Batching:
        """`limits` after whoever deployed the workflow had a say (`deployed_batching`).

        They choose size and waiting time, and may lower the cost; but what cannot run together stays apart.
        """
        own, said = self.limits, self.deployed_batching
        if said is None or own.max_size == 1:
            return own
        costs = [cost for cost in (own.max_cost, said.max_cost) if cost is not None]
        return said.model_copy(update={"max_cost": min(costs, default=None)})

    def parse_input(self, input_data: Any) -> In:
        """Validate plain data as the input type. Raises InvalidInput naming the field."""
        try:
            return cast("In", self._adapters[0].validate_python(input_data))
        except ValidationError as error:
            problem = _first_problem(error)
        raise problem  # out here, without a cause: pydantic's own error shows what was sent

    def parse_output(self, plain: Any) -> Out:
        """An answer's plain form (see `workflows.plain`) as the output type again, even where that is strict: text as a
        date, a list as a tuple. As it is where the type does not take the names that it gives."""
        return cast("Out", read_back(self._adapters[1], plain))

    def parse_chunk(self, plain: Any) -> Chunk:
        """A chunk's plain form as the chunk type again."""
        return cast("Chunk", read_back(self._adapters[2], plain))

    def prerequisite(self, input_data: In) -> Prerequisite | None:
        """What else must have happened before this parsed input is run, such as that its model is loaded; None is nothing.

        Deployments of sync workflows ask for it before whole answers, not streams; in any thread, also while hooks run. Must
        not wait; the hooks do, where nobody has asked.
        """
        return None

    def load_of(self, input_data: In) -> Load:
        """What a parsed input means to a batch."""
        return Load(self.cost(input_data), self.bucket(input_data))

    def card(self, name: str, summary: str = "") -> Card:
        """Describe this workflow under a name; complete once it is set up."""
        inputs, outputs, pieces = self._adapters
        documented = (type(self).__doc__ or "").strip().partition("\n")[0]
        return Card(
            name=name,
            summary=summary or documented,
            kind=getattr(self._types[0], "kind", "json"),
            input_schema=json_schema(inputs, "validation"),
            output_schema=json_schema(outputs, "serialization"),
            chunk_schema=json_schema(pieces, "serialization") if self.streams else None,
            batching=self.batch_limits if self.batch_limits.max_size > 1 else None,
            streams=self.streams,
            retry_safe=self.retry_safe,
            signature=self.signature(),
        )

    # ---- how the hooks are driven; AsyncInferenceWorkflow has its own ways --------------------------------------------

    def _setup(self) -> None:
        self.do_setup()
        self._ready = True  # so that do_warm_up may call inference()
        try:
            self.do_warm_up()
        except BaseException:
            self._ready = False
            try:
                self.do_teardown()
            except Exception:  # what went wrong first is what setup() says
                log.exception("teardown after a failed warm-up failed as well")
            raise

    def _inference(self, input_data: Any) -> Out:
        with self._one_hook:
            self._require_ready()  # again: it may have been torn down while this call waited its turn
            parsed = self._once_parsed(input_data)
            output = self.do_run_model(self.do_preprocessing(parsed))
            return cast("Out", self.do_postprocessing(parsed, output))

    def _inference_batch(
        self, inputs: Sequence[Any], calls: Sequence[CallContext], executions: list[Execution]
    ) -> list[Out | WorkflowError]:
        with self._one_hook:
            self._require_ready()
            return run_batch(self, inputs, calls, executions)

    def _stream(self, input_data: Any) -> Generator[Chunk]:
        with self._one_hook:
            self._require_ready()
            made = chunks(self.do_stream, self.do_preprocessing(self._once_parsed(input_data)))
        try:
            while True:
                with self._one_hook:
                    self._require_ready()
                    try:
                        chunk = next(made)
                    except StopIteration:
                        return
                yield chunk
        finally:
            with self._one_hook:
                made.close()

    def _once_parsed(self, given: Any) -> In:
        return cast("In", given.value) if type(given) is Parsed else self.parse_input(given)

    def _teardown(self) -> None:
        self.do_teardown()

    def _require_hooks(self, *hooks: str) -> None:
        hooks = hooks or ("do_run_model", "do_run_batch", "do_stream")
        if not any(map(self._defines, hooks)):
            raise TypeError(f"{type(self).__name__} defines none of {', '.join(hooks)}")

    def _require_ready(self) -> None:
        if not self._ready:
            raise NotReady("call setup() first", retry_after_s=None)

    def _defines(self, hook: str) -> bool:
        """Whether a subclass has written this hook itself."""
        return getattr(getattr(type(self), hook), "__module__", None) not in _BASES

    @cached_property
    def _types(self) -> tuple[Any, Any, Any]:
        found = type_arguments(type(self), BaseInferenceWorkflow)
        return (found[0], found[1], found[2])

    @cached_property
    def _adapters(self) -> tuple[TypeAdapter[Any], TypeAdapter[Any], TypeAdapter[Any]]:
        inputs, outputs, pieces = self._types
        cls = type(self)
        return adapter_of(inputs, "input", cls), adapter_of(outputs, "output", cls), adapter_of(pieces, "chunk", cls)


def _waits(hook: object) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.isasyncgenfunction(hook)


def _first_problem(error: ValidationError) -> InvalidInput:
    """pydantic's first complaint in one line, with the field's path and without the value that was sent.

    A part of the path may be a key that the caller chose.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = _shown(".".join(str(part) for part in first["loc"]))[:_MAX_PARAM_CHARS] or None
    if first["type"] == "union_tag_invalid":  # pydantic repeats the tag
        message = "Input tag is none of the expected ones"
    else:
        message = _shown(first["msg"].removeprefix("Value error, "))
    return InvalidInput(f"{param}: {message}" if param else message, param=param)


def _shown(text: str) -> str:
    """Text that cannot break a line or turn its direction: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
