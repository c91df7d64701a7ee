"""Both ways from the router to a replica give the same answers."""

from __future__ import annotations

import httpx

from tests.ray.cluster import Cluster, gauges
from tests.waiting import until


def test_a_router_beside_its_replicas_has_a_lane_to_each(default_system: Cluster) -> None:
    names = {app["name"] for app in default_system.config()["applications"]} - {"router"}

    def ways() -> dict[str, tuple[float, float]]:
        lanes, replicas = (gauges(default_system, f"infernet_workflow_{what}") for what in ("lanes", "replicas"))
        return {name: (lanes.get(name, 0.0), replicas.get(name, 0.0)) for name in names}

    until(lambda: ways() == dict.fromkeys(names, (1, 1)), seconds=20, what=lambda: f"a lane to each, got {ways()}")


def test_the_handle_alone_gives_the_same_answers(default_system: Cluster, by_handle: Cluster) -> None:
    prompt = {"prompt": "The try statement", "sampling": {"max_tokens": 8, "temperature": 0}}
    answers = []
    for cluster in (default_system, by_handle):
        with httpx.Client(base_url=cluster.url, timeout=60) as http:
            embedding = http.post("/v1/workflows/text-embedding/inference", json={"text": "the same"}).json()
            stream = http.post("/v1/workflows/tiny-gpt/stream", json=prompt).text
            refused = http.post("/v1/workflows/text-embedding/inference", json={"text": 5}).json()["error"]["code"]
        answers.append((embedding, stream, refused))
    assert answers[0] == answers[1]
    assert set(gauges(by_handle, "infernet_workflow_lanes").values()) == {0.0}
