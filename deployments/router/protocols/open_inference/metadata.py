"""What the server and its models say about themselves, as plain data that HTTP and gRPC share."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from deployments.router.asking import Workflows
from deployments.router.caller import Caller
from deployments.router.directory import Entry
from deployments.router.protocols.open_inference.as_tensors import signature_of
from deployments.router.protocols.open_inference.datatypes import named
from workflows.card import Card, TensorSpec

__all__ = ["described", "model_metadata", "own_version", "server_metadata"]

EXTENSIONS: Final = ["binary_tensor_data", "generate", "model_repository", "statistics"]


def server_metadata() -> dict[str, Any]:
    return {"name": "infernet-serve", "version": own_version(), "extensions": EXTENSIONS}


def own_version() -> str:
    """The installed version of this distribution."""
    try:
        return version("infernet-serve")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


def model_metadata(workflows: Workflows, caller: Caller, entry: Entry) -> dict[str, Any]:
    """See `described`; with all versions that there are. Raises NotReady if it never was ready."""
    versions = [version.version for version in workflows.versions(caller, entry.known_as)]
    return described(workflows.card(entry), versions)


def described(card: Card, versions: Sequence[str]) -> dict[str, Any]:
    """Inputs and outputs are empty where a tensor model cannot tell; `platform` ends with the workflow's kind."""
    signature = signature_of(card)
    return {
        "name": card.known_as,
        "versions": list(versions),
        "platform": f"infernet_{card.kind}",
        "inputs": [_spec(tensor) for tensor in signature.inputs],
        "outputs": [_spec(tensor) for tensor in signature.outputs],
    }


def _spec(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": named(tensor.dtype), "shape": tensor.shape}
