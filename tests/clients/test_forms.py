"""The same request in every form: the same bits in the answer, and the same kind of error for what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from deployments.router.protocols.open_inference.datatypes import DATATYPES, ONLY_BINARY
from tests.clients.forms import FORMS, Refused, Said, said_of
from tests.clients.system import System
from tests.clients.tensors import ON_A_SERVER, named_tensors, same_bits
from workflows import types

JSON_FORMS = ("native", "json")
RAW_FORMS = ("binary", "grpc_raw")
EVERY_FORM = (*JSON_FORMS, *RAW_FORMS, "grpc_contents")
OPEN_INFERENCE = ("json", *RAW_FORMS, "grpc_contents")
IMAGE = np.random.default_rng(2).random((1, 64), np.float32)
GOOD = said_of("image", IMAGE)


def test_every_form_is_named() -> None:
    assert set(EVERY_FORM) == set(FORMS)


# ---- the same answers ------------------------------------------------------------------------------------------------------


@ON_A_SERVER
@given(arrays=named_tensors(tuple(sorted(DATATYPES.keys() - ONLY_BINARY)), finite=True))
def test_tensors_come_back_in_every_form(system: System, arrays: dict[str, Any]) -> None:
    for name, form in FORMS.items():
        if name == "grpc_contents" and any(array.dtype == np.float16 for array in arrays.values()):
            continue  # for which contents have no field
        answer = form(system, "identity", [said_of(name, array) for name, array in arrays.items()])
        assert list(answer) == list(arrays)
        assert all(same_bits(answer[name], array) for name, array in arrays.items())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1, 7])
def test_a_model_gives_the_same_bits_in_every_form(system: System, form: str, rows: int) -> None:
    images = np.random.default_rng(rows).random((rows, 64), np.float32)
    alone = system.direct("digits-onnx", types.Tensors(inputs={"image": images}))
    answer = FORMS[form](system, "digits-onnx", [said_of("image", images)], outputs=["logits"])
    assert same_bits(answer["logits"], alone.outputs["logits"])


@pytest.mark.parametrize("form", [form for form in FORMS if form != "native"])
def test_a_text_has_the_same_embedding_in_every_form(system: System, form: str) -> None:
    text = "Where the same words come in other clothes."
    told = system.caller.post("/v1/workflows/text-embedding/inference", json={"text": text}).json()
    answer = FORMS[form](system, "text-embedding", [said_of("text", np.array([text], object))])
    assert same_bits(answer["embedding"], np.array([told["embedding"]], np.float32))
    assert answer["tokens"].tolist() == [told["tokens"]]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "native"])
def test_a_text_goes_on_the_same_in_every_form(system: System, form: str) -> None:
    sampling = {"max_tokens": 6, "temperature": 0}
    body = {"prompt": "The for statement", "sampling": sampling}
    told = system.caller.post("/v1/workflows/tiny-gpt/inference", json=body).json()
    prompt = said_of("text_input", np.array(["The for statement"], object))
    answer = FORMS[form](system, "tiny-gpt", [prompt], parameters=sampling)
    text = answer["text_output"].item()
    assert (text if isinstance(text, str) else text.decode()) == told["text"]
    assert answer["completion_tokens"].tolist() == [told["usage"]["completion_tokens"]]


# ---- the same errors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """A request that is wrong, in the forms that can say it.

    Attributes:
        names: What the message has to name.
    """

    what: str
    tensors: Sequence[Said]
    names: str = "image"
    model: str = "digits-onnx"
    outputs: Sequence[str] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    forms: Sequence[str] = EVERY_FORM


def elements(datatype: str, *data: Any) -> list[Said]:
    return [Said("x", datatype, [len(data)], list(data))]


BAD = [
    Bad("no inputs", [], "inputs"),
    Bad("another input", [replace(GOOD, name="picture")], "picture"),
    Bad("one input too many", [GOOD, replace(GOOD, name="more")], "more"),
    Bad("an input twice", [GOOD, GOOD], forms=OPEN_INFERENCE),  # a JSON object has a name once
    Bad("an output that is not there", [GOOD], "scores", outputs=["scores"]),
    Bad("another dtype", [said_of("image", IMAGE.astype(np.float64))]),
    *(Bad(f"datatype {odd!r}", [replace(GOOD, datatype=odd)]) for odd in ("FP33", "fp32", "")),
    Bad("BF16 in JSON", [replace(GOOD, datatype="BF16")], forms=("json",)),
    Bad("another rank", [replace(GOOD, shape=[64])]),
    Bad("another width", [said_of("image", IMAGE[:, 1:])]),
    Bad("a rank that no array has", [replace(GOOD, shape=[1] * 65)]),
    Bad("a negative dimension", [replace(GOOD, shape=[-1, 64])]),
    Bad("a shape that is larger than its data", [replace(GOOD, shape=[2, 64])]),
    Bad("a shape that is larger than memory", [replace(GOOD, shape=[10**12])]),
    Bad("a shape whose size overflows", [replace(GOOD, shape=[2**32, 2**32])]),
    Bad("a shape that is huge and empty", [replace(GOOD, shape=[0, 2**40], data=[], raw=b"")]),
    Bad("no data", [replace(GOOD, data=[], raw=b"")]),
    Bad("data left over", [replace(GOOD, data=[*GOOD.data, 1.0], raw=(GOOD.raw or b"") + bytes(4))]),
    Bad("bytes that are no whole elements", [replace(GOOD, raw=(GOOD.raw or b"")[:-1])], forms=RAW_FORMS),
    Bad("a shape that is none", [replace(GOOD, shape="1,64")], forms=("native", "json", "binary")),
    Bad("a dimension that is none", [replace(GOOD, shape=[1, 64.0])], forms=("native", "json", "binary")),
    Bad("ragged rows", [Said("x", "INT8", [2, 2], [[1, 2], [3]])], "x", "identity", forms=JSON_FORMS),
    Bad("nested too deep", [Said("x", "INT8", [2], [[1], [2]])], "x", "identity", forms=JSON_FORMS),
    Bad("nested and flat", [Said("x", "INT8", [2, 1], [[1], 2])], "x", "identity", forms=JSON_FORMS),
    *(
        Bad(f"{wrong!r} as {datatype}", elements(datatype, wrong), "x", "identity", forms=JSON_FORMS)
        for datatype, wrong in (
            ("INT64", 1.9),
            ("INT64", 1.0),
            ("INT64", True),
            ("INT64", 2**63),
            ("UINT8", 300),
            ("UINT8", -1),
            ("BOOL", "False"),
            ("BOOL", 0),
            ("FP32", "1.5"),
            ("FP32", 1e300),
            ("FP16", 65520.0),
            ("FP64", None),
            ("BYTES", 5),
            ("BYTES", None),
        )
    ),
    *(
        Bad(f"{wrong} as {datatype}", elements(datatype, wrong), "x", "identity", forms=["grpc_contents"])
        for datatype, wrong in (("UINT8", 300), ("INT8", -129), ("INT16", 1 << 15), ("UINT16", 1 << 16), ("FP16", 1.0))
    ),
    Bad("a boolean that is two", [Said("x", "BOOL", [2], raw=b"\x01\x02")], "x", "identity", forms=RAW_FORMS),
    *(
        Bad(f"texts whose lengths are wrong: {raw!r}", [Said("x", "BYTES", [2], raw=raw)], "x", "identity", forms=RAW_FORMS)
        for raw in (b"", bytes(4), bytes(9), b"\xff\xff\xff\xffabcd", b"\x05\0\0\0abcd", b"\x01\0\0\0a\x01\0\0\0")
    ),
    *(
        Bad(f"the parameter {name}", [GOOD], name, parameters={name: value})
        for name, value in (("sequence_id", 5), ("priority", 1), ("shared_memory_region", "a"), ("unheard", True))
    ),
    *(
        Bad(f"a timeout of {odd!r}", [GOOD], "timeout", parameters={"timeout": odd}, forms=OPEN_INFERENCE)
        for odd in (0, -1, "1")
    ),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.what)
def test_what_is_wrong_is_the_same_error_in_every_form(system: System, bad: Bad) -> None:
    for name in bad.forms:
        with pytest.raises(Refused) as caught:
            FORMS[name](system, bad.model, bad.tensors, bad.outputs, bad.parameters)
        assert caught.value.code == "invalid", name
        assert bad.names in caught.value.message, name
        answer = FORMS[name](system, "digits-onnx", [GOOD])
        alone = system.direct("digits-onnx", types.Tensors(inputs={"image": IMAGE}))
        assert same_bits(answer["logits"], alone.outputs["logits"]), name


@pytest.mark.parametrize("form", FORMS)
def test_another_model_is_none_in_every_form(system: System, form: str) -> None:
    with pytest.raises(Refused, match="no_model: model not found"):
        FORMS[form](system, "nowhere", [GOOD])
