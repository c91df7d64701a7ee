"""The protocol's text, its descriptor set and the published interface say the same; and what is no message is refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from deployments.router.protocols.open_inference import grpc_proto
from deployments.router.protocols.open_inference.grpc_proto import (
    MAX_FIELDS,
    message_class,
    parsed,
    rpcs,
    split,
    tagged,
)
from deployments.router.refusals import BadMessage, TooLarge

FOLDER = files(grpc_proto.__package__)
REQUEST = message_class("ModelInferRequest")
RAW = 7
# What another publisher's text has in messages that are empty in Triton's.
KSERVES = {"RepositoryModelLoadResponse", "RepositoryModelUnloadResponse"}


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools is not installed")
def test_the_descriptor_set_is_that_of_the_text(tmp_path: Path) -> None:
    compiled = tmp_path / "compiled.binpb"
    command = ["-m", "grpc_tools.protoc", f"--proto_path={FOLDER}", f"--descriptor_set_out={compiled}"]
    subprocess.run([sys.executable, *command, "open_inference.proto"], check=True)
    committed = (FOLDER / "open_inference.binpb").read_bytes()
    assert FileDescriptorSet.FromString(compiled.read_bytes()) == FileDescriptorSet.FromString(committed)


def test_every_method_is_the_published_one() -> None:
    published = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for rpc in rpcs():
        theirs = published[rpc.name]
        assert rpc.path == f"/{theirs.containing_service.full_name}/{theirs.name}"
        assert rpc.request.DESCRIPTOR.full_name == theirs.input_type.full_name
        assert rpc.answer.DESCRIPTOR.full_name == theirs.output_type.full_name
        assert (rpc.streams, rpc.streams) == (theirs.client_streaming, theirs.server_streaming)
    absent = ("SharedMemory", "TraceSetting", "LogSettings", "ModelConfig")
    assert {name for name in published if not any(part in name for part in absent)} == {rpc.name for rpc in rpcs()}


@pytest.mark.parametrize("rpc", rpcs(), ids=lambda rpc: rpc.name)
def test_messages_have_the_published_names_and_numbers(rpc: Any) -> None:
    published = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[rpc.name]
    assert_same(rpc.request.DESCRIPTOR, published.input_type)
    assert_same(rpc.answer.DESCRIPTOR, published.output_type)


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours.full_name == theirs.full_name
    if ours.name not in KSERVES:
        assert set(ours.fields_by_name) == set(theirs.fields_by_name)
    for name, field in theirs.fields_by_name.items():
        own = ours.fields_by_name[name]
        assert (own.number, own.type, own.is_repeated) == (field.number, field.type, field.is_repeated), own.full_name
        assert getattr(own.containing_oneof, "name", "") == getattr(field.containing_oneof, "name", "")
        if field.message_type is not None:
            assert_same(own.message_type, field.message_type)


def test_a_client_with_the_same_names_lives_in_the_same_process() -> None:
    theirs = service_pb2.ModelInferRequest(model_name="m", id="1")
    ours = parsed(REQUEST, theirs.SerializeToString())
    assert (ours.model_name, ours.id) == ("m", "1")
    assert type(ours) is not type(theirs)


# ---- taken apart -----------------------------------------------------------------------------------------------------------


@given(
    before=st.lists(st.binary(max_size=300), max_size=3),
    name=st.text(max_size=200),
    after=st.lists(st.binary(max_size=300), max_size=3),
)
@settings(deadline=None)
def test_a_message_is_split_into_its_raw_tensors_and_the_rest(before: Any, name: str, after: Any) -> None:
    first, last = REQUEST(raw_input_contents=before), REQUEST(model_name=name, raw_input_contents=after)
    rest, found = split(first.SerializeToString() + last.SerializeToString(), RAW)
    assert [bytes(part) for part in found] == before + after
    assert REQUEST.FromString(rest) == REQUEST(model_name=name)


def test_raw_tensors_are_not_copied() -> None:
    data = REQUEST(raw_input_contents=[b"abc"]).SerializeToString()
    _, (part,) = split(data, RAW)
    assert part.obj is data


@given(st.binary(max_size=64))
@settings(deadline=None)
def test_noise_is_split_or_refused_as_protobuf_would(data: bytes) -> None:
    try:
        message = parsed(REQUEST, data)
    except BadMessage:
        return
    try:
        rest, found = split(data, RAW)
    except BadMessage:
        assert has_groups(data)  # which protobuf skips, and no client of this protocol sends
        return
    assert [bytes(part) for part in found] == list(message.raw_input_contents)
    message.ClearField("raw_input_contents")
    assert parsed(REQUEST, rest) == message


def has_groups(data: bytes) -> bool:
    return any(byte & 7 in (3, 4) for byte in data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a",  # no length
        b"\x3a\x05abc",  # longer than what is there
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length without end
        b"\x09abc",  # eight bytes, of which three are there
        b"\x0babc\x0c",  # a group
        b"\x08" + b"\xff" * 11,
        b"\x0f\x00",  # a kind of field that there is not
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        split(data, RAW)


def test_a_message_of_a_million_nothings_is_refused_before_it_takes_memory() -> None:
    assert len(split(b"\x2a\x00" * MAX_FIELDS, RAW)[0]) == 2 * MAX_FIELDS
    with pytest.raises(BadMessage):
        split(b"\x2a\x00" * (MAX_FIELDS + 1), RAW)


def test_protobuf_gets_no_large_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_proto, "MAX_PLAIN_BYTES", 8)
    with pytest.raises(TooLarge, match="raw tensors"):
        parsed(REQUEST, REQUEST(id="123456789").SerializeToString())


def test_parts_of_a_field_are_one_field_when_joined() -> None:
    for size in (0, 1, 127, 128, 70_000):
        joined = b"".join(tagged(RAW, [b"a" * size, b"", b"b"]))
        assert parsed(REQUEST, joined).raw_input_contents == [b"a" * size + b"b"]
