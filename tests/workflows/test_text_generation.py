"""Text generation with a tiny random Llama and a byte-level tokenizer: nonsense, but the same nonsense as transformers'."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.workflows.tiny_transformers import LLAMA_CONTEXT, PROMPT, save_tiny_llama
from workflows.context import CallContext
from workflows.errors import Cancelled, ContextTooLong, InvalidInput, NotReady, Unsupported, WorkflowError
from workflows.inference.generation.engine import Answer, Engine, Made, Order
from workflows.inference.text_generation import TransformersTextGenerationWorkflow
from workflows.testing import check_workflow
from workflows.types import Generate, Generated, Message, Sampling, TextChunk

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_tiny_llama(root / "tiny")
    return root


@pytest.fixture(scope="module")
def workflow(root: Path) -> Iterator[TransformersTextGenerationWorkflow]:
    made = TransformersTextGenerationWorkflow("tiny", root=str(root), max_new_tokens=64, threads=1, engine="thread")
    made.setup()
    yield made
    made.teardown()


Opened = Callable[..., TransformersTextGenerationWorkflow]


@pytest.fixture
def opened(root: Path) -> Iterator[Opened]:
    """Sets up workflows, and tears them down after the test."""
    made: list[TransformersTextGenerationWorkflow] = []

    def open_one(name: str, **options: Any) -> TransformersTextGenerationWorkflow:
        made.append(TransformersTextGenerationWorkflow(name, root=str(root), threads=1, engine="thread", **options))
        return made[-1].setup()

    yield open_one
    for workflow in made:
        workflow.teardown()


def test_it_conforms(root: Path) -> None:
    made = TransformersTextGenerationWorkflow("tiny", root=str(root), threads=1)
    check_workflow(made, asked(max_tokens=12), more=[asked("the lazy dog", max_tokens=5, temperature=1.0, seed=4)])


def asked(prompt: str = PROMPT, **sampling: Any) -> Generate:
    return Generate(prompt=prompt, sampling=Sampling(**{"temperature": 0.0, "max_tokens": 32, **sampling}))


def other_model(root: Path, name: str, **tokenizer_settings: Any) -> str:
    """A copy of the tiny model with other tokenizer settings."""
    shutil.copytree(root / "tiny", root / name)
    settings = root / name / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **tokenizer_settings}))
    return name


def test_the_last_chunk_tells_the_last_token(workflow: TransformersTextGenerationWorkflow) -> None:
    sampling = asked(max_tokens=6).sampling
    told = workflow.inference(Generate(prompt=PROMPT, sampling=sampling, top_logprobs=0)).tokens
    assert told is not None
    for stop, count in ((None, 6), (told[2].text.strip(), 3)):
        said = sampling.model_copy(update={"stop": [stop] if stop else []})
        chunks = list(workflow.stream(Generate(prompt=PROMPT, sampling=said, include_stop=True, top_logprobs=2)))
        assert [[token.id for token in chunk.tokens or ()] for chunk in chunks] == [
            [token.id] for token in told[:count]
        ]
        assert chunks[-1].stop_string == stop
        assert "".join(chunk.text for chunk in chunks) == "".join(token.text for token in told[:count])


def test_greedy_makes_the_tokens_that_transformers_makes(
    root: Path, workflow: TransformersTextGenerationWorkflow
) -> None:
    model: Any = LlamaForCausalLM.from_pretrained(root / "tiny")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(root / "tiny")
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False)[
        0, ids.shape[1] :
    ]
    answer = workflow.inference(asked())
    assert answer.text == tokenizer.decode(expected, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert answer.usage.completion_tokens == len(expected)
    assert answer.usage.prompt_tokens == ids.shape[1]
    assert answer.finish_reason == ("stop" if expected[-1] == 1 else "length")


def test_the_answer_is_the_fold_of_its_stream(workflow: TransformersTextGenerationWorkflow) -> None:
    wish = asked(temperature=1.0, seed=3)
    chunks = list(workflow.stream(wish))
    assert len(chunks) > 5
    assert all(chunk.finish_reason is None and chunk.usage is None and chunk.text for chunk in chunks[:-1])
    assert Generated.fold(chunks) == workflow.inference(wish)


def test_seeded_streams_do_not_disturb_each_other(workflow: TransformersTextGenerationWorkflow) -> None:
    wishes = [asked(temperature=1.0, seed=seed) for seed in (1, 2)]
    alone = [workflow.inference(wish).text for wish in wishes]
    assert alone[0] != alone[1]
    streams = [workflow.stream(wish) for wish in wishes]
    texts = ["", ""]
    while streams[0] is not None or streams[1] is not None:
        for place, stream in enumerate(streams):
            chunk = next(stream, None) if stream is not None else None
            if chunk is None:
                streams[place] = None  # type: ignore[call-overload]
            else:
                texts[place] += chunk.text
    assert texts == alone


def test_a_stop_string_cuts_exactly(workflow: TransformersTextGenerationWorkflow) -> None:
    whole = workflow.inference(asked()).text
    stop = whole[5:8]
    answer = workflow.inference(asked(stop=["never in there", stop]))
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens < 32
    streamed = [chunk.text for chunk in workflow.stream(asked(stop=[stop]))]
    assert "".join(streamed) == answer.text


def test_the_end_token_ends_the_answer_and_is_no_text(
    root: Path, workflow: TransformersTextGenerationWorkflow, opened: Opened
) -> None:
    tokens = workflow.inference(Generate(prompt=PROMPT, sampling=asked().sampling, top_logprobs=0)).tokens
    assert tokens is not None
    second_token = tokens[1].id
    name = other_model(root, "other-end")
    settings = root / name / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": [1, second_token]}))
    answer = opened(name).inference(asked())
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens == 2
    assert workflow.inference(asked(max_tokens=1)).text == answer.text


def test_an_answer_is_cut_where_the_context_or_the_operator_ends_it(
    workflow: TransformersTextGenerationWorkflow,
) -> None:
    used = workflow.inference(asked(max_tokens=1)).usage.prompt_tokens
    long = workflow.inference(asked(max_tokens=10_000, temperature=1.0, seed=11))
    assert long.usage.completion_tokens <= 64
    prompt = "a" * (LLAMA_CONTEXT - 3)
    cut = workflow.inference(asked(prompt, max_tokens=50))
    assert cut.usage.prompt_tokens + cut.usage.completion_tokens <= LLAMA_CONTEXT
    assert cut.finish_reason == "length"
    assert used > 0


@pytest.mark.parametrize("length", [LLAMA_CONTEXT, LLAMA_CONTEXT * 20, LLAMA_CONTEXT * 1000])
def test_a_prompt_that_leaves_no_room_is_refused(workflow: TransformersTextGenerationWorkflow, length: int) -> None:
    with pytest.raises(ContextTooLong, match=r"^context length exceeded") as caught:
        workflow.inference(asked("z" * length))
    assert caught.value.param == "prompt"


def test_text_that_is_no_unicode_is_refused(workflow: TransformersTextGenerationWorkflow) -> None:
    with pytest.raises(InvalidInput) as caught:
        workflow.inference(Generate.model_construct(prompt="\ud800", sampling=Sampling()))
    assert caught.value.param == "prompt"


def test_an_empty_prompt_starts_from_the_begin_token(workflow: TransformersTextGenerationWorkflow) -> None:
    answer = workflow.inference(asked("", max_tokens=3))
    assert answer.usage.prompt_tokens == 1


def test_an_empty_prompt_without_begin_token_is_refused(root: Path, opened: Opened) -> None:
    save_tiny_llama(root / "bare", with_specials=False)
    bare = opened("bare")
    with pytest.raises(InvalidInput) as caught:
        bare.inference(asked(""))
    assert caught.value.param == "prompt"
    assert bare.inference(asked(max_tokens=40)).finish_reason == "length"


def test_a_token_that_only_the_tokenizer_knows_is_refused(root: Path, opened: Opened) -> None:
    """The engine would die of it, and with it the answers of all others."""
    name = other_model(root, "added", chat_template=CHAT)
    load: Any = AutoTokenizer.from_pretrained
    tokenizer = load(root / name)
    tokenizer.add_tokens(["<pad>"], special_tokens=True)
    tokenizer.save_pretrained(root / name)
    added = opened(name)
    asks: list[Any] = [{"prompt": "the <pad>"}, {"messages": [{"role": "user", "content": "<pad>"}]}]
    for one in asks:
        with pytest.raises(InvalidInput, match="a token that this model does not know") as caught:
            added.inference(one)
        assert caught.value.param in one
    assert added.inference(asked(max_tokens=3)).usage.completion_tokens == 3


def test_messages_need_a_template(workflow: TransformersTextGenerationWorkflow) -> None:
    with pytest.raises(Unsupported) as caught:
        workflow.inference({"messages": [{"role": "user", "content": "hi"}]})
    assert caught.value.param == "messages"


def test_messages_become_the_prompt_that_the_template_makes(
    root: Path, workflow: TransformersTextGenerationWorkflow, opened: Opened
) -> None:
    chat = opened(other_model(root, "chat", chat_template=CHAT))
    sampling = Sampling(temperature=0.0, max_tokens=8)
    answer = chat.inference(Generate(messages=[Message(role="user", content="hi {{ 1 }}")], sampling=sampling))
    assert answer.text == workflow.inference(Generate(prompt="<user>hi {{ 1 }}\n<assistant>", sampling=sampling)).text
    with pytest.raises(ContextTooLong, match="context length exceeded") as caught:
        chat.inference(Generate(messages=[Message(role="user", content="z" * LLAMA_CONTEXT * 5)]))
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('two user turns: ' + messages[0]['content']) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_a_template_is_sandboxed_and_its_complaints_are_not_repeated(root: Path, opened: Opened, template: str) -> None:
    evil = opened(other_model(root, f"evil-{abs(hash(template))}", chat_template=template))
    sent = "canary"
    with pytest.raises(InvalidInput) as caught:
        evil.inference(Generate(messages=[Message(role="user", content=sent)]))
    assert caught.value.message == "the model's chat template does not take this conversation"
    assert sent not in "".join(traceback.format_exception(caught.value))


def test_nothing_is_made_for_a_caller_who_left(workflow: TransformersTextGenerationWorkflow) -> None:
    gone, there = CallContext(), CallContext()
    gone.cancel()
    outcomes = workflow.inference_batch([asked(), asked()], [gone, there])
    assert isinstance(outcomes[0], Cancelled)
    assert isinstance(outcomes[1], Generated)


def test_a_stream_closed_early_leaves_the_workflow_as_it_was(workflow: TransformersTextGenerationWorkflow) -> None:
    expected = workflow.inference(asked())
    stream = workflow.stream(asked())
    first = next(stream)
    assert isinstance(first, TextChunk)
    assert first.finish_reason is None
    stream.close()
    assert workflow.inference(asked()) == expected


def test_the_first_chunk_comes_before_the_last_token_is_made(workflow: TransformersTextGenerationWorkflow) -> None:
    made: list[Made] = []

    class Counting:
        """The engine in front of the real one: notes what it made."""

        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

        def answer(self, order: Order) -> Any:
            return CountingAnswer(engine.answer(order))

    class CountingAnswer:
        def __init__(self, answer: Answer) -> None:
            self._answer = answer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._answer, name)

        async def __aiter__(self) -> AsyncGenerator[Made]:
            async for token in self._answer:
                made.append(token)
                yield token

    engine = workflow._engine
    workflow._engine = cast("Engine", Counting())
    try:
        stream = workflow.stream(asked())
        next(stream)
        assert len(made) <= 4
        stream.close()
    finally:
        workflow._engine = engine


def test_code_of_the_models_is_not_run(root: Path) -> None:
    name = other_model(root, "own-code")
    settings = root / name / "config.json"
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **own}))
    (root / name / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(WorkflowError, match="cannot open this directory"):
        TransformersTextGenerationWorkflow(name, root=str(root)).setup()


def test_setup_says_what_is_wrong(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    shutil.copy(root / "tiny" / "config.json", tmp_path / "pickled")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(WorkflowError, match="no safetensors weights"):
        TransformersTextGenerationWorkflow("pickled", root=str(tmp_path)).setup()
    with pytest.raises(WorkflowError, match="does not exist"):
        TransformersTextGenerationWorkflow("absent", root=str(tmp_path)).setup()
    with pytest.raises(InvalidInput, match="context_tokens is 100, but the model was made for 96"):
        TransformersTextGenerationWorkflow("tiny", root=str(root), context_tokens=100).setup()
    with pytest.raises(NotReady):
        TransformersTextGenerationWorkflow("tiny", root=str(root)).inference(asked())


def test_a_half_precision_model_answers(opened: Opened) -> None:
    half = opened("tiny", dtype="bfloat16", context_tokens=64)
    assert half.inference(asked(max_tokens=4)).usage.completion_tokens == 4
