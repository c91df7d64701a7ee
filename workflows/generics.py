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
    return tuple(Any if isinstance(item, TypeVar) or type(item).__name__ == "TypeVar" else item for item in padded)


def _from(cls: type, base: type) -> tuple[Any, ...] | None:
    for generic in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(generic) or generic
        if origin is base:
            return get_args(generic)
        if isinstance(origin, type) and issubclass(origin, base):
            inherited = _from(origin, base)
            if inherited is not None:
                bound = dict(zip(getattr(origin, "__parameters__", ()), get_args(generic), strict=False))
                return tuple(bound.get(item, item) if _hashable(item) else item for item in inherited)
    return None


def _hashable(item: object) -> bool:
    return type(item).__hash__ is not None
