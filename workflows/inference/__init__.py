"""One module per family of inference workflows, and what they share."""
