"""Limits: what a manager may set."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.core.limits import JOURNAL_BYTES_MAX, VALUE_BYTES_MAX, Limits


def test_the_defaults_are_the_documented_ones() -> None:
    """A value may have 1 MiB, a journal 8 MiB."""
    assert (Limits().value_bytes, Limits().journal_bytes) == (VALUE_BYTES_MAX, JOURNAL_BYTES_MAX)
    assert (VALUE_BYTES_MAX, JOURNAL_BYTES_MAX) == (1_048_576, 8_388_608)


@pytest.mark.parametrize("field", ["value_bytes", "journal_bytes"])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "1", None])
def test_a_limit_is_a_number_of_bytes(field: str, value: Any) -> None:
    """Anything else is refused with the field's name and what was given."""
    with pytest.raises(ValueError, match=rf"Limits\({field}={value!r}\)"):
        Limits(**{field: value})


@pytest.mark.parametrize("field", ["value_bytes", "journal_bytes"])
def test_a_limit_may_be_as_small_as_one_byte(field: str) -> None:
    """Any positive number is taken."""
    assert getattr(Limits(**{field: 1}), field) == 1
