"""Text Generation Inference (TGI): the HTTP API of Hugging Face's server for language models."""
