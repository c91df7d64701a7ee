"""A workflow that paces tokens: what a language model's stream asks of everything around it, without the model."""

import asyncio
from collections.abc import AsyncGenerator

from pydantic import BaseModel, Field

from workflows import AsyncInferenceWorkflow


class Wanted(BaseModel):
    tokens: int = Field(ge=1, le=100_000)
    delay_ms: float = Field(ge=0, le=1000)


class TokenStreamWorkflow(AsyncInferenceWorkflow[Wanted, str, str]):
    concurrency = 512

    async def do_stream(self, preprocessed_data: Wanted) -> AsyncGenerator[str]:
        for number in range(preprocessed_data.tokens):
            if preprocessed_data.delay_ms:
                await asyncio.sleep(preprocessed_data.delay_ms / 1000)
            yield f"t{number}_"
