"""Speech with Bark: tokens of meaning from a text, tokens of sound from those, coarse and then fine, and a wave at last.

Knows Bark's four stages. Texts, turns, formats and streams are those of `TTSInferenceWorkflow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from workflows.card import Card
from workflows.errors import Cancelled, InvalidInput, WorkflowError
from workflows.inference.local_transformer import open_part, open_weights
from workflows.inference.speech.bark_voices import INDEX, Preset, language_of, read_presets
from workflows.inference.speech.drawing import drawing
from workflows.inference.speech.engine import AudioInferenceResult, Sentence
from workflows.inference.speech.tts import TTSInferenceWorkflow
from workflows.inference.torch_device import Dtype
from workflows.models.finding import TRANSFORMERS_FILES, check_model, model_name, resolve_model
from workflows.models.sources import ModelSources

__all__ = ["BarkHFInferenceWorkflow"]

# What is downloaded of a model that is named by an id.
_WANTED: Final = (*TRANSFORMERS_FILES, "speaker_embeddings/*.npy")
# The voice of a model without presets: another one for each sentence.
_NO_PRESET: Final = "random"
_PREFERRED: Final = "v2/en_speaker_6"


class BarkHFInferenceWorkflow(TTSInferenceWorkflow):
    """Says a text with Bark, in the voices that come with the model.

    Bark itself says no more than about 15 seconds: longer sentences are cut. Of sentences that are said together, each is
    as it would be alone, as far as the model draws no random numbers, and its numbers are rounded alike.

    Args:
        model: Directory with config.json, a tokenizer, safetensors weights and voices; or an id where `root` is None, for
            example `huggingface/suno/bark-small`; see `workflows.models.finding.resolve_model`.
        root: Where models lie: a directory, or `package:name` for an installed Python package.
        sources: Where models come from, or a file that says it; see `workflows.models.sources`.
        voice: The one to take where none is asked for; None is `v2/en_speaker_6`, or the model's first.
        language: Of texts whose language neither the request nor the voice tells.
        dtype: Number format of the weights; None is float16 on a GPU and float32 on a CPU.
        threads: CPU threads of this process; None takes `resources.threads`.
        max_batch: Sentences that are said together at most; None is 4 on a CPU and 16 on a GPU.
        sentences_ahead: Sentences of one request that are said before its caller has read the one before them.
        concurrency: How many requests are worked on at once; each further one waits until another has ended.
    """

    max_sentence_chars = 180

    def __init__(
        self,
        model: str,
        *,
        root: str | None = None,
        sources: ModelSources | str | None = None,
        voice: Annotated[str, Field(min_length=1, max_length=256)] | None = None,
        language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")] = "en",
        dtype: Dtype | None = None,
        threads: Annotated[int, Field(ge=1, le=1024)] | None = None,
        max_batch: Annotated[int, Field(ge=1, le=256)] | None = None,
        sentences_ahead: Annotated[int, Field(ge=1, le=64)] = 3,
        concurrency: Annotated[int, Field(ge=1, le=1024)] = 64,
    ) -> None:
        self._model_directory = model
        self._root = root
        self._sources = sources
        self._voice = voice
        self._dtype = dtype
        self._threads = threads
        self._wanted_batch = max_batch
        self.language = language
        self.sentences_ahead = sentences_ahead
        self.concurrency = concurrency

    # ---- life ------------------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        check_model(self._model_directory, self._root, self._sources)

    def do_setup(self) -> None:
        """Open the model and its voices. Raises ModelNotFound, InvalidInput naming an option, or WorkflowError."""
        import torch
        import transformers

        directory = resolve_model(self._model_directory, self._root, self._sources, _WANTED)
        on_gpu = bool(self.resources.gpu_ids) and torch.cuda.is_available()
        dtype: Dtype | None = self._dtype or ("float16" if on_gpu else None)
        self._torch = torch
        self._bark, self._device = open_weights(
            torch, transformers, "BarkModel", directory, self.resources, dtype, self._threads
        )
        self._tokenizer = open_part(transformers, "AutoTokenizer", directory)
        self._stages = _Stages(transformers, self._bark)
        self._presets = read_presets(
            directory, self._stages.semantic.semantic_vocab_size, self._bark.generation_config.codebook_size
        )
        if self._voice is not None and self._voice not in self._presets:
            raise InvalidInput(f"this model has no such voice in its {INDEX!r}", param="voice")
        self._prompts: dict[str, dict[str, Any]] = {}
        self.max_batch = self._wanted_batch or (16 if on_gpu else 4)

    def do_teardown(self) -> None:
        del self._bark, self._tokenizer, self._stages, self._presets, self._prompts
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def voices(self) -> Sequence[str]:
        preferred = self._voice or _PREFERRED
        return sorted(self._presets, key=lambda voice: voice != preferred) or [_NO_PRESET]

    def language_of(self, voice: str) -> str | None:
        return language_of(voice)

    def card(self, name: str, summary: str = "") -> Card:
        model = model_name(self._model_directory, self._root, self._sources)
        return super().card(name, summary).model_copy(update={"model": model or None})

    # ---- sentences -------------------------------------------------------------------------------------------------

    def company(self, sentence: Sentence) -> str | None:
        """A batch has one voice, whatever the language."""
        return sentence.voice if sentence.seed is None else None

    def synthesize_batch(self, sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
        """Raises Cancelled once nobody waits for any of them."""
        with drawing(self._torch, self._device, sentences[0].seed):
            return self._say(sentences)

    def _say(self, sentences: list[Sentence]) -> list[AudioInferenceResult | WorkflowError]:
        """The stages that make one token after the other run for all at once; the other two, for each by itself, because
        they would look at what stands behind the end of a shorter one."""
        stages, bark = self._stages, self._bark
        history = self._history(sentences[0].voice)
        stopping = [self._while_wanted(sentences)]
        read = self._tokenizer(
            [sentence.text for sentence in sentences],
            padding="max_length",
            max_length=stages.semantic.max_input_semantic_length,
            truncation=True,
            add_special_tokens=False,
            return_token_type_ids=False,
            return_tensors="pt",
        ).to(self._device)
        meaning = bark.semantic.generate(
            read["input_ids"],
            attention_mask=read["attention_mask"],
            history_prompt=history,
            semantic_generation_config=stages.semantic,
            stopping_criteria=stopping,
        )
        coarse, lengths = bark.coarse_acoustics.generate(
            meaning,
            history_prompt=history,
            semantic_generation_config=stages.semantic,
            coarse_generation_config=stages.coarse,
            codebook_size=bark.generation_config.codebook_size,
            return_output_lengths=True,
            stopping_criteria=stopping,
        )
        made: list[AudioInferenceResult | WorkflowError] = []
        for sentence, row, length in zip(sentences, coarse, lengths.tolist(), strict=True):
            made.append(self._wave(row[None, :length], history) if sentence.is_wanted() else Cancelled())
        return made

    def _wave(self, coarse: Any, history: dict[str, Any] | None) -> AudioInferenceResult:
        stages, bark = self._stages, self._bark
        rate: int = bark.generation_config.sample_rate
        if not coarse.shape[1]:
            return AudioInferenceResult(self._torch.zeros(0).numpy(), rate)
        fine = bark.fine_acoustics.generate(
            coarse,
            history_prompt=history,
            semantic_generation_config=stages.semantic,
            coarse_generation_config=stages.coarse,
            fine_generation_config=stages.fine,
            codebook_size=bark.generation_config.codebook_size,
        )
        wave = bark.codec_decode(fine)[0]
        return AudioInferenceResult(wave.float().cpu().numpy(), rate)

    def _history(self, voice: str) -> dict[str, Any] | None:
        """The preset's tokens on the model's device, where they are kept once they were needed."""
        preset: Preset | None = self._presets.get(voice)
        if preset is not None and voice not in self._prompts:
            self._prompts[voice] = {
                part: self._torch.from_numpy(getattr(preset, part)).to(self._device)
                for part in ("semantic_prompt", "coarse_prompt", "fine_prompt")
            }
        return self._prompts.get(voice)

    def _while_wanted(self, sentences: list[Sentence]) -> Callable[..., Any]:
        """What transformers asks after each token whether to stop."""

        def never(tokens: Any, scores: Any, **options: Any) -> Any:
            if not any(sentence.is_wanted() for sentence in sentences):
                raise Cancelled
            return self._torch.zeros(len(tokens), dtype=self._torch.bool, device=tokens.device)

        return never


class _Stages:
    """How tokens are chosen in each stage, as the model's files say. Raises WorkflowError where they do not."""

    def __init__(self, transformers: Any, bark: Any) -> None:
        kinds = transformers.models.bark.generation_configuration_bark
        said = bark.generation_config
        try:
            self.semantic = kinds.BarkSemanticGenerationConfig(**said.semantic_config)
            self.coarse = kinds.BarkCoarseGenerationConfig(**said.coarse_acoustics_config)
            self.fine = kinds.BarkFineGenerationConfig(**said.fine_acoustics_config)
            _ = said.sample_rate, said.codebook_size
        except (AttributeError, TypeError) as cause:
            raise WorkflowError("generation_config.json is not that of a Bark") from cause
        if self.semantic.pad_token_id is None:  # of which transformers would complain for each batch
            self.semantic.pad_token_id = self.semantic.semantic_pad_token
