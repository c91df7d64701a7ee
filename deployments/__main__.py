"""`python -m deployments check FILE` and `python -m deployments key`: the operator's commands that need no cluster."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from pydantic import ValidationError

from deployments.checks import examine
from deployments.router.keys import mint_key

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the result is the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m deployments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="validate a serve_config.yaml without starting anything")
    check.add_argument("file", type=Path)
    key = commands.add_parser("key", help="make an API key and the entry for the key file")
    key.add_argument("id", help="how the key is called in logs")
    key.add_argument("--role", choices=["user", "operator"], default="user")
    key.add_argument("--workflows", nargs="*", default=["*"], metavar="PATTERN", help="workflows it may use")
    chosen = parser.parse_args(arguments)
    return _check(chosen.file) if chosen.command == "check" else _key(chosen)


def _check(file: Path) -> int:
    report = examine(file)
    for line in report.complaints:
        print(f"{file}: {line}", file=sys.stderr)
    for line in report.warnings:
        print(f"{file}: warning: {line}", file=sys.stderr)
    if not report.complaints:
        print(f"{file}: ok")
    return 1 if report.complaints else 0


def _key(chosen: argparse.Namespace) -> int:
    try:
        secret, entry = mint_key(chosen.id, chosen.role, chosen.workflows)
    except ValidationError as error:
        print(f"key: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}", file=sys.stderr)
        return 1
    print(f"# Give this to {chosen.id}; it is stored nowhere: {secret}")
    print("# Add this under `keys:` in the key file:")
    print(yaml.safe_dump([entry.model_dump()], sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
