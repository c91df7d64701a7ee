"""The house rules of the architecture page, read off the source: who may import whom, and how long things may get."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("workflows", "deployments")
MAX_FILE_LINES = 400
MAX_TEST_FILE_LINES = 500  # a list of cases reads faster than code
MAX_FUNCTION_LINES = 60

WEB_AND_RAY = {"ray", "starlette", "uvicorn", "fastapi", "deployments"}
HEAVY = {"onnxruntime", "sentencepiece", "tokenizers", "torch", "torchaudio", "transformers"}
MAY_IMPORT_RAY = {
    "deployments.app",
    "deployments.checks",
    "deployments.ray_client",
    "deployments.serve_status",
    "deployments.router.discovery",
    "deployments.router.ingress",
    "deployments.router.metrics",
    "deployments.workflow_deployment",
}
# Modules that import within functions, or heavy libraries at their top, and why they may.
MAY_IMPORT_LATE: dict[str, str] = {}
MAY_IMPORT_HEAVY: dict[str, str] = {
    "workflows.inference.generation.engine_host": "what an engine's process runs; nothing imports it",
    "workflows.demo.digits": "defines a torch module; the torch workflow imports it at setup, by its name",
    "workflows.demo.tiny_bark": "makes a model of the demo; who needs that imports it at setup, by its name",
    "workflows.demo.train_digits": "a script that makes the demo's artefacts; nothing imports it",
    "workflows.demo.train_tiny_gpt": "a script that makes the demo's artefacts; nothing imports it",
}
# Files and functions above the limits, and why that is better than to cut them.
MAY_BE_LONG: dict[str, str] = {}


@dataclass(frozen=True)
class Import:
    """One imported module. `where`: `top` of the module, `typing` (never run), or the name of the function around it."""

    module: str
    where: str
    line: int


@dataclass(frozen=True)
class Source:
    name: str
    path: Path
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.path)

    @property
    def imports(self) -> list[Import]:
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        return list(_imports(self.tree.body, "top", package))

    @property
    def run_imports(self) -> list[Import]:
        return [found for found in self.imports if found.where != "typing"]


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def sources() -> dict[str, Source]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = Source(name, path, path.read_text())
    return found


def _imports(body: list[ast.stmt], where: str, package: str) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, where, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import module` imports the module as well.
            yield from (Import(f"{base}.{alias.name}", where, node.lineno) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _imports(node.body, "typing", package)
            yield from _imports(node.orelse, where, package)
        else:
            inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else where
            for field in ("body", "orelse", "finalbody"):
                yield from _imports(getattr(node, field, []), inside, package)
            for block in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
                yield from _imports(block.body, inside, package)


def _is(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _broken(rule: str, found: list[str]) -> None:
    assert not found, f"{rule}:\n  " + "\n  ".join(found)


def _offending(name_starts: str, *packages: str) -> list[str]:
    return [
        f"{source.path.relative_to(ROOT)}:{found.line} imports {found.module}"
        for source in sources().values()
        if _is(source.name, name_starts)
        for found in source.imports
        if _is(found.module, *packages)
    ]


# ---- who may import whom ---------------------------------------------------------------------------------------------


def test_workflows_know_no_ray_and_no_web() -> None:
    _broken("workflows/ is a pure library", _offending("workflows", *WEB_AND_RAY))


def test_the_router_knows_no_workflow_family() -> None:
    rooms = ("workflows.inference", "workflows.models", "workflows.finetuning", "workflows.demo")
    _broken("the router speaks to workflows through a client only", _offending("deployments.router", *rooms))


def test_ray_is_imported_by_few() -> None:
    offending = [
        f"{source.path.relative_to(ROOT)}:{found.line}"
        for source in sources().values()
        if source.name not in MAY_IMPORT_RAY
        for found in source.imports
        if _is(found.module, "ray")
    ]
    _broken("only these import ray: " + ", ".join(sorted(MAY_IMPORT_RAY)), offending)


def test_there_are_no_import_cycles() -> None:
    known = sources()
    graph: dict[str, set[str]] = {}
    for source in known.values():
        if source.path.name == "__init__.py":
            continue  # it gathers names of its own modules, which never import it back: see the next test
        names = {found.module for found in source.run_imports if found.where == "top"}
        graph[source.name] = {
            module
            for name in names
            for module in (name, name.rpartition(".")[0])
            if module in known and module != source.name
        }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a cycle: " + " -> ".join(error.args[1]))


def test_modules_import_from_modules_and_not_from_the_package_above_them() -> None:
    known = sources()
    offending = []
    for source in known.values():
        for found in source.run_imports:
            above = found.module.rpartition(".")[0]
            gathers = above in known and known[above].path.name == "__init__.py" and found.module not in known
            if gathers and _is(source.name, above) and source.name != above:
                offending.append(f"{source.path.relative_to(ROOT)}:{found.line} imports {found.module}")
    _broken("import a name from the module that defines it, not through a package's __init__", offending)


def test_imports_stand_at_the_top() -> None:
    offending = [
        f"{source.path.relative_to(ROOT)}:{found.line} imports {found.module} in {found.where}"
        for source in sources().values()
        if source.name not in MAY_IMPORT_LATE
        for found in source.imports
        if found.where not in ("top", "typing", "do_setup")
    ]
    _broken("imports stand at the top, those of heavy libraries in do_setup", offending)


def test_heavy_libraries_are_imported_only_when_a_model_is_set_up() -> None:
    offending = [
        f"{source.path.relative_to(ROOT)}:{found.line} imports {found.module}"
        for source in sources().values()
        if source.name not in MAY_IMPORT_HEAVY
        for found in source.imports
        if found.where == "top" and _is(found.module, *HEAVY)
    ]
    _broken("heavy libraries are imported in do_setup, or under TYPE_CHECKING", offending)


# ---- how things look -------------------------------------------------------------------------------------------------


def _python_files() -> list[Path]:
    return [source.path for source in sources().values()] + sorted((ROOT / "tests").rglob("*.py"))


def test_files_are_short() -> None:
    offending = [
        f"{path.relative_to(ROOT)} has {lines} lines"
        for path in _python_files()
        if (lines := len(path.read_text().splitlines()))
        > (MAX_TEST_FILE_LINES if path.is_relative_to(ROOT / "tests") else MAX_FILE_LINES)
        and str(path.relative_to(ROOT)) not in MAY_BE_LONG
    ]
    _broken(f"a file has at most {MAX_FILE_LINES} lines, one of tests {MAX_TEST_FILE_LINES}", offending)


def test_functions_are_short() -> None:
    offending = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {lines} lines"
        for path in _python_files()
        for node in ast.walk(_parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
        and f"{path.relative_to(ROOT)}:{node.name}" not in MAY_BE_LONG
    ]
    _broken(f"a function has at most {MAX_FUNCTION_LINES} lines", offending)


def test_every_module_opens_with_a_sentence() -> None:
    offending = [
        str(source.path.relative_to(ROOT))
        for source in sources().values()
        if not (ast.get_docstring(source.tree) or "").partition("\n")[0]
    ]
    _broken("a module says in its first line what it knows", offending)


def test_what_is_excused_from_late_loading_is_imported_by_nobody() -> None:
    offending = [
        f"{source.path.relative_to(ROOT)}:{found.line} imports {found.module}"
        for source in sources().values()
        for found in source.run_imports
        if _is(found.module, *MAY_IMPORT_HEAVY) and source.name not in MAY_IMPORT_HEAVY
    ]
    _broken("these would load heavy libraries", offending)


def test_the_exceptions_are_still_needed() -> None:
    names = {str(path.relative_to(ROOT)) for path in _python_files()}
    gone = [key for key in MAY_BE_LONG if key.partition(":")[0] not in names]
    gone += [name for name in (*MAY_IMPORT_LATE, *MAY_IMPORT_HEAVY) if name not in sources()]
    _broken("strike what is gone from the lists of exceptions", gone)


def test_the_public_names_are_there() -> None:
    package = importlib.import_module("workflows")
    assert sorted(set(package.__all__)) == list(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
