"""What the files of a sentence-transformers model say about turning tokens into one vector. Reads JSON, runs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from workflows.errors import WorkflowError
from workflows.models.local import resolve

__all__ = ["Pooling", "SentenceSettings", "read_sentence_settings"]

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

_OLD_NAMES: Final[Mapping[str, Pooling]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class SentenceSettings:
    """How a model was trained to be used; the defaults are for a plain transformers model.

    Attributes:
        transformer: The directory with config.json and weights.
        max_tokens: None where the files do not say.
        prompt: What stands before every text.
        prompts: What else may stand there, by its name.
    """

    transformer: Path
    pooling: Pooling = "mean"
    normalize: bool = False
    max_tokens: int | None = None
    lower_case: bool = False
    prompt: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)


def read_sentence_settings(directory: Path) -> SentenceSettings:
    """Raises WorkflowError where the files ask for a step that is not known: leaving it out would give wrong vectors."""
    settings = SentenceSettings(directory)
    for module in _json(directory / "modules.json") or ():
        kind = str(module["type"]).rpartition(".")[2]
        if kind == "Transformer":
            place = resolve(module["path"] or ".", directory)
            own = _json(place / "sentence_bert_config.json") or {}
            settings = replace(
                settings,
                transformer=place,
                max_tokens=own.get("max_seq_length"),
                lower_case=bool(own.get("do_lower_case")),
            )
        elif kind == "Pooling":
            settings = replace(
                settings, pooling=_pooling(_json(resolve(module["path"], directory) / "config.json") or {})
            )
        elif kind == "Normalize":
            settings = replace(settings, normalize=True)
        else:
            raise WorkflowError(f"the model has a step of the kind {kind[:64]!r}, which is not supported")
    whole = _json(directory / "config_sentence_transformers.json") or {}
    prompts = whole.get("prompts") or {}
    return replace(settings, prompt=prompts.get(whole.get("default_prompt_name")) or "", prompts=prompts)


def _pooling(config: Mapping[str, Any]) -> Pooling:
    named = config.get("pooling_mode") or [mode for key, mode in _OLD_NAMES.items() if config.get(key)] or ["mean"]
    modes = [named] if isinstance(named, str) else list(named)
    if len(modes) != 1 or modes[0] not in get_args(Pooling):
        raise WorkflowError("the model pools in a way that is not supported")
    if config.get("include_prompt", True) is not True:
        raise WorkflowError("the model leaves its prompt out when pooling, which is not supported")
    return cast("Pooling", modes[0])


def _json(path: Path) -> Any:
    """The content of a JSON file; None where there is none."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else None
