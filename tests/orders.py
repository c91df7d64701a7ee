"""Workflows that a test holds in its hand, from this process or another one.

A gate is a named pipe, which the test and the workflow open at the same moment; what the workflow runs, it writes into
a ledger beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from pydantic import BaseModel

from workflows import AsyncInferenceWorkflow, BaseInferenceWorkflow, Batching, cancelled, current_call
from workflows.errors import InvalidInput
from workflows.types import Tensor

__all__ = ["Answer", "AsyncOrders", "Order", "Piece", "SyncOrders"]


class Order(BaseModel):
    """One input. `gate` names the pipe to wait at, `fault` what to do instead of an answer.

    In a stream of `count` chunks both happen at chunk number `at`. `tensor` is given back with every answer and chunk.
    """

    folder: str
    value: int
    gate: str = ""
    fault: str = ""
    bucket: str = ""
    count: int = 0
    at: int = 0
    closing_gate: str = ""
    tensor: Tensor | None = None

    def enter(self) -> None:
        with Path(self.folder, "ledger").open("a", encoding="utf-8") as ledger:
            ledger.write(f"{self.value}\n")

    @property
    def pipe(self) -> Path | None:
        return Path(self.folder, self.gate) if self.gate else None

    def fail(self) -> None:
        if self.fault == "invalid":
            raise InvalidInput("no such dish", param="value")
        if self.fault == "crash":
            raise RuntimeError("secret recipe")


class Answer(BaseModel):
    value: int
    request_id: str
    tensor: Tensor | None = None


class Piece(BaseModel):
    number: int
    request_id: str
    tensor: Tensor | None = None


class SyncOrders(BaseInferenceWorkflow[Order, Answer, Piece]):
    """Doubles numbers, in batches."""

    batching = Batching(max_size=8)
    retry_safe = True

    def bucket(self, input_data: Order) -> str:
        return input_data.bucket

    def do_preprocessing(self, input_data: Order) -> tuple[Order, str]:
        return input_data, current_call().request_id

    def do_run_batch(self, batch: list[tuple[Order, str]]) -> list[Answer]:
        answers = []
        for order, request_id in batch:
            order.enter()
            if order.pipe:
                order.pipe.read_bytes()
            order.fail()
            answers.append(Answer(value=2 * order.value, request_id=request_id, tensor=order.tensor))
        return answers

    def do_stream(self, preprocessed_data: tuple[Order, str]) -> Iterator[Piece]:
        order, request_id = preprocessed_data
        try:
            for number in range(order.count):
                if number == order.at:
                    if order.pipe:
                        order.pipe.read_bytes()
                    order.fail()
                    while order.fault == "until cancelled" and not cancelled():
                        time.sleep(0.001)
                order.enter()
                yield Piece(number=number, request_id=request_id, tensor=order.tensor)
        finally:
            if order.closing_gate:
                Path(order.folder, order.closing_gate).read_bytes()


class AsyncOrders(AsyncInferenceWorkflow[Order, Answer, Piece]):
    """Doubles numbers, two at a time."""

    concurrency = 2
    retry_safe = True

    async def do_run_model(self, preprocessed_data: Order) -> Answer:
        order = preprocessed_data
        order.enter()
        if order.pipe:
            await asyncio.to_thread(order.pipe.read_bytes)
        order.fail()
        return Answer(value=2 * order.value, request_id=current_call().request_id, tensor=order.tensor)

    async def do_stream(self, preprocessed_data: Order) -> AsyncGenerator[Piece]:
        order = preprocessed_data
        try:
            for number in range(order.count):
                await asyncio.sleep(0)
                if number == order.at:
                    if order.pipe:
                        await asyncio.to_thread(order.pipe.read_bytes)
                    order.fail()
                    while order.fault == "until cancelled" and not cancelled():
                        await asyncio.sleep(0.001)
                order.enter()
                yield Piece(number=number, request_id=current_call().request_id, tensor=order.tensor)
        finally:
            if order.closing_gate:
                await asyncio.to_thread(Path(order.folder, order.closing_gate).read_bytes)
