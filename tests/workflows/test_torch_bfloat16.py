"""torch modules that take or give bfloat16: every bit comes through, alone and joined, from every kind of file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.bits import EVERY_BFLOAT16
from tests.workflows.torch_models import TwoInputs, exported, of_class, of_file, pin, result, rows, scripted
from workflows.card import TensorSpec
from workflows.errors import InvalidInput
from workflows.inference.torch import TorchInferenceWorkflow
from workflows.tensors import BFLOAT16, Array, widened
from workflows.testing import check_workflow
from workflows.types import Tensors

SPEC = TensorSpec(name="x", dtype="bfloat16", shape=[-1, 4])


class Flipped(nn.Module):
    """Gives every bit back: as it came, by another order of memory, and as float32."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"same": x, "turned": x.flip(1).flip(1), "wide": x.float()}


class Halved(nn.Module):
    """A layer whose weights are bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


class Own(nn.Module):
    """Gives out its own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight


@pytest.fixture(params=["class", "torchscript", "exported"])
def halved(request: pytest.FixtureRequest, tmp_path: Path) -> TorchInferenceWorkflow:
    torch.manual_seed(0)
    if request.param == "class":
        return of_class(tmp_path, Halved, inputs=[SPEC])
    if request.param == "torchscript":
        path = scripted(Halved(), tmp_path / "model.pt")
        return of_file(path, inputs=[SPEC], sha256=pin(path))
    example = torch.zeros(2, 4, dtype=torch.bfloat16)
    path = exported(Halved(), tmp_path / "model.pt2", example, dims=({0: torch.export.Dim("batch")},))
    return of_file(path, sha256=pin(path))


def requests(*counts: int) -> list[Tensors]:
    return [Tensors(inputs={"x": rows(count, seed=count).astype(BFLOAT16)}) for count in counts]


def test_every_source_conforms_and_declares_it(halved: TorchInferenceWorkflow) -> None:
    first, *more = requests(1, 7, 2)
    check_workflow(halved, first, more=more)
    halved.setup()
    signature = halved.card("m").signature
    assert signature is not None
    assert signature.inputs == [SPEC]
    assert signature.outputs == [TensorSpec(name="output_0", dtype="bfloat16", shape=[-1, 3])]


def test_answers_are_torchs_own_and_joined_ones_too(halved: TorchInferenceWorkflow) -> None:
    halved.setup()
    assert halved.limits.max_size > 1  # the probe has seen that rows are independent
    torch.manual_seed(0)
    module = Halved().eval()
    asked = requests(3, 1, 4)
    for request, outcome in zip(asked, halved.inference_batch(asked), strict=True):
        with torch.inference_mode():
            x = torch.from_numpy(widened(request.inputs["x"])).to(torch.bfloat16)
            expected = module(x).float().numpy()
        answer = result(outcome)
        assert answer.dtype == BFLOAT16
        np.testing.assert_allclose(widened(answer), expected, rtol=2.0**-7)


@pytest.mark.parametrize("declared", [None, [SPEC]])
def test_every_bit_comes_through(tmp_path: Path, declared: list[TensorSpec] | None) -> None:
    workflow = of_class(tmp_path, Flipped, inputs=declared).setup()
    x = EVERY_BFLOAT16.reshape(-1, 4)
    for sent in (x, np.asfortranarray(x), x[::2], x[:0]):
        answer = workflow.inference(Tensors(inputs={"x": sent})).outputs
        for name in ("same", "turned"):
            assert (answer[name].dtype, answer[name].shape) == (BFLOAT16, sent.shape)
            assert answer[name].tobytes() == sent.tobytes()
        assert answer["wide"].tobytes() == widened(np.ascontiguousarray(sent)).tobytes()


def test_joined_requests_keep_every_bit(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Flipped, inputs=[SPEC]).setup()
    parts = np.split(EVERY_BFLOAT16.reshape(-1, 4), [5, 6, 9000])
    outcomes = workflow.inference_batch([Tensors(inputs={"x": part}) for part in parts])
    for part, outcome in zip(parts, outcomes, strict=True):
        assert result(outcome, "same").tobytes() == part.tobytes()


def test_an_answer_shares_no_memory_with_an_input(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Flipped).setup()
    x = np.ones((1, 4), BFLOAT16)
    x.flags.writeable = False
    result(workflow.inference(Tensors(inputs={"x": x})), "same")[:] = 7
    assert x.tolist() == [[1, 1, 1, 1]]


def test_an_answer_shares_no_memory_with_a_weight(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, Own).setup()
    request = Tensors(inputs={"x": rows(1)})
    result(workflow.inference(request))[:] = 7
    assert result(workflow.inference(request)).tolist() == [1, 1]


def test_the_option_dtype_still_says_what_runs(tmp_path: Path) -> None:
    workflow = of_class(tmp_path, TwoInputs, dtype="float32").setup()
    inputs: dict[str, Array] = {"left": np.ones(2, BFLOAT16), "right": np.ones(2, np.float64)}
    answer = workflow.inference(Tensors(inputs=inputs)).outputs["sum"]
    assert (answer.dtype.name, answer.tolist()) == ("float32", [2, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
def test_other_formats_are_not_cast(tmp_path: Path, dtype: type) -> None:
    workflow = of_class(tmp_path, Halved, inputs=[SPEC]).setup()
    with pytest.raises(InvalidInput, match="dtype bfloat16 is needed"):
        workflow.inference(Tensors(inputs={"x": np.zeros((1, 4), dtype)}))
