"""What user code may run on the engine's connection, read from the text of a statement.

A statement is one: the connection sends it so that the server takes no second one. So its first
words say what it does to the transaction. The fence is built against mistakes, not against malice.
What does not belong here: running it, and what becomes of a refusal (connection.py).
"""

from __future__ import annotations

import re

SAVEPOINT_NAME = "perdure_user_code"

WHY_NOT = "the engine commits this transaction together with the step"
READ_ONLY = "a query must not write: make it a mutation"

_UNDO = f"{WHY_NOT}; raise an exception to undo the step"
_SESSION = "it would change the engine's connection for all that comes later"

#: By the first word.
_REFUSED = {
    "begin": _UNDO,
    "start": _UNDO,
    "commit": _UNDO,
    "end": _UNDO,
    "abort": _UNDO,
    "rollback": _UNDO,
    "discard": _SESSION,
    "deallocate": _SESSION,
    "listen": "its connection is the engine's: listen on one of your own",
    "unlisten": "its connection is the engine's: listen on one of your own",
    "load": _SESSION,
    "reset": _SESSION,
}

#: First words after which it is certain that the transaction is as it was.
_HARMLESS = frozenset(
    {"select", "insert", "update", "delete", "merge", "with", "values", "table", "create", "drop"}
    | {"alter", "truncate", "savepoint", "release", "set", "show", "explain", "comment", "lock"}
    | {"analyze", "notify"}
)

_COMMENTS = re.compile(r"--[^\n]*(?:\n|$)|/\*.*?\*/", re.DOTALL)
_LITERALS = re.compile(r"'(?:[^']|'')*'")
_WORDS = re.compile(r"[a-z_]+|\"[^\"]*\"")

# The engine's own tables, as the target of a statement that writes or defines.
_OURS = re.compile(
    r"\b(?:into|update|from|truncate|table|index|view|trigger|sequence|on|copy|lock)\s+"
    r"(?:only\s+|if\s+exists\s+|if\s+not\s+exists\s+|concurrently\s+)*"
    r'(?:"?\w+"?\s*\.\s*)?"?(perdure_\w+)'
)
_WRITING = frozenset(
    {"insert", "update", "delete", "merge", "truncate", "create", "drop", "alter", "lock", "copy"}
)


def objection(statement: str) -> str | None:
    """Why user code must not run this statement; None if it may."""
    words = _words(statement)
    first, second = (*words[:2], "", "")[:2]
    if first == "rollback" and "to" in words[1:3]:
        return _of_savepoint(first, words)
    if first in ("savepoint", "release"):
        return _of_savepoint(first, words)
    if first == "set" and second not in ("local", "constraints"):
        return f"SET inside a step: {_SESSION}; use SET LOCAL"
    if first == "set" and "transaction" in words[1:3]:
        return "SET TRANSACTION inside a step: the transaction is the engine's"
    if first == "prepare" and second == "transaction":
        return f"PREPARE TRANSACTION inside a step: {_UNDO}"
    if first in _REFUSED:
        return f"{first.upper()} inside a step: {_REFUSED[first]}"
    return _of_ours(first, statement)


def is_harmless(statement: str) -> bool:
    """Whether the transaction is certainly as it was before this statement (if it is no error)."""
    return (_words(statement) or [""])[0] in _HARMLESS


def sets_something(statement: str) -> bool:
    """Whether a setting may be another one afterwards, until the transaction ends."""
    plain = statement.lower()
    return (_words(statement) or [""])[0] == "set" or "set_config" in plain


def _words(statement: str) -> list[str]:
    start = _COMMENTS.sub(" ", statement[:2000]).lower()
    return _WORDS.findall(start)[:6]


def _of_savepoint(first: str, words: list[str]) -> str | None:
    if words[-1].strip('"') != SAVEPOINT_NAME and SAVEPOINT_NAME not in words:
        return None
    what = f"{first.upper()} of the savepoint {SAVEPOINT_NAME}"
    return f"{what}, which is the engine's: choose another name"


def _of_ours(first: str, statement: str) -> str | None:
    """What of the engine's a statement would write to or change, or be taken for."""
    if "perdure_" not in statement.lower():
        return None
    if first not in _WRITING and first != "with":
        return None
    plain = _LITERALS.sub("''", _COMMENTS.sub(" ", statement)).lower()
    if first in ("insert", "create", "copy", "with"):
        # They may read from the engine's tables.
        if first == "with" and not re.search(r"\b(?:insert\s+into|update|delete\s+from)\b", plain):
            return None
        plain = re.sub(r"\b(?<!delete\s)from\s+", "reading ", plain)
    elif first in ("update", "delete", "merge"):
        # Only the first table that is named is written to.
        found = _OURS.search(plain)
        return None if found is None or found.start() > 12 else why_reserved(found[1])
    found = _OURS.search(plain)
    return None if found is None else why_reserved(found[1])


def why_reserved(name: str) -> str:
    """Why user code may not write to what has this name, and what to do instead."""
    return (
        f"{name} is the engine's own (all names that begin with perdure_ are) and may only be read:"
        " use ctx.start, ctx.send_event and ctx.cancel, and other names for your tables"
    )
