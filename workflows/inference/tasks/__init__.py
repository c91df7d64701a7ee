"""What a text model can be asked besides vectors and more text, one module for each kind of question."""
