"""What the garbage collector does not look at."""

from __future__ import annotations

import gc
import typing

import pytest

import perdure.runtime.mailbox
import perdure.store.base
from perdure.core.effects import PutStep
from perdure.core.frozen import Frozen
from perdure_sim.conformance.bench import sample_steps

assert perdure.runtime.mailbox and perdure.store.base  # their classes are subclasses of Frozen


def subclasses() -> list[type[Frozen]]:
    """All there are."""
    return sorted(Frozen.__subclasses__(), key=lambda cls: cls.__qualname__)


def test_values_are_not_tracked() -> None:
    """Neither a step nor what holds it."""
    record = sample_steps()[0]
    assert not gc.is_tracked(record)
    assert not gc.is_tracked(PutStep(record))


def test_their_classes_are_known() -> None:
    """Those of all layers that have some."""
    modules = {cls.__module__.split(".")[1] for cls in subclasses()}
    assert modules == {"core", "runtime", "store"}


@pytest.mark.parametrize("cls", subclasses(), ids=lambda cls: cls.__name__)
def test_nothing_in_them_can_lead_back(cls: type[Frozen]) -> None:
    """No field takes whatever comes: a user's object could hold what holds it, for ever."""
    hints = typing.get_type_hints(cls)
    assert set(cls.__struct_fields__) <= set(hints)
    for name in cls.__struct_fields__:
        assert not {typing.Any, object} & set(_parts(hints[name])), name


def _parts(hint: object) -> list[object]:
    """A type, and the types that it is made of."""
    return [hint, *(part for each in typing.get_args(hint) for part in _parts(each))]
