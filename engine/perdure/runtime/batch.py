"""What one turn works on, from collecting to carrying out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import itemgetter

import msgspec

from perdure.core.ids import WorkflowId
from perdure.core.messages import Message

from .actor import Unit
from .inbox import PassOn
from .mailbox import Post, Ticket
from .requests import Read


class Batch(msgspec.Struct):
    """The work of one turn.

    Attributes:
        now: its time, in ms since the epoch.
        messages: by workflow, in the order of arrival; none for a handler that only goes on.
        inbox: rows of the inbox among them.
        posts: those of the messages that came through the mailbox: kept until they are stored.
        tickets: clients' requests.
        units: what was decided.
        starts: tickets that became a unit of their own, by the new workflow's id.
    """

    now: int
    messages: dict[WorkflowId, list[Message]] = msgspec.field(default_factory=dict)
    inbox: dict[WorkflowId, list[int]] = msgspec.field(default_factory=dict)
    posts: list[Post] = msgspec.field(default_factory=list)
    tickets: list[Ticket] = msgspec.field(default_factory=list)
    units: dict[WorkflowId, Unit] = msgspec.field(default_factory=dict)
    starts: dict[WorkflowId, Ticket] = msgspec.field(default_factory=dict)

    def apart(self, *, shares_commits: bool) -> set[WorkflowId | Ticket]:
        """What needs a transaction of its own where others are under way at the same time.

        The units, by id, in whose transactions users' functions run: they may have to run again.
        And what is asked of any workflows: whoever holds the rows of its own workflows must not
        wait for those of others, who may be waiting for them.
        """
        if shares_commits or len(self.units) + len(self.tickets) == 1:
            return set()
        units = (each for each in self.units.values() if each.functions() or each.on_complete())
        tickets = (each for each in self.tickets if not isinstance(each.request, Read))
        return {*(unit.workflow_id for unit in units), *tickets}

    def without(self, apart: Collection[object]) -> tuple[list[Unit], list[Ticket]]:
        """All others."""
        units, tickets = list(self.units.values()), self.tickets
        if apart:
            units = [unit for unit in units if unit.workflow_id not in apart]
            tickets = [ticket for ticket in tickets if ticket not in apart]
        return units, tickets


def passed_on(tickets: Iterable[Ticket]) -> list[Ticket]:
    """Those that pass on outcomes, in the order of their workflows' ids."""
    found = [
        (each.request.workflow_id, number, each)
        for number, each in enumerate(tickets)
        if isinstance(each.request, PassOn)
    ]
    return [each for _, _, each in sorted(found, key=itemgetter(0, 1))]
