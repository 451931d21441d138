"""The address of a PostgreSQL database: what is libpq's in it, and what is ours.

``postgresql://user@host:5432/app?lease=30&sslmode=require``: what we do not know is libpq's.
What does not belong here: connecting.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import attrs
import psycopg
from psycopg.conninfo import conninfo_to_dict

#: How long a worker is taken for alive after its last sign of life, in seconds.
LEASE_SECONDS = 10.0
LEASE_SECONDS_MIN = 1.0
LEASE_SECONDS_MAX = 3600.0

#: How long a statement of the engine's waits for a lock, in ms. Short, for the same reason as
#: SQLite's `BUSY_TIMEOUT`: the engine tries again for as long as it takes.
LOCK_TIMEOUT_MS = 2000

#: Of the lease: how long a transaction may stand open with nothing going on in it. Then the server
#: ends it, so that a process that was stopped does not keep its locks past its lease.
IDLE_SHARE = 0.8

_CONNECT_SECONDS = 10


@attrs.frozen(kw_only=True)
class Address:
    """Where the database is, and how to behave towards it.

    Attributes:
        text: for messages: the address without its password.
        parameters: what libpq connects with, our session settings not among them.
        lease: seconds.
        has_pgbouncer: the connections may be shared by transaction: nothing is kept in a session.
    """

    text: str
    parameters: dict[str, Any]
    lease: float = LEASE_SECONDS
    has_pgbouncer: bool = False

    def connection_parameters(self, *settings: str) -> dict[str, Any]:
        """What to connect with.

        Args:
            settings: of the session, as ``name=value``.
        """
        defaults = {
            "application_name": "perdure",
            "connect_timeout": _CONNECT_SECONDS,
            # A server that is gone without a word: found out long before TCP would.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": int(self.lease * 1000),
        }
        found = defaults | self.parameters
        # psycopg sets it from the environment's; texts are decoded as this.
        found["client_encoding"] = "UTF8"
        if settings and not self.has_pgbouncer:
            ours = " ".join(f"-c {setting}" for setting in settings)
            theirs = found.get("options") or os.environ.get("PGOPTIONS", "")
            found["options"] = f"{theirs} {ours}".strip()
        return found

    def engine_settings(self, durability: str) -> tuple[str, ...]:
        """Session settings of a connection that carries the engine's transactions."""
        idle = int(self.lease * 1000 * IDLE_SHARE)
        settings = (
            *READING,
            f"idle_in_transaction_session_timeout={idle}",
        )
        return settings if durability == "disk" else (*settings, "synchronous_commit=off")


#: Session settings of all of the engine's. All that it asks has an index. A plan is kept, and may
#: have been made while a table had three rows: a scan of it would be kept as well. A statement that
#: is a transaction of its own looks again at a row that it has waited for, as all of them must.
PLANNING = ("enable_seqscan=off", "jit=off", r"default_transaction_isolation=read\ committed")

#: Those of a connection that waits for nobody long.
READING = (f"lock_timeout={LOCK_TIMEOUT_MS}", *PLANNING)


def is_postgres(address: str) -> bool:
    """Whether this is the address of a PostgreSQL database."""
    return address.startswith(("postgresql://", "postgres://"))


def parse(address: str) -> Address:
    """The parts of ``postgresql://…``.

    Raises:
        ValueError: it cannot be read, or an option of ours has no good value.
    """
    place, pairs = _split(address)
    ours: dict[str, str] = {}
    rest = []
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name in ("lease", "pgbouncer"):
            ours[name] = unquote(value)
        else:
            rest.append(pair)
    text = _without_password(address)
    try:
        parameters = conninfo_to_dict(_join(place, rest))
    except psycopg.ProgrammingError as error:
        raise ValueError(f"store={text!r}: {str(error).strip()}") from None
    return Address(
        text=text,
        parameters=parameters,
        lease=_lease(ours.get("lease"), text),
        has_pgbouncer=_flag(ours.get("pgbouncer"), text),
    )


def _lease(value: str | None, text: str) -> float:
    if value is None:
        return LEASE_SECONDS
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not LEASE_SECONDS_MIN <= seconds <= LEASE_SECONDS_MAX:
        raise ValueError(
            f"store={text!r}: lease={value!r}: give seconds, from {LEASE_SECONDS_MIN:g} to"
            f" {LEASE_SECONDS_MAX:g}"
        )
    return seconds


def _flag(value: str | None, text: str) -> bool:
    if value not in (None, "true", "false"):
        raise ValueError(f"store={text!r}: pgbouncer={value!r}: give true or false")
    return value == "true"


def _without_password(address: str) -> str:
    place, pairs = _split(address)
    scheme, _, rest = place.partition("://")
    authority, slash, path = rest.partition("/")
    credentials, at, host = authority.rpartition("@")
    user, has_password, _ = credentials.partition(":")
    if has_password:
        credentials = f"{user}:***"
    shown = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        # The slashes of a socket's folder stay readable.
        value = "***" if "password" in name else value.replace("%2F", "/")
        shown.append(name + equals + value)
    return _join(f"{scheme}://{credentials}{at}{host}{slash}{path}", shown)


def _split(address: str) -> tuple[str, list[str]]:
    """What comes before the options, and each of them, still encoded.

    As libpq does it, and not as `urllib.parse`, which knows of fragments, of one host, and of a
    plus that is a space: before the first slash a password may have any character but an @.
    """
    scheme, _, rest = address.partition("://")
    credentials, at, tail = rest.partition("@")
    if not at or "/" in credentials:
        credentials, at, tail = "", "", rest
    place, _, query = tail.partition("?")
    return f"{scheme}://{credentials}{at}{place}", [pair for pair in query.split("&") if pair]


def _join(place: str, pairs: Sequence[str]) -> str:
    return f"{place}?{'&'.join(pairs)}" if pairs else place
