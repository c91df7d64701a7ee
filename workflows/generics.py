"""Which concrete types a class gave to the type variables of a generic base."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, get_origin

__all__ = ["type_arguments"]


def type_arguments(cls: type, base: type) -> tuple[Any, ...]:
    """The arguments of `base` as seen from `cls`, in the base's order; `Any` for what nobody said.

    `class A(Base[int, T])`, `class B(A[str])`: `type_arguments(B, Base)` is `(int, str)`.
    """
    parameters = getattr(base, "__parameters__", ())
    found = _from(cls, base)
    given = found if found is not None else ()
    padded = (*given, *parameters[len(given) :])
    return tuple(Any if _is_variable(item) else item for item in padded)


def _from(cls: type, base: type) -> tuple[Any, ...] | None:
    for generic in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(generic) or generic
        if origin is base:
            return get_args(generic)
        if isinstance(origin, type) and issubclass(origin, base):
            inherited = _from(origin, base)
            if inherited is not None:
                bound = dict(zip(getattr(origin, "__parameters__", ()), get_args(generic), strict=False))
                return tuple(_substituted(item, bound) for item in inherited)
    return None


def _substituted(item: Any, bound: dict[Any, Any]) -> Any:
    """A type variable's value, also within `list[T]`, `T | None` and a generic model of T."""
    if _is_variable(item):
        return bound.get(item, item)
    within = getattr(item, "__parameters__", ())
    # A model of T is a class, and the model's own class at that; other classes do not say T by being named.
    said = get_origin(item) is not None or hasattr(item, "__pydantic_generic_metadata__")
    if not said or not any(variable in bound for variable in within):
        return item
    return item[tuple(bound.get(variable, variable) for variable in within)]


def _is_variable(item: object) -> bool:
    return isinstance(item, TypeVar) or type(item).__name__ == "TypeVar"
