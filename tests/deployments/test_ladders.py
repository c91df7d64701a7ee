"""Fallbacks in a config file: which workflow may answer in another's place, and what `check` says where it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.__main__ import main
from deployments.checks import check_file
from deployments.config import WorkflowArgs
from workflows.card import Card

SPACE = {"embedding_space": "minilm-l6-v2", "dimensions": 384}


def application(name: str, kind: str, **args: Any) -> dict[str, Any]:
    path = kind if "." in kind else f"tests.deployments.several_kinds.{kind}"
    return {
        "name": name,
        "route_prefix": None,
        "import_path": "deployments.app:workflow",
        "args": {"workflow": path, **args},
    }


def written(file: Path, *applications: dict[str, Any]) -> Path:
    file.write_text(
        yaml.safe_dump({"proxy_location": "Disabled", "applications": list(applications)}), encoding="utf-8"
    )
    return file


def pair(tmp_path: Path, kinds: tuple[str, str], own: dict[str, Any], others: dict[str, Any], **more: Any) -> list[str]:
    """The complaints about `first`, which falls back on `other`."""
    first = application("first", kinds[0], fallbacks=["other"], preserves=own, **more)
    other = application("other", kinds[1], preserves=others, **more)
    return check_file(written(tmp_path / "config.yaml", first, other))


@pytest.mark.parametrize(
    ("kind", "own", "others"),
    [
        ("Embedder", SPACE, SPACE),
        ("Embedder", SPACE, {**SPACE, "context_length": 5}),
        ("Teller", {"context_length": 4096}, {"context_length": 4096}),
        ("Teller", {"context_length": 4096}, {"context_length": 8192}),
        ("Teller", {"context_length": 4096, "least_context_length": 512}, {"context_length": 512}),
        ("Sorter", {"labels": ["a", "b"]}, {"labels": ["b", "a"]}),
        ("tests.deployments.configured.Plain", {"contract": "numbers"}, {"contract": "numbers"}),
    ],
)
def test_what_keeps_to_the_same_may_answer(
    tmp_path: Path, kind: str, own: dict[str, Any], others: dict[str, Any]
) -> None:
    assert pair(tmp_path, (kind, kind), own, others) == []


@pytest.mark.parametrize(
    ("kinds", "own", "others", "complaint"),
    [
        (("Embedder", "Embedder"), SPACE, {**SPACE, "dimensions": 768}, "preserves.dimensions differs"),
        (("Embedder", "Embedder"), SPACE, {**SPACE, "embedding_space": "other"}, "preserves.embedding_space differs"),
        (("Embedder", "Embedder"), SPACE, {"dimensions": 384}, "preserves.embedding_space is not declared by other"),
        (("Embedder", "Embedder"), {}, {}, "preserves.embedding_space is not declared by first"),
        (("Teller", "Embedder"), {"context_length": 5}, SPACE, "other is of kind embed, and first of kind generate"),
        (("Teller", "Writer"), {"context_length": 5}, {"context_length": 5}, "first streams, and other does not"),
        (("Teller", "Teller"), {"context_length": 5}, {}, "preserves.context_length is not declared by other"),
        (("Teller", "Teller"), {}, {"context_length": 5}, "preserves.context_length is not declared by first"),
        (
            ("Teller", "Teller"),
            {"context_length": 4096},
            {"context_length": 4095},
            "preserves.context_length of other is 4095, and first needs 4096",
        ),
        (("Sorter", "Sorter"), {"labels": ["a"]}, {"labels": ["a", "b"]}, "preserves.labels differs"),
        (("Sorter", "Sorter"), {"contract": "x"}, {"contract": "x"}, "preserves.labels is not declared by first"),
        (("tests.deployments.configured.Plain",) * 2, {}, {}, "preserves.contract is not declared by first"),
    ],
)
def test_what_does_not_is_refused(
    tmp_path: Path, kinds: tuple[str, str], own: dict[str, Any], others: dict[str, Any], complaint: str
) -> None:
    (line,) = pair(tmp_path, kinds, own, others)
    assert line.startswith("applications.0.args.fallbacks.0: ")
    assert complaint in line


def test_another_task_is_another_kind(tmp_path: Path) -> None:
    labels = {"labels": ["a"]}
    first = application("first", "Sorter", fallbacks=["other"], preserves=labels)
    other = application("other", "Sorter", preserves=labels, options={"task": "token-classification"})
    (line,) = check_file(written(tmp_path / "config.yaml", first, other))
    assert "other is of kind task (token-classification), and first of kind task (text-classification)" in line


def chain(tmp_path: Path, **fallbacks: list[str]) -> list[str]:
    """The complaints about workflows that can all answer for each other."""
    kept = {"context_length": 10}
    return check_file(
        written(
            tmp_path / "config.yaml",
            *(application(name, "Teller", fallbacks=on, preserves=kept) for name, on in fallbacks.items()),
        )
    )


def test_a_ladder_has_several_rungs(tmp_path: Path) -> None:
    assert chain(tmp_path, a=["b", "c"], b=["c"], c=[]) == []


@pytest.mark.parametrize(
    ("fallbacks", "complaints"),
    [
        ({"a": ["a"]}, ["applications.0.args.fallbacks.0: a workflow cannot answer in its own place"]),
        ({"a": ["b", "b"], "b": []}, ["applications.0.args.fallbacks.1: b is there already"]),
        ({"a": ["nobody"]}, ["applications.0.args.fallbacks.0: no application is called nobody"]),
        (
            {"a": ["b"], "b": ["a"]},
            [
                "applications.0.args.fallbacks.0: b falls back on a in turn, so that each would get the other's load",
                "applications.1.args.fallbacks.0: a falls back on b in turn, so that each would get the other's load",
            ],
        ),
    ],
)
def test_names_that_lead_nowhere_or_in_a_circle(
    tmp_path: Path, fallbacks: dict[str, list[str]], complaints: list[str]
) -> None:
    assert chain(tmp_path, **fallbacks) == complaints


def test_a_longer_circle_is_found(tmp_path: Path) -> None:
    found = chain(tmp_path, a=["b"], b=["c"], c=["a"], d=["a"])
    assert [line.partition(":")[0] for line in found] == [
        f"applications.{index}.args.fallbacks.0" for index in range(3)
    ]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({"fallbacks": list("abcde")}, "args.fallbacks: List should have at most 4 items"),
        ({"fallbacks": ["no such name"]}, "args.fallbacks.0: String should match pattern"),
        ({"preserves": {"dimension": 3}}, "args.preserves.dimension: unknown key"),
        ({"preserves": {"dimensions": 0}}, "args.preserves.dimensions: Input should be greater than"),
    ],
)
def test_what_is_wrong_in_itself_is_said_of_its_own_application(
    tmp_path: Path, args: dict[str, Any], complaint: str
) -> None:
    (line,) = check_file(written(tmp_path / "config.yaml", application("a", "Teller", **args)))
    assert line.startswith(f"applications.0.{complaint}")


def test_a_fallback_that_is_wrong_in_itself_is_not_called_unknown(tmp_path: Path) -> None:
    first = application("first", "Teller", fallbacks=["other"], preserves={"context_length": 5})
    (line,) = check_file(written(tmp_path / "config.yaml", first, application("other", "NoSuchThing")))
    assert line.startswith("applications.1.args.workflow")


def test_the_command_refuses_vectors_of_another_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = application("first", "Embedder", fallbacks=["other"], preserves=SPACE)
    other = application("other", "Embedder", preserves={**SPACE, "dimensions": 768})
    assert main(["check", str(written(tmp_path / "config.yaml", first, other))]) == 1
    said = capsys.readouterr()
    assert (
        "applications.0.args.fallbacks.0: preserves.dimensions differs between first and other" in said.out + said.err
    )


def test_the_card_brings_ladders_to_the_router() -> None:
    args = WorkflowArgs.model_validate({"workflow": "a.B", "fallbacks": ["b"], "preserves": SPACE})
    bare = Card(name="a", summary="", kind="embed", input_schema={}, output_schema={})
    card = bare.model_copy(update={"fallbacks": args.fallbacks, "preserves": args.preserves})
    assert Card.model_validate(card.model_dump()) == card
