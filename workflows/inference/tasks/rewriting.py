"""A text made of another one by an encoder and a decoder: a summary, or a translation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from workflows.context import CallContext, current_call
from workflows.deadlines import given_up
from workflows.errors import InvalidInput, Unsupported, WorkflowError
from workflows.inference.local_transformer import positions_of
from workflows.inference.padding import RunCosts, plan_runs
from workflows.inference.tasks.task import Bounds, In, Task, TaskModel, about_tokens
from workflows.types.tasks import Decoding, Rewritten, Summarize, Translate
from workflows.types.text import Usage

__all__ = ["Summarization", "Translation"]

# To write a token takes about as long for many as for one, and there are many to write: what matters is one run less.
_CPU_COSTS: Final = RunCosts(call=2048, most=1 << 13)
_GPU_COSTS: Final = RunCosts(call=1 << 15, most=1 << 16, step=8)


@dataclass(frozen=True, slots=True)
class _Source:
    """What one run is given.

    Attributes:
        options: Of generating, the same for all that are written together.
        call: Who waits for it.
    """

    ids: list[int]
    options: Mapping[str, Any]
    call: CallContext


class _Rewriting(Task[In, _Source, Rewritten]):
    """What summaries and translations have in common: greedy or beam search, never at random."""

    opens = "AutoModelForSeq2SeqLM"
    output = Rewritten

    def __init__(self, model: TaskModel) -> None:
        super().__init__(model)
        own = model.model.generation_config
        places = positions_of(model.model)
        self._most = model.bounds.max_new_tokens if places is None else min(model.bounds.max_new_tokens, places - 1)
        self._own_most: int | None = own.max_new_tokens or (own.max_length and own.max_length - 1)
        self._own_least: int = own.min_new_tokens or max(0, (own.min_length or 0) - 1)
        self._own_beams: int = own.num_beams or 1
        self._padding: int = model.tokenizer.pad_token_id or 0
        self._costs = _GPU_COSTS if model.on_gpu else _CPU_COSTS

    # ---- one request -----------------------------------------------------------------------------------------------

    @abstractmethod
    def own_settings(self, asked: In) -> Mapping[str, Any]:
        """What the model's files say about requests of this kind: a prefix and, perhaps, how text is made."""

    def source(self, asked: Any, prefix: str, **options: Any) -> _Source:
        """The text behind its prefix as tokens, and how its answer is made."""
        model = self.model
        prefix = prefix if model.bounds.prefix is None else model.bounds.prefix
        text = model.checked(prefix + asked.text, truncate=asked.truncate)
        ids = list(model.encoded(text, truncate=asked.truncate)["input_ids"])
        if not asked.text.strip():
            raise InvalidInput("the text is empty", param="text")
        return _Source(ids, {**self._options(asked.decoding, self.own_settings(asked)), **options}, current_call())

    def _options(self, decoding: Decoding, own: Mapping[str, Any]) -> dict[str, Any]:
        """In transformers' names: as asked, else as the model's files say; lengths within bounds."""
        said = decoding.model_dump(exclude_none=True)
        options = {name: own[name] for name in Decoding.model_fields if name in own} | said
        most = said.get("max_new_tokens") or (own["max_length"] - 1 if "max_length" in own else self._own_most)
        most = min(most or self._most, self._most)
        least = said.get("min_new_tokens")
        if least is None:
            least = min(own["min_length"] - 1 if "min_length" in own else self._own_least, most)
        elif least > most:
            raise InvalidInput(f"no answer is longer than {most} tokens", param="decoding.min_new_tokens")
        return {**options, "max_new_tokens": most, "min_new_tokens": max(0, least)}

    def answer(self, asked: Any, read: _Source, said: list[int]) -> Rewritten:
        cleaned = asked.clean_up_tokenization_spaces
        options = {} if cleaned is None else {"clean_up_tokenization_spaces": cleaned}
        text = self.model.tokenizer.decode(said, skip_special_tokens=True, **options)
        return Rewritten(text=text, usage=Usage(prompt_tokens=len(read.ids), completion_tokens=len(said)))

    # ---- many ------------------------------------------------------------------------------------------------------

    def run(self, batch: list[_Source]) -> list[list[int] | WorkflowError]:
        """Those with the same options are written together; who leaves meanwhile is not written for any longer."""
        outcomes: list[list[int] | WorkflowError] = [WorkflowError() for _ in batch]
        alike: dict[Hashable, list[int]] = {}
        for place, source in enumerate(batch):
            alike.setdefault(tuple(sorted(source.options.items())), []).append(place)
        for places in alike.values():
            beams = batch[places[0]].options.get("num_beams") or self._own_beams
            costs = replace(self._costs, most=self._costs.most // beams)  # each of them is a text of its own
            for run in plan_runs([len(batch[place].ids) for place in places], costs):
                members = [places[at] for at in run]
                for place, tokens in zip(members, self._written([batch[at] for at in members]), strict=True):
                    outcomes[place] = given_up(batch[place].call, begun=True) or tokens
        return outcomes

    def warm_up(self) -> None:
        token = next(iter(self.model.tokenizer("a", verbose=False)["input_ids"]), 0)
        options = {"max_new_tokens": 2, "min_new_tokens": 2, "num_beams": 1}
        self._written([_Source([token] * self.model.bounds.max_tokens, options, CallContext())])

    def _written(self, sources: Sequence[_Source]) -> list[list[int]]:
        """The tokens that were written for each, up to the one that ends the answer and with it."""
        torch, model = self.model.torch, self.model.model
        longest = min(self._costs.padded(max(len(source.ids) for source in sources)), self.model.bounds.max_tokens)
        ids = np.full((len(sources), longest), self._padding, dtype=np.int64)
        mask = np.zeros((len(sources), longest), dtype=np.int64)
        for row, source in enumerate(sources):
            ids[row, : len(source.ids)] = source.ids
            mask[row, : len(source.ids)] = 1
        calls = [source.call for source in sources]

        def gone(written: Any, scores: Any, **_: Any) -> Any:
            left = torch.tensor([given_up(call, begun=True) is not None for call in calls], device=written.device)
            return left.repeat_interleave(written.shape[0] // len(calls))

        given = model.generate(
            input_ids=torch.from_numpy(ids).to(self.model.device),
            attention_mask=torch.from_numpy(mask).to(self.model.device),
            stopping_criteria=[gone],
            do_sample=False,
            max_length=None,
            min_length=None,
            **sources[0].options,
        )
        return [self._bare(row) for row in given.cpu().tolist()]

    def _bare(self, tokens: list[int]) -> list[int]:
        """Without the token that the decoder starts from, and without the padding behind the end."""
        ends = self.model.model.generation_config.eos_token_id
        known = set(ends if isinstance(ends, list) else [ends])
        for place, token in enumerate(tokens[1:], 1):
            if token in known:
                return tokens[1 : place + 1]
        return tokens[1:]


class Summarization(_Rewriting[Summarize]):
    """Texts in fewer words."""

    name = "summarization"
    input = Summarize

    def read(self, asked: Summarize) -> _Source:
        return self.source(asked, self.own_settings(asked).get("prefix") or "")

    def own_settings(self, asked: Summarize) -> Mapping[str, Any]:
        return _task_settings(self.model.model.config).get(self.name, {})

    @staticmethod
    def cost(asked: Summarize, bounds: Bounds) -> float:
        return about_tokens(asked.text, bounds.max_tokens)

    @classmethod
    def bucket(cls, asked: Summarize, bounds: Bounds) -> Hashable:
        return asked.decoding


class Translation(_Rewriting[Translate]):
    """Texts in another language: the model's only one, or one of those that its tokenizer or its files name."""

    name = "translation"
    input = Translate

    def __init__(self, model: TaskModel) -> None:
        super().__init__(model)
        self._settings = _task_settings(model.model.config)
        self._by_codes = hasattr(model.tokenizer, "src_lang")

    def read(self, asked: Translate) -> _Source:
        if not self._by_codes:
            return self.source(asked, self.own_settings(asked).get("prefix") or "")
        if asked.src_lang is None or asked.tgt_lang is None:
            raise InvalidInput("this model knows several languages: give src_lang and tgt_lang", param="src_lang")
        target = self._language(asked.tgt_lang, "tgt_lang")
        self._language(asked.src_lang, "src_lang")
        self.model.tokenizer.src_lang = asked.src_lang
        return self.source(asked, "", forced_bos_token_id=target)

    def own_settings(self, asked: Translate) -> Mapping[str, Any]:
        """Where the model's files name pairs of languages, those of the pair that is asked for."""
        pairs = {name: said for name, said in self._settings.items() if name.startswith("translation_")}
        if asked.src_lang is None:
            if len(pairs) > 1 and self.model.bounds.prefix is None:
                raise InvalidInput("this model knows several languages: give src_lang and tgt_lang", param="src_lang")
            return next(iter(pairs.values()), {})
        if self._by_codes:
            return {}
        found = pairs.get(f"translation_{asked.src_lang}_to_{asked.tgt_lang}")
        if found is None:
            raise Unsupported("this model does not translate between these languages", param="tgt_lang")
        return found

    @staticmethod
    def cost(asked: Translate, bounds: Bounds) -> float:
        return about_tokens(asked.text, bounds.max_tokens)

    @classmethod
    def bucket(cls, asked: Translate, bounds: Bounds) -> Hashable:
        return asked.decoding, asked.tgt_lang

    def _language(self, code: str, param: str) -> int:
        """The token of a language. Raises InvalidInput for one that the model does not know."""
        tokenizer = self.model.tokenizer
        codes: Mapping[str, str] = getattr(tokenizer, "lang_code_to_token", {})
        token: int = tokenizer.convert_tokens_to_ids(codes.get(code, code))
        if token == tokenizer.unk_token_id or token not in tokenizer.all_special_ids:
            raise InvalidInput("this model does not know that language", param=param)
        return token


def _task_settings(config: Any) -> Mapping[str, Mapping[str, Any]]:
    """What config.json says about single tasks, as that of T5 does."""
    found = getattr(config, "task_specific_params", None)
    return found if isinstance(found, dict) else {}
