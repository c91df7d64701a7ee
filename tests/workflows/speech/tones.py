"""Speech without a model, that can be told apart: each letter is a tone, and voices differ in pitch."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import numpy as np

from workflows.errors import WorkflowError
from workflows.inference.speech.tts import AudioInferenceResult, Sentence, TTSInferenceWorkflow

__all__ = ["RATE", "Tones", "pitch_of", "serving", "speaking"]

Voice = TypeVar("Voice", bound=TTSInferenceWorkflow)

RATE = 8000
LETTER = RATE // 50
PITCHES = {"low": 200.0, "high": 1500.0}


def pitch_of(letter: str, voice: str) -> float:
    return PITCHES[voice] + 50.0 * (ord(letter.lower()) - ord("a"))


class Tones(TTSInferenceWorkflow):
    """Says tones.

    Attributes:
        batches: What was said together.
        gate: Nothing is said while it is closed.
    """

    max_sentence_chars = 60

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def voices(self) -> list[str]:
        return list(PITCHES)

    def synthesize_batch(self, sentences: list[Sentence]) -> Sequence[AudioInferenceResult | WorkflowError]:
        if sentences[0].text != "Yes.":
            self.batches.append([sentence.text for sentence in sentences])
            self.begun.set()
            assert self.gate.wait(30)
        return [self._one(sentence) for sentence in sentences]

    def _one(self, sentence: Sentence) -> AudioInferenceResult:
        time = np.arange(LETTER) / RATE
        letters = [letter for letter in sentence.text if letter.isalpha()]
        waves = [np.sin(2 * np.pi * pitch_of(letter, sentence.voice) * time) for letter in letters]
        noise = np.random.default_rng(sentence.seed).normal(0.0, 0.01, len(waves) * LETTER) if sentence.seed else 0.0
        return AudioInferenceResult(0.5 * np.concatenate([[], *waves]) + noise, RATE)


@asynccontextmanager
async def serving(workflow: Tones) -> AsyncIterator[Tones]:
    await workflow.asetup()
    try:
        yield workflow
    finally:
        workflow.gate.set()
        await workflow.ateardown()


@contextmanager
def speaking(workflow: Voice) -> Iterator[Voice]:
    workflow.setup()
    try:
        yield workflow
    finally:
        workflow.teardown()
