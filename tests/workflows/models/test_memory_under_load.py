"""The memory of models with many callers: every answer is right, the budget is kept, and the books are right at the end."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.workflows.models.byte_models import Memory, Models, ended, use
from workflows.errors import ModelNotFound, NotReady, WorkflowError
from workflows.models.loaded import Loaded, MakeRoom, Size


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.mark.parametrize("swap", [True, False])
def test_five_models_in_the_memory_of_two_and_a_half(models: Models, swap: bool) -> None:
    """500 requests from 16 threads: every answer right, the budget kept but for one model, far fewer loads than requests."""
    megabyte = 1 << 20
    memory = Memory(Size(100 * megabyte), swap=swap, patience_s=60)
    chance = random.Random(4)
    # Some models are asked for more than others, as everywhere.
    wanted = chance.choices("abcde", weights=[8, 4, 2, 1, 1], k=500)

    def ask(name: str) -> str:
        with ExitStack() as leases:
            content = leases.enter_context(memory.lease(name, models.load(name, 40 * megabyte)))
            total = content[0] + sum(content[megabyte::megabyte])
            return chr(total)

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, wanted))
    assert answers == wanted
    assert memory.statistics.peak.host <= (140 if swap else 100) * megabyte
    assert 5 <= memory.statistics.loads == len(models.loaded) < 250
    assert len(memory.held()) == 2
    before = list(models.freed)
    with pytest.raises(ModelNotFound):
        use(memory, "nonsense", nowhere)
    assert models.freed == before


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_the_books_are_right(models: Models, swap: bool, seed: int) -> None:
    """Models of all sizes, failing loads, leases that overlap and patience that ends, from eight threads at once."""
    sizes = {"a": 10, "b": 30, "c": 45, "d": 60, "e": 95}
    memory = Memory(Size(100), swap=swap, patience_s=0.2, refuse_s=0)

    def some(number: int) -> int:
        chance = random.Random(seed * 100 + number)
        served = 0
        for _ in range(60):
            name = chance.choice("abcdex")
            load = models.load(name, sizes[name]) if name in sizes else nowhere
            try:
                with memory.lease(name, load, wait_s=chance.choice([0, 0.01, None])) as content:
                    assert chr(content[0]) == name
                    if chance.random() < 0.1:
                        use(memory, "a", models.load("a", 10), wait_s=0.01)
                    assert chr(content[0]) == name
                    served += 1
            except (NotReady, ModelNotFound):
                continue
        return served

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(some, range(8))) > 0
    assert memory.statistics.peak.host <= (195 if swap else 100)
    memory.close()
    ended()
    assert memory.used == Size()
    assert sorted(models.freed) == sorted(models.loaded)


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_loads_do_the_books_are_right(swap: bool, seed: int) -> None:
    """They fail at every step, take ten times what they said, or a tenth, and may be closed in the middle."""
    memory = Memory(Size(100, 50), swap=swap, patience_s=0.1, refuse_s=0, loads=2)
    kept = threading.Lock()
    made: list[str] = []
    freed: list[str] = []

    def some_load(name: str, chance: random.Random) -> Any:
        said = chance.choice([Size(1), Size(10), Size(40), Size(95), Size(200), Size(0, 4), Size(5, 45)])
        times = chance.choice([1, 1, 10])
        real = chance.choice([said, Size(said.host * times, said.gpu * times), Size(said.host // 10, said.gpu // 10)])
        fate = chance.choice(["", "", "", "first", "second", "exit", "free", "twice", "unsaid"])

        def load(make_room: MakeRoom) -> Loaded[bytearray]:
            if fate == "first":
                raise ModelNotFound
            if fate == "exit":
                raise SystemExit
            for _ in range({"unsaid": 0, "twice": 2}.get(fate, 1)):
                make_room(said)
            if fate == "second":
                raise ZeroDivisionError
            with kept:
                made.append(name)
            return Loaded(bytearray(name.encode()), real, lambda: free(name, fails=fate == "free"))

        return load

    def free(name: str, *, fails: bool) -> None:
        with kept:
            freed.append(name)
        if fails:
            raise OSError

    def some(number: int) -> int:
        chance = random.Random(seed * 100 + number)
        served = 0
        for turn in range(80):
            name = chance.choice("abcdefgh")
            try:
                if chance.random() < 0.2:
                    memory.loading(name, some_load(name, chance))
                    continue
                with memory.lease(name, some_load(name, chance), wait_s=chance.choice([0, 0.005, None])) as content:
                    assert content == name.encode()
                    served += 1
            except WorkflowError:
                pass
            if (seed, number, turn) == (2, 3, 60):
                memory.close()
        return served

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(some, range(8))) > 0
    memory.close()
    ended()
    assert memory.used == Size()
    assert sorted(made) == sorted(freed)


def nowhere(make_room: MakeRoom) -> Loaded[bytearray]:
    raise ModelNotFound
