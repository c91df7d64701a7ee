"""What a router's arguments must be to the rest of the config file, and to this machine. Starts nothing, knows no Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.config import LOOPBACK, RouterArgs
from deployments.router.keys import load_keys, parse_keys
from deployments.router.tls import server_credentials

__all__ = ["PlannedRouter", "Proxies", "proxy_complaints", "router_complaints", "shared_ports"]

CALLBACK_KEY = "controller_options.runtime_env.env_vars.RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "deployments.router.control_headers.serve_middlewares"


@dataclass(frozen=True)
class PlannedRouter:
    """A router application as its file describes it.

    Attributes:
        where: The path of its application in the file.
        environment: Variables that the file gives to its process.
    """

    where: str
    args: RouterArgs
    route_prefix: str | None
    grace_s: float
    surge_percent: float
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Proxies:
    """Serve's own.

    Attributes:
        callback: Import path of what gives them their middleware.
    """

    enabled: bool
    host: str
    callback: str | None


def router_complaints(router: PlannedRouter, proxies: Proxies) -> Iterator[str]:
    """One line each, with the path of the key."""
    own = router.args.listen == "own"
    rules = (
        _keys(router),
        _access_log(router.args.access_log),
        _listens_itself(router, proxies) if own else _behind_proxies(router, proxies),
        _tls(router.args),
        _times(router),
    )
    yield from (f"{router.where}.{line}" for rule in rules for line in rule)


def proxy_complaints(routers: Iterable[PlannedRouter], proxies: Proxies) -> Iterator[str]:
    """What Serve's proxies must be, where a router stands behind them."""
    behind = [router.args for router in routers if router.args.listen == "serve"]
    if not behind or not proxies.enabled:
        return
    yield from _address(proxies.host, "http_options.host")
    if proxies.host not in LOOPBACK and not all(map(_guarded, behind)):
        yield (
            f"http_options.host: {proxies.host} is reachable from outside, which needs args.keys_file or args.keys_env "
            "of the router"
        )
    if (proxies.callback or "").replace(":", ".") != CALLBACK:
        yield (
            f"{CALLBACK_KEY}: must be {CALLBACK} where a router has listen: serve, or callers can steer Ray with its "
            "control headers"
        )


def shared_ports(routers: Iterable[PlannedRouter]) -> Iterator[str]:
    taken: set[int] = set()
    for router in routers:
        for key, port in _ports(router.args):
            if port in taken:
                yield f"{router.where}.args.{key}: another router of this file listens on port {port}"
        taken |= {port for _, port in _ports(router.args)}


def _ports(args: RouterArgs) -> list[tuple[str, int]]:
    """Those that a router opens, with their keys; 0 is a port of its own each time."""
    own = [("port", args.port)] if args.listen == "own" else []
    grpc = [] if args.grpc is None else [("grpc.port", args.grpc.port)]
    return [(key, port) for key, port in own + grpc if port]


def _guarded(args: RouterArgs) -> bool:
    return args.keys_file is not None or args.keys_env is not None


def _keys(router: PlannedRouter) -> Iterator[str]:
    args = router.args
    try:
        given = None if args.keys_env is None else router.environment.get(args.keys_env)
        if given is None or args.keys_file is not None:
            load_keys(args)
        else:
            parse_keys(given)
    except ValueError as error:
        key = "keys_env" if args.keys_file is None else "keys_file"
        yield f"args.{key}: {str(error).removeprefix('API keys: ')}"


def _access_log(name: str | None) -> Iterator[str]:
    if name is None:
        return
    file = Path(name)
    folder = file.parent
    try:
        if not file.name or file.is_dir():
            yield "args.access_log: must name a file, but this is a folder"
            return
        while not folder.exists():  # it is made at the start
            folder = folder.parent
        writable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        yield f"args.access_log: cannot write in {folder}"


def _listens_itself(router: PlannedRouter, proxies: Proxies) -> Iterator[str]:
    if proxies.enabled:
        yield "args.listen: own needs proxy_location: Disabled at the top, or Serve's proxies listen beside the router"
    if router.route_prefix is not None:
        yield "route_prefix: must be null where the router listens itself (listen: own)"
    yield from _address(router.args.host, "args.host")


def _tls(args: RouterArgs) -> Iterator[str]:
    if args.grpc is not None and args.grpc.tls is not None:
        try:
            server_credentials(args.grpc.tls)
        except ValueError as error:
            yield f"args.grpc.tls.{error}"


def _behind_proxies(router: PlannedRouter, proxies: Proxies) -> Iterator[str]:
    if not proxies.enabled:
        yield "args.listen: serve needs Serve's proxies, but proxy_location is Disabled"
    if router.route_prefix is None:
        yield "route_prefix: must not be null where the router is behind Serve's proxies (listen: serve)"


def _address(host: str, key: str) -> Iterator[str]:
    if host in LOOPBACK:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET  # as the listener chooses it
    try:
        socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    except (OSError, ValueError):
        yield f"{key}: {host!r} is neither an address nor a name that this machine knows"


def _times(router: PlannedRouter) -> Iterator[str]:
    """A stopping router lets streams end while it drains, and Serve lets it drain."""
    grace, stream, drain = router.grace_s, router.args.limits.stream_s, router.args.drain_s
    if router.args.listen == "serve":  # Serve's proxies drain, and drain_s means nothing
        if stream >= grace:
            yield f"args.limits.stream_s: {stream:g} must be less than graceful_shutdown_timeout_s, which is {grace:g}"
        return
    if stream > drain:
        yield f"args.limits.stream_s: {stream:g} must not be more than args.drain_s, which is {drain:g}"
    if drain >= grace:
        yield (
            f"args.drain_s: {drain:g} must be less than graceful_shutdown_timeout_s of deployment Router, "
            f"which is {grace:g}"
        )
