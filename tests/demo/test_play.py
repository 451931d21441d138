"""The director's plan: when it kills."""

from __future__ import annotations

import pytest

from perdure.demo.play import STEPS, USERS, Plan


@pytest.mark.parametrize("users", [1, 2, 6, 20])
def test_each_kill_has_a_mark_of_its_own_that_will_be_reached(users: int) -> None:
    """For every allowed number of kills the marks differ, rise, and leave work for the last one."""
    kills_max = Plan(users=users).kills_max
    assert kills_max >= 2
    for kills in range(kills_max + 1):
        plan = Plan(users=users, kills=kills)
        marks = plan.kill_marks()
        assert len(marks) == kills
        assert marks == sorted(set(marks))
        assert all(0 < mark < users * len(STEPS) - 1 for mark in marks)


def test_every_user_has_a_name_of_its_own() -> None:
    """Names are known ones first, then made up, and never the same twice."""
    names = Plan(users=len(USERS) + 3).names()
    assert names[: len(USERS)] == USERS
    assert len(set(names)) == len(names) == len(USERS) + 3
