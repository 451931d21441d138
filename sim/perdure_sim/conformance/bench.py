"""What the checks of `check_store` work with: a bench of stores on one database, and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import msgspec
from msgspec.structs import replace

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep, StepCommand
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.core.retry import RetryPlan
from perdure.core.workflow import Blocked, WorkflowHeader, WorkflowState
from perdure.errors import ErrorInfo
from perdure.store.base import Loaded, Reader, StepWrite, Store

#: Text that quoting, formatting and encoding get wrong.
ODD = 'O\'Neil "q" \\ %s ? :x \n\t é 𝄞 🧪 \u2028 \ufffd'
#: JSON that must come back to the letter: a replay compares arguments as text.
SPACED = '{ "b":1.0,"a":[ ],  "é":"\\u00e9" }'
#: A value as large as they get, in UTF-8 bytes.
HUGE = '"' + "é" * (512 * 1024 - 1) + '"'
LARGE = 2**62


class Broken(Exception):
    """A promise of the contract that does not hold; the message names it."""


def expect(found: object, wanted: object, promise: str) -> None:
    """Raise `Broken` unless `found` equals `wanted`; `promise` says what should be so."""
    if found != wanted:
        where, found, wanted = _difference("", found, wanted)
        at = f" at {where.lstrip('.')}" if where else ""
        raise Broken(f"{promise}{at}: found {_short(found)}, expected {_short(wanted)}")


def _difference(where: str, found: object, wanted: object) -> tuple[str, object, object]:
    """The innermost place where two values differ: a state has dozens of fields."""
    parts: list[tuple[str, object, object]] = []
    cls: Any = type(found)
    if cls is type(wanted) and issubclass(cls, msgspec.Struct):
        names = cls.__struct_fields__
        parts = [(f".{name}", getattr(found, name), getattr(wanted, name)) for name in names]
    elif isinstance(found, list | tuple) and isinstance(wanted, list | tuple):
        if len(found) == len(wanted):
            parts = [(f"[{i}]", found[i], wanted[i]) for i in range(len(found))]
    for name, one, other in parts:
        if one != other:
            return _difference(where + name, one, other)
    return where, found, wanted


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:200]} … {text[-200:]}"


@attrs.define
class Bench:
    """What a check works with: stores on one database, and ids that nobody else has."""

    make_store: Callable[[], Store]
    store: Store
    prefix: str
    epoch: int
    others: list[Store] = attrs.field(factory=list)

    @property
    def other(self) -> Store:
        """A second store on the same database, as another process would have it."""
        return self.others[0] if self.others else self.open_another()

    def open_another(self) -> Store:
        """One more store on the same database."""
        store = self.make_store()
        store.open(max_parallelism=None)
        self.others.append(store)
        return store

    def reader(self) -> Reader:
        """Reads what is committed: through another store, where the database can be shared."""
        return (self.store if self.store.reads_need_engine else self.other).reader()

    def id(self, label: str) -> str:
        """An id, or a name, that belongs to this check."""
        return f"{self.prefix}/{label}"

    def state(self, label: str, **fields: Any) -> WorkflowState:
        """A workflow that waits for its start, unless `fields` say otherwise."""
        header: dict[str, Any] = {"arguments": "{}", "created_at": 5, "start_at": 5}
        names = set(WorkflowHeader.__struct_fields__)
        header |= {name: fields.pop(name) for name in list(fields) if name in names}
        header.setdefault("name", self.id("name"))
        fields.setdefault("epoch", self.epoch)
        return WorkflowState(header=WorkflowHeader(workflow_id=self.id(label), **header), **fields)

    def put(self, *states: WorkflowState) -> None:
        """Insert workflows, in this order."""
        with self.store.transaction() as tx:
            tx.insert_workflows(states)

    def add_worker(self, label: str) -> str:
        """Register a worker; its id."""
        worker_id = self.prefix.replace("/", "-") + "-" + label
        with self.store.transaction() as tx:
            tx.add_worker(worker_id, 1)
        return worker_id

    def put_steps(self, label: str, *records: StepRecord, is_new: bool = True) -> None:
        """Write steps of one workflow."""
        with self.store.transaction() as tx:
            tx.put_steps(
                StepWrite(workflow_id=self.id(label), record=record, is_new=is_new)
                for record in records
            )

    def one(self, label: str) -> WorkflowState:
        """A workflow as it is stored, without its journal."""
        states = self.reader().states([self.id(label)])
        expect(len(states), 1, f"states() finds the workflow {label}")
        return states[0]

    def load(self, label: str) -> Loaded:
        """A workflow as it is stored, with its journal."""
        loaded = self.reader().load([self.id(label)])
        expect(len(loaded), 1, f"load() finds the workflow {label}")
        return loaded[0]


@attrs.frozen
class Check:
    """One promise: `fn` raises if it is broken. `needs_two` stores on one database, or one."""

    name: str
    promise: str
    fn: Callable[[Bench], None]
    needs_two: bool


class Suite:
    """The checks of one module, in the order in which they are written."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def check(self, fn: Callable[[Bench], None]) -> Callable[[Bench], None]:
        """Decorate a check; its docstring is the promise."""
        return self._add(fn, needs_two=False)

    def check_of_two(self, fn: Callable[[Bench], None]) -> Callable[[Bench], None]:
        """Decorate a check that needs a second store on the same database."""
        return self._add(fn, needs_two=True)

    def _add(self, fn: Callable[[Bench], None], *, needs_two: bool) -> Callable[[Bench], None]:
        promise = " ".join((fn.__doc__ or "").split())
        self.checks.append(Check(fn.__name__, promise, fn, needs_two))
        return fn


