"""Inputs from which fuzzing starts, and which every target has to bear: requests that are right, and once-found oddities."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from deployments.router.protocols.open_inference.grpc_proto import message_class
from tests.fuzz import chat_targets, grpc_targets, http_targets, openai_targets, tgi_targets

__all__ = ["SEEDS", "TARGETS"]

Target = Callable[[bytes], None]

TARGETS: Final[Mapping[str, Target]] = {
    target.__name__: target
    for target in (
        http_targets.any_tensor,
        http_targets.any_body,
        http_targets.nearly_right_body,
        grpc_targets.any_message,
        grpc_targets.any_split,
        grpc_targets.nearly_right_message,
        tgi_targets.any_tgi_request,
        tgi_targets.nearly_right_tgi_request,
        tgi_targets.any_tgi_answer,
        tgi_targets.told_tgi_stream,
        openai_targets.any_openai_body,
        openai_targets.nearly_right_openai_body,
        chat_targets.asked_chat,
    )
}

_ALL_JSON: Final = b"\xff"


def _json(*inputs: Any, **more: Any) -> bytes:
    return _ALL_JSON + json.dumps({"inputs": inputs, **more}).encode()


def _binary(tail: bytes, *inputs: Any, **more: Any) -> bytes:
    """The length of the JSON is one byte here, of which every step is a whole one in bodies of less than 508 bytes."""
    head = json.dumps({"inputs": inputs, **more}).encode()
    return bytes([len(head)]) + head + tail


def _tensor(datatype: str, shape: Any, name: str = "x", **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def _sized(datatype: str, shape: Any, size: Any, name: str = "x") -> dict[str, Any]:
    return _tensor(datatype, shape, name, parameters={"binary_data_size": size})


def _message(datatype: str, shape: list[int], raw: bytes | None = None, **contents: Any) -> bytes:
    request = message_class("ModelInferRequest")(model_name="m")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return bytes(request.SerializeToString())


_BODIES: Final = [
    _json(_tensor("FP32", [1, 2], data=[0.1, -0.0])),
    _json(_tensor("INT64", [2, 1], data=[[1], [-9223372036854775808]]), id="a", outputs=[{"name": "x"}]),
    _json(_tensor("UINT64", [1], data=[18446744073709551615]), parameters={"timeout": 5, "own": None}),
    _json(_tensor("BYTES", [2], data=["\u0000", "é"]), _tensor("BOOL", [], "y", data=[True])),
    _json(_tensor("FP16", [1], data=[65519.99]), _tensor("FP64", [0, 3], "y", data=[])),
    _json(_tensor("INT64", [1], data=[1 << 70])),
    _json(_tensor("FP32", [1 << 40], data=[1])),
    _json(_tensor("FP32", [0, 1 << 40], data=[])),
    _json(_tensor("BF16", [1], data=[1])),
    _ALL_JSON + b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}',
    _ALL_JSON + b'{"inputs":[{"name":"\\ud800","datatype":"FP32","shape":[1],"data":[1]}]}',
    _ALL_JSON + b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"inputs":[]}',
    _ALL_JSON + b"[" * 40,
    _ALL_JSON + b"[" + b"[]," * 2100 + b"0]",
    _ALL_JSON,
    _binary(b"\x00\x00\xc0\x7f", _sized("FP32", [1], 4), parameters={"binary_data_output": True}),
    _binary(b"\x01\x00\x80\x7f", _sized("FP32", [1], 4)),
    _binary(b"\x80\x7f", _sized("BF16", [1], 2)),
    _binary(b"\x01\0\0\0\xff", _sized("BYTES", [1], 5)),
    _binary(b"\xff\xff\xff\xff", _sized("BYTES", [1], 4)),
    _binary(b"", _sized("BYTES", [0, 5], 0), _sized("INT8", [3, 0], 0, "y")),
    _binary(b"ab", _sized("INT8", [1], 1), _sized("INT8", [], 1, "y")),
    _binary(b"\x02", _sized("BOOL", [1], 1)),
    _binary(b"a", _sized("INT8", [1], -1)),
    _binary(b"a", _sized("INT8", [1], 1 << 70)),
]
_MESSAGES: Final = [
    _message("FP32", [1], b"\x01\x00\x80\x7f"),
    _message("BF16", [2, 1], b"abcd"),
    _message("BYTES", [2], b"\x01\0\0\0\xff\0\0\0\0"),
    _message("BYTES", [1], bytes_contents=[b"\xc3\xa4"]),
    _message("BOOL", [], bool_contents=[True]),
    _message("INT8", [1], int_contents=[128]),
    _message("UINT64", [1], uint64_contents=[(1 << 64) - 1]),
    _message("FP64", [1], fp64_contents=[float("nan")]),
    _message("FP16", [1], fp32_contents=[1.0]),
    _message("INT32", [1 << 62], b""),
    b"\x2a\x00" * 2000,  # inputs without anything in them
    b"\x3a\xff\xff\xff\xff\x7f",  # a raw tensor that is longer than what is there
    b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\x0b\x0c",  # a group
    _message("INT8", [100], bytes(100))
    + b"\xa1\x06abcdefgh\xa5\x06abcd\xa0\x06\x80\x01",  # and fields that nobody knows
]
_CHOICE: Final = {"type": "function", "function": {"name": "f"}}
_TOOL: Final = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
_PICTURE: Final = {
    "role": "user",
    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVq", "detail": "low"}}],
}
_CALL: Final = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_CALLED: Final = [
    {"role": "assistant", "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "a"},
]
_FORM: Final = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [None]}, "strict": True}}
_REQUESTS: Final = [
    b'\0{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"logprobs":true,"n":2}',
    b'\0{"model":"m","messages":[{"role":"user","content":"a"}],"logit_bias":{"5":1,"x":2}}',
    b'\0{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[1]}]}',
    b'\1{"model":"m","prompt":[[1,2],[3]],"stop":"x","seed":-9223372036854775808,"top_p":0}',
    b'\1{"model":"m","prompt":["a","b"],"n":8,"echo":true}',
    b'\1{"model":"m","prompt":[' + b"1," * 1000 + b"-1]}",
    b'\2{"model":"m","input":["a",1],"encoding_format":"base64","dimensions":8}',
    b'\2{"model":"m","input":[1.5]}',
    b'\2{"model":"m","input":{"a":"a"}}',
    b'\2{"input":"\\ud800"}',
    b'\3{"model":"m","input":"a","voice":{"id":"../../x"},"response_format":"pcm","speed":0.25}',
    b'\3{"model":"m","input":"a","voice":["a"],"response_format":"aac","sample_rate":1}',
    b"\0" + json.dumps({"model": "m", "messages": [_PICTURE], "tools": [_TOOL], "tool_choice": _CHOICE}).encode(),
    b"\0" + json.dumps({"model": "m", "messages": _CALLED, "response_format": _FORM}).encode(),
    b'\0{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[],"tool_choice":"any"}',
    b'\0{"tools":' + b"[" * 15 + b"]" * 15 + b"}",
    b"\0[]",
]
SEEDS: Final[Mapping[str, list[bytes]]] = {
    "any_tensor": [
        b"",
        bytes([9, 1, 1]) + bytes(4),
        bytes([13, 1, 2]) + b"\x01\0\0\0a\xff\xff\xff\xff",
        bytes([0, 1, 1, 2]),
        bytes([12, 2, 0, 7]),
        bytes([1, 2, 5, 5, 7]),
    ],
    "any_body": _BODIES,
    "nearly_right_body": [bytes(32), bytes(range(256)), bytes([3, 2] * 60)],
    "any_message": [bytes([stream]) + message for message in _MESSAGES for stream in (0, 1)],
    "any_split": _MESSAGES,
    "nearly_right_message": [bytes(32), bytes(range(256)), bytes([3, 2] * 60)],
    "any_tgi_request": [
        b'{"inputs": "a"}',
        b'{"inputs": "a", "parameters": {"max_new_tokens": null, "stop": ["."], "top_p": 0.5, "details": true}}',
        b'{"inputs": "a", "parameters": {"seed": 9223372036854775808, "temperature": 1e-400}, "stream": true}',
        b'{"inputs": "\\ud800"}',
        b"[" * 40,
    ],
    "nearly_right_tgi_request": [bytes(32), bytes(range(256)), bytes([3, 2] * 60)],
    "any_tgi_answer": [
        b'\1\2{"text": "a", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "tokens": []}',
        b'\0\0{"text": "a", "tokens": [{"id": 1, "text": "a", "logprob": -1, "special": false, "top": [{}]}]}',
        b'\0\0{"text": "", "finish_reason": 1, "usage": {"prompt_tokens": "a", "completion_tokens": 1}}',
        b"\1\1[1]",
    ],
    "told_tgi_stream": [bytes(32), bytes(range(256)), bytes([1, 3, 3, 2, 0, 1, 2, 1, 1] * 20)],
    "any_openai_body": _REQUESTS,
    "nearly_right_openai_body": [bytes(32), bytes(range(256)), bytes([3, 2] * 60)],
    "asked_chat": [bytes(32), bytes(range(256)), bytes([3, 2] * 60), bytes([1, 0, 3, 2, 1] * 40)],
}
