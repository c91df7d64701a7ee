"""Checks a config file and, if it can be served, goes on as `serve run` for it. Called by scripts/launch.py.

One process for both, because each would spend a second and more on importing Ray.
"""

from __future__ import annotations

import sys

from ray.serve.scripts import cli

from deployments.__main__ import main as operate

if __name__ == "__main__":
    sys.path[0] = ""  # applications are imported from the working folder, and nothing from here
    *options, config = sys.argv[1:]
    if operate(["check", config]):
        sys.exit(1)
    # A cluster of its own: without this, Ray joins whatever cluster it finds on the machine.
    cli(["run", "--address", "local", *options, config], prog_name="serve")
