"""Speech that tests can tell apart without ears: each letter is a tone, and a conductor says when a sentence is made."""

from __future__ import annotations

import threading
from typing import Final

import numpy as np

from workflows.errors import UpstreamFailed
from workflows.inference.speech.tts import AudioInferenceResult, Sentence, TTSInferenceWorkflow

__all__ = ["RATE", "Tones"]

RATE: Final = 24_000
LETTER_S: Final = 0.03
PITCHES: Final = {"low": 220.0, "v2/high": 880.0}


class Tones(TTSInferenceWorkflow):
    """Sings a tone for each letter, higher in the voice `v2/high`; with a seed, with some noise of it.

    Attributes:
        said: The sentences that were made.
        leave: How many may be made, after `hold`.
        waits: Set when one waits for leave.
        left: Set when one has waited, and then nobody wanted it any more.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.leave = threading.Semaphore(0)
        self.waits = threading.Event()
        self.left = threading.Event()
        self._held = False

    def voices(self) -> list[str]:
        return list(PITCHES)

    def hold(self, leave: int) -> None:
        """From now on, so many sentences are made, and more with leave only."""
        self.said, self.leave, self._held = [], threading.Semaphore(leave), True
        self.waits.clear()
        self.left.clear()

    def go_on(self) -> None:
        """Make all that is asked for."""
        self._held = False
        self.leave.release(1000)

    def synthesize(self, sentence: Sentence) -> AudioInferenceResult:
        if self._held:
            while not self.leave.acquire(timeout=0.01):
                self.waits.set()
                if not sentence.is_wanted():
                    self.left.set()
                    break
        self.said.append(sentence.text)
        if "break" in sentence.text:
            raise UpstreamFailed("it broke")
        time = np.arange(round(LETTER_S * RATE)) / RATE
        pitch = PITCHES[sentence.voice]
        tones = [np.sin(2 * np.pi * pitch * (1 + ord(letter) % 32 / 16) * time) for letter in sentence.text]
        noise = np.random.default_rng(sentence.seed).normal(0, 0.01, len(time) * len(tones))
        return AudioInferenceResult(0.5 * np.concatenate(tones) + (0 if sentence.seed is None else noise), RATE)
