"""How many replicas a workflow needs, from what its replicas say of themselves.

Serve's own policy counts Serve requests, of which an envelope of 64 items is one; and it sees nothing of a router that
owns its listener. Replicas report items instead (`record_autoscaling_stats`), those among them that wait at a router for
want of replicas, and this policy reads them.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["by_items"]


def by_items(context: Any, target_items: float = 8.0) -> tuple[int, dict[str, Any]]:
    """Replicas so that each has about `target_items` items waiting, here or at a router, running or streaming.

    Where no replica runs (`min_replicas: 0`), whoever waits for the first one is counted by Serve.
    For `autoscaling_config.policy.policy_function`; Serve calls it in its controller and applies its own delays.
    """
    reported: dict[str, dict[Any, float]] = context.aggregated_metrics or {}
    items = sum(sum(reported.get(name, {}).values()) for name in ("waiting", "running", "streams", "expected"))
    items += context.total_queued_requests or 0
    wanted = math.ceil(items / target_items)
    return max(context.capacity_adjusted_min_replicas, min(context.capacity_adjusted_max_replicas, wanted)), {}
