"""Exchange types: the few shapes of data on which protocols and workflows meet. Protocols make them, workflows take them.

| kind       | input      | output          | stream chunk |
|------------|------------|-----------------|--------------|
| `tensors`  | `Tensors`  | `TensorsResult` |              |
| `generate` | `Generate` | `Generated`     | `TextChunk`  |
| `embed`    | `Embed`    | `Embedding`     |              |
| `json`     | any other pydantic model or JSON value, served by the native protocol as it is |||

A type that can be put together from a stream's chunks has a class method `fold`. Validation is strict: "5" is no number.
"""

from workflows.types.embed import Embed, Embedding
from workflows.types.exchange import Exchange
from workflows.types.folding import fold
from workflows.types.tensors import Tensor, Tensors, TensorsResult, Vector
from workflows.types.text import (
    MAX_TOKENS,
    Alternative,
    FinishReason,
    Generate,
    Generated,
    Message,
    Sampling,
    TextChunk,
    Token,
    TokenIds,
    Usage,
)

__all__ = [
    "MAX_TOKENS",
    "Alternative",
    "Embed",
    "Embedding",
    "Exchange",
    "FinishReason",
    "Generate",
    "Generated",
    "Message",
    "Sampling",
    "Tensor",
    "Tensors",
    "TensorsResult",
    "TextChunk",
    "Token",
    "TokenIds",
    "Usage",
    "Vector",
    "fold",
]
