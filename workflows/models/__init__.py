"""Model files: where they are, and which may be loaded."""
