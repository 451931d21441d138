"""The workpool: the queue of ready actions, and how permits are shared between workers."""

from __future__ import annotations

import pytest

from perdure.core.pool import Queue, Share, permits_to_hold


def test_the_oldest_step_comes_first() -> None:
    """By the time at which it became ready; of equal times the one that was added first."""
    queue = Queue()
    for ready_at, name in ((20, "c"), (10, "a"), (20, "d"), (10, "b")):
        queue.add(ready_at, name, 0)
    assert queue.peek().workflow_id == "a"
    assert [step.workflow_id for step in queue.take(3)] == ["a", "b", "c"]
    assert len(queue) == 1


@pytest.mark.parametrize("count", [-1, 0])
def test_nothing_is_taken_without_permits(count: int) -> None:
    """No permit, no step: it stays where it is."""
    queue = Queue()
    queue.add(1, "a", 0)
    assert queue.take(count) == []
    assert len(queue) == 1


def test_an_empty_queue_gives_nothing() -> None:
    """Taking more than there is takes what is there."""
    queue = Queue()
    queue.add(1, "a", 0)
    assert len(queue.take(5)) == 1
    queue.add(1, "a", 0)
    queue.clear()
    assert queue.take(5) == []


def hold(mine: int, *others: tuple[int, int], limit: int, running: int, needed: int) -> Share:
    """My share, when the others hold and want so many."""
    shares = [Share(f"w{n}", permits, wanting) for n, (permits, wanting) in enumerate(others)]
    return permits_to_hold(
        Share("me", mine, 0), shares, limit=limit, running=running, needed=needed
    )


@pytest.mark.parametrize(
    ("share", "permits", "wanting"),
    [
        # Alone: what is needed, and some more; the rest is there for whoever comes.
        (hold(0, limit=10, running=0, needed=0), 5, 0),
        (hold(0, limit=3, running=0, needed=0), 2, 0),
        (hold(0, limit=100, running=0, needed=10), 60, 0),
        # What it has it keeps, while nobody wants it.
        (hold(10, limit=10, running=0, needed=0), 10, 0),
        # Alone and in need of more than there is.
        (hold(10, limit=10, running=10, needed=15), 10, 5),
        # What is free, while nobody else wants any.
        (hold(2, (3, 0), limit=10, running=2, needed=9), 7, 2),
        # Somebody wants some: what is not needed goes back.
        (hold(10, (0, 4), limit=10, running=0, needed=0), 0, 0),
        (hold(10, (0, 4), limit=10, running=1, needed=3), 3, 0),
        # What is needed stays up to the fair share, which is 5 of 10 for two.
        (hold(10, (0, 4), limit=10, running=0, needed=9), 5, 4),
        # What runs cannot be given back.
        (hold(10, (0, 4), limit=10, running=8, needed=12), 8, 4),
        # In need while another wants too: up to the fair share, as far as there are free ones.
        (hold(1, (6, 2), limit=10, running=1, needed=9), 4, 5),
        # The fair share is rounded up: 4 of 10 for three.
        (hold(10, (0, 1), (0, 1), limit=10, running=0, needed=9), 4, 5),
        # A lowered limit: what is over it goes back as soon as it does not run.
        (hold(10, limit=4, running=7, needed=12), 7, 5),
        (hold(7, limit=4, running=3, needed=12), 4, 8),
        # A pause: nothing, and nothing wanted, so that nobody gives back for nothing.
        (hold(5, limit=0, running=0, needed=3), 0, 0),
        # The others hold more than the limit already.
        (hold(0, (5, 0), limit=3, running=0, needed=2), 0, 2),
    ],
)
def test_the_permits_to_hold(share: Share, permits: int, wanting: int) -> None:
    """Each rule of the sharing, one by one."""
    assert (share.worker_id, share.permits, share.wanting) == ("me", permits, wanting)


def test_the_sum_never_grows_beyond_the_limit() -> None:
    """Whatever three workers need, step after step: no more permits than the limit."""
    needs = [(9, 0, 0), (9, 9, 9), (0, 9, 9), (0, 0, 9), (9, 9, 0), (1, 1, 1)]
    shares = [Share(name, 0, 0) for name in "abc"]
    for limit in (6, 2, 7, 0, 5):
        before = sum(share.permits for share in shares)
        for row in needs:
            for index, needed in enumerate(row):
                mine, others = shares[index], [s for s in shares if s is not shares[index]]
                shares[index] = permits_to_hold(mine, others, limit=limit, running=0, needed=needed)
                total = sum(share.permits for share in shares)
                assert total <= max(limit, before)
        assert sum(share.permits for share in shares) <= limit
