"""The memory of models: who is put out, who never is, who waits for whom, and what it costs to ask for nonsense."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NoReturn

import pytest

from tests.workflows.models.byte_models import Memory, Models, ended, use
from workflows.errors import ModelNotFound, NotReady, Overloaded, UpstreamFailed, WorkflowError
from workflows.models.loaded import Loaded, MakeRoom, Size


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


def test_a_model_is_loaded_once_and_stays(models: Models) -> None:
    memory = Memory(Size(100))
    for _ in range(3):
        assert use(memory, "a", models.load("a", 40)) == "a"
        assert use(memory, "b", models.load("b", 40)) == "b"
    assert models.loaded == ["a", "b"]
    assert memory.held() == ["a", "b"]
    assert (memory.statistics.hits, memory.statistics.peak) == (4, Size(80))
    memory.close()
    assert sorted(models.freed) == ["a", "b"]
    with pytest.raises(NotReady):
        use(memory, "a", models.load("a", 40))


@pytest.mark.parametrize("swap", [True, False])
def test_the_one_used_longest_ago_makes_room(models: Models, swap: bool) -> None:
    memory = Memory(Size(100), swap=swap, clock=lambda: 0.0)
    for name in "abac":
        assert use(memory, name, models.load(name, 40)) == name
    models.wait(lambda: models.freed == ["b"])
    assert memory.held() == ["a", "c"]
    assert memory.statistics.peak == Size(120 if swap else 80)


def test_the_one_that_is_quick_to_load_again_makes_room(models: Models, clock: list[float]) -> None:
    memory = Memory(Size(100), clock=lambda: clock[0], patience_s=1000)

    def slowly() -> None:
        clock[0] += 60

    use(memory, "slow", models.load("slow", 40, before=slowly))
    use(memory, "quick", models.load("quick", 40))
    for name in ("x", "y", "z"):
        use(memory, name, models.load(name, 40))
    models.wait(lambda: len(models.freed) == 3)
    assert "slow" in memory.held()


def test_the_one_that_is_seldom_used_makes_room(models: Models, clock: list[float]) -> None:
    memory = Memory(Size(100), clock=lambda: clock[0], patience_s=1000)

    def slowly() -> None:
        clock[0] += 1

    for name in "aaaaaaaaaaaab":
        use(memory, name, models.load(name, 40, before=slowly))
    for name in "cdef":
        use(memory, name, models.load(name, 40, before=slowly))
        assert use(memory, name, models.load(name, 40, before=slowly)) == name
    models.wait(lambda: len(models.freed) == 4)
    assert memory.held()[0] == "a"
    assert models.loaded == list("abcdef")


def test_what_nobody_uses_any_more_ages_however_dear_it_was(models: Models, clock: list[float]) -> None:
    memory = Memory(Size(100), clock=lambda: clock[0], patience_s=1000)

    def take(seconds: int) -> Callable[[], None]:
        def pass_() -> None:
            clock[0] += seconds

        return pass_

    use(memory, "dear", models.load("dear", 40, before=take(5)))
    for number in range(12):
        use(memory, f"m{number}", models.load("m", 40, before=take(1)))
    models.wait(lambda: "dear" in models.freed)


@pytest.mark.parametrize("swap", [True, False])
def test_a_model_in_use_is_never_freed(models: Models, swap: bool) -> None:
    memory = Memory(Size(100), swap=swap, patience_s=0.05)
    with memory.lease("a", models.load("a", 40)) as a, memory.lease("b", models.load("b", 40)) as b:
        for name in "cd":
            if swap:
                assert use(memory, name, models.load(name, 40)) == name
                continue
            with pytest.raises(NotReady) as caught:
                use(memory, name, models.load(name, 40))
            assert caught.value.retryable
        assert (chr(a[0]), chr(b[0])) == ("a", "b")
        assert memory.statistics.peak.host <= (120 if swap else 80)
        memory.close()
        assert (chr(a[0]), chr(b[0])) == ("a", "b")
    assert {"a", "b"} <= set(models.freed)


def test_a_failed_load_puts_nothing_out_and_is_not_tried_again_soon(models: Models, clock: list[float]) -> None:
    memory = Memory(Size(100), clock=lambda: clock[0], refuse_s=30)
    for name in "ab":
        use(memory, name, models.load(name, 50))
    tried: list[str] = []
    cause = ModelNotFound()

    def bogus(make_room: MakeRoom) -> Loaded[bytearray]:
        tried.append("bogus")
        raise cause

    for _ in range(5):
        with pytest.raises(ModelNotFound) as caught:
            use(memory, "bogus", bogus)
        assert caught.value is not cause  # an error of its own for everybody
    assert tried == ["bogus"]
    assert memory.held() == ["a", "b"]
    assert models.freed == []
    clock[0] += 31
    with pytest.raises(ModelNotFound):
        use(memory, "bogus", bogus)
    assert len(tried) == 2


def test_a_storage_that_is_down_is_asked_again_when_it_said(models: Models, clock: list[float]) -> None:
    memory = Memory(Size(100), clock=lambda: clock[0])

    def down(make_room: MakeRoom) -> Loaded[bytearray]:
        raise UpstreamFailed("down", retry_after_s=5)

    with pytest.raises(UpstreamFailed):
        use(memory, "a", down)
    clock[0] += 2
    with pytest.raises(UpstreamFailed) as caught:
        use(memory, "a", models.load("a", 40))
    assert caught.value.retry_after_s == 3
    clock[0] += 4
    assert use(memory, "a", models.load("a", 40)) == "a"


def test_what_a_failed_load_has_made_is_not_kept_by_its_error(models: Models) -> None:
    memory = Memory(Size(100))
    gone = threading.Event()

    class Large:
        pass

    def breaks(make_room: MakeRoom) -> Loaded[bytearray]:
        large = Large()
        weakref.finalize(large, gone.set)
        raise ModelNotFound from ZeroDivisionError()

    with pytest.raises(ModelNotFound):
        use(memory, "a", breaks)
    assert gone.wait(10)


def test_whatever_ends_a_load_nobody_goes_on_waiting(models: Models) -> None:
    memory = Memory(Size(100), patience_s=30, refuse_s=0)

    def exits(make_room: MakeRoom) -> Loaded[bytearray]:
        raise SystemExit

    with pytest.raises(WorkflowError, match="could not be loaded"):
        use(memory, "a", exits)
    assert use(memory, "a", models.load("a", 40)) == "a"


def test_where_no_thread_can_be_started_nobody_waits_for_one(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(Size(100), patience_s=30)

    def exhausted(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", exhausted)
        for ask in (partial(use, memory), memory.loading, partial(use, memory)):
            with pytest.raises(Overloaded):
                ask("a", models.load("a", 40))
    assert use(memory, "a", models.load("a", 40)) == "a"


def test_so_many_loads_and_no_more(models: Models) -> None:
    memory = Memory(Size(100))
    go = threading.Event()
    for number in range(64):
        with pytest.raises(NotReady):
            use(memory, str(number), models.load("m", 1, before=lambda: go.wait(10)), wait_s=0)
    with pytest.raises(Overloaded):
        use(memory, "64", models.load("m", 1))
    with pytest.raises(Overloaded):
        memory.loading("64", models.load("m", 1))
    assert memory.loading("63", models.load("m", 1)) is not None  # one that goes on already
    go.set()
    models.wait(lambda: len(models.loaded) == 64)


def test_a_load_that_fails_in_its_middle_gives_its_room_back(models: Models) -> None:
    memory = Memory(Size(100), refuse_s=0)
    use(memory, "a", models.load("a", 60))

    def breaks(make_room: MakeRoom) -> Loaded[bytearray]:
        make_room(Size(60))
        raise ZeroDivisionError("secret")

    for _ in range(3):
        with pytest.raises(WorkflowError, match="could not be loaded") as caught:
            use(memory, "b", breaks)
        assert "secret" not in caught.value.message
    assert memory.held() == ["a"]
    assert use(memory, "c", models.load("c", 60)) == "c"
    models.wait(lambda: models.freed == ["a"])


def test_while_one_is_loaded_in_excess_of_the_budget_the_others_stay(models: Models) -> None:
    memory = Memory(Size(100), patience_s=30)
    for name in "ab":
        use(memory, name, models.load(name, 40))
    go, began = threading.Event(), threading.Event()

    def breaks(make_room: MakeRoom) -> Loaded[bytearray]:
        make_room(Size(40))
        began.set()
        return _raise(go, ModelNotFound())

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(use, memory, "c", breaks)
        assert began.wait(10)
        use(memory, "a", models.load("a", 40))  # and given back, which is when others are put out
        go.set()
        with pytest.raises(ModelNotFound):
            waiting.result()
    assert (memory.held(), models.freed, memory.used) == (["b", "a"], [], Size(80))


def test_what_exceeds_the_budget_goes_once_it_was_used_where_nothing_else_can(models: Models) -> None:
    memory = Memory(Size(100), patience_s=1000)
    with memory.lease("a", models.load("a", 40)), memory.lease("b", models.load("b", 40)):
        go = threading.Event()
        with pytest.raises(NotReady):
            use(memory, "c", models.load("c", 40, before=lambda: go.wait(10)), wait_s=0)
        go.set()
        ended()
        assert (memory.used, models.freed) == (Size(120), [])  # who was told to come back will find it
        assert use(memory, "c", models.load("c", 40)) == "c"
        assert (memory.used, models.freed, models.loaded) == (Size(80), ["c"], ["a", "b", "c"])


@pytest.mark.parametrize("size", [Size(101), Size(10, 51)])
def test_a_model_larger_than_everything_puts_nothing_out(models: Models, size: Size) -> None:
    memory = Memory(Size(100, 50))
    use(memory, "a", models.load("a", 90, 40))
    with pytest.raises(WorkflowError, match="larger"):
        use(memory, "b", models.load("b", size.host, size.gpu))
    assert models.loaded == ["a"]

    def liar(make_room: MakeRoom) -> Loaded[bytearray]:
        make_room(Size(1))
        return Loaded(bytearray(1), size, lambda: models.freed.append("liar"))

    with pytest.raises(WorkflowError, match="larger"):
        use(memory, "liar", liar)
    assert (memory.held(), models.freed) == (["a"], ["liar"])


def test_gpu_memory_is_a_budget_of_its_own(models: Models) -> None:
    memory = Memory(Size(1000, 100), clock=lambda: 0.0)
    for name in "abc":
        use(memory, name, models.load(name, 10, 40))
    models.wait(lambda: models.freed == ["a"])


def test_what_is_measured_counts_and_not_what_was_expected(models: Models) -> None:
    memory = Memory(Size(100))
    use(memory, "a", models.load("a", 40))

    def grown(make_room: MakeRoom) -> Loaded[bytearray]:
        make_room(Size(40))
        return Loaded(bytearray(b"g"), Size(90), lambda: models.free("grown", bytearray(1)))

    use(memory, "grown", grown)
    models.wait(lambda: models.freed == ["a"])


def test_one_load_serves_all_who_wait_and_does_not_hold_up_others(models: Models) -> None:
    memory = Memory(Size(100), patience_s=30)
    go, began = threading.Event(), threading.Event()

    def held_up() -> None:
        began.set()
        assert go.wait(10)

    with ThreadPoolExecutor(50) as threads:
        waiting = [threads.submit(use, memory, "slow", models.load("slow", 40, before=held_up)) for _ in range(49)]
        assert began.wait(10)
        assert use(memory, "fast", models.load("fast", 40)) == "f"
        go.set()
        assert {future.result() for future in waiting} == {"s"}
    assert sorted(models.loaded) == ["fast", "slow"]


def test_a_load_can_be_begun_without_waiting_for_it(models: Models, clock: list[float]) -> None:
    memory = Memory(Size(200), patience_s=10, refuse_s=30, clock=lambda: clock[0])
    go, failing = threading.Event(), threading.Event()
    first = memory.loading("a", models.load("a", 100, before=go.wait))
    assert first is not None
    clock[0] += 4
    again = memory.loading("a", models.load("a", 100))
    assert again is not None
    assert (again.done, again.at_most_s) == (first.done, 6)
    assert not first.done.done()
    go.set()
    first.done.result(10)
    assert memory.loading("a", models.load("a", 100)) is None
    with memory.lease("a", models.load("a", 100)) as model:
        assert model[0] == ord("a")
    assert models.loaded == ["a"]

    absent = memory.loading("b", models.load("b", 100, before=lambda: _raise(failing, ModelNotFound())))
    assert absent is not None
    failing.set()
    absent.done.result(10)  # it has ended, which is all that this says
    assert memory.loading("b", models.load("b", 100)) is None
    with pytest.raises(ModelNotFound), memory.lease("b", models.load("b", 100)):
        pass
    assert memory.statistics.refusals == 1
    memory.close()
    assert memory.loading("c", models.load("c", 100)) is None


def _raise(when: threading.Event, error: WorkflowError) -> NoReturn:
    when.wait()
    raise error


def test_who_cannot_wait_is_told_when_to_come_back(models: Models, clock: list[float]) -> None:
    memory = Memory(Size(100), patience_s=20, clock=lambda: clock[0])
    go, began = threading.Event(), threading.Event()

    def held_up() -> None:
        began.set()
        assert go.wait(10)

    load = models.load("a", 40, before=held_up)
    with pytest.raises(NotReady) as caught:
        use(memory, "a", load, wait_s=0)
    assert caught.value.retry_after_s == 2
    assert began.wait(10)
    clock[0] += 21  # the load is older than anybody's patience: who comes now is told at once
    with pytest.raises(NotReady) as caught:
        use(memory, "a", load)
    assert caught.value.retry_after_s == 1
    go.set()
    models.wait(lambda: models.loaded == ["a"])
    assert use(memory, "a", load) == "a"


def test_a_model_that_somebody_was_promised_is_still_there_when_they_come(models: Models) -> None:
    """Cheap for its size, so that it would be the first to go."""
    memory = Memory(Size(100))
    for name in "ab":
        use(memory, name, models.load(name, 30))
    go = threading.Event()
    with pytest.raises(NotReady):
        use(memory, "c", models.load("c", 90, before=lambda: go.wait(10)), wait_s=0)
    go.set()
    models.wait(lambda: sorted(models.freed) == ["a", "b"])
    assert use(memory, "c", models.load("c", 90)) == "c"
    assert models.loaded.count("c") == 1


def test_closing_ends_those_who_wait_and_frees_what_comes_late(models: Models) -> None:
    memory = Memory(Size(100), patience_s=30)
    go, began = threading.Event(), threading.Event()

    def held_up() -> None:
        began.set()
        assert go.wait(10)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(use, memory, "a", models.load("a", 40, before=held_up))
        assert began.wait(10)
        memory.close()
        with pytest.raises(NotReady):
            waiting.result()
    go.set()
    assert models.freed == []
    # Making room is refused once it is closed, so that nothing is loaded at all.
    ended()
    assert models.loaded == []
