"""What actions were called with, and what came of it: `sim.calls`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from perdure.core.outcomes import Outcome
from perdure.definitions import Action, Definer
from perdure.records import Outcome as PublicOutcome
from perdure.runtime.attempts import Attempt
from perdure.runtime.views import public_outcome
from perdure.step import from_ms

from ..world.actions import CallMade
from ..world.world import World


@attrs.frozen(kw_only=True)
class ActionCall:
    """One attempt of an action, as the outside world saw it.

    Attributes:
        arguments: by the names of the action's parameters.
        attempt: from 1.
        idempotency_key: the same for all attempts of one step.
        worker: the process that it ran in.
        at: when it began.
        outcome: how its code ended; None if it has not, or its process died.
    """

    action: str
    workflow_id: str
    step_number: int
    arguments: Mapping[str, Any]
    attempt: int
    idempotency_key: str
    worker: str
    at: datetime
    outcome: PublicOutcome | None = None


class Calls:
    """The attempts of one run: which began is the world's own list, how they ended is kept here."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ends: dict[int, Outcome] = {}
        world.on_attempt_end = self._ended

    def of(self, action: str, manager: Definer) -> list[ActionCall]:
        """All of one action."""
        definition = manager.registry.get(action)
        return [
            ActionCall(
                action=action,
                workflow_id=call.workflow_id,
                step_number=call.step_number,
                arguments=_by_name(definition, call),
                attempt=call.attempt,
                idempotency_key=call.idempotency_key,
                worker=call.process,
                at=from_ms(call.at),
                outcome=public_outcome(self._ends[number]) if number in self._ends else None,
            )
            for number, call in enumerate(self._world.calls)
            if call.action == action
        ]

    def _ended(self, attempt: Attempt, outcome: Outcome) -> None:
        record = attempt.record
        wanted = (attempt.workflow_id, record.number, record.attempt)
        calls = self._world.calls
        for index in range(len(calls) - 1, -1, -1):
            call = calls[index]
            if (call.workflow_id, call.step_number, call.attempt) == wanted:
                self._ends.setdefault(index, outcome)
                return


def _by_name(definition: Any, call: CallMade) -> dict[str, Any]:
    count = len(call.arguments) - len(call.keywords)
    first, named = call.arguments[:count], call.arguments[count:]
    keywords = dict(zip(call.keywords, named, strict=True))
    if not isinstance(definition, Action):  # of code that is gone
        return {**{str(number): value for number, value in enumerate(first)}, **keywords}
    bound = inspect.signature(definition.fn).bind(None, *first, **keywords)
    return dict(list(bound.arguments.items())[1:])
