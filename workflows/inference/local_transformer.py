"""A transformers model in a local directory, opened without running any code of the model's: safetensors weights only.

Knows no task. The modules `torch` and `transformers` are passed in, since importing them belongs into `do_setup`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflows.errors import ContextTooLong, InvalidInput, WorkflowError
from workflows.inference.torch_device import Dtype, prepare_device
from workflows.models.content import RUNS_CODE, kind_of
from workflows.resources import Resources
from workflows.types.text import MAX_TOKENS

__all__ = [
    "LocalTransformer",
    "check_text",
    "check_tokens",
    "longest_input",
    "open_part",
    "open_tokenizer",
    "open_transformer",
    "open_weights",
    "positions_of",
]

# No vocabulary entry of a sane tokenizer is shorter on average; below it, a long vocabulary entry decides.
_MIN_CHARS_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class LocalTransformer:
    """An opened model.

    Attributes:
        vocabulary: How many tokens the model knows; its tokenizer may know more.
        max_token_chars: No token stands for more characters than this: longer texts need not be tokenized to be
            known as too long.
    """

    model: Any
    tokenizer: Any
    device: Any
    vocabulary: int
    max_token_chars: int


def open_transformer(
    torch: Any,
    transformers: Any,
    kind: str,
    directory: Path,
    resources: Resources,
    dtype: Dtype | None,
    threads: int | None,
) -> LocalTransformer:
    """Open model and tokenizer, on the device that `resources` says.

    Args:
        kind: The transformers class that opens the model, for example `AutoModel`.
        dtype: None means the weights' own on a GPU, and float32 on a CPU, where other formats are slow.

    Raises WorkflowError: there are no safetensors weights, or they are not those of such a model, or transformers cannot
    open them without code of the model's.
    """
    model, device = open_weights(torch, transformers, kind, directory, resources, dtype, threads)
    tokenizer, max_token_chars = open_tokenizer(transformers, directory)
    vocabulary = model.get_input_embeddings().num_embeddings
    return LocalTransformer(model, tokenizer, device, vocabulary, max_token_chars)


def open_tokenizer(transformers: Any, directory: Path) -> tuple[Any, int]:
    """Open the tokenizer alone, and say how many characters a token may stand for. Raises WorkflowError."""
    tokenizer = open_part(transformers, "AutoTokenizer", directory)
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    return tokenizer, max(longest, _MIN_CHARS_PER_TOKEN)


def open_weights(
    torch: Any,
    transformers: Any,
    kind: str,
    directory: Path,
    resources: Resources,
    dtype: Dtype | None,
    threads: int | None,
) -> tuple[Any, Any]:
    """Open the model alone, and say on which device it is. See `open_transformer`."""
    if not directory.is_dir():
        raise WorkflowError("a transformers model is a directory with config.json and safetensors weights")
    _check_weights(directory)
    _check_configuration(directory)
    transformers.utils.logging.disable_progress_bar()
    device = prepare_device(torch, resources, threads)
    format_ = getattr(torch, dtype) if dtype else "auto" if device.type == "cuda" else torch.float32
    model, found = open_part(
        transformers, kind, directory, use_safetensors=True, dtype=format_, output_loading_info=True
    )
    # transformers makes up what is missing, at random. Plain encoders are often saved without a pooler that nobody asks.
    if any(kind != "AutoModel" or "pooler." not in name for name in found["missing_keys"]):
        raise WorkflowError(f"these weights are not those of an {kind}: parts of it are missing")
    return model.eval().to(device), device


def open_part(transformers: Any, kind: str, directory: Path, **options: Any) -> Any:
    """What a class of transformers makes of a directory's files, running no code of theirs. Raises WorkflowError."""
    try:
        return getattr(transformers, kind).from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as cause:
        raise WorkflowError(f"transformers cannot open this directory as {kind}; the log says why") from cause


def _check_weights(directory: Path) -> None:
    """Raises WorkflowError where there are no safetensors weights, or something else under such a name."""
    weights = list(directory.glob("*.safetensors"))
    if not weights:
        raise WorkflowError("no safetensors weights here, and others are not loaded: save with save_pretrained() first")
    for path in weights:
        with path.open("rb") as file:
            kind = kind_of(file)
        if kind != "safetensors":
            found = RUNS_CODE.get(kind, "something else")
            raise WorkflowError(f"{path.name!r} holds no safetensors but {found}, which is never loaded here")
    whole = {path.name for path in weights}
    for path in directory.glob("*.safetensors.index.json"):  # transformers would load whatever it names
        named = _json(path).get("weight_map")
        if not (isinstance(named, dict) and all(isinstance(name, str) and name in whole for name in named.values())):
            raise WorkflowError(f"{path.name!r} names weights that are no safetensors of this directory")


def _check_configuration(directory: Path) -> None:
    """Raises WorkflowError where transformers would fetch code from a hub and run it: kernels are named like models there,
    and no option of transformers turns that off."""
    for key, value in _entries(_json(directory / "config.json")):
        asked = [
            text for _, text in _entries({key: value}) if key.endswith("_implementation") and isinstance(text, str)
        ]
        if any("/" in text for text in asked):
            raise WorkflowError(f"config.json asks for code of a hub as its {key[:64]}, which is never loaded here")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of nested objects, at whatever depth."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as cause:
        raise WorkflowError(f"{path.name!r} cannot be read") from cause
    if not isinstance(content, dict):
        raise WorkflowError(f"{path.name!r} holds no object")
    return content


def check_text(text: str, param: str, max_chars: int) -> None:
    """Before a tokenizer spends time on it: raises ContextTooLong for text that cannot fit, InvalidInput for no Unicode."""
    if len(text) > max_chars:
        raise ContextTooLong(param=param)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as cause:
        raise InvalidInput(f"{param} is not valid Unicode text", param=param) from cause


def check_tokens(tokens: Sequence[int], vocabulary: int, param: str) -> None:
    """Before a model reads them: raises InvalidInput for one that it does not know, which would take down whoever reads
    along with it. Texts have such where somebody has added to a tokenizer and not to its model."""
    if max(tokens, default=0) >= vocabulary:
        raise InvalidInput(f"a token that this model does not know: it has those below {vocabulary}", param=param)


def positions_of(model: Any) -> int | None:
    """How many tokens an encoder has positions for; None where it does not say.

    Models of RoBERTa's kind begin to count after the padding token's number, so that many positions are never used. It
    shows in their table of positions, which has a row for padding; BERT's has none.
    """
    said: int | None = getattr(model.config, "max_position_embeddings", None)
    tables = (part for name, part in model.named_modules() if name.endswith("position_embeddings"))
    padding = getattr(next(tables, None), "padding_idx", None)
    return said if said is None or padding is None else said - padding - 1


def longest_input(opened: LocalTransformer, wanted: int | None, said: int | None = None) -> int:
    """The longest text in tokens: what is wanted, else what the files say, never more than the model can take.

    Raises InvalidInput: more is wanted than that, or nobody says.
    """
    limits = [limit for limit in (opened.tokenizer.model_max_length, positions_of(opened.model)) if limit]
    most: int = min(limits)
    if wanted is not None and wanted > most:
        raise InvalidInput(f"the model takes {most} tokens at most", param="max_tokens")
    longest = min(wanted or said or most, most)
    if longest > MAX_TOKENS:  # tokenizers without a limit say so by a number with thirty digits
        raise InvalidInput("the model does not say how long a text may be: set max_tokens", param="max_tokens")
    return longest
