"""Bark with random weights: every stage, voice presets, batches, seeds, and files that are not what they should be."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from logging.handlers import BufferingHandler
from operator import ne
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch

from tests.workflows.speech.tones import speaking
from workflows import BarkHFInferenceWorkflow, Speech
from workflows.demo.tiny_bark import VOICES, build
from workflows.errors import Cancelled, InvalidInput, WorkflowError
from workflows.inference.speech.bark_voices import INDEX, read_presets
from workflows.inference.speech.engine import AudioInferenceResult, Sentence
from workflows.inference.torch_device import Dtype
from workflows.tensors import Array

SHORT = {"max_new_tokens": 24}
TEXTS = ("Hello there.", "Another text, which is longer.", "Hi.")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # of this thread: the workflow's own has its own number
    return build(tmp_path_factory.mktemp("bark"))


@pytest.fixture(scope="module")
def bark(directory: Path) -> Iterator[BarkHFInferenceWorkflow]:
    with speaking(voiced(directory)) as workflow:
        yield workflow


def voiced(directory: Path, **options: Any) -> BarkHFInferenceWorkflow:
    return BarkHFInferenceWorkflow(str(directory), threads=1, **options)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths of all files that this process opens meanwhile."""
    if not _hooked:
        sys.addaudithook(_heard)
        _hooked.append(True)
    _watching.append([])
    yield _watching[-1]
    _watching.clear()


