"""How sounds and pictures travel: as bytes in Python, as base64 in JSON. Knows formats by their first bytes only."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

__all__ = ["MAX_MEDIA_BYTES", "Media", "base64_chars", "file_bytes", "media_type"]

MAX_MEDIA_BYTES: Final = 64 << 20
# The first bytes of a file, then the place and the bytes that tell one container's contents apart, then what it is.
_FORMATS: Final = (
    (b"\x89PNG\r\n\x1a\n", 0, b"", "image/png"),
    (b"\xff\xd8\xff", 0, b"", "image/jpeg"),
    (b"GIF8", 0, b"", "image/gif"),
    (b"RIFF", 8, b"WEBP", "image/webp"),
    (b"RIFF", 8, b"WAVE", "audio/wav"),
    (b"BM", 0, b"", "image/bmp"),
    (b"II*\x00", 0, b"", "image/tiff"),
    (b"MM\x00*", 0, b"", "image/tiff"),
    (b"fLaC", 0, b"", "audio/flac"),
    (b"OggS", 0, b"", "audio/ogg"),
    (b"ID3", 0, b"", "audio/mpeg"),
    (b"\xff\xfb", 0, b"", "audio/mpeg"),
    (b"\xff\xf3", 0, b"", "audio/mpeg"),
    (b"\x1aE\xdf\xa3", 0, b"", "audio/webm"),
    (b"", 4, b"ftypM4A", "audio/mp4"),
)


def base64_chars(size: int) -> int:
    """How many characters of base64 hold so many bytes."""
    return (size + 2) // 3 * 4


def file_bytes(value: object, at_most: int) -> bytes:
    """A file's bytes, or what its base64 says. Raises ValueError where there are none or more than `at_most`."""
    if isinstance(value, str):
        if len(value) > base64_chars(at_most):
            raise ValueError(f"longer than a file may be: at most {at_most} bytes")
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            value = None
    if not isinstance(value, bytes) or not value:
        raise ValueError("the bytes of a file are needed, in JSON as base64")
    if len(value) > at_most:
        raise ValueError(f"longer than a file may be: at most {at_most} bytes")
    return value


class _MediaForm:
    """Lets pydantic carry a file's bytes: those in Python; text is base64, which is also how they are written down."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            # In the plain form as well: bytes in JSON are text there.
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda data: base64.b64encode(data).decode("ascii")
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "string",
            "contentEncoding": "base64",
            "minLength": 4,
            "maxLength": base64_chars(MAX_MEDIA_BYTES),
        }

    @staticmethod
    def parse(value: object) -> bytes:
        return file_bytes(value, MAX_MEDIA_BYTES)


Media = Annotated[bytes, _MediaForm]


def media_type(data: bytes) -> str | None:
    """What kind of file this is, as HTTP calls it, by its first bytes; None where they say nothing."""
    for begins, place, then, name in _FORMATS:
        if data.startswith(begins) and data.startswith(then, place):
            return name
    return None
