"""Where models may come from, as the operator says it: roots, storages, the lock, limits. Reads settings, opens nothing.

A workflow's option `sources` is either these settings, or the path of a YAML file that holds them; the environment variable
`INFERNET_MODELS` names a file for all workflows that do not say. Secrets are no settings: a token stands in a file of its
own, or in the variables that huggingface_hub and the clouds' own libraries read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from workflows.errors import InvalidInput

__all__ = ["HUB", "LOCAL", "ModelSources", "sources_of"]

HUB: Final = "huggingface"
LOCAL: Final = "local"
_VARIABLE: Final = "INFERNET_MODELS"
_SCHEMES: Final = ("s3", "gs", "gcs", "az", "abfs", "abfss", "https")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelSources(BaseModel):
    """The operator's settings.

    Attributes:
        cache: Where downloaded models lie. Nobody but this system should write there.
        roots: Directories, or `package:name`, below which `local/owner/name` is looked for, in this order.
        storages: Further storages by name, each with the URL under which `owner/name/file` lies, for example
            `{s3: "s3://bucket/models"}`. Schemes: s3, gs, az, abfs and https; http only to this machine.
        endpoint: Another hub that speaks Hugging Face's protocol; None is what huggingface_hub says.
        token_file: A file that holds the hub's token and is read for each model; None leaves it to huggingface_hub.
        lock: A `models.lock`: nothing that it does not list is loaded by an id.
        code_sha256: Hashes of files that run code when they are loaded (TorchScript, torch.export) and may be all the same.
        check_hashes: Whether a cached file is compared with its hash before a process loads it, and again once it was
            touched; otherwise only its size is.
        disk_bytes: How large the cache may get; None is as large as the disk allows.
        keep_free_bytes: What downloads leave free on the disk.
        max_file_bytes, max_model_bytes: What is larger is refused before it is downloaded, or once it proves to be.
        parallel: Files that are downloaded at once.
        timeout_s: How long a storage may be silent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    cache: Path = Path("~/.cache/infernet-serve/models")
    roots: list[str] = Field(default_factory=list)
    storages: dict[str, str] = Field(default_factory=dict)
    endpoint: str | None = None
    token_file: Path | None = None
    lock: Path | None = None
    code_sha256: frozenset[Sha256] = frozenset()
    check_hashes: bool = True
    disk_bytes: int | None = Field(default=None, ge=0)
    keep_free_bytes: int = Field(default=2 << 30, ge=0)
    max_file_bytes: int = Field(default=100 << 30, ge=1)
    max_model_bytes: int = Field(default=500 << 30, ge=1)
    parallel: int = Field(default=4, ge=1, le=64)
    timeout_s: float = Field(default=30.0, gt=0, le=600)

    @field_validator("storages")
    @classmethod
    def _named(cls, storages: dict[str, str]) -> dict[str, str]:
        for name, url in storages.items():
            if name in (HUB, LOCAL) or not _NAME.fullmatch(name):
                raise ValueError(f"{name[:32]!r} cannot be the name of a storage")
            _check_url(url, _SCHEMES)
        return storages

    @field_validator("endpoint")
    @classmethod
    def _reachable(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            _check_url(endpoint, ("https",))
        return endpoint

    @model_validator(mode="after")
    def _files_fit(self) -> Self:
        if self.max_file_bytes > self.max_model_bytes:
            raise ValueError("max_file_bytes is above max_model_bytes")
        return self

    @property
    def names(self) -> frozenset[str]:
        """The storages that an id may name: without roots there is no `local`."""
        return frozenset({HUB, *self.storages, *([LOCAL] if self.roots else [])})

    def lists(self, storage: str) -> bool:
        """Whether a storage can tell which files a model has; over http, an id must name them."""
        return not self.storages.get(storage, "").startswith("http")


def sources_of(option: ModelSources | str | None) -> ModelSources:
    """The settings that a workflow's option means. Raises InvalidInput for a file that is not there or holds none."""
    if isinstance(option, ModelSources):
        return option
    path = option or os.environ.get(_VARIABLE)
    if not path:
        return ModelSources()
    try:
        said = yaml.safe_load(Path(path).read_text("utf-8"))
        return ModelSources.model_validate({} if said is None else said)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as cause:
        raise InvalidInput("the file of model sources cannot be read", param="sources") from cause
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:64]
        wrong = f"the file of model sources is wrong at {place!r}: {first['msg']}"
    raise InvalidInput(wrong, param="sources")


def _check_url(url: str, schemes: tuple[str, ...]) -> None:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a storage's URL has no user, password, query or fragment: it may be shown")
    nearby = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not parts.netloc or not (parts.scheme in schemes or nearby):
        raise ValueError(f"a storage's URL begins with one of {', '.join(f'{scheme}://' for scheme in schemes)}")
