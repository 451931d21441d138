"""What pytest's command line says to the tests of `simulate`; set by the plugin."""

from __future__ import annotations

from pathlib import Path

import attrs


@attrs.define
class Options:
    """The options of this process.

    Attributes:
        plan: the only one to be run.
        html: where to write the page of the first failure.
        examples: so many, whatever a test says.
        has_plugin: whether somebody shows the reports; else they are notes of the exceptions.
        reports: those of failures that were not shown yet.
    """

    plan: str | None = None
    html: Path | None = None
    examples: int | None = None
    has_plugin: bool = False
    reports: list[str] = attrs.field(factory=list)


options = Options()
