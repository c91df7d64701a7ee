"""ONNX files that refer to others: to those beside them only, and never through a link, but for the hub's own layout."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.workflows.models.graphs import model, tensor
from tests.workflows.models.payloads import Canary
from workflows.errors import InvalidInput
from workflows.models.content import kind_of
from workflows.models.onnx_graph import check_onnx

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write(folder: Path, made: onnx.ModelProto) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def runs(path: Path) -> bool:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": np.zeros(4, np.float32)})
    return bool(np.array_equal(np.asarray(answer), np.arange(4, dtype=np.float32)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    (inside / "parts").mkdir(parents=True)
    np.arange(4, dtype=np.float32).tofile(tmp_path / "secret")
    np.arange(4, dtype=np.float32).tofile(inside / "good")
    np.arange(4, dtype=np.float32).tofile(inside / "parts" / "w")
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "inner").symlink_to("good")
    (inside / "elsewhere").symlink_to(tmp_path)
    os.link(tmp_path / "secret", inside / "hard")
    os.mkfifo(inside / "pipe")
    return inside


@pytest.mark.parametrize("location", [None, "good", "parts/w"])
def test_what_lies_in_the_models_own_directory_loads(folder: Path, location: str | None) -> None:
    path = write(folder, model(tensor(location)))
    weights = 0 if location is None else 16
    assert check_onnx(path, "m") == path.stat().st_size + weights
    assert runs(path)


@pytest.mark.parametrize(
    ("location", "more", "message"),
    [
        ("../secret", {}, "leaves"),
        ("parts/../../secret", {}, "leaves"),
        ("./good", {}, "leaves"),
        ("", {}, "leaves"),
        ("/etc/passwd", {}, "leaves"),
        ("..\\secret", {}, "no relative path"),
        ("C:/secret", {}, "no relative path"),
        ("good\0", {}, "no relative path"),
        ("*/_ORT_MEM_ADDR_/*", {"offset": "4096"}, "no relative path"),
        ("x" * 2000, {}, "no relative path"),
        ("link", {}, "link"),
        ("inner", {}, "link"),
        ("elsewhere/secret", {}, "link"),
        ("hard", {}, "no regular file of its own"),
        ("pipe", {}, "no regular file"),
        ("parts", {}, "no regular file"),
        ("absent", {}, "is not there"),
        ("good", {"offset": "4"}, ""),
        ("good", {"offset": "-4"}, "beyond"),
        ("good", {"offset": "17"}, "beyond"),
        ("good", {"length": "17"}, "beyond"),
        ("good", {"length": "-1"}, "beyond"),
        ("good", {"offset": str(1 << 63), "length": "16"}, "beyond"),
        ("good", {"offset": "four"}, "is not an ONNX model"),
    ],
)
def test_everything_else_is_refused(folder: Path, location: str, more: dict[str, str], message: str) -> None:
    path = write(folder, model(tensor(location, **more)))
    if not message:
        assert check_onnx(path, "m")
        return
    with pytest.raises(InvalidInput, match=message) as caught:
        check_onnx(path, "m")
    assert caught.value.param == "model"
    assert str(folder) not in caught.value.message


def test_tensors_are_found_wherever_they_may_stand(folder: Path) -> None:
    bad = tensor("../secret")
    helper = onnx.helper
    inner = helper.make_graph([], "inner", [], [], [bad])
    sparse = helper.make_sparse_tensor(bad, tensor(None), [4])
    hidden: list[onnx.ModelProto] = [
        model(node=helper.make_node("Constant", [], ["y"], value=bad)),
        model(node=helper.make_node("If", ["x"], ["y"], then_branch=inner)),
        model(node=helper.make_node("Odd", ["x"], ["y"], tensors=[tensor(None), bad])),
        model(node=helper.make_node("Odd", ["x"], ["y"], graphs=[inner])),
        model(node=helper.make_node("Odd", ["x"], ["y"], sparse_value=sparse)),
    ]
    function = model()
    function.functions.add(name="f", domain="d").node.append(helper.make_node("Constant", [], ["y"], value=bad))
    training = model()
    training.training_info.add().algorithm.CopyFrom(inner)
    in_graph = model()
    in_graph.graph.sparse_initializer.append(sparse)
    default = model()
    default.functions.add(name="f", domain="d").attribute_proto.append(helper.make_attribute("a", bad))
    for made in (*hidden, function, training, in_graph, default):
        with pytest.raises(InvalidInput, match="leaves"):
            check_onnx(write(folder, made), "m")


def test_the_layout_of_the_hubs_cache_loads_and_what_only_looks_like_it_does_not(tmp_path: Path) -> None:
    repo = tmp_path / "models--acme--digits"
    snapshot = repo / "snapshots" / COMMIT / "onnx"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "aa").write_bytes(model(tensor("model.onnx_data")).SerializeToString())
    np.arange(4, dtype=np.float32).tofile(repo / "blobs" / "bb")
    (snapshot / "model.onnx").symlink_to("../../../blobs/aa")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/bb")
    assert check_onnx(snapshot / "model.onnx", "m") == (repo / "blobs" / "aa").stat().st_size + 16
    assert runs(snapshot / "model.onnx")

    # Only files are links there.
    (snapshot.parent / "more").mkdir()
    (snapshot.parent / "more" / "data").symlink_to("../../../blobs/bb")
    (snapshot / "linked").symlink_to("../more")
    (repo / "blobs" / "dd").write_bytes(model(tensor("linked/data")).SerializeToString())
    (snapshot / "linked.onnx").symlink_to("../../../blobs/dd")
    with pytest.raises(InvalidInput, match="link"):
        check_onnx(snapshot / "linked.onnx", "m")

    other = tmp_path / "models--acme--secret" / "blobs"
    other.mkdir(parents=True)
    np.arange(4, dtype=np.float32).tofile(other / "cc")
    (snapshot / "model.onnx_data").unlink()
    (snapshot / "model.onnx_data").symlink_to(other / "cc")
    with pytest.raises(InvalidInput, match="link"):
        check_onnx(snapshot / "model.onnx", "m")


def part(number: int, content: bytes) -> bytes:
    """A field of a message that is a message itself."""
    size, length = len(content), b""
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_fields_may_come_in_any_order(folder: Path) -> None:
    made = model(tensor("../secret"))
    graph = made.graph.SerializeToString()
    made.ClearField("graph")
    path = folder / "model.onnx"
    path.write_bytes(part(7, graph) + made.SerializeToString())
    with pytest.raises(InvalidInput, match="leaves"):
        check_onnx(path, "m")
    path.write_bytes(made.SerializeToString())
    with pytest.raises(InvalidInput, match="not an ONNX model"):
        check_onnx(path, "m")


def test_no_two_readers_see_two_locations(folder: Path) -> None:
    """What is read here and what onnxruntime's protobuf reads is the same, or the file is refused."""
    secret = part(1, b"location") + part(2, b"../secret")
    long_tag = b"\x92\x80\x80\x80\x10"  # of the field 2, and bits that do not fit into a tag
    good = part(1, b"location") + part(2, b"good")
    hidden = [
        part(13, secret + b"\x11somewhat"),  # the field 2 once more, but as eight bytes that are no text
        part(13, secret + b"\x10g"),  # and as a number
        part(13, good + long_tag + b"\x09../secret"),
        part(13, good) + part(13, secret),
        part(13, secret) + part(13, good),
    ]
    made = model(tensor("good"))
    weight, graph = made.graph.initializer[0], made.graph
    weight.ClearField("external_data")
    inside = weight.SerializeToString()
    graph.ClearField("initializer")
    operators = graph.SerializeToString()
    made.ClearField("graph")
    path = folder / "model.onnx"
    for entries in hidden:
        path.write_bytes(made.SerializeToString() + part(7, operators + part(5, inside + entries)))
        with pytest.raises(InvalidInput, match=r"leaves|is not an ONNX model"):
            check_onnx(path, "m")
    path.write_bytes(made.SerializeToString() + part(7, operators + part(5, inside + part(13, good))))
    assert runs(path)


