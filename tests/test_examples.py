"""The example workflow is the one that the README shows, is short, and behaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.checks import check_file
from examples.spelling import SpellingWorkflow
from workflows.testing import check_workflow

ROOT = Path(__file__).parents[1]


def test_the_example_behaves() -> None:
    check_workflow(SpellingWorkflow(), {"word": "enumarate"})
    assert SpellingWorkflow().setup().inference({"word": "enumarate"}).suggestions == ["enumerate"]


def test_the_readme_shows_the_example_whole() -> None:
    source = (ROOT / "examples" / "spelling.py").read_text()
    assert len(source.splitlines()) < 50
    assert source in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "name", ["serve_config.yaml", "examples/gpu_config.yaml", "examples/serve_ingress_config.yaml"]
)
def test_the_configs_are_right(name: str) -> None:
    assert check_file(ROOT / name) == []
