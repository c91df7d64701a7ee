"""Which tokens may stand where a text has been masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from workflows.errors import InvalidInput, WorkflowError
from workflows.inference.local_transformer import check_tokens
from workflows.inference.tasks.encoder import EncoderTask, Row, row_of
from workflows.inference.tasks.task import Bounds, TaskModel, about_tokens
from workflows.tensors import Array
from workflows.types.tasks import Filled, Filling, FillMask

__all__ = ["FillingMasks"]

MAX_MASKS: Final = 16
# Of all masks together: each brings the whole text with it.
MAX_FILLINGS: Final = 100


@dataclass(frozen=True, slots=True)
class _Masked:
    """A text whose one row's `places` are the masks; `targets` are the tokens that may stand there, None for any."""

    rows: list[Row]
    targets: list[int] | None


class FillingMasks(EncoderTask[FillMask, _Masked, Filled]):
    """Tokens for masks, each mask by itself: two of them are filled as if the other stayed."""

    name = "fill-mask"
    opens = "AutoModelForMaskedLM"
    input = FillMask
    output = Filled

    def __init__(self, model: TaskModel) -> None:
        super().__init__(model)
        if model.tokenizer.mask_token_id is None:
            raise WorkflowError("the tokenizer has no mask token")
        self._mask: int = model.tokenizer.mask_token_id
        self._vocabulary: dict[str, int] = model.tokenizer.get_vocab()

    def numbers_per_token(self) -> int:
        return int(self.model.model.config.vocab_size)

    def picked(self, output: Any, rows: Sequence[Row]) -> list[Any]:
        return [output.logits[place, list(row.places)] for place, row in enumerate(rows)]

    def read(self, asked: FillMask) -> _Masked:
        text = self.model.checked(asked.text, truncate=asked.truncate)
        encoded = self.model.encoded(text, truncate=asked.truncate)
        places = [place for place, token in enumerate(encoded["input_ids"]) if token == self._mask]
        if not 0 < len(places) <= MAX_MASKS:
            masks = f"1 to {MAX_MASKS} mask tokens, each {self.model.tokenizer.mask_token!r} for this model"
            raise InvalidInput(f"the text must have {masks}, and has {len(places)}", param="text")
        if len(places) * asked.top_k > MAX_FILLINGS:
            raise InvalidInput(f"top_k: at most {MAX_FILLINGS // len(places)} for {len(places)} masks", param="top_k")
        return _Masked([row_of(encoded, places)], None if asked.targets is None else self._tokens(asked.targets))

    def answer(self, asked: FillMask, read: _Masked, said: list[Array]) -> Filled:
        (row,), (logits,) = read.rows, said
        grown = np.exp(logits - logits.max(axis=-1, keepdims=True))
        chances = grown / grown.sum(axis=-1, keepdims=True)
        allowed = np.arange(chances.shape[-1]) if read.targets is None else np.array(read.targets)
        masks = [
            self._fillings(row.ids, place, chances[at, allowed], allowed, asked.top_k, only=len(row.places) == 1)
            for at, place in enumerate(row.places)
        ]
        return Filled(masks=masks, tokens=len(row.ids))

    def example(self) -> FillMask:
        """With the model's own mask."""
        return FillMask(text=f"Paris is the {self.model.tokenizer.mask_token} of France.")

    @staticmethod
    def cost(asked: FillMask, bounds: Bounds) -> float:
        return about_tokens(asked.text, bounds.max_tokens)

    def _fillings(
        self, ids: list[int], place: int, chances: Array, allowed: Array, top_k: int, *, only: bool
    ) -> list[Filling]:
        count = min(top_k, len(chances))
        likely = np.argpartition(-chances, count - 1)[:count]
        best = likely[np.argsort(-chances[likely], kind="stable")]
        fillings = []
        for at in best:
            token = int(allowed[at])
            with_it = [*ids[:place], token, *ids[place + 1 :]]
            # Where there are more masks, they would go with the other special tokens.
            sequence = self.model.tokenizer.decode(with_it, skip_special_tokens=only)
            said = self.model.tokenizer.decode([token])
            fillings.append(Filling(score=float(chances[at]), token=token, token_str=said, sequence=sequence))
        return fillings

    def _tokens(self, targets: list[str]) -> list[int]:
        """The tokens of these words, each once; of one that is no token by itself, its first."""
        found: dict[int, None] = {}
        for target in targets:
            token = self._vocabulary.get(target)
            if token is None:
                self.model.checked(target, "targets")
                ids = self.model.tokenizer(target, add_special_tokens=False, verbose=False)["input_ids"]
                if not ids:
                    continue
                token = ids[0]
            check_tokens([token], self.model.vocabulary, "targets")
            found[token] = None
        if not found:
            raise InvalidInput("none of the targets has a token", param="targets")
        if max(found) >= self.numbers_per_token():
            raise InvalidInput("the model gives no score to one of the targets", param="targets")
        return list(found)
