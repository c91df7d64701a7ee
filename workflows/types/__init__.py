"""Exchange types: the few shapes of data on which protocols and workflows meet. Protocols make them, workflows take them.

| kind       | input              | output          | stream chunk  |
|------------|--------------------|-----------------|---------------|
| `tensors`  | `Tensors`          | `TensorsResult` |               |
| `generate` | `Generate`         | `Generated`     | `TextChunk`   |
| `embed`    | `Embed`            | `Embedding`     |               |
| `speech`   | `Speak`            | `Speech`        | `SpeechChunk` |
| `task`     | `ClassifyText`     | `Labels`        |               |
|            | `ClassifyZeroShot` | `Labels`        |               |
|            | `ClassifyTokens`   | `Entities`      |               |
|            | `FillMask`         | `Filled`        |               |
|            | `AnswerQuestion`   | `Answers`       |               |
|            | `Summarize`        | `Rewritten`     |               |
|            | `Translate`        | `Rewritten`     |               |
|            | and those of `pictures`, `sounds` and `tables`, each with an answer of its own |||
| `json`     | any other pydantic model or JSON value, served by the native protocol as it is |||

A type that can be put together from a stream's chunks has a class method `fold`. Validation is strict: "5" is no number.
"""

from workflows.types.conversation import ImagePart, Message, RemoteImagePart, TextPart
from workflows.types.embed import Embed, Embedding
from workflows.types.exchange import Exchange
from workflows.types.folding import fold
from workflows.types.speech import AudioFormat, Speak, Speech, SpeechChunk
from workflows.types.tasks import (
    Answer,
    AnswerQuestion,
    Answers,
    ClassifyText,
    ClassifyTokens,
    ClassifyZeroShot,
    Decoding,
    Entities,
    Entity,
    Filled,
    Filling,
    FillMask,
    Label,
    Labels,
    Rewritten,
    Summarize,
    Translate,
)
from workflows.types.tensors import Tensor, Tensors, TensorsResult, Vector
from workflows.types.text import (
    MAX_TOKENS,
    Alternative,
    FinishReason,
    Generate,
    Generated,
    Sampling,
    TextChunk,
    Token,
    TokenIds,
    Usage,
)
from workflows.types.tools import ResponseFormat, Tool, ToolCall, ToolCallPiece, ToolChoice, ToolName

__all__ = [
    "MAX_TOKENS",
    "Alternative",
    "Answer",
    "AnswerQuestion",
    "Answers",
    "AudioFormat",
    "ClassifyText",
    "ClassifyTokens",
    "ClassifyZeroShot",
    "Decoding",
    "Embed",
    "Embedding",
    "Entities",
    "Entity",
    "Exchange",
    "FillMask",
    "Filled",
    "Filling",
    "FinishReason",
    "Generate",
    "Generated",
    "ImagePart",
    "Label",
    "Labels",
    "Message",
    "RemoteImagePart",
    "ResponseFormat",
    "Rewritten",
    "Sampling",
    "Speak",
    "Speech",
    "SpeechChunk",
    "Summarize",
    "Tensor",
    "Tensors",
    "TensorsResult",
    "TextChunk",
    "TextPart",
    "Token",
    "TokenIds",
    "Tool",
    "ToolCall",
    "ToolCallPiece",
    "ToolChoice",
    "ToolName",
    "Translate",
    "Usage",
    "Vector",
    "fold",
]
