"""The parts of text generation: tokens, how they are chosen, the engine that makes them, and the text that they are."""
