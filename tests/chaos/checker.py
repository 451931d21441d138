"""The judge: reads what is left after the chaos, by SQL and from the effects, and lists faults.

It trusts neither the engine's reads nor its reports: rows, lines of the file, and what the driver
was told when its calls returned.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, TypeAlias

import attrs
from tests.chaos.databases import Database
from tests.chaos.ledger import MAX_ATTEMPTS
from tests.chaos.processes import Effect, Effects

#: What each operation may have come to. A worker's death is the only fault that is not planned.
ALLOWED = {
    "mutation": {"ok"},
    "inline": {"ok"},
    "broken": {"ValueError"},
    "once": {"ok", "WorkerLost"},
    "flaky": {"ok", "WorkerLost"},
    "gather": {"ok", "WorkerLost", "WorkerLost,ok"},
    "sleep": {"ok"},
    "nap": {"ok"},
    "deadline": {"ok", "late", "WorkerLost"},
    "child": {"ok", "WorkerLost"},
    "spawn": {"ok"},
}


@attrs.define
class Known:
    """What the driver knows for sure: calls of its own that returned."""

    plans: dict[str, list[str]] = attrs.field(factory=dict)
    canceled: set[str] = attrs.field(factory=set)
    sent: dict[str, int] = attrs.field(factory=dict)


Row: TypeAlias = dict[str, Any]


class Checker:
    """One database at rest and its effects."""

    def __init__(self, database: Database, effects: Effects, known: Known) -> None:
        self._known = known
        self._database = database
        self.workflows = {row["id"]: row for row in self._rows("SELECT * FROM perdure_workflows")}
        self.steps: dict[str, list[Row]] = defaultdict(list)
        for row in self._rows("SELECT * FROM perdure_steps ORDER BY workflow_id, number"):
            self.steps[row["workflow_id"]].append(row)
        self.effects: dict[tuple[str, int], list[Effect]] = defaultdict(list)
        for effect in effects.read():
            self.effects[effect.workflow, effect.number].append(effect)

    def _rows(self, sql: str) -> list[Row]:
        return self._database.rows(sql)

    def faults(self) -> list[str]:
        """All that is wrong, one line each."""
        parts = (
            *(self._lost, self._outcomes, self._journals, self._mutations, self._attempts),
            *(self._keys, self._completions, self._events, self._leftovers, self._database.check),
        )
        return [fault for part in parts for fault in part()]

    def _lost(self) -> Iterator[str]:
        for id_ in self._known.plans:
            if id_ not in self.workflows:
                yield f"{id_}: its start was acknowledged, and it is gone"
        for id_, row in self.workflows.items():
            if row["status"] == "in_progress":
                open_steps = [s["name"] for s in self.steps[id_] if s["state"] != "settled"]
                yield f"{id_}: never ended (open: {open_steps}, blocked: {row['blocked']})"

    def _outcomes(self) -> Iterator[str]:
        for id_, plan in self._known.plans.items():
            row = self.workflows.get(id_)
            if row is None or row["status"] == "in_progress":
                continue
            wanted = "failed" if plan[-1] == "fail" else "success"
            if id_ in self._known.canceled:
                wanted = "canceled"
            if row["status"] != wanted:
                yield f"{id_}: ended as {row['status']}, not as {wanted}: {row['error']}"
            elif wanted == "failed" and json.loads(row["error"])["message"] != "fail":
                yield f"{id_}: failed with {row['error']}"
            elif wanted == "success":
                yield from self._notes(id_, plan, json.loads(row["value"]))

    def _notes(self, id_: str, plan: list[str], notes: list[str]) -> Iterator[str]:
        if len(notes) != len(plan):
            yield f"{id_}: {len(notes)} notes of {len(plan)} operations"
        received = [
            note for operation, note in zip(plan, notes, strict=False) if operation == "event"
        ]
        if received != [f"go {number}" for number in range(len(received))]:
            yield f"{id_}: events received as {received}"
        for operation, note in zip(plan, notes, strict=False):
            if operation != "event" and note not in ALLOWED[operation]:
                yield f"{id_}: {operation} came to {note!r}"

    def _journals(self) -> Iterator[str]:
        ticks: dict[str, list[int]] = defaultdict(list)
        for row in self._rows("SELECT * FROM perdure_ticks"):
            ticks[row["workflow_id"]].append(row["position"])
        for id_, row in self.workflows.items():
            steps = self.steps[id_]
            numbers = [step["number"] for step in steps]
            if numbers != list(range(row["next_number"])):
                yield f"{id_}: steps {numbers}, next number {row['next_number']}"
            positions = [0] if row["position"] >= 0 else []
            positions += ticks[id_]
            positions += [
                step["delivered_position"]
                for step in steps
                if step["delivered_position"] is not None
            ]
            if sorted(positions) != list(range(row["position"] + 1)):
                yield f"{id_}: positions {sorted(positions)}, last one {row['position']}"
            if any(step["asked_position"] > row["position"] for step in steps):
                yield f"{id_}: a step was asked for after the last position"
            if row["status"] != "in_progress":
                yield from (
                    f"{id_}: ended, with step {step['number']} still {step['state']}"
                    for step in steps
                    if step["state"] != "settled"
                )

    def _mutations(self) -> Iterator[str]:
        written = Counter(row["place"] for row in self._rows("SELECT place FROM ledger_writes"))
        expected = set()
        for id_, steps in self.steps.items():
            for step in steps:
                if step["kind"] != "mutation":
                    continue
                place = json.loads(step["arguments"])["place"]
                wanted = int(step["outcome"] == "success")
                expected.add(place)
                if written[place] != wanted:
                    yield (
                        f"{id_}: step {step['number']} ({step['function']},"
                        f" {step['outcome']}) has written {written[place]} rows"
                    )
                if step["function"] == "spawn":
                    if (f"{place}/spawned" in self.workflows) != bool(wanted):
                        yield f"{id_}: step {step['number']}: its start and its rows disagree"
        for place in written.keys() - expected:
            yield f"{place}: rows written by no step"

    def _attempts(self) -> Iterator[str]:
        recorded = set()
        for id_, steps in self.steps.items():
            for step in steps:
                if step["kind"] == "action":
                    place = (id_, step["number"])
                    recorded.add(place)
                    for fault in _attempt_faults(step, self.effects.get(place, [])):
                        yield f"{id_}: step {step['number']} ({step['function']}): {fault}"
        for id_, number in self.effects.keys() - recorded:
            yield f"{id_}: step {number} ran and is not in the journal"

    def _keys(self) -> Iterator[str]:
        users: dict[str, set[tuple[str, int]]] = defaultdict(set)
        for place, effects in self.effects.items():
            for effect in effects:
                users[effect.key].add(place)
        for key, places in users.items():
            if len(places) > 1:
                yield f"{key}: the idempotency key of several steps: {sorted(places)}"

    def _completions(self) -> Iterator[str]:
        ends: dict[str, list[Row]] = defaultdict(list)
        for row in self._rows("SELECT * FROM ledger_ends"):
            ends[row["workflow_id"]].append(row)
        for id_, row in self.workflows.items():
            wanted = int(row["on_complete"] is not None and row["status"] != "in_progress")
            found = ends.pop(id_, [])
            if len(found) != wanted:
                yield f"{id_}: on_complete ran {len(found)} times instead of {wanted}"
            if row["on_complete_error"] is not None:
                yield f"{id_}: on_complete failed: {row['on_complete_error']}"
            for end in found:
                if end["kind"] != row["status"] or end["detail"] != _detail(row):
                    yield f"{id_}: on_complete was told {end}, it is {row['status']}"
                if json.dumps(end["context"]) != row["context"]:
                    yield f"{id_}: on_complete got the context {end['context']}"
        yield from (f"{id_}: on_complete of no workflow" for id_ in ends)

    def _events(self) -> Iterator[str]:
        by_workflow: dict[str, list[Row]] = defaultdict(list)
        for row in self._rows("SELECT * FROM perdure_events ORDER BY workflow_id, sequence"):
            by_workflow[row["workflow_id"]].append(row)
        for id_, sent in self._known.sent.items():
            events = by_workflow[id_]
            if [json.loads(event["value"]) for event in events] != list(range(sent)):
                yield f"{id_}: {sent} events sent, stored {[e['value'] for e in events]}"
            consumers = [e["consumed_by"] for e in events if e["consumed_by"] is not None]
            if consumers != sorted(set(consumers)):
                yield f"{id_}: events consumed by the steps {consumers}"
            if any(event["consumed_by"] is None for event in events[: len(consumers)]):
                yield f"{id_}: an event was passed over: {consumers}"
            steps = {step["number"]: step for step in self.steps[id_]}
            for event in events:
                step = steps.get(event["consumed_by"])
                if step is None:
                    continue  # not consumed; a missing step is found elsewhere
                if (step["outcome"], step["value"]) != ("success", event["value"]):
                    yield f"{id_}: step {step['number']} consumed {event['value']!r}: {step}"
            waits = [
                step["number"]
                for step in self.steps[id_]
                if step["kind"] == "event" and step["outcome"] == "success"
            ]
            if waits != consumers:
                yield f"{id_}: events reached the steps {waits}, consumed are {consumers}"

    def _leftovers(self) -> Iterator[str]:
        # All have ended: a message that waits now waits for ever, and each look reads it again.
        kinds = Counter(row["kind"] for row in self._rows("SELECT kind FROM perdure_inbox"))
        if kinds:
            yield f"left in the inbox: {dict(kinds)}"
        for row in self._rows("SELECT id, owner FROM perdure_workflows WHERE owner IS NOT NULL"):
            yield f"{row['id']}: still owned by {row['owner']}"


def _detail(workflow: Row) -> str:
    if workflow["status"] == "success":
        return json.dumps(json.loads(workflow["value"]))
    if workflow["status"] == "failed":
        error: dict[str, Any] = json.loads(workflow["error"])
        return str(error["message"])
    return ""


def _attempt_faults(step: Row, effects: list[Effect]) -> Iterator[str]:
    """Whether the recorded attempts of an action fit what its code has left behind."""
    if step["attempt"] > MAX_ATTEMPTS[step["function"]]:
        yield f"{step['attempt']} attempts are recorded"
    started = Counter(effect.attempt for effect in effects if effect.phase == "start")
    ended = Counter(effect.attempt for effect in effects if effect.phase == "end")
    for attempt, count in (started + ended).items():
        if started[attempt] != 1 or ended[attempt] > 1:
            yield f"attempt {attempt} ran {count} times"
        if attempt > step["attempt"]:
            yield f"attempt {attempt} ran, and only {step['attempt']} are recorded"
    if len({effect.key for effect in effects}) > 1:
        yield f"several keys: {sorted({effect.key for effect in effects})}"
    if step["outcome"] == "success":
        # An action returns the number of its attempt: that very attempt must have ended.
        attempt = int(step["value"])
        if ended[attempt] != 1 or attempt != step["attempt"]:
            yield f"it succeeded in attempt {attempt}, which has not ended: {effects}"
    if step["outcome"] == "failed" and not step["attempt"]:
        yield f"it failed without an attempt: {step['error']}"
