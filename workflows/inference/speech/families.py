"""How transformers' speech models are asked: as whom they can speak, what they take beside a text, what they give.

VITS takes several sentences at once; SpeechT5 needs a second model, which makes a wave of its spectrogram, and somebody's
voice as a vector; FastSpeech 2 has its second model within. Those that generate are asked through transformers' own
pipeline; Dia is one of them, and needs a second model for its codes. The modules and models are passed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from workflows.errors import WorkflowError
from workflows.tensors import Array

__all__ = ["DEFAULT_VOICE", "VOCODERS", "Family", "Parts", "family_of"]

DEFAULT_VOICE: Final = "default"
# The class of the model that makes a wave, by the type of the one that needs it.
VOCODERS: Final[Mapping[str, str]] = {"speecht5": "SpeechT5HifiGan", "dia": "DacModel"}


@dataclass(frozen=True, slots=True)
class Parts:
    """What belongs to a model.

    Attributes:
        reader: Its tokenizer, or the processor that has one.
        vocoder: See `VOCODERS`.
        speakers: Vectors of voices by their names, float32 of shape (n,).
    """

    torch: Any
    transformers: Any
    model: Any
    reader: Any
    device: Any
    vocoder: Any = None
    speakers: Mapping[str, Array] = field(default_factory=dict)


class Family(Protocol):
    """A kind of model.

    Attributes:
        voices: At least one.
        sample_rate: In Hz.
        together: Whether several sentences of one voice are better said at once.
        step: The module that runs once for each step of a sentence, or for the whole, where a model knows no steps.
    """

    voices: list[str]
    sample_rate: int
    together: bool
    step: Any

    def say(self, texts: list[str], voice: str) -> list[Array]:
        """For each text its wave, empty where the model has no letter of it."""


def family_of(parts: Parts) -> Family:
    """Raises WorkflowError for a model that lacks what it needs."""
    kind = parts.model.config.model_type
    if kind == "bark":
        raise WorkflowError("Bark has a workflow of its own: BarkHFInferenceWorkflow")
    if kind in VOCODERS and parts.vocoder is None:
        raise WorkflowError("this model needs a vocoder: name it in the workflow's options")
    if kind == "vits":
        return _Vits(parts)
    if kind == "fastspeech2_conformer_with_hifigan":
        return _FastSpeech(parts)
    return _SpeechT5(parts) if kind == "speecht5" else _Generating(parts)


class _Vits:
    together = True

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.step = parts.model
        speakers = parts.model.config.num_speakers
        self.voices = [str(number) for number in range(speakers)] if speakers > 1 else [DEFAULT_VOICE]
        self.sample_rate = int(parts.model.config.sampling_rate)

    def say(self, texts: list[str], voice: str) -> list[Array]:
        parts = self._parts
        spoken = [(place, ids) for place, ids in enumerate(parts.reader(texts)["input_ids"]) if ids]
        waves = [np.zeros(0, np.float32)] * len(texts)
        if spoken:
            longest = max(len(ids) for _, ids in spoken)
            tokens = parts.torch.zeros((len(spoken), longest), dtype=parts.torch.long)
            mask = parts.torch.zeros_like(tokens)
            for row, (_, ids) in enumerate(spoken):
                tokens[row, : len(ids)] = parts.torch.tensor(ids)
                mask[row, : len(ids)] = 1
            who = {"speaker_id": int(voice)} if len(self.voices) > 1 else {}
            said = parts.model(tokens.to(parts.device), attention_mask=mask.to(parts.device), **who)
            lengths = said.sequence_lengths.tolist()
            for (place, _), wave, length in zip(spoken, said.waveform, lengths, strict=True):
                waves[place] = wave[: int(length)].float().cpu().numpy()
        return waves


class _SpeechT5:
    together = False

    def __init__(self, parts: Parts) -> None:
        if not parts.speakers:
            raise WorkflowError("this model needs speakers: name them in the workflow's options")
        width = parts.model.config.speaker_embedding_dim
        if any(vector.shape != (width,) for vector in parts.speakers.values()):
            raise WorkflowError(f"this model's speakers are vectors of {width} numbers")
        self._parts = parts
        self.step = parts.model.speecht5.decoder.prenet
        self._vectors = {
            name: parts.torch.tensor(vector, dtype=parts.model.dtype, device=parts.device)[None]
            for name, vector in parts.speakers.items()
        }
        self.voices = list(parts.speakers)
        self.sample_rate = int(parts.vocoder.config.sampling_rate)

    def say(self, texts: list[str], voice: str) -> list[Array]:
        waves = []
        for text in texts:
            tokens = self._parts.reader(text, return_tensors="pt")["input_ids"].to(self._parts.device)
            wave = self._parts.model.generate_speech(tokens, self._vectors[voice], vocoder=self._parts.vocoder)
            waves.append(wave.float().cpu().numpy())
        return waves


class _FastSpeech:
    """Asked directly: the pipeline would take its spectrogram for the wave."""

    together = False

    def __init__(self, parts: Parts) -> None:
        rate = getattr(parts.model.config.vocoder_config, "sampling_rate", None)
        if not rate:
            raise WorkflowError("this model's files do not say its sample rate")
        self._parts = parts
        self.step = parts.model
        self.voices = [DEFAULT_VOICE]
        self.sample_rate = int(rate)

    def say(self, texts: list[str], voice: str) -> list[Array]:
        waves = []
        for text in texts:
            tokens = self._parts.reader(text, return_tensors="pt")["input_ids"].to(self._parts.device)
            waves.append(self._parts.model(tokens).waveform[0].float().cpu().numpy())
        return waves


class _Generating:
    together = False

    def __init__(self, parts: Parts) -> None:
        kind = parts.model.config.model_type
        if not parts.model.can_generate():
            raise WorkflowError(f"how a model of the type {kind} is asked is not known here")
        tokenizer = getattr(parts.reader, "tokenizer", parts.reader)
        self._pipeline = parts.transformers.pipelines.TextToAudioPipeline(
            model=parts.model,
            tokenizer=tokenizer,
            processor=None if tokenizer is parts.reader else parts.reader,
            device=parts.device,
            task="text-to-audio",
            # Dia's tokenizer has a limit, far above a sentence, of which transformers warns where it is not to cut.
            preprocess_params={"truncation": True} if kind == "dia" else {},
        )
        if not self._pipeline.sampling_rate:
            raise WorkflowError("this model's files do not say its sample rate")
        self.step = parts.model
        self.voices = [DEFAULT_VOICE]
        self.sample_rate = int(self._pipeline.sampling_rate)

    def say(self, texts: list[str], voice: str) -> list[Array]:
        return [np.atleast_1d(self._pipeline(text)["audio"]).astype(np.float32) for text in texts]
