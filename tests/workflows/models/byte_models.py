"""Models that are arrays of bytes, for tests of the memory that holds models."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from workflows.models.loaded import Loaded, MakeRoom, Size
from workflows.models.memory import ModelMemory

__all__ = ["Memory", "Models", "ended", "use"]

Memory = ModelMemory[bytearray]


class Models:
    """Told apart by their first byte; `freed` and `loaded` say what has happened."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.freed: list[str] = []
        self.changed = threading.Condition()

    def load(self, name: str, host: int, gpu: int = 0, before: Callable[[], Any] = lambda: None) -> Any:
        def run(make_room: MakeRoom) -> Loaded[bytearray]:
            before()
            make_room(Size(host, gpu))
            content = bytearray(host)
            content[0] = ord(name[0])
            with self.changed:
                self.loaded.append(name)
                self.changed.notify_all()
            return Loaded(content, Size(host, gpu), lambda: self.free(name, content))

        return run

    def free(self, name: str, content: bytearray) -> None:
        content[0] = 0  # whoever still uses it sees that
        with self.changed:
            self.freed.append(name)
            self.changed.notify_all()

    def wait(self, done: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(done, 10)


def use(memory: Memory, key: str, load: Any, **how: Any) -> str:
    with memory.lease(key, load, **how) as content:
        return chr(content[0])


def ended() -> None:
    """Wait for all loads that nobody waits for."""
    for thread in [thread for thread in threading.enumerate() if thread.name == "model-load"]:
        thread.join(10)
        assert not thread.is_alive()
