"""Addresses of PostgreSQL databases: which options are ours, and what may be shown."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from perdure.store.postgres.address import is_postgres, parse


def test_what_is_not_ours_is_libpqs() -> None:
    """Options that perdure does not know are passed on, its own are not."""
    address = parse("postgresql://me@db:6000/app?sslmode=require&lease=30&pgbouncer=true")
    assert (address.lease, address.has_pgbouncer) == (30.0, True)
    assert address.parameters == {
        "user": "me",
        "host": "db",
        "port": "6000",
        "dbname": "app",
        "sslmode": "require",
    }


def test_a_socket_and_options_survive() -> None:
    """What is encoded in the address arrives decoded."""
    address = parse("postgres:///app?host=%2Ftmp%2Fa%20b&options=-csearch_path%3Dflow")
    assert address.parameters["host"] == "/tmp/a b"
    assert address.parameters["options"] == "-csearch_path=flow"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://me:a%23%2F%40b@db/app", "postgresql://me:***@db/app"),
        ("postgresql://me:a#b?c[d]+e@db:60/app#1", "postgresql://me:***@db:60/app#1"),
        ("postgresql://me@db/app?password=a+b#c", "postgresql://me@db/app?password=***"),
        ("postgresql://me:a@b@db/app", "postgresql://me:***@db/app"),
        ("postgresql://[::1]:54,[::2]/app", "postgresql://[::1]:54,[::2]/app"),
        ("postgresql://one,two:54/my%20app", "postgresql://one,two:54/my%20app"),
        ("postgresql://%2Ftmp%2Fsockets/app", "postgresql://%2Ftmp%2Fsockets/app"),
        ("postgresql:///?host=%2Ftmp&user=me", "postgresql:///?host=/tmp&user=me"),
        ("postgresql://db?user=a@b", "postgresql://db?user=a@b"),
        ("postgresql://", "postgresql://"),
    ],
)
def test_an_address_means_what_libpq_takes_it_for(url: str, text: str) -> None:
    """Of its punctuation nothing is taken for what it means in addresses of other kinds; and no
    piece of a password is shown."""
    address = parse(url)
    assert address.parameters == conninfo_to_dict(url)
    assert address.text == text


def test_session_settings_join_the_users() -> None:
    """Ours follow the user's; with pgbouncer there are none."""
    url = "postgresql:///app?options=-csearch_path%3Dflow"
    found = parse(url).connection_parameters("jit=off")
    assert found["options"] == "-csearch_path=flow -c jit=off"
    found = parse(f"{url}&pgbouncer=true").connection_parameters("jit=off")
    assert found["options"] == "-csearch_path=flow"


def test_session_settings_join_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq takes them where the address has none, so ours must not be all that it has."""
    monkeypatch.setenv("PGOPTIONS", "-csearch_path=flow")
    found = parse("postgresql:///app").connection_parameters("jit=off")
    assert found["options"] == "-csearch_path=flow -c jit=off"
    found = parse("postgresql:///app?options=-cwork_mem%3D1MB").connection_parameters("jit=off")
    assert found["options"] == "-cwork_mem=1MB -c jit=off"


def test_the_users_parameters_win() -> None:
    """Time-outs and the like are only defaults."""
    found = parse("postgresql:///app?connect_timeout=99").connection_parameters()
    assert (found["connect_timeout"], found["application_name"]) == ("99", "perdure")


def test_a_transaction_stands_open_for_less_than_the_lease() -> None:
    """The server ends it before another worker may take over."""
    settings = parse("postgresql:///app?lease=10").engine_settings("disk")
    assert "idle_in_transaction_session_timeout=8000" in settings
    assert "synchronous_commit=off" not in settings
    assert "synchronous_commit=off" in parse("postgresql:///app").engine_settings("process")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql:///app?lease=0", "lease='0': give seconds"),
        ("postgresql:///app?lease=soon", "lease='soon': give seconds"),
        ("postgresql:///app?pgbouncer=1", "pgbouncer='1': give true or false"),
        ("postgresql:///app?nonsense=1", "nonsense"),
    ],
)
def test_a_bad_option_is_named(url: str, named: str) -> None:
    """A clear error before anything is connected to."""
    with pytest.raises(ValueError, match=named):
        parse(url)


def test_no_password_is_shown() -> None:
    """Neither from before the host nor from an option, also where the address is refused."""
    url = "postgresql://me:secret@db/app?sslpassword=secret"
    assert parse(url).text == "postgresql://me:***@db/app?sslpassword=***"
    with pytest.raises(ValueError, match="lease") as caught:
        parse(f"{url}&lease=x")
    assert "secret" not in str(caught.value)


def test_what_is_an_address_of_postgres() -> None:
    """Both schemes, and no path."""
    assert is_postgres("postgres://x") and is_postgres("postgresql://x")
    assert not is_postgres("postgres.db")
