"""What Serve says of all applications, as we read it and as Serve itself does."""

from __future__ import annotations

from ray import serve

from deployments.serve_status import serve_status
from tests.ray.cluster import Cluster
from tests.waiting import until


def test_it_is_what_serve_says(default_system: Cluster) -> None:
    def same() -> bool:  # unless something has changed between the two
        found, said = serve_status(), serve.status()
        assert "router" in found.applications
        return (found.applications, found.target_capacity) == (said.applications, said.target_capacity)

    until(same, seconds=20, what=lambda: f"{serve_status()} and {serve.status()}")
