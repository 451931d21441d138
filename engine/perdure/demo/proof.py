"""The proof at the end of the demo, from the tables alone: nothing lost, nothing done twice.

It reads the file as any program could, with SQL and without the engine.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import attrs


@attrs.frozen(kw_only=True)
class Proof:
    """What the tables say.

    Attributes:
        users: how many users there should be.
        ended: workflows that ended with success.
        emails_expected: e-mails that there should be.
        emails_written: e-mails that there are.
        faults: what is wrong, a sentence each; empty if all is well.
    """

    users: int
    ended: int
    emails_expected: int
    emails_written: int
    faults: tuple[str, ...]


def prove(store: Path, users: Sequence[str], emails: Sequence[str]) -> Proof:
    """Count e-mails and workflows in a store's tables.

    Args:
        store: the SQLite file.
        users: who should have been onboarded.
        emails: the kinds of e-mail of which each user should have exactly one.
    """
    with closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True)) as db:
        statuses = dict(
            db.execute(
                "select users.name, workflows.status from users"
                " join perdure_workflows as workflows on workflows.id = users.workflow_id"
            ).fetchall()
        )
        unknown = db.execute(
            "select count(*) from perdure_workflows where id not in (select workflow_id from users)"
        ).fetchone()[0]
        written = Counter[tuple[str, str]](db.execute("select user, kind from emails").fetchall())
    faults = [*_workflow_faults(statuses, users), *_email_faults(written, users, emails)]
    if unknown:
        faults.append(f"{unknown} workflows belong to no user")
    return Proof(
        users=len(users),
        ended=sum(status == "success" for status in statuses.values()),
        emails_expected=len(users) * len(emails),
        emails_written=written.total(),
        faults=tuple(faults),
    )


def _workflow_faults(statuses: dict[str, str], users: Iterable[str]) -> Iterator[str]:
    for user in users:
        status = statuses.get(user, "lost")
        if status != "success":
            yield f"the workflow of {user} should have ended with success: {status}"


def _email_faults(
    written: Counter[tuple[str, str]], users: Sequence[str], emails: Sequence[str]
) -> Iterator[str]:
    expected = {(user, kind) for user in users for kind in emails}
    for user, kind in sorted(expected | written.keys()):
        wanted = 1 if (user, kind) in expected else 0
        if written[user, kind] != wanted:
            yield f"e-mail {kind} to {user}: written {written[user, kind]} times, not {wanted}"
