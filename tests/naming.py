"""Names of parametrized cases that are the same in each process, as pytest-xdist needs them."""

from __future__ import annotations

import re


def stable_name(value: object) -> str | None:
    """The text of a value without its address; None for what may hold a set, whose order varies."""
    return (
        None if isinstance(value, set | frozenset | list) else re.sub(r" at 0x\w+", "", str(value))
    )
