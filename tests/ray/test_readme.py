"""The README's requests, run as written, give the answers that it shows."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from tests.ray.cluster import ROOT, Cluster, states
from tests.waiting import until

NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples() -> list[tuple[str, str]]:
    """Every `$ curl` line of the README with the output shown below it."""
    found = []
    for block in BLOCK.findall((ROOT / "README.md").read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if command.startswith("curl"):
                found.append((command, output))
    return found


@pytest.fixture(scope="module")
def with_spelling(default_system: Cluster) -> Cluster:
    config = default_system.config()
    config["applications"] += yaml.safe_load((ROOT / "examples" / "spelling.yaml").read_text())
    default_system.deploy(config)
    until(lambda: states(default_system).get("spelling") == "ready", seconds=60, what=lambda: "spelling is ready")
    return default_system


@pytest.mark.parametrize(("command", "output"), [pytest.param(*pair, id=pair[0][21:70]) for pair in examples()])
def test_a_request_gives_the_answer_shown(command: str, output: str, with_spelling: Cluster) -> None:
    here = command.replace("http://localhost:8000", with_spelling.url)
    done = subprocess.run(["bash", "-c", here], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)

    # Another processor may round the last digits of a number differently.
    assert NUMBER.sub("#", done.stdout).strip() == NUMBER.sub("#", output).strip()
    for got, shown in zip(NUMBER.findall(done.stdout), NUMBER.findall(output), strict=True):
        assert float(got) == pytest.approx(float(shown), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("client", ["tritonclient", "openai"])
def test_a_program_with_somebody_elses_client_prints_what_it_says(client: str, default_system: Cluster) -> None:
    (program,) = [block for block in PROGRAM.findall((ROOT / "README.md").read_text()) if f" {client}" in block]
    here = program.replace("localhost:9000", f"127.0.0.1:{default_system.grpc_port}")
    here = here.replace("http://localhost:8000", default_system.url)
    done = subprocess.run(
        [sys.executable, "-c", here], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert [line.strip() for line in done.stdout.splitlines()] == re.findall(r"\)  # (.*)", program)


def test_the_readme_shows_requests() -> None:
    assert len(examples()) >= 6
