"""Exchange types: strict, closed, and the same after a trip through JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NewType, Optional

import numpy as np
import pytest
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypeAliasType

from workflows import (
    Embed,
    Embedding,
    Generate,
    Generated,
    Message,
    Sampling,
    Speak,
    Speech,
    SpeechChunk,
    Tensors,
    TensorsResult,
    TextChunk,
    Token,
    Usage,
)
from workflows.types import fold

TENSOR = {"dtype": "float32", "shape": [2, 1], "data": [1.5, 2.0]}
EXAMPLES: list[tuple[type[Any], dict[str, Any]]] = [
    (Tensors, {"inputs": {"x": TENSOR}}),
    (Tensors, {"inputs": {"x": TENSOR}, "outputs": ["y"], "parameters": {"k": 1}}),
    (TensorsResult, {"outputs": {"y": {"dtype": "string", "shape": [1], "data": ["ä"]}}}),
    (Generate, {"prompt": "once", "sampling": {"max_tokens": 3, "temperature": 0, "stop": ["."]}}),
    (Generate, {"messages": [{"role": "user", "content": "hi"}]}),
    (Generated, {"text": "x", "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 2}}),
    (TextChunk, {"text": "x"}),
    (Embed, {"text": "x"}),
    (Embedding, {"embedding": [0.5, 1.0], "tokens": 2}),
    (
        Speak,
        {"text": "hi", "voice": "a", "language": "pt-BR", "speed": 2, "sample_rate": 8000, "seed": 1, "format": "mp3"},
    ),
    (SpeechChunk, {"sample_rate": 8000, "seconds": 0.5, "format": "opus", "audio": "AP8="}),
    (Speech, {"sample_rate": 2, "seconds": 1.0, "format": None, "samples": [0.5, -1.0]}),
]


@pytest.mark.parametrize(("kind", "body"), EXAMPLES)
def test_a_value_is_the_same_after_json_and_after_its_plain_form(kind: type[Any], body: dict[str, Any]) -> None:
    value = kind.model_validate(body)
    sent = value.model_dump_json()
    assert json.loads(sent) == json.loads(kind.model_validate(json.loads(sent)).model_dump_json())
    assert json.loads(kind.model_validate(value.model_dump()).model_dump_json()) == json.loads(sent)
    for key, part in body.items():
        if key != "sampling":
            assert json.loads(sent)[key] == part


@pytest.mark.parametrize(("kind", "body"), EXAMPLES)
def test_unknown_fields_are_refused_and_values_cannot_change(kind: type[Any], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        kind.model_validate({**body, "surprise": 1})
    value = kind.model_validate(body)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, next(iter(body)), None)


@pytest.mark.parametrize(("kind", "body"), EXAMPLES)
def test_the_schema_is_plain_json_and_closed(kind: type[Any], body: dict[str, Any]) -> None:
    schema = TypeAdapter(kind).json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["additionalProperties"] is False
    assert set(body) <= set(schema["properties"])


def test_arrays_pass_uncopied() -> None:
    array = np.ones((2, 3), np.float16)
    assert Tensors(inputs={"x": array}).inputs["x"] is array
    assert Tensors.model_validate({"inputs": {"x": array}}).model_dump()["inputs"]["x"] is array


@pytest.mark.parametrize(
    "tensor",
    [
        np.array([1j]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.array([1, None], dtype=object),
        np.zeros(1, dtype=[("a", "f4")]),
        [1.0],
        5,
        None,
        {**TENSOR, "extra": 1},
        {"dtype": "float32", "shape": [1]},
        {**TENSOR, "data": ["1.5", 2.0]},
        {**TENSOR, "shape": [10**12]},
    ],
)
def test_what_is_no_tensor_is_refused(tensor: object) -> None:
    with pytest.raises(ValidationError):
        Tensors.model_validate({"inputs": {"x": tensor}})


@pytest.mark.parametrize("vector", [[1, "2"], [True], [None], [[1.0]], "12", {}, 1, None, [1e300], np.zeros((1, 1))])
def test_what_is_no_vector_is_refused(vector: object) -> None:
    with pytest.raises(ValidationError):
        Embedding.model_validate({"embedding": vector, "tokens": 1})


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
        {"messages": []},
        {"messages": [{"role": "root", "content": "b"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": "b"}] * 2049},
        {"prompt": 5},
        *({"prompt": "a", "sampling": {"max_tokens": bad}} for bad in ("5", 1.5, True, 0, 1 << 63)),
        *({"prompt": "a", "sampling": {"temperature": bad}} for bad in ("hot", -1, 1e9, float("nan"))),
        *({"prompt": "a", "sampling": {"stop": bad}} for bad in ("end", [""], ["x" * 257], ["x"] * 17)),
        {"prompt": "a", "sampling": {"seed": -1}},
        {"prompt": "a", "sampling": {"top_p": 0}},
        *(
            {"prompt": "a", "sampling": {"logit_bias": bad}}
            for bad in ({"a": 1}, {"01": 1}, {"1": 101}, {"-1": 1}, [1])
        ),
        {"prompt": "a", "sampling": {"repetition_penalty": 0}},
        {"prompt": "a", "top_logprobs": 21},
        {"prompt": "a", "prompt_tokens": [1]},
        *({"prompt_tokens": bad} for bad in ([], [-1], [True], ["1"], [1 << 31])),
    ],
)
def test_a_generation_request_is_bounded_and_strict(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Generate.model_validate(body)


@pytest.mark.parametrize("body", [{}, {"text": "a", "tokens": [1]}, {"tokens": []}, {"text": "a", "dimensions": 0}])
def test_what_is_to_be_embedded_is_said_once(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Embed.model_validate(body)


def test_a_conversation_and_its_sampling_are_typed() -> None:
    asked = Generate(messages=[Message(role="user", content="hi")], sampling=Sampling(seed=7))
    assert asked.sampling.max_tokens == 128
    assert Generate.kind == "generate"


# ---- folding ---------------------------------------------------------------------------------------------------------

TOKENS = [Token(id=number, text=text, logprob=-1.0) for number, text in enumerate("abc")]
END = TextChunk(text="c", finish_reason="length", usage=Usage(prompt_tokens=1, completion_tokens=3))


def test_what_was_not_asked_for_is_not_told() -> None:
    assert TextChunk(text="a").model_dump() == {"text": "a", "finish_reason": None, "usage": None}
    assert set(END.model_dump()["usage"]) == {"prompt_tokens", "completion_tokens"}


def test_tokens_are_folded_like_their_text() -> None:
    chunks = [TextChunk(text="a", tokens=TOKENS[:1]), TextChunk(text="b", tokens=TOKENS[1:2])]
    last = END.model_copy(update={"tokens": TOKENS[2:], "stop_string": "!", "seed": 5})
    whole = Generated.fold([*chunks, last])
    assert (whole.tokens, whole.stop_string, whole.seed) == (TOKENS, "!", 5)
    assert chunks[0].tokens == TOKENS[:1]  # what was folded is as it was
    assert Generated.fold([END]).tokens is None


def test_text_chunks_fold_into_the_whole_text() -> None:
    whole = fold(Generated, [TextChunk(text="a"), TextChunk(text="b"), END])
    assert whole == Generated(text="abc", finish_reason="length", usage=Usage(prompt_tokens=1, completion_tokens=3))


@pytest.mark.parametrize("chunks", [[], [TextChunk(text="a")], [END, TextChunk(text="d")]])
def test_a_stream_that_broke_off_does_not_fold(chunks: list[TextChunk]) -> None:
    with pytest.raises(ValueError, match="without a finish reason"):
        fold(Generated, chunks)


def test_types_without_a_fold_join_text_and_list_the_rest() -> None:
    assert fold(str, iter(["a", "b"])) == "ab"
    assert fold(str, []) == ""
    assert fold(list, iter([1, 2])) == [1, 2]
    assert fold(list[str], ["a", "b"]) == ["a", "b"]
    assert fold(Any, ["a", "b"]) == "ab"
    assert fold(Any, ["a", 1]) == ["a", 1]
    assert fold(Any, []) == []


Named = NewType("Named", str)


@pytest.mark.parametrize(
    ("declared", "chunks", "whole"),
    [
        (bytes, [b"a", b"b"], b"ab"),
        (bytes, [], b""),
        (Annotated[str, Field(max_length=9)], [], ""),
        (Annotated[Annotated[str, 1] | None, 2], ["a", "b"], "ab"),
        (str | None, [], ""),
        (Optional[bytes], [b"a"], b"a"),  # noqa: UP045 - the old form is another type
        (Named, [], ""),
        (TypeAliasType("Alias", bytes), [b"a"], b"a"),
        (Sequence[str], ["a", "b"], ["a", "b"]),
        (Iterable[str], ["a", "b"], ["a", "b"]),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (set[str], ["a", "b", "a"], {"a", "b"}),
        (list[str] | None, ["a", "b"], ["a", "b"]),
        (Annotated[Generated, 1], [TextChunk(text="a"), END], Generated.fold([TextChunk(text="a"), END])),
        (Embed, ["a", "b"], "ab"),  # do_postprocessing makes it one
    ],
)
def test_the_declared_type_says_how_chunks_become_one_answer(declared: Any, chunks: list[Any], whole: Any) -> None:
    assert fold(declared, iter(chunks)) == whole


def test_a_million_unknown_fields_are_one_complaint() -> None:
    with pytest.raises(ValidationError) as refused:
        Embed.model_validate({"text": "a", **{f"k{number}": 1 for number in range(100)}})
    assert [error["msg"] for error in refused.value.errors()] == ["Value error, too many fields"]
