"""One module per wire protocol: it turns requests into exchange types, and answers and errors back."""
