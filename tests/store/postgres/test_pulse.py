"""Signs of life, and what is heard in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.store.postgres.databases import execute, soon

from perdure.store.postgres.pulse import CHANNEL, Pulse


class Line:
    """Connects, and keeps what was made and told."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[psycopg.Connection[Any]] = []
        self.times: list[int] = []
        self.own: set[int] = set()
        self.is_woken = threading.Event()

    def __call__(self) -> psycopg.Connection[Any]:
        self.made.append(psycopg.connect(self.url, autocommit=True))
        return self.made[-1]

    def pulse(self, lease: float) -> Pulse:
        return Pulse(
            self,
            lease=lease,
            is_own=self.own.__contains__,
            tell_time=self.times.append,
            wake=self.is_woken.set,
            listens=True,
        )


@pytest.fixture
def line(postgres_url: str) -> Line:
    execute(
        postgres_url,
        "CREATE TABLE perdure_workers (id text, fenced boolean, lease_until timestamptz)",
    )
    return Line(postgres_url)


@pytest.fixture
def pulse(line: Line) -> Iterator[Pulse]:
    """One that gives no sign but the first while a test lasts."""
    pulse = line.pulse(600)
    pulse.start()
    yield pulse
    pulse.stop()


def test_others_are_heard_once(pulse: Pulse, line: Line) -> None:
    """What somebody says is news until it is taken; whoever wants to know is woken."""
    assert not pulse.has_news
    assert not pulse.take_news()
    execute(line.url, f"NOTIFY {CHANNEL}")
    assert line.is_woken.wait(30)
    assert pulse.has_news
    assert pulse.take_news()
    assert not pulse.has_news
    assert not pulse.take_news()


def test_ones_own_words_are_no_news(pulse: Pulse, line: Line) -> None:
    """What comes after them shows that they were heard."""
    with psycopg.connect(line.url, autocommit=True) as own:
        line.own.add(own.info.backend_pid)
        own.execute(f"NOTIFY {CHANNEL}".encode())
        assert not pulse.take_news()
        execute(line.url, f"NOTIFY {CHANNEL}")
        assert soon(pulse.take_news)
        assert not pulse.take_news()


def test_it_renews_held_workers_only(line: Line) -> None:
    """None that was let go, none that is fenced."""
    execute(
        line.url,
        "INSERT INTO perdure_workers VALUES ('held', false, 'epoch'), ('fenced', true, 'epoch'),"
        " ('free', false, 'epoch')",
    )
    pulse = line.pulse(1)
    for worker in ("held", "fenced", "free"):
        pulse.keep_alive(worker)
    pulse.let_go("free")
    pulse.start()
    found = execute(line.url, "SELECT id FROM perdure_workers WHERE lease_until > now()")
    assert found == [("held",)]
    assert soon(lambda: len(line.times) >= 2)
    pulse.stop()
    assert list(pulse.workers) == ["fenced", "held"]


def test_a_lost_connection_is_made_again(pulse: Pulse, line: Line) -> None:
    """What was said meanwhile may have been missed: that is news."""
    execute(line.url, f"SELECT pg_terminate_backend({line.made[0].info.backend_pid})")
    assert soon(lambda: len(line.made) == 2 and len(line.times) == 2)
    assert soon(pulse.take_news)


def test_stopping_ends_all(line: Line) -> None:
    """At once, whatever it waits for; it may be stopped twice."""
    pulse = line.pulse(600)
    pulse.start()
    pulse.stop()
    pulse.stop()
    assert [connection.closed for connection in line.made] == [True]
