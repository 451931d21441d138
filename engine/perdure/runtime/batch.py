"""What one turn works on, from collecting to carrying out."""

from __future__ import annotations

import msgspec

from perdure.core.ids import WorkflowId
from perdure.core.messages import Message

from .actor import Unit
from .mailbox import Post, Ticket
from .requests import Cancel, RunFunction
from .restarts import CleanupOrder, RestartOrder

#: Those that run a function, or may end a workflow whose `on_complete` runs then.
_WITH_USER_CODE = (RunFunction, Cancel, RestartOrder, CleanupOrder)


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
        """What must be alone in its transaction: where the store does not share commits, units (by
        id) and tickets for which users' functions may run."""
        if shares_commits or len(self.units) + len(self.tickets) == 1:
            return set()
        units = (each for each in self.units.values() if each.functions() or each.on_complete())
        tickets = (each for each in self.tickets if isinstance(each.request, _WITH_USER_CODE))
        return {*(unit.workflow_id for unit in units), *tickets}
