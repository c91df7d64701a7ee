"""Model ids and patterns of them: what is read, what is refused, and that one model has one form."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.errors import InvalidInput
from workflows.models.ref import AllowList, ModelRef, is_file_name, parse_ref


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("huggingface/acme/digits", ModelRef("huggingface", "acme", "digits")),
        ("huggingface/acme/digits@v1.2", ModelRef("huggingface", "acme", "digits", "v1.2")),
        ("huggingface/acme/digits/v1:m.onnx", ModelRef("huggingface", "acme", "digits", "v1", ("m.onnx",))),
        ("s3/a/b:onnx/m.onnx,m.onnx_data", ModelRef("s3", "a", "b", None, ("onnx/m.onnx", "m.onnx_data"))),
        ("local/a/b", ModelRef("local", "a", "b")),
    ],
)
def test_ids_are_read(text: str, ref: ModelRef) -> None:
    assert parse_ref(text) == ref
    assert parse_ref(str(ref)) == ref


# What a path, a shell, a URL or Windows would understand in its own way.
HOSTILE = [
    *("", "/", ".", "..", "a", "a/b", "huggingface/a", "huggingface//b", "huggingface/a/b/", "/huggingface/a/b"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "huggingface/../../b",
        "huggingface/a/..",
        "huggingface/a/b/..",
        "huggingface/./b",
    ),
    *(
        "huggingface/o/r:../../x",
        "huggingface/o/r:/abs",
        "huggingface/o/r:a/../b",
        "huggingface/o/r:a//b",
        "huggingface/o/r:",
    ),
    *(
        "huggingface/o/r:.env",
        "huggingface/o/r:a/.git/config",
        "huggingface/o/r:a.",
        "huggingface/o/r:a,",
        "huggingface/o/r:a,a",
    ),
    *(
        "huggingface/o/r@",
        "huggingface/o/r@a/b",
        "huggingface/o/r@refs/pr/1",
        "huggingface/o/r/v@w",
        "huggingface/o/r@a@b",
    ),
    *(
        "huggingface/o/..%2f..",
        "huggingface/o/....//",
        "huggingface\\o\\r",
        "huggingface/o\\r",
        "C:\\x",
        "file:///etc/passwd",
    ),
    *(
        "\\\\host\\share",
        "huggingface/o/r\0",
        "huggingface/o/r\n",
        "huggingface/o/r ",
        " huggingface/o/r",
        "huggingface/o/r.",
    ),
    *(
        "huggingface/o/r#x",
        "huggingface/o/r?x",
        "huggingface/o/r;x",
        "~/o/r",
        "$HOME/o/r",
        "huggingface/o/$HOME",
        "HF/o/r",
    ),
    *(
        "huggingface/\uff0e\uff0e/r",
        "huggingface/o/\u0433",
        "huggingface/o/r\u0661",
        "huggingface/o/r:a\u2024b",
        "https://x/y/z",
    ),
    *("huggingface/" + "a" * 97 + "/b", "huggingface/o/r:" + "a" * 256, "huggingface/o/r:" + "a/" * 8 + "a"),
    *("huggingface/o/r:" + ",".join(f"f{i}" for i in range(33)), "huggingface/" + "a" * 10_000, "huggingface/o/r:a:b"),
]


@pytest.mark.parametrize("text", [*HOSTILE, None, 7, b"huggingface/a/b", ["huggingface/a/b"]])
def test_everything_else_is_refused_and_not_repeated(text: object) -> None:
    with pytest.raises(InvalidInput, match="storage/owner/name") as caught:
        parse_ref(text)
    assert caught.value.param == "model"
    assert "passwd" not in caught.value.message


@given(st.text(alphabet=string.ascii_letters + "0123456789/.:,@_-%\\ \0", max_size=60))
def test_whatever_is_read_stays_below_its_place(rest: str) -> None:
    try:
        ref = parse_ref("huggingface/" + rest)
    except InvalidInput:
        return
    assert parse_ref(str(ref)) == ref
    for part in (ref.owner, ref.name, ref.revision or "x", *(p for file in ref.files for p in file.split("/"))):
        assert part not in ("", ".", "..")
        assert not set(part) & set("/\\:@, \0%")


def test_a_repositorys_own_file_names_are_no_better() -> None:
    assert is_file_name("onnx/model_O4+x=1.onnx")
    for name in ("../x", "a/../b", "/x", "a\\b", ".gitattributes", "a b", "a\n", "", "a/", "x" * 300):
        assert not is_file_name(name)


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        (
            "huggingface/acme/*",
            ["huggingface/acme/x", "huggingface/acme/x:a.onnx"],
            ["huggingface/acme/x@main", "huggingface/b/x", "s3/acme/x"],
        ),
        ("huggingface/acme/*@*", ["huggingface/acme/x", "huggingface/acme/x@main"], ["huggingface/acmes/x"]),
        (
            "huggingface/acme/d-*@v*",
            ["huggingface/acme/d-1@v2"],
            ["huggingface/acme/d-1", "huggingface/acme/d-1@w", "huggingface/acme/e@v2"],
        ),
        ("huggingface/acme/d/v1", ["huggingface/acme/d@v1"], ["huggingface/acme/d"]),
        ("s3/*/*:*.onnx", ["s3/a/b:x.onnx", "s3/a/b:x/y.onnx"], ["s3/a/b", "s3/a/b:x.onnx,y.bin"]),
        ("local/a/b", ["local/a/b"], ["local/a/bb", "local/a/c"]),
        ("local/a/b.c", ["local/a/b.c"], ["local/a/bxc"]),
    ],
)
def test_patterns(pattern: str, allowed: list[str], refused: list[str]) -> None:
    allow = AllowList([pattern])
    assert [text for text in allowed if not allow.allows(parse_ref(text))] == []
    assert [text for text in refused if allow.allows(parse_ref(text))] == []


@pytest.mark.parametrize(
    "pattern", ["*", "*/*/*", "hugging*/a/b", "huggingface/*", "huggingface/a/../b", "huggingface/a/b:"]
)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(InvalidInput, match="no pattern") as caught:
        AllowList([pattern])
    assert caught.value.param == "allowed"
    assert not AllowList([]).allows(parse_ref("local/a/b"))
