"""Requests written as shell commands and as Python. Whatever a model's card brings along is quoted here, and ASCII."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, Literal

from deployments.router.openapi.parts import Json

__all__ = ["Filled", "Place", "Transport", "curl", "curl_filled", "triton"]

Transport = Literal["http", "grpc"]
KEY: Final = "INFERNET_API_KEY"
_NO_DATA: Final = '"data": []'
_DATA: Final = '"data": ['
_TRITON: Final = """\
# pip install numpy "tritonclient[{transport}]"
{imports}{more}import numpy as np
import tritonclient.{transport} as triton
from tritonclient.utils import np_to_triton_dtype

arrays = {{
{arrays}}}
inputs = []
for name, array in arrays.items():
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    inputs.append(tensor)

with triton.InferenceServerClient({address}) as client:
    result = client.infer({call})
for output in {outputs}:
    print({name}, result.as_numpy({name}))"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the reader reaches us: `host:port` of HTTP and, where it is known, of gRPC; and whether a key is needed."""

    http: str
    grpc: str | None
    grpc_tls: bool
    keyed: bool


@dataclass(frozen=True, slots=True)
class Filled:
    """A tensor that has one value everywhere."""

    name: str
    datatype: str
    dtype: str
    shape: list[int]
    value: bool | int | float | str

    def as_json(self, *, whole: bool = False) -> Json:
        """As the protocol has it, `whole` with its elements."""
        data = [self.value] * prod(self.shape) if whole else []
        return {"name": self.name, "datatype": self.datatype, "shape": self.shape, "data": data}

    def as_native(self) -> Json:
        return {"dtype": self.dtype, "shape": self.shape, "data": [self.value] * prod(self.shape)}

    def as_numpy(self) -> str:
        """In Python."""
        dtype = {"string": "np.object_", "bool": "np.bool_", "bfloat16": "ml_dtypes.bfloat16"}.get(self.dtype)
        value = _python(self.value) if isinstance(self.value, str) else repr(self.value)
        return f"np.full({tuple(self.shape)}, {value}, dtype={dtype or f'np.{self.dtype}'})"


def curl(place: Place, path: str, body: Any, *, streamed: bool = False) -> str:
    """One command with its body in it."""
    return " \\\n  ".join([*_curl(place, path, streamed=streamed), f"-d '{_json(body)}'"])


def curl_filled(place: Place, path: str, body: Json, tensors: Sequence[Filled]) -> str:
    """The same with large tensors, which the shell makes. `body` has them in this order, without elements."""
    # A string in JSON has no bare quotes, so this is found where it was put and nowhere else.
    first, *pieces = _json(body).split(_NO_DATA)
    lines = ["{", f"  printf '%s' '{first}{_DATA}'"]
    for tensor, piece in zip(tensors, pieces, strict=True):
        end = "" if tensor is tensors[-1] else _DATA
        lines.append(f"  yes '{_json(tensor.value)}' | head -n {prod(tensor.shape)} | paste -sd , -")
        lines.append(f"  printf '%s' ']{piece}{end}'")
    return "\n".join([*lines, "} | " + " \\\n  ".join([*_curl(place, path), "--data-binary @-"])])


def triton(place: Place, transport: Transport, model: str, version: str, tensors: Sequence[Filled], said: Json) -> str:
    """A program on Triton's client. `said`: the request's parameters."""
    arrays = "".join(f"    {_python(tensor.name)}: {tensor.as_numpy()},\n" for tensor in tensors)
    options = [f"model_version={_python(version)}"] if version else []
    if said:
        options.append(f"parameters={said!r}")
    if place.keyed:
        options.append(f'headers={{"x-api-key": os.environ["{KEY}"]}}')
    address = _python(place.http if transport == "http" else place.grpc or "")
    if transport == "grpc" and place.grpc_tls:
        address += ", ssl=True"
    return _TRITON.format(
        transport=transport,
        imports="import os\n\n" if place.keyed else "",
        more="import ml_dtypes\n" if any(tensor.dtype == "bfloat16" for tensor in tensors) else "",
        arrays=arrays,
        address=address,
        call=", ".join([_python(model), "inputs", *options]),
        outputs='result.get_response()["outputs"]' if transport == "http" else "result.get_response().outputs",
        name='output["name"]' if transport == "http" else "output.name",
    )


def _curl(place: Place, path: str, *, streamed: bool = False) -> list[str]:
    key = [f'-H "x-api-key: ${KEY}"'] if place.keyed else []
    options = "-sSN" if streamed else "-sS"
    return [f"curl {options} 'http://{place.http}{path}'", "-H 'content-type: application/json'", *key]


def _json(value: Any) -> str:
    """In ASCII, on one line, without the quotes that end a word in a shell."""
    return json.dumps(value).replace("'", "\\u0027")


def _python(text: str) -> str:
    """A literal in ASCII."""
    return json.dumps(text) if text.isascii() else ascii(text)
