"""Keys of upstreams: settings say where one stands, the replica that needs it reads it, and nothing shows it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workflows.errors import WorkflowError
from workflows.remote.clock import SYSTEM_CLOCK, Clock

__all__ = ["READ_AGAIN_S", "Secret", "SecretRef"]

log = logging.getLogger(__name__)

MAX_CHARS: Final = 8192
READ_AGAIN_S: Final = 5.0  # a small local file: what reading costs is not seen beside a request
# What a header's value may hold: a line break would begin another header.
_PRINTABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class Secret:
    """A key. Shown, formatted or compared it gives nothing away, and it cannot be pickled or copied into a message.

    Args:
        again: Reads the key once more, where it may be replaced while this is in use.
    """

    __slots__ = ("__again", "__clock", "__read", "__value")

    def __init__(self, value: str, again: Callable[[], str] | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.__value = value
        self.__again = again
        self.__clock = clock
        self.__read = clock.now()

    def reveal(self) -> str:
        """The key as it is now, for the request that carries it and for nothing else.

        One that cannot be read any more stays what it was: files are replaced in more than one step.
        """
        if self.__again is not None and self.__clock.now() - self.__read >= READ_AGAIN_S:
            self.__read = self.__clock.now()
            try:
                self.__value = self.__again()
            except WorkflowError as error:
                log.warning("the key from before is used: %s", error)
        return self.__value

    def __repr__(self) -> str:
        return "Secret('**********')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret stays in the process that read it")


class SecretRef(BaseModel):
    """Where a key stands: in a variable of the replica's environment, or in a file on its machine. Not the key.

    Attributes:
        env: Name of the variable.
        file: Path of the file, which holds the key alone; space around it is cut off.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = None
    file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("give either env or file: where the key stands")
        return self

    def read(self, clock: Clock = SYSTEM_CLOCK) -> Secret:
        """Raises WorkflowError, for the operator, where there is no key that could be sent.

        A file is read again every few seconds, so that a key can be replaced while it is in use.
        """
        return Secret(self._value(), None if self.file is None else self._value, clock)

    def _value(self) -> str:
        place = f"the variable {self.env}" if self.env is not None else f"the file {self.file}"
        text = os.environ.get(self.env, "") if self.env is not None else _content(str(self.file), place)
        text = text.strip()
        if not text:
            raise WorkflowError(f"no key: {place} is empty")
        if len(text) > MAX_CHARS or not _PRINTABLE.fullmatch(text):
            raise WorkflowError(f"no key: {place} holds something else than one line of printable ASCII")
        return text


def _content(file: str, place: str) -> str:
    try:
        with Path(file).expanduser().open(encoding="utf-8") as opened:
            return opened.read(MAX_CHARS + 64)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise WorkflowError(f"no key: {place} cannot be read: {reason}") from None
