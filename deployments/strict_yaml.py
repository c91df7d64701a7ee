"""Reads a config file as YAML that says everything once: of two equal keys the last would win in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from deployments.building import ConfigError

__all__ = ["read_mapping"]


def read_mapping(path: Path) -> dict[Any, Any]:
    """The content of a file that has a mapping at its top. Raises ConfigError."""
    loader: _StrictLoader | None = None
    try:
        loader = _StrictLoader(path.read_text(encoding="utf-8"))
        content = loader.get_single_data()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {error}") from error
    except RecursionError:
        raise ConfigError("is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()
    if loader.repeated:
        raise ConfigError(*loader.repeated)
    if not isinstance(content, dict):
        raise ConfigError("must be a mapping at the top")
    return content


class _StrictLoader(yaml.SafeLoader):
    """Collects keys that a mapping has twice, and raises no other exceptions than YAML's own."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []

    def compose_mapping_node(self, anchor: Any) -> Any:
        node: Any = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                before = lines[key.tag, key.value]
                self.repeated.append(f"line {line}: {key.value} is given again, after line {before}")
            lines[key.tag, key.value] = line
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as cause:  # the 13th month, for example
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"this is no {kind}", node.start_mark) from cause
