"""Token ids in, token ids out: what runs a language model, and no more. No text, no tokenizer, no stop strings, no requests.

`Engine` is the seam behind which another way of running the model (continuous batching, a paged cache) takes this
one's place; how the next token is chosen comes in with each call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from workflows.errors import WorkflowError

if TYPE_CHECKING:
    import torch

__all__ = ["Engine", "TransformersEngine"]

Choose = Callable[["torch.Tensor"], int]


class Engine(Protocol):
    """Continues a list of tokens.

    Attributes:
        context_tokens: Prompt and answer together are at most this long.
    """

    context_tokens: int

    def generate(self, prompt: Sequence[int], choose: Choose) -> Generator[int]:
        """The tokens after `prompt`, without end: the caller closes the generator when it has enough.

        Args:
            prompt: At least one token, fewer than `context_tokens`.
            choose: Gets the scores of the next token, shape (vocabulary,), on the engine's device, and picks one.
        """
        ...


class TransformersEngine:
    """One sequence at a time through a transformers model, its keys and values cached: one forward pass per token.

    Several generators may be open at once, each with its own cache; their steps must not run at the same time.
    """

    def __init__(self, torch: Any, model: Any, context_tokens: int) -> None:
        known = inspect.signature(model.forward).parameters
        if "past_key_values" not in known:
            raise WorkflowError(f"{type(model).__name__} keeps no key-value cache: this engine cannot run it")
        self.context_tokens = context_tokens
        self._torch = torch
        self._model = model
        # Scores of the whole prompt would take prompt x vocabulary numbers, and only the last row is used.
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def generate(self, prompt: Sequence[int], choose: Choose) -> Generator[int]:
        torch, model = self._torch, self._model
        cache: Any = None
        fed = list(prompt)
        for _ in range(self.context_tokens - len(prompt)):
            # Not around the loop: inference mode belongs to the thread, which is lent to others at every yield.
            with torch.inference_mode():
                ids = torch.tensor([fed], device=model.device)
                output = model(input_ids=ids, past_key_values=cache, use_cache=True, **self._last_only)
                cache = output.past_key_values
                token = choose(output.logits[0, -1])
            yield token
            fed = [token]
