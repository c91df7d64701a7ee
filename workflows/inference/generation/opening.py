"""Opens a language model of transformers with an engine for it, as a workflow's settings say. Knows no process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.errors import InvalidInput, WorkflowError
from workflows.inference.generation.cache_size import Shape, cache_size, memory_budget
from workflows.inference.generation.continuous import ContinuousEngine
from workflows.inference.local_transformer import open_weights
from workflows.inference.torch_device import Dtype
from workflows.resources import Resources

__all__ = ["EngineSpec", "open_engine"]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine runs, and with what. Plain data: it crosses to another process.

    Attributes:
        directory: With config.json and safetensors weights.

    The others are those of `TransformersTextGenerationWorkflow`.
    """

    directory: str
    resources: Resources
    dtype: Dtype | None
    threads: int | None
    context_tokens: int | None
    concurrency: int
    cache_tokens: int | None
    step_tokens: int | None
    share_prefixes: bool


def open_engine(torch: Any, transformers: Any, spec: EngineSpec) -> ContinuousEngine:
    """An engine to be started. Takes seconds and memory, so not on an event loop's thread.

    Raises what `open_weights` does, InvalidInput for a context that the model was not made for, and WorkflowError where
    there is no memory for it.
    """
    model, device = open_weights(
        torch,
        transformers,
        "AutoModelForCausalLM",
        Path(spec.directory),
        spec.resources,
        spec.dtype,
        spec.threads,
    )
    context = _context_of(model, spec.context_tokens)
    weights = sum(part.numel() * part.element_size() for part in model.parameters())
    size = cache_size(
        _shape_of(model),
        memory_budget(torch, device, spec.resources, weights),
        device=device.type,
        context=context,
        concurrency=spec.concurrency,
        cache_tokens=spec.cache_tokens,
        step_tokens=spec.step_tokens,
    )
    return ContinuousEngine(
        torch,
        transformers,
        model,
        size,
        ends=_end_tokens(model),
        context=context,
        concurrency=spec.concurrency,
        share_prefixes=spec.share_prefixes,
    )


def _shape_of(model: Any) -> Shape:
    """Raises WorkflowError for a model that has no attention of the usual kind."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    head_dim = getattr(config, "head_dim", None) or (heads and config.hidden_size // heads)
    if not heads or not head_dim:
        raise WorkflowError(f"{type(model).__name__} has no attention heads: it cannot be batched continuously")
    return Shape(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        heads=heads,
        head_dim=head_dim,
        vocabulary=model.get_output_embeddings().weight.shape[0],
        itemsize=model.dtype.itemsize,
        masks=len(set(getattr(config, "layer_types", None) or ["all"])),
    )


def _context_of(model: Any, wanted: int | None) -> int:
    """How many tokens the model takes. Raises InvalidInput where nobody says, or more are wanted than it was made for."""
    known: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if known is None and wanted is None:
        raise InvalidInput("the model does not say how long its context is: set it", param="context_tokens")
    if known is not None and wanted is not None and wanted > known:
        raise InvalidInput(f"context_tokens is {wanted}, but the model was made for {known}", param="context_tokens")
    return wanted or known or 0


def _end_tokens(model: Any) -> frozenset[int]:
    """The model may name several, one per kind of turn."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    tokens = named if isinstance(named, list) else [named]
    return frozenset(token for token in tokens if token is not None)
