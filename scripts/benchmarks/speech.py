"""Speech in one process: how soon the first audio comes, what company is worth, and what a long text costs.

    python -m scripts.benchmarks.speech [--model DIRECTORY] [--callers N] [--sentences N] [--seconds S]

Without a model, the tiny Bark of the demo. Prints JSON. The system around it is measured by `scripts/bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from statistics import median
from typing import Any, Final

from workflows import BarkHFInferenceWorkflow, Speak

__all__ = ["main"]

_WORDS: Final = ("river", "stone", "window", "morning", "garden", "letter", "silver", "winter", "market", "candle")
_LONG_TEXT_CHARS: Final = 1_000_000


def _text(sentences: int, begin: int = 0) -> str:
    """Sentences that are all different, and of like length."""
    size = len(_WORDS)
    return " ".join(
        f"The {_WORDS[number % size]} of number {number} is near the {_WORDS[(number // size) % size]}."
        for number in range(begin, begin + sentences)
    )


async def _stream(workflow: BarkHFInferenceWorkflow, asked: Speak) -> dict[str, float]:
    began = time.perf_counter()
    first = 0.0
    seconds = 0.0
    async for chunk in workflow.astream(asked):
        first = first or time.perf_counter() - began
        seconds += chunk.seconds
    return {"first_s": first, "total_s": time.perf_counter() - began, "audio_s": seconds}


async def _first_audio(workflow: BarkHFInferenceWorkflow, rounds: int) -> dict[str, Any]:
    measured = [await _stream(workflow, Speak(text=_text(5, 10 * n), format="wav")) for n in range(rounds)]
    shares = [one["first_s"] / one["total_s"] for one in measured]
    return {"sentences": 5, "rounds": measured, "share": {"median": median(shares), "max": max(shares)}}


async def _company(workflow: BarkHFInferenceWorkflow, callers: int, sentences: int, rounds: int) -> dict[str, Any]:
    """The same requests one after another and at once, in turns."""
    requests = [Speak(text=_text(sentences, 100 * caller), format="wav") for caller in range(callers)]
    alone, together, firsts = [], [], []
    for _ in range(rounds):
        began = time.perf_counter()
        for asked in requests:
            await _stream(workflow, asked)
        alone.append(time.perf_counter() - began)
        began = time.perf_counter()
        firsts += [one["first_s"] for one in await asyncio.gather(*(_stream(workflow, asked) for asked in requests))]
        together.append(time.perf_counter() - began)
    return {
        "callers": callers,
        "sentences": sentences,
        "one_after_another_s": alone,
        "at_once_s": together,
        "first_s": {"median": median(firsts), "max": max(firsts)},
        "gain": median(alone) / median(together),
    }


async def _beside_a_long_text(workflow: BarkHFInferenceWorkflow) -> dict[str, Any]:
    """A short text alone, and while a text of a megabyte is being said."""
    short = Speak(text=_text(1, 7), format="wav")
    alone = [(await _stream(workflow, short))["total_s"] for _ in range(5)]
    reading = asyncio.create_task(_read(workflow, float("inf")))
    beside = [(await _stream(workflow, short))["total_s"] for _ in range(5)]
    reading.cancel()
    await asyncio.wait([reading])
    return {"alone_s": median(alone), "beside_s": median(beside)}


async def _read(workflow: BarkHFInferenceWorkflow, seconds: float) -> list[int]:
    """Listens to the beginning of a megabyte of text; the size of this process after each chunk, in bytes."""
    text = _text(_LONG_TEXT_CHARS // 40)
    until = time.perf_counter() + seconds
    sizes = []
    async with aclosing(workflow.astream(Speak(text=text, format="opus"))) as chunks:
        async for _ in chunks:
            sizes.append(_resident())
            if time.perf_counter() > until:
                break
    return sizes


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def _long_text(workflow: BarkHFInferenceWorkflow, seconds: float) -> dict[str, Any]:
    sizes = await _read(workflow, seconds)
    quarter = max(1, len(sizes) // 4)
    began = time.perf_counter()
    await _stream(workflow, Speak(text="Yes.", format="wav"))
    return {
        "text_chars": _LONG_TEXT_CHARS,
        "read_s": seconds,
        "chunks": len(sizes),
        "resident_mib": {
            "first_quarter": median(sizes[:quarter]) / (1 << 20),
            "last_quarter": median(sizes[-quarter:]) / (1 << 20),
            "max": max(sizes) / (1 << 20),
        },
        "next_request_after_leaving_s": time.perf_counter() - began,
    }


async def _measured(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    workflow = BarkHFInferenceWorkflow(str(model), max_batch=options.max_batch)
    await workflow.asetup()
    try:
        await _stream(workflow, Speak(text=_text(2), format="wav"))
        return {
            "model": model.name,
            "cores": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
            "max_batch": workflow.max_batch,
            "first_audio": await _first_audio(workflow, options.rounds),
            "company": await _company(workflow, options.callers, options.sentences, options.rounds),
            "beside_a_long_text": await _beside_a_long_text(workflow),
            "long_text": await _long_text(workflow, options.seconds),
        }
    finally:
        await workflow.ateardown()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.benchmarks.speech")
    parser.add_argument("--model", type=Path, help="a directory with a Bark; by default the demo's tiny one")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--sentences", type=int, default=3, help="of each caller's text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the long text is read")
    parser.add_argument("--max-batch", type=int, help="sentences that are said together at most")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        model = options.model
        if model is None:
            from workflows.demo.tiny_bark import build

            model = build(Path(made) / "tiny-bark")
        print(json.dumps(asyncio.run(_measured(options, model)), indent=1))


if __name__ == "__main__":
    main()
