"""Kind `tensors`: named arrays, and how pydantic carries arrays at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from workflows.errors import InvalidInput
from workflows.tensors import DTYPES, Array, element_kind, tensor_from_json, tensor_to_json
from workflows.types.exchange import Exchange

__all__ = ["Tensor", "Tensors", "TensorsResult", "Vector"]


class _TensorForm:
    """Lets pydantic carry a numpy array: `{"dtype", "shape", "data"}` in JSON, the array itself in Python."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda array: {**tensor_to_json(array), "data": array.ravel().tolist()}, when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "object",
            "properties": {
                "dtype": {"enum": list(DTYPES)},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "data": {"type": "array", "description": "row-major elements, flat or nested as `shape` says"},
            },
            "required": ["dtype", "shape", "data"],
            "additionalProperties": False,
        }

    @staticmethod
    def parse(value: object) -> Array:
        if isinstance(value, np.ndarray):
            kind = element_kind(value.dtype)
            if kind not in "biufOUS" or (kind == "O" and not _holds_text(value)):
                raise ValueError("an array of numbers, booleans or text is needed")
            return value
        if not isinstance(value, Mapping) or set(value) != {"dtype", "shape", "data"}:
            raise ValueError("a tensor has exactly the fields dtype, shape and data")
        try:
            return tensor_from_json("", value["dtype"], value["shape"], value["data"])
        except InvalidInput as error:
            raise ValueError(error.message.removeprefix("tensor '': ")) from error


class _VectorForm:
    """A one-dimensional array that is a plain list of numbers in JSON."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda array: array.tolist(), when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "array", "items": {"type": "number"}}

    @staticmethod
    def parse(value: object) -> Array:
        if isinstance(value, np.ndarray):
            if value.ndim != 1 or element_kind(value.dtype) not in "iuf":
                raise ValueError("a vector has one dimension, of numbers")
            return value
        if not isinstance(value, list):
            raise ValueError("a vector is a list of numbers")
        try:
            return tensor_from_json("", "float32", [len(value)], value)
        except InvalidInput as error:
            raise ValueError(error.message.removeprefix("tensor '': ")) from error


def _holds_text(array: Array) -> bool:
    return all(isinstance(item, str | bytes) for item in array.ravel().tolist())


Tensor = Annotated[Array, _TensorForm]
Vector = Annotated[Array, _VectorForm]


class Tensors(Exchange):
    """Named arrays for a tensor model.

    Attributes:
        inputs: Arrays by the model's own input names, none where it takes none. Where the model batches, the leading axis
            counts rows.
        outputs: The outputs wanted, in this order; None means all, in the model's order.
        parameters: Whatever else the model understands; a workflow refuses what it does not know.
    """

    kind: ClassVar[str] = "tensors"
    inputs: dict[str, Tensor] = Field(max_length=1024)
    outputs: list[str] | None = Field(default=None, min_length=1, max_length=1024)
    parameters: dict[str, Any] = Field(default_factory=dict)


class TensorsResult(Exchange):
    """Named arrays from a tensor model, in the order asked for."""

    kind: ClassVar[str] = "tensors"
    outputs: dict[str, Tensor]
    parameters: dict[str, Any] = Field(default_factory=dict)
