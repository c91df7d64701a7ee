"""The contract of `WorkflowClient`, kept by the client over Ray handles: as the router uses it, and as a script does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from deployments.app import workflow
from deployments.ray_client import RayClient
from tests.contract import DEPLOYMENTS, Place
from tests.contract_rules import RULES
from tests.ray.cluster import Cluster


class Checker:
    """Runs a rule in a process of its own, so that Serve's settings can be the router's."""

    async def check(self, rule_id: str, folder: str) -> None:
        (rule,) = [rule for rule in RULES if rule.id == rule_id]
        client = await RayClient.of_application(f"contract-{rule.deployment}")
        await client.card()  # the handle is connected now: what follows is about the contract alone
        await rule.check(client, Place(Path(folder), DEPLOYMENTS[rule.deployment]))


@pytest.fixture(scope="module")
def contract_workflows(cluster: Cluster) -> Iterator[None]:
    names = [f"contract-{name}" for name in DEPLOYMENTS]
    for name, deployment in zip(names, DEPLOYMENTS.values(), strict=True):
        app = workflow({"workflow": deployment.import_path})
        app._bound_deployment = app._bound_deployment.options(
            user_config=deployment.settings.model_dump(), ray_actor_options={"num_cpus": 0.1}
        )
        serve.run(app, name=name, route_prefix=None)
    yield
    for name in names:
        serve.delete(name)


@pytest.fixture(scope="module", params=["as the router", "as a script"])
def checker(cluster: Cluster, contract_workflows: None, request: pytest.FixtureRequest) -> Iterator[Any]:
    settings = cluster.config()["controller_options"]["runtime_env"] if request.param == "as the router" else {}
    actor: Any = ray.remote(Checker).options(num_cpus=0, runtime_env=settings).remote()
    yield actor
    ray.kill(actor)


@pytest.mark.parametrize("rule_id", [rule.id for rule in RULES])
def test_contract(checker: Any, rule_id: str, tmp_path: Path) -> None:
    ray.get(checker.check.remote(rule_id, str(tmp_path)), timeout=60)
