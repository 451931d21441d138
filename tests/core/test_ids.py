"""Derived ids and numbers: the same everywhere, and different where they have to be."""

from __future__ import annotations

from perdure.core.ids import child_id, digest, idempotency_key, unit_float


def test_a_digest_is_the_same_in_every_process() -> None:
    """It must never change: jitter and hashes of stored workflows come from it."""
    assert digest("w", 1, 2) == 4065763358232913163
    assert digest("loop", "w") == 13785912049147602553


def test_a_digest_depends_on_each_part_and_its_place() -> None:
    """No two of these are alike, though their texts are when simply joined."""
    keys = [("ab",), ("a", "b"), ("b", "a"), ("a", "b", ""), ("a",), ("a", 1), ("a", 11), ("a1", 1)]
    assert len({digest(*key) for key in keys}) == len(keys)


def test_a_digest_has_64_bits() -> None:
    """All values lie in 0 … 2**64, the upper half included."""
    values = [digest("w", number) for number in range(200)]
    assert all(0 <= value < 2**64 for value in values)
    assert max(values) >= 2**63


def test_unit_floats_lie_between_0_and_1_and_spread() -> None:
    """In [0, 1), with every tenth of it hit by a few hundred draws."""
    values = [unit_float("w", number) for number in range(300)]
    assert all(0 <= value < 1 for value in values)
    assert {int(value * 10) for value in values} == set(range(10))


def test_attempts_share_a_key_and_restarts_do_not() -> None:
    """The idempotency key names workflow, step and the epoch in which the step was asked."""
    keys = {idempotency_key("w", 0, 1), idempotency_key("w", 0, 2), idempotency_key("w", 1, 1)}
    assert len(keys) == 3
    assert idempotency_key("w", 3, 7) == "w/3@7"


def test_a_child_has_an_id_of_its_own_for_each_try() -> None:
    """Derived from parent, step and epoch: a restarted step gets another child."""
    assert child_id("w", 3, 7) == "w/3@7"
    assert child_id("w", 3, 8) != child_id("w", 3, 7)
