"""One vector from a vector per token. Knows tensors of shape (texts, tokens, dimensions), no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workflows.inference.sentence_files import Pooling
from workflows.tensors import Array

if TYPE_CHECKING:
    import torch

__all__ = ["pool", "shortened", "unit_length"]


def pool(tokens: torch.Tensor, mask: torch.Tensor, how: Pooling) -> torch.Tensor:
    """float32 of shape (texts, dimensions).

    Args:
        tokens: Shape (texts, tokens, dimensions), of any float format.
        mask: Shape (texts, tokens): 1 for tokens of the text, which come first, and 0 for padding.
    """
    tokens = tokens.float()
    if how == "cls":
        return tokens[:, 0]
    if how == "lasttoken":
        last = (mask.sum(1) - 1)[:, None, None].expand(-1, 1, tokens.shape[2])
        return tokens.gather(1, last)[:, 0]
    weights = mask.float()[:, :, None]
    if how == "max":
        return tokens.masked_fill(weights == 0, float("-inf")).amax(1)
    if how == "weightedmean":
        weights = weights * weights.cumsum(1)
    count = weights.sum(1)
    return (tokens * weights).sum(1) / (count.sqrt() if how == "mean_sqrt_len_tokens" else count)


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """The same directions, of length 1; a vector of zeros stays one."""
    unit: torch.Tensor = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return unit


def shortened(vector: Array, dimensions: int) -> Array:
    """The first so many numbers of a vector, at length 1: as models that were trained for it (Matryoshka) are cut."""
    first = vector[:dimensions]
    length: Array = np.maximum(np.linalg.norm(first), np.float32(1e-12))
    return first / length