_hooked: list[bool] = []
_watching: list[list[str]] = []


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, of which Python knows no end."""
    if event == "open":
        for paths in _watching:
            paths.append(str(arguments[0]))


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return Path(copytree(directory, tmp_path / "copy"))


def change(directory: Path, **stages: dict[str, Any]) -> None:
    """How the stages choose tokens."""
    path = directory / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | stages))


def heard(speech: Speech) -> Array:
    assert speech.samples is not None
    return speech.samples


def likeness(one: Array, other: Array) -> float:
    length = min(len(one), len(other))
    return float(np.corrcoef(one[:length], other[:length])[0, 1])


def batches_of(workflow: BarkHFInferenceWorkflow, monkeypatch: pytest.MonkeyPatch) -> list[list[Sentence]]:
    """What is said together from now on."""
    seen: list[list[Sentence]] = []
    say = workflow.synthesize_batch

    def watched(sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
        seen.append(list(sentences))
        return say(sentences)

    monkeypatch.setattr(workflow._engine, "_say", watched)
    return seen


def test_texts_and_voices_sound_different_and_each_the_same_again(bark: BarkHFInferenceWorkflow) -> None:
    asked = [{"text": text, "voice": voice} for text in TEXTS[:2] for voice in VOICES[:2]]
    said = [heard(bark.inference(one)) for one in asked]
    for place, one in enumerate(said):
        assert np.sqrt(np.mean(one**2)) > 0.02
        np.testing.assert_array_equal(one, heard(bark.inference(asked[place])))
        for other in said[:place]:
            assert likeness(one, other) < 0.9


def test_what_is_said_in_company_is_what_is_said_alone(bark: BarkHFInferenceWorkflow) -> None:
    sentences = [Sentence(text, VOICES[0]) for text in TEXTS]
    together = bark.synthesize_batch(sentences)
    for sentence, said in zip(sentences, together, strict=True):
        alone = bark.synthesize(sentence)
        assert isinstance(said, AudioInferenceResult)
        np.testing.assert_allclose(said.audio_array, alone.audio_array, atol=1e-4)


@pytest.mark.parametrize("likely", [1e-3, 1e-4])
def test_sentences_that_end_at_different_times_are_in_company_what_they_are_alone(copy: Path, likely: float) -> None:
    """Of which some end before they have begun. `likely`: the end is taken where it is more probable than this."""
    change(copy, semantic_config=SHORT | {"do_sample": False, "min_eos_p": likely})
    texts = [*TEXTS, "Yes, of course.", "No!"]
    lengths = []
    with speaking(voiced(copy)) as workflow:
        sentences = [Sentence(text, VOICES[0]) for text in texts]
        for sentence, said in zip(sentences, workflow.synthesize_batch(sentences), strict=True):
            alone = workflow.synthesize(sentence)
            assert isinstance(said, AudioInferenceResult)
            np.testing.assert_allclose(said.audio_array, alone.audio_array, atol=1e-4)
            lengths.append(len(alone.audio_array))
    assert len(set(lengths)) > 1
    assert likely > 1e-4 or 0 in lengths


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_says_it_as_well(directory: Path, dtype: Dtype) -> None:
    with speaking(voiced(directory, dtype=dtype)) as workflow:
        one, other = (heard(workflow.inference({"text": text})) for text in TEXTS[:2])
        assert one.dtype == np.float32
        assert np.sqrt(np.mean(one**2)) > 0.02
        assert likeness(one, other) < 0.9


def test_a_batch_leaves_nothing_in_the_log(bark: BarkHFInferenceWorkflow) -> None:
    """But for what transformers says once in a process, of how its Bark asks itself."""
    handler = BufferingHandler(1000)
    logger = logging.getLogger("transformers")
    sentences = [Sentence(text, VOICES[0]) for text in TEXTS]
    bark.synthesize_batch(sentences)
    logger.addHandler(handler)
    try:
        bark.synthesize_batch(sentences)
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in handler.buffer] == []


def test_a_batch_has_one_voice(bark: BarkHFInferenceWorkflow, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = batches_of(bark, monkeypatch)
    bark.inference_batch([{"text": text, "voice": voice} for text in TEXTS for voice in VOICES])
    assert sum(map(len, seen)) == len(TEXTS) * len(VOICES)
    assert max(map(len, seen)) > 1
    assert all(len({sentence.voice for sentence in batch}) == 1 for batch in seen)


def test_a_long_sentence_is_said_in_parts(bark: BarkHFInferenceWorkflow, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = batches_of(bark, monkeypatch)
    said = bark.inference({"text": "and on " * 100})
    texts = [sentence.text for batch in seen for sentence in batch]
    assert " ".join(texts) == ("and on " * 100).strip()
    assert max(map(len, texts)) <= 180
    assert said.seconds > 4 * 0.2


@pytest.mark.parametrize("voice", ["../../etc/passwd", "v2/en_speaker_6.npz", "v2/nope", "repo_or_path", "/dev/zero"])
def test_no_file_is_opened_for_a_voice_that_is_not_listed(
    bark: BarkHFInferenceWorkflow, voice: str, opened: list[str]
) -> None:
    with pytest.raises(InvalidInput, match="'v2/en_speaker_6', 'v2/en_speaker_9', 'v2/de_speaker_3'") as refused:
        bark.inference({"text": "Hi.", "voice": voice})
    assert refused.value.param == "voice"
    assert not [path for path in opened if voice.removesuffix(".npz") in path or "speaker" in path]


def test_the_card_lists_voices(bark: BarkHFInferenceWorkflow, directory: Path) -> None:
    card = bark.card("bark")
    assert (card.voices, card.sample_rate, card.model) == (list(VOICES), 24_000, directory.name)
    assert bark.language_of("v2/de_speaker_3") == "de"


def test_drawn_speech_is_repeated_by_a_seed_and_not_without(copy: Path) -> None:
    drawn: dict[str, Any] = {"do_sample": True, "temperature": 0.7}  # in every stage, as the real Bark does
    fine = {"temperature": 0.5}
    change(copy, semantic_config=drawn | SHORT, coarse_acoustics_config=drawn, fine_acoustics_config=fine)
    with speaking(voiced(copy, voice="v2/de_speaker_3")) as workflow:
        assert workflow.card("bark").voices[0] == "v2/de_speaker_3"
        one, again, other = (heard(workflow.inference({"text": "Hi.", "seed": seed})) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert len(one) != len(other) or likeness(one, other) < 0.9
        others = []
        for _ in range(2):  # a seed is for its own sentence, and not for those that are said after it
            workflow.inference({"text": "Hi.", "seed": 1})
            others.append(heard(workflow.inference({"text": "Hi."})))
        assert len(others[0]) != len(others[1]) or likeness(*others) < 0.9
        company = workflow.inference_batch([{"text": "Hi.", "seed": 1}, {"text": "Ho."}, {"text": "Hi.", "seed": 1}])
        for said in (company[0], company[2]):
            assert isinstance(said, Speech)
            np.testing.assert_array_equal(heard(said), one)


def test_a_model_that_speaks_for_nobody_stops(bark: BarkHFInferenceWorkflow) -> None:
    asked = 0

    def is_wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked < 5

    with pytest.raises(Cancelled):
        bark.synthesize_batch([Sentence("Hello there.", VOICES[0], is_wanted=is_wanted)])
    assert asked == 5


def test_who_has_left_is_given_nothing_and_the_others_all_of_it(bark: BarkHFInferenceWorkflow) -> None:
    sentences = [Sentence(text, VOICES[0], is_wanted=partial(ne, text, "Hi.")) for text in TEXTS]
    said = bark.synthesize_batch(sentences)
    assert [type(one) for one in said] == [AudioInferenceResult, AudioInferenceResult, Cancelled]


def test_a_model_without_voices_speaks_as_it_likes(copy: Path) -> None:
    (copy / INDEX).unlink()
    with speaking(voiced(copy)) as workflow:
        assert workflow.card("bark").voices == ["random"]
        assert workflow.inference({"text": "Hi."}).seconds > 0


# ---- files of voices ---------------------------------------------------------------------------------------------------


def test_presets_are_read_as_they_were_written(directory: Path) -> None:
    presets = read_presets(directory, 10_000, 1024)
    assert list(presets) == list(VOICES)
    for voice, preset in presets.items():
        for part in ("semantic_prompt", "coarse_prompt", "fine_prompt"):
            written = np.load(directory / f"speaker_embeddings/{voice}_{part}.npy")
            np.testing.assert_array_equal(getattr(preset, part), written)


def test_a_voice_without_files_is_left_out(copy: Path) -> None:
    (copy / f"speaker_embeddings/{VOICES[1]}_fine_prompt.npy").unlink()
    assert list(read_presets(copy, 10_000, 1024)) == [VOICES[0], VOICES[2]]


@pytest.mark.parametrize(
    "index",
    [
        "no json",
        "[]",
        "[" * 100_000,
        json.dumps({"v": None}),
        json.dumps({"v": {"semantic_prompt": "a.npy"}}),
        json.dumps({"v": dict.fromkeys(("semantic_prompt", "coarse_prompt", "fine_prompt"), "../a.npy")}),
        json.dumps({"v": dict.fromkeys(("semantic_prompt", "coarse_prompt", "fine_prompt"), "/etc/passwd")}),
        json.dumps({"\ud800": dict.fromkeys(("semantic_prompt", "coarse_prompt", "fine_prompt"), "a.npy")}),
        json.dumps({"a\n": dict.fromkeys(("semantic_prompt", "coarse_prompt", "fine_prompt"), "a.npy")}),
        json.dumps({"": dict.fromkeys(("semantic_prompt", "coarse_prompt", "fine_prompt"), "a.npy")}),
        " " * (2 << 20),
    ],
)
def test_a_list_of_voices_that_is_none_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(WorkflowError, match=INDEX):
        read_presets(tmp_path, 10_000, 1024)


@pytest.mark.parametrize(
    "tokens",
    [
        np.array([{}], dtype=object),
        np.zeros((1, 2), np.int64),
        np.zeros(0, np.int64),
        np.array([0.5]),
        np.array([-1]),
        np.array([10_000]),
        np.zeros(1 << 20, np.int64),
        b"",
        b"PK\x03\x04 not a zip",
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<i8', 'fortran_order': False, 'shape': (1152921504606846975,), }".ljust(118),
        b"\x80\x04N.",
    ],
)
def test_a_file_that_holds_no_voice_is_refused(copy: Path, tokens: Array | bytes) -> None:
    path = copy / f"speaker_embeddings/{VOICES[0]}_semantic_prompt.npy"
    if isinstance(tokens, bytes):
        path.write_bytes(tokens)
    else:
        np.save(path, tokens, allow_pickle=True)
    with pytest.raises(WorkflowError, match="a file of a voice"):
        read_presets(copy, 10_000, 1024)


@pytest.mark.parametrize(("part", "shape"), [("coarse_prompt", (2, 3)), ("fine_prompt", (8, 3))])
def test_codes_that_the_codec_has_not_are_refused(copy: Path, part: str, shape: tuple[int, ...]) -> None:
    path = copy / f"speaker_embeddings/{VOICES[0]}_{part}.npy"
    for wrong in (np.full(shape, 1024), np.zeros(shape[::-1], np.int64)):
        np.save(path, wrong)
        with pytest.raises(WorkflowError, match="a file of a voice"):
            read_presets(copy, 10_000, 1024)
    np.save(path, np.full(shape, 1023))
    assert list(read_presets(copy, 10_000, 1024)) == list(VOICES)


def test_a_voice_that_the_model_has_not_is_refused_at_setup(directory: Path) -> None:
    with pytest.raises(InvalidInput, match="no such voice") as refused:
        BarkHFInferenceWorkflow(str(directory), voice="v2/nobody").setup()
    assert refused.value.param == "voice"


def test_weights_that_are_no_safetensors_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(WorkflowError, match="no safetensors weights"):
        BarkHFInferenceWorkflow(str(copy)).setup()


def test_a_directory_without_settings_of_its_stages_is_refused(copy: Path) -> None:
    (copy / "generation_config.json").write_text("{}")
    with pytest.raises(WorkflowError, match="not that of a Bark"):
        BarkHFInferenceWorkflow(str(copy), threads=1).setup()
