"""A workflow's state while one transition changes it, and the decision that comes of it.

`Draft` keeps what is derived from the steps (`settled`, `awaiting`, `busy`, the journal's size) and
collects writes and effects. It holds no rules: which change is made when is said in transition.py.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from .effects import Effect, PutStep, WarnJournalSize, Write
from .journal import StepRecord, command_bytes, outcome_bytes, record_canceled
from .limits import JOURNAL_WARNING_SHARE, Limits
from .pages import Pages, copied
from .workflow import STEP_EDGES, WorkflowState


class Decision(Struct, frozen=True):
    """What a transition decided.

    Attributes:
        state: the new state.
        writes: what goes into the transaction beside it, in order.
        effects: what to do after the commit.
        ready: steps that may start as soon as the pool admits them.
    """

    state: WorkflowState
    writes: tuple[Write, ...] = ()
    effects: tuple[Effect, ...] = ()
    ready: tuple[StepRecord, ...] = ()


def _without(settled: tuple[tuple[int, int], ...], number: int) -> tuple[tuple[int, int], ...]:
    if settled and settled[0][1] == number:
        return settled[1:]  # the one that is delivered: a search would be quadratic
    return tuple(pair for pair in settled if pair[1] != number)


class Draft(Struct):
    """A state that is being changed, inside one transition; `decision` freezes it."""

    state: WorkflowState
    now: int
    limits: Limits
    settled: tuple[tuple[int, int], ...]
    awaiting: tuple[int, ...]
    busy: int
    journal_bytes: int
    live: dict[int, StepRecord] | Pages[StepRecord] | None = None
    changes: dict[str, Any] = {}
    writes: list[Write] = []
    effects: list[Effect] = []
    ready: list[StepRecord] = []

    @staticmethod
    def of(state: WorkflowState, now: int, limits: Limits) -> Draft:
        """A draft in which nothing is changed yet."""
        derived = (state.settled, state.awaiting, state.busy, state.journal_bytes)
        return Draft(state, now, limits, *derived)

    def step(self, number: int) -> StepRecord | None:
        return (self.state.live if self.live is None else self.live).get(number)

    def put(self, old: StepRecord | None, new: StepRecord) -> None:
        """Record a step's new row, and keep what is derived from it."""
        number, after = new.number, new.state
        before = None if old is None else old.state
        assert (before, after) in STEP_EDGES, (before, new)
        live = self.live
        if live is None:
            live = self.live = copied(self.state.live)
        self.busy += (after in ("ready", "started")) - (before in ("ready", "started"))
        if new.command.kind == "event":
            if before is None and after == "asked":
                self.awaiting += (number,)
            elif before == "asked" and after == "settled":
                self.awaiting = tuple(n for n in self.awaiting if n != number)
        if after != "settled":
            live[number] = new
        elif new.delivered_position is not None:
            del live[number]
            if before == "settled":
                self.settled = _without(self.settled, number)
        else:
            live[number] = new
            if before != "settled":
                self._queue(new)
        self.writes.append(PutStep(new, old is None))
        if old is None:
            self.journal_bytes += command_bytes(new.command)
        if after == "settled" and before != "settled" and new.outcome is not None:
            self.journal_bytes += outcome_bytes(new.outcome)

    def _queue(self, record: StepRecord) -> None:
        assert record.settled_at is not None
        pair = (record.settled_at, record.number)
        if not self.settled or self.settled[-1][0] <= record.settled_at:
            self.settled += (pair,)
        else:
            # Stable: of equal times the one that was reported first stays first.
            self.settled = tuple(sorted((*self.settled, pair), key=lambda item: item[0]))

    def drop(self, record: StepRecord) -> None:
        """Write a step's last row and forget it: its outcome is not for the handler."""
        self.put(record, record_canceled(record, self.now))
        self.settled = tuple(pair for pair in self.settled if pair[1] != record.number)
        assert self.live is not None
        del self.live[record.number]

    def decision(self) -> Decision:
        state, changes = self.state, self.changes
        if self.live is not None:
            changes["live"] = self.live
            changes["settled"] = self.settled
            changes["awaiting"] = self.awaiting
            changes["busy"] = self.busy
        if self.journal_bytes != state.journal_bytes:
            changes["journal_bytes"] = self.journal_bytes
            limit = self.limits.journal_bytes * JOURNAL_WARNING_SHARE
            if state.journal_bytes < limit <= self.journal_bytes:
                self.effects.append(WarnJournalSize(self.journal_bytes))
        new = replace(state, **changes) if changes else state
        return Decision(new, tuple(self.writes), tuple(self.effects), tuple(self.ready))
