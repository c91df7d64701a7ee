"""The Open Inference Protocol (KServe v2): what it asks and answers, and its two ways over the wire."""
