"""Ids and numbers derived from where something stands: no randomness, the same on every replay."""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeAlias

WorkflowId: TypeAlias = str
WorkerId: TypeAlias = str
EventId: TypeAlias = str

#: Changes of ownership, cancel and restart each take a new number from one store-wide sequence.
Epoch: TypeAlias = int


def digest(*parts: str | int) -> int:
    """64 bits that depend on all `parts`, on nothing else, and are the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def unit_float(*parts: str | int) -> float:
    """A number in [0, 1) derived from `parts`."""
    return (digest(*parts) >> 11) / (1 << 53)


def idempotency_key(workflow_id: WorkflowId, number: int, epoch: Epoch) -> str:
    """The key that all attempts of one step share. `epoch` is that in which it was first asked."""
    return f"{workflow_id}/{number}@{epoch}"


def child_id(parent_id: WorkflowId, number: int, epoch: Epoch) -> WorkflowId:
    """The id of a child workflow that was given none."""
    return f"{parent_id}/{number}@{epoch}"
