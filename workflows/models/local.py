"""Local model files: a path inside a configured root, and nothing outside of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from workflows.errors import ModelNotFound

__all__ = ["PACKAGE_PREFIX", "locate", "resolve"]

PACKAGE_PREFIX = "package:"


def resolve(path: str | Path, root: str | Path | None = None) -> Path:
    """The real path of a model file or directory: `locate`, with all links followed."""
    return locate(path, root).resolve()


def locate(path: str | Path, root: str | Path | None = None) -> Path:
    """Where a model file or directory lies, through the links by which it was named.

    Args:
        path: Relative to `root`; absolute only where no root is given.
        root: A directory, or `package:name` for the directory of an installed Python package, so that a model that
            comes with pip is found on every machine of a cluster. None means the working directory.

    Raises:
        ModelNotFound: It is not there, or lies outside of the root once links and `..` are followed.
    """
    base = _root(root)
    if root is not None and Path(path).is_absolute():
        raise ModelNotFound(f"model path {str(path)[:64]!r} must be relative to its root")
    real = (base / path).resolve()
    if root is not None and not real.is_relative_to(base):
        raise ModelNotFound(f"model path {str(path)[:64]!r} leaves its root")
    if not real.exists():
        raise ModelNotFound(f"model {str(path)[:64]!r} does not exist under its root")
    return base / path


def _root(root: str | Path | None) -> Path:
    if isinstance(root, str) and root.startswith(PACKAGE_PREFIX):
        name = root.removeprefix(PACKAGE_PREFIX)
        try:
            spec = find_spec(name)
        except Exception:  # noqa: BLE001 - the packages above it are imported, and do what they like
            spec = None
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            raise ModelNotFound(f"package {name[:64]!r} is not installed")
        return Path(places[0]).resolve()
    return Path(root or ".").resolve()
