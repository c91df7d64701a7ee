"""Text to speech: a text is cut into sentences, each said by itself, and joined to one stream of audio."""
