"""Values of the engine in words, for people who look at a failure: times, steps, outcomes, faults.

Times are shown as they stand from the begin of the world: "+10.020s", "+3d 4h".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep, StepCommand
from perdure.core.journal import StepRecord
from perdure.core.outcomes import Failed, Json, Outcome, Succeeded
from perdure.errors import ErrorInfo

from ..faults.plan import Fault
from ..world.clock import START_MS

#: Longer values are cut.
VALUE_CHARS = 40

#: Longer messages of errors are cut.
MESSAGE_CHARS = 120

#: Of what a broken law says so much is shown.
FACTS_CHARS = 4_000

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000))


def moment(at: int) -> str:
    """A time, from the begin of the world: "+10.020s", "+16m 40s", "+3d 4h"."""
    ms = abs(at - START_MS)
    text = f"{ms / 1000:.3f}s" if ms < 60_000 else span(ms)
    return f"{'+' if at >= START_MS else '-'}{text}"


def span(ms: int) -> str:
    """A length of time, exact: "10s", "0.5s", "3d 4h"."""
    parts = []
    for unit, size in _UNITS:
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count}{unit}")
    if ms or not parts:
        parts.append(f"{ms / 1000:g}s")
    return " ".join(parts)


def cut(text: str, most: int = VALUE_CHARS) -> str:
    """The text in one line, and not longer than that."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, …"""
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{n}{'th' if n % 100 in (11, 12, 13) else endings.get(n % 10, 'th')}"


# --- steps and outcomes ---------------------------------------------------------------------------


def call_text(name: str, arguments: Json) -> str:
    """A call as it would be written: "charge(n=1)"."""
    try:
        decoded = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return f"{name}({cut(arguments)})"
    if isinstance(decoded, dict):
        inside = ", ".join(f"{key}={_value_text(value)}" for key, value in decoded.items())
    else:
        inside = _value_text(decoded)
    return f"{name}({cut(inside)})"


def _value_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def command_text(command: StepCommand) -> str:
    """What a step is to do: "action charge(n=1)", "sleep until +15.020s"."""
    match command:
        case RunStep():
            return f"{command.kind} {call_text(command.name, command.arguments)}"
        case RunChild():
            return f"child workflow {call_text(command.name, command.arguments)}"
        case Sleep():
            return f"sleep until {moment(command.due_at)}"
        case AwaitEvent():
            until = "" if command.due_at is None else f", until {moment(command.due_at)}"
            return f"wait for event {command.event_name or command.event_id}{until}"


def step_text(record: StepRecord) -> str:
    """The name of a step: "step 2 charge", "step 3 (event go)"."""
    command = record.command
    match command:
        case Sleep():
            return f"step {record.number} (sleep)"
        case AwaitEvent():
            return f"step {record.number} (wait for {command.event_name or command.event_id})"
        case RunChild():
            return f"step {record.number} (child {command.name})"
        case _:
            return f"step {record.number} {command.name}"


def error_text(error: ErrorInfo) -> str:
    """Type and message of an error that was recorded."""
    return cut(f"{error.type}: {error.message}" if error.message else error.type, MESSAGE_CHARS)


def event_text(outcome: Outcome) -> str:
    """What an event brings."""
    return cut(outcome.value) if isinstance(outcome, Succeeded) else outcome_text(outcome)


def outcome_text(outcome: Outcome | None) -> str:
    """How something ended: "succeeded with 3", "failed with ValueError: no", "was canceled"."""
    if outcome is None:
        return "has not ended"
    if isinstance(outcome, Succeeded):
        return "succeeded" if outcome.value == "null" else f"succeeded with {cut(outcome.value)}"
    if isinstance(outcome, Failed):
        return f"failed with {error_text(outcome.error)}"
    return "was canceled"


def difference(
    outcomes: Mapping[str, Outcome | None], expected: Mapping[str, Outcome | None]
) -> str:
    """How the ends of workflows differ from those of a run without faults; a line each."""
    lines = []
    for workflow_id in dict.fromkeys((*expected, *outcomes)):
        here, there = (
            outcome_text(each[workflow_id]) if workflow_id in each else "never began"
            for each in (outcomes, expected)
        )
        if outcomes.get(workflow_id) != expected.get(workflow_id) or here != there:
            lines.append(f"{workflow_id} {here}; without faults it {there}")
    return "\n".join(lines)


# --- faults ---------------------------------------------------------------------------------------

