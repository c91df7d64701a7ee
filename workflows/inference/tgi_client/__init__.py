"""Text from Hugging Face's text-generation-inference (TGI), or from anything that speaks like it."""
