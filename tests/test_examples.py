"""The example workflow is the one that the README shows, is short, and behaves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deployments.building import build_workflow
from deployments.checks import check_file
from deployments.config import WorkflowArgs
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
    "name", ["serve_config.yaml", *(f"examples/{name}_config.yaml" for name in ("gpu", "remote", "serve_ingress"))]
)
def test_the_configs_are_right(name: str) -> None:
    assert check_file(ROOT / name) == []


def test_the_application_on_hugging_faces_page_is_right() -> None:
    """As far as can be told without its model."""
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "huggingface.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (application,) = yaml.safe_load(block)
    card = build_workflow(WorkflowArgs.model_validate(application["args"])).card(application["name"])
    assert (card.kind, card.task) == ("task", "text-classification")
    assert card.model == application["args"]["options"]["model"]