#: What happens, by (site, kind) or by kind alone. {n}: which passing, {who}: to whom, {for}: long.
_FAULTS: dict[tuple[str, str] | str, str] = {
    ("after", "delay"): "the client waits {for} with its {n} deed that has a range",
    ("takes", "delay"): "attempt {n} of {who}, counted over all workflows, takes {for}",
    ("begin", "busy"): "the {n} transaction of {who} cannot begin: the store is busy",
    ("begin", "full"): "the {n} transaction of {who} cannot begin: the disk is full",
    ("begin", "stall"): "the engine of {who} stands still for {for} before its {n} transaction",
    ("begin", "overtaken"): "the others take {who} for dead, whose engine stands still for {for}"
    " before its {n} transaction",
    ("read", "stall"): "the engine of {who} stands still for {for} before its {n} read",
    ("begin", "read_only"): "from the {n} transaction of {who} on nobody can write, for {for}",
    ("begin", "crash"): "{who} dies when it begins its {n} transaction",
    ("commit", "fails"): "the {n} commit of {who} fails, and nothing of it is stored",
    ("commit", "full"): "the {n} commit of {who} fails, for the disk is full; nothing is stored",
    ("commit", "disk_full"): "from the {n} commit of {who} on the disk is full, for {for}; nobody's"
    " commit is stored",
    ("commit", "power_loss"): "the power fails at the {n} commit of {who}: all processes die, and"
    " what was stored in the last {for} is lost",
    ("commit", "lost_ack"): "the {n} commit of {who} is stored, but {who} is told that it failed",
    ("commit", "busy_ack"): "the {n} commit of {who} is stored, but {who} is told that the store"
    " was busy",
    ("commit", "crash_before"): "{who} dies just before its {n} commit is stored",
    ("commit", "crash_after"): "{who} dies just after its {n} commit was stored",
    ("read", "fails"): "the {n} read of {who} fails",
    ("read", "crash"): "{who} dies at its {n} read",
    ("boot", "crash"): "{who} dies at its {n} start, as soon as it has signed on",
    ("turn", "crash"): "{who} dies at the begin of its {n} turn",
    ("turn", "evict"): "{who} drops all workflows from its memory before its {n} turn",
    ("turn", "fenced"): "the others take {who} for dead before its {n} turn, though it lives",
    ("turn", "jump"): "the clock of {who} jumps {for} ahead before its {n} turn",
    ("turn", "jump_back"): "the clock of {who} jumps {for} back before its {n} turn",
    ("turn", "runs_fast"): "from its {n} turn on the clock of {who} runs too fast",
    ("turn", "runs_slow"): "from its {n} turn on the clock of {who} runs too slow",
    ("turn", "drain"): "{who} ends in good order after its {n} turn, and starts again",
    ("deploy", "drain"): "{who} ends in good order after its {n} turn, and starts with new code",
    ("deploy", "kill"): "{who} dies at the begin of its {n} turn, and starts with new code",
    ("carried_out", "evict"): "{who} drops all workflows from its memory after its {n} busy turn",
    ("poll", "late"): "{who} notices {for} late that others have committed, the {n} time",
    ("wake", "twice"): "the {n} wake-up of {who} comes twice",
    ("wake", "lost"): "the {n} wake-up of {who} is lost: only a poll finds what it was for",
    ("wake", "late"): "the {n} wake-up of {who} comes {for} late",
    ("request", "twice"): "the {n} request of {who} is sent twice",
    ("request", "elsewhere"): "the {n} request of {who} is sent to a worker's process as well",
    ("request", "storm"): "the {n} request of {who} is sent again and again, many times",
    ("request", "late"): "the {n} request of {who} is sent {for} late, after others",
    ("attempt", "crash"): "the process that runs the {n} attempt of {who} dies in the middle of it",
    ("attempt", "too_much"): "the {n} attempt of {who} returns more than a value may have",
    ("attempt", "wrong_type"): "the {n} attempt of {who} returns a value of a wrong type",
    (
        "report",
        "crash",
    ): "the process dies when the {n} attempt of {who} is done, before it is told",
    ("report", "twice"): "the outcome of the {n} attempt of {who} is told twice",
    ("report", "late"): "the outcome of the {n} attempt of {who} is told {for} late",
    ("touched", "cancel"): "a client cancels {who} at the {n} commit that touches it",
    ("touched", "restart"): (
        "a client cancels {who} at the {n} commit that touches it, and has it go on where it was"
    ),
    ("touched", "rerun"): (
        "a client cancels {who} at the {n} commit that touches it, and has it run from its first"
        " step"
    ),
    ("touched", "cleanup"): "a client deletes {who} at the {n} commit that touches it",
    (
        "touched",
        "evict",
    ): "the {n} commit that touches {who} is followed by dropping it from memory",
    ("batch", "one"): "for the whole run a turn takes one message, and takes up one workflow",
    ("cache", "none"): "for the whole run no handler outlives its turn: all are replayed",
    ("permits", "one"): "for the whole run one action runs at a time",
    ("commits", "apart"): "for the whole run what runs functions gets a commit of its own",
    ("attempt", "raises"): "the {n} attempt of {who} raises an error that may be tried again",
    ("attempt", "raises_for_good"): "the {n} attempt of {who} raises an error that is final",
    ("attempt", "slow"): "the {n} attempt of {who} takes {for} longer",
    ("attempt", "deaf"): "the {n} attempt of {who} takes {for} and cannot be canceled",
    "crash": "{who} dies in its {n} busy turn, {where}",
    "pause": "the engine of {who} stands still for {for} in its {n} busy turn, {where}",
    "zombie": "the others take {who} for dead, whose engine stands still for {for} in its {n} busy"
    " turn, {where}",
}

