"""Speech with the models of transformers' text-to-audio pipeline: VITS and MMS, SpeechT5, FastSpeech 2, CSM, Dia.

Knows what files make up a model. How each kind is asked stands in `families`; Bark has a workflow of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from workflows.card import Card
from workflows.errors import Cancelled, InvalidInput, WorkflowError
from workflows.inference.local_transformer import open_part, open_weights
from workflows.inference.speech.drawing import drawing
from workflows.inference.speech.engine import AudioInferenceResult, Sentence
from workflows.inference.speech.families import VOCODERS, Parts, family_of
from workflows.inference.speech.tts import TTSInferenceWorkflow
from workflows.inference.torch_device import Dtype
from workflows.models.finding import check_model, model_name, resolve_model
from workflows.models.sources import ModelSources
from workflows.tensors import Array

__all__ = ["TransformersTTSWorkflow"]

_MAX_SPEAKERS_BYTES: Final = 64 << 20


class TransformersTTSWorkflow(TTSInferenceWorkflow):
    """Says a text with one of transformers' speech models.

    Args:
        model: Directory with config.json, a tokenizer and safetensors weights; or an id where `root` is None, see
            `workflows.models.finding.resolve_model`.
        root: Where models lie, the vocoder and the speakers as well: a directory, or `package:name` for an installed Python
            package.
        sources: Where models come from, or a file that says it; see `workflows.models.sources`.
        vocoder: Directory or id of the model that makes a wave of what the model gives, where that is none: of SpeechT5's
            spectrograms, or of Dia's codes.
        speakers: A safetensors file with a vector for each voice, by its name, where the model needs one.
        voice: The one to take where none is asked for; None is the model's first.
        language: Of texts whose language the request does not tell.
        dtype: Number format of the weights; None is the weights' own on a GPU and float32 on a CPU.
        threads: CPU threads of this process; None takes `resources.threads`.
        max_batch: Sentences that are said together at most, by a model that can.
        max_sentence_chars: Longer sentences are cut, at a comma or between words.
        sentences_ahead: Sentences of one request that are said before its caller has read the one before them.
        concurrency: How many requests are worked on at once; each further one waits until another has ended.
    """

    def __init__(
        self,
        model: str,
        *,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        vocoder: str | None = None,
        speakers: str | None = None,
        voice: Annotated[str, Field(min_length=1, max_length=256)] | None = None,
        language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = "en",
        dtype: Dtype | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        max_batch: Annotated[int, Field(ge=1, le=256)] = 8,
        max_sentence_chars: Annotated[int, Field(ge=16, le=4096)] = 300,
        sentences_ahead: Annotated[int, Field(ge=1, le=64)] = 3,
        concurrency: Annotated[int, Field(ge=1, le=1024)] = 64,
    ) -> None:
        self._model_directory = model
        self._root = root
        self._sources = sources
        self._vocoder = vocoder
        self._speakers = speakers
        self._voice = voice
        self._dtype = dtype
        self._threads = threads
        self.language = language
        self.max_batch = max_batch
        self.max_sentence_chars = max_sentence_chars
        self.sentences_ahead = sentences_ahead
        self.concurrency = concurrency

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        for model in (self._model_directory, self._vocoder, self._speakers):
            if model is not None:
                check_model(model, self._root, self._sources)

    def do_setup(self) -> None:
        """Open the models. Raises ModelNotFound, InvalidInput naming an option, or WorkflowError."""
        import torch
        import transformers
        from safetensors.numpy import load_file

        directory = resolve_model(self._model_directory, self._root, self._sources)
        config = open_part(transformers, "AutoConfig", directory)

        def opened(kind: str, there: Path) -> tuple[Any, Any]:
            return open_weights(torch, transformers, kind, there, self.resources, self._dtype, self._threads)

        model, device = opened(_class_of(transformers, config), directory)
        vocoder = None
        if self._vocoder is not None:
            kind = VOCODERS.get(config.model_type)
            if kind is None:
                raise InvalidInput("this model needs no vocoder", param="vocoder")
            vocoder, _ = opened(kind, resolve_model(self._vocoder, self._root, self._sources))
        speakers: dict[str, Array] = {}
        if self._speakers is not None:
            speakers = _vectors(load_file, resolve_model(self._speakers, self._root, self._sources))
        reader = _reader(transformers, config, directory, vocoder)
        self._torch = torch
        self._device = device
        self._family = family_of(Parts(torch, transformers, model, reader, device, vocoder, speakers))
        self._saying: list[Sentence] = []
        self._family.step.register_forward_pre_hook(self._while_wanted)
        if self._voice is not None and self._voice not in self._family.voices:
            raise InvalidInput("this model has no such voice", param="voice")

    def do_teardown(self) -> None:
        del self._family
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def voices(self) -> Sequence[str]:
        return sorted(self._family.voices, key=lambda voice: voice != self._voice)

    def card(self, name: str, summary: str = "") -> Card:
        model = model_name(self._model_directory, self._root, self._sources)
        return super().card(name, summary).model_copy(update={"model": model or None})

    # ---- sentences -------------------------------------------------------------------------------------------------

    def company(self, sentence: Sentence) -> Hashable:
        """Those of one voice, where the model says several at once."""
        return sentence.voice if sentence.seed is None and self._family.together else None

    def synthesize_batch(self, sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
        """Raises Cancelled once nobody waits for any of them."""
        self._saying = sentences
        with drawing(self._torch, self._device, sentences[0].seed):
            waves = self._family.say([sentence.text for sentence in sentences], sentences[0].voice)
        return [AudioInferenceResult(wave, self._family.sample_rate) for wave in waves]

    def _while_wanted(self, *step: Any) -> None:
        """What torch calls before each step of the model."""
        if not any(sentence.is_wanted() for sentence in self._saying):
            raise Cancelled


def _class_of(transformers: Any, config: Any) -> str:
    """Raises WorkflowError for a model that makes no sound."""
    if config.model_type == "dia":  # which transformers lists among those that listen
        return "DiaForConditionalGeneration"
    for kind in ("AutoModelForTextToWaveform", "AutoModelForTextToSpectrogram"):
        if type(config) in getattr(transformers, kind)._model_mapping:
            return kind
    raise WorkflowError("this model is none that makes speech of a text")


def _reader(transformers: Any, config: Any, directory: Path, vocoder: Any) -> Any:
    if config.model_type == "dia":  # its own way would be to open the codec that one of its files names
        parts = [open_part(transformers, kind, directory) for kind in ("DiaFeatureExtractor", "AutoTokenizer")]
        return transformers.DiaProcessor(*parts, audio_tokenizer=vocoder)
    processors = ("processor_config.json", "preprocessor_config.json")
    is_processor = any((directory / name).is_file() for name in processors)
    return open_part(transformers, "AutoProcessor" if is_processor else "AutoTokenizer", directory)


def _vectors(load_file: Any, path: Path) -> dict[str, Array]:
    """Raises WorkflowError for what is no file of vectors."""
    try:
        if path.stat().st_size > _MAX_SPEAKERS_BYTES:
            raise ValueError("too large")
        found = {name: vector.reshape(-1).astype(np.float32) for name, vector in load_file(path).items()}
    except Exception as cause:
        raise WorkflowError("the file of speakers cannot be read as safetensors") from cause
    if not found or not all(0 < len(name) <= 256 and np.isfinite(vector).all() for name, vector in found.items()):
        raise WorkflowError("the file of speakers holds no voices")
    return found
