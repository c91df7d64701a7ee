"""What a file is, by its content: every kind that runs code is known, whatever it is called, and none is ever run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
import safetensors.numpy
import torch

from tests.workflows.models.payloads import PAYLOADS, Canary
from workflows.models.content import RUNS_CODE, kind_of


def kind(content: bytes) -> str:
    return kind_of(io.BytesIO(content))


@pytest.mark.parametrize(("expected", "make"), [pytest.param(k, make, id=name) for name, k, make in PAYLOADS])
def test_what_runs_code_is_told_and_not_run(tmp_path: Path, expected: str, make: Callable[[Canary], bytes]) -> None:
    canary = tmp_path / "canary"
    assert kind(make(Canary(canary))) == expected
    assert expected in RUNS_CODE
    assert not canary.exists()


def test_what_torch_itself_writes(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    torch.save(module, tmp_path / "new")
    torch.save(module, tmp_path / "old", _use_new_zipfile_serialization=False)
    program = torch.export.export(module, (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "exported")
    found = {path.name: kind(path.read_bytes()) for path in tmp_path.iterdir()}
    assert found == {"new": "pickle", "old": "pickle", "exported": "exported"}


def test_what_is_safe() -> None:
    graph = '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) { y = Identity(x) }'
    array, several = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    np.savez(several, a=np.zeros(3), b=np.zeros((2, 2), np.int8))
    expected: dict[str, bytes] = {
        "onnx": onnx.parser.parse_model(graph).SerializeToString(),
        "safetensors": safetensors.numpy.save({"x": np.zeros(3)}),
        "numpy": array.getvalue(),
        "ort": b"\x10\0\0\0ORTM" + bytes(20),
        "other": b"",
    }
    assert {name: kind(content) for name, content in expected.items()} == {name: name for name in expected}
    assert kind(several.getvalue()) == "numpy"


@pytest.mark.parametrize(
    "text",
    [
        b'{"model_type": "bert"}',
        b"cat\ndog\nRabbit\n",
        b"c\nd\nR.",  # GLOBAL, REDUCE, STOP: nobody's vocabulary, and worth refusing
        "import os\n\u00e4".encode(),
        b"#version: 0.2\nh e\n",
        bytes(1000),
    ],
)
def test_texts_are_not_taken_for_pickles_unless_they_read_as_one(text: bytes) -> None:
    assert kind(text) == ("pickle" if text == b"c\nd\nR." else "other")


def test_a_long_pickle_of_text_is_told_by_its_beginning(tmp_path: Path) -> None:
    content = pickle.dumps([Canary(tmp_path / "canary"), *range(100_000)], protocol=0)
    assert kind(content) == "pickle"


def test_zips_that_are_odd_are_archives() -> None:
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        archive.writestr("a.npy", b"no array")
    odd: list[Any] = [many.getvalue(), b"PK\x03\x04broken", many.getvalue()[:-10], b"PK\x05\x06" + bytes(18)]
    assert [kind(content) for content in odd] == ["objects", "archive", "archive", "archive"]
