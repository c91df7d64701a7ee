"""The network behind `digits-torch` and `digits-onnx`. Knows its layers, not how it is trained or served.

Imports torch when it is imported: a workflow names it by path and imports it during its setup.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["DigitsNet"]

SIDE = 8
BRIGHTEST = 16.0


class DigitsNet(nn.Module):
    """Tells which digit an image of 8 x 8 pixels shows: the images of scikit-learn's bundled data set."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (SIDE // 2) ** 2, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [batch, 64], row by row, 0 (paper) to 16 (ink) -> logits float32 [batch, 10]."""
        logits: torch.Tensor = self.layers((image / BRIGHTEST).reshape(-1, 1, SIDE, SIDE))
        return logits
