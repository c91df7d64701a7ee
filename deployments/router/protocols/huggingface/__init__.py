"""Hugging Face's inference API, as `huggingface_hub.InferenceClient(model=URL)` speaks it."""
