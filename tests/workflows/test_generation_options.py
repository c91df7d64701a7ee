"""Every wish that a request may have, against the scores of the model itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.workflows.tiny_language_models import VOCABULARY
from tests.workflows.tiny_transformers import LLAMA_CONTEXT, PROMPT, save_tiny_llama
from workflows.errors import ContextTooLong, InvalidInput, Unsupported
from workflows.inference.text_generation import TransformersTextGenerationWorkflow
from workflows.types import Generate, Generated, Message, Sampling

END = 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    save_tiny_llama(root / "tiny")
    return root


@pytest.fixture(scope="module")
def workflow(root: Path) -> Iterator[TransformersTextGenerationWorkflow]:
    made = TransformersTextGenerationWorkflow("tiny", root=str(root), max_new_tokens=64, threads=1, engine="thread")
    yield made.setup()
    made.teardown()


@pytest.fixture(scope="module")
def model(root: Path) -> Any:
    return LlamaForCausalLM.from_pretrained(root / "tiny").eval()


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(root / "tiny")


def asked(sampling: dict[str, Any] | None = None, **fields: Any) -> Generate:
    wish = Sampling(**{"temperature": 0.0, "max_tokens": 12, **(sampling or {})})
    source = {} if {"prompt_tokens", "messages"} & set(fields) else {"prompt": PROMPT}
    return Generate(**{**source, "top_logprobs": 0, **fields}, sampling=wish)


def ids(answer: Generated) -> list[int]:
    assert answer.tokens is not None
    return [token.id for token in answer.tokens if token.id is not None]


@torch.no_grad()
def scores_after(model: Any, tokens: list[int]) -> torch.Tensor:
    scores: torch.Tensor = model(input_ids=torch.tensor([tokens])).logits[0, -1]
    return scores


def greedy(model: Any, prompt: list[int], count: int, change: Any) -> list[int]:
    """Greedy tokens of scores that `change(scores, made)` has changed."""
    made: list[int] = []
    while len(made) < count and END not in made:
        made.append(int(change(scores_after(model, prompt + made), made).argmax()))
    return made


def test_penalties_are_those_of_the_docstring(
    workflow: TransformersTextGenerationWorkflow, model: Any, tokenizer: Any
) -> None:
    prompt = tokenizer(PROMPT)["input_ids"]

    def repetition(scores: Any, made: list[int]) -> Any:
        for token in {*prompt, *made}:
            scores[token] = scores[token] / 1.7 if scores[token] > 0 else scores[token] * 1.7
        return scores

    def presence(scores: Any, made: list[int]) -> Any:
        for token in set(made):
            scores[token] -= 1.5
        return scores

    def frequency(scores: Any, made: list[int]) -> Any:
        for token in made:
            scores[token] -= 2.0
        return scores

    plain = ids(workflow.inference(asked({"max_tokens": 40})))
    for name, value, change in [
        ("repetition_penalty", 1.7, repetition),
        ("presence_penalty", 1.5, presence),
        ("frequency_penalty", 2.0, frequency),
    ]:
        got = ids(workflow.inference(asked({name: value, "max_tokens": 40})))
        assert got == greedy(model, prompt, 40, change), name
        assert got != plain, name


def test_a_bias_can_force_a_token_and_forbid_one(workflow: TransformersTextGenerationWorkflow) -> None:
    plain = ids(workflow.inference(asked()))
    forced = ids(workflow.inference(asked({"logit_bias": {"42": 100.0}})))
    assert set(forced) == {42}
    without = ids(workflow.inference(asked({"logit_bias": {str(plain[0]): -100.0}})))
    assert plain[0] not in without


@pytest.mark.parametrize("token", [VOCABULARY, (1 << 31) - 1])
def test_tokens_that_the_model_has_not_are_refused(workflow: TransformersTextGenerationWorkflow, token: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        workflow.inference(asked({"logit_bias": {str(token): 1.0}}))
    assert caught.value.param == "sampling.logit_bias"
    with pytest.raises(InvalidInput) as caught:
        workflow.inference(asked(prompt_tokens=[3, token]))
    assert caught.value.param == "prompt_tokens"


def test_no_answer_ends_before_its_shortest(workflow: TransformersTextGenerationWorkflow) -> None:
    eager = {"logit_bias": {str(END): 100.0}}
    assert ids(workflow.inference(asked(eager))) == [END]
    answer = workflow.inference(asked({**eager, "min_tokens": 5}))
    assert ids(answer)[5:] == [END]
    assert END not in ids(answer)[:5]
    assert answer.finish_reason == "stop"


def test_no_stop_string_is_heeded_before_the_shortest_answer(workflow: TransformersTextGenerationWorkflow) -> None:
    always = {"logit_bias": {"42": 100.0}, "max_tokens": 8}
    one = workflow.inference(asked({**always, "max_tokens": 1})).text
    answer = workflow.inference(asked({**always, "min_tokens": 4, "stop": [one]}))
    assert (answer.text, answer.usage.completion_tokens) == (one * 3, 4)


def test_without_a_limit_there_is_room_for_as_much_as_fits(workflow: TransformersTextGenerationWorkflow) -> None:
    always = {"logit_bias": {"42": 100.0}, "max_tokens": None}
    assert workflow.inference(asked(always)).usage.completion_tokens == 64
    answer = workflow.inference(asked(always, prompt_tokens=[3] * 90))
    assert answer.usage.completion_tokens == LLAMA_CONTEXT - 90
    assert answer.finish_reason == "length"


def test_log_probabilities_are_the_models_own(
    workflow: TransformersTextGenerationWorkflow, model: Any, tokenizer: Any
) -> None:
    wish = asked({"temperature": 1.5, "seed": 3, "repetition_penalty": 1.3, "top_k": 5}, top_logprobs=3)
    answer = workflow.inference(wish)
    read = tokenizer(PROMPT)["input_ids"]
    assert answer.tokens is not None
    for token in answer.tokens:
        chances = scores_after(model, read).log_softmax(-1)
        assert token.logprob == pytest.approx(float(chances[token.id]), abs=1e-3)
        best = chances.topk(3)
        assert [top.id for top in token.top] == best.indices.tolist()
        assert [top.logprob for top in token.top] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert token.text == tokenizer.decode([token.id])
        read.append(token.id)


def test_every_token_has_a_chunk_where_tokens_are_told(workflow: TransformersTextGenerationWorkflow) -> None:
    chunks = list(workflow.stream(asked({"logit_bias": {str(END): 3.0}})))
    assert all(len(chunk.tokens or []) == 1 for chunk in chunks[:-1])
    told = [token for chunk in chunks for token in chunk.tokens or []]
    assert chunks[-1].usage is not None
    assert len(told) == chunks[-1].usage.completion_tokens
    assert [token.special for token in told] == [(token.id or 0) <= END for token in told]
    silent = workflow.inference(Generate(prompt=PROMPT, sampling=Sampling(temperature=0.0, max_tokens=3)))
    assert silent.tokens is None


def test_an_echo_begins_with_the_prompt(workflow: TransformersTextGenerationWorkflow, tokenizer: Any) -> None:
    plain = workflow.inference(asked())
    assert workflow.inference(asked(echo=True)).text == PROMPT + plain.text
    assert next(workflow.stream(asked(echo=True))).text == PROMPT
    tokens = tokenizer(PROMPT)["input_ids"]
    assert workflow.inference(asked(prompt_tokens=tokens, echo=True)) == workflow.inference(asked(echo=True))
    cut = workflow.inference(asked(echo=True, truncate=2))
    assert cut.text.startswith(tokenizer.decode(tokens[-2:]))
    assert cut.usage.prompt_tokens == 2


def test_a_prompt_is_cut_from_its_beginning_where_that_is_allowed(
    workflow: TransformersTextGenerationWorkflow, tokenizer: Any
) -> None:
    text = "the lazy dog jumps " * 4000
    with pytest.raises(ContextTooLong):
        workflow.inference(asked(prompt=text))
    answer = workflow.inference(asked(prompt=text, truncate=20))
    assert answer.usage.prompt_tokens == 20
    kept = tokenizer(text)["input_ids"][-20:]
    assert ids(answer) == ids(workflow.inference(asked(prompt_tokens=kept)))
    assert workflow.inference(asked(prompt_tokens=[3] * 500, truncate=20)).usage.prompt_tokens == 20
    with pytest.raises(ContextTooLong):
        workflow.inference(asked(prompt=text, truncate=LLAMA_CONTEXT))
    assert workflow.inference(asked(truncate=5000)).text == workflow.inference(asked()).text


def test_the_stop_string_is_told_and_may_be_part_of_the_answer(workflow: TransformersTextGenerationWorkflow) -> None:
    whole = workflow.inference(asked()).text
    stop = whole[3:5]
    without = workflow.inference(asked({"stop": ["never", stop]}))
    assert (without.text, without.stop_string) == (whole[: whole.index(stop)], stop)
    wish = asked({"stop": ["never", stop]}, include_stop=True)
    within = workflow.inference(wish)
    assert within.stop_string == stop
    assert within.text.startswith(whole[: whole.index(stop) + len(stop)])
    assert whole.startswith(within.text)
    assert within.usage == without.usage
    assert Generated.fold(workflow.stream(wish)) == within
    assert workflow.inference(asked()).stop_string is None


def test_a_conversation_that_is_cut_needs_a_template_all_the_same(workflow: TransformersTextGenerationWorkflow) -> None:
    with pytest.raises(InvalidInput) as caught:
        workflow.inference(asked(messages=[Message(role="user", content="hi")], truncate=3))
    assert caught.value.param == "messages"


def test_the_card_says_what_the_model_takes(workflow: TransformersTextGenerationWorkflow) -> None:
    card = workflow.card("x")
    assert (card.model, card.context_tokens, card.max_new_tokens) == ("tiny", LLAMA_CONTEXT, 64)
    assert (card.concurrency, card.streams, card.batching) == (64, True, None)


IMAGE = {"type": "image", "media_type": "image/png", "data": b"x"}
CALL = {"id": "a", "name": "time", "arguments": "{}"}
HELLO = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [HELLO], "tools": [{"name": "time"}]}, "tools"),
        ({"messages": [HELLO], "tools": [{"name": "time"}], "tool_choice": "none"}, "tools"),
        ({"prompt": PROMPT, "response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [HELLO, {"role": "user", "content": [IMAGE]}]}, "messages.1.content"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, "messages.0.tool_calls"),
    ],
)
def test_what_a_local_model_cannot_do_is_refused_by_name(
    workflow: TransformersTextGenerationWorkflow, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(Unsupported) as refused:
        workflow.inference(workflow.parse_input(body))
    assert refused.value.param == param


def test_a_format_that_asks_for_nothing_changes_nothing(workflow: TransformersTextGenerationWorkflow) -> None:
    plain = workflow.inference(asked())
    assert workflow.inference(asked(response_format={"type": "text"})) == plain
