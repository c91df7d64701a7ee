"""Which files torch may be given. What a file is, by its content, says `workflows.models.content`; runs nothing."""

from __future__ import annotations

import hashlib
import hmac
import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal

from workflows.errors import InvalidInput, ModelNotFound
from workflows.models.content import RUNS_CODE, kind_of

__all__ = ["checked_pin", "read_program", "read_weights"]

_INSTEAD: Final = (
    "Save the weights with safetensors.torch.save_file(module.state_dict(), ...) and give `module` and `weights`, or "
    "export the module with torch.export.export() and torch.export.save()"
)
_PICKLE_REFUSED: Final = f"this file is a pickle: it runs code when it is loaded, and is never loaded here. {_INSTEAD}"
# What no other check recognises may still be a pickle: those of the old text protocols are told by nothing certain.
_OLD_PICKLE: Final = f"If it is a pickle, it is never loaded here. {_INSTEAD}"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def checked_pin(sha256: str | None) -> str | None:
    """The pin in lower case. Raises InvalidInput where it is no SHA-256."""
    if sha256 is None:
        return None
    pin = sha256.lower()
    if not _SHA256.fullmatch(pin):
        raise InvalidInput("sha256 must be 64 hex digits", param="sha256")
    return pin


def read_weights(path: Path, pin: str | None) -> bytes:
    """The content of a safetensors file. Raises InvalidInput for any other kind, and for one that is not the pinned."""
    content = _read(path)
    kind = kind_of(io.BytesIO(content))
    if kind == "pickle":
        raise InvalidInput(_PICKLE_REFUSED, param="weights")
    if kind != "safetensors":
        hint = f". {_OLD_PICKLE}" if kind == "other" else ""
        raise InvalidInput(f"weights must be a safetensors file{hint}", param="weights")
    _check_pin(content, pin)
    return content


def read_program(
    path: Path, pin: str | None, pinned: Collection[str] = ()
) -> tuple[Literal["torchscript", "exported"], bytes]:
    """The content of a file that runs code when it is loaded: exactly the bytes whose hash was compared.

    Args:
        pin: The one hash that the file may have; None leaves it to `pinned`.
        pinned: Hashes of all files of code that the operator trusts.

    Raises InvalidInput: it is neither TorchScript nor a torch.export program, or is not pinned, or not the pinned one.
    """
    content = _read(path)
    kind = kind_of(io.BytesIO(content))
    if kind == "pickle":
        raise InvalidInput(_PICKLE_REFUSED, param="model")
    if kind == "safetensors":
        raise InvalidInput("a safetensors file holds weights only: give it as `weights`, with `module`", param="model")
    if kind not in ("torchscript", "exported"):
        raise InvalidInput(
            f"this is neither a TorchScript file nor a torch.export program. {_OLD_PICKLE}", param="model"
        )
    if pin is None and hashlib.sha256(content).hexdigest() not in pinned:
        raise InvalidInput(
            f"{RUNS_CODE[kind]} runs code when it is loaded, so it must be pinned: if you trust where it came from, "
            "set the option sha256 to what `sha256sum FILE` prints (64 hex digits)",
            param="sha256",
        )
    _check_pin(content, pin)
    return kind, content


def _check_pin(content: bytes, pin: str | None) -> None:
    if pin is not None and not hmac.compare_digest(hashlib.sha256(content).hexdigest(), pin):
        raise InvalidInput("the file is not the pinned one: its SHA-256 differs from the option sha256", param="sha256")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ModelNotFound("the model is not a regular file")
    return path.read_bytes()
