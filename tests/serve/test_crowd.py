"""More connections than a server takes: each is told so as OpenAI's clients read it, and the server counts as alive."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import openai
import pytest

from kblam.serve.bases import Bases
from tests.serve.conftest import Counting
from tests.serve.contract import values
from tests.serve.served import MODEL, Served, base_of, serving

MOST = 4


@contextmanager
def crowded() -> Iterator[tuple[Served, ExitStack]]:
    """A server with as many connections as it takes, and what closes them; every request is one more."""
    with serving(Bases([base_of()]), Counting(), connections=MOST) as served, ExitStack() as opened:
        address = urlsplit(served.url)
        for _ in range(MOST):
            opened.enter_context(socket.create_connection((address.hostname, address.port)))
        yield served, opened


def test_a_request_too_many_is_told_so_in_the_form_of_all_errors() -> None:
    with crowded() as (served, _):
        for response in (served.ask(), served.client.get("/v1/models"), served.client.get("/no/such")):
            error = response.json()["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert (response.status_code, error["type"], error["code"]) == (503, "server_error", "too_many_connections")
            assert int(response.headers["Retry-After"]) > 0
            assert response.headers["Connection"] == "close"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        with client, pytest.raises(openai.InternalServerError, match="too many connections are open"):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])


def test_health_and_metrics_are_answered_and_their_connections_closed() -> None:
    with crowded() as (served, _):
        served.ask()
        for method in ("GET", "HEAD"):
            health = served.client.request(method, "/health")
            assert (health.status_code, health.headers["Connection"]) == (200, "close")
        assert values(served)["kblam_requests_total", "other", "", "503"] == 1


def test_when_some_have_closed_requests_are_answered_again(caplog: pytest.LogCaptureFixture) -> None:
    with crowded() as (served, opened):
        assert [served.client.get("/v1/models").status_code for _ in range(3)] == [503] * 3
        opened.close()
        end = time.monotonic() + 10
        while (response := served.client.get("/v1/models")).status_code == 503:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert response.status_code == 200
        assert "Connection" not in response.headers
    said = [one.message for one in caplog.records if "more connections are open" in one.message]
    assert len(said) == 1
