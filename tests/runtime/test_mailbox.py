"""The mailbox: a queue that many fill and one empties."""

from __future__ import annotations

import threading

from perdure.core.messages import StepDue
from perdure.runtime.mailbox import Mailbox, Post

POSTS = [Post("w", StepDue(number=n)) for n in range(3)]


def test_items_come_out_in_order() -> None:
    """What was put is taken once, in its order."""
    mailbox = Mailbox()
    mailbox.put(POSTS[0])
    mailbox.put_all(POSTS[1:])
    assert len(mailbox) == 3
    assert mailbox.take() == POSTS
    assert mailbox.take() == []


def test_waiting_ends_when_something_is_put() -> None:
    """The reader is woken by another thread's put, however long it would have waited."""
    mailbox = Mailbox()
    thread = threading.Thread(target=mailbox.put, args=(POSTS[0],))
    thread.start()
    mailbox.wait(60)
    thread.join()
    assert mailbox.take() == POSTS[:1]


def test_waiting_does_not_begin_when_something_is_there() -> None:
    """An item that came before the wait is not slept over."""
    mailbox = Mailbox()
    mailbox.put(POSTS[0])
    mailbox._signal.acquire()  # the wake-up itself was used up by an earlier wait
    mailbox.wait(60)
    assert len(mailbox) == 1


def test_a_bare_wake_ends_the_wait() -> None:
    """The reader looks again without an item: it may have been asked to stop."""
    mailbox = Mailbox()
    mailbox.wake()
    mailbox.wait(60)
    assert mailbox.take() == []


def test_a_reader_of_its_own_kind_is_called() -> None:
    """With a callback, each put wakes through it: a loop cannot wait for a thread's event."""
    calls: list[int] = []
    mailbox = Mailbox(lambda: calls.append(len(mailbox)))
    mailbox.put(POSTS[0])
    mailbox.put_all(POSTS[1:])
    assert calls == [1, 3]
