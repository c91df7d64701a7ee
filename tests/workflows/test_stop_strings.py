"""Stop strings: exact, whatever the pieces in which the text arrives."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workflows.inference.generation.stop_strings import StopStrings

texts = st.text(alphabet="abc", max_size=30)
stop_lists = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3)


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: read on until some stop string is complete, and cut before the longest complete one."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(texts, stop_lists, st.lists(st.integers(0, 30), max_size=8))
def test_the_cut_does_not_depend_on_the_pieces(text: str, stops: list[str], cuts: list[int]) -> None:
    stream = StopStrings(stops)
    places = [0, *sorted(min(place, len(text)) for place in cuts), len(text)]
    given_out = [stream.push(text[start:end]) for start, end in pairwise(places)]
    given_out.append(stream.flush())
    assert ("".join(given_out), stream.stopped) == cut(text, stops)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    stream = StopStrings(["\n\nUser:"])
    assert stream.push("Hello\n") == "Hello"
    assert stream.push("\n") == ""
    assert stream.push("World") == "\n\nWorld"
    assert stream.push("!\n\nUse") == "!"
    assert stream.flush() == "\n\nUse"
    assert not stream.stopped


def test_nothing_comes_after_a_stop() -> None:
    stream = StopStrings(["END"])
    assert stream.push("aEN") == "a"
    assert stream.push("Dmore") == ""
    assert stream.stopped
    assert stream.push("even more") == ""
    assert stream.flush() == ""


def test_where_stop_strings_are_part_of_the_answer_nothing_is_held_back() -> None:
    stops = StopStrings(["lazy", "never"], include=True)
    assert [stops.push(piece) for piece in ("the l", "a", "zy do", "g")] == ["the l", "a", "zy do", ""]
    assert (stops.stopped, stops.found, stops.flush()) == (True, "lazy", "")


def test_the_stop_string_that_was_found_is_told() -> None:
    stops = StopStrings(["b", "abc"])
    assert stops.found is None
    assert stops.push("abc") == "a"
    assert stops.found == "b"
