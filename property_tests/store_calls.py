"""What test_stores_agree.py calls the stores with: values at random that meet, and clash.

A value with twenty fields is made from one drawn number: to draw each field costs more than the
calls to both stores, and few calls find little.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias, TypeVar

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep, StepCommand
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Outcome, Succeeded
from perdure.core.workflow import Blocked, WorkflowHeader, WorkflowState
from perdure.errors import ErrorInfo
from perdure.store.base import InboxRow, StateWrite, StepWrite, WorkflowFilter
from perdure.store.rows import PROGRESS_STATE_COLUMNS

T = TypeVar("T")
Fields: TypeAlias = dict[str, Any]

#: Few of each, so that calls meet.
IDS = ("a", "b", "c", "d", "é")
NAMES = ("x", "y")
WORKERS = ("u", "v", "w")
EVENTS = ("e", "f", "g", "h", "i", "j")

ERROR = ErrorInfo("ValueError", "boom", "line", "[1]")
OUTCOMES: tuple[Outcome, ...] = (Succeeded("1"), Failed(ERROR), Canceled())
BLOCKED = Blocked(error=ERROR, count=1, retry_at=9)
TEXTS = ("{}", '{ "é": 1.0 }')

workflow_ids = st.sampled_from(IDS)
some_ids = st.lists(workflow_ids, max_size=4)
some_names = st.lists(st.sampled_from(NAMES), max_size=2)
workers = st.sampled_from(WORKERS)
numbers = st.integers(0, 3)
times = st.integers(-1, 6)

#: How often a value has a flaw, for which a store has to refuse it: once in so many.
FLAW_EVERY = 40


def drawn(make: Callable[[Random], T]) -> st.SearchStrategy[T]:
    """What `make` makes of chance."""
    return st.integers(0, 2**20).map(lambda seed: make(Random(seed)))


def several(make: Callable[[Random], T], most: int) -> st.SearchStrategy[list[T]]:
    """From one to `most` of them."""
    return drawn(lambda chance: [make(chance) for _ in range(chance.randint(1, most))])


def _time(chance: Random) -> int:
    return chance.randint(-1, 6)


def _maybe_time(chance: Random) -> int | None:
    return chance.choice([None, _time(chance)])


def _flaw(chance: Random, *flaws: Fields) -> Fields:
    return chance.choice(flaws) if chance.randrange(FLAW_EVERY) == 0 else {}


# --- workflows ------------------------------------------------------------------------------------


def _row(chance: Random) -> Fields:
    position = chance.randint(-1, 3)
    fields: Fields = {
        "position": position,
        "stamp": _time(chance),
        "started_at": None if position < 0 else _time(chance),
        "next_number": chance.randint(0, 4),
        "timer_at": _maybe_time(chance),
        "journal_bytes": chance.randint(0, 9),
        "takeovers": chance.randint(0, 3),
        "status": "in_progress",
        "outcome": None,
        "ended_at": None,
        "owner": chance.choice([None, None, None, "u", "u", "v"]),
        "wake_at": _maybe_time(chance),
        "blocked": chance.choice([None, BLOCKED]),
        "on_complete_error": chance.choice([None, ERROR]),
    }
    if chance.randrange(4) == 0:
        outcome = chance.choice(OUTCOMES)
        fields |= {"status": outcome.kind, "outcome": outcome, "ended_at": _time(chance)}
        fields |= {"owner": None, "wake_at": None, "blocked": chance.choice([None, None, BLOCKED])}
    return fields | _flaw(
        chance,
        {"epoch": 0},
        {"owner": "w"},  # it may be there, or not
        {"owner": "nobody"},
        {"position": 0, "started_at": None},
        {"position": -1, "started_at": 3},
        {"status": "success", "outcome": Succeeded("1"), "ended_at": 3, "wake_at": 3},
        {"status": "canceled", "outcome": Canceled(), "ended_at": 3, "owner": "u"},
        {"status": "failed", "outcome": Failed(ERROR), "ended_at": None},
        {"status": "in_progress", "outcome": None, "ended_at": 3},
        {"status": "success", "outcome": Failed(ERROR), "ended_at": 3},
        {"status": "asleep"},
        {"stamp": None},
    )


def make_state(chance: Random, workflow_id: str | None = None) -> WorkflowState:
    """A new workflow."""
    fields: Fields = {
        "workflow_id": chance.choice(IDS) if workflow_id is None else workflow_id,
        "name": chance.choice(NAMES),
        "arguments": chance.choice(TEXTS),
        "created_at": _time(chance),
        "start_at": _time(chance),
    }
    fields |= chance.choice([{}, {"parent_id": "p", "parent_number": 0}])
    fields |= _flaw(chance, {"parent_id": None, "parent_number": 1}, {"arguments": None})
    whole: Fields = {"header": WorkflowHeader(**fields), "epoch": chance.randint(1, 3)}
    return WorkflowState(**whole | _row(chance))


class Update(msgspec.Struct):
    """A change of one workflow's row: of a few of its fields, or of all."""

    id: str
    fields: Fields
    is_whole: bool
    epochs: int
    is_stale: bool
    hint: str

    def write(self, stored: WorkflowState | None) -> StateWrite:
        """What to write if that is stored."""
        if stored is None:
            header = WorkflowHeader(
                workflow_id=self.id, name="x", arguments="{}", created_at=1, start_at=1
            )
            stored = WorkflowState(header, 1)
        # A stale one is far off, so that its new epoch is not the stored one by chance.
        expected = stored.epoch + 50 * self.is_stale
        fields: Fields = {"epoch": expected + self.epochs} | self.fields
        if not self.is_whole:
            fields = {
                name: value for name, value in fields.items() if name in PROGRESS_STATE_COLUMNS
            }
            fields["epoch"] = expected
        # Another header is not written.
        fields["header"] = replace(stored.header, depth=stored.header.depth + self.epochs)
        state = replace(stored, **fields)
        hints = {"none": None, "right": stored, "wrong": state}
        return StateWrite(state=state, expected_epoch=expected, before=hints[self.hint])


