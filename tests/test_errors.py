"""The errors: one tree, drawn where it is defined, and each fit to travel between processes."""

from __future__ import annotations

import inspect
import pickle  # noqa: TID251  what users' process pools do with an error
import re

import pytest

from perdure import errors
from perdure.errors import (
    ErrorInfo,
    PerdureError,
    StepCanceled,
    StepFailed,
    StoreError,
    ValidationError,
    WorkflowCanceled,
    WorkflowFailed,
    WorkflowIdConflict,
    WorkflowNotFound,
)

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, Exception)
    and cls.__module__ == errors.__name__
    and not cls.__name__.startswith("_")
]
INFO = ErrorInfo("OSError", "boom", "Traceback …", "[1]")


def test_the_drawing_shows_every_error() -> None:
    """The tree at the top of the module names each class once, and no other."""
    drawing = (errors.__doc__ or "").split("::", 1)[1].split("An error says")[0]
    drawn = re.findall(
        r"\b[A-Z]\w+(?:Error|Warning|Exceeded|Open|Found|Running|Conflict|Failed"
        r"|Canceled|Sent|Busy|Unavailable|Moved|Full|ReadOnly|Corrupt|Database|Unsupported|Misuse"
        r"|Inside)\b",
        drawing,
    )
    names = set(drawn) - {"ValueError"}
    assert names == {cls.__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_one_root(cls: type[Exception]) -> None:
    """One `except PerdureError` catches them all; the warning is a warning."""
    assert issubclass(cls, UserWarning if cls.__name__.endswith("Warning") else PerdureError)
    assert cls.__doc__


def test_what_python_would_raise_is_caught_too() -> None:
    """A value that does not fit is a ValueError, as everywhere in Python."""
    assert issubclass(ValidationError, ValueError)
    assert not issubclass(StoreError, OSError)


@pytest.mark.parametrize(
    "error",
    [
        StepFailed("text", error=INFO, step_name="charge", attempts=3),
        StepCanceled("text", step_name="charge"),
        WorkflowFailed("text", workflow_id="w", error=INFO),
        WorkflowCanceled("text", workflow_id="w"),
        WorkflowNotFound("text", workflow_id="w"),
        WorkflowIdConflict("text", workflow_id="w"),
        StoreError("text"),
    ],
)
def test_errors_survive_pickling(error: Exception) -> None:
    """Another process gets the same class, text and attributes."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == ("text", vars(error))


def test_the_arguments_of_an_error_are_not_shown() -> None:
    """They may be long, and are for the machine: the text of an ErrorInfo leaves them out."""
    assert "[1]" not in repr(INFO)
