"""The page about the simulator names all that can go wrong, and all that is checked."""

from __future__ import annotations

import inspect
from pathlib import Path

from perdure_sim.faults.sites import SITES
from perdure_sim.laws import violations as laws

PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text("utf-8")


def test_the_page_has_each_fault() -> None:
    """With what it does, in the words of the table that is drawn from."""
    lost = [
        f"{site}={kind.name}"
        for site, kinds in SITES.items()
        for kind in kinds
        if f"`{kind.name}`: {kind.about}" not in PAGE or f"`{site}`" not in PAGE
    ]
    assert lost == []


def test_the_page_has_each_law() -> None:
    """By the name that a failure shows."""
    found = [
        name
        for name, law in vars(laws).items()
        if inspect.isclass(law) and issubclass(law, laws.Violation) and law is not laws.Violation
    ]
    assert len(found) > 40
    assert [name for name in found if f"`{name}`" not in PAGE] == []
