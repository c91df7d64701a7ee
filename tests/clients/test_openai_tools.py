"""The official `openai` client with tools, images and answers in JSON, against a workflow that can do all of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.clients.system import System, running
from workflows import BaseInferenceWorkflow, Generate, Generated, TextChunk, ToolCallPiece, Usage
from workflows.types import ImagePart

PIXEL = b"\x89PNG\r\n\x1a\n"
ASK: Any = [{"role": "user", "content": "how is it in Bern?"}]


class Weather(BaseModel):
    """How it is somewhere."""

    city: str


class Report(BaseModel):
    city: str
    sunny: bool


class Assistant(BaseInferenceWorkflow[Generate, Generated, TextChunk]):
    """Calls the first tool where there is one and no result yet, answers in JSON where that is wanted, and counts the bytes
    of images.
    """

    def do_stream(self, preprocessed_data: Generate) -> Iterator[TextChunk]:
        asked = preprocessed_data
        assert asked.messages is not None
        last, usage = asked.messages[-1], Usage(prompt_tokens=3, completion_tokens=4)
        if asked.tools is not None and asked.tool_choice != "none" and last.role != "tool":
            (name, arguments) = (asked.tools[0].name, json.dumps({"city": "Bern"}))
            yield TextChunk(text="", tool_calls=[ToolCallPiece(index=0, id="call-1", name=name)])
            for half in (arguments[:5], arguments[5:]):
                yield TextChunk(text="", tool_calls=[ToolCallPiece(index=0, arguments=half)])
            yield TextChunk(text="", finish_reason="tool_calls", usage=usage)
            return
        if asked.response_format is not None:
            assert asked.response_format.name in (None, "Report")
            texts = ['{"city": "Bern",', ' "sunny": true}']
        elif last.images:
            texts = [str([len(part.data) if isinstance(part, ImagePart) else part.url for part in last.images])]
        else:
            texts = ["said: ", last.text]
        yield from (TextChunk(text=text) for text in texts)
        yield TextChunk(text="", finish_reason="stop", usage=usage)


@pytest.fixture(scope="module")
def assistant() -> Iterator[System]:
    with running({"assistant": Assistant()}) as made:
        yield made


@pytest.fixture
def client(assistant: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://{assistant.http}/v1", api_key="none", max_retries=0) as made:
        yield made


TOOL: Any = openai.pydantic_function_tool(Weather, name="weather")


def test_a_tool_is_called_and_its_result_is_read(client: OpenAI) -> None:
    first = client.chat.completions.create(model="assistant", messages=ASK, tools=[TOOL])
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("call-1", "weather", {"city": "Bern"})
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns = [*ASK, choice.message.model_dump(), result]  # sent back with every field that came, empty ones too
    second = client.chat.completions.create(model="assistant", messages=turns, tools=[TOOL])
    assert second.choices[0].message.content == "said: sunny"
    assert second.usage is not None
    assert second.usage.total_tokens == 7


def test_a_stream_of_calls_is_put_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model="assistant", messages=ASK, tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        whole = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="Bern")
    assert whole.choices[0].finish_reason == "tool_calls"


def test_tools_may_be_forbidden(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="assistant", messages=ASK, tools=[TOOL], tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content == "said: how is it in Bern?"


def test_an_answer_is_parsed_as_it_was_wanted(client: OpenAI) -> None:
    whole = client.chat.completions.parse(model="assistant", messages=ASK, response_format=Report)
    assert whole.choices[0].message.parsed == Report(city="Bern", sunny=True)
    with client.chat.completions.stream(model="assistant", messages=ASK, response_format=Report) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Report(city="Bern", sunny=True)


def test_images_arrive(client: OpenAI) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    content: Any = [{"type": "image_url", "image_url": {"url": each}} for each in (url, "https://host/cat.png")]
    answer = client.chat.completions.create(model="assistant", messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "[8, 'https://host/cat.png']"


def test_what_is_no_image_is_named(client: OpenAI) -> None:
    content: Any = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!!"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="assistant", messages=[{"role": "user", "content": content}])
    assert refused.value.param == "messages.0.content.0.image_url.url"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b"}}]}]},
            "messages.0.content",
        ),
    ],
)
def test_a_local_model_says_what_it_cannot(system: System, fields: dict[str, Any], param: str) -> None:
    with OpenAI(base_url=f"http://{system.http}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**{"model": "tiny-gpt", "messages": ASK, **fields})
        assert refused.value.param == param
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**{"model": "tiny-gpt", "messages": ASK, "stream": True, **fields})
