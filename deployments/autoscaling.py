"""How many replicas a workflow needs, from what its replicas say of themselves.

Serve's own policy counts Serve requests, of which an envelope of 64 items is one; and it sees nothing of a router that
owns its listener. Replicas report items instead (`record_autoscaling_stats`), and this policy reads them.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["by_items"]


def by_items(context: Any, target_items: float = 8.0) -> tuple[int, dict[str, Any]]:
    """Replicas so that each has about `target_items` items waiting, running or streaming.

    For `autoscaling_config.policy.policy_function`; Serve calls it in its controller and applies its own delays.
    """
    reported: dict[str, dict[Any, float]] = context.aggregated_metrics or {}
    items = sum(sum(reported.get(name, {}).values()) for name in ("waiting", "running", "streams"))
    wanted = math.ceil(items / target_items)
    return max(context.capacity_adjusted_min_replicas, min(context.capacity_adjusted_max_replicas, wanted)), {}
