"""Trains `DigitsNet` and writes it as safetensors and as ONNX, with one image of the test split as example requests.

    python -m workflows.demo.train_digits [DIRECTORY]

Takes under a minute on two cores. Fixed seeds and a fixed split: the same versions give the same weights.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from workflows.demo.digits import DigitsNet

__all__ = ["LEAST_ACCURACY", "Split", "load_split", "main"]

SEED = 20260101
EPOCHS = 40
BATCH = 64
LEAST_ACCURACY = 0.97
TOLERANCE = 1e-4

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Images float32 [n, 64] with values 0..16 and labels int64 [n]; a fifth is held out, equally many of each digit."""

    train_images: Floats
    test_images: Floats
    train_labels: Labels
    test_labels: Labels


def load_split() -> Split:
    """The one split that training and tests agree on."""
    digits = load_digits()
    images, labels = digits.data.astype(np.float32), digits.target.astype(np.int64)
    return Split(*train_test_split(images, labels, test_size=0.2, random_state=SEED, stratify=labels))


def train(split: Split) -> DigitsNet:
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    net = DigitsNet()
    images, labels = torch.from_numpy(split.train_images), torch.from_numpy(split.train_labels)
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def logits_of(net: DigitsNet, images: Floats) -> Floats:
    with torch.inference_mode():
        result: Floats = net(torch.from_numpy(images)).numpy()
    return result


def export_onnx(net: DigitsNet, path: Path) -> None:
    """One file: input `image` [batch, 64], output `logits` [batch, 10], `batch` free."""
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 64),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # as typed, None is for the exporter that writes files by itself
    model = program.model_proto
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def strip(model: onnx.ModelProto) -> None:
    """Removes what the exporter noted for debugging: stack traces with the paths of the machine that trained."""
    model.producer_version = ""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def onnx_logits(path: Path, images: Floats) -> Floats:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    result: Floats = logits
    return result


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def write_samples(directory: Path, image: Floats) -> None:
    """The same image as a body for the native protocol and as one for the Open Inference Protocol."""
    data = [int(pixel) for pixel in image]
    write_json(
        directory / "digits_sample.json", {"inputs": {"image": {"dtype": "float32", "shape": [1, 64], "data": data}}}
    )
    write_json(
        directory / "digits_sample_v2.json",
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": data}]},
    )


def main(directory: Path) -> None:
    split = load_split()
    net = train(split)
    logits = logits_of(net, split.test_images)
    accuracy = float((logits.argmax(axis=1) == split.test_labels).mean())
    if accuracy < LEAST_ACCURACY:
        raise SystemExit(f"test accuracy {accuracy:.4f} is below {LEAST_ACCURACY}")

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "digits.safetensors").write_bytes(save(net.state_dict()))
    export_onnx(net, directory / "digits.onnx")
    difference = float(np.abs(onnx_logits(directory / "digits.onnx", split.test_images) - logits).max())
    if difference > TOLERANCE:
        raise SystemExit(f"ONNX and torch differ by {difference}")

    write_samples(directory, split.test_images[0])
    write_json(
        directory / "digits_report.json",
        {
            "sample_label": int(split.test_labels[0]),
            "test_accuracy": round(accuracy, 4),
            "test_images": len(split.test_labels),
            "parameters": sum(weight.numel() for weight in net.parameters()),
        },
    )
    print(f"test accuracy {accuracy:.4f}, ONNX differs by at most {difference:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
