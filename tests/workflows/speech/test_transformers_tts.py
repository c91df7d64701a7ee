"""Speech models of transformers with random weights: each kind is asked as it wants to be, and refused where parts lack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.workflows.speech.tiny_voices import tiny_csm, tiny_dia, tiny_fastspeech, tiny_speecht5, tiny_vits
from tests.workflows.speech.tones import speaking
from workflows import Speech, TransformersTTSWorkflow
from workflows.demo.tiny_bark import build
from workflows.errors import Cancelled, InvalidInput, WorkflowError
from workflows.inference.speech.engine import AudioInferenceResult, Sentence


def voiced(model: Path, **options: Any) -> TransformersTTSWorkflow:
    return TransformersTTSWorkflow(str(model), threads=1, **options)


def speecht5(path: Path) -> tuple[Path, dict[str, Any]]:
    model, vocoder, speakers = tiny_speecht5(path)
    return model, {"vocoder": str(vocoder), "speakers": str(speakers)}


def dia(path: Path) -> tuple[Path, dict[str, Any]]:
    model, codec = tiny_dia(path)
    return model, {"vocoder": str(codec)}


@pytest.mark.parametrize(
    ("made", "voices", "rate"),
    [
        (lambda path: (tiny_vits(path), {}), ["default"], 16_000),
        (lambda path: (tiny_vits(path, speakers=3), {}), ["0", "1", "2"], 16_000),
        (speecht5, ["ada", "bob"], 16_000),
        (lambda path: (tiny_fastspeech(path), {}), ["default"], 22_050),
        (lambda path: (tiny_csm(path), {}), ["default"], 24_000),
        (dia, ["default"], 44_100),
    ],
    ids=["vits", "vits-3", "speecht5", "fastspeech", "csm", "dia"],
)
def test_each_kind_of_model_says_each_text_in_each_voice(
    made: Callable[[Path], tuple[Path, dict[str, Any]]], voices: list[str], rate: int, tmp_path: Path
) -> None:
    model, options = made(tmp_path)
    with speaking(voiced(model, **options)) as workflow:
        card = workflow.card("voice")
        assert (card.voices, card.sample_rate, card.model) == (voices, rate, model.name)
        heard = []
        for voice in voices:
            for text in ("hello there", "something else"):
                said = workflow.inference({"text": text, "voice": voice, "seed": 3})
                again = workflow.inference({"text": text, "voice": voice, "seed": 3})
                assert said.samples is not None
                assert len(said.samples) > 100
                np.testing.assert_array_equal(said.samples, again.samples)
                heard.append(said.samples.tobytes())
        assert len(set(heard)) == len(heard)


@pytest.mark.parametrize(
    ("made", "steps"),
    [(speecht5, 4), (lambda path: (tiny_csm(path), {}), 4), (dia, 4), (lambda path: (tiny_vits(path), {}), 1)],
    ids=["speecht5", "csm", "dia", "vits"],
)
def test_a_model_that_speaks_for_nobody_stops(
    made: Callable[[Path], tuple[Path, dict[str, Any]]], steps: int, tmp_path: Path
) -> None:
    asked = 0

    def is_wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked < steps

    model, options = made(tmp_path)
    with speaking(voiced(model, **options)) as workflow:
        voice = workflow.voices()[0]
        with pytest.raises(Cancelled):
            workflow.synthesize_batch([Sentence("hello there", voice, is_wanted=is_wanted)])
        assert asked == steps
        assert workflow.inference({"text": "hello there"}).seconds > 0


def test_sentences_of_a_batch_have_their_own_lengths(tmp_path: Path) -> None:
    with speaking(voiced(tiny_vits(tmp_path))) as workflow:
        texts = ["a", "something much longer than that", "hello"]
        made = workflow.synthesize_batch([Sentence(text, "default") for text in texts])
        lengths = [len(said.audio_array) for said in made if isinstance(said, AudioInferenceResult)]
        assert lengths[1] > 2 * lengths[2] > 2 * lengths[0] > 0
        outcomes = workflow.inference_batch([{"text": text} for text in texts])
        assert all(isinstance(said, Speech) for said in outcomes)


def test_letters_that_a_model_has_not_make_no_sound(tmp_path: Path) -> None:
    with speaking(voiced(tiny_vits(tmp_path))) as workflow:
        mixed = workflow.synthesize_batch([Sentence(text, "default") for text in ("hi", "42", "ho")])
        assert [isinstance(said, AudioInferenceResult) and len(said.audio_array) > 0 for said in mixed] == [1, 0, 1]
        with pytest.raises(WorkflowError, match="no sound"):
            workflow.inference({"text": "42"})


def test_who_asks_for_a_voice_that_is_not_there_is_told_which_are(tmp_path: Path) -> None:
    with speaking(voiced(tiny_vits(tmp_path, speakers=3), voice="2")) as workflow:
        assert workflow.card("voice").voices == ["2", "0", "1"]
        with pytest.raises(InvalidInput, match="'2', '0', '1'"):
            workflow.inference({"text": "hi", "voice": "3"})


def test_what_lacks_is_said_at_setup(tmp_path: Path) -> None:
    model, options = speecht5(tmp_path / "speecht5")
    vits = tiny_vits(tmp_path / "vits")
    save_file({"ada": np.zeros(5, np.float32)}, tmp_path / "wide.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    wrong: list[tuple[Path, dict[str, Any], str]] = [
        (model, {}, "needs a vocoder"),
        (model, {"vocoder": options["vocoder"]}, "needs speakers"),
        (tiny_dia(tmp_path / "dia")[0], {}, "needs a vocoder"),
        (model, {**options, "voice": "eve"}, "no such voice"),
        (model, {**options, "speakers": str(tmp_path / "wide.safetensors")}, "vectors of 4 numbers"),
        (model, {**options, "speakers": str(tmp_path / "text.safetensors")}, "cannot be read as safetensors"),
        (model, {**options, "vocoder": str(vits)}, "not those of|cannot open"),
        (vits, {"vocoder": options["vocoder"]}, "needs no vocoder"),
        (Path(options["vocoder"]), {}, "none that makes speech|cannot open"),
        (build(tmp_path / "bark"), {}, "Bark has a workflow of its own"),
    ]
    for directory, said, why in wrong:
        with pytest.raises(WorkflowError, match=why):
            voiced(directory, **said).setup()
