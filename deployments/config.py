"""Everything that can be configured, as one model per place in `serve_config.yaml`. Unknown keys are errors.

`WorkflowArgs` and `RouterArgs` are the `args` of an application; `WorkflowSettings` and `RouterSettings` are the
`user_config` of its deployment, which `serve deploy` changes without a restart.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from workflows.card import Batching, Preserved

__all__ = ["GrpcArgs", "Limits", "Name", "RouterArgs", "RouterSettings", "TlsArgs", "WorkflowArgs", "WorkflowSettings"]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$")]
Version = Annotated[
    str,
    BeforeValidator(lambda version: str(version) if type(version) is int else version),  # as YAML reads 1
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"),
]
Share = Annotated[float, Field(ge=0.0, le=1e6, allow_inf_nan=False)]
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WorkflowArgs(_Closed):
    """One workflow application.

    Attributes:
        workflow: Import path of the class, for example `workflows.ONNXInferenceWorkflow`.
        options: Its constructor's keyword arguments.
        version_of: The name under which callers find it as one of several, each with its own `version`; by default its
            application's own.
        fallbacks: Applications that answer in its place when it cannot: of the same kind, and keeping to what it `preserves`.
            Their own fallbacks are not asked.
        preserves: What its answers keep to; each kind needs its own part of that to have fallbacks, or to be one.
        setup_timeout_s: A setup that takes longer has failed.
        stuck_after_s: A model call that takes longer, or a local language model that is silent for longer, makes the replica
            unhealthy, so that Serve replaces it.
    """

    workflow: str = Field(pattern=r"^[A-Za-z_][\w.]*(:|\.)[A-Za-z_]\w*$")
    options: dict[str, Any] = Field(default_factory=dict)
    summary: str = Field(default="", max_length=512)
    aliases: list[Alias] = Field(default_factory=list, max_length=16)
    version: Version = "1"
    version_of: Name | None = None
    fallbacks: list[Name] = Field(default_factory=list, max_length=4)
    preserves: Preserved = Field(default_factory=Preserved)
    setup_timeout_s: float = Field(default=600.0, gt=0)
    stuck_after_s: float = Field(default=300.0, gt=0)


class WorkflowSettings(_Closed):
    """What may change while a workflow runs.

    Attributes:
        batching: Replaces what the workflow's class says of size and waiting time, and may lower the cost; None leaves
            it. What a model cannot run together stays apart.
        max_queue: Items that may wait in one replica; more are refused with `overload`.
        max_streams: Streams that one replica runs at a time; more are refused with `overload`.
    """

    batching: Batching | None = None
    max_queue: int = Field(default=1024, ge=1, le=1_000_000)
    max_streams: int = Field(default=256, ge=1, le=1_000_000)


class Limits(_Closed):
    """What the edge accepts. Sizes in bytes, times in seconds.

    Attributes:
        max_connections: Per router replica that listens itself; one more is closed at once.
        head_s: From a connection's begin, or the first byte of a further request, until its headers are complete.
    """

    max_body_bytes: int = Field(default=64 << 20, ge=1)
    max_header_bytes: int = Field(default=32 << 10, ge=1024)
    max_url_bytes: int = Field(default=8 << 10, ge=256)
    max_json_depth: int = Field(default=64, ge=1, le=512)
    max_json_elements: int = Field(default=2_000_000, ge=1)
    max_batch_items: int = Field(default=1024, ge=1)
    max_connections: int = Field(default=4096, ge=1)
    head_s: float = Field(default=10.0, gt=0)
    body_s: float = Field(default=30.0, gt=0)
    deadline_s: float = Field(default=60.0, gt=0)
    stream_first_chunk_s: float = Field(default=30.0, gt=0)
    stream_s: float = Field(default=600.0, gt=0)


class TlsArgs(_Closed):
    """Files in PEM form, read when the router starts.

    Attributes:
        client_ca_file: Where given, callers must have a certificate that was signed with it. They need a key all the same.
    """

    cert_file: str
    key_file: str
    client_ca_file: str | None = None


class GrpcArgs(_Closed):
    """The router's listener for gRPC, on the router's host.

    Attributes:
        max_calls: Calls that run at a time, per router replica; more are refused with `overload`.
        max_connection_calls: Of them over one connection; clients keep further ones back.
        max_stream_s: How long a call of many messages may last; it is made to end in good order.
        connection_age_s: A connection takes no new calls after about so long, and clients open another one by themselves. So
            long a stopping router waits for those that are busy.
    """

    port: int = Field(default=9000, ge=0, le=65535)
    tls: TlsArgs | None = None
    max_calls: int = Field(default=4096, ge=1)
    max_connection_calls: int = Field(default=256, ge=1, le=1_000_000)
    max_stream_s: float = Field(default=3600.0, gt=0, le=1e6)
    connection_age_s: float = Field(default=15.0, ge=1, le=86400)


class RouterArgs(_Closed):
    """The router application.

    Attributes:
        listen: `own`: the router opens host:port itself (Serve's proxies off). `serve`: it is an ordinary Serve ingress.
        grpc: The listener for gRPC; None is none. There is none with `listen: serve`.
        keys_file: A file of API keys (see `python -m deployments key`). Without it and without `keys_env`, nobody
            needs a key, and only loopback may be listened on.
        keys_env: Name of an environment variable with the same content.
        allowed_hosts: Host names (no ports, no wildcards) that are answered to besides loopback names; empty means any
            once keys are configured.
        tgi_root: A workflow that generates text and is served as Text Generation Inference at the root as well (`/generate`,
            `/info`, `/health`, ...), for clients that know no paths.
        access_log: File of one JSON line per request, with the router's process id put into its name; None means
            beside Serve's own logs.
        local_lanes: Whether replicas on the router's own node are reached over a Unix socket, which is faster than Ray's
            handles; what they do is the same.
        drain_s: How long a stopping router lets running answers finish.
    """

    listen: Literal["own", "serve"] = "own"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    grpc: GrpcArgs | None = Field(default_factory=GrpcArgs)
    keys_file: str | None = None
    keys_env: str | None = None
    allowed_hosts: list[str] = Field(default_factory=list)
    tgi_root: Name | None = None
    access_log: str | None = None
    local_lanes: bool = True
    drain_s: float = Field(default=600.0, gt=0)
    limits: Limits = Field(default_factory=Limits)

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} must be a host name or an IPv6 address, without a port")
        return hosts

    @model_validator(mode="before")
    @classmethod
    def _behind_serve(cls, args: Any) -> Any:
        if not isinstance(args, dict) or args.get("listen") != "serve":
            return args
        if args.get("grpc") is not None:
            raise ValueError("grpc: needs listen: own")
        return {**args, "grpc": None}

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        if self.grpc is not None and self.grpc.port == self.port != 0:
            raise ValueError(f"grpc.port: port {self.port} is the router's own for HTTP")
        return self

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.listen == "own" and self.host not in LOOPBACK and self.keys_file is None and self.keys_env is None:
            raise ValueError(f"host: {self.host} is reachable from outside, which needs keys_file or keys_env")
        return self


class RouterSettings(_Closed):
    """What may change while the router runs.

    Attributes:
        max_queue: Requests that may wait in the router for one workflow; more get 503 with Retry-After.
        traffic: For a name that has several versions: the share of each in the requests that name no version, in any
            unit. A session stays with its version for as long as the shares do.
    """

    max_queue: int = Field(default=1024, ge=1, le=1_000_000)
    traffic: dict[Name, Annotated[dict[Version, Share], Field(min_length=1, max_length=64)]] = Field(
        default_factory=dict, max_length=1024
    )

    @field_validator("traffic", mode="before")
    @classmethod
    def _each_once(cls, traffic: object) -> object:
        for name, shares in traffic.items() if isinstance(traffic, dict) else ():
            if isinstance(shares, dict) and len(set(map(str, shares))) < len(shares):  # 1 and "1", in YAML
                raise ValueError(f"{name}: a version has two shares")
        return traffic

    @field_validator("traffic")
    @classmethod
    def _somewhere(cls, traffic: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for name, shares in traffic.items():
            if not sum(shares.values()) > 0:
                raise ValueError(f"{name}: one version must have a share above 0")
        return traffic
