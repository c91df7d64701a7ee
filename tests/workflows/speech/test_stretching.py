"""Speech at another speed: as long as it must be, bounded, and the same where the speed hardly changes."""

from __future__ import annotations

import numpy as np
import pytest

from workflows.inference.speech.stretching import stretched


@pytest.mark.parametrize("speed", [0.25, 0.9999, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("rate", [1000, 24_000, 192_000])
def test_any_audio_is_as_long_as_it_must_be_and_no_louder(rate: int, speed: float) -> None:
    for length in (0, 1, 2, 3, 17, 999, 2500):
        samples = np.random.default_rng(length).uniform(-1.0, 1.0, length).astype(np.float32)
        made = stretched(samples, rate, speed)
        assert made.dtype == np.float32
        assert len(made) == round(length / speed)
        assert np.isfinite(made).all()
        assert np.abs(made).max(initial=0.0) <= 1.0001


def test_a_voice_that_fades_is_not_said_again_where_it_was_louder() -> None:
    time = np.arange(24_000) / 24_000
    fading = (np.sin(2 * np.pi * (300 + 200 * time) * time) * np.exp(-8 * time)).astype(np.float32)
    np.testing.assert_allclose(stretched(fading, 24_000, 1 + 1e-9), fading, atol=1e-3)