def test_what_begins_like_a_flatbuffer_is_read_as_onnxruntime_reads_it(folder: Path) -> None:
    made = model(tensor("../secret")).SerializeToString()
    path = folder / "model.onnx"
    path.write_bytes(part(2, b"xxORTM") + made)  # a producer's name
    assert kind_of(io.BytesIO(path.read_bytes())) == "ort"
    with pytest.raises(InvalidInput, match="leaves"):
        check_onnx(path, "m")
    flat = path.rename(folder / "model.ort")
    assert check_onnx(flat, "m") == flat.stat().st_size
    with pytest.raises(Exception, match="ORT model verification failed"):
        runs(flat)


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.onnx"
    whole = model(tensor(None)).SerializeToString()
    deep = b""
    for _ in range(200):  # graphs in attributes of nodes of graphs
        deep = part(1, part(5, part(6, deep)))
    contents: list[tuple[Any, str]] = [
        (pickle.dumps(Canary(canary)), "a pickle, which is never loaded"),
        (b"", "is not an ONNX model"),
        (b"hello", "is not an ONNX model"),
        (whole[:-3], "is not an ONNX model"),
        (b"\x08\x0a\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "is not an ONNX model"),
        (b"\x08\x0a" + part(7, deep), "is not an ONNX model"),
    ]
    for content, message in contents:
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=message):
            check_onnx(path, "m")
    assert not canary.exists()
