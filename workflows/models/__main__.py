"""`python -m workflows.models lock ID...` and `verify`: the operator's commands for models.lock."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workflows.errors import WorkflowError
from workflows.models.finding import store_of
from workflows.models.records import ModelRecord, ModelsLock
from workflows.models.ref import ModelRef, parse_ref
from workflows.models.sources import ModelSources, sources_of

__all__ = ["main"]

_DEFAULT = Path("models.lock")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the result is the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m workflows.models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    lock = commands.add_parser("lock", help="download models and write down their commits and hashes")
    lock.add_argument("ids", nargs="*", metavar="ID", help="storage/owner/name[@revision][:file,...]")
    lock.add_argument("--update", action="store_true", help="also what is locked already, as it is now")
    lock.add_argument("--files", nargs="+", metavar="PATTERN", help="files of a model whose id names none, as '*.onnx'")
    verify = commands.add_parser("verify", help="compare every file of every locked model with its hash")
    for command in (lock, verify):
        command.add_argument("--sources", metavar="FILE", help="the file of model sources; else $INFERNET_MODELS")
        command.add_argument("--lock", type=Path, metavar="FILE", help=f"else the sources' lock, else {_DEFAULT}")
    chosen = parser.parse_args(arguments)
    path = _DEFAULT
    try:
        sources = sources_of(chosen.sources)
        path = (chosen.lock or sources.lock or _DEFAULT).expanduser()
        if chosen.command == "verify":
            return _verify(sources, path)
        return _lock(sources, path, chosen.ids, chosen.files, update=chosen.update)
    except WorkflowError as error:
        print(f"{chosen.command}: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:  # of the lock, or of a model on this machine
        print(f"{chosen.command}: {error.filename or path}: {error.strerror}", file=sys.stderr)
        return 1


def _lock(sources: ModelSources, path: Path, ids: list[str], files: list[str] | None, *, update: bool) -> int:
    locked = dict(ModelsLock.read(path).models) if path.exists() else {}
    wanted = [parse_ref(text) for text in ids]
    if update:
        wanted += [ref for ref in map(parse_ref, locked) if ref not in wanted]
    if not wanted:
        print("lock: name an id, or give --update", file=sys.stderr)
        return 1
    failed = False
    for ref in wanted:
        try:
            key, record = _locked_now(sources, ref, files, locked)
        except WorkflowError as error:
            print(f"{ref}: {error.message}", file=sys.stderr)
            failed = True
            continue
        changed = "unchanged" if locked.get(key) == record else "locked"
        locked[key] = record
        ModelsLock(models=locked).write(path)  # each: what came before a failure stays
        print(f"{key}: {changed}, {len(record.files)} files, commit {record.commit or 'none'}")
    return 1 if failed else 0


def _locked_now(
    sources: ModelSources, ref: ModelRef, patterns: list[str] | None, locked: dict[str, ModelRecord]
) -> tuple[str, ModelRecord]:
    """What an id means now. Where nobody says which files, those that were locked before stay what is locked."""
    store = store_of(sources)
    before = locked.get(str(ref.model))
    if patterns is not None:
        return store.lock(ref, patterns)
    if before is not None and not ref.files:
        return store.lock(ref, sorted(before.files))
    key, record = store.lock(ref)
    if before is not None and key in locked and before.commit == record.commit:  # further files of the same commit
        record = record.model_copy(update={"files": {**before.files, **record.files}})
    return key, record


def _verify(sources: ModelSources, path: Path) -> int:
    models = ModelsLock.read(path).models
    store = store_of(sources)
    problems = [line for key, record in sorted(models.items()) for line in store.problems(parse_ref(key), record)]
    for line in problems:
        print(line, file=sys.stderr)
    if not problems:
        print(f"{path}: {len(models)} models, {sum(len(record.files) for record in models.values())} files, all right")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
