"""The demo's voice: a Bark that is made where it is needed, so that nothing has to be shipped or downloaded."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Annotated, Final

from pydantic import Field

from workflows.inference.speech.bark import BarkHFInferenceWorkflow

__all__ = ["TinyBark"]

_NAME: Final = "tiny-bark"
_BUILD: Final = "workflows.demo.tiny_bark:build"


class TinyBark(BarkHFInferenceWorkflow):
    """Makes noises, others for each text and voice and the same each time: a Bark with random weights, which knows no words.

    It is made anew at each setup, within a second.

    Args:
        threads: CPU threads of this process; None takes `resources.threads`.
    """

    def __init__(self, *, threads: Annotated[int, Field(ge=1, le=1024)] | None = None) -> None:
        super().__init__(_NAME, threads=threads)

    def check_files(self) -> None:
        """There are none before setup."""

    def do_setup(self) -> None:
        with TemporaryDirectory(prefix=f"{_NAME}-") as root:
            resolve_name(_BUILD)(Path(root) / _NAME)
            self._root = root
            super().do_setup()
