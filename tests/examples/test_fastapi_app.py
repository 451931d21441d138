"""examples/fastapi_app.py: its endpoints, its worker killed beside it, and the whole killed."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib import error, request

import pytest
from tests.examples.programs import free_port, running, wait_until

APP = "fastapi_app:app"


class Web:
    """A running web process, as a client sees it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The code and the answer; the code is 0 while nobody listens."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        asked = request.Request(self._url + path, data, headers, method=method)
        try:
            with request.urlopen(asked, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read())
        except (error.URLError, ConnectionError):
            return 0, None

    def is_up(self) -> bool:
        return self.ask("GET", "/orders/0")[0] == 404

    def stands(self, number: int, what: str) -> Callable[[], bool]:
        """Whether the text of an order's status has `what` in it."""
        return lambda: what in str(self.ask("GET", f"/orders/{number}"))


def _uvicorn(port: int) -> list[str]:
    return ["-m", "uvicorn", "--port", str(port), APP]


@pytest.mark.chaos
def test_one_process_is_killed_and_started_again(tmp_path: Path) -> None:
    """With web and worker in one process: an order that waits survives SIGKILL, each endpoint
    answers as it should, and SIGTERM ends the process well."""
    port = free_port()
    web = Web(port)
    with running(tmp_path, *_uvicorn(port)) as process:
        wait_until(web.is_up, process)
        order = {"item": "boat", "cents": 20_000}
        assert web.ask("PUT", "/orders/1", order) == (202, {"workflow": "order-1"})
        assert web.ask("PUT", "/orders/1", order) == (202, {"workflow": "order-1"})
        assert web.ask("PUT", "/orders/1", {"item": "oar", "cents": 5})[0] == 409
        assert web.ask("PUT", "/orders/1", {"item": "oar"})[0] == 422
        wait_until(web.stands(1, "approval"), process)
        process.kill()
    with running(tmp_path, *_uvicorn(port)) as process:
        wait_until(web.is_up, process)
        assert web.ask("GET", "/orders/1")[1]["status"] == "in_progress"
        assert web.ask("POST", "/orders/1/approval", {"is_approved": True})[0] == 202
        wait_until(web.stands(1, "success"), process)
        assert web.ask("GET", "/orders/1")[1]["value"] == "receipt over 20000 cents"
        assert web.ask("DELETE", "/orders/1")[0] == 409
        assert web.ask("DELETE", "/orders/2")[0] == 404
        assert web.ask("POST", "/orders/2/approval", {"is_approved": True})[0] == 404
        web.ask("PUT", "/orders/3", {"item": "boat", "cents": 20_000})
        assert web.ask("DELETE", "/orders/3") == (204, None)
        assert web.ask("GET", "/orders/3")[1] == {"status": "canceled"}
        process.send_signal(signal.SIGTERM)
        # uvicorn raises the signal again when it has ended in good order.
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in (tmp_path / "log").read_text(encoding="utf-8")


@pytest.mark.chaos
def test_a_worker_beside_the_web_process_is_killed(tmp_path: Path) -> None:
    """With the worker elsewhere the web process takes orders while no worker lives, and answers
    what another process has done."""
    port = free_port()
    web = Web(port)

    def worker() -> list[str]:
        return ["-m", "perdure", "--app", "fastapi_app:manager", "worker"]

    with running(tmp_path, *_uvicorn(port), ORDERS_WORKER="elsewhere") as process:
        wait_until(web.is_up, process)
        web.ask("PUT", "/orders/1", {"item": "boat", "cents": 20_000})
        assert web.ask("GET", "/orders/1")[1] == {"status": "in_progress", "running": []}
        with running(tmp_path, *worker()) as first:
            wait_until(web.stands(1, "approval"), first)
            first.kill()
        assert web.ask("POST", "/orders/1/approval", {"is_approved": False})[0] == 202
        with running(tmp_path, *worker()) as second:
            wait_until(web.stands(1, "success"), second)
            second.send_signal(signal.SIGTERM)
            assert second.wait(timeout=30) == 0
        assert web.ask("GET", "/orders/1")[1] == {"status": "success", "value": "refused"}
        _ends_well(process)


def _ends_well(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)
