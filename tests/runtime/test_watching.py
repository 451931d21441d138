"""Who is told that a workflow may have changed."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from perdure.runtime.bridge import bridge_of
from perdure.runtime.watching import News, Watchers


def test_those_are_woken_whose_workflow_has_changed() -> None:
    """Each of several watchers of one; all, if it is not known which have changed."""
    watchers = Watchers()
    woken: list[tuple[str, BaseException | None]] = []

    def wake(name: str, error: BaseException | None) -> None:
        woken.append((name, error))

    for name in ("a", "a2", "b"):
        watchers.add(name[0], partial(wake, name))
    watchers.changed(["a", "a", "unknown"])
    assert woken == [("a", None), ("a2", None)]
    watchers.changed(None)
    assert len(woken) == 5
    reason = ValueError("over")
    watchers.fail(reason)
    assert woken[5:] == [("a", reason), ("a2", reason), ("b", reason)]


def test_nothing_is_left_of_those_who_have_gone() -> None:
    """Also if they go twice, or were never there."""
    watchers = Watchers()

    def wake(error: BaseException | None) -> None:
        raise AssertionError("it has gone")

    watchers.add("a", wake)
    assert watchers
    for workflow_id in ("a", "a", "b"):
        watchers.discard(workflow_id, wake)
    assert not watchers
    watchers.changed(["a"])


def test_news_from_another_thread_end_a_wait() -> None:
    """However many there were, they are taken up once; what comes after that is new."""

    def tell(news: News) -> None:
        for _ in range(9):
            news.wake(None)

    async def main() -> list[bool]:
        news = News(bridge_of(asyncio.get_running_loop()))
        seen = []
        for _ in range(2):
            teller = threading.Thread(target=tell, args=(news,))
            teller.start()
            await news.wait()
            teller.join()
            news.wake(None)
            seen.append(news._event.is_set())
            news.take()
            seen.append(news._event.is_set())
        return seen

    assert asyncio.run(main()) == [True, False] * 2


def test_the_reason_for_no_more_news_is_raised() -> None:
    """Also if there was other news that was not taken up."""

    async def main() -> None:
        news = News(bridge_of(asyncio.get_running_loop()))
        news.wake(None)
        news.wake(ValueError("closed"))
        await news.wait()
        news.take()

    with pytest.raises(ValueError, match="closed"):
        asyncio.run(main())