_BORDERS = {
    "collected": "after it has collected its messages",
    "decided": "after it has decided, before it commits",
    "committed": "after its commit, before it tells anybody",
    "told": "after it has answered, before it starts what is to run",
    "carried_out": "at the end",
}


def fault_text(fault: Fault) -> str:
    """What a fault does, in a sentence."""
    pattern = _FAULTS.get((fault.site, fault.kind))
    if pattern is None and fault.site in _BORDERS:
        pattern = _FAULTS.get(fault.kind)
    if pattern is None:
        pattern = f"{{who}}: {fault.kind} at the {{n}} passing of {fault.site}"
        pattern += ", for {for}" if fault.duration else ""
    words = {
        "n": ordinal(fault.occurrence),
        "who": fault.actor,
        "for": span(fault.duration),
        "where": _BORDERS.get(fault.site, ""),
    }
    text = pattern.format_map(words)
    return text if fault.burst == 1 else f"{text}; so do the {fault.burst - 1} after it"


# --- messages of broken laws ----------------------------------------------------------------------

_INSTANT = re.compile(r"\b20\d{11}\b")
_VALUE = re.compile(r"\b[A-Z][A-Za-z]+\(")


@lru_cache(maxsize=512)  # who runs hot says the same again and again
def facts_text(message: str) -> str:
    """A message with its instants as times of the world, and without most of long values."""
    if len(message) > FACTS_CHARS:
        message = message[:FACTS_CHARS] + "…"
    parts, end = [], 0
    while (found := _VALUE.search(message, end)) is not None:
        close = _closing(message, found.end() - 1)
        if close is None:
            break
        parts += [message[end : found.start()], _short(message[found.start() : close])]
        end = close
    return with_moments("".join([*parts, message[end:]]))


def with_moments(text: str) -> str:
    """A text with its instants as times of the world."""
    return _INSTANT.sub(lambda found: moment(int(found[0])), text)


def _closing(text: str, opening: int) -> int | None:
    """Where the value ends whose bracket opens there."""
    depth, quote, i = 0, "", opening
    while i < len(text):
        char = text[i]
        if quote:
            if char == "\\":
                i += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return None


def _short(text: str) -> str:
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return cut(text, MESSAGE_CHARS)
    return _node_text(node)


#: Fields of values that say nothing to a reader of a failure.
_DULL = frozenset({"traceback", "rules", "retry", "unstable", "inline", "journal_bytes", "depth"})


def _node_text(node: ast.expr) -> str:
    match node:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            inside = [_node_text(each) for each in args]
            inside += [
                f"{each.arg}={_node_text(each.value)}"
                for each in keywords
                if each.arg not in _DULL and not _is_empty(each.value)
            ]
            return f"{name}({', '.join(inside)})"
        case ast.Constant(value=str(value)):
            return repr(cut(value))
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return f"[{', '.join(map(_node_text, elements))}]"
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return f"{{{', '.join(f'{_node_text(k)}: {_node_text(v)}' for k, v in pairs if k)}}}"
        case _:
            return ast.unparse(node)


def _is_empty(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return value is None or value is False or value == ""
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return not elements
        case ast.Dict(keys=keys):
            return not keys
        case _:
            return False
