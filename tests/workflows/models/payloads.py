"""Files that leave a canary behind if anything ever loads them: one of every kind that runs code."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["PAYLOADS", "Canary", "exported_program", "torchscript"]


class Canary:
    """A pickle of it touches a file when it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


def _npy(canary: Canary) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([canary], dtype=object), allow_pickle=True)
    return content.getvalue()


def _npz(canary: Canary) -> bytes:
    content = io.BytesIO()
    np.savez(content, fine=np.zeros(3), bad=np.array([canary], dtype=object), allow_pickle=True)
    return content.getvalue()


def _zip(names: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in names.items():
            archive.writestr(name, member)
    return content.getvalue()


def torchscript(canary: Canary) -> bytes:
    return _zip({"m/constants.pkl": pickle.dumps(canary), "m/data.pkl": pickle.dumps(canary), "m/version": b"3"})


def exported_program(canary: Canary) -> bytes:
    return _zip({"m/archive_format": b"pt2", "m/data/constants/c": pickle.dumps(canary), "m/models/model.json": b"{}"})


def _tar(canary: Canary) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        member = tarfile.TarInfo("weights.pkl")
        member.size = len(pickle.dumps(canary))
        archive.addfile(member, io.BytesIO(pickle.dumps(canary)))
    return content.getvalue()


# How it is called, what kind it is, and how it is made.
PAYLOADS: list[tuple[str, str, Callable[[Canary], bytes]]] = [
    *((f"pickle-{protocol}", "pickle", lambda canary, p=protocol: pickle.dumps(canary, p)) for protocol in range(6)),
    ("torch-save", "pickle", lambda canary: _zip({"m/data.pkl": pickle.dumps(canary), "m/version": b"3"})),
    ("torchscript", "torchscript", torchscript),
    ("pt2", "exported", exported_program),
    ("npy", "objects", _npy),
    ("npz", "objects", _npz),
    ("keras-zip", "archive", lambda canary: _zip({"config.json": b"{}", "model.weights.h5": b"x"})),
    ("nemo-tar", "archive", _tar),
    ("hdf5", "hdf5", lambda canary: b"\x89HDF\r\n\x1a\n" + pickle.dumps(canary)),
]
