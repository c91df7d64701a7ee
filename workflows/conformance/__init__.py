"""The parts of the conformance kit; `workflows.testing` puts them together."""
