"""Pooling, against numbers that can be worked out in the head."""

import pytest
import torch

from workflows.inference.pooling import pool, unit_length
from workflows.inference.sentence_files import Pooling

# Two texts of two dimensions: three tokens, and one token with padding behind that must not count.
TOKENS = torch.tensor([[[1.0, 0.0], [3.0, -6.0], [8.0, 3.0]], [[2.0, 4.0], [99.0, 99.0], [-99.0, 99.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("cls", [[1.0, 0.0], [2.0, 4.0]]),
        ("lasttoken", [[8.0, 3.0], [2.0, 4.0]]),
        ("mean", [[4.0, -1.0], [2.0, 4.0]]),
        ("max", [[8.0, 3.0], [2.0, 4.0]]),
        ("mean_sqrt_len_tokens", [[12 / 3**0.5, -3 / 3**0.5], [2.0, 4.0]]),
        ("weightedmean", [[31 / 6, -3 / 6], [2.0, 4.0]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_never_counts(how: Pooling, expected: list[list[float]], dtype: torch.dtype) -> None:
    vectors = pool(TOKENS.to(dtype), MASK, how)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, torch.tensor(expected))


def test_unit_length() -> None:
    vectors = unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(vectors, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
