"""Plans that fail here fail elsewhere in the same way; see `replay_elsewhere` for a thousand."""

from __future__ import annotations

from tests.sim.replay_elsewhere import collect, compare, names


def test_what_fails_here_fails_in_other_processes() -> None:
    """Twenty plans, two processes, other hashes of strings: class, words and fingerprint."""
    cases = collect(20, lambda text: None)
    assert len(cases) == 20
    assert len({case.test for case in cases}) == len(names())
    for case, other in compare(cases, 2):
        assert case == other
