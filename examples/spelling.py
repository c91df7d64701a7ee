"""A whole workflow in one file: suggests what a misspelt Python name was meant to be."""

from difflib import get_close_matches
from importlib import import_module

from pydantic import BaseModel, Field

from workflows import BaseInferenceWorkflow


class Query(BaseModel):
    word: str = Field(min_length=1, max_length=64)
    most: int = Field(default=3, ge=1, le=10)


class Suggestions(BaseModel):
    suggestions: list[str]


class SpellingWorkflow(BaseInferenceWorkflow[Query, Suggestions]):
    """Suggests what a misspelt Python name was meant to be."""

    retry_safe = True

    def __init__(self, modules: tuple[str, ...] = ("builtins", "math")) -> None:
        self.modules = modules

    def do_setup(self) -> None:
        self.names = sorted({name for module in self.modules for name in dir(import_module(module))})

    def do_run_model(self, preprocessed_data: Query) -> list[str]:
        return get_close_matches(preprocessed_data.word, self.names, n=preprocessed_data.most)

    def do_postprocessing(self, input_data: Query, output_data: list[str]) -> Suggestions:
        return Suggestions(suggestions=output_data)
