"""The demo's proof: it accepts a right database and names each thing that is wrong in another."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from perdure.demo.proof import Proof, prove

USERS = ("Ada", "Alan")
EMAILS = ("welcome", "approved")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A database as the demo leaves it when all went well, as far as the proof reads it."""
    path = tmp_path / "demo.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create table perdure_workflows (id text, status text)")
        db.execute("create table users (name text, workflow_id text)")
        db.execute("create table emails (id integer primary key, user text, kind text)")
        for user in USERS:
            db.execute("insert into users values (?, ?)", (user, f"workflow of {user}"))
            db.execute(
                "insert into perdure_workflows values (?, 'success')", (f"workflow of {user}",)
            )
            for kind in EMAILS:
                db.execute("insert into emails (user, kind) values (?, ?)", (user, kind))
    return path


def _after(store: Path, statement: str) -> Proof:
    with closing(sqlite3.connect(store)) as db, db:
        assert db.execute(statement).rowcount == 1
    return prove(store, USERS, EMAILS)


def test_a_right_database_is_accepted(store: Path) -> None:
    """With each e-mail once and each workflow ended there are no faults; the counts are right."""
    assert prove(store, USERS, EMAILS) == Proof(
        users=2, ended=2, emails_expected=4, emails_written=4, faults=()
    )


def test_a_second_email_is_found(store: Path) -> None:
    """An e-mail that was written twice is named."""
    proof = _after(store, "insert into emails (user, kind) values ('Ada', 'welcome')")
    assert proof.faults == ("e-mail welcome to Ada: written 2 times, not 1",)
    assert proof.emails_written == 5


def test_a_missing_email_is_found(store: Path) -> None:
    """An e-mail that was not written is named."""
    proof = _after(store, "delete from emails where user = 'Alan' and kind = 'approved'")
    assert proof.faults == ("e-mail approved to Alan: written 0 times, not 1",)


def test_one_email_too_many_does_not_hide_one_too_few(store: Path) -> None:
    """The count alone proves nothing: a lost e-mail beside a doubled one is two faults."""
    proof = _after(store, "update emails set kind = 'welcome' where id = 2")
    assert proof.emails_written == proof.emails_expected
    assert len(proof.faults) == 2


def test_an_unknown_email_is_found(store: Path) -> None:
    """An e-mail to nobody whom we know is named."""
    proof = _after(store, "insert into emails (user, kind) values ('Eve', 'welcome')")
    assert proof.faults == ("e-mail welcome to Eve: written 1 times, not 0",)


@pytest.mark.parametrize("status", ["in_progress", "failed", "canceled"])
def test_a_workflow_that_did_not_succeed_is_found(store: Path, status: str) -> None:
    """A workflow that still runs, failed or was canceled is named with its status."""
    change = f"update perdure_workflows set status = '{status}' where id = 'workflow of Ada'"
    proof = _after(store, change)
    assert proof.faults == (f"the workflow of Ada should have ended with success: {status}",)
    assert proof.ended == 1


def test_a_user_without_a_workflow_is_found(store: Path) -> None:
    """A user who was lost is named, and the workflow that nobody owns is counted."""
    proof = _after(store, "delete from users where name = 'Ada'")
    assert "the workflow of Ada should have ended with success: lost" in proof.faults
    assert "1 workflows belong to no user" in proof.faults


def test_the_proof_changes_nothing(store: Path) -> None:
    """A proof reads only, so it can be repeated on a file that must be kept as it is."""
    before = store.read_bytes()
    prove(store, USERS, EMAILS)
    assert store.read_bytes() == before
