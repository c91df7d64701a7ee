"""Inference workflows: one life cycle for every kind of model. A pure library: no Ray, no web framework."""

from workflows.async_base import AsyncInferenceWorkflow
from workflows.base import BaseInferenceWorkflow
from workflows.card import Batching, Card, Signature, TensorSpec
from workflows.context import CallContext, cancelled, current_call
from workflows.errors import WorkflowError
from workflows.inference.css.workflow import CSSInferenceWorkflow
from workflows.inference.embedding import EmbeddingWorkflow
from workflows.inference.hf_client.workflow import HFInferenceClientWorkflow
from workflows.inference.onnx import ONNXInferenceWorkflow
from workflows.inference.pipeline import TransformersPipelineWorkflow
from workflows.inference.speech.bark import BarkHFInferenceWorkflow
from workflows.inference.speech.transformers_tts import TransformersTTSWorkflow
from workflows.inference.speech.tts import AudioInferenceResult, Sentence, TTSInferenceWorkflow
from workflows.inference.text_generation import TransformersTextGenerationWorkflow
from workflows.inference.tgi_client.workflow import TGIClientInferenceWorkflow
from workflows.inference.torch import TorchInferenceWorkflow
from workflows.resources import Resources
from workflows.types import (
    Alternative,
    Embed,
    Embedding,
    Generate,
    Generated,
    ImagePart,
    Message,
    RemoteImagePart,
    ResponseFormat,
    Sampling,
    Speak,
    Speech,
    SpeechChunk,
    Tensors,
    TensorsResult,
    TextChunk,
    TextPart,
    Token,
    Tool,
    ToolCall,
    ToolCallPiece,
    ToolName,
    Usage,
)

__all__ = [
    "Alternative",
    "AsyncInferenceWorkflow",
    "AudioInferenceResult",
    "BarkHFInferenceWorkflow",
    "BaseInferenceWorkflow",
    "Batching",
    "CSSInferenceWorkflow",
    "CallContext",
    "Card",
    "Embed",
    "Embedding",
    "EmbeddingWorkflow",
    "Generate",
    "Generated",
    "HFInferenceClientWorkflow",
    "ImagePart",
    "Message",
    "ONNXInferenceWorkflow",
    "RemoteImagePart",
    "Resources",
    "ResponseFormat",
    "Sampling",
    "Sentence",
    "Signature",
    "Speak",
    "Speech",
    "SpeechChunk",
    "TGIClientInferenceWorkflow",
    "TTSInferenceWorkflow",
    "TensorSpec",
    "Tensors",
    "TensorsResult",
    "TextChunk",
    "TextPart",
    "Token",
    "Tool",
    "ToolCall",
    "ToolCallPiece",
    "ToolName",
    "TorchInferenceWorkflow",
    "TransformersPipelineWorkflow",
    "TransformersTTSWorkflow",
    "TransformersTextGenerationWorkflow",
    "Usage",
    "WorkflowError",
    "cancelled",
    "current_call",
]
