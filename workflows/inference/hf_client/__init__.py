"""Models behind Hugging Face's inference API, at its providers, or at any address that speaks like it."""