# --- values that a store has to bring back -------------------------------------------------------


def sample_error() -> ErrorInfo:
    return ErrorInfo(type="app.Odd", message=ODD, traceback="a\n  b\n", arguments='["x", 1]')


def sample_workflows(bench: Bench, worker: str) -> Iterable[WorkflowState]:
    """One of each sort, with every field filled somewhere."""
    yield bench.state("fresh", wake_at=5)
    yield bench.state(ODD, name=ODD, context="null", wake_at=5)
    yield bench.state(
        "all",
        arguments=SPACED,
        context=HUGE,
        on_complete=ODD,
        parent_id=ODD,
        parent_number=LARGE,
        depth=3,
        rules=9,
        created_at=-LARGE,
        start_at=LARGE,
        position=LARGE,
        stamp=-LARGE,
        started_at=-1,
        next_number=LARGE,
        timer_at=-LARGE,
        wake_at=LARGE,
        journal_bytes=LARGE,
        takeovers=4,
        blocked=Blocked(error=sample_error(), count=3, retry_at=LARGE),
    )
    yield bench.state("owned", owner=worker, position=0, started_at=7, stamp=7)
    ended = {"position": 3, "started_at": 0, "stamp": 9, "ended_at": 9}
    huge = Succeeded(HUGE)
    yield bench.state(
        "success", status="success", outcome=huge, on_complete_error=sample_error(), **ended
    )
    yield bench.state("failed", status="failed", outcome=Failed(sample_error()), **ended)
    yield bench.state("canceled", status="canceled", outcome=Canceled(), ended_at=-LARGE)


def run_step(number: int, **fields: Any) -> StepRecord:
    command = RunStep(kind="action", name="pay", function="pay", arguments="{}")
    return step(number, command, **fields)


def step(number: int, command: StepCommand, **fields: Any) -> StepRecord:
    fields = {"asked_position": 0, "asked_at": 5, "asked_epoch": 1, "state": "asked", **fields}
    return StepRecord(number=number, command=command, **fields)


def ended(**fields: Any) -> dict[str, Any]:
    return {"state": "settled", "outcome": Succeeded("1"), "settled_at": 9} | fields


def sample_steps() -> tuple[StepRecord, ...]:
    """One of each sort, with every field filled somewhere; those that are open come first."""
    plan = RetryPlan(
        max_attempts=7,
        initial_ms=1,
        base=1.1,
        cap_ms=LARGE,
        jitter=True,
        non_retryable=("a.B", ODD),
    )
    everything = RunStep(
        kind="action",
        name=ODD,
        function=ODD,
        arguments=SPACED,
        unstable=True,
        due_at=-LARGE,
        retry=plan,
        timeout_ms=LARGE,
    )
    inline = RunStep(kind="mutation", name="m", function="m", arguments="{}", inline=True)
    query = RunStep(kind="query", name="q", function="q", arguments=HUGE)
    child = RunChild(name="c", function="w", arguments="[ ]", unstable=True, due_at=1, child_id=ODD)
    started = {"state": "started", "runner": "w", "attempt": 3, "started_at": -1}
    delivered = {"delivered_position": LARGE, "delivered_at": -LARGE}
    canceled = {"outcome": Canceled(), "canceled_position": 3}
    return (
        step(0, everything, **started, started_epoch=LARGE, deadline_at=LARGE, asked_at=-LARGE),
        step(1, inline, state="ready", due_at=-1, asked_epoch=LARGE),
        step(2, child, child_id=ODD),
        step(3, RunChild(name="c", function="w", arguments="{}")),
        step(4, Sleep(name=ODD, due_at=-LARGE), due_at=LARGE),
        step(5, AwaitEvent(name="e", event_name=ODD, due_at=LARGE), due_at=LARGE),
        step(6, AwaitEvent(name="e", event_id=ODD)),
        run_step(7, state="backoff", due_at=0, attempt=1, started_at=0, started_epoch=1),
        run_step(8, **ended(outcome=Failed(sample_error()), settled_at=8)),
        step(9, query, **ended(outcome=Succeeded(HUGE), settled_at=7)),
        step(10, AwaitEvent(name="e", event_name="e"), **ended(**delivered), event_id=ODD),
        run_step(11, **ended(**canceled)),
    )


def whole(
    state: WorkflowState, steps: Iterable[StepRecord], events: Iterable[SentEvent] = ()
) -> WorkflowState:
    """`state` as `load` has to give it: with what its open steps and its events say."""
    live = {
        record.number: record
        for record in steps
        if record.state != "settled"
        or (record.delivered_position is None and record.canceled_position is None)
    }
    settled = [(r.settled_at or 0, n) for n, r in live.items() if r.state == "settled"]
    waits = [n for n, r in live.items() if r.command.kind == "event" and r.state == "asked"]
    return replace(
        state,
        live=live,
        settled=tuple(sorted(settled)),
        awaiting=tuple(waits),
        busy=sum(record.state in ("ready", "started") for record in live.values()),
        events=tuple(events),
    )
