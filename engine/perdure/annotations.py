"""Annotations of functions, with the names in them looked up.

Not here: what may be stored (`codec`), and what a first parameter must be (`definitions`).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from .errors import DefinitionError


def resolve(
    annotation: Any, fn: Callable[..., Any], *, where: str, names: Mapping[str, Any] | None = None
) -> Any:
    """An annotation of `fn` with the names in it looked up.

    Args:
        annotation: as it stands on the function: a type, or text.
        fn: the function, whose globals and enclosing variables are searched.
        where: what it annotates, for the message.
        names: more names, such as the variables of the function that encloses `fn`.

    Raises:
        DefinitionError: a name is not found, or the text is not an annotation.
    """

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    fn = innermost(fn)
    cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
    around = dict(names or {})
    for name, cell in cells:
        try:
            around[name] = cell.cell_contents
        except ValueError:  # not bound yet: an annotation that needs it is told below
            continue
    around.update((each.__name__, each) for each in getattr(fn, "__type_params__", ()))
    try:
        return typing.get_type_hints(holder, fn.__globals__, around, include_extras=True)["it"]
    except NameError as error:
        raise DefinitionError(
            f"{where}: the annotation {annotation!r} cannot be resolved ({error}): define or"
            " import the name at module level, and not only under `if TYPE_CHECKING:`"
        ) from None
    except Exception as error:
        raise DefinitionError(
            f"{where}: the annotation {annotation!r} is not a type ({error})"
        ) from None


def innermost(fn: Callable[..., Any]) -> Any:
    """The function under all `functools.wraps`, whose names the annotations use."""
    inner = inspect.unwrap(fn)
    return inner if inspect.isfunction(inner) else fn
