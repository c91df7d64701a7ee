"""What a replica says of a workflow that was taken out of memory, and of one that came back as something else."""

from __future__ import annotations

from deployments.config import WorkflowSettings
from deployments.runner import Runner
from tests.deployments.test_loading import PATIENCE_S, refused
from workflows import BaseInferenceWorkflow
from workflows.card import Batching, Signature, TensorSpec
from workflows.errors import Unloaded


class Signed(BaseInferenceWorkflow[int, int]):
    """Knows its signature from its model, as long as that is there."""

    fails: Exception | None = None

    def do_setup(self) -> None:
        self.known = Signature(inputs=[TensorSpec(name="x", dtype="int64", shape=[1])], outputs=[])

    def do_run_batch(self, batch: list[int]) -> list[int]:
        return batch

    def do_teardown(self) -> None:
        del self.known

    def signature(self) -> Signature:
        if self.fails is not None:
            raise self.fails
        return self.known


async def test_new_settings_for_what_is_unloaded_are_its_card_s_once_it_is_loaded() -> None:
    runner = Runner(Signed(), "it")
    await runner.start()
    card = runner.card
    assert card.signature is not None
    await runner.unload(PATIENCE_S)
    runner.configure(WorkflowSettings(batching=Batching(max_size=3)))
    assert runner.card == card
    await runner.load(PATIENCE_S)
    assert runner.card == card.model_copy(update={"batching": Batching(max_size=3)})
    runner.configure(WorkflowSettings())
    assert runner.card == card
    await runner.stop()


async def test_what_cannot_be_described_any_more_does_not_stay_in_memory() -> None:
    workflow = Signed()
    runner = Runner(workflow, "it", replica="r1")
    await runner.start()
    await runner.unload(PATIENCE_S)
    workflow.fails = OSError("it has lost its names")
    error = await refused(runner.load(PATIENCE_S))
    assert isinstance(error, Unloaded)
    assert not hasattr(workflow, "known")
    assert runner.standing.state == "unloaded"
    assert runner.card.signature is not None
    workflow.fails = None
    assert (await runner.load(PATIENCE_S)).loaded
    await runner.stop()
