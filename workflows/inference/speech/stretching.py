"""Faster or slower speech at the same pitch. Plain numpy; knows no model and no file.

Waveform similarity overlap-add (W. Verhelst and M. Roelands, ICASSP 1993): short frames are taken from the recording at one
pace and laid down at another. Each is taken from where, near its place, the wave looks most like the one that would have
followed its forerunner, so that the periods of a voice run on.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from workflows.tensors import Array

__all__ = ["stretched"]

# Long enough for two periods of a low voice, short enough for one sound of speech.
_FRAME_S: Final = 0.03
# A frame is looked for this far to either side: half a period of a low voice.
_SEARCH_S: Final = 0.008


def stretched(samples: Array, sample_rate: int, speed: float) -> Array:
    """The same said `speed` times faster: `len(samples) / speed` samples, to the nearest, of the same type.

    Args:
        samples: One channel of floats.
    """
    length = round(len(samples) / speed)
    if speed == 1.0 or not length:
        return samples[:length]
    hop = max(2, round(_FRAME_S * sample_rate / 2))
    search = max(1, round(_SEARCH_S * sample_rate))
    frame = 2 * hop
    window = (0.5 - 0.5 * np.cos(np.pi * np.arange(frame) / hop)).astype(samples.dtype)  # two that overlap add up to 1
    # Position p of the recording is `wave[p + search + hop]`.
    wave = np.pad(samples, (search + hop, search + 2 * frame + hop))
    frames = length // hop + 2
    made = np.zeros((frames + 1) * hop, samples.dtype)
    last = len(samples)
    begin = 0  # in `wave`, of the frame laid down last
    for number in range(frames):
        nominal = min(round(number * hop * speed), last)  # in `wave`, of the leftmost candidate
        if number == 0:
            begin = search
        else:
            begin = nominal + _most_like(wave[nominal : nominal + frame + 2 * search], wave[begin + hop :][:frame])
        made[number * hop : number * hop + frame] += window * wave[begin : begin + frame]
    return made[hop : hop + length]


def _most_like(region: Array, wanted: Array) -> int:
    """Where in a region the wave is most like the wanted one, by correlation over the candidate's own strength."""
    size = len(wanted)
    likeness = np.correlate(region, wanted, "valid")
    power = np.concatenate([[0.0], np.cumsum(np.square(region, dtype=np.float64))])
    strength = np.sqrt(np.maximum(power[size:] - power[:-size], 1e-9))
    return int(np.argmax(likeness / strength))
