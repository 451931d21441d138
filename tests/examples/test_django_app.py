"""examples/django_app.py: views, a worker beside them, and a kill between row and start."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.examples.programs import environment, run, running, wait_until

WORKER = ("django_app.py", "worker")

#: A request, as a program of its own: Django's settings are of the whole process.
PLACE = """
import django_app
from django.test import Client

django_app.create_tables()
answer = Client().post("/orders", {"item": "boat"}, content_type="application/json")
assert answer.status_code == 202, answer.content
django_app.manager.sync.close()
print(answer.json()["order"])
"""

#: The same, and the process dies when the row is committed, before the workflow is started.
PLACE_AND_DIE = """
import os
import signal
import django_app
from django.db import transaction
from django.test import Client

django_app.create_tables()
with transaction.atomic():
    transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
    Client().post("/orders", {"item": "boat"}, content_type="application/json")
"""

LOOK = """
import django_app
from django.test import Client

print(Client().get("/orders/1").json(), Client().get("/orders/2").status_code)
django_app.manager.sync.close()
"""


def _states(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "shop.db")) as connection:
        return [row[0] for row in connection.execute("select state from shop_order order by id")]


def test_an_order_is_shipped_by_the_worker(tmp_path: Path) -> None:
    """The view starts, the worker ships, and the view shows it: three processes, one file."""
    assert run(tmp_path, "-c", PLACE) == "1\n"
    assert run(tmp_path, "-c", LOOK) == "{'status': 'in_progress', 'state': 'new'} 404\n"
    run(tmp_path, *WORKER, "--until-idle")
    assert run(tmp_path, "-c", LOOK) == "{'status': 'success', 'state': 'shipped'} 404\n"


@pytest.mark.chaos
def test_a_web_process_that_dies_before_the_start_loses_no_order(tmp_path: Path) -> None:
    """The row is there and the workflow is not: the next worker starts it. Killed itself, the one
    after it goes on."""
    command = [sys.executable, "-W", "error", "-c", PLACE_AND_DIE]
    died = subprocess.run(command, cwd=tmp_path, env=environment(), check=False)
    assert died.returncode == -9
    assert _states(tmp_path) == ["new"]
    with running(tmp_path, *WORKER) as worker:
        wait_until(lambda: _states(tmp_path) == ["shipped"], worker)
        worker.kill()
    run(tmp_path, *WORKER, "--until-idle")
    assert run(tmp_path, "-c", LOOK) == "{'status': 'success', 'state': 'shipped'} 404\n"
