"""Which device a torch model gets, for every machine, without one."""

import pytest

from workflows.inference.torch_device import choose_device
from workflows.resources import Resources

ONE = Resources(gpu_ids=("3",), gpu_ordinals=(0,))
TWO = Resources(gpu_ids=("1", "0"), gpu_ordinals=(1, 0))


@pytest.mark.parametrize(
    ("resources", "cuda_available", "device"),
    [
        (Resources(), True, "cpu"),
        (Resources(), False, "cpu"),
        (ONE, True, "cuda:0"),
        (ONE, False, "cpu"),
        (TWO, True, "cuda:1"),
    ],
)
def test_the_first_gpu_that_was_given_else_the_cpu(resources: Resources, cuda_available: bool, device: str) -> None:
    assert choose_device(resources, cuda_available) == device
