"""examples/agent_loop.py: a conversation that goes on after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.examples.programs import kill_when, lines_of, run

ANSWER = "booked a trip to Lima; Lima: sun\n"


@pytest.mark.chaos
def test_the_conversation_goes_on_after_a_kill(tmp_path: Path) -> None:
    """The model is asked again only for the answer that was under way; the trip is booked once."""
    model = tmp_path / "model.log"
    kill_when(tmp_path, lambda: len(lines_of(model)) == 2, "agent_loop.py")
    assert run(tmp_path, "agent_loop.py") == ANSWER
    assert run(tmp_path, "agent_loop.py") == ANSWER  # it has ended: nothing is done again
    asked = lines_of(model)
    assert sorted(set(asked)) == ["1 messages", "4 messages", "6 messages"]
    assert asked.count("1 messages") == 1
    assert len(asked) <= 4
    assert lines_of(tmp_path / "booked.log") == ["Lima"]
