"""The Python client over a workflow in this process: types in and out, and what cannot be sent is the caller's fault."""

from __future__ import annotations

import pytest

from deployments.local import LocalClient
from deployments.python_client import AsyncWorkflow
from deployments.runner import Runner
from workflows import BaseInferenceWorkflow, Generate, Generated, Usage
from workflows.errors import InvalidInput


class Says(BaseInferenceWorkflow[Generate, Generated]):
    """Gives the prompt back."""

    def do_run_model(self, preprocessed_data: Generate) -> Generated:
        usage = Usage(prompt_tokens=1, completion_tokens=1)
        return Generated(text=preprocessed_data.prompt or "", finish_reason="stop", usage=usage)


async def test_exchange_types_cross_and_what_cannot_cross_is_an_invalid_input() -> None:
    runner = Runner(Says(), "it")
    await runner.start()
    workflow = AsyncWorkflow(LocalClient(runner), runner.card)
    answer = await workflow.inference(Generate(prompt="hello"))
    assert (type(answer), answer.text) == (Generated, "hello")
    with pytest.raises(InvalidInput, match="a dict that plain data cannot say"):
        await workflow.inference({"prompt": object()})
    await runner.stop()
