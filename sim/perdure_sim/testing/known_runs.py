"""Which runs of a test have passed, so that none is made again that cannot be another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from hypothesis.strategies import DataObject

from ..faults.plan import Fault, FaultPlan

Census = Mapping[tuple[str, str], int]


@attrs.define
class _Passed:
    """The runs with the same arguments: what each passed, and the faults of its plan it came to."""

    arguments: Mapping[str, Any]
    runs: list[tuple[Census, tuple[Fault, ...]]] = attrs.field(factory=list)


@attrs.define
class KnownRuns:
    """The runs that have passed.

    A run is a function of its arguments and of what befalls it. So a plan that differs from an
    earlier one only in faults at places that this run never came to gives the same run: up to
    there nothing differs that could make it come to other places.
    """

    _passed: dict[str, list[_Passed]] = attrs.field(factory=dict)

    def has(self, arguments: Mapping[str, Any], plan: FaultPlan) -> bool:
        """Whether a run that is known would be made again."""
        found = self._find(arguments)
        return found is not None and any(
            plan.within(census) == faults for census, faults in found.runs
        )

    def add(self, arguments: Mapping[str, Any], plan: FaultPlan, census: Census) -> None:
        """A run has passed.

        Args:
            plan: of which nothing was left out.
            census: how often it passed each site.
        """
        if any(isinstance(each, DataObject) for each in arguments.values()):
            return  # what else was drawn is not known
        found = self._find(arguments)
        if found is None:
            found = _Passed(arguments)
            self._passed.setdefault(repr(arguments), []).append(found)
        found.runs.append((census, plan.within(census)))

    def _find(self, arguments: Mapping[str, Any]) -> _Passed | None:
        """Of these arguments. Both equal and written alike: 1 is equal to True, and another one."""
        for each in self._passed.get(repr(arguments), ()):
            try:
                if each.arguments == arguments:
                    return each
            except Exception:  # some arrays cannot be compared so
                continue
        return None
