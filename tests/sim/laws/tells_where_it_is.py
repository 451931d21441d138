"""Fails to import, with what it finds about its process: for test_replay_process."""

from __future__ import annotations

from perdure_sim.laws.replay_process import IS_CHILD

raise ImportError(f"{IS_CHILD=}")
