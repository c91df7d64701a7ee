"""OpenAI's protocol: models, chat and text completions, embeddings."""