def make_updates(chance: Random) -> list[Update]:
    """Of one workflow or more, each once; mostly of the stored epoch, and with the right hint."""
    return [
        Update(
            id=workflow_id,
            fields=_row(chance),
            is_whole=chance.random() < 0.6,
            epochs=chance.randint(0, 2),
            is_stale=chance.randrange(12) == 0,
            hint=chance.choice(["none", "right", "right", "wrong"]),
        )
        for workflow_id in chance.sample(IDS, chance.randint(1, 4))
    ]


filters = st.builds(
    WorkflowFilter,
    name=st.sampled_from([None, *NAMES]),
    status=st.sampled_from([None, "in_progress", "failed"]),
    is_blocked=st.sampled_from([None, True, False]),
    is_ascending=st.booleans(),
    limit=st.integers(0, 3),
    after=st.none() | st.integers(0, 5),
)


# --- steps, events, inbox -------------------------------------------------------------------------


STEP_STATES = (
    "asked",
    "ready",
    "ready",
    "started",
    "started",
    "started",
    "backoff",
    "settled",
    "settled",
)


def _command(chance: Random) -> StepCommand:
    commands: list[StepCommand] = [
        RunStep(kind="action", name="f", function="f", arguments=chance.choice(TEXTS)),
        RunStep(kind="query", name="q", function="f", arguments="{}", due_at=_maybe_time(chance)),
        RunChild(name="c", function="c", arguments="{}"),
        Sleep(name="s", due_at=_time(chance)),
        AwaitEvent(name="e", event_name=chance.choice(EVENTS)),
        AwaitEvent(name="e", event_id=chance.choice(EVENTS), due_at=_time(chance)),
    ]
    return chance.choice(commands)


def _step(chance: Random, is_new: bool) -> StepRecord:
    fields: Fields = {
        "number": chance.randint(0, 5),
        "command": _command(chance),
        "asked_position": 0 if is_new else chance.randint(0, 2),
        "asked_at": _time(chance),
        "asked_epoch": chance.randint(1, 2),
        "state": chance.choice(STEP_STATES),
        "due_at": _maybe_time(chance),
        "runner": chance.choice(["u", "u", "v"]),
        "attempt": chance.randint(1, 2),
        "child_id": chance.choice([None, "c"]),
    }
    flaws: list[Fields] = [{"attempt": -1}]
    if fields["state"] == "settled":
        outcome = chance.choice(OUTCOMES)
        fields |= {"outcome": outcome, "settled_at": chance.choice([None, _time(chance)])}
        fields |= chance.choice([{}, {"runner": None, "due_at": None}])
        fields["event_id"] = chance.choice([None, *EVENTS])
        fields |= chance.choice([{}, {"delivered_position": 1 + chance.randint(0, 2)}])
        if outcome == Canceled():
            fields["canceled_position"] = chance.choice([None, 1])
        flaws += [
            {"delivered_position": 0},
            {"outcome": Succeeded("1"), "canceled_position": 1},
            {"state": "ready", "outcome": Failed(ERROR)},
        ]
    else:
        fields |= {"started_at": _maybe_time(chance), "deadline_at": _maybe_time(chance)}
        fields["started_epoch"] = chance.choice([None, 1])
        flaws += [{"state": "started", "runner": None}, {"state": "started", "attempt": 0}]
        flaws += [{"state": "settled"}, {"state": "asleep"}]
    if is_new:
        flaws += [{"asked_position": -1}, {"number": -1}, {"asked_at": None}]
    return StepRecord(**fields | _flaw(chance, *flaws))


def make_steps(chance: Random) -> list[StepWrite]:
    """Some to insert and some to update, of several workflows; each step once."""
    writes: dict[object, StepWrite] = {}
    for _ in range(chance.randint(3, 12)):
        is_new = chance.random() < 0.7
        record = _step(chance, is_new)
        write = StepWrite(
            workflow_id=chance.choice(IDS),
            record=record,
            is_new=is_new,
            must_be_ready=not is_new and chance.random() < 0.3,
        )
        writes[write.workflow_id, record.number] = write
    return list(writes.values())


def make_event(chance: Random) -> SentEvent:
    """An event, created or sent."""
    fields: Fields = {"event_id": chance.choice(EVENTS), "name": chance.choice(NAMES)}
    if chance.random() < 0.3:
        return SentEvent(**fields | _flaw(chance, {"sent_at": 1}, {"outcome": Succeeded("1")}))
    fields |= {"sequence": chance.randint(0, 3), "sent_at": _time(chance)}
    fields["outcome"] = chance.choice(OUTCOMES[:2])
    flaws: list[Fields] = [{"sent_at": None}, {"outcome": None}, {"outcome": Canceled()}]
    return SentEvent(**fields | _flaw(chance, *flaws))


def make_letter(chance: Random) -> InboxRow:
    """A message for an owner or a worker."""
    fields: Fields = {
        "workflow_id": chance.choice(IDS),
        "kind": chance.choice(["attempt", "child", "event", "revoked"]),
        "body": chance.choice(TEXTS),
        "accepted_at": _time(chance),
        "number": chance.choice([None, 1]),
        "worker": chance.choice([None, None, *WORKERS]),
    }
    return InboxRow(**fields | _flaw(chance, {"kind": "letter"}, {"body": None}))
