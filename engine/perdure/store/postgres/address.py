"""The address of a PostgreSQL database: what is libpq's in it, and what is ours.

``postgresql://user@host:5432/app?lease=30&sslmode=require``: what we do not know is libpq's.
What does not belong here: connecting.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

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
            found["options"] = f"{found.get('options', '')} {ours}".strip()
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
    parts = urlsplit(address)
    ours: dict[str, str] = {}
    rest = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in ("lease", "pgbouncer"):
            ours[name] = value
        else:
            rest.append((name, value))
    text = _without_password(address)
    query = urlencode(rest, quote_via=quote)
    try:
        parameters = conninfo_to_dict(_unsplit(parts, query=query))
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
    parts = urlsplit(address)
    user, has_password, _ = parts.netloc.rpartition("@")[0].partition(":")
    shown = parts.netloc
    if has_password:
        shown = f"{user}:***@{parts.netloc.rpartition('@')[2]}"
    query = [
        (name, "***" if "password" in name else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    # The slashes of a socket's folder stay readable.
    text = urlencode(query, quote_via=quote, safe="/*")
    return _unsplit(parts, netloc=shown, query=text)


def _unsplit(parts: SplitResult, **changes: str) -> str:
    # `urlunsplit` leaves out the slashes of an empty host, with which libpq knows an address.
    scheme, netloc, path, query, _ = parts._replace(**changes)
    return f"{scheme}://{netloc}{path}{'?' if query else ''}{query}"
