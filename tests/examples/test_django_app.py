"""examples/django_app.py: views, a worker beside them, and kills before and after the commit."""

from __future__ import annotations

import signal
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

#: Two orders. The process dies just after the commit of the first, or just before that of the
#: second.
PLACE_AND_DIE = """
import os
import signal
import sys
import django_app
from django.db import transaction
from django.test import Client

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def place():
    Client().post("/orders", {"item": "boat"}, content_type="application/json")

django_app.create_tables()
with transaction.atomic():
    place()
    if sys.argv[1] == "after":
        transaction.on_commit(die)
with transaction.atomic():
    place()
    die()
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
@pytest.mark.parametrize("moment", ["after", "before"])
def test_an_order_and_its_workflow_are_there_together(tmp_path: Path, moment: str) -> None:
    """Whether the web process dies after the commit or before the next: an order that is there is
    shipped, and a worker that is killed meanwhile makes no difference."""
    command = [sys.executable, "-W", "error", "-c", PLACE_AND_DIE, moment]
    died = subprocess.run(command, cwd=tmp_path, env=environment(), check=False)
    assert died.returncode == -signal.SIGKILL
    assert _states(tmp_path) == ["new"]
    with running(tmp_path, *WORKER) as worker:
        wait_until(lambda: _states(tmp_path) == ["shipped"], worker)
        worker.kill()
    run(tmp_path, *WORKER, "--until-idle")
    assert run(tmp_path, "-c", LOOK) == "{'status': 'success', 'state': 'shipped'} 404\n"
