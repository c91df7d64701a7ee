"""Looks for inputs that a target does not bear: `pip install atheris`, and then, with libFuzzer's options,

python -m tests.fuzz.run nearly_right_body FOLDER -max_total_time=600

The folder gets the seeds and what is found to be new. What fails belongs into `corpus.py`, made short with
`-minimize_crash=1 -runs=10000`.
"""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Final

import atheris

INSTRUMENTED: Final = [
    "deployments.router.json_body",
    "deployments.router.protocols.open_inference",
    "deployments.router.protocols.openai",
    "deployments.router.protocols.tgi",
    "workflows.tensors",
    "workflows.types",
]

with atheris.instrument_imports(include=INSTRUMENTED):
    from tests.fuzz.corpus import SEEDS, TARGETS


def main(arguments: list[str]) -> None:
    if len(arguments) < 3 or arguments[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.run {{{','.join(TARGETS)}}} FOLDER [libFuzzer's options]")
    program, name, folder, *options = arguments
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        Path(folder, f"seed-{number}").write_bytes(seed)
    tracemalloc.start()
    atheris.Setup([program, "-max_len=4096", *options, folder], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
