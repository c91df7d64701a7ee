"""Model files are found inside of their root and nowhere else; what is not there is one kind of error."""

from __future__ import annotations

from pathlib import Path

import pytest

import workflows.demo
from workflows.errors import ModelNotFound
from workflows.models.local import resolve


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "root"
    (inside / "models").mkdir(parents=True)
    (inside / "models" / "a.onnx").touch()
    (tmp_path / "outside.onnx").touch()
    (inside / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    return inside


def test_a_file_inside_of_its_root_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = root / "models" / "a.onnx"
    assert resolve("models/a.onnx", root) == found
    assert resolve("models/../models/a.onnx", str(root)) == found
    assert resolve(found) == found
    monkeypatch.chdir(root)
    assert resolve("models/a.onnx") == found


@pytest.mark.parametrize("path", ["../outside.onnx", "link.onnx", "missing.onnx", "models/missing.onnx"])
def test_what_is_not_in_its_root_is_not_found(root: Path, path: str) -> None:
    with pytest.raises(ModelNotFound) as missing:
        resolve(path, root)
    assert str(root) not in missing.value.message
    with pytest.raises(ModelNotFound, match="relative"):
        resolve(root / "models" / "a.onnx", root)


def test_a_package_is_a_root() -> None:
    assert resolve("digits.onnx", "package:workflows.demo") == Path(workflows.demo.__path__[0], "digits.onnx").resolve()


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        "nope.sub",
        "json.decoder.sub",
        "json.decoder",
        "",
        ".",
        "__main__",
        "tests.deployments.fails_on_import.x",
    ],
)
def test_a_package_that_is_not_there_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound, match="is not installed"):
        resolve("a.onnx", f"package:{name}")
