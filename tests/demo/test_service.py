"""The demo's HTTP service: it fails, is slow, then answers; and it counts."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.demo import service
from perdure.demo.children import Children
from perdure.demo.service import Counts, ask_counts

#: So that the process finds the package where it is not installed.
SETTINGS = {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "engine")}


@pytest.fixture
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a service in a process of its own."""
    with Children(tmp_path_factory.mktemp("service")) as children:
        process = children.start("service", settings=SETTINGS, log="service.log", piped=True)
        assert process.stdout is not None
        yield int(process.stdout.readline())


def _ask(port: int, user: str, key: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", f"/users/{user}", headers={"Idempotency-Key": key})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.chaos
def test_it_fails_first_and_answers_in_the_end(port: int) -> None:
    """A user's first request is answered with 503, the later ones with the user's team."""
    answers = [_ask(port, "Ada", "key") for _ in range(3)]
    assert [status for status, _ in answers] == [503, 200, 200]
    assert answers[1] == answers[2]
    assert answers[2][1]["team"] in service.TEAMS


@pytest.mark.chaos
def test_it_counts_requests_and_keys(port: int) -> None:
    """Requests are counted one by one, keys once, and asking for the counts is not counted."""
    assert ask_counts(port) == Counts(requests=0, keys=0)
    for user, key in (("Ada", "a"), ("Ada", "a"), ("Alan", "b")):
        _ask(port, user, key)
    assert ask_counts(port) == Counts(requests=3, keys=2)
